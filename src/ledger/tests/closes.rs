//! Closes and reversals: unclear results, and successes that they may have undone.

use super::*;

#[tokio::test]
async fn payment_that_succeeds_during_its_reversal_is_a_mismatch() {
    for ended in [Status::Closed, Status::Failed] {
        let fixture = Fixture::new();
        let permit = fixture.run("k", pay("o")).await;
        fixture.settle(permit, outcome(Status::Pending)).await;
        let permit = fixture.run("c", close("o")).await;
        fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.unwrap();
        fixture.settle(permit, outcome(ended)).await;
        assert_eq!(fixture.payment("o").await.status, Status::Succeeded, "{ended:?}");
        assert_eq!(fixture.kinds().await, ["payment.succeeded", "payment.mismatch"], "{ended:?}");
    }
}

/// The provider executed the reversal, its answer was lost, and the success that was read before was recorded meanwhile.
#[tokio::test]
async fn unclear_reversal_of_a_succeeded_payment_is_queried_and_a_reversed_one_is_a_mismatch() {
    for (answer, kinds) in [
        (Status::Succeeded, &["payment.succeeded"][..]),
        (Status::Closed, &["payment.succeeded", "payment.mismatch"]),
        (Status::Failed, &["payment.succeeded", "payment.mismatch"]),
    ] {
        let fixture = Fixture::new();
        let permit = fixture.run("k", pay("o")).await;
        fixture.settle(permit, outcome(Status::Pending)).await;
        let permit = fixture.run("c", close("o")).await;
        fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.unwrap();
        fixture.settle(permit, Update::Unknown(Reason::default())).await;
        let inquiry = fixture.payment("o").await.state.inquiry.expect("an inquiry is scheduled");
        assert!(inquiry.closing && inquiry.due <= at(20), "{inquiry:?}");
        fixture.ledger.apply(&of("o"), outcome(answer), at(20)).await.unwrap();
        fixture.ledger.apply(&of("o"), outcome(answer), at(400)).await.unwrap();
        let state = fixture.payment("o").await.state;
        assert_eq!((state.status, state.inquiry), (Status::Succeeded, None), "{answer:?}");
        assert_eq!(fixture.kinds().await, kinds, "{answer:?}");
    }
}

/// The close is under way when the success is reported, and the process ends before the close's answer.
#[tokio::test]
async fn success_of_a_payment_during_its_close_is_confirmed_by_a_later_query() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.unwrap();
    // Answers to queries that were sent before the close confirm nothing.
    for answer in [Status::Pending, Status::Succeeded] {
        fixture.ledger.apply(&of("o"), outcome(answer), at(2)).await.unwrap();
        let state = fixture.payment("o").await.state;
        assert_eq!(state.status, Status::Succeeded);
        assert!(state.inquiry.is_some_and(|inquiry| inquiry.closing), "{answer:?}");
    }
    // A provider may execute an accepted reversal later, so two answers confirm.
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(20)).await.unwrap();
    assert!(fixture.payment("o").await.state.inquiry.is_some_and(|inquiry| inquiry.due > at(300)));
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(400)).await.unwrap();
    assert_eq!(fixture.payment("o").await.state.inquiry, None);
}

/// The provider accepted the reversal and executes it later. The query right after the close still says succeeded.
#[tokio::test]
async fn success_after_an_accepted_reversal_is_confirmed_and_a_late_reversal_is_a_mismatch() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    assert!(fixture.payment("o").await.state.inquiry.is_some_and(|inquiry| inquiry.confirmations == 2));
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(20)).await.unwrap();
    fixture.ledger.apply(&of("o"), outcome(Status::Closed), at(400)).await.unwrap();
    assert_eq!(fixture.payment("o").await.state.inquiry, None);
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "payment.mismatch"]);
}

/// The resolver loaded a payment that was to be closed, and the success was notified during its query.
#[tokio::test]
async fn inquiry_loaded_before_a_success_is_not_saved_so_that_no_close_is_sent() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let loaded = fixture.payment("o").await.state.inquiry.unwrap();
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.unwrap();
    let confirmation = fixture.payment("o").await.state.inquiry;
    let marked = Inquiry { closing: true, due: at(0), ..loaded.clone() };
    assert!(!fixture.ledger.save_inquiry(&of("o"), &loaded, Some(marked)).await.unwrap(), "the payment has succeeded");
    assert_eq!(fixture.payment("o").await.state.inquiry, confirmation);
}

#[tokio::test]
async fn confirmation_scheduled_by_a_wrong_clock_is_answered_now() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(10_000_000)).await.unwrap();
    for (now, left) in [(20, Some(1)), (400, None)] {
        fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(now)).await.unwrap();
        assert_eq!(fixture.payment("o").await.state.inquiry.map(|inquiry| inquiry.confirmations), left);
    }
}

