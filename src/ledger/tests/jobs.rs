//! Asynchronous jobs: enqueued, dequeued once, executed once, published.

use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{NextAction as PayerAction, Kind};

use super::*;

/// Time long after every queued job is due.
const FAR_FUTURE: i64 = 1_000_000_000;

impl Bench {
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
    let bench = Bench::new();
    let ClaimResult::Accepted(Record::Payment(payment)) = bench.accept("k", pay("o")).await else { panic!() };
    assert_eq!((payment.status, payment.money_state, payment.version), (Status::Pending, MoneyState::NotSent, 1));
    assert!(matches!(bench.claim("k", pay("o")).await, ClaimResult::Queued(_)), "the same key");
    assert!(matches!(bench.claim("k2", pay("o")).await, ClaimResult::Queued(_)), "the same order");
    let other = Intent::Pay(Payment { content: "other".into(), ..a_payment("o") });
    assert!(matches!(bench.accept("k3", other).await, ClaimResult::OrderIdReused));
    assert_eq!(bench.ledger.waiting().await.unwrap().jobs, 1);

    let [claim] = bench.ledger.due_job_ids(at(0), 9).await[..] else { panic!() };
    let permit = bench.ledger.dequeue(claim, "here", at(0)).await.unwrap().unwrap();
    assert_eq!(permit.job.as_ref().map(|job| (job.body.as_str(), job.action)), Some(("{}", IntentKind::Pay)));
    assert!(bench.ledger.dequeue(claim, "there", at(0)).await.unwrap().is_none(), "it is taken");
    assert!(matches!(bench.accept("k", pay("o")).await, ClaimResult::Queued(_)), "while it is made");
    let action = Some(PayerAction::Qr { data: "weixin://".into() });
    bench.settle(permit, Update::Outcome(Outcome { action, ..Outcome::of(Status::Pending) })).await;
    let ClaimResult::AlreadyExists(Record::Payment(made)) = bench.accept("k", pay("o")).await else { panic!() };
    assert!(made.action.is_some() && bench.take().await.is_none());
    let [event] = &bench.hear_all().await[..] else { panic!() };
    assert_eq!((event.kind.as_str(), &event.data), ("payment.pending", &Record::Payment(made)), "with the action");
    assert_eq!(bench.ledger.waiting().await.unwrap(), Backlog::default());
}

#[tokio::test]
async fn enqueued_job_survives_a_crash_and_executes_once() {
    let bench = Bench::new();
    bench.accept("k", pay("o")).await;
    let bench = bench.crash();
    let permit = bench.take().await.unwrap();
    // It is unknown whether the dequeued job was sent.
    let after = bench.crash();
    std::mem::forget(permit);
    assert_eq!(after.states("o").await, (Status::Unknown, MoneyState::Unknown));
    assert!(after.take().await.is_none() && after.due().await.len() == 1, "it is asked about, not made again");
    assert!(matches!(after.accept("k", pay("o")).await, ClaimResult::AlreadyExists(_)));
}

#[tokio::test]
async fn unsent_job_is_requeued_with_exponential_backoff() {
    let bench = Bench::new();
    assert!(matches!(bench.accept("k", pay("o")).await, ClaimResult::Accepted(_)));
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        let permit = bench.take().await.unwrap();
        let before = Timestamp::now();
        bench.ledger.release(permit).await.unwrap();
        // The job's age counts from now, not from the test's clock.
        let after = before.duration_since(at(0)).as_secs();
        assert_eq!(bench.waits(at(after + pause * 3 / 4 - 1)).await, 0, "{pause}");
        assert_eq!(bench.waits(at(after + pause * 5 / 4 + 60)).await, 1, "{pause}");
    }
    assert_eq!(bench.states("o").await, (Status::Pending, MoneyState::NotSent));
    assert!(matches!(bench.claim("k", pay("o")).await, ClaimResult::Queued(_)));
    assert_eq!(bench.crash().waits(at(2 * 365 * 86_400)).await, 1, "and survives a crash");
}

