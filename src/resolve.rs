//! What became of it? Asks providers about open outcomes until it knows.
//!
//! What is unknown is asked about at once and then ever more seldom. What is pending is asked about too, after a silence:
//! its notification may never come. What is to be closed, or was scanned at a till and stayed open, is closed.
//!
//! "The provider does not know the order" proves nothing soon after the request, which may still be on its way: it is
//! believed only when the settle window has passed, and then twice. Of an order that the provider once confirmed it proves
//! nothing at all: it may come to life when the payer scans it.

mod places;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::payment::{Operation, Outcome, Status};
use tollgate_plugins::provider::Pace;

use self::places::{PLACES, Places};
use crate::clock;
use crate::config::{Channel, Snapshot};
use crate::gateway::{Gateway, order, question};
use crate::ledger::{Exchanged, Heard, LedgerError, News, Record, Search, Subject, What};
use crate::telemetry::METRICS;

/// "Not known" is believed when it was said this often after the settle window.
const ABSENT_ENOUGH: u32 = 2;
/// The first pause between two questions; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between the first and the second "not known" that count.
const SECOND_WORD_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause while something is unknown.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The pauses between questions about what is pending grow with its age, within these bounds.
const SILENCE: [SignedDuration; 2] = [SignedDuration::from_mins(5), SignedDuration::from_hours(24)];
/// What is pending for so long ended at its provider long ago; nobody pays it any more.
const ENOUGH: SignedDuration = SignedDuration::from_hours(24 * 30);
/// After this time a person is asked to look at what is unknown; the questions go on at the longest pause.
const PERSON_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// How long a payer may type a password; what a till scanned and is open then is reversed.
const TYPING: SignedDuration = SignedDuration::from_secs(30);
/// For so long somebody waits: a till, or whoever wants it closed.
const WAITED_FOR: SignedDuration = SignedDuration::from_mins(10);

