//! The queues of one sink of a merchant, as an operator sees them.

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::Ledger;
use crate::due_index::event_of_outbox;
use crate::engine::Engine;
use crate::error::LedgerError;
use crate::ids::{Id, millis_at, time};
use crate::lock_scope::LockScope;
use crate::outbox::{self, Attempted};
use crate::records::{SinkName, SinkQueue};
use crate::rows::{PaymentRow, TrackedRow};
use crate::transaction::Durability::Durable;
use crate::transaction::{Pair, Read, Transaction};

/// Maximum number of events that are rescheduled at once. One sync serves them.
const MAX_CONCURRENT_RETRIES: usize = 64;

impl Ledger {
    /// Returns what waits for a [subscription](SinkName::subscription).
    pub async fn sink_queue(&self, subscription: &str) -> Result<SinkQueue, LedgerError> {
        let rows = self.outbox_of(subscription).await?;
        let sink = SinkName::of_subscription(subscription);
        let count = move |from: &dyn Read| {
            let mut queue = SinkQueue::default();
            for (key, value) in &rows {
                queue.next.extend(event_of_outbox(key).map(|event| (outbox::event_id(event), time(millis_at(key)))));
                queue.waiting += waiting_behind(&from, &sink, key, value)?;
            }
            Ok(queue)
        };
        self.engine.read(count).await
    }

    /// Makes everything that waits for a subscription due now, as if it had not been tried. Returns the number of waiting
    /// events. Those of one payment still follow each other.
    pub async fn retry_sink(&self, subscription: &str, now: Timestamp) -> Result<u64, LedgerError> {
        let SinkQueue { next, waiting } = self.sink_queue(subscription).await?;
        // What is due may be under way.
        let later = next.into_iter().filter(|(_, due)| *due > now);
        let mut retries = JoinSet::new();
        for (event, due) in later {
            if retries.len() >= MAX_CONCURRENT_RETRIES {
                finish_one(&mut retries).await?;
            }
            let (engine, scope) = (self.engine.clone(), LockScope::Event(event.clone()));
            let row = Attempted::of_row(event, SinkName::of_subscription(subscription), due);
            let work = move |tx: &mut Transaction<'_>| outbox::postpone(tx, &row, now, 0);
            retries.spawn(async move { engine.write(Durable, scope, work).await });
        }
        while !retries.is_empty() {
            finish_one(&mut retries).await?;
        }
        Ok(waiting)
    }

    /// Returns the outbox rows of a subscription.
    async fn outbox_of(&self, subscription: &str) -> Result<Vec<Pair>, LedgerError> {
        match &self.engine {
            Engine::Embedded(engine) => Ok(engine.schedule(|schedule| {
                let rows = schedule.outbox.get(subscription).into_iter().flatten();
                rows.map(|(key, value)| (key.clone(), value.clone())).collect()
            })),
            Engine::Postgres(engine) => engine.outbox_of(subscription.to_owned()).await,
        }
    }
}

/// Returns the number of events from the one of an outbox row to the end of its queue.
fn waiting_behind(from: &impl Read, sink: &SinkName, key: &[u8], value: &[u8]) -> Result<u64, LedgerError> {
    let payment = Id::from_bytes(value.get(4..20).unwrap_or_default())?;
    // A redelivery is no head of a queue, and its payment may be purged.
    let queues = TrackedRow::<PaymentRow>::load(from, payment)?.map(|payment| payment.row.queues).unwrap_or_default();
    let queue = queues.into_iter().find(|queue| queue.sink == *sink && Some(queue.first) == event_of_outbox(key));
    Ok(queue.map_or(1, |queue| queue.waiting))
}

async fn finish_one(retries: &mut JoinSet<Result<(), LedgerError>>) -> Result<(), LedgerError> {
    match retries.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(LedgerError::Internal(error.to_string())),
        None => Ok(()),
    }
}
