//! Tests of manual review and of inquiries that end by their age.

use super::*;

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
fn record_unknown_for_a_day_is_escalated_and_still_queried() {
    let unclear = unclear();
    let later = seconds(25 * 3600);
    let asked = Inquiry { asked: 290, ..inquiry() };
    assert!(next_inquiry(decide(asked.clone(), &payment(Status::Unknown), &unclear, STEADY, later, 0.5)).needs_review);
    assert!(!next_inquiry(decide(asked, &payment(Status::Pending), &unclear, STEADY, later, 0.5)).needs_review);
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
