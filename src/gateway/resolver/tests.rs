//! Tests of the decisions to close an order.
#![allow(clippy::unwrap_used)]

use tollgate_ledger::testing::a_payment;
use tollgate_ledger::{MoneyState, RecordState};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::Method;

use super::*;

const POLICY: PollPolicy = PollPolicy::TEST;

#[test]
fn open_payment_is_closed_if_marked_reversible_or_till_timeout_passed() {
    let (now, long_ago) = (Timestamp::now(), Timestamp::UNIX_EPOCH);
    let time = Reading { now, steady_for: SignedDuration::MAX };
    let inquiry = |since, closing| Inquiry { closing, ..Inquiry::new(since) };
    let pending = Ok(Outcome::of(Status::Pending));
    let reversal = Ok(Outcome { needs_reversal: true, ..Outcome::of(Status::Pending) });
    let new = |payment: Payment| {
        Record::Payment(Payment { state: RecordState { created_at: now, ..payment.state.clone() }, ..payment })
    };
    let open_payment = new(a_payment("o"));
    let method = Method::all().find(Method::is_scanned).unwrap();
    let till_payment = new(Payment { method, ..a_payment("o") });
    let close = |record: &Record, inquiry: &Inquiry, query_result: &Result<Outcome, Error>, time| {
        close_operation(record, inquiry, query_result, POLICY, time)
    };
    assert_eq!(close(&open_payment, &inquiry(long_ago, false), &pending, time), None);
    assert!(matches!(close(&open_payment, &inquiry(now, true), &pending, time), Some(Operation::Close(_))));
    assert_eq!(close(&open_payment, &inquiry(now, true), &Ok(Outcome::of(Status::Closed)), time), None);
    assert_eq!(
        close(&till_payment, &inquiry(now, false), &pending, time),
        None,
        "the payer may still be entering a password"
    );
    assert!(close(&till_payment, &inquiry(now, false), &reversal, time).is_some(), "the provider wants it reversed");
    assert!(close(&till_payment, &inquiry(long_ago, false), &pending, time).is_some());
    let jumped = Reading { steady_for: SignedDuration::from_secs(29), ..time };
    assert_eq!(close(&till_payment, &inquiry(long_ago, false), &pending, jumped), None, "the certain age is too short");
}

#[test]
fn expired_unpaid_order_is_closed() {
    let created_at = Timestamp::UNIX_EPOCH;
    let expires_at = Some(created_at + SignedDuration::from_secs(20));
    let open_payment = Payment {
        expires_at,
        state: RecordState { created_at, money_state: MoneyState::NotMoved, ..a_payment("o").state },
        ..a_payment("o")
    };
    let record = Record::Payment(open_payment.clone());
    let unsent = Record::Payment(Payment {
        state: RecordState { money_state: MoneyState::NotSent, ..open_payment.state.clone() },
        ..open_payment
    });
    let pending = Ok(Outcome::of(Status::Pending));
    let close = |record: &Record, age, steady_for| {
        let now = created_at + SignedDuration::from_secs(age);
        let time = Reading { now, steady_for: SignedDuration::from_secs(steady_for) };
        close_operation(record, &Inquiry::new(created_at), &pending, POLICY, time)
    };
    assert_eq!(close(&record, 319, 319), None, "clocks may differ");
    assert!(close(&record, 320, 320).is_some());
    assert_eq!(close(&record, 86_400, 319), None, "the clock may have jumped");
    assert_eq!(close(&unsent, 320, 320), None);
}

#[test]
fn till_payment_not_found_at_provider_is_reversed_after_grace_period() {
    let (start, method) = (Timestamp::UNIX_EPOCH, Method::all().find(Method::is_scanned).unwrap());
    let at = |age| Reading { now: start + SignedDuration::from_secs(age), steady_for: SignedDuration::MAX };
    let absent = Err(Error::NotFound(ProviderError { code: "NOT_EXIST".into(), message: String::new() }));
    let till_payment = Record::Payment(Payment {
        method,
        state: RecordState { status: Status::Unknown, ..a_payment("o").state },
        ..a_payment("o")
    });
    let once = Inquiry { absent: 1, ..Inquiry::new(start) };
    assert_eq!(
        close_operation(&till_payment, &Inquiry::new(start), &absent, POLICY, at(40)),
        None,
        "one not-found answer"
    );
    assert_eq!(close_operation(&till_payment, &once, &absent, POLICY, at(20)), None, "within the grace period");
    assert!(matches!(close_operation(&till_payment, &once, &absent, POLICY, at(40)), Some(Operation::Close(_))));
    let reversed = Inquiry { reversed: true, ..once.clone() };
    assert_eq!(close_operation(&till_payment, &reversed, &absent, POLICY, at(40)), None, "it was reversed before");
    let web = Record::Payment(Payment {
        state: RecordState { status: Status::Unknown, ..a_payment("o").state },
        ..a_payment("o")
    });
    assert_eq!(close_operation(&web, &once, &absent, POLICY, at(40)), None, "its payer must act before money moves");
}
