//! Asynchronous jobs: enqueued, dequeued once, executed once, published.

use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{NextAction as PayerAction, Kind};

use super::*;

/// Time long after every queued job is due.
const FAR_FUTURE: i64 = 1_000_000_000;

impl Fixture {
    async fn accept_with(&self, key: &str, intent: Intent, most: u64) -> ClaimResult {
        let body = format!("{intent:?}");
        self.ledger.enqueue(claim_key(key, &body), intent, "{}".into(), most, at(0)).await.unwrap()
    }

    pub(super) async fn accept(&self, key: &str, intent: Intent) -> ClaimResult {
        self.accept_with(key, intent, 100).await
    }

    async fn waits(&self, now: Timestamp) -> usize {
        self.ledger.due_job_ids(now, 100).await.len()
    }

    /// Dequeues the first due job.
    pub(super) async fn take(&self) -> Option<ExecutionPermit> {
        let due = self.ledger.due_job_ids(at(FAR_FUTURE), 100).await;
        self.ledger.dequeue(*due.first()?, "here", at(0)).await.unwrap()
    }

    async fn accepted(&self, key: &str, intent: Intent) -> ExecutionPermit {
        assert!(matches!(self.accept(key, intent).await, ClaimResult::Accepted(_)));
        self.take().await.unwrap()
    }

    async fn states(&self, order: &str) -> (Status, MoneyState) {
        let payment = self.payment(order).await;
        (payment.status, payment.money_state)
    }
}

#[tokio::test]
async fn job_is_dequeued_once_and_its_result_publishes_an_event() {
    let fixture = Fixture::new();
    let ClaimResult::Accepted(Record::Payment(payment)) = fixture.accept("k", pay("o")).await else { panic!() };
    assert_eq!((payment.status, payment.money_state, payment.version), (Status::Pending, MoneyState::NotSent, 1));
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::Queued(_)), "the same key");
    assert!(matches!(fixture.claim("k2", pay("o")).await, ClaimResult::Queued(_)), "the same order");
    let other = Intent::Pay(Payment { content: "other".into(), ..a_payment("o") });
    assert!(matches!(fixture.accept("k3", other).await, ClaimResult::OrderIdReused));
    assert_eq!(fixture.ledger.waiting().await.unwrap().jobs, 1);

    let [claim] = fixture.ledger.due_job_ids(at(0), 9).await[..] else { panic!() };
    let permit = fixture.ledger.dequeue(claim, "here", at(0)).await.unwrap().unwrap();
    assert_eq!(permit.job.as_ref().map(|job| (job.body.as_str(), job.action)), Some(("{}", IntentKind::Pay)));
    assert!(fixture.ledger.dequeue(claim, "there", at(0)).await.unwrap().is_none(), "it is taken");
    assert!(matches!(fixture.accept("k", pay("o")).await, ClaimResult::Queued(_)), "while it is made");
    let action = Some(PayerAction::Qr { data: "weixin://".into() });
    fixture.settle(permit, Update::Outcome(Outcome { action, ..Outcome::of(Status::Pending) })).await;
    let ClaimResult::AlreadyExists(Record::Payment(made)) = fixture.accept("k", pay("o")).await else { panic!() };
    assert!(made.action.is_some() && fixture.take().await.is_none());
    let [event] = &fixture.deliver_all().await[..] else { panic!() };
    assert_eq!((event.kind.as_str(), &event.data), ("payment.pending", &Record::Payment(made)), "with the action");
    assert_eq!(fixture.ledger.waiting().await.unwrap(), Backlog::default());
}

#[tokio::test]
async fn enqueued_job_survives_a_crash_and_executes_once() {
    let fixture = Fixture::new();
    fixture.accept("k", pay("o")).await;
    let fixture = fixture.crash();
    let permit = fixture.take().await.unwrap();
    // It is unknown whether the dequeued job was sent.
    let after = fixture.crash();
    std::mem::forget(permit);
    assert_eq!(after.states("o").await, (Status::Unknown, MoneyState::Unknown));
    assert!(after.take().await.is_none() && after.due().await.len() == 1, "it is queried, not executed again");
    assert!(matches!(after.accept("k", pay("o")).await, ClaimResult::AlreadyExists(_)));
}

