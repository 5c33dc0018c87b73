//! When to ask again, and when to stop.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Outcome, Status};
use tollgate_plugins::provider::Pace;

use crate::clock::Reading;
use crate::config::Channel;
use crate::ledger::{Record, Search};

/// "Not known" is believed when it was said this often after the settle window.
const ABSENT_ENOUGH: u32 = 2;
/// The first pause between two questions; doubles each time.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between the first and the second "not known" that count.
const SECOND_WORD_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause while something is unknown; in its first minutes no longer than the other, since whoever waits for it
/// has not gone away yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const LONGEST_EARLY_PAUSE: Duration = Duration::from_secs(60);
/// The pauses between questions about what is pending grow with its age, within these bounds.
const SILENCE: [SignedDuration; 2] = [SignedDuration::from_mins(5), SignedDuration::from_hours(24)];
/// What is pending for so long ended at its provider long ago; nobody pays it any more.
const ENOUGH: SignedDuration = SignedDuration::from_hours(24 * 30);
/// After this time a person is asked to look at what is unknown; the questions go on at the longest pause.
const PERSON_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Questions that were asked before a search may end by its age alone. A clock that jumps ages a search in a moment, but
/// brings forward only one question. In 24 hours an unknown outcome is asked about some 290 times, in 30 days a pending one
/// some 38 times.
const ENOUGH_QUESTIONS: u32 = 20;
const ATTEMPT_QUESTIONS: u32 = 100;
/// Questions, and time without a step of the clock, before a person is asked: a clock that is wrong for some seconds asks
/// nobody.
const PERSON_QUESTIONS: u32 = 5;
const PERSON_STEADY: SignedDuration = SignedDuration::from_secs(10);
/// For so long somebody waits: a till, or whoever wants it closed.
const WAITED_FOR: SignedDuration = SignedDuration::from_mins(10);
/// How a channel's provider is to be asked.
#[derive(Clone, Copy)]
pub(super) struct Manners {
    settle_window: Duration,
    pace: Pace,
}

impl Manners {
    /// Those of a channel that is configured no more are as patient as any provider's.
    pub(super) fn of(channel: Option<&Arc<Channel>>) -> Self {
        channel.map_or(Self { settle_window: Duration::from_secs(300), pace: Pace::Doubling }, |channel| Self {
            settle_window: channel.settle_window,
            pace: channel.pace,
        })
    }
}

/// How the search goes on.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// The provider's word decides, or has brought it to another status with a search of its own.
    Known,
    /// It never had it.
    NeverHappened,
    /// Nothing more is expected.
    Enough,
    Again(Search),
}

/// How a search goes on after what the provider said; `chance` is from 0 to 1.
///
/// A wrong clock may have written that the search began in the future: then it begins now. The settle window is over when it
/// is over for certain, whatever the clock did meanwhile.
pub(super) fn after(
    search: Search,
    record: &Record,
    result: &Result<Outcome, Error>,
    manners: Manners,
    time: Reading,
    chance: f64,
) -> Next {
    let settle_window = SignedDuration::try_from(manners.settle_window).unwrap_or(SignedDuration::from_hours(24));
    let now = time.now;
    let search = Search { since: search.since.min(now), ..search };
    let age = now.duration_since(search.since);
    let certain_age = time.certain_age(search.since);
    let was_pending = status_of(record) == Status::Pending;
    let is_waited_for = (search.closing || is_scanned(record)) && age < WAITED_FOR;
    let still_open = result.as_ref().is_ok_and(|outcome| outcome.status == Status::Pending);
    if result.is_ok() && !(still_open && (was_pending || is_scanned(record))) {
        return Next::Known;
    }
    let is_absent = matches!(result, Err(Error::Absent(_)));
    let absent = if is_absent && !was_pending && certain_age >= settle_window { search.absent + 1 } else { 0 };
    let absent = if is_absent { absent } else { search.absent };
    if absent >= ABSENT_ENOUGH {
        return Next::NeverHappened;
    }
    if was_pending && age >= ENOUGH && search.asked >= ENOUGH_QUESTIONS {
        return Next::Enough;
    }
    // Nothing was sent there, as far as anybody knows: no person need look.
    if is_attempt(record) && age >= PERSON_AFTER && search.asked >= ATTEMPT_QUESTIONS {
        return Next::NeverHappened;
    }
    let by_age = Duration::try_from(age / 4).unwrap_or_default();
    let doubled = doubled(search.asked).min(by_age.max(LONGEST_EARLY_PAUSE));
    let until_settled = Duration::try_from(settle_window - certain_age).unwrap_or_default();
    let is_late = age >= PERSON_AFTER && search.asked >= PERSON_QUESTIONS && time.steady_for >= PERSON_STEADY;
    let wanted = if is_waited_for && (still_open || was_pending) {
        match manners.pace {
            Pace::Steady(pause) => pause,
            Pace::Doubling => doubled,
        }
    } else if was_pending {
        Duration::try_from(age.clamp(SILENCE[0], SILENCE[1])).unwrap_or(LONGEST_PAUSE)
    } else if !is_absent {
        doubled
    } else if absent > 0 {
        // The provider works: only the second word is waited for, or the window.
        SECOND_WORD_PAUSE
    } else {
        doubled.min(until_settled.max(FIRST_PAUSE))
    };
    // From three quarters to five quarters, so that what became open together is not asked about together.
    let pause = SignedDuration::try_from(wanted.mul_f64(0.75 + chance / 2.0)).unwrap_or(SignedDuration::from_secs(30));
    Next::Again(Search {
        due: now.checked_add(pause).unwrap_or(now),
        asked: search.asked.saturating_add(1),
        absent,
        needs_person: search.needs_person || (is_late && !was_pending && !is_attempt(record)),
        ..search
    })
}