#[tokio::test]
async fn execution_without_a_channel_attempt_does_not_count_as_a_retry() {
    let bench = Bench::new();
    let tries = |permit: &ExecutionPermit| permit.job.as_ref().unwrap().tries;
    let permit = bench.accepted("k", pay("o")).await;
    bench.ledger.release_untried(permit).await.unwrap();
    // The permit never reached the caller.
    let [claim] = bench.ledger.due_job_ids(at(FAR_FUTURE), 9).await[..] else { panic!() };
    let holder = bench.ledger.engine.holder();
    let take = move |tx: &mut transaction::Transaction<'_>| {
        let mut permit = crate::claims::jobs::take(tx, claim, "here", at(0))?.unwrap();
        permit.guard = ClaimGuard::new(holder.clone(), permit.execution);
        Ok(permit)
    };
    drop(bench.ledger.engine.write(Durable, LockScope::Claim(claim), take).await.unwrap());
    let mut permit = bench.take().await;
    while permit.is_none() {
        permit = bench.take().await;
    }
    let permit = permit.unwrap();
    assert_eq!(tries(&permit), 0);
    bench.ledger.release(permit).await.unwrap();
    assert_eq!(tries(&bench.take().await.unwrap()), 1);
}

#[tokio::test]
async fn dropped_job_permit_makes_the_job_unknown_and_is_not_retried() {
    let bench = Bench::new();
    drop(bench.accepted("k", pay("o")).await);
    bench.ledger.mismatch(&of("nothing"), at(4)).await.unwrap();
    assert_eq!(bench.states("o").await, (Status::Unknown, MoneyState::Unknown));
    assert!(bench.take().await.is_none());
}

#[tokio::test]
async fn expired_job_fails_with_money_not_sent_and_publishes_an_event() {
    let bench = Bench::new();
    let permit = bench.accepted("k", pay("o")).await;
    bench.settle(permit, Update::NotSent(Status::Failed, Reason::default())).await;
    assert_eq!(bench.states("o").await, (Status::Failed, MoneyState::NotSent));
    assert!(bench.take().await.is_none() && bench.due().await.is_empty());
    bench.paid("p").await;
    let permit = bench.accepted("r", give_back("p", "r", 900)).await;
    assert!(matches!(bench.claim("r2", give_back("p", "r2", 101)).await, ClaimResult::ExceedsBalance { left: 100 }), "reserved");
    bench.settle(permit, Update::NotSent(Status::Failed, Reason::default())).await;
    let refund = bench.refund("p", "r").await;
    assert_eq!((refund.status, refund.money_state), (Status::Failed, MoneyState::NotSent));
    bench.run("r2", give_back("p", "r2", 1000)).await;
    let mut kinds = bench.kinds().await;
    kinds.sort();
    assert_eq!(kinds, ["payment.failed", "payment.succeeded", "refund.failed"]);
}

#[tokio::test]
async fn close_of_a_queued_payment_cancels_it() {
    let bench = Bench::new();
    bench.accept("k", pay("o")).await;
    let ClaimResult::AlreadyExists(Record::Payment(closed)) = bench.claim("c", close("o")).await else { panic!() };
    assert_eq!((closed.status, closed.money_state), (Status::Closed, MoneyState::NotSent));
    assert!(bench.take().await.is_none());
    assert_eq!(bench.kinds().await, ["payment.closed"]);
    // While the payment is being executed there is nothing to close yet.
    let permit = bench.accepted("k2", pay("o2")).await;
    assert!(matches!(bench.claim("c2", close("o2")).await, ClaimResult::Running));
    bench.settle(permit, outcome(Status::Pending)).await;
    assert!(matches!(bench.claim("c2", close("o2")).await, ClaimResult::Run(_)));
}

