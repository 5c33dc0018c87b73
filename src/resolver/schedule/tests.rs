//! When it is asked again, and when a search ends.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::Method;

use super::*;
use crate::ledger::a_payment;

const STEADY: PollPolicy = PollPolicy::TEST;
const START: Timestamp = Timestamp::UNIX_EPOCH;

fn search() -> Inquiry {
    Inquiry::new(START)
}

fn payment(status: Status) -> Record {
    Record::Payment(crate::ledger::Payment { status, ..a_payment("o") })
}

/// Made at the start, with the provider's word that nobody has paid it.
fn unpaid(lifetime: Option<i64>) -> Record {
    let expires_at = lifetime.map(|lifetime| START + SignedDuration::from_secs(lifetime));
    let money_state = MoneyState::NotMoved;
    Record::Payment(crate::ledger::Payment { created_at: START, expires_at, money_state, ..a_payment("o") })
}

fn seconds(seconds: i64) -> Reading {
    Reading { now: Timestamp::from_second(seconds).unwrap(), steady_for: SignedDuration::MAX }
}

/// After a step, or a start.
fn steady_for(reading: Reading, seconds: i64) -> Reading {
    Reading { steady_for: SignedDuration::from_secs(seconds), ..reading }
}

fn absent() -> Said {
    Said::to_question(Err(not_exist()))
}

fn not_exist() -> Error {
    Error::NotFound(ProviderError { code: "ORDER_NOT_EXIST".into(), message: String::new() })
}

fn conflict() -> Error {
    Error::Conflict(ProviderError { code: "35".into(), message: String::new() })
}

fn trouble() -> Said {
    Said::to_question(Err(Error::unclear("x")))
}

fn open() -> Said {
    Said::to_question(Ok(Outcome::of(Status::Pending)))
}

fn again(next: Decision) -> Inquiry {
    let Decision::Again(search) = next else { panic!("{next:?}") };
    search
}

fn pause(next: Decision, time: Reading) -> i64 {
    again(next).due.duration_since(time.now).as_secs()
}

#[test]
fn not_known_is_believed_after_the_settle_window_and_twice() {
    let unknown = payment(Status::Unknown);
    let early = again(after(search(), &unknown, &absent(), STEADY, seconds(29), 0.5));
    assert_eq!(early.absent, 0, "too early to count");
    let once = again(after(early, &unknown, &absent(), STEADY, seconds(31), 0.5));
    assert_eq!(once.absent, 1);
    let unclear = again(after(once, &unknown, &trouble(), STEADY, seconds(35), 0.5));
    assert_eq!(unclear.absent, 1, "what says nothing takes nothing back");
    assert_eq!(after(unclear, &unknown, &absent(), STEADY, seconds(40), 0.5), Decision::NeverHappened);
}

#[test]
fn of_what_was_confirmed_not_known_proves_nothing_before_its_end() {
    let pending = unpaid(None);
    let mut state = search();
    for at in [400, 1000, 2000, 3600 + 299] {
        state = again(after(state, &pending, &absent(), STEADY, seconds(at), 0.5));
        assert_eq!(state.absent, 0);
    }
    state = again(after(state, &pending, &absent(), STEADY, seconds(3600 + 300), 0.5));
    assert_eq!(state.absent, 1);
    assert_eq!(after(state, &pending, &absent(), STEADY, seconds(3600 + 305), 0.5), Decision::Expired);
}

#[test]
fn unopened_order_expires_after_its_own_end_and_is_asked_about_then() {
    let pending = unpaid(Some(60));
    let before = again(after(search(), &pending, &absent(), STEADY, seconds(100), 0.5));
    assert_eq!((before.absent, before.due.as_second()), (0, 360), "at its end with the margin");
    let once = again(after(before, &pending, &absent(), STEADY, seconds(361), 0.5));
    assert_eq!((once.absent, once.due.as_second()), (1, 366));
    assert_eq!(after(once, &pending, &absent(), STEADY, seconds(366), 0.5), Decision::Expired);
    // Wanted closed by its merchant, it ends then too.
    let wanted = Inquiry { closing: true, absent: 1, ..search() };
    assert_eq!(after(wanted, &pending, &absent(), STEADY, seconds(366), 0.5), Decision::Expired);
    let jumped = again(after(search(), &pending, &absent(), STEADY, steady_for(seconds(86_400), 3), 0.5));
    assert_eq!(jumped.absent, 0, "a clock that jumps ends nothing");
    let unsent = Record::Payment(crate::ledger::Payment { expires_at: Some(START), ..a_payment("o") });
    assert_eq!(again(after(search(), &unsent, &absent(), STEADY, seconds(86_400), 0.5)).absent, 0);
}

