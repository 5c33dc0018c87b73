//! Abandoned attempts on channels that a payment was moved away from.

use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Kind;

use super::*;

const LEFT: &str = "o/wechat";

impl Fixture {
    /// Creates a payment that moved from `wechat` to `backup` after an attempt with this result.
    async fn moved(&self, why: Error) -> ExecutionPermit {
        let mut permit = self.run("k", pay("o")).await;
        let mut tried = ProviderCall::begun(Kind::Pay, "wechat", at(0));
        tried.ended(&Err(why));
        permit.evidence.push(tried);
        self.ledger.reroute(&mut permit, destination("backup", "wechat-v3:2"), at(1)).await.unwrap();
        permit
    }

    async fn moved_and_paid(&self) {
        let permit = self.moved(Error::NotSent("refused".into())).await;
        self.settle(permit, outcome(Status::Succeeded)).await;
    }
}

fn paid(id: &str) -> ProviderEvent {
    notification(id, "o", None, Outcome { provider_id: Some("first".into()), ..Outcome::of(Status::Succeeded) })
}

#[tokio::test]
async fn abandoned_attempt_is_queried_and_closed_without_merchant_events() {
    let fixture = Fixture::new();
    fixture.moved_and_paid().await;
    assert_eq!(fixture.ledger.waiting().await.unwrap().unknown, 0, "the merchant has nothing that is unknown");
    let due = fixture.due().await;
    let [Record::Payment(left)] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!((left.order_id.as_str(), left.channel.as_str(), left.status), (LEFT, "wechat", Status::Unknown));
    assert_eq!(left.provider_order_no, fixture.payment("o").await.provider_order_no, "the provider knows it by the same number");
    assert!(left.inquiry.as_ref().unwrap().closing && left.is_attempt());
    fixture.ledger.apply(&of(LEFT), Update::NotFoundAtProvider, at(9)).await.unwrap();
    assert!(fixture.due().await.is_empty());
    assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
    let crashed = fixture.crash();
    assert_eq!(crashed.payment(LEFT).await.status, Status::Failed);
}

#[tokio::test]
async fn reroute_after_a_filter_rejection_leaves_no_attempt() {
    let fixture = Fixture::new();
    let permit = fixture.moved(Error::Rejected { why: "the breaker is open".into(), retry_after: 1 }).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    assert_eq!(fixture.ledger.payment("shop", LEFT).await.unwrap(), None);
    let foreign = fixture.ledger.record("wechat", paid("n"), at(2)).await.unwrap();
    assert_eq!(foreign, Recorded::Mismatch(of("o")), "a channel where it never was");
}

#[tokio::test]
async fn release_deletes_abandoned_attempts() {
    let fixture = Fixture::new();
    let permit = fixture.moved(Error::NotSent("refused".into())).await;
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.ledger.payment("shop", LEFT).await.unwrap(), None);
    assert!(fixture.ledger.due_inquiries(at(1_000_000_000), 10, &[]).await.is_empty());
    fixture.moved_and_paid().await;
}

#[tokio::test]
async fn duplicate_payment_publishes_one_event_and_is_refunded_once() {
    let fixture = Fixture::new();
    fixture.moved_and_paid().await;
    let version = fixture.payment("o").await.version;
    assert_eq!(fixture.ledger.record("wechat", paid("n"), at(2)).await.unwrap(), Recorded::Applied(of(LEFT)));
    assert_eq!(fixture.ledger.record("wechat", paid("n"), at(2)).await.unwrap(), Recorded::Duplicate);
    assert_eq!(fixture.ledger.record("wechat", paid("n2"), at(2)).await.unwrap(), Recorded::Duplicate);
    let main = fixture.payment("o").await;
    assert_eq!((main.status, main.channel.as_str(), main.version), (Status::Succeeded, "backup", version + 1));
    let left = fixture.payment(LEFT).await;
    assert_eq!((left.status, left.provider_payment_id.as_deref()), (Status::Succeeded, Some("first")));
    assert_eq!(fixture.due().await.len(), 1, "it is to be given back");

    let permit = fixture.run("", refund_intent(LEFT, "double", 1000)).await;
    assert_eq!(permit.refund.as_ref().unwrap().channel, "wechat");
    assert!(matches!(fixture.claim("", refund_intent(LEFT, "double", 1000)).await, ClaimResult::Running));
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.save_inquiry(&of(LEFT), None).await;
    assert!(fixture.due().await.is_empty());
    let mut kinds = fixture.kinds().await;
    kinds.sort();
    assert_eq!(kinds, ["payment.double_payment", "payment.succeeded", "refund.succeeded"]);
    assert_eq!(fixture.payment("o").await.refunded, 0, "the payment itself stays paid");
    let histories = fixture.ledger.find_histories("o", vec!["shop".into()]).await.unwrap();
    let named: Vec<_> = histories.iter().map(|history| (history.payment.order_id.as_str(), history.refunds.len())).collect();
    assert_eq!(named, [("o", 0), (LEFT, 1)]);
}