#[tokio::test]
async fn unsent_job_is_requeued_with_exponential_backoff() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.accept("k", pay("o")).await, ClaimResult::Accepted(_)));
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        let permit = fixture.take().await.unwrap();
        let before = Timestamp::now();
        fixture.ledger.release(permit).await.unwrap();
        // The job's age counts from now, not from the test's clock.
        let after = before.duration_since(at(0)).as_secs();
        assert_eq!(fixture.waits(at(after + pause * 3 / 4 - 1)).await, 0, "{pause}");
        assert_eq!(fixture.waits(at(after + pause * 5 / 4 + 60)).await, 1, "{pause}");
    }
    assert_eq!(fixture.states("o").await, (Status::Pending, MoneyState::NotSent));
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::Queued(_)));
    assert_eq!(fixture.crash().waits(at(2 * 365 * 86_400)).await, 1, "and survives a crash");
}

#[tokio::test]
async fn execution_without_a_channel_attempt_does_not_count_as_a_retry() {
    let fixture = Fixture::new();
    let tries = |permit: &ExecutionPermit| permit.job.as_ref().unwrap().tries;
    let permit = fixture.accepted("k", pay("o")).await;
    fixture.ledger.release_untried(permit).await.unwrap();
    // The permit never reached the caller.
    let [claim] = fixture.ledger.due_job_ids(at(FAR_FUTURE), 9).await[..] else { panic!() };
    let holder = fixture.ledger.engine.holder();
    let take = move |tx: &mut transaction::Transaction<'_>| {
        let mut permit = crate::claims::jobs::take(tx, claim, "here", at(0))?.unwrap();
        permit.guard = ClaimGuard::new(holder.clone(), permit.execution);
        Ok(permit)
    };
    drop(fixture.ledger.engine.write(Durable, LockScope::Claim(claim), take).await.unwrap());
    let mut permit = fixture.take().await;
    while permit.is_none() {
        permit = fixture.take().await;
    }
    let permit = permit.unwrap();
    assert_eq!(tries(&permit), 0);
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(tries(&fixture.take().await.unwrap()), 1);
}

#[tokio::test]
async fn dropped_job_permit_makes_the_job_unknown_and_is_not_retried() {
    let fixture = Fixture::new();
    drop(fixture.accepted("k", pay("o")).await);
    fixture.ledger.mismatch(&of("nothing"), at(4)).await.unwrap();
    assert_eq!(fixture.states("o").await, (Status::Unknown, MoneyState::Unknown));
    assert!(fixture.take().await.is_none());
}

#[tokio::test]
async fn expired_job_fails_with_money_not_sent_and_publishes_an_event() {
    let fixture = Fixture::new();
    let permit = fixture.accepted("k", pay("o")).await;
    fixture.settle(permit, Update::NotSent(Status::Failed, Reason::default())).await;
    assert_eq!(fixture.states("o").await, (Status::Failed, MoneyState::NotSent));
    assert!(fixture.take().await.is_none() && fixture.due().await.is_empty());
    fixture.paid("p").await;
    let permit = fixture.accepted("r", refund_intent("p", "r", 900)).await;
    assert!(matches!(fixture.claim("r2", refund_intent("p", "r2", 101)).await, ClaimResult::ExceedsBalance { left: 100 }), "reserved");
    fixture.settle(permit, Update::NotSent(Status::Failed, Reason::default())).await;
    let refund = fixture.refund("p", "r").await;
    assert_eq!((refund.status, refund.money_state), (Status::Failed, MoneyState::NotSent));
    fixture.run("r2", refund_intent("p", "r2", 1000)).await;
    let mut kinds = fixture.kinds().await;
    kinds.sort();
    assert_eq!(kinds, ["payment.failed", "payment.succeeded", "refund.failed"]);
}

#[tokio::test]
async fn close_of_a_queued_payment_cancels_it() {
    let fixture = Fixture::new();
    fixture.accept("k", pay("o")).await;
    let ClaimResult::AlreadyExists(Record::Payment(closed)) = fixture.claim("c", close("o")).await else { panic!() };
    assert_eq!((closed.status, closed.money_state), (Status::Closed, MoneyState::NotSent));
    assert!(fixture.take().await.is_none());
    assert_eq!(fixture.kinds().await, ["payment.closed"]);
    // While the payment is being executed there is nothing to close yet.
    let permit = fixture.accepted("k2", pay("o2")).await;
    assert!(matches!(fixture.claim("c2", close("o2")).await, ClaimResult::Running));
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert!(matches!(fixture.claim("c2", close("o2")).await, ClaimResult::Run(_)));
}