/// The provider's order of a queued payment begins when it is sent.
#[test]
fn lifetime_of_queued_payment_counts_from_its_sending() {
    let Record::Payment(payment) = unpaid(None) else { panic!() };
    let sent_at = Some(START + SignedDuration::from_secs(1000));
    let queued = Record::Payment(crate::ledger::Payment { sent_at, ..payment });
    let once = Inquiry { absent: 1, ..search() };
    let next = |record: &Record, age| after(once.clone(), record, &absent(), STEADY, seconds(age), 0.5);
    assert_eq!(next(&unpaid(None), 3600 + 300), Decision::Expired);
    assert_eq!(again(next(&queued, 4600 + 299)).absent, 0);
    assert_eq!(next(&queued, 4600 + 300), Decision::Expired);
}

#[test]
fn long_lifetime_ends_by_the_clock_after_an_hour_without_a_step() {
    let pending = unpaid(Some(86_400));
    let time = |steady| steady_for(seconds(90_000), steady);
    let next = |time| after(Inquiry { absent: 1, ..search() }, &pending, &absent(), STEADY, time, 0.5);
    assert_eq!(again(next(time(3599))).absent, 0);
    assert_eq!(next(time(3600)), Decision::Expired);
}

#[test]
fn refund_that_only_was_accepted_fails_once_absence_is_believed() {
    let mut accepted = crate::ledger::a_refund("o", "r", 10);
    (accepted.status, accepted.money_state) = (Status::Pending, MoneyState::NotMoved);
    let once = Inquiry { absent: 1, ..search() };
    let next = |refund: &crate::ledger::Refund| {
        after(once.clone(), &Record::Refund(refund.clone()), &absent(), STEADY, seconds(40), 0.5)
    };
    assert_eq!(next(&accepted), Decision::NeverHappened);
    let open = after(search(), &Record::Refund(accepted.clone()), &open(), STEADY, seconds(400), 0.5);
    assert_eq!(pause(open, seconds(400)), 400, "it is confirmed now and waits for its notification");
    accepted.provider_refund_id = Some("50000".into());
    assert_eq!(again(next(&accepted)).absent, 0, "the provider gave it a number");
    accepted.provider_refund_id = None;
    accepted.search = Some(Inquiry { confirmed: true, ..search() });
    assert_eq!(again(next(&accepted)).absent, 0, "the provider had it when it was asked");
    (accepted.search, accepted.money_state) = (None, MoneyState::NotSent);
    assert_eq!(again(next(&accepted)).absent, 0, "it waits in the queue");
}

#[test]
fn till_payment_fails_only_after_its_reversal() {
    let record = |status| {
        let method = Method::all().find(Method::is_scanned).unwrap();
        let money_state = MoneyState::NotMoved;
        Record::Payment(crate::ledger::Payment { method, status, money_state, ..a_payment("o") })
    };
    let word = || ProviderError { code: "X".into(), message: String::new() };
    let once = Inquiry { absent: 1, ..search() };
    for till in [record(Status::Unknown), record(Status::Pending)] {
        let next = |closed, at| {
            let said = Said { asked: Err(not_exist()), closed };
            after(once.clone(), &till, &said, STEADY, seconds(at), 0.5)
        };
        let closed = Some(Ok(Outcome::of(Status::Closed)));
        assert_eq!(next(closed, 40), Decision::Known);
        assert_eq!(next(Some(Err(not_exist())), 40), Decision::NeverHappened, "nothing was there to reverse");
        for error in [Error::unclear("cut"), Error::NotSent("x".into()), Error::ProviderBusy(word())] {
            assert_eq!(again(next(Some(Err(error.clone())), 80_000)).absent, 2, "{error} is no reversal");
        }
        assert_eq!(again(next(Some(Err(Error::Declined(word()))), 3599)).absent, 2);
        assert_eq!(next(Some(Err(Error::Declined(word()))), 3600), Decision::NeverHappened, "its code is long dead");
        // Accepted, it is asked about anew, and then not reversed again.
        let taken = again(next(Some(Err(Error::Conflict(word()))), 40));
        assert_eq!((taken.reversed, taken.absent), (true, 0));
        let again_absent = again(after(taken, &till, &absent(), STEADY, seconds(46), 0.5));
        assert_eq!(after(again_absent, &till, &absent(), STEADY, seconds(52), 0.5), Decision::NeverHappened);
    }
}

