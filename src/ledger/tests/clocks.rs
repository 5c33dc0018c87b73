//! Wrong clocks: misdated due times hide no work, and a clock jump purges nothing.

use jiff::SignedDuration;

use super::*;

const DAY: i64 = 86_400;
/// Due time that the wrong clock wrote.
const FAR: i64 = 401 * DAY;

fn steady(now: Timestamp) -> Reading {
    Reading { now, steady_for: SignedDuration::MAX }
}

/// A few seconds after a step of the clock, or after a start.
fn jumped(now: Timestamp) -> Reading {
    Reading { now, steady_for: SignedDuration::from_secs(5) }
}

#[tokio::test]
async fn delivery_postponed_by_a_wrong_clock_is_due_now() {
    let bench = Bench::new();
    bench.paid("o").await;
    let [delivery] = &bench.deliveries(at(3), 9).await[..] else { panic!() };
    for (due, count) in [(at(DAY), 0), (at(FAR), 1)] {
        bench.ledger.postpone(&delivery.event.id, &SinkName::WEBHOOK, due, 1).await.unwrap();
        let after = bench.crash();
        assert_eq!(after.deliveries(at(4), 9).await.len(), count, "{due}");
    }
}

#[tokio::test]
async fn inquiry_postponed_by_a_wrong_clock_is_due_now() {
    let bench = Bench::new();
    let permit = bench.run("k", pay("o")).await;
    bench.settle(permit, Update::Unknown(Reason::default())).await;
    let search = bench.payment("o").await.state.search.unwrap();
    for (due, count) in [(at(DAY), 0), (at(FAR), 1)] {
        let later = Inquiry { due, ..search.clone() };
        assert!(bench.ledger.save_inquiry(&of("o"), Some(later)).await.unwrap());
        let after = bench.crash();
        assert_eq!(after.ledger.due_searches(at(4), 9, &[]).await.len(), count, "{due}");
    }
}

#[tokio::test]
async fn job_requeued_by_a_wrong_clock_is_due_now_and_not_expired() {
    let bench = Bench::new();
    let late = at(FAR);
    let accepted = bench.ledger.enqueue(claim_key("k", "body"), pay("o"), String::new(), 9, late).await.unwrap();
    assert!(matches!(accepted, ClaimResult::Accepted(_)));
    let after = bench.crash();
    let [claim] = after.ledger.due_job_ids(at(4), 9).await[..] else { panic!("it is not due") };
    let permit = after.ledger.dequeue(claim, "here", at(4)).await.unwrap().unwrap();
    after.ledger.release(permit).await.unwrap();
    let [claim] = after.crash().ledger.due_job_ids(late, 9).await[..] else { panic!("it is not there") };
    let permit = after.ledger.dequeue(claim, "here", at(4)).await.unwrap().unwrap();
    assert!(permit.job.as_ref().unwrap().since <= Timestamp::now(), "it waits since now, not since the future");
}

#[tokio::test]
async fn known_time_survives_restarts_and_rejects_a_clock_jump() {
    let bench = Bench::new();
    let first = bench.ledger.purge_time(&mut PurgeGuard::default(), steady(at(0))).await.unwrap();
    assert_eq!(first, PurgeTime::Until(at(0)), "an empty ledger takes the clock's time");
    let after = bench.crash();
    let refused = after.ledger.purge_time(&mut PurgeGuard::default(), jumped(at(FAR))).await.unwrap();
    let PurgeTime::Refused { known } = refused else { panic!("{refused:?}") };
    assert!(known.duration_since(at(0)) < SignedDuration::from_hours(1), "{known}");
    let again = after.crash();
    let right = again.ledger.purge_time(&mut PurgeGuard::default(), steady(at(3600))).await.unwrap();
    assert_eq!(right, PurgeTime::Until(at(3600)));
}

#[tokio::test]
async fn ledger_without_a_known_time_uses_its_newest_record() {
    let bench = Bench::new();
    bench.paid("o").await;
    let refused = bench.ledger.purge_time(&mut PurgeGuard::default(), jumped(at(FAR))).await.unwrap();
    let PurgeTime::Refused { known } = refused else { panic!("{refused:?}") };
    assert!(known.duration_since(at(0)) < SignedDuration::from_hours(1), "{known}");
    // A merchant's request, and a clock that has run steadily for long enough.
    let confirmed = bench.ledger.purge_time(&mut PurgeGuard::default(), steady(at(FAR))).await.unwrap();
    assert_eq!(confirmed, PurgeTime::Until(at(FAR)));
}