#[tokio::test]
async fn queued_close_executes_unless_the_payment_succeeded_meanwhile() {
    let fixture = Fixture::new();
    for order in ["open", "paid", "refused"] {
        let permit = fixture.run(order, pay(order)).await;
        fixture.settle(permit, outcome(Status::Pending)).await;
    }
    let permit = fixture.accepted("c", close("open")).await;
    fixture.settle(permit, outcome(Status::Closed)).await;
    fixture.accept("c2", close("paid")).await;
    assert!(matches!(fixture.claim("c3", close("paid")).await, ClaimResult::Queued(_)));
    fixture.ledger.record("wechat", notification("n", "paid", None, Outcome::of(Status::Succeeded)), at(3)).await.unwrap();
    assert!(fixture.take().await.is_none(), "there is nothing to close");
    let inquiry = fixture.payment("paid").await.state.inquiry;
    assert!(inquiry.is_none_or(|inquiry| inquiry.confirmations == 0), "a close that was never sent reversed nothing");
    let permit = fixture.accepted("c4", close("refused")).await;
    fixture.settle(permit, Update::Declined(provider_error())).await;
    let mut events = fixture.deliver_all().await;
    events.sort_by_key(|event| event.subject.order_id.clone());
    let published: Vec<_> = events.iter().map(|event| (event.subject.order_id.as_str(), event.kind.as_str())).collect();
    let expected = [("open", "payment.closed"), ("paid", "payment.succeeded"), ("refused", "payment.pending")];
    assert_eq!(published, expected, "that it is open still is a result too");
}

/// The payment stays open, so the reason of its refused close is no reason of the payment.
#[tokio::test]
async fn declined_queued_close_reports_its_reason_in_the_event_only() {
    let fixture = Fixture::new();
    let unclear = Reason { provider_error: Some(ProviderError { code: "SYSTEMERROR".into(), message: "m".into() }), sentence: None };
    for (order, begin) in [("clear", None), ("unclear", Some(unclear))] {
        let permit = fixture.run(order, pay(order)).await;
        match begin.clone() {
            Some(reason) => drop(fixture.settle(permit, Update::Unknown(reason)).await),
            None => drop(fixture.settle(permit, outcome(Status::Pending)).await),
        }
        fixture.ledger.apply(&of(order), outcome(Status::Pending), at(2)).await.unwrap();
        fixture.deliver_all().await;
        let before = fixture.payment(order).await;
        for (key, update, said) in [
            ("refused", Update::Declined(provider_error()), "the provider refused to close it (NOT_ENOUGH"),
            ("late", Update::NotSent(Status::Failed, Reason::sentence("no connection")), "given up: no connection"),
        ] {
            let permit = fixture.accepted(&format!("{key} {order}"), close(order)).await;
            fixture.settle(permit, update).await;
            let [event] = &fixture.deliver_all().await[..] else { panic!("one event") };
            let Record::Payment(payment) = &event.data else { panic!() };
            assert_eq!((event.kind.as_str(), &payment.provider_error), ("payment.pending", &None), "{key} {order}");
            assert!(payment.status_reason.as_ref().is_some_and(|why| why.contains(said)), "{key}: {:?}", payment.status_reason);
            let after = fixture.payment(order).await;
            assert_eq!((&after.provider_error, &after.status_reason), (&before.provider_error, &before.status_reason), "{key} {order}");
        }
        fixture.ledger.apply(&of(order), Update::Expired, at(3)).await.unwrap();
        let ended = fixture.payment(order).await;
        assert_eq!((ended.status, &ended.provider_error), (Status::Closed, &before.provider_error), "{order}");
        assert!(ended.state.status_reason.unwrap().contains("its time is over"), "{order}");
    }
}

#[tokio::test]
async fn full_queue_rejects_jobs_and_records_nothing() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.accept_with("k", pay("o"), 1).await, ClaimResult::Accepted(_)));
    assert!(matches!(fixture.accept_with("k2", pay("o2"), 1).await, ClaimResult::QueueFull(QueueFull::Total)));
    assert_eq!(fixture.ledger.payment("shop", "o2").await.unwrap(), None);
    assert!(matches!(fixture.accept_with("k", pay("o"), 1).await, ClaimResult::Queued(_)), "what was accepted stays so");
    fixture.run("k2", pay("o2")).await;
    assert!(matches!(fixture.accept_with("k3", pay("o3"), 2).await, ClaimResult::Accepted(_)));
}

