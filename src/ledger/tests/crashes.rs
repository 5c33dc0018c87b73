//! Recovery after a crash, and rollback of failed transactions.

use super::super::transaction::Transaction;
use super::*;

#[tokio::test]
async fn crash_makes_running_claims_unknown_and_schedules_inquiries() {
    let fixture = Fixture::new();
    fixture.paid("paid").await;
    fixture.paid("refunding").await;
    let permit = fixture.run("k", pay("open")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("done", pay("unpaid")).await;
    fixture.settle(permit, outcome(Status::Closed)).await;
    let known = fixture.deliver_all().await.len();
    let _running = [("p", pay("o")), ("r", refund_intent("refunding", "r", 10)), ("c", close("open")), ("q", pay("notified"))];
    let mut permits = Vec::new();
    for (key, intent) in _running {
        permits.push(fixture.run(key, intent).await);
    }
    fixture.ledger.record("wechat", notification("e", "notified", None, Outcome::of(Status::Succeeded)), at(2)).await.unwrap();

    let after = fixture.crash();
    let payment = after.payment("o").await;
    assert_eq!((payment.status, payment.money_state, payment.version), (Status::Unknown, MoneyState::Unknown, 2));
    assert_eq!(after.refund("refunding", "r").await.status, Status::Unknown);
    let open = after.payment("open").await;
    assert_eq!((open.status, open.version), (Status::Pending, fixture.payment("open").await.version));
    assert!(open.inquiry.is_some());
    assert_eq!(after.payment("notified").await.status, Status::Succeeded);
    assert_eq!(after.payment("paid").await, fixture.payment("paid").await);
    let mut due: Vec<_> = after.due().await.iter().map(name).collect();
    due.sort();
    assert_eq!(due, ["o", "open", "refunding/r"]);
    assert_eq!(after.ledger.waiting().await.unwrap().unknown, 2);
    for (key, intent) in
        [("p", pay("o")), ("r", refund_intent("refunding", "r", 10)), ("c", close("open")), ("q", pay("notified"))]
    {
        assert!(matches!(after.claim(key, intent).await, ClaimResult::AlreadyExists(_)), "{key}");
    }
    assert!(matches!(after.claim("done", pay("unpaid")).await, ClaimResult::Replay(_)));
    assert_eq!(known, 3);
    let mut kinds = after.kinds().await;
    kinds.sort();
    assert_eq!(kinds, ["payment.succeeded", "payment.unknown"], "of both orders, nothing twice");
    // A second crash finds no running claims.
    let again = after.crash();
    assert_eq!(again.payment("o").await.version, 2);
    assert!(again.kinds().await.is_empty());
}

#[tokio::test]
async fn repeated_create_and_reversal_marks_survive_a_crash() {
    let create_request = Box::new(CreateRequest {
        description: "tea".into(),
        payer: tollgate_plugins::payment::Payer::default(),
        return_url: None,
        public_url: "https://pay.example.com".into(),
    });
    let fixture = Fixture::new();
    let draft = Payment { create_request: Some(create_request.clone()), ..a_payment("o") };
    let _sent = fixture.run("k", Intent::Pay(draft)).await;
    // Killed while the request was sent: the fields of the identical create are retained.
    let fixture = fixture.crash();
    let lost = fixture.payment("o").await;
    assert_eq!((lost.status, lost.create_request), (Status::Unknown, Some(create_request.clone())));
    assert!(lost.state.status_reason.unwrap().contains("stopped"));
    let marked = Inquiry { repeated_creates: 1, ..lost.state.inquiry.unwrap() };
    assert!(fixture.save_inquiry(&of("o"), Some(marked)).await);
    // Killed between the mark and the create.
    let fixture = fixture.crash();
    fixture.ledger.apply(&of("o"), outcome(Status::Pending), at(9)).await.unwrap();
    let open = fixture.payment("o").await;
    assert_eq!(open.inquiry.as_ref().unwrap().repeated_creates, 1);
    assert!(open.lacks_action() && open.awaits_action(), "there are tries left");
    // Killed between the mark and the reversal.
    let marked = Inquiry { closing: true, absent: 1, ..open.state.inquiry.unwrap() };
    assert!(fixture.save_inquiry(&of("o"), Some(marked)).await);
    let fixture = fixture.crash();
    let inquiry = fixture.payment("o").await.state.inquiry.unwrap();
    assert!(inquiry.closing && inquiry.absent == 1, "{inquiry:?}");
    // No event contains the create request.
    for event in fixture.deliver_all().await {
        let Record::Payment(payment) = event.data else { panic!() };
        assert_eq!(payment.create_request, None, "{}", event.kind);
    }
}

fn name(record: &Record) -> String {
    match record {
        Record::Payment(payment) => payment.order_id.clone(),
        Record::Refund(refund) => format!("{}/{}", refund.order_id, refund.refund_id),
    }
}

#[tokio::test]
async fn acknowledged_notification_survives_a_crash_with_its_event_and_dedupe_key() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let event = notification("e", "o", None, Outcome::of(Status::Succeeded));
    fixture.ledger.record("wechat", event.clone(), at(2)).await.unwrap();
    let after = fixture.crash();
    assert_eq!(after.ledger.waiting().await.unwrap().deliveries, 1);
    assert_eq!(after.ledger.record("wechat", event, at(3)).await.unwrap(), Recorded::Duplicate);
    assert_eq!(after.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn failed_transaction_is_rolled_back_without_affecting_others() {
    let fixture = Fixture::new();
    let _permit = fixture.run("k", pay("o")).await;
    let (key, scope) = (claim_key("twin", ""), LockScope::order("shop", "twin"));
    let errs = move |tx: &mut Transaction<'_>| {
        assert!(matches!(super::super::claims::claim(tx, *Request::new(&key, pay("twin"), None, at(0))?)?, ClaimResult::Run(_)));
        Err::<(), _>(LedgerError::Superseded("an example"))
    };
    assert_eq!(fixture.ledger.engine.write(Durable, scope, errs).await.unwrap_err().to_string(), "an example");
    assert!(fixture.ledger.is_healthy());
    assert_eq!(fixture.ledger.payment("shop", "twin").await.unwrap(), None);
    fixture.run("twin", pay("twin")).await;
}

#[tokio::test]
async fn applied_transaction_is_visible_at_once() {
    let fixture = Fixture::new();
    for number in 0..50 {
        let order = format!("o{number}");
        let permit = fixture.run(&order, pay(&order)).await;
        let record = fixture.settle(permit, outcome(Status::Succeeded)).await;
        assert_eq!(Record::Payment(fixture.payment(&order).await), record);
        assert!(matches!(fixture.claim(&order, pay(&order)).await, ClaimResult::Replay(_)));
    }
}