#[tokio::test]
async fn queued_close_executes_unless_the_payment_succeeded_meanwhile() {
    let bench = Bench::new();
    for order in ["open", "paid", "refused"] {
        let permit = bench.run(order, pay(order)).await;
        bench.settle(permit, outcome(Status::Pending)).await;
    }
    let permit = bench.accepted("c", close("open")).await;
    bench.settle(permit, outcome(Status::Closed)).await;
    bench.accept("c2", close("paid")).await;
    assert!(matches!(bench.claim("c3", close("paid")).await, ClaimResult::Queued(_)));
    bench.ledger.record("wechat", notification("n", "paid", None, Outcome::of(Status::Succeeded)), at(3)).await.unwrap();
    assert!(bench.take().await.is_none(), "there is nothing to close");
    let inquiry = bench.payment("paid").await.state.inquiry;
    assert!(inquiry.is_none_or(|inquiry| inquiry.confirmations == 0), "a close that was never sent reversed nothing");
    let permit = bench.accepted("c4", close("refused")).await;
    bench.settle(permit, Update::Declined(provider_error())).await;
    let mut events = bench.hear_all().await;
    events.sort_by_key(|event| event.subject.order_id.clone());
    let published: Vec<_> = events.iter().map(|event| (event.subject.order_id.as_str(), event.kind.as_str())).collect();
    let expected = [("open", "payment.closed"), ("paid", "payment.succeeded"), ("refused", "payment.pending")];
    assert_eq!(published, expected, "that it is open still is a result too");
}

/// The payment stays open, so the reason of its refused close is no reason of the payment.
#[tokio::test]
async fn declined_queued_close_reports_its_reason_in_the_event_only() {
    let bench = Bench::new();
    let unclear = Reason { provider_error: Some(ProviderError { code: "SYSTEMERROR".into(), message: "m".into() }), sentence: None };
    for (order, begin) in [("clear", None), ("unclear", Some(unclear))] {
        let permit = bench.run(order, pay(order)).await;
        match begin.clone() {
            Some(reason) => drop(bench.settle(permit, Update::Unknown(reason)).await),
            None => drop(bench.settle(permit, outcome(Status::Pending)).await),
        }
        bench.ledger.apply(&of(order), outcome(Status::Pending), at(2)).await.unwrap();
        bench.hear_all().await;
        let before = bench.payment(order).await;
        for (key, update, said) in [
            ("refused", Update::Declined(provider_error()), "the provider refused to close it (NOT_ENOUGH"),
            ("late", Update::NotSent(Status::Failed, Reason::sentence("no connection")), "given up: no connection"),
        ] {
            let permit = bench.accepted(&format!("{key} {order}"), close(order)).await;
            bench.settle(permit, update).await;
            let [event] = &bench.hear_all().await[..] else { panic!("one event") };
            let Record::Payment(payment) = &event.data else { panic!() };
            assert_eq!((event.kind.as_str(), &payment.provider_error), ("payment.pending", &None), "{key} {order}");
            assert!(payment.status_reason.as_ref().is_some_and(|why| why.contains(said)), "{key}: {:?}", payment.status_reason);
            let after = bench.payment(order).await;
            assert_eq!((&after.provider_error, &after.status_reason), (&before.provider_error, &before.status_reason), "{key} {order}");
        }
        bench.ledger.apply(&of(order), Update::Expired, at(3)).await.unwrap();
        let ended = bench.payment(order).await;
        assert_eq!((ended.status, &ended.provider_error), (Status::Closed, &before.provider_error), "{order}");
        assert!(ended.state.status_reason.unwrap().contains("its time is over"), "{order}");
    }
}

#[tokio::test]
async fn full_queue_rejects_jobs_and_records_nothing() {
    let bench = Bench::new();
    assert!(matches!(bench.accept_with("k", pay("o"), 1).await, ClaimResult::Accepted(_)));
    assert!(matches!(bench.accept_with("k2", pay("o2"), 1).await, ClaimResult::QueueFull(QueueFull::Total)));
    assert_eq!(bench.ledger.payment("shop", "o2").await.unwrap(), None);
    assert!(matches!(bench.accept_with("k", pay("o"), 1).await, ClaimResult::Queued(_)), "what was accepted stays so");
    bench.run("k2", pay("o2")).await;
    assert!(matches!(bench.accept_with("k3", pay("o3"), 2).await, ClaimResult::Accepted(_)));
}

