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
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let [delivery] = &fixture.deliveries(at(3), 9).await[..] else { panic!() };
    for (due, count) in [(at(DAY), 0), (at(FAR), 1)] {
        fixture.ledger.postpone(delivery, due, 1).await.unwrap();
        let after = fixture.crash();
        assert_eq!(after.deliveries(at(4), 9).await.len(), count, "{due}");
    }
}

#[tokio::test]
async fn inquiry_postponed_by_a_wrong_clock_is_due_now() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let inquiry = fixture.payment("o").await.state.inquiry.unwrap();
    for (due, count) in [(at(DAY), 0), (at(FAR), 1)] {
        let later = Inquiry { due, ..inquiry.clone() };
        assert!(fixture.save_inquiry(&of("o"), Some(later)).await);
        let after = fixture.crash();
        assert_eq!(after.ledger.due_inquiries(at(4), 9, &[]).await.len(), count, "{due}");
    }
}

#[tokio::test]
async fn job_requeued_by_a_wrong_clock_is_due_now_and_not_expired() {
    let fixture = Fixture::new();
    let late = at(FAR);
    let accepted = fixture.ledger.enqueue(claim_key("k", "body"), pay("o"), String::new(), 9, late).await.unwrap();
    assert!(matches!(accepted, ClaimResult::Accepted(_)));
    let after = fixture.crash();
    let [claim] = after.ledger.due_job_ids(at(4), 9).await[..] else { panic!("it is not due") };
    let permit = after.ledger.dequeue(claim, "here", at(4)).await.unwrap().unwrap();
    after.ledger.release(permit).await.unwrap();
    let [claim] = after.crash().ledger.due_job_ids(late, 9).await[..] else { panic!("it is not there") };
    let permit = after.ledger.dequeue(claim, "here", at(4)).await.unwrap().unwrap();
    assert!(permit.job.as_ref().unwrap().since <= Timestamp::now(), "it waits since now, not since the future");
}

#[tokio::test]
async fn known_time_survives_restarts_and_rejects_a_clock_jump() {
    let fixture = Fixture::new();
    let first = fixture.ledger.purge_time(&mut PurgeGuard::default(), steady(at(0))).await.unwrap();
    assert_eq!(first, PurgeTime::Until(at(0)), "an empty ledger takes the clock's time");
    let after = fixture.crash();
    let refused = after.ledger.purge_time(&mut PurgeGuard::default(), jumped(at(FAR))).await.unwrap();
    let PurgeTime::Refused { known } = refused else { panic!("{refused:?}") };
    assert!(known.duration_since(at(0)) < SignedDuration::from_hours(1), "{known}");
    let again = after.crash();
    let right = again.ledger.purge_time(&mut PurgeGuard::default(), steady(at(3600))).await.unwrap();
    assert_eq!(right, PurgeTime::Until(at(3600)));
}

#[tokio::test]
async fn ledger_without_a_known_time_uses_its_newest_record() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let refused = fixture.ledger.purge_time(&mut PurgeGuard::default(), jumped(at(FAR))).await.unwrap();
    let PurgeTime::Refused { known } = refused else { panic!("{refused:?}") };
    assert!(known.duration_since(at(0)) < SignedDuration::from_hours(1), "{known}");
    // A merchant's request, and a clock that has run steadily for long enough.
    let confirmed = fixture.ledger.purge_time(&mut PurgeGuard::default(), steady(at(FAR))).await.unwrap();
    assert_eq!(confirmed, PurgeTime::Until(at(FAR)));
}
