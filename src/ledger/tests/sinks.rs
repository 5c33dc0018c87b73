//! Deliveries to several sinks of a merchant: one queue for each payment and sink.

use super::*;

const WEBHOOK: SinkName = SinkName::WEBHOOK;

fn subject(merchant: &str, order: &str) -> RecordId {
    RecordId { merchant: merchant.into(), ..of(order) }
}

/// Publishes `payment.unknown`, `payment.failed` and `payment.succeeded` of one payment.
pub(super) async fn three(fixture: &Fixture, merchant: &str, order: &str) {
    let payment = Payment {
        merchant: merchant.into(),
        provider_order_no: provider_number(&[merchant, order]),
        ..a_payment(order)
    };
    let key = ClaimKey { merchant: merchant.into(), ..claim_key(order, order) };
    let claimed = fixture.ledger.claim(key, Intent::Pay(payment), at(0)).await.unwrap();
    let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    fixture.ledger.apply(&subject(merchant, order), Update::NotFoundAtProvider, at(2)).await.unwrap();
    fixture.ledger.apply(&subject(merchant, order), outcome(Status::Succeeded), at(3)).await.unwrap();
}

/// Refunds part of a payment of this merchant, which publishes `refund.succeeded`.
pub(super) async fn refunded(fixture: &Fixture, merchant: &str, order: &str) {
    let refund = Refund {
        merchant: merchant.into(),
        provider_refund_no: provider_number(&[merchant, order, "r"]),
        ..a_refund(order, "r", 300)
    };
    let key = ClaimKey { merchant: merchant.into(), ..claim_key("refund", order) };
    let claimed = fixture.ledger.claim(key, Intent::Refund(refund), at(4)).await.unwrap();
    let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
    fixture.settle(permit, outcome(Status::Succeeded)).await;
}

/// Returns the due deliveries as `sink type`, sorted.
pub(super) async fn heads(fixture: &Fixture, now: Timestamp) -> Vec<String> {
    let due = fixture.deliveries(now, 100).await;
    let mut heads: Vec<_> = due.iter().map(|delivery| format!("{} {}", delivery.sink, delivery.event.kind)).collect();
    heads.sort();
    heads
}

/// Delivers everything that becomes due for one sink and returns the types in order.
pub(super) async fn deliver_all(fixture: &Fixture, sink: &SinkName) -> Vec<String> {
    let mut kinds = Vec::new();
    loop {
        let due = fixture.deliveries(at(1_000_000), 100).await;
        let Some(next) = due.into_iter().find(|delivery| delivery.sink == *sink) else { return kinds };
        fixture.ledger.delivered(&next, at(9)).await.unwrap();
        kinds.push(next.event.kind);
    }
}

pub(super) const ALL_THREE: [&str; 3] = ["payment.unknown", "payment.failed", "payment.succeeded"];

#[tokio::test]
async fn events_of_a_payment_reach_each_sink_in_order_and_a_failing_sink_delays_no_other() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    assert_eq!(heads(&fixture, at(10)).await, ["mq payment.unknown", "webhook payment.unknown"]);
    let by_sink = BTreeMap::from([(WEBHOOK, 3), (SinkName::from("mq"), 3)]);
    let waiting = fixture.ledger.waiting().await.unwrap();
    assert_eq!((waiting.deliveries, waiting.deliveries_by_sink), (6, by_sink));
    // The broker fails: only its own queue waits.
    let mq = SinkName::from("mq");
    let due = fixture.deliveries(at(10), 100).await;
    let of_mq = due.iter().find(|delivery| delivery.sink == mq).unwrap();
    assert_eq!(of_mq.tries, 0);
    fixture.ledger.postpone(of_mq, at(100), 1).await.unwrap();
    assert_eq!(heads(&fixture, at(99)).await, ["webhook payment.unknown"]);
    let due = fixture.deliveries(at(100), 100).await;
    let of_mq = due.iter().find(|delivery| delivery.sink == mq).unwrap();
    assert_eq!((of_mq.tries, of_mq.due, of_mq.method), (1, at(100), Some(a_payment("o").method)));
    fixture.ledger.postpone(of_mq, at(100_000), 2).await.unwrap();
    assert_eq!(deliver_all(&fixture, &WEBHOOK).await, ALL_THREE);
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 3);
    // A payment of the same merchant is not behind it.
    three(&fixture, "many", "p").await;
    assert_eq!(heads(&fixture, at(10)).await, ["mq payment.unknown", "webhook payment.unknown"]);
    fixture.ledger.postpone(of_mq, at(5), 3).await.unwrap();
    assert_eq!(deliver_all(&fixture, &WEBHOOK).await, ALL_THREE);
    let mut all = deliver_all(&fixture, &mq).await;
    all.sort();
    let mut twice = [ALL_THREE, ALL_THREE].concat();
    twice.sort_unstable();
    assert_eq!(all, twice);
    assert_eq!(fixture.ledger.waiting().await.unwrap(), Backlog::default());
}