#[tokio::test]
async fn job_with_a_notification_before_sending_is_queried_and_never_sent() {
    let fixture = Fixture::new();
    for (order, amount) in [("paid", None), ("amount", Some(cny(1)))] {
        fixture.accept(order, pay(order)).await;
        let event = ProviderEvent { amount, ..notification(order, order, None, Outcome::of(Status::Succeeded)) };
        fixture.ledger.record("wechat", event, at(3)).await.unwrap();
    }
    assert!(fixture.take().await.is_none() && fixture.take().await.is_none());
    assert_eq!(fixture.states("paid").await.0, Status::Succeeded);
    assert_eq!(fixture.states("amount").await.0, Status::Unknown);
    assert_eq!(fixture.waits(at(FAR_FUTURE)).await, 0);
}

#[tokio::test]
async fn each_execution_may_reroute_across_all_channels_again() {
    let fixture = Fixture::new();
    let mut permit = fixture.accepted("k", pay("o")).await;
    for execution in 0..3 {
        for (from, to) in [("wechat", "backup"), ("backup", "wechat")] {
            let mut tried = ProviderCall::begun(Kind::Pay, from, at(0));
            tried.ended(&Err(Error::NotSent("refused".into())));
            permit.evidence.push(tried);
            let moved = fixture.ledger.reroute(&mut permit, destination(to, "wechat-v3:2"), at(1)).await.unwrap();
            assert_eq!(moved.channel, to, "turn {execution}");
        }
        fixture.ledger.release(permit).await.unwrap();
        assert!(fixture.due().await.is_empty(), "nothing is left anywhere");
        let [claim] = fixture.ledger.due_job_ids(at(2 * 365 * 86_400), 9).await[..] else { panic!() };
        permit = fixture.ledger.dequeue(claim, "here", at(0)).await.unwrap().unwrap();
    }
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let (_, timeline) = fixture.ledger.timeline("shop", "o").await.unwrap().unwrap();
    let count = |wanted: fn(&TimelineEvent) -> bool| timeline.entries.iter().filter(|entry| wanted(&entry.what)).count();
    assert_eq!(count(|what| matches!(what, TimelineEvent::Queued { .. })), 1);
    assert_eq!(count(|what| matches!(what, TimelineEvent::Dequeued { by } if by == "here")), 4);
    assert_eq!(count(|what| matches!(what, TimelineEvent::Requeued { .. })), 3);
}

#[tokio::test]
async fn sent_at_is_the_time_of_the_execution_until_a_request_may_have_left() {
    let fixture = Fixture::new();
    fixture.accept("o", pay("o")).await;
    let take = async |now: i64| {
        let [claim] = fixture.ledger.due_job_ids(at(2 * 365 * 86_400), 9).await[..] else { panic!("no job waits") };
        fixture.ledger.dequeue(claim, "here", at(now)).await.unwrap().unwrap()
    };
    let tried = |written, result| {
        let mut tried = ProviderCall::begun(Kind::Pay, "wechat", at(0));
        tried.written = written;
        tried.ended(&Err(result));
        tried
    };
    let provider_error = tollgate_plugins::error::ProviderError { code: "11".into(), message: String::new() };
    for (now, sent_at, written, result) in [
        (100, 100, BytesSent::No, Error::NotSent("no connection".into())),
        (200, 200, BytesSent::Yes, Error::ProviderBusy(provider_error.clone())),
        (300, 300, BytesSent::Yes, Error::Unauthorized(provider_error.clone())),
        (400, 300, BytesSent::No, Error::NotSent("no connection".into())),
    ] {
        let mut permit = take(now).await;
        assert_eq!(permit.payment.sent_at, Some(at(sent_at)), "{now}");
        assert_eq!(permit.payment.created_at, at(0), "when it was accepted stays as it is");
        permit.evidence.push(tried(written, result));
        fixture.ledger.release(permit).await.unwrap();
    }
    let last = take(500).await;
    assert_eq!(last.payment.sent_at, Some(at(300)), "a query names the time of the first sending");
}