/// A merchant's close ends unclear while the resolver queries the payment, which then postpones its inquiry.
#[tokio::test]
async fn close_requested_during_a_query_stays_due() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let loaded = fixture.payment("o").await.state.inquiry.unwrap();
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let due = fixture.payment("o").await.state.inquiry.unwrap().due;
    let postponed = Inquiry { due: at(20_000), ..loaded.clone() };
    assert!(fixture.ledger.save_inquiry(&of("o"), &loaded, Some(postponed)).await.unwrap());
    let inquiry = fixture.payment("o").await.state.inquiry.unwrap();
    assert!(inquiry.closing && inquiry.due == due, "{inquiry:?}");
}

#[tokio::test]
async fn closed_answer_about_a_fully_refunded_payment_is_no_reversal() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let permit = fixture.run("r", refund_intent("o", "r", 1000)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.ledger.apply(&of("o"), outcome(Status::Closed), at(20)).await.unwrap();
    assert_eq!(fixture.payment("o").await.state.inquiry, None);
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.succeeded"]);
}

#[tokio::test]
async fn unclear_close_keeps_the_payment_and_schedules_an_inquiry() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let before = fixture.payment("o").await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let after = fixture.payment("o").await;
    assert_eq!((after.status, after.version), (Status::Pending, before.version));
    assert_eq!(fixture.due().await, [Record::Payment(after)]);
    assert_eq!(fixture.ledger.waiting().await.unwrap().unknown, 0);
    assert!(matches!(fixture.claim("c", close("o")).await, ClaimResult::AlreadyExists(_)));
    // Another unclear close makes a postponed inquiry urgent again.
    let later = Inquiry { due: at(500), ..fixture.payment("o").await.state.inquiry.unwrap() };
    fixture.save_inquiry(&of("o"), Some(later)).await;
    let permit = fixture.run("c1", close("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    assert_eq!(fixture.ledger.due_inquiries(at(1), 10, &[]).await.len(), 1);
    // The provider was queried: the order is still open, and is closed until it is closed.
    fixture.ledger.apply(&of("o"), outcome(Status::Pending), at(2)).await.unwrap();
    assert!(fixture.payment("o").await.state.inquiry.unwrap().closing);
    let unmarked = Inquiry { closing: false, ..fixture.payment("o").await.state.inquiry.unwrap() };
    fixture.save_inquiry(&of("o"), Some(unmarked)).await;
    assert!(fixture.payment("o").await.state.inquiry.unwrap().closing, "a saved inquiry keeps the scheduled close");
    let permit = fixture.run("c2", close("o")).await;
    // A refused close says nothing about the payment.
    fixture.settle(permit, Update::Declined(provider_error())).await;
    let after = fixture.payment("o").await;
    assert_eq!((after.status, after.state.provider_error), (Status::Pending, None));
    assert!(matches!(fixture.claim("c2", close("o")).await, ClaimResult::Replay(_)));
    assert!(fixture.kinds().await.is_empty());
}

/// The provider never answers the queries that should confirm the success.
#[tokio::test]
async fn unconfirmed_success_after_a_close_is_escalated_once() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let escalate = async || fixture.ledger.escalate(&of("o"), "nobody confirms it", at(90_000)).await.unwrap();
    assert_eq!((escalate().await, escalate().await), (true, false));
    let (_, timeline) = fixture.ledger.timeline("shop", "o").await.unwrap().unwrap();
    let reviews = timeline.entries.iter().filter(|entry| matches!(entry.what, TimelineEvent::ManualReview { .. }));
    assert_eq!(reviews.count(), 1);
    assert!(fixture.save_inquiry(&of("o"), None).await);
    assert_eq!(fixture.payment("o").await.state.inquiry, None);
    assert_eq!(fixture.kinds().await, ["payment.succeeded"], "the merchant's status does not change");
    assert!(!escalate().await, "the inquiry has ended");
}

impl Fixture {
    /// Creates a pending payment with a scanned code.
    async fn at_the_till(&self) {
        let method = tollgate_plugins::payment::Method::all().find(tollgate_plugins::payment::Method::is_scanned).unwrap();
        let permit = self.run("k", Intent::Pay(Payment { method, ..a_payment("o") })).await;
        self.settle(permit, outcome(Status::Pending)).await;
    }
}

/// A query was answered before the reversal, and its answer is recorded after the reversal's.
#[tokio::test]
async fn success_answered_before_a_reversal_and_recorded_after_it_is_confirmed() {
    let fixture = Fixture::new();
    fixture.at_the_till().await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, outcome(Status::Closed)).await;
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(2)).await.unwrap();
    let inquiry = fixture.payment("o").await.state.inquiry;
    assert!(inquiry.is_some_and(|inquiry| inquiry.confirmations == 2), "the reversal may have returned the money");
    fixture.ledger.apply(&of("o"), outcome(Status::Closed), at(20)).await.unwrap();
    assert_eq!(fixture.kinds().await, ["payment.closed", "payment.succeeded", "payment.mismatch"]);
}