#[tokio::test]
async fn sink_gets_only_events_that_it_subscribes_to() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    assert!(heads(&fixture, at(10)).await.iter().all(|head| !head.starts_with("refunds")));
    refunded(&fixture, "many", "o").await;
    let refunds = SinkName::from("refunds");
    let due = fixture.deliveries(at(10), 100).await;
    let of_refunds: Vec<_> = due.iter().filter(|delivery| delivery.sink == refunds).collect();
    assert_eq!(of_refunds.len(), 1);
    assert_eq!(of_refunds[0].event.subject, RecordId { refund_id: Some("r".into()), ..subject("many", "o") });
    assert_eq!(of_refunds[0].method, Some(a_payment("o").method), "that of its payment");
    assert_eq!(deliver_all(&fixture, &refunds).await, ["refund.succeeded"]);
    assert_eq!(deliver_all(&fixture, &WEBHOOK).await.len(), 4);
}

#[tokio::test]
async fn event_without_sink_is_recorded_and_queued_nowhere() {
    let fixture = Fixture::new();
    three(&fixture, "none", "o").await;
    assert_eq!(fixture.ledger.waiting().await.unwrap(), Backlog::default());
    assert_eq!(heads(&fixture, at(1_000_000)).await, <[&str; 0]>::default());
    let (_, timeline) = fixture.ledger.timeline("none", "o").await.unwrap().unwrap();
    let kinds = timeline.entries.iter().filter_map(|entry| match &entry.what {
        TimelineEvent::Event { kind, .. } => Some(kind.as_str()),
        _ => None,
    });
    assert!(kinds.eq(ALL_THREE));
}

#[tokio::test]
async fn sink_that_is_added_later_gets_events_from_then_on() {
    let fixture = Fixture::new();
    three(&fixture, "late", "o").await;
    assert_eq!(heads(&fixture, at(10)).await, ["mq payment.succeeded", "webhook payment.unknown"]);
    let mq = SinkName::from("mq");
    let due = fixture.deliveries(at(10), 100).await;
    let newest = due.into_iter().find(|delivery| delivery.sink == mq).unwrap().event.id;
    for sink in [&WEBHOOK, &SinkName::from("other")] {
        let newest = fixture.delivery(&newest, sink).await;
        fixture.ledger.delivered(&newest, at(11)).await.unwrap();
        fixture.ledger.postpone(&newest, at(0), 9).await.unwrap();
    }
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 4, "it is not the head of those");
    assert_eq!(deliver_all(&fixture, &mq).await, ["payment.succeeded"]);
    assert_eq!(deliver_all(&fixture, &WEBHOOK).await, ALL_THREE);
}

#[tokio::test]
async fn crash_between_publish_and_delivery_loses_no_queue() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    let first = fixture.deliveries(at(10), 100).await.remove(0).event.id;
    let after = fixture.crash();
    assert_eq!(after.ledger.waiting().await.unwrap(), fixture.ledger.waiting().await.unwrap());
    assert_eq!(heads(&after, at(10)).await, ["mq payment.unknown", "webhook payment.unknown"]);
    after.ledger.delivered(&after.delivery(&first, &WEBHOOK).await, at(11)).await.unwrap();
    // The event was sent to the broker, and the crash came before that was recorded: it is sent again, with its id.
    let after = after.crash();
    assert_eq!(after.ledger.waiting().await.unwrap().deliveries, 5);
    let due = after.deliveries(at(12), 100).await;
    assert!(due.iter().any(|delivery| delivery.sink.as_str() == "mq" && delivery.event.id == first), "{due:?}");
    assert_eq!(deliver_all(&after, &SinkName::from("mq")).await, ALL_THREE);
    assert_eq!(deliver_all(&after, &WEBHOOK).await, ALL_THREE[1..]);
    assert_eq!(after.crash().ledger.waiting().await.unwrap(), Backlog::default());
}

#[tokio::test]
async fn event_is_purged_after_every_sink_has_it() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    deliver_all(&fixture, &WEBHOOK).await;
    let count = async || {
        let mut purge = Purge::default();
        while !fixture.ledger.purge(&mut purge, &RetentionPolicy::default(), at(500 * 86_400)).await.unwrap() {}
        let events = fixture.ledger.engine.keys(transaction::Space::Events, Vec::new(), vec![0xff; 32], 100).await;
        (events.unwrap().len(), fixture.ledger.payment("many", "o").await.unwrap().is_some())
    };
    assert_eq!(count().await, (3, true), "the broker has none");
    let mq = SinkName::from("mq");
    let head = fixture.deliveries(at(10), 100).await.remove(0);
    fixture.ledger.delivered(&head, at(11)).await.unwrap();
    assert_eq!(count().await, (2, true));
    deliver_all(&fixture, &mq).await;
    assert_eq!(count().await, (0, false));
}

