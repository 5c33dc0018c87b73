//! Tests of the resolver's schedule.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use tollgate_ledger::testing::{a_payment, a_refund};
use tollgate_ledger::{ELSEWHERE_PREFIX, RecordState, Refund};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::Method;

use super::*;

const STEADY: PollPolicy = PollPolicy::TEST;
const START: Timestamp = Timestamp::UNIX_EPOCH;

fn inquiry() -> Inquiry {
    Inquiry::new(START)
}

fn payment(status: Status) -> Record {
    Record::Payment(tollgate_ledger::Payment {
        state: RecordState { status, ..a_payment("o").state },
        ..a_payment("o")
    })
}

/// A pending payment, created at the start, that the provider reported as unpaid.
fn unpaid(lifetime: Option<i64>) -> Record {
    let expires_at = lifetime.map(|lifetime| START + SignedDuration::from_secs(lifetime));
    let money_state = MoneyState::NotMoved;
    Record::Payment(tollgate_ledger::Payment {
        expires_at,
        state: RecordState { created_at: START, money_state, ..a_payment("o").state },
        ..a_payment("o")
    })
}

fn seconds(seconds: i64) -> Reading {
    Reading { now: Timestamp::from_second(seconds).unwrap(), steady_for: SignedDuration::MAX }
}

/// A reading `seconds` after a clock step or a start.
fn steady_for(reading: Reading, seconds: i64) -> Reading {
    Reading { steady_for: SignedDuration::from_secs(seconds), ..reading }
}

fn not_found() -> ProviderResponses {
    ProviderResponses::of_query(Err(not_exist()))
}

fn not_exist() -> Error {
    Error::NotFound(ProviderError { code: "ORDER_NOT_EXIST".into(), message: String::new() })
}

fn unclear() -> ProviderResponses {
    ProviderResponses::of_query(Err(Error::unclear("x")))
}

fn open() -> ProviderResponses {
    ProviderResponses::of_query(Ok(Outcome::of(Status::Pending)))
}

fn next_inquiry(next: Decision) -> Inquiry {
    let Decision::Again(inquiry) = next else { panic!("{next:?}") };
    inquiry
}

fn pause(next: Decision, time: Reading) -> i64 {
    next_inquiry(next).due.duration_since(time.now).as_secs()
}

#[test]
fn not_found_counts_after_grace_period_and_two_answers_prove_absence() {
    let unknown = payment(Status::Unknown);
    let early = next_inquiry(decide(inquiry(), &unknown, &not_found(), STEADY, seconds(29), 0.5));
    assert_eq!(early.absent, 0, "too early to count");
    let counted_once = next_inquiry(decide(early, &unknown, &not_found(), STEADY, seconds(31), 0.5));
    assert_eq!(counted_once.absent, 1);
    let unclear = next_inquiry(decide(counted_once, &unknown, &unclear(), STEADY, seconds(35), 0.5));
    assert_eq!(unclear.absent, 1, "an unclear answer does not reset the count");
    assert_eq!(decide(unclear, &unknown, &not_found(), STEADY, seconds(40), 0.5), Decision::NeverHappened);
}

#[test]
fn not_found_does_not_count_for_confirmed_order_before_expiry() {
    let pending = unpaid(None);
    let mut state = inquiry();
    for at in [400, 1000, 2000, 3600 + 299] {
        state = next_inquiry(decide(state, &pending, &not_found(), STEADY, seconds(at), 0.5));
        assert_eq!(state.absent, 0);
    }
    state = next_inquiry(decide(state, &pending, &not_found(), STEADY, seconds(3600 + 300), 0.5));
    assert_eq!(state.absent, 1);
    assert_eq!(decide(state, &pending, &not_found(), STEADY, seconds(3600 + 305), 0.5), Decision::Expired);
}

#[test]
fn unopened_order_is_queried_at_its_expiry_and_then_expires() {
    let pending = unpaid(Some(60));
    let before = next_inquiry(decide(inquiry(), &pending, &not_found(), STEADY, seconds(100), 0.5));
    assert_eq!((before.absent, before.due.as_second()), (0, 360), "at its expiry plus the margin");
    let counted_once = next_inquiry(decide(before, &pending, &not_found(), STEADY, seconds(361), 0.5));
    assert_eq!((counted_once.absent, counted_once.due.as_second()), (1, 366));
    assert_eq!(decide(counted_once, &pending, &not_found(), STEADY, seconds(366), 0.5), Decision::Expired);
    // An order that its merchant wants closed expires at the same time.
    let closing = Inquiry { closing: true, absent: 1, ..inquiry() };
    assert_eq!(decide(closing, &pending, &not_found(), STEADY, seconds(366), 0.5), Decision::Expired);
    let jumped = next_inquiry(decide(inquiry(), &pending, &not_found(), STEADY, steady_for(seconds(86_400), 3), 0.5));
    assert_eq!(jumped.absent, 0, "a clock step expires nothing");
    let unsent = Record::Payment(tollgate_ledger::Payment { expires_at: Some(START), ..a_payment("o") });
    assert_eq!(next_inquiry(decide(inquiry(), &unsent, &not_found(), STEADY, seconds(86_400), 0.5)).absent, 0);
}