#[tokio::test]
async fn late_success_of_a_closed_attempt_is_a_duplicate_payment() {
    let fixture = Fixture::new();
    fixture.moved_and_paid().await;
    fixture.ledger.apply(&of(LEFT), Update::NotFoundAtProvider, at(9)).await.unwrap();
    assert_eq!(fixture.ledger.record("wechat", paid("n"), at(99)).await.unwrap(), Recorded::Applied(of(LEFT)));
    assert_eq!(fixture.due().await.len(), 1);
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "payment.double_payment"]);
}

#[tokio::test]
async fn notification_of_the_present_channel_applies_to_the_payment() {
    let fixture = Fixture::new();
    let permit = fixture.moved(Error::NotSent("refused".into())).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert_eq!(fixture.ledger.record("backup", paid("n"), at(2)).await.unwrap(), Recorded::Applied(of("o")));
    assert_eq!(fixture.payment(LEFT).await.status, Status::Unknown);
    assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn duplicate_payment_is_counted_only_after_the_commit() {
    let fixture = Fixture::new();
    // The count is shared by all tests of the process, so each engine's test uses a channel of its own.
    let channel = format!("{}-double", module_path!());
    let counted = || DOUBLE_PAYMENTS.lock().get(&channel).copied().unwrap_or_default();
    let found = |fails: bool| {
        let payment = Payment { channel: channel.clone(), ..a_payment(LEFT) };
        move |tx: &mut transaction::Transaction<'_>| {
            let (id, claim) = (tx.new_id(at(0)), tx.new_id(at(0)));
            let mut attempt = rows::TrackedRow::new(id, rows::PaymentRow::new(payment.clone(), claim));
            crate::abandoned_attempts::paid(tx, &mut attempt, at(0))?;
            if fails { Err(LedgerError::Superseded("rolled back")) } else { Ok(()) }
        }
    };
    assert!(fixture.ledger.engine.write(Durable, LockScope::order("shop", LEFT), found(true)).await.is_err());
    assert_eq!(counted(), 0);
    fixture.ledger.engine.write(Durable, LockScope::order("shop", LEFT), found(false)).await.unwrap();
    assert_eq!(counted(), 1);
}

/// The request contains `public_url` and expiry of its first sending, which are durable before it is sent.
#[tokio::test]
async fn reroute_to_the_same_channel_updates_expiry_and_url_without_an_attempt() {
    let fixture = Fixture::new();
    let Intent::Pay(payment) = pay("o") else { panic!() };
    let create_request = Some(Box::new(CreateRequest {
        description: "d".into(),
        payer: tollgate_plugins::payment::Payer::default(),
        return_url: None,
        public_url: "https://old.example.com".into(),
    }));
    fixture.accept("o", Intent::Pay(Payment { create_request, ..payment })).await;
    let mut permit = fixture.take().await.unwrap();
    let before = permit.payment.clone();
    let to = Destination {
        channel: before.channel.clone(),
        account: before.account.clone(),
        expires_at: Some(at(900)),
        public_url: "https://new.example.com".into(),
    };
    fixture.ledger.reroute(&mut permit, to, at(1)).await.unwrap();
    let after = fixture.crash();
    let payment = after.payment("o").await;
    assert_eq!(payment.create_request.unwrap().public_url, "https://new.example.com");
    assert_eq!((payment.channel, payment.expires_at), (before.channel, Some(at(900))));
    let (_, timeline) = after.ledger.timeline("shop", "o").await.unwrap().unwrap();
    assert!(!timeline.entries.iter().any(|entry| matches!(entry.what, TimelineEvent::Rerouted { .. })), "{timeline:?}");
}

/// The resolver loaded an abandoned attempt, and its success was notified during the query.
#[tokio::test]
async fn inquiry_loaded_before_a_duplicate_payment_is_not_saved_so_that_no_close_is_sent() {
    let fixture = Fixture::new();
    fixture.moved_and_paid().await;
    let loaded = fixture.payment(LEFT).await.state.inquiry.unwrap();
    assert!(loaded.closing);
    assert_eq!(fixture.ledger.record("wechat", paid("n"), at(2)).await.unwrap(), Recorded::Applied(of(LEFT)));
    let refunding = fixture.payment(LEFT).await.state.inquiry;
    let is_saved = fixture.ledger.save_inquiry(&of(LEFT), &loaded.clone(), Some(loaded)).await.unwrap();
    assert!(!is_saved, "the money is there: it is refunded or flagged, not reversed too");
    assert_eq!(fixture.payment(LEFT).await.state.inquiry, refunding);
}

#[tokio::test]
async fn mismatch_of_an_abandoned_attempt_names_an_order_that_its_merchant_knows() {
    let fixture = Fixture::new();
    fixture.moved_and_paid().await;
    fixture.deliver_all().await;
    fixture.ledger.mismatch(&of(LEFT), at(3)).await.unwrap();
    for event in fixture.deliver_all().await {
        assert_eq!((event.kind.as_str(), event.subject), ("payment.mismatch", of("o")));
    }
}