#[tokio::test]
async fn job_with_a_notification_before_sending_is_queried_and_never_sent() {
    let bench = Bench::new();
    for (order, amount) in [("paid", None), ("amount", Some(cny(1)))] {
        bench.accept(order, pay(order)).await;
        let event = ProviderEvent { amount, ..notification(order, order, None, Outcome::of(Status::Succeeded)) };
        bench.ledger.record("wechat", event, at(3)).await.unwrap();
    }
    assert!(bench.take().await.is_none() && bench.take().await.is_none());
    assert_eq!(bench.states("paid").await.0, Status::Succeeded);
    assert_eq!(bench.states("amount").await.0, Status::Unknown);
    assert_eq!(bench.waits(at(FAR_FUTURE)).await, 0);
}

#[tokio::test]
async fn each_execution_may_reroute_across_all_channels_again() {
    let bench = Bench::new();
    let mut permit = bench.accepted("k", pay("o")).await;
    for execution in 0..3 {
        for (from, to) in [("wechat", "backup"), ("backup", "wechat")] {
            let mut tried = ProviderCall::begun(Kind::Pay, from, at(0));
            tried.ended(&Err(Error::NotSent("refused".into())));
            permit.evidence.push(tried);
            let moved = bench.ledger.reroute(&mut permit, destination(to, "wechat-v3:2"), at(1)).await.unwrap();
            assert_eq!(moved.channel, to, "turn {execution}");
        }
        bench.ledger.release(permit).await.unwrap();
        assert!(bench.due().await.is_empty(), "nothing is left anywhere");
        let [claim] = bench.ledger.due_job_ids(at(2 * 365 * 86_400), 9).await[..] else { panic!() };
        permit = bench.ledger.dequeue(claim, "here", at(0)).await.unwrap().unwrap();
    }
    bench.settle(permit, outcome(Status::Succeeded)).await;
    let (_, timeline) = bench.ledger.timeline("shop", "o").await.unwrap().unwrap();
    let count = |wanted: fn(&TimelineEvent) -> bool| timeline.entries.iter().filter(|entry| wanted(&entry.what)).count();
    assert_eq!(count(|what| matches!(what, TimelineEvent::Queued { .. })), 1);
    assert_eq!(count(|what| matches!(what, TimelineEvent::Dequeued { by } if by == "here")), 4);
    assert_eq!(count(|what| matches!(what, TimelineEvent::Requeued { .. })), 3);
}

#[tokio::test]
async fn sent_at_is_the_time_of_the_execution_until_a_request_may_have_left() {
    let bench = Bench::new();
    bench.accept("o", pay("o")).await;
    let take = async |now: i64| {
        let [claim] = bench.ledger.due_job_ids(at(2 * 365 * 86_400), 9).await[..] else { panic!("no job waits") };
        bench.ledger.dequeue(claim, "here", at(now)).await.unwrap().unwrap()
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
        bench.ledger.release(permit).await.unwrap();
    }
    let last = take(500).await;
    assert_eq!(last.payment.sent_at, Some(at(300)), "a query names the time of the first sending");
}

#[tokio::test]
async fn queued_job_is_never_purged() {
    let bench = Bench::new();
    bench.accept("k", pay("o")).await;
    let mut purge = Purge::default();
    while !bench.ledger.purge(&mut purge, &RetentionPolicy::default(), at(1000 * 86_400)).await.unwrap() {}
    assert!(matches!(bench.claim("k", pay("o")).await, ClaimResult::Queued(_)));
    assert!(bench.take().await.is_some());
}

