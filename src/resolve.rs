//! What became of it? Asks providers about open outcomes until it knows.
//!
//! What is unknown is asked about at once and then ever more seldom. What is pending is asked about too, after a silence:
//! its notification may never come. What is to be closed, or was scanned at a till and stayed open, is closed.
//!
//! "The provider does not know the order" proves nothing soon after the request, which may still be on its way: it is
//! believed only when the settle window has passed, and then twice. Of an order that the provider once confirmed it proves
//! nothing at all: it may come to life when the payer scans it.

mod next;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use self::next::{FIRST_PAUSE, Manners, Next, after, doubled};
use crate::clock::{self, Reading};
use crate::config::{Channel, Snapshot};
use crate::gateway::{Gateway, order, question, settle_double};
use crate::ledger::{Exchanged, Heard, LedgerError, News, Payment, Record, Search, Subject, What};
use crate::places::Places;
use crate::telemetry::METRICS;

/// So many at once in all.
const PLACES: usize = 32;
/// So many over one channel, so that a provider that comes back is not drowned, and that one which does not answer leaves
/// places to the others.
const EACH: usize = 16;
/// How long a payer may type a password; what a till scanned and is open then is reversed.
const TYPING: SignedDuration = SignedDuration::from_secs(30);

/// How long finished tasks are gathered before the ledger is asked for more: one look per task would cost more than the tasks.
const GATHERING: Duration = Duration::from_millis(10);