#[tokio::test]
async fn queued_job_is_never_purged() {
    let fixture = Fixture::new();
    fixture.accept("k", pay("o")).await;
    let mut purge = Purge::default();
    while !fixture.ledger.purge(&mut purge, &RetentionPolicy::default(), at(1000 * 86_400)).await.unwrap() {}
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::Queued(_)));
    assert!(fixture.take().await.is_some());
}

/// Returns a payment of another merchant.
fn of_merchant(merchant: &str, order: &str) -> (ClaimKey, Intent) {
    let number = provider_number(&[merchant, order]);
    let payment = Payment { merchant: merchant.into(), provider_order_no: number, ..a_payment(order) };
    (ClaimKey { merchant: merchant.into(), ..claim_key(order, order) }, Intent::Pay(payment))
}

impl Fixture {
    async fn accept_of(&self, merchant: &str, order: &str, limit: QueueLimit) -> ClaimResult {
        let (key, intent) = of_merchant(merchant, order);
        self.ledger.enqueue(key, intent, "{}".into(), limit, at(0)).await.unwrap()
    }

    /// Returns how many of `count` concurrent requests are accepted.
    async fn flood(&self, merchant: &str, name: &str, count: usize, limit: QueueLimit) -> usize {
        let enqueued = (0..count).map(|number| {
            let (ledger, (key, intent)) = (self.ledger.clone(), of_merchant(merchant, &format!("{name}{number}")));
            tokio::spawn(async move { ledger.enqueue(key, intent, "{}".into(), limit, at(0)).await.unwrap() })
        });
        let mut accepted = 0;
        for enqueued in enqueued.collect::<Vec<_>>() {
            accepted += usize::from(matches!(enqueued.await.unwrap(), ClaimResult::Accepted(_)));
        }
        accepted
    }
}

#[tokio::test]
async fn queue_limits_are_exact_under_concurrency_and_count_executing_jobs() {
    let (fixture, limit) = (Fixture::new(), QueueLimit { total: 30, each: 20 });
    assert_eq!(fixture.flood("shop", "a", 60, limit).await, 20, "its share");
    assert!(matches!(fixture.accept_of("shop", "b", limit).await, ClaimResult::QueueFull(QueueFull::Share)));
    // A job that is being executed may be requeued, so it still counts.
    let mut permits = Vec::new();
    for claim in fixture.ledger.due_job_ids(at(0), 15).await {
        permits.push(fixture.ledger.dequeue(claim, "here", at(0)).await.unwrap().unwrap());
    }
    assert_eq!(permits.len(), 15);
    assert!(matches!(fixture.accept_of("shop", "b", limit).await, ClaimResult::QueueFull(QueueFull::Share)));
    assert_eq!(fixture.flood("other", "a", 60, limit).await, 10, "the rest of the queue");
    assert!(matches!(fixture.accept_of("third", "a", limit).await, ClaimResult::QueueFull(QueueFull::Total)));
    for permit in permits.drain(..10) {
        fixture.ledger.release(permit).await.unwrap();
    }
    assert!(matches!(fixture.accept_of("third", "a", limit).await, ClaimResult::QueueFull(QueueFull::Total)));
    // A finished job no longer counts, however it ended.
    let settled = permits.pop().unwrap();
    fixture.settle(settled, outcome(Status::Succeeded)).await;
    drop(permits.pop());
    let accepted = async || fixture.flood("third", "b", 9, limit).await;
    let mut made = accepted().await;
    while made < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        made += fixture.flood("third", &format!("c{made}-"), 9, limit).await;
    }
    assert_eq!(made, 2);
    let fixture = fixture.crash();
    std::mem::forget(permits);
    assert_eq!(fixture.flood("third", "d", 9, QueueLimit { total: 31, each: 31 }).await, 4, "three were being executed");
}

#[tokio::test]
async fn merchant_at_its_job_limit_does_not_hide_due_jobs_of_others() {
    let (fixture, limit) = (Fixture::new(), QueueLimit::from(1_000));
    assert_eq!(fixture.flood("shop", "a", 20, limit).await, 20);
    assert_eq!(fixture.flood("other", "a", 3, limit).await, 3);
    let under_way = std::collections::HashMap::from([("shop".to_owned(), 4)]);
    let due = fixture.ledger.due_jobs(at(0), DueLimit { total: 10, each: 4, under_way }).await;
    let merchants: Vec<_> = due.iter().map(|(_, merchant)| merchant.as_str()).collect();
    assert_eq!(merchants, ["other"; 3]);
}
