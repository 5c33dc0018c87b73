//! Timelines: each event once, in order, with its evidence, and bounded in size.

use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Kind;

use super::*;
use crate::ids::Id;
use crate::rows;
use crate::transaction::{Read, Space, Transaction};

impl Fixture {
    async fn timeline(&self, order: &str) -> Timeline {
        self.ledger.timeline("shop", order).await.unwrap().unwrap().1
    }

    async fn id(&self, order: &str) -> Id {
        let order = order.to_owned();
        let look = move |from: &dyn Read| rows::find_payment(&from, "shop", &order);
        self.ledger.engine.read(look).await.unwrap().unwrap().id
    }

    /// Returns the entries of a timeline as short texts.
    async fn timeline_of(&self, order: &str) -> Vec<String> {
        self.timeline(order).await.entries.iter().map(describe).collect()
    }
}

fn describe(entry: &Entry) -> String {
    let scope = entry.refund_id.as_ref().map_or(String::new(), |refund| format!("{refund}: "));
    let what = match &entry.what {
        TimelineEvent::Claimed { action, channel, .. } => format!("claimed {action:?} {channel}"),
        TimelineEvent::Queued { action } => format!("queued {action:?}"),
        TimelineEvent::Dequeued { by } => format!("dequeued by {by}"),
        TimelineEvent::Requeued { .. } => "requeued".to_owned(),
        TimelineEvent::Rerouted { channel } => format!("rerouted {channel}"),
        TimelineEvent::DuplicatePayment { channel } => format!("duplicate payment on {channel}"),
        TimelineEvent::ProviderCall(it) => format!("{} {:?} {}", it.operation, it.written, it.result),
        TimelineEvent::Released { action } => format!("released {action:?}"),
        TimelineEvent::Interrupted { action, cause } => format!("interrupted {action:?} {cause:?}"),
        TimelineEvent::RefundElsewhere { number, status } => format!("refund {number} {}", status.as_str()),
        TimelineEvent::CloseScheduled => "close scheduled".to_owned(),
        TimelineEvent::StatusChanged { status, version, by, .. } => format!("{} v{version} {by:?}", status.as_str()),
        TimelineEvent::NotificationReceived { id, verdict, .. } => format!("notification {id} {verdict:?}"),
        TimelineEvent::ManualReview { why } => format!("manual review: {why}"),
        TimelineEvent::Event { kind, .. } => kind.clone(),
        TimelineEvent::Delivered { .. } => "delivered".to_owned(),
        TimelineEvent::Undelivered { why, .. } => format!("undelivered {why}"),
        TimelineEvent::RedeliveryRequested { .. } => "requested again".to_owned(),
        TimelineEvent::DeliveryAbandoned { why, .. } => format!("abandoned: {why}"),
    };
    let times = if entry.times == 1 { String::new() } else { format!(" x{}", entry.times) };
    format!("{scope}{what}{times}")
}

fn sent(kind: Kind, written: BytesSent, result: Result<Outcome, Error>) -> ProviderCall {
    let mut call = ProviderCall::begun(kind, "wechat", at(0));
    call.written = written;
    call.ended(&result);
    call
}