/// Runs until shutdown.
pub async fn run(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let mut wake = gateway.ledger.wake();
    let mut places = Places::new(PLACES, EACH);
    loop {
        // What cannot be written down would be asked again and again.
        if gateway.ledger.may_work() && clock::is_trusted() && !places.is_full() {
            let busy = places.full_lanes();
            // Among them are those that are being asked about, but no more than have a permit: every free one is used.
            let due = gateway.ledger.due_searches(clock::now(), PLACES, &busy).await;
            for record in due {
                let (number, channel) = (number_of(&record).to_owned(), channel_of(&record).to_owned());
                let gateway = Arc::clone(&gateway);
                places.ask(&number, &channel, async move { resolve(&gateway, record).await });
            }
            // A crowd of a channel that has all of its permits only now may have hidden records of other channels.
            if !places.is_full() && places.full_lanes() != busy {
                continue;
            }
        }
        tokio::select! {
            () = some_end(&mut places) => {}
            _ = wake.changed(), if !places.is_full() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    places.all_end().await;
}

/// Waits until a task ends, and frees the permits of all that end shortly after it.
async fn some_end(places: &mut Places) {
    places.one_ends().await;
    let end = tokio::time::Instant::now() + GATHERING;
    while tokio::time::timeout_at(end, places.one_ends()).await.is_ok() {}
}

async fn resolve(gateway: &Arc<Gateway>, record: Record) {
    let Some(search) = search_of(&record).cloned() else { return };
    let snapshot = gateway.current.load_full();
    if let Record::Payment(found) = &record
        && found.is_attempt()
        && found.status == Status::Succeeded
    {
        return give_back(gateway, &snapshot, found, search).await;
    }
    let mut evidence = Vec::new();
    let (subject, answered) = ask(gateway, &snapshot, &record, &search, &mut evidence).await;
    let time = clock::reading();
    let now = time.now;
    let needs_person = answered.result.as_ref().ok().and_then(|outcome| outcome.needs_person.clone());
    let manners = Manners::of(snapshot.channels.get(channel_of(&record)));
    let random = gateway.exchanger.clock().random();
    let next = after(search, &record, &answered.result, manners, time, random);
    if let Err(error) = write(gateway, &record, &subject, answered, evidence, next, now).await {
        tracing::error!(%error, order_id = subject.order_id, "what is known now could not be recorded");
        // It is still due: without a pause the provider would be asked again at once.
        return tokio::time::sleep(FIRST_PAUSE).await;
    }
    if let Some(why) = needs_person {
        tracing::error!(order_id = subject.order_id, why, "a person must look at it");
        METRICS.needs_person_total.with_label_values(&[channel_of(&record)]).inc();
    }
}

/// Money that was left behind on another channel is given back, however often that has to be tried.
async fn give_back(gateway: &Gateway, snapshot: &Snapshot, found: &Payment, search: Search) {
    let subject = Subject { merchant: found.merchant.clone(), order_id: found.order_id.clone(), refund_id: None };
    let settled = settle_double(gateway, snapshot, found).await;
    let wanted = doubled(search.asked);
    let due = SignedDuration::try_from(wanted).ok().and_then(|pause| clock::now().checked_add(pause).ok());
    let again = Search { asked: search.asked.saturating_add(1), due: due.unwrap_or(search.due), ..search };
    let next = if matches!(settled, Ok(true)) { None } else { Some(again) };
    if let Err(error) = settled.map(drop).and(gateway.ledger.searched(&subject, next).await) {
        tracing::error!(%error, order_id = subject.order_id, "money on two channels could not be seen to");
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
    let Some(close) = closing(record, search, &outcome, clock::reading()) else {
        return (subject, Answered { result: Ok(outcome), is_close: false });
    };
    // On disk first: should it succeed without anybody hearing of it, the next start knows what was wanted.
    let marked = Search { closing: true, ..search.clone() };
    // What it was about may be over, or be given up and on its way anew.
    if !matches!(gateway.ledger.searched(&subject, Some(marked)).await, Ok(true)) {
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
fn closing(record: &Record, search: &Search, outcome: &Outcome, time: Reading) -> Option<Operation> {
    let Record::Payment(payment) = record else { return None };
    let is_over = payment.method.is_scanned() && time.certain_age(search.since) >= TYPING;
    let is_wanted = outcome.status == Status::Pending && (search.closing || is_over || outcome.needs_reversal);
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
        Next::Enough => drop(ledger.searched(subject, None).await?),
        Next::Again(search) => {
            let why = "the outcome stays unknown: a person must look at it";
            if search.needs_person && ledger.ask_person(subject, why, now).await? {
                METRICS.needs_person_total.with_label_values(&[channel_of(record)]).inc();
                tracing::error!(order_id, why);
            }
            ledger.searched(subject, Some(search)).await?;
        }
    }
    Ok(())
}

fn search_of(record: &Record) -> Option<&Search> {
    match record {
        Record::Payment(payment) => payment.search.as_ref(),
        Record::Refund(refund) => refund.search.as_ref(),
    }
}

fn subject_of(record: &Record) -> Subject {
    match record {
        Record::Payment(payment) => {
            Subject { merchant: payment.merchant.clone(), order_id: payment.order_id.clone(), refund_id: None }
        }
        Record::Refund(refund) => Subject {
            merchant: refund.merchant.clone(),
            order_id: refund.order_id.clone(),
            refund_id: Some(refund.refund_id.clone()),
        },
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
    use tollgate_plugins::payment::Method;

    use super::*;
    use crate::ledger::a_payment;

    #[test]
    fn what_is_open_and_should_not_be_is_closed() {
        let (now, long_ago) = (Timestamp::now(), Timestamp::UNIX_EPOCH);
        let time = Reading { now, steady_for: SignedDuration::MAX };
        let search = |since, closing| Search { since, due: since, asked: 0, absent: 0, needs_person: false, closing };
        let pending = Outcome::of(Status::Pending);
        let open = Record::Payment(a_payment("o"));
        let method = Method::all().find(Method::is_scanned).unwrap();
        let till = Record::Payment(Payment { method, ..a_payment("o") });
        assert_eq!(closing(&open, &search(long_ago, false), &pending, time), None);
        assert!(matches!(closing(&open, &search(now, true), &pending, time), Some(Operation::Close(_))));
        assert_eq!(closing(&open, &search(now, true), &Outcome::of(Status::Closed), time), None);
        assert_eq!(closing(&till, &search(now, false), &pending, time), None, "the payer may be typing");
        assert!(closing(&till, &search(long_ago, false), &pending, time).is_some());
        let jumped = Reading { steady_for: SignedDuration::from_secs(29), ..time };
        assert_eq!(closing(&till, &search(long_ago, false), &pending, jumped), None, "nobody knows for how long");
    }
}