/// The provider's order of a queued payment starts when it is sent.
#[test]
fn lifetime_of_queued_payment_starts_when_it_is_sent() {
    let Record::Payment(payment) = unpaid(None) else { panic!() };
    let sent_at = Some(START + SignedDuration::from_secs(1000));
    let queued = Record::Payment(tollgate_ledger::Payment {
        state: RecordState { sent_at, ..payment.state.clone() },
        ..payment
    });
    let counted_once = Inquiry { absent: 1, ..inquiry() };
    let next = |record: &Record, age| decide(counted_once.clone(), record, &not_found(), STEADY, seconds(age), 0.5);
    assert_eq!(next(&unpaid(None), 3600 + 300), Decision::Expired);
    assert_eq!(next_inquiry(next(&queued, 4600 + 299)).absent, 0);
    assert_eq!(next(&queued, 4600 + 300), Decision::Expired);
}

#[test]
fn long_lifetime_expires_after_an_hour_without_clock_step() {
    let pending = unpaid(Some(86_400));
    let time = |steady| steady_for(seconds(90_000), steady);
    let next = |time| decide(Inquiry { absent: 1, ..inquiry() }, &pending, &not_found(), STEADY, time, 0.5);
    assert_eq!(next_inquiry(next(time(3599))).absent, 0);
    assert_eq!(next(time(3600)), Decision::Expired);
}

#[test]
fn accepted_but_unconfirmed_refund_fails_after_two_not_found_answers() {
    let mut accepted = tollgate_ledger::testing::a_refund("o", "r", 10);
    (accepted.status, accepted.money_state) = (Status::Pending, MoneyState::NotMoved);
    let counted_once = Inquiry { absent: 1, ..inquiry() };
    let next = |refund: &tollgate_ledger::Refund| {
        decide(counted_once.clone(), &Record::Refund(refund.clone()), &not_found(), STEADY, seconds(40), 0.5)
    };
    assert_eq!(next(&accepted), Decision::NeverHappened);
    let open = decide(inquiry(), &Record::Refund(accepted.clone()), &open(), STEADY, seconds(400), 0.5);
    assert_eq!(pause(open, seconds(400)), 400, "it is confirmed and waits for its notification");
    accepted.provider_refund_id = Some("50000".into());
    assert_eq!(next_inquiry(next(&accepted)).absent, 0, "the provider has assigned an id");
    accepted.provider_refund_id = None;
    accepted.inquiry = Some(Inquiry { confirmed: true, ..inquiry() });
    assert_eq!(next_inquiry(next(&accepted)).absent, 0, "the provider has confirmed it");
    (accepted.inquiry, accepted.money_state) = (None, MoneyState::NotSent);
    assert_eq!(next_inquiry(next(&accepted)).absent, 0, "it is queued");
}