#[tokio::test]
async fn timeline_records_the_whole_history_in_order_and_survives_a_crash() {
    let fixture = Fixture::new();
    let mut permit = fixture.run("k", pay("o")).await;
    permit.evidence.push(sent(Kind::Pay, BytesSent::No, Err(Error::NotSent("refused".into()))));
    fixture.ledger.reroute(&mut permit, destination("backup", "wechat-v3:2"), at(1)).await.unwrap();
    assert!(permit.evidence.is_empty(), "recorded already");
    permit.evidence.push(sent(Kind::Pay, BytesSent::Maybe, Err(Error::unclear("cut"))));
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let query = || sent(Kind::Query, BytesSent::Yes, Ok(Outcome::of(Status::Pending)));
    let update = UpdateWithEvidence { update: outcome(Status::Pending), evidence: vec![query()] };
    fixture.ledger.apply(&of("o"), update, at(2)).await.unwrap();
    let seen = BodyDigest { key_id: Some("KEY".into()), ..BodyDigest::of(b"abc") };
    let event = notification("n", "o", None, Outcome::of(Status::Succeeded));
    let notified = Notification { event: event.clone(), seen: Some(seen.clone()) };
    assert!(matches!(fixture.ledger.record("backup", notified, at(3)).await.unwrap(), Recorded::Applied(_)));
    fixture.ledger.record("backup", event, at(4)).await.unwrap();
    let again = notification("n2", "o", None, Outcome::of(Status::Succeeded));
    fixture.ledger.record("backup", again, at(4)).await.unwrap();
    let mut permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    permit.evidence.push(sent(Kind::Refund, BytesSent::Yes, Ok(Outcome::of(Status::Succeeded))));
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.deliver_all().await;
    let expected = [
        "claimed Pay wechat",
        "pay No not_sent",
        "rerouted backup",
        "pay Maybe unclear",
        "unknown v3 Request",
        "payment.unknown",
        "query Yes pending",
        "pending v4 Query",
        "notification n Applied",
        "succeeded v5 Notification",
        "payment.succeeded",
        "notification n2 NoChange",
        "r: claimed Refund backup",
        "r: refund Yes succeeded",
        "r: succeeded v2 Request",
        "r: refund.succeeded",
        "delivered",
        "delivered",
        "r: delivered",
    ];
    assert_eq!(fixture.timeline_of("o").await, expected);
    let timeline = fixture.timeline("o").await;
    assert_eq!(timeline.left_out, 0);
    let TimelineEvent::NotificationReceived { seen: stored, .. } = &timeline.entries[8].what else { panic!() };
    assert_eq!(stored.as_ref(), Some(&seen));
    assert_eq!(seen.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(fixture.crash().timeline("o").await, timeline);
    let foreign = fixture.ledger.timeline("another", "o").await.unwrap();
    assert_eq!(foreign, None, "another merchant's");
}

#[tokio::test]
async fn timeline_records_release_interruption_close_and_mismatch() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let mut permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    permit.evidence.push(sent(Kind::Refund, BytesSent::No, Err(Error::NotSent("refused".into()))));
    fixture.ledger.release(permit).await.unwrap();
    let given_back = ["r: claimed Refund wechat", "r: refund No not_sent", "r: released Refund"];
    assert_eq!(fixture.timeline_of("o").await[3..], given_back);

    drop(fixture.run("lost", pay("lost")).await);
    fixture.ledger.mismatch(&of("nothing"), at(4)).await.unwrap();
    assert_eq!(fixture.timeline_of("lost").await, ["claimed Pay wechat", "interrupted Pay NoResult", "unknown v2 Request", "payment.unknown"]);
    assert!(matches!(fixture.claim("c", close("lost")).await, ClaimResult::AlreadyExists(_)));
    assert!(matches!(fixture.claim("c2", close("lost")).await, ClaimResult::AlreadyExists(_)));
    assert_eq!(fixture.timeline_of("lost").await[4..], ["close scheduled"], "once");

    let permit = fixture.run("p", pay("p")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    for _ in 0..2 {
        let wrong = Outcome { amount: Some(cny(1)), ..Outcome::of(Status::Succeeded) };
        fixture.ledger.record("wechat", notification("w", "p", None, wrong), at(2)).await.unwrap();
    }
    let unproven = ProviderEvent { outcome: None, ..notification("a", "p", None, Outcome::of(Status::Pending)) };
    fixture.ledger.record("wechat", unproven, at(2)).await.unwrap();
    let permit = fixture.run("c3", close("p")).await;
    fixture.settle(permit, outcome(Status::Closed)).await;
    let expected = [
        "claimed Pay wechat",
        "pending v2 Request",
        "notification w Mismatch",
        "payment.mismatch",
        "notification a Verify",
        "claimed Close wechat",
        "closed v3 Query",
        "payment.closed",
    ];
    assert_eq!(fixture.timeline_of("p").await, expected);

    // Nothing was ever sent, so the record is deleted.
    let permit = fixture.run("x", pay("x")).await;
    let id = fixture.id("x").await;
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.ledger.timeline("shop", "x").await.unwrap(), None);
    let row = fixture.ledger.engine.read(move |from| from.bytes(Space::Timeline, &id.0)).await;
    assert_eq!(row.unwrap(), None, "no row is left behind");
    let permit = fixture.run("x", pay("x")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert_eq!(fixture.timeline_of("x").await, ["claimed Pay wechat", "pending v2 Request"]);
}

#[tokio::test]
async fn payment_without_a_timeline_row_starts_one() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let id = fixture.id("o").await;
    let forget = move |tx: &mut Transaction<'_>| {
        tx.remove(Space::Timeline, &id.0);
        Ok(())
    };
    fixture.ledger.engine.write(Durable, LockScope::subject(&of("o")), forget).await.unwrap();
    let fixture = fixture.crash();
    assert_eq!(fixture.timeline("o").await, Timeline::default());
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert_eq!(fixture.timeline_of("o").await, ["r: claimed Refund wechat", "r: pending v2 Request"]);
    let histories = fixture.ledger.find_histories("o", vec!["shop".into(), "another".into()]).await.unwrap();
    let number = fixture.ledger.find_histories(&provider_number(&["shop", "o"]), Vec::new()).await.unwrap();
    assert_eq!((histories.len(), histories[0].refunds.len(), &histories), (1, 1, &number));
    assert_eq!(fixture.ledger.find_histories("nothing", vec!["shop".into()]).await.unwrap(), []);
}