#[tokio::test]
async fn timeline_names_the_sink_unless_it_is_the_webhook() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    let event = fixture.deliveries(at(10), 100).await.remove(0).event.id;
    fixture.ledger.delivered(&fixture.delivery(&event, &WEBHOOK).await, at(11)).await.unwrap();
    fixture.ledger.dropped(&fixture.delivery(&event, &SinkName::from("mq")).await, "discarded", at(12)).await.unwrap();
    let (_, timeline) = fixture.ledger.timeline("many", "o").await.unwrap().unwrap();
    let lines: Vec<_> = timeline.entries.iter().map(|entry| serde_json::to_value(entry).unwrap()).collect();
    let of = |what: &str| lines.iter().find(|line| line["what"] == what).unwrap();
    assert!(of("delivered").get("sink").is_none());
    assert_eq!(of("delivery_abandoned")["sink"], "mq");
}

#[tokio::test]
async fn redelivery_reaches_each_sink_and_keeps_the_order_of_one_that_never_got_the_event() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    let mq = SinkName::from("mq");
    assert_eq!(deliver_all(&fixture, &WEBHOOK).await, ALL_THREE);
    let head = fixture.deliveries(at(10), 100).await.remove(0);
    fixture.ledger.postpone(&head, at(50_000), 4).await.unwrap();
    let events = loop {
        let page = fixture.ledger.events("many", None, 100).await.unwrap();
        if !page.is_withheld {
            break page.events;
        }
    };
    let failed = events.iter().find(|event| event.kind == "payment.failed").unwrap();
    assert_eq!(fixture.ledger.redeliver("many", &failed.id, "k", at(20)).await.unwrap(), Redelivered::Accepted);
    assert_eq!(heads(&fixture, at(20)).await, ["mq payment.unknown", "webhook payment.failed"]);
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 3, "only queues are counted");
    assert_eq!(deliver_all(&fixture, &mq).await, ALL_THREE);
    assert_eq!(deliver_all(&fixture, &WEBHOOK).await, ["payment.failed"]);
    assert_eq!(fixture.ledger.waiting().await.unwrap(), Backlog::default());
}

#[tokio::test]
async fn retry_of_a_sink_makes_its_heads_due_now_and_no_other() {
    let fixture = Fixture::new();
    let (mq, now) = (SinkName::from("mq"), at(1_000));
    for order in ["o", "p"] {
        three(&fixture, "many", order).await;
    }
    for delivery in fixture.deliveries(at(10), 100).await {
        let tries = if delivery.sink == mq { 9 } else { 1 };
        fixture.ledger.postpone(&delivery, at(50_000), tries).await.unwrap();
    }
    assert_eq!(heads(&fixture, now).await, <[&str; 0]>::default());
    let queue = fixture.ledger.sink_queue("many/mq").await.unwrap();
    assert_eq!((queue.waiting, queue.next.len()), (6, 2));
    assert!(queue.next.iter().all(|(_, due)| *due == at(50_000)));
    assert_eq!(fixture.ledger.retry_sink("many/mq", now).await.unwrap(), 6);
    assert_eq!(heads(&fixture, now).await, ["mq payment.unknown"; 2]);
    let due = fixture.deliveries(now, 100).await;
    assert!(due.iter().all(|delivery| delivery.tries == 0), "the schedule begins anew: {due:?}");
    assert_eq!(fixture.ledger.retry_sink("many", now).await.unwrap(), 6);
    assert_eq!(heads(&fixture, now).await.len(), 4);
    assert_eq!(fixture.ledger.retry_sink("other/mq", now).await.unwrap(), 0);
    let mut all = deliver_all(&fixture, &mq).await;
    all.sort();
    let mut twice = [ALL_THREE, ALL_THREE].concat();
    twice.sort_unstable();
    assert_eq!(all, twice);
}

#[tokio::test]
async fn oldest_waiting_event_is_known_for_each_sink() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    let oldest = async || {
        let oldest = fixture.ledger.waiting().await.unwrap().oldest_by_sink;
        ["webhook", "mq"].map(|sink| oldest.get(&SinkName::from(sink)).copied())
    };
    // Its id has the creation time of the event, which the settlement gave.
    let [webhook, mq] = oldest().await;
    assert!(webhook.is_some() && webhook == mq);
    let head = fixture.deliveries(at(10), 100).await.remove(0);
    assert_eq!(webhook.map(Timestamp::as_second), Some(head.event.created_at.as_second()));
    fixture.ledger.delivered(&Delivery { sink: WEBHOOK, ..head }, at(11)).await.unwrap();
    let [later, same] = oldest().await;
    assert!(later > webhook && same == mq, "{later:?}");
    deliver_all(&fixture, &WEBHOOK).await;
    assert_eq!(oldest().await, [None, mq]);
}