/// The provider accepted the reversal of an order that it did not know, and the order arrived after its end.
#[tokio::test]
async fn success_after_an_accepted_reversal_of_an_unknown_order_is_confirmed() {
    let fixture = Fixture::new();
    fixture.at_the_till().await;
    let reversed = Inquiry { closing: true, reversed: true, ..fixture.payment("o").await.state.inquiry.unwrap() };
    assert!(fixture.save_inquiry(&of("o"), Some(reversed)).await);
    fixture.ledger.apply(&of("o"), Update::NotFoundAtProvider, at(2)).await.unwrap();
    assert_eq!(fixture.payment("o").await.status, Status::Failed);
    fixture.ledger.record("wechat", notification("n", "o", None, Outcome::of(Status::Succeeded)), at(3)).await.unwrap();
    let inquiry = fixture.payment("o").await.state.inquiry;
    assert!(inquiry.is_some(), "the reversal may return the money");
}

/// The success is notified after the last query, which did not find the order, and before that is recorded.
#[tokio::test]
async fn not_found_answer_does_not_end_the_confirmation_of_a_success() {
    let fixture = Fixture::new();
    fixture.at_the_till().await;
    let reversed = Inquiry { closing: true, reversed: true, ..fixture.payment("o").await.state.inquiry.unwrap() };
    assert!(fixture.save_inquiry(&of("o"), Some(reversed)).await);
    fixture.ledger.record("wechat", notification("n", "o", None, Outcome::of(Status::Succeeded)), at(1)).await.unwrap();
    assert!(fixture.payment("o").await.state.inquiry.is_some_and(|inquiry| inquiry.confirmations == 2));
    fixture.ledger.apply(&of("o"), Update::NotFoundAtProvider, at(2)).await.unwrap();
    let is_queried = fixture.payment("o").await.state.inquiry.is_some();
    let kinds = fixture.kinds().await;
    assert!(is_queried || kinds.contains(&"payment.mismatch".to_owned()), "nothing is known of the money: {kinds:?}");
}

/// Alipay reports a fully refunded order with a scanned code as closed before the refund's own answer is recorded.
#[tokio::test]
async fn closed_answer_during_a_full_refund_is_no_reversal() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let permit = fixture.run("r", refund_intent("o", "r", 1000)).await;
    fixture.ledger.apply(&of("o"), outcome(Status::Closed), at(20)).await.unwrap();
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.succeeded"]);
}

/// The close's query is answered after the merchant has refunded the payment in full.
#[tokio::test]
async fn close_answered_with_closed_after_a_full_refund_is_no_mismatch() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let closing = fixture.run("c", close("o")).await;
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.unwrap();
    let permit = fixture.run("r", refund_intent("o", "r", 1000)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.settle(closing, outcome(Status::Closed)).await;
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.succeeded"]);
}

/// UnionPay's notifications only trigger a query. One arrives while an earlier query is under way.
#[tokio::test]
async fn query_triggered_by_a_notification_during_a_query_stays_due() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let loaded = fixture.payment("o").await.state.inquiry.unwrap();
    let event = ProviderEvent { outcome: None, ..notification("n", "o", None, Outcome::of(Status::Succeeded)) };
    assert_eq!(fixture.ledger.record("wechat", event, at(10)).await.unwrap(), Recorded::Applied(of("o")));
    // The earlier query was answered with pending, so the next one is in some hours.
    let postponed = Inquiry { due: at(20_000), asked: 1, ..loaded.clone() };
    assert!(fixture.ledger.save_inquiry(&of("o"), &loaded, Some(postponed)).await.unwrap());
    let due = fixture.payment("o").await.state.inquiry.unwrap().due;
    assert!(due <= at(10), "{due}");
}

/// A second close ends unclear while the resolver asks for the last confirmation of a success.
#[tokio::test]
async fn confirmations_that_a_later_close_requires_are_kept_during_a_query() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let second = fixture.run("c2", close("o")).await;
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.unwrap();
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(20)).await.unwrap();
    let loaded = fixture.payment("o").await.state.inquiry.unwrap();
    assert_eq!(loaded.confirmations, 1);
    fixture.settle(second, Update::Unknown(Reason::default())).await;
    let next = Inquiry { due: at(21), ..loaded.clone() };
    fixture.ledger.save_inquiry(&of("o"), &loaded, Some(next)).await.unwrap();
    assert_eq!(fixture.payment("o").await.state.inquiry.map(|inquiry| inquiry.confirmations), Some(2));
}
