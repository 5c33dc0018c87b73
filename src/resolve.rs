//! What became of it? Asks providers about unknown outcomes until it knows.
//!
//! "The provider does not know the order" proves nothing soon after the request, which may still be on its way: it is
//! believed only when the settle window has passed, and then twice.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Semaphore, watch};
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use crate::gateway::{Gateway, order, question};
use crate::ledger::{News, Record, Search};
use crate::telemetry::METRICS;

/// How long after the request "not known" is not yet believed.
const SETTLE_WINDOW: SignedDuration = SignedDuration::from_secs(30);
/// "Not known" is believed when it was said this often after the settle window.
const ABSENT_ENOUGH: u32 = 2;
/// The first pause between two questions; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between the first and the second "not known" that count.
const SECOND_WORD_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// After this time a person is asked to look; the questions go on at the longest pause.
const PERSON_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// How long a payer may type a password; what a till scanned and is open then is reversed.
const TYPING: SignedDuration = SignedDuration::from_secs(30);
/// Between two questions about it, while the till waits.
const TYPING_PAUSE: Duration = Duration::from_secs(3);
/// How many questions are under way at once, so that a provider that comes back is not drowned.
const AT_ONCE: usize = 16;

/// Runs until shutdown.
pub async fn run(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let mut wake = gateway.ledger.wake();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = tokio::task::JoinSet::new();
    loop {
        match gateway.ledger.due_searches(Timestamp::now(), AT_ONCE).await {
            Ok(due) => {
                for record in due {
                    let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                    let gateway = Arc::clone(&gateway);
                    asking.spawn(async move {
                        resolve(&gateway, record).await;
                        drop(place);
                    });
                }
                // All of one round first: a record that is being asked about must not be due a second time.
                while asking.join_next().await.is_some() {}
            }
            Err(error) => tracing::error!(%error, "cannot read which outcomes are unknown"),
        }
        tokio::select! {
            _ = wake.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

async fn resolve(gateway: &Arc<Gateway>, record: Record) {
    let Some(search) = search_of(&record).cloned() else { return };
    let snapshot = gateway.current.load_full();
    let answer = match question(gateway, &snapshot, &record).await {
        Ok((channel, operation, subject)) => match snapshot.channels.get(&channel) {
            Some(channel) => {
                let limit = channel.upstream.timeouts().total;
                let asked = gateway.exchanger.ask(channel, &operation, limit).await;
                match reversal(&record, &search, &asked) {
                    Some(reversal) => (Some(subject), gateway.exchanger.ask(channel, &reversal, limit).await),
                    None => (Some(subject), asked),
                }
            }
            None => (Some(subject), Err(Error::NotSent(format!("the channel `{channel}` is not configured")))),
        },
        Err(error) => (None, Err(error)),
    };
    let (Some(subject), result) = answer else {
        tracing::error!("an unknown outcome cannot be asked about: its payment is missing in the ledger");
        return;
    };
    let now = Timestamp::now();
    let next = after(search, &result, is_watched(&record), now, gateway.exchanger.clock().random());
    let written = match (&result, &next) {
        (Ok(outcome), next) => {
            let applied = gateway.ledger.apply(&subject, News::Outcome(outcome.clone()), now).await;
            match (applied, next) {
                (Ok(_), Some(search)) => gateway.ledger.searched(&subject, search.clone()).await,
                (applied, _) => applied.map(drop),
            }
        }
        (Err(_), None) => gateway.ledger.apply(&subject, News::NeverHappened, now).await.map(drop),
        (Err(error), Some(search)) => {
            tracing::info!(order_id = subject.order_id, asked = search.asked, %error, "the outcome is still unknown");
            if search.needs_person && search.asked > 0 && !search_of(&record).is_some_and(|old| old.needs_person) {
                METRICS.unknown_needs_person_total.with_label_values(&[channel_of(&record)]).inc();
                tracing::error!(order_id = subject.order_id, "the outcome stays unknown: a person must look at it");
            }
            if let Error::Mismatch(_) = error
                && let Err(error) = gateway.ledger.mismatch(&subject, now).await
            {
                tracing::error!(%error, "a mismatch could not be recorded");
            }
            gateway.ledger.searched(&subject, search.clone()).await
        }
    };
    match written {
        Ok(()) if next.is_none() => tracing::info!(order_id = subject.order_id, "the outcome is known"),
        Ok(()) => {}
        Err(error) => tracing::error!(%error, order_id = subject.order_id, "what is known now could not be recorded"),
    }
}

/// Whether its payer stands at a till, so that an open end is no end.
fn is_watched(record: &Record) -> bool {
    matches!(record, Record::Payment(payment) if payment.method.is_scanned())
}

/// What takes back a payment at a till that stayed open for too long.
fn reversal(record: &Record, search: &Search, asked: &Result<Outcome, Error>) -> Option<Operation> {
    let is_open = asked.as_ref().is_ok_and(|outcome| outcome.status == Status::Pending);
    let is_over = Timestamp::now().duration_since(search.since) >= TYPING;
    match record {
        Record::Payment(payment) if is_watched(record) && is_open && is_over => Some(Operation::Close(order(payment))),
        _ => None,
    }
}

/// How the search goes on after an answer; `None` when it has ended.
fn after(
    search: Search,
    result: &Result<Outcome, Error>,
    is_watched: bool,
    now: Timestamp,
    chance: f64,
) -> Option<Search> {
    let settled = now.duration_since(search.since) >= SETTLE_WINDOW;
    let absent = match result {
        Ok(outcome) if is_watched && outcome.status == Status::Pending => search.absent,
        Ok(_) => return None,
        Err(Error::Absent(_)) if settled => search.absent + 1,
        Err(Error::Absent(_)) => 0,
        Err(_) => search.absent,
    };
    if absent >= ABSENT_ENOUGH {
        return None;
    }
    let doubled =
        FIRST_PAUSE.saturating_mul(1u32.checked_shl(search.asked.min(20)).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
    let until_settled = Duration::try_from(SETTLE_WINDOW - now.duration_since(search.since)).unwrap_or_default();
    let wanted = match result {
        // The provider works: only the window, or the second word, is waited for.
        Ok(_) => TYPING_PAUSE,
        Err(Error::Absent(_)) if settled => SECOND_WORD_PAUSE,
        Err(Error::Absent(_)) => doubled.min(until_settled.max(FIRST_PAUSE)),
        _ => doubled,
    };
    // From three quarters to five quarters, so that what became unknown together is not asked about together.
    let pause = wanted.mul_f64(0.75 + chance / 2.0);
    let due = now.checked_add(SignedDuration::try_from(pause).unwrap_or(SETTLE_WINDOW)).unwrap_or(now);
    Some(Search {
        since: search.since,
        due,
        asked: search.asked.saturating_add(1),
        absent,
        needs_person: search.needs_person || now.duration_since(search.since) >= PERSON_AFTER,
    })
}

fn search_of(record: &Record) -> Option<&Search> {
    match record {
        Record::Payment(payment) => payment.search.as_ref(),
        Record::Refund(refund) => refund.search.as_ref(),
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
    use super::*;
    use tollgate_plugins::error::Word;

    fn search(since: Timestamp) -> Search {
        Search { since, due: since, asked: 0, absent: 0, needs_person: false }
    }

    fn absent() -> Result<Outcome, Error> {
        Err(Error::Absent(Word { code: "ORDER_NOT_EXIST".into(), message: String::new() }))
    }

    #[test]
    fn not_known_is_believed_after_the_settle_window_and_twice() {
        let start = Timestamp::UNIX_EPOCH;
        let early = after(search(start), &absent(), false, start + SignedDuration::from_secs(29), 0.5).unwrap();
        assert_eq!(early.absent, 0, "too early to count");
        let once = after(early, &absent(), false, start + SignedDuration::from_secs(31), 0.5).unwrap();
        assert_eq!(once.absent, 1);
        assert_eq!(after(once, &absent(), false, start + SignedDuration::from_secs(40), 0.5), None);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_scatter() {
        let start = Timestamp::UNIX_EPOCH;
        let trouble: Result<Outcome, Error> = Err(Error::unclear("x"));
        let mut state = search(start);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            state = after(state, &trouble, false, start, 0.5).unwrap();
            pauses.push(state.due.duration_since(start).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let low = after(search(start), &trouble, false, start, 0.0).unwrap().due;
        let high = after(search(start), &trouble, false, start, 0.999).unwrap().due;
        assert!(low < high);
    }

    #[test]
    fn after_a_day_a_person_is_asked_and_the_search_goes_on() {
        let start = Timestamp::UNIX_EPOCH;
        let trouble: Result<Outcome, Error> = Err(Error::unclear("x"));
        let state = after(search(start), &trouble, false, start + SignedDuration::from_hours(25), 0.5).unwrap();
        assert!(state.needs_person);
    }

    #[test]
    fn a_payment_at_a_till_is_watched_until_it_ends() {
        let start = Timestamp::UNIX_EPOCH;
        let pending = Ok(Outcome::of(Status::Pending));
        assert_eq!(after(search(start), &pending, false, start, 0.5), None);
        let next = after(search(start), &pending, true, start, 0.5).unwrap();
        assert_eq!(next.due.duration_since(start).as_secs(), 3);
        assert_eq!(after(next, &Ok(Outcome::of(Status::Succeeded)), true, start, 0.5), None);
    }
}