/// The pause after so many questions.
pub(super) fn doubled(asked: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1u32.checked_shl(asked.min(20)).unwrap_or(u32::MAX)).min(LONGEST_PAUSE)
}

fn status_of(record: &Record) -> Status {
    match record {
        Record::Payment(payment) => payment.status,
        Record::Refund(refund) => refund.status,
    }
}

fn is_scanned(record: &Record) -> bool {
    matches!(record, Record::Payment(payment) if payment.method.is_scanned())
}

fn is_attempt(record: &Record) -> bool {
    matches!(record, Record::Payment(payment) if payment.is_attempt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::Timestamp;
    use tollgate_plugins::error::Word;
    use tollgate_plugins::payment::Method;

    use super::*;
    use crate::ledger::a_payment;

    const STEADY: Manners =
        Manners { settle_window: Duration::from_secs(30), pace: Pace::Steady(Duration::from_secs(3)) };
    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn search() -> Search {
        Search { since: START, due: START, asked: 0, absent: 0, needs_person: false, closing: false }
    }

    fn payment(status: Status) -> Record {
        Record::Payment(crate::ledger::Payment { status, ..a_payment("o") })
    }

    fn seconds(seconds: i64) -> Reading {
        Reading { now: Timestamp::from_second(seconds).unwrap(), steady_for: SignedDuration::MAX }
    }

    /// After a step, or a start.
    fn steady_for(reading: Reading, seconds: i64) -> Reading {
        Reading { steady_for: SignedDuration::from_secs(seconds), ..reading }
    }

    fn absent() -> Result<Outcome, Error> {
        Err(Error::Absent(Word { code: "ORDER_NOT_EXIST".into(), message: String::new() }))
    }

    fn again(next: Next) -> Search {
        let Next::Again(search) = next else { panic!("{next:?}") };
        search
    }

    fn pause(next: Next, time: Reading) -> i64 {
        again(next).due.duration_since(time.now).as_secs()
    }

    #[test]
    fn not_known_is_believed_after_the_settle_window_and_twice() {
        let unknown = payment(Status::Unknown);
        let early = again(after(search(), &unknown, &absent(), STEADY, seconds(29), 0.5));
        assert_eq!(early.absent, 0, "too early to count");
        let once = again(after(early, &unknown, &absent(), STEADY, seconds(31), 0.5));
        assert_eq!(once.absent, 1);
        let unclear = again(after(once, &unknown, &Err(Error::unclear("x")), STEADY, seconds(35), 0.5));
        assert_eq!(unclear.absent, 1, "what says nothing takes nothing back");
        assert_eq!(after(unclear, &unknown, &absent(), STEADY, seconds(40), 0.5), Next::NeverHappened);
    }

    #[test]
    fn of_what_was_confirmed_not_known_proves_nothing() {
        let mut state = search();
        for at in [400, 1000, 2000, 100_000] {
            state = again(after(state, &payment(Status::Pending), &absent(), STEADY, seconds(at), 0.5));
        }
        let end = seconds(31 * 24 * 3600);
        let asked = Search { asked: ENOUGH_QUESTIONS, ..state };
        assert_eq!(after(asked, &payment(Status::Pending), &absent(), STEADY, end, 0.5), Next::Enough);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_scatter() {
        let (unknown, trouble) = (payment(Status::Unknown), Err(Error::unclear("x")));
        let mut state = search();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            state = again(after(state, &unknown, &trouble, STEADY, seconds(0), 0.5));
            pauses.push(state.due.duration_since(START).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        for (age, longest) in [(400, 100), (1200, 300), (80_000, 300)] {
            let next = after(Search { asked: 20, ..search() }, &unknown, &trouble, STEADY, seconds(age), 0.5);
            assert_eq!(pause(next, seconds(age)), longest);
        }
        let low = again(after(search(), &unknown, &trouble, STEADY, seconds(0), 0.0)).due;
        let high = again(after(search(), &unknown, &trouble, STEADY, seconds(0), 0.999)).due;
        assert!(low < high);
    }

    #[test]
    fn after_a_day_a_person_is_asked_and_the_search_goes_on() {
        let trouble = Err(Error::unclear("x"));
        let later = seconds(25 * 3600);
        let asked = Search { asked: 290, ..search() };
        assert!(again(after(asked.clone(), &payment(Status::Unknown), &trouble, STEADY, later, 0.5)).needs_person);
        assert!(!again(after(asked, &payment(Status::Pending), &trouble, STEADY, later, 0.5)).needs_person);
    }

    #[test]
    fn what_is_pending_is_asked_about_ever_more_seldom() {
        let pending = Ok(Outcome::of(Status::Pending));
        for (age, wanted) in [(300, 300), (600, 600), (7200, 7200), (10 * 24 * 3600, 24 * 3600)] {
            let next = after(search(), &payment(Status::Pending), &pending, STEADY, seconds(age), 0.5);
            assert_eq!(pause(next, seconds(age)), wanted);
        }
        assert_eq!(after(search(), &payment(Status::Unknown), &pending, STEADY, seconds(5), 0.5), Next::Known);
        let paid = Ok(Outcome::of(Status::Succeeded));
        assert_eq!(after(search(), &payment(Status::Pending), &paid, STEADY, seconds(5), 0.5), Next::Known);
    }

    #[test]
    fn what_somebody_waits_for_is_asked_about_at_the_providers_pace() {
        let open = Ok(Outcome::of(Status::Pending));
        let wanted = Search { closing: true, ..search() };
        assert_eq!(pause(after(wanted, &payment(Status::Pending), &open, STEADY, seconds(0), 0.5), seconds(0)), 3);
        let Some(method) = Method::all().find(Method::is_scanned) else { panic!("no provider has tills") };
        let till = Record::Payment(crate::ledger::Payment { method, status: Status::Pending, ..a_payment("o") });
        assert_eq!(pause(after(search(), &till, &open, STEADY, seconds(0), 0.5), seconds(0)), 3);
        let (mut state, mut pauses) = (search(), Vec::new());
        for _ in 0..6 {
            state = again(after(state, &till, &open, Manners { pace: Pace::Doubling, ..STEADY }, seconds(0), 0.5));
            pauses.push(state.due.duration_since(START).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn no_person_looks_at_what_may_be_left_elsewhere() {
        let left = Record::Payment(crate::ledger::Payment { status: Status::Unknown, ..a_payment("o/main") });
        let trouble = Err(Error::unclear("x"));
        assert!(!again(after(search(), &left, &trouble, STEADY, seconds(80_000), 0.5)).needs_person);
        let asked = Search { asked: 290, ..search() };
        assert_eq!(after(asked, &left, &trouble, STEADY, seconds(25 * 3600), 0.5), Next::NeverHappened);
    }

    #[test]
    fn clock_that_jumps_ahead_ends_no_search() {
        let (trouble, left) = (Err(Error::unclear("x")), Record::Payment(a_payment("o/main")));
        let (unknown, pending) = (payment(Status::Unknown), payment(Status::Pending));
        for ahead in [60, 3600, 31 * 86_400, 400 * 86_400] {
            let jumped = steady_for(seconds(ahead), 3);
            let said = Search { absent: 1, asked: 4, ..search() };
            let next = again(after(said.clone(), &unknown, &absent(), STEADY, jumped, 0.5));
            assert_eq!((next.absent, next.needs_person), (0, false), "{ahead}: the window is not over for certain");
            assert!(pause(Next::Again(next), jumped) <= 30, "{ahead}: it is asked again when it is");
            for (record, result) in [(&unknown, &trouble), (&pending, &absent()), (&left, &trouble)] {
                let next = again(after(said.clone(), record, result, STEADY, jumped, 0.5));
                assert!(!next.needs_person, "{ahead}: {record:?}");
            }
            // Without another step the window ends as ever.
            let window = steady_for(seconds(ahead + 30), 33);
            assert_eq!(after(said, &unknown, &absent(), STEADY, window, 0.5), Next::NeverHappened);
        }
    }

    #[test]
    fn search_that_began_in_the_future_begins_now() {
        let from_the_future = Search { since: seconds(400 * 86_400).now, absent: 0, ..search() };
        let next = again(after(from_the_future, &payment(Status::Unknown), &absent(), STEADY, seconds(100), 0.5));
        assert_eq!((next.since, next.absent), (seconds(100).now, 0));
        let next = again(after(next, &payment(Status::Unknown), &absent(), STEADY, seconds(131), 0.5));
        assert_eq!(after(next, &payment(Status::Unknown), &absent(), STEADY, seconds(136), 0.5), Next::NeverHappened);
    }
}