/// Runs until shutdown.
pub async fn run(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let mut wake = gateway.ledger.wake();
    let mut places = Places::default();
    loop {
        // What cannot be written down would be asked again and again.
        if gateway.ledger.is_healthy() && !places.is_full() {
            // Among them are those that are being asked about, but no more than have a place: every free one is filled.
            for record in gateway.ledger.due_searches(clock::now(), PLACES).await {
                let gateway = Arc::clone(&gateway);
                let number = number_of(&record).to_owned();
                places.ask(number, async move { resolve(&gateway, record).await });
            }
        }
        tokio::select! {
            () = places.one_ends() => {}
            _ = wake.changed(), if !places.is_full() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    places.all_end().await;
}

async fn resolve(gateway: &Arc<Gateway>, record: Record) {
    let Some(search) = search_of(&record).cloned() else { return };
    let snapshot = gateway.current.load_full();
    let mut evidence = Vec::new();
    let (subject, answered) = ask(gateway, &snapshot, &record, &search, &mut evidence).await;
    let now = clock::now();
    if let Some(why) = answered.result.as_ref().ok().and_then(|outcome| outcome.needs_person.as_deref()) {
        tracing::error!(order_id = subject.order_id, why, "a person must look at it");
        METRICS.needs_person_total.with_label_values(&[channel_of(&record)]).inc();
    }
    let manners = Manners::of(snapshot.channels.get(channel_of(&record)));
    let random = gateway.exchanger.clock().random();
    let next = after(search, &record, &answered.result, manners, now, random);
    if let Err(error) = write(gateway, &record, &subject, answered, evidence, next, now).await {
        tracing::error!(%error, order_id = subject.order_id, "what is known now could not be recorded");
        // It is still due: without a pause the provider would be asked again at once.
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

/// What the provider said, and to what.
struct Answered {
    result: Result<Outcome, Error>,
    /// Whether it is the answer to a close.
    is_close: bool,
}

/// Asks how it stands; what is open and should not be is closed.
async fn ask(
    gateway: &Gateway,
    snapshot: &Snapshot,
    record: &Record,
    search: &Search,
    evidence: &mut Vec<Exchanged>,
) -> (Subject, Answered) {
    let (subject, asked) = match question(gateway, snapshot, record).await {
        (subject, Ok((channel, operation))) => {
            (subject, put(gateway, channel, &operation, evidence).await.map(|it| (channel, it)))
        }
        (subject, Err(error)) => (subject, Err(error)),
    };
    let (channel, outcome) = match asked {
        Ok(asked) => asked,
        Err(error) => return (subject, Answered { result: Err(error), is_close: false }),
    };
    let Some(close) = closing(record, search, &outcome) else {
        return (subject, Answered { result: Ok(outcome), is_close: false });
    };
    // On disk first: should it succeed without anybody hearing of it, the next start knows what was wanted.
    let marked = Search { closing: true, ..search.clone() };
    if gateway.ledger.searched(&subject, Some(marked)).await.is_err() {
        return (subject, Answered { result: Ok(outcome), is_close: false });
    }
    (subject, Answered { result: put(gateway, channel, &close, evidence).await, is_close: true })
}

async fn put(
    gateway: &Gateway,
    channel: &Arc<Channel>,
    operation: &Operation,
    evidence: &mut Vec<Exchanged>,
) -> Result<Outcome, Error> {
    gateway.exchanger.ask(channel, operation, channel.upstream.timeouts().total, evidence).await
}

/// What takes back a payment that is open and should not be.
fn closing(record: &Record, search: &Search, outcome: &Outcome) -> Option<Operation> {
    let Record::Payment(payment) = record else { return None };
    let is_over = payment.method.is_scanned() && clock::now().duration_since(search.since) >= TYPING;
    let is_wanted = outcome.status == Status::Pending && (search.closing || is_over);
    is_wanted.then(|| Operation::Close(order(payment)))
}

async fn write(
    gateway: &Gateway,
    record: &Record,
    subject: &Subject,
    answered: Answered,
    evidence: Vec<Exchanged>,
    next: Next,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let ledger = &gateway.ledger;
    let order_id = &subject.order_id;
    match answered.result {
        Ok(outcome) => {
            let is_closed = answered.is_close && outcome.status == Status::Closed;
            let after = ledger.apply(subject, Heard { news: News::Outcome(outcome), evidence }, now).await?;
            if is_closed && matches!(after, Some(Record::Payment(payment)) if payment.status == Status::Succeeded) {
                tracing::error!(order_id, "it was paid while it was taken back: a person must see where the money is");
                ledger.mismatch(subject, now).await?;
            }
        }
        Err(error) => {
            tracing::info!(order_id, %error, "the outcome is still open");
            // What is written next waits for the disk, and takes this along.
            ledger.note(subject, What::exchanges(evidence), now).await?;
            if let Error::Mismatch(_) = error {
                ledger.mismatch(subject, now).await?;
            }
        }
    }
    match next {
        Next::Known => tracing::info!(order_id, "the outcome is known"),
        Next::NeverHappened => drop(ledger.apply(subject, News::NeverHappened, now).await?),
        Next::Enough => ledger.searched(subject, None).await?,
        Next::Again(search) => {
            if search.needs_person && !search_of(record).is_some_and(|before| before.needs_person) {
                METRICS.needs_person_total.with_label_values(&[channel_of(record)]).inc();
                let why = "the outcome stays unknown: a person must look at it";
                tracing::error!(order_id, why);
                ledger.note(subject, vec![What::NeedsPerson { why: why.to_owned() }], now).await?;
            }
            ledger.searched(subject, Some(search)).await?;
        }
    }
    Ok(())
}

/// How a channel's provider is to be asked.
#[derive(Clone, Copy)]
struct Manners {
    settle_window: Duration,
    pace: Pace,
}

impl Manners {
    /// Those of a channel that is configured no more are as patient as any provider's.
    fn of(channel: Option<&Arc<Channel>>) -> Self {
        channel.map_or(Self { settle_window: Duration::from_secs(300), pace: Pace::Doubling }, |channel| Self {
            settle_window: channel.settle_window,
            pace: channel.pace,
        })
    }
}

/// How the search goes on.
#[derive(Debug, PartialEq)]
enum Next {
    /// The provider's word decides, or has brought it to another status with a search of its own.
    Known,
    /// It never had it.
    NeverHappened,
    /// Nothing more is expected.
    Enough,
    Again(Search),
}

fn after(
    search: Search,
    record: &Record,
    result: &Result<Outcome, Error>,
    manners: Manners,
    now: Timestamp,
    chance: f64,
) -> Next {
    let settle_window = SignedDuration::try_from(manners.settle_window).unwrap_or(SignedDuration::from_hours(24));
    let age = now.duration_since(search.since);
    let was_pending = status_of(record) == Status::Pending;
    let is_waited_for = (search.closing || is_scanned(record)) && age < WAITED_FOR;
    let still_open = result.as_ref().is_ok_and(|outcome| outcome.status == Status::Pending);
    if result.is_ok() && !(still_open && (was_pending || is_scanned(record))) {
        return Next::Known;
    }
    let is_absent = matches!(result, Err(Error::Absent(_)));
    let absent = if is_absent && !was_pending && age >= settle_window { search.absent + 1 } else { 0 };
    let absent = if is_absent { absent } else { search.absent };
    if absent >= ABSENT_ENOUGH {
        return Next::NeverHappened;
    }
    if was_pending && age >= ENOUGH {
        return Next::Enough;
    }
    let doubled = FIRST_PAUSE.saturating_mul(1u32.checked_shl(search.asked.min(20)).unwrap_or(u32::MAX));
    let doubled = doubled.min(LONGEST_PAUSE);
    let until_settled = Duration::try_from(settle_window - age).unwrap_or_default();
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
        needs_person: search.needs_person || (!was_pending && age >= PERSON_AFTER),
        ..search
    })
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

fn search_of(record: &Record) -> Option<&Search> {
    match record {
        Record::Payment(payment) => payment.search.as_ref(),
        Record::Refund(refund) => refund.search.as_ref(),
    }
}

/// The number that the provider sees.
fn number_of(record: &Record) -> &str {
    match record {
        Record::Payment(payment) => &payment.number,
        Record::Refund(refund) => &refund.number,
    }
}

fn channel_of(record: &Record) -> &str {
    match record {
        Record::Payment(payment) => &payment.channel,
        Record::Refund(refund) => &refund.channel,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn absent() -> Result<Outcome, Error> {
        Err(Error::Absent(Word { code: "ORDER_NOT_EXIST".into(), message: String::new() }))
    }

    fn again(next: Next) -> Search {
        let Next::Again(search) = next else { panic!("{next:?}") };
        search
    }

    fn pause(next: Next, now: Timestamp) -> i64 {
        again(next).due.duration_since(now).as_secs()
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
        assert_eq!(after(state, &payment(Status::Pending), &absent(), STEADY, end, 0.5), Next::Enough);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_scatter() {
        let (unknown, trouble) = (payment(Status::Unknown), Err(Error::unclear("x")));
        let mut state = search();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            state = again(after(state, &unknown, &trouble, STEADY, START, 0.5));
            pauses.push(state.due.duration_since(START).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let low = again(after(search(), &unknown, &trouble, STEADY, START, 0.0)).due;
        let high = again(after(search(), &unknown, &trouble, STEADY, START, 0.999)).due;
        assert!(low < high);
    }

    #[test]
    fn after_a_day_a_person_is_asked_and_the_search_goes_on() {
        let trouble = Err(Error::unclear("x"));
        let later = seconds(25 * 3600);
        assert!(again(after(search(), &payment(Status::Unknown), &trouble, STEADY, later, 0.5)).needs_person);
        assert!(!again(after(search(), &payment(Status::Pending), &trouble, STEADY, later, 0.5)).needs_person);
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
    fn what_somebody_waits_for_is_asked_about_at_once_and_closed() {
        let pending = Outcome::of(Status::Pending);
        let scanned = Method::all().find(Method::is_scanned);
        let Record::Payment(open) = payment(Status::Pending) else { panic!() };
        let till = Record::Payment(crate::ledger::Payment { method: scanned.unwrap_or(open.method), ..open.clone() });
        let open = Record::Payment(open);
        let wanted = Search { closing: true, since: Timestamp::now(), ..search() };
        assert_eq!(closing(&open, &search(), &pending), None);
        assert!(matches!(closing(&open, &wanted, &pending), Some(Operation::Close(_))));
        assert_eq!(closing(&open, &wanted, &Outcome::of(Status::Closed)), None);
        assert_eq!(
            pause(
                after(Search { since: START, ..wanted.clone() }, &open, &Ok(pending.clone()), STEADY, START, 0.5),
                START
            ),
            3
        );
        if scanned.is_some() {
            let fresh = Search { since: Timestamp::now(), ..search() };
            assert_eq!(closing(&till, &fresh, &pending), None, "the payer may be typing");
            assert!(closing(&till, &search(), &pending).is_some());
            let open = Ok(pending);
            assert_eq!(pause(after(search(), &till, &open, STEADY, START, 0.5), START), 3);
            let (mut state, mut pauses) = (search(), Vec::new());
            for _ in 0..6 {
                state = again(after(state, &till, &open, Manners { pace: Pace::Doubling, ..STEADY }, START, 0.5));
                pauses.push(state.due.duration_since(START).as_secs());
            }
            assert_eq!(pauses, [1, 2, 4, 8, 16, 32]);
        }
    }
}