#[tokio::test]
async fn timeline_records_delivery_failure_success_and_abandonment() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let delivery = fixture.deliveries(at(10), 1).await.remove(0);
    let event = &delivery.event;
    for second in 0..3 {
        let why = "it answered 500".to_owned();
        let undelivered = TimelineEvent::Undelivered { id: event.id.clone(), why, sink: SinkName::WEBHOOK };
        fixture.ledger.append_timeline(&of("o"), vec![undelivered], at(second)).await.unwrap();
    }
    fixture.ledger.dropped(&delivery, "given_up", at(9)).await.unwrap();
    fixture.ledger.dropped(&delivery, "given_up", at(9)).await.unwrap();
    assert_eq!(fixture.timeline_of("o").await[3..], ["undelivered it answered 500 x3", "abandoned: given_up"]);
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 0);
}

#[tokio::test]
async fn timeline_of_a_payment_queried_for_weeks_stays_bounded() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    for second in 0..50 {
        let mut query = sent(Kind::Query, BytesSent::Yes, Err(Error::unclear("busy")));
        query.answer = Some(BodyDigest::of(&[second]));
        fixture.ledger.append_timeline(&of("o"), vec![TimelineEvent::ProviderCall(query)], at(second.into())).await.unwrap();
    }
    let timeline = fixture.timeline("o").await;
    let last = timeline.entries.last().unwrap();
    assert_eq!((describe(last), timeline.entries.len()), ("query Yes unclear x50".to_owned(), 4));
    assert_eq!((last.at, last.until), (at(0), Some(at(49))));
    let TimelineEvent::ProviderCall(query) = &last.what else { panic!() };
    assert_eq!(query.answer, Some(BodyDigest::of(&[49])), "the last answer's digest");

    let why = |number: u32| TimelineEvent::ManualReview { why: format!("{number} {}", "余".repeat(500)) };
    fixture.ledger.append_timeline(&of("o"), (0..250).map(why).collect(), at(60)).await.unwrap();
    let timeline = fixture.timeline("o").await;
    assert_eq!((timeline.entries.len(), timeline.left_out), (200, 54));
    assert_eq!(describe(&timeline.entries[0]), "claimed Pay wechat", "the beginning is retained");
    let start = |index: usize| describe(&timeline.entries[index]).chars().take(19).collect::<String>();
    assert_eq!((start(99), start(100), start(199)), ("manual review: 95 余".into(), "manual review: 150 ".into(), "manual review: 249 ".into()));
    assert!(describe(&timeline.entries[199]).chars().count() < 220);
    fixture.ledger.append_timeline(&of("nothing"), vec![why(1)], at(60)).await.unwrap();
}

#[tokio::test]
async fn appended_timeline_events_are_visible_at_once_and_survive_a_crash() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let noted = fixture.ledger.append_timeline(&of("o"), vec![TimelineEvent::ManualReview { why: "x".into() }], at(1)).await;
    noted.unwrap();
    assert_eq!(fixture.timeline_of("o").await.last().unwrap(), "manual review: x", "seen at once");
    assert_eq!(fixture.crash().timeline_of("o").await.last().unwrap(), "manual review: x", "and after a crash");
}