#[test]
fn till_payment_fails_only_after_reversal() {
    let record = |status| {
        let method = Method::all().find(Method::is_scanned).unwrap();
        let money_state = MoneyState::NotMoved;
        Record::Payment(tollgate_ledger::Payment {
            method,
            state: RecordState { status, money_state, ..a_payment("o").state },
            ..a_payment("o")
        })
    };
    let provider_error = || ProviderError { code: "X".into(), message: String::new() };
    let counted_once = Inquiry { absent: 1, ..inquiry() };
    for till in [record(Status::Unknown), record(Status::Pending)] {
        let next = |closed, at| {
            let responses = ProviderResponses { query: Err(not_exist()), close: closed };
            decide(counted_once.clone(), &till, &responses, STEADY, seconds(at), 0.5)
        };
        let closed = Some(Ok(Outcome::of(Status::Closed)));
        assert_eq!(next(closed, 40), Decision::Known);
        assert_eq!(next(Some(Err(not_exist())), 40), Decision::NeverHappened, "there was nothing to reverse");
        for error in [Error::unclear("cut"), Error::NotSent("x".into()), Error::ProviderBusy(provider_error())] {
            assert_eq!(next_inquiry(next(Some(Err(error.clone())), 80_000)).absent, 2, "{error} is no reversal");
        }
        assert_eq!(next_inquiry(next(Some(Err(Error::Declined(provider_error()))), 3599)).absent, 2);
        assert_eq!(
            next(Some(Err(Error::Declined(provider_error()))), 3600),
            Decision::NeverHappened,
            "the payer's code has expired"
        );
        // An accepted reversal is queried again and not repeated.
        let accepted_reversal = next_inquiry(next(Some(Err(Error::Conflict(provider_error()))), 40));
        assert_eq!((accepted_reversal.reversed, accepted_reversal.absent), (true, 0));
        let second_not_found = next_inquiry(decide(accepted_reversal, &till, &not_found(), STEADY, seconds(46), 0.5));
        assert_eq!(decide(second_not_found, &till, &not_found(), STEADY, seconds(52), 0.5), Decision::NeverHappened);
    }
}

#[test]
fn lost_action_is_requested_soon_with_limited_retries() {
    let create_request = Some(Box::new(tollgate_ledger::CreateRequest {
        description: "tea".into(),
        payer: tollgate_plugins::payment::Payer::default(),
        return_url: None,
        public_url: "https://pay.example.com".into(),
    }));
    let Record::Payment(pending) = unpaid(None) else { panic!() };
    let pending = Record::Payment(tollgate_ledger::Payment { create_request, ..pending });
    for (repeated_creates, expected) in [(1, 2), (2, 4), (3, 300)] {
        let state = Inquiry { repeated_creates, ..inquiry() };
        assert_eq!(pause(decide(state, &pending, &open(), STEADY, seconds(10), 0.5), seconds(10)), expected);
    }
}

#[test]
fn record_pending_for_a_month_is_escalated_to_manual_review() {
    let (pending, unclear) = (unpaid(None), unclear());
    let asked = Inquiry { asked: MIN_QUERIES_BEFORE_END, ..inquiry() };
    for responses in [&unclear, &open()] {
        let next = |days: i64| decide(asked.clone(), &pending, responses, STEADY, seconds(days * 86_400), 0.5);
        assert!(!next_inquiry(next(29)).needs_review);
        assert!(next_inquiry(next(31)).needs_review);
    }
    let ended = Record::Payment(tollgate_ledger::Payment {
        state: RecordState { status: Status::Closed, ..a_payment("o").state },
        ..a_payment("o")
    });
    assert_eq!(decide(asked, &ended, &unclear, STEADY, seconds(31 * 86_400), 0.5), Decision::Enough);
}

/// The confirmations of a success after a close: never answered, or denied by the provider.
#[test]
fn success_that_is_never_confirmed_goes_to_manual_review_and_its_inquiry_ends_after_a_month() {
    let succeeded = payment(Status::Succeeded);
    let confirmation =
        Inquiry { closing: true, confirmations: 2, absent: 1, asked: MIN_QUERIES_BEFORE_END, ..inquiry() };
    for responses in [unclear(), open(), not_found()] {
        let next = |time| decide(confirmation.clone(), &succeeded, &responses, STEADY, time, 0.5);
        assert!(!next_inquiry(next(seconds(60))).needs_review, "{responses:?}");
        assert!(next_inquiry(next(seconds(2 * 86_400))).needs_review, "{responses:?}");
        assert!(next_inquiry(next(seconds(29 * 86_400))).needs_review, "{responses:?}");
        assert_eq!(next(seconds(31 * 86_400)), Decision::Unconfirmed, "{responses:?}");
        let jumped = next_inquiry(next(steady_for(seconds(31 * 86_400), 3)));
        assert!(!jumped.needs_review, "a clock step escalates nothing: {responses:?}");
    }
}