/// Returns a payment of another merchant.
fn of_merchant(merchant: &str, order: &str) -> (ClaimKey, Intent) {
    let number = provider_number(&[merchant, order]);
    let payment = Payment { merchant: merchant.into(), provider_order_no: number, ..a_payment(order) };
    (ClaimKey { merchant: merchant.into(), ..claim_key(order, order) }, Intent::Pay(payment))
}

impl Bench {
    async fn accept_of(&self, merchant: &str, order: &str, limit: QueueLimit) -> ClaimResult {
        let (key, intent) = of_merchant(merchant, order);
        self.ledger.enqueue(key, intent, "{}".into(), limit, at(0)).await.unwrap()
    }

    /// Returns how many of `count` concurrent requests are accepted.
    async fn flood(&self, merchant: &str, name: &str, count: usize, limit: QueueLimit) -> usize {
        let asked = (0..count).map(|number| {
            let (ledger, (key, intent)) = (self.ledger.clone(), of_merchant(merchant, &format!("{name}{number}")));
            tokio::spawn(async move { ledger.enqueue(key, intent, "{}".into(), limit, at(0)).await.unwrap() })
        });
        let mut accepted = 0;
        for asked in asked.collect::<Vec<_>>() {
            accepted += usize::from(matches!(asked.await.unwrap(), ClaimResult::Accepted(_)));
        }
        accepted
    }
}

#[tokio::test]
async fn queue_limits_are_exact_under_concurrency_and_count_executing_jobs() {
    let (bench, limit) = (Bench::new(), QueueLimit { total: 30, each: 20 });
    assert_eq!(bench.flood("shop", "a", 60, limit).await, 20, "its share");
    assert!(matches!(bench.accept_of("shop", "b", limit).await, ClaimResult::QueueFull(QueueFull::Share)));
    // A job that is being executed may be requeued, so it still counts.
    let mut permits = Vec::new();
    for claim in bench.ledger.due_job_ids(at(0), 15).await {
        permits.push(bench.ledger.dequeue(claim, "here", at(0)).await.unwrap().unwrap());
    }
    assert_eq!(permits.len(), 15);
    assert!(matches!(bench.accept_of("shop", "b", limit).await, ClaimResult::QueueFull(QueueFull::Share)));
    assert_eq!(bench.flood("other", "a", 60, limit).await, 10, "the rest of the queue");
    assert!(matches!(bench.accept_of("third", "a", limit).await, ClaimResult::QueueFull(QueueFull::Total)));
    for permit in permits.drain(..10) {
        bench.ledger.release(permit).await.unwrap();
    }
    assert!(matches!(bench.accept_of("third", "a", limit).await, ClaimResult::QueueFull(QueueFull::Total)));
    // A finished job no longer counts, however it ended.
    let settled = permits.pop().unwrap();
    bench.settle(settled, outcome(Status::Succeeded)).await;
    drop(permits.pop());
    let accepted = async || bench.flood("third", "b", 9, limit).await;
    let mut made = accepted().await;
    while made < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        made += bench.flood("third", &format!("c{made}-"), 9, limit).await;
    }
    assert_eq!(made, 2);
    let bench = bench.crash();
    std::mem::forget(permits);
    assert_eq!(bench.flood("third", "d", 9, QueueLimit { total: 31, each: 31 }).await, 4, "three were being executed");
}

#[tokio::test]
async fn merchant_at_its_job_limit_does_not_hide_due_jobs_of_others() {
    let (bench, limit) = (Bench::new(), QueueLimit::from(1_000));
    assert_eq!(bench.flood("shop", "a", 20, limit).await, 20);
    assert_eq!(bench.flood("other", "a", 3, limit).await, 3);
    let under_way = std::collections::HashMap::from([("shop".to_owned(), 4)]);
    let due = bench.ledger.due_jobs(at(0), DueLimit { total: 10, each: 4, under_way }).await;
    let merchants: Vec<_> = due.iter().map(|(_, merchant)| merchant.as_str()).collect();
    assert_eq!(merchants, ["other"; 3]);
}
