//! What became of it? Asks providers about open outcomes until it knows.
//!
//! What is unknown is asked about at once and then ever more seldom. What is pending is asked about too, after a silence:
//! its notification may never come. What is to be closed, or was scanned at a till and stayed open, is closed.
//!
//! "The provider does not know the order" proves nothing soon after the request, which may still be on its way: it is
//! believed only when the settle window has passed, and then twice. Before a till's payment is called failed so, it is
//! reversed. An order that the provider once confirmed may come to life when the payer scans it: of that one "not known" proves
//! nothing before its time is over.
//!
//! An answer that was lost may have held what the payer needs. Where the provider documents that the identical create gives the
//! same order, and says that the order is unpaid, the create is sent again.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use self::schedule::{
    ABSENT_ENOUGH, Decision, ESCALATE_AFTER, FIRST_PAUSE, PERSON_QUESTIONS, PollPolicy, Said, absences, after, doubled,
    is_expired, must_be_reversed, status_of,
};
use crate::clock::{self, Reading};
use crate::config::{Channel, Snapshot};
use crate::gateway::{Gateway, build_query, identical_create, order, repeats_create, settle_double};
use crate::ledger::{
    Inquiry, LedgerError, MAX_REPEATED_CREATES, Payment, ProviderCall, Record, RecordId, TimelineEvent, Update,
    UpdateWithEvidence, merchants_order_id,
};
use crate::task_pool::KeyedTaskPool;
use crate::telemetry::METRICS;

/// So many at once in all.
const PLACES: usize = 32;
/// So many over one channel, so that a provider that comes back is not drowned, and that one which does not answer leaves
/// places to the others.
const EACH: usize = 12;
/// How long a payer may type a password; what a till scanned and is open then is reversed.
const PAYER_ENTRY_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

/// How long finished tasks are gathered before the ledger is asked for more: one look per task would cost more than the tasks.
const GATHERING: Duration = Duration::from_millis(10);