#[test]
fn lost_action_is_asked_for_soon_and_not_for_ever() {
    let create_request = Some(Box::new(crate::ledger::CreateRequest {
        description: "tea".into(),
        payer: tollgate_plugins::payment::Payer::default(),
        return_url: None,
        public_url: "https://pay.example.com".into(),
    }));
    let Record::Payment(pending) = unpaid(None) else { panic!() };
    let pending = Record::Payment(crate::ledger::Payment { create_request, ..pending });
    for (repeated_creates, wanted) in [(1, 2), (2, 4), (3, 300)] {
        let state = Inquiry { repeated_creates, ..search() };
        assert_eq!(pause(after(state, &pending, &open(), STEADY, seconds(10), 0.5), seconds(10)), wanted);
    }
}

#[test]
fn person_is_asked_about_what_stays_pending_for_a_month() {
    let (pending, trouble) = (unpaid(None), trouble());
    let asked = Inquiry { asked: ENOUGH_QUESTIONS, ..search() };
    for said in [&trouble, &open()] {
        let next = |days: i64| after(asked.clone(), &pending, said, STEADY, seconds(days * 86_400), 0.5);
        assert!(!again(next(29)).needs_person);
        assert!(again(next(31)).needs_person);
    }
    let ended = Record::Payment(crate::ledger::Payment { status: Status::Closed, ..a_payment("o") });
    assert_eq!(after(asked, &ended, &trouble, STEADY, seconds(31 * 86_400), 0.5), Decision::Enough);
}