#[test]
fn inquiry_about_a_refund_elsewhere_that_is_not_found_ends_after_its_escalation() {
    let refund = Refund {
        refund_id: format!("{ELSEWHERE_PREFIX}CONSOLE-1"),
        state: RecordState {
            status: Status::Pending,
            money_state: MoneyState::NotMoved,
            inquiry: Some(Inquiry { confirmed: true, ..inquiry() }),
            ..a_refund("o", "r", 1).state
        },
        ..a_refund("o", "r", 1)
    };
    let open_refund = Record::Refund(refund);
    let asked = Inquiry { confirmed: true, asked: MIN_QUERIES_BEFORE_END, ..inquiry() };
    let month = seconds(31 * 86_400);
    let escalated = next_inquiry(decide(asked.clone(), &open_refund, &not_found(), STEADY, month, 0.5));
    assert!(escalated.needs_review, "a person hears of it before the inquiry ends");
    assert_eq!(decide(escalated.clone(), &open_refund, &not_found(), STEADY, month, 0.5), Decision::Enough);
    for responses in [open(), unclear()] {
        let next = decide(escalated.clone(), &open_refund, &responses, STEADY, month, 0.5);
        assert!(matches!(next, Decision::Again(_)), "the refund may still be made: {responses:?}");
    }
    assert!(matches!(decide(asked, &open_refund, &not_found(), STEADY, seconds(60), 0.5), Decision::Again(_)));
}