/// Runs until shutdown.
pub async fn run(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let mut wake = gateway.ledger.wake();
    let mut places = KeyedTaskPool::new(PLACES, EACH);
    loop {
        // What cannot be written down would be asked again and again.
        if gateway.ledger.may_work() && clock::is_trusted() && !places.is_full() {
            let busy = places.full_lanes();
            // Among them are those that are being asked about, but no more than have a permit: every free one is used.
            let due = gateway.ledger.due_searches(clock::now(), PLACES, &busy).await;
            for record in due {
                let (number, channel) = (number_of(&record).to_owned(), channel_of(&record).to_owned());
                let gateway = Arc::clone(&gateway);
                places.start(&number, &channel, async move { resolve(&gateway, record).await });
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
async fn some_end(places: &mut KeyedTaskPool) {
    places.one_ends().await;
    let end = tokio::time::Instant::now() + GATHERING;
    while tokio::time::timeout_at(end, places.one_ends()).await.is_ok() {}
}

async fn resolve(gateway: &Arc<Gateway>, record: Record) {
    let Some(mut search) = search_of(&record).cloned() else { return };
    let snapshot = gateway.current.load_full();
    if let Record::Payment(found) = &record
        && found.is_attempt()
        && found.status == Status::Succeeded
    {
        return give_back(gateway, &snapshot, found, search).await;
    }
    let mut evidence = Vec::new();
    let manners = PollPolicy::of(snapshot.channels.get(channel_of(&record)));
    let (subject, said) = ask(gateway, &snapshot, &record, &mut search, manners, &mut evidence).await;
    let time = clock::reading();
    let now = time.now;
    let needs_person = said.asked.as_ref().ok().and_then(|outcome| outcome.needs_person.clone());
    let random = gateway.exchanger.clock().random();
    let next = after(search, &record, &said, manners, time, random);
    if let Err(error) = write(gateway, &record, &subject, said, evidence, next, now).await {
        tracing::error!(%error, order_id = subject.order_id, "what is known now could not be recorded");
        // It is still due: without a pause the provider would be asked again at once.
        return tokio::time::sleep(FIRST_PAUSE).await;
    }
    // Nobody asks for such a refund again.
    if let Record::Refund(refund) = &record
        && refund.order_id != merchants_order_id(&refund.order_id)
        && matches!(gateway.ledger.refund(&refund.merchant, &refund.order_id, &refund.refund_id).await, Ok(Some(it)) if it.status == Status::Failed)
    {
        needs_a_person(gateway, &subject, &refund.channel, "the refund of money on two channels has failed").await;
    }
    if let Some(why) = needs_person {
        tracing::error!(order_id = subject.order_id, why, "a person must look at it");
        METRICS.manual_review_total.with_label_values(&[channel_of(&record)]).inc();
    }
}

/// Money that was left behind on another channel is given back, however often that has to be tried. After a day a person looks
/// too.
async fn give_back(gateway: &Gateway, snapshot: &Snapshot, found: &Payment, search: Inquiry) {
    let subject = RecordId { merchant: found.merchant.clone(), order_id: found.order_id.clone(), refund_id: None };
    let settled = settle_double(gateway, snapshot, found).await;
    let wanted = doubled(search.asked);
    let due = SignedDuration::try_from(wanted).ok().and_then(|pause| clock::now().checked_add(pause).ok());
    let age = clock::now().duration_since(search.since);
    let needs_person = age >= ESCALATE_AFTER && search.asked >= PERSON_QUESTIONS;
    let is_news = needs_person && !search.needs_person && matches!(settled, Ok(false));
    let needs_person = search.needs_person || is_news;
    let again =
        Inquiry { asked: search.asked.saturating_add(1), due: due.unwrap_or(search.due), needs_person, ..search };
    if is_news {
        needs_a_person(gateway, &subject, &found.channel, "money on two channels cannot be given back").await;
    }
    let next = if matches!(settled, Ok(true)) { None } else { Some(again) };
    if let Err(error) = settled.map(drop).and(gateway.ledger.save_inquiry(&subject, next).await) {
        tracing::error!(%error, order_id = subject.order_id, "money on two channels could not be seen to");
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

/// Writes down that a person must look at it, and says so.
async fn needs_a_person(gateway: &Gateway, subject: &RecordId, channel: &str, why: &str) {
    tracing::error!(order_id = subject.order_id, why, "a person must look at it");
    METRICS.manual_review_total.with_label_values(&[channel]).inc();
    let notes = vec![TimelineEvent::ManualReview { why: why.to_owned() }];
    if let Err(error) = gateway.ledger.append_timeline(subject, notes, clock::now()).await {
        tracing::error!(%error, order_id = subject.order_id, "that a person must look at it could not be recorded");
    }
}

/// Asks how it stands. What is open and should not be is closed; what is open and cannot be paid is created again.
async fn ask(
    gateway: &Gateway,
    snapshot: &Snapshot,
    record: &Record,
    search: &mut Inquiry,
    manners: PollPolicy,
    evidence: &mut Vec<ProviderCall>,
) -> (RecordId, Said) {
    let (subject, question) = build_query(gateway, snapshot, record).await;
    let (channel, operation) = match question {
        Ok(question) => question,
        Err(error) => return (subject, Said::to_question(Err(error))),
    };
    let asked = call_provider(gateway, channel, &operation, evidence).await;
    // On disk first: should it succeed without anybody hearing of it, the next start knows what was wanted. Where nothing is
    // written, what it was about may be over, or be given up and on its way anew.
    if let Some(close) = closing(record, search, &asked, manners, clock::reading()) {
        let marked = Inquiry { closing: true, ..search.clone() };
        if !matches!(gateway.ledger.save_inquiry(&subject, Some(marked)).await, Ok(true)) {
            return (subject, Said::to_question(asked));
        }
        let closed = call_provider(gateway, channel, &close, evidence).await;
        return (subject, Said { asked, closed: Some(closed) });
    }
    if let Some(create) = lost_create(channel, record, search, &asked) {
        search.repeated_creates = search.repeated_creates.saturating_add(1);
        if matches!(gateway.ledger.save_inquiry(&subject, Some(search.clone())).await, Ok(true)) {
            // Only the action is wanted of its answer: how the order stands is what the question was answered.
            match call_provider(gateway, channel, &create, evidence).await {
                Ok(Outcome { status: Status::Pending, action: Some(action), .. }) => {
                    let with_action = asked.map(|outcome| Outcome { action: Some(action), ..outcome });
                    return (subject, Said::to_question(with_action));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(order_id = subject.order_id, %error, "the identical create brought no action");
                    if error.provably_not_executed() {
                        search.repeated_creates = search.repeated_creates.saturating_sub(1);
                    }
                }
            }
        }
    }
    (subject, Said::to_question(asked))
}

async fn call_provider(
    gateway: &Gateway,
    channel: &Arc<Channel>,
    operation: &Operation,
    evidence: &mut Vec<ProviderCall>,
) -> Result<Outcome, Error> {
    gateway.exchanger.ask(channel, operation, channel.upstream.timeouts().total, evidence).await
}

/// What takes back a payment that is open and should not be, or that a till scanned and the provider does not know: its request
/// may still be on its way.
fn closing(
    record: &Record,
    search: &Inquiry,
    asked: &Result<Outcome, Error>,
    manners: PollPolicy,
    time: Reading,
) -> Option<Operation> {
    let Record::Payment(payment) = record else { return None };
    let is_wanted = match asked {
        Ok(outcome) if outcome.status == Status::Pending => {
            let is_over = payment.method.is_scanned() && time.certain_age(search.since) >= PAYER_ENTRY_TIMEOUT;
            search.closing || is_over || outcome.needs_reversal || is_expired(record, manners, time)
        }
        Err(Error::NotFound(_)) => {
            let is_believed = absences(search, record, asked, manners, time) >= ABSENT_ENOUGH;
            must_be_reversed(record) && !search.reversed && is_believed
        }
        _ => false,
    };
    is_wanted.then(|| Operation::Close(order(payment)))
}

/// The identical create for an unpaid order whose `action` was lost with the answer to the first one.
fn lost_create(
    channel: &Channel,
    record: &Record,
    search: &Inquiry,
    asked: &Result<Outcome, Error>,
) -> Option<Operation> {
    let Record::Payment(payment) = record else { return None };
    let is_open = matches!(asked, Ok(outcome) if outcome.status == Status::Pending && outcome.action.is_none());
    let is_lost = payment.action.is_none() && !payment.status.is_final();
    let may_repeat = search.repeated_creates < MAX_REPEATED_CREATES && !search.closing;
    let is_wanted = is_open && is_lost && may_repeat && repeats_create(channel, payment.method);
    if is_wanted { identical_create(payment) } else { None }
}

async fn write(
    gateway: &Gateway,
    record: &Record,
    subject: &RecordId,
    said: Said,
    evidence: Vec<ProviderCall>,
    next: Decision,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let ledger = &gateway.ledger;
    let order_id = &subject.order_id;
    if let Some(Err(error)) = &said.closed {
        tracing::info!(order_id, %error, "it could not be closed");
        if let Error::Mismatch(_) = error {
            ledger.mismatch(subject, now).await?;
        }
    }
    let (heard, is_close) = match said {
        Said { closed: Some(Ok(outcome)), .. } => (Ok(outcome), true),
        Said { asked, .. } => (asked, false),
    };
    match heard {
        Ok(outcome) => {
            let is_closed = is_close && matches!(outcome.status, Status::Closed | Status::Failed);
            let after =
                ledger.apply(subject, UpdateWithEvidence { update: Update::Outcome(outcome), evidence }, now).await?;
            if is_closed && matches!(after, Some(Record::Payment(payment)) if payment.status == Status::Succeeded) {
                tracing::error!(order_id, "it was paid while it was taken back: a person must see where the money is");
                ledger.mismatch(subject, now).await?;
            }
        }
        Err(error) => {
            tracing::info!(order_id, %error, "the outcome is still open");
            // What is written next waits for the disk, and takes this along.
            ledger.append_timeline(subject, TimelineEvent::exchanges(evidence), now).await?;
            if let Error::Mismatch(_) = error {
                ledger.mismatch(subject, now).await?;
            }
        }
    }
    match next {
        Decision::Known => tracing::info!(order_id, "the outcome is known"),
        Decision::NeverHappened => drop(ledger.apply(subject, Update::NotFoundAtProvider, now).await?),
        Decision::Expired => drop(ledger.apply(subject, Update::Expired, now).await?),
        Decision::Enough => drop(ledger.save_inquiry(subject, None).await?),
        Decision::Again(search) => {
            let why = match status_of(record) {
                Status::Pending => "it stays pending and nothing ends it: ask the provider how it stands",
                _ => "the outcome stays unknown: a person must look at it",
            };
            if search.needs_person && ledger.escalate(subject, why, now).await? {
                METRICS.manual_review_total.with_label_values(&[channel_of(record)]).inc();
                tracing::error!(order_id, why);
            }
            ledger.save_inquiry(subject, Some(search)).await?;
        }
    }
    Ok(())
}

fn search_of(record: &Record) -> Option<&Inquiry> {
    match record {
        Record::Payment(payment) => payment.search.as_ref(),
        Record::Refund(refund) => refund.search.as_ref(),
    }
}

/// The number that the provider sees.
fn number_of(record: &Record) -> &str {
    match record {
        Record::Payment(payment) => &payment.provider_order_no,
        Record::Refund(refund) => &refund.provider_refund_no,
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
    use tollgate_plugins::error::ProviderError;
    use tollgate_plugins::payment::Method;

    use super::*;
    use crate::ledger::{MoneyState, a_payment};

    const MANNERS: PollPolicy = PollPolicy::TEST;

    #[test]
    fn what_is_open_and_should_not_be_is_closed() {
        let (now, long_ago) = (Timestamp::now(), Timestamp::UNIX_EPOCH);
        let time = Reading { now, steady_for: SignedDuration::MAX };
        let search = |since, closing| Inquiry { closing, ..Inquiry::new(since) };
        let pending = Ok(Outcome::of(Status::Pending));
        let reversal = Ok(Outcome { needs_reversal: true, ..Outcome::of(Status::Pending) });
        let new = |payment: Payment| Record::Payment(Payment { created_at: now, ..payment });
        let open = new(a_payment("o"));
        let method = Method::all().find(Method::is_scanned).unwrap();
        let till = new(Payment { method, ..a_payment("o") });
        let close = |record: &Record, search: &Inquiry, asked: &Result<Outcome, Error>, time| {
            closing(record, search, asked, MANNERS, time)
        };
        assert_eq!(close(&open, &search(long_ago, false), &pending, time), None);
        assert!(matches!(close(&open, &search(now, true), &pending, time), Some(Operation::Close(_))));
        assert_eq!(close(&open, &search(now, true), &Ok(Outcome::of(Status::Closed)), time), None);
        assert_eq!(close(&till, &search(now, false), &pending, time), None, "the payer may be typing");
        assert!(close(&till, &search(now, false), &reversal, time).is_some(), "the provider wants it reversed");
        assert!(close(&till, &search(long_ago, false), &pending, time).is_some());
        let jumped = Reading { steady_for: SignedDuration::from_secs(29), ..time };
        assert_eq!(close(&till, &search(long_ago, false), &pending, jumped), None, "nobody knows for how long");
    }

    #[test]
    fn unpaid_order_past_its_end_is_closed() {
        let created_at = Timestamp::UNIX_EPOCH;
        let expires_at = Some(created_at + SignedDuration::from_secs(20));
        let open = Payment { created_at, expires_at, money_state: MoneyState::NotMoved, ..a_payment("o") };
        let record = Record::Payment(open.clone());
        let unsent = Record::Payment(Payment { money_state: MoneyState::NotSent, ..open });
        let pending = Ok(Outcome::of(Status::Pending));
        let close = |record: &Record, age, steady_for| {
            let now = created_at + SignedDuration::from_secs(age);
            let time = Reading { now, steady_for: SignedDuration::from_secs(steady_for) };
            closing(record, &Inquiry::new(created_at), &pending, MANNERS, time)
        };
        assert_eq!(close(&record, 319, 319), None, "clocks may differ");
        assert!(close(&record, 320, 320).is_some());
        assert_eq!(close(&record, 86_400, 319), None, "the clock may have jumped");
        assert_eq!(close(&unsent, 320, 320), None);
    }

    #[test]
    fn till_payment_that_provider_does_not_know_is_reversed_once_absence_is_believed() {
        let (start, method) = (Timestamp::UNIX_EPOCH, Method::all().find(Method::is_scanned).unwrap());
        let at = |age| Reading { now: start + SignedDuration::from_secs(age), steady_for: SignedDuration::MAX };
        let absent = Err(Error::NotFound(ProviderError { code: "NOT_EXIST".into(), message: String::new() }));
        let till = Record::Payment(Payment { method, status: Status::Unknown, ..a_payment("o") });
        let once = Inquiry { absent: 1, ..Inquiry::new(start) };
        assert_eq!(closing(&till, &Inquiry::new(start), &absent, MANNERS, at(40)), None, "said once");
        assert_eq!(closing(&till, &once, &absent, MANNERS, at(20)), None, "within the settle window");
        assert!(matches!(closing(&till, &once, &absent, MANNERS, at(40)), Some(Operation::Close(_))));
        let reversed = Inquiry { reversed: true, ..once.clone() };
        assert_eq!(closing(&till, &reversed, &absent, MANNERS, at(40)), None, "it was taken before");
        let web = Record::Payment(Payment { status: Status::Unknown, ..a_payment("o") });
        assert_eq!(closing(&web, &once, &absent, MANNERS, at(40)), None, "nothing takes money by itself");
    }
}