#[test]
fn pauses_double_up_to_the_longest_and_scatter() {
    let (unknown, trouble) = (payment(Status::Unknown), trouble());
    let mut state = search();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        state = again(after(state, &unknown, &trouble, STEADY, seconds(0), 0.5));
        pauses.push(state.due.duration_since(START).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    for (age, longest) in [(400, 100), (1200, 300), (80_000, 300)] {
        let next = after(Inquiry { asked: 20, ..search() }, &unknown, &trouble, STEADY, seconds(age), 0.5);
        assert_eq!(pause(next, seconds(age)), longest);
    }
    let low = again(after(search(), &unknown, &trouble, STEADY, seconds(0), 0.0)).due;
    let high = again(after(search(), &unknown, &trouble, STEADY, seconds(0), 0.999)).due;
    assert!(low < high);
}

#[test]
fn after_a_day_a_person_is_asked_and_the_search_goes_on() {
    let trouble = trouble();
    let later = seconds(25 * 3600);
    let asked = Inquiry { asked: 290, ..search() };
    assert!(again(after(asked.clone(), &payment(Status::Unknown), &trouble, STEADY, later, 0.5)).needs_person);
    assert!(!again(after(asked, &payment(Status::Pending), &trouble, STEADY, later, 0.5)).needs_person);
}

#[test]
fn pending_order_whose_inquiry_fails_is_asked_about_again_soon() {
    for (asked, age, wanted) in [(0, 1, 1), (3, 20, 8), (30, 60, 300), (30, 3600, 900), (99, 20 * 86_400, 86_400)] {
        let search = Inquiry { asked, ..search() };
        let next = after(search, &payment(Status::Pending), &trouble(), STEADY, seconds(age), 0.5);
        assert_eq!(pause(next, seconds(age)), wanted, "{asked} {age}");
    }
}

#[test]
fn what_is_pending_is_asked_about_ever_more_seldom() {
    let pending = open();
    for (age, wanted) in [(300, 300), (600, 600), (7200, 7200), (10 * 24 * 3600, 24 * 3600)] {
        let next = after(search(), &payment(Status::Pending), &pending, STEADY, seconds(age), 0.5);
        assert_eq!(pause(next, seconds(age)), wanted);
    }
    assert_eq!(after(search(), &payment(Status::Unknown), &pending, STEADY, seconds(5), 0.5), Decision::Known);
    let paid = Said::to_question(Ok(Outcome::of(Status::Succeeded)));
    assert_eq!(after(search(), &payment(Status::Pending), &paid, STEADY, seconds(5), 0.5), Decision::Known);
}

#[test]
fn what_somebody_waits_for_is_asked_about_at_the_providers_pace() {
    let open = open();
    let wanted = Inquiry { closing: true, ..search() };
    assert_eq!(pause(after(wanted, &payment(Status::Pending), &open, STEADY, seconds(0), 0.5), seconds(0)), 3);
    let Some(method) = Method::all().find(Method::is_scanned) else { panic!("no provider has tills") };
    let till = Record::Payment(crate::ledger::Payment { method, status: Status::Pending, ..a_payment("o") });
    assert_eq!(pause(after(search(), &till, &open, STEADY, seconds(0), 0.5), seconds(0)), 3);
    let (mut state, mut pauses) = (search(), Vec::new());
    for _ in 0..6 {
        state =
            again(after(state, &till, &open, PollPolicy { pace: PollInterval::Doubling, ..STEADY }, seconds(0), 0.5));
        pauses.push(state.due.duration_since(START).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32]);
}

#[test]
fn no_person_looks_at_what_may_be_left_elsewhere() {
    let left = Record::Payment(crate::ledger::Payment { status: Status::Unknown, ..a_payment("o/main") });
    let trouble = trouble();
    assert!(!again(after(search(), &left, &trouble, STEADY, seconds(80_000), 0.5)).needs_person);
    let asked = Inquiry { asked: 290, ..search() };
    assert_eq!(after(asked, &left, &trouble, STEADY, seconds(25 * 3600), 0.5), Decision::NeverHappened);
}

#[test]
fn clock_that_jumps_ahead_ends_no_search() {
    let (trouble, left) = (trouble(), Record::Payment(a_payment("o/main")));
    let (unknown, pending) = (payment(Status::Unknown), payment(Status::Pending));
    for ahead in [60, 3600, 31 * 86_400, 400 * 86_400] {
        let jumped = steady_for(seconds(ahead), 3);
        let said = Inquiry { absent: 1, asked: 4, ..search() };
        let next = again(after(said.clone(), &unknown, &absent(), STEADY, jumped, 0.5));
        assert_eq!((next.absent, next.needs_person), (0, false), "{ahead}: the window is not over for certain");
        assert!(pause(Decision::Again(next), jumped) <= 30, "{ahead}: it is asked again when it is");
        for (record, result) in [(&unknown, &trouble), (&pending, &absent()), (&left, &trouble)] {
            let next = again(after(said.clone(), record, result, STEADY, jumped, 0.5));
            assert!(!next.needs_person, "{ahead}: {record:?}");
        }
        // Without another step the window ends as ever.
        let window = steady_for(seconds(ahead + 30), 33);
        assert_eq!(after(said, &unknown, &absent(), STEADY, window, 0.5), Decision::NeverHappened);
    }
}

#[test]
fn search_that_began_in_the_future_begins_now() {
    let from_the_future = Inquiry { since: seconds(400 * 86_400).now, absent: 0, ..search() };
    let next = again(after(from_the_future, &payment(Status::Unknown), &absent(), STEADY, seconds(100), 0.5));
    assert_eq!((next.since, next.absent), (seconds(100).now, 0));
    let next = again(after(next, &payment(Status::Unknown), &absent(), STEADY, seconds(131), 0.5));
    assert_eq!(after(next, &payment(Status::Unknown), &absent(), STEADY, seconds(136), 0.5), Decision::NeverHappened);
}

#[test]
fn till_payment_is_asked_about_each_minute_until_its_end_however_old_it_is() {
    let Some(method) = Method::all().find(Method::is_scanned) else { panic!("no provider has tills") };
    let policy = PollPolicy { pace: PollInterval::Doubling, ..STEADY };
    for status in [Status::Pending, Status::Unknown] {
        let till = Record::Payment(crate::ledger::Payment { method, status, ..a_payment("o") });
        // A gateway that was restarted just now does not yet know for certain that the payer's time is over.
        let time = steady_for(seconds(3 * 3600), 1);
        let reversed = Said { asked: Err(not_exist()), closed: Some(Err(conflict())) };
        for said in [open(), trouble(), absent(), reversed] {
            let asked = Inquiry { asked: 70, ..search() };
            assert!(pause(after(asked, &till, &said, policy, time, 1.0), time) <= 75, "{status:?} {said:?}");
        }
    }
}