#[test]
fn retry_intervals_double_up_to_maximum_with_jitter() {
    let (unknown, unclear) = (payment(Status::Unknown), unclear());
    let mut state = inquiry();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        state = next_inquiry(decide(state, &unknown, &unclear, STEADY, seconds(0), 0.5));
        pauses.push(state.due.duration_since(START).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    for (age, longest) in [(400, 100), (1200, 300), (80_000, 300)] {
        let next = decide(Inquiry { asked: 20, ..inquiry() }, &unknown, &unclear, STEADY, seconds(age), 0.5);
        assert_eq!(pause(next, seconds(age)), longest);
    }
    let low = next_inquiry(decide(inquiry(), &unknown, &unclear, STEADY, seconds(0), 0.0)).due;
    let high = next_inquiry(decide(inquiry(), &unknown, &unclear, STEADY, seconds(0), 0.999)).due;
    assert!(low < high);
}

#[test]
fn record_unknown_for_a_day_is_escalated_and_still_queried() {
    let unclear = unclear();
    let later = seconds(25 * 3600);
    let asked = Inquiry { asked: 290, ..inquiry() };
    assert!(next_inquiry(decide(asked.clone(), &payment(Status::Unknown), &unclear, STEADY, later, 0.5)).needs_review);
    assert!(!next_inquiry(decide(asked, &payment(Status::Pending), &unclear, STEADY, later, 0.5)).needs_review);
}

#[test]
fn failed_query_about_pending_order_is_retried_soon() {
    for (asked, age, expected) in [(0, 1, 1), (3, 20, 8), (30, 60, 300), (30, 3600, 900), (99, 20 * 86_400, 86_400)] {
        let inquiry = Inquiry { asked, ..inquiry() };
        let next = decide(inquiry, &payment(Status::Pending), &unclear(), STEADY, seconds(age), 0.5);
        assert_eq!(pause(next, seconds(age)), expected, "{asked} {age}");
    }
}

#[test]
fn poll_interval_of_pending_order_grows_with_its_age() {
    let pending = open();
    for (age, expected) in [(300, 300), (600, 600), (7200, 7200), (10 * 24 * 3600, 24 * 3600)] {
        let next = decide(inquiry(), &payment(Status::Pending), &pending, STEADY, seconds(age), 0.5);
        assert_eq!(pause(next, seconds(age)), expected);
    }
    assert_eq!(decide(inquiry(), &payment(Status::Unknown), &pending, STEADY, seconds(5), 0.5), Decision::Known);
    let paid = ProviderResponses::of_query(Ok(Outcome::of(Status::Succeeded)));
    assert_eq!(decide(inquiry(), &payment(Status::Pending), &paid, STEADY, seconds(5), 0.5), Decision::Known);
}

#[test]
fn awaited_outcome_is_polled_at_the_providers_interval() {
    let open = open();
    let closing = Inquiry { closing: true, ..inquiry() };
    assert_eq!(pause(decide(closing, &payment(Status::Pending), &open, STEADY, seconds(0), 0.5), seconds(0)), 3);
    let Some(method) = Method::all().find(Method::is_scanned) else { panic!("no provider has tills") };
    let till = Record::Payment(tollgate_ledger::Payment {
        method,
        state: RecordState { status: Status::Pending, ..a_payment("o").state },
        ..a_payment("o")
    });
    assert_eq!(pause(decide(inquiry(), &till, &open, STEADY, seconds(0), 0.5), seconds(0)), 3);
    let (mut state, mut pauses) = (inquiry(), Vec::new());
    for _ in 0..6 {
        state = next_inquiry(decide(
            state,
            &till,
            &open,
            PollPolicy { pace: PollInterval::Doubling, ..STEADY },
            seconds(0),
            0.5,
        ));
        pauses.push(state.due.duration_since(START).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32]);
}

#[test]
fn abandoned_attempt_is_not_escalated_to_manual_review() {
    let attempt = Record::Payment(tollgate_ledger::Payment {
        state: RecordState { status: Status::Unknown, ..a_payment("o/main").state },
        ..a_payment("o/main")
    });
    let unclear = unclear();
    assert!(!next_inquiry(decide(inquiry(), &attempt, &unclear, STEADY, seconds(80_000), 0.5)).needs_review);
    let asked = Inquiry { asked: 290, ..inquiry() };
    assert_eq!(decide(asked, &attempt, &unclear, STEADY, seconds(25 * 3600), 0.5), Decision::NeverHappened);
}

#[test]
fn clock_step_forward_ends_no_inquiry() {
    let (unclear, attempt) = (unclear(), Record::Payment(a_payment("o/main")));
    let (unknown, pending) = (payment(Status::Unknown), payment(Status::Pending));
    for step in [60, 3600, 31 * 86_400, 400 * 86_400] {
        let jumped = steady_for(seconds(step), 3);
        let responses = Inquiry { absent: 1, asked: 4, ..inquiry() };
        let next = next_inquiry(decide(responses.clone(), &unknown, &not_found(), STEADY, jumped, 0.5));
        assert_eq!((next.absent, next.needs_review), (0, false), "{step}: the grace period has not certainly passed");
        assert!(pause(Decision::Again(next), jumped) <= 30, "{step}: it is queried again when it has");
        for (record, result) in [(&unknown, &unclear), (&pending, &not_found()), (&attempt, &unclear)] {
            let next = next_inquiry(decide(responses.clone(), record, result, STEADY, jumped, 0.5));
            assert!(!next.needs_review, "{step}: {record:?}");
        }
        // Without another step the grace period ends normally.
        let window = steady_for(seconds(step + 30), 33);
        assert_eq!(decide(responses, &unknown, &not_found(), STEADY, window, 0.5), Decision::NeverHappened);
    }
}

#[test]
fn inquiry_started_in_the_future_counts_from_now() {
    let future_inquiry = Inquiry { since: seconds(400 * 86_400).now, absent: 0, ..inquiry() };
    let next = next_inquiry(decide(future_inquiry, &payment(Status::Unknown), &not_found(), STEADY, seconds(100), 0.5));
    assert_eq!((next.since, next.absent), (seconds(100).now, 0));
    let next = next_inquiry(decide(next, &payment(Status::Unknown), &not_found(), STEADY, seconds(131), 0.5));
    assert_eq!(
        decide(next, &payment(Status::Unknown), &not_found(), STEADY, seconds(136), 0.5),
        Decision::NeverHappened
    );
}

#[test]
fn till_payment_is_polled_each_minute_until_its_end_however_old_it_is() {
    let Some(method) = Method::all().find(Method::is_scanned) else { panic!("no provider has tills") };
    let policy = PollPolicy { pace: PollInterval::Doubling, ..STEADY };
    for status in [Status::Pending, Status::Unknown] {
        let state = RecordState { status, ..a_payment("o").state };
        let till = Record::Payment(tollgate_ledger::Payment { method, state, ..a_payment("o") });
        // A gateway that was restarted just now does not yet know for certain that the payer's time is over.
        let time = steady_for(seconds(3 * 3600), 1);
        let conflict = Error::Conflict(ProviderError { code: "35".into(), message: String::new() });
        let reversed = ProviderResponses { query: Err(not_exist()), close: Some(Err(conflict)) };
        for responses in [open(), unclear(), not_found(), reversed] {
            let asked = Inquiry { asked: 70, ..inquiry() };
            assert!(pause(decide(asked, &till, &responses, policy, time, 1.0), time) <= 75, "{status:?} {responses:?}");
        }
    }
}

#[test]
fn order_that_is_being_closed_is_retried_within_minutes_however_old_it_is() {
    let policy = PollPolicy { pace: PollInterval::Doubling, ..STEADY };
    let hours = seconds(6 * 3600);
    for (closing, most) in [(true, 375), (false, 90_000)] {
        let asked = Inquiry { asked: 70, closing, ..inquiry() };
        let pause = pause(decide(asked, &payment(Status::Pending), &open(), policy, hours, 1.0), hours);
        assert!(pause <= most && (closing || pause > 375), "{closing}: {pause}");
    }
}
