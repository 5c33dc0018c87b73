//! Purge of expired rows in small batches, so that it delays no other transaction.
//!
//! A round scans each list from its oldest key. A retained key is scanned again in the next round; a purged one is
//! not. Several processes may purge at once: each row is checked again under its order's lock before it is deleted.

mod candidates;

use std::collections::BTreeMap;

use jiff::Timestamp;

use self::candidates::expired;
use super::engine::Engine;
use super::environment::Measurement;
use super::error::LedgerError;
use super::ids::{millis, millis_at};
use super::lock_scope::LockScope;
use super::retention::{Expired, Kind, RetentionPolicy};
use super::transaction::Durability::Applied;
use super::transaction::{Read, Space, Transaction, report_unreadable};

/// Number of keys that are checked together.
const KEYS_PER_BATCH: usize = 32;

/// Position of the purge. A new one starts at the oldest keys.
#[derive(Default)]
pub struct Purge {
    /// Index of the present list.
    list: usize,
    /// Position in each list.
    walks: [Walk; Kind::ALL.len()],
}

/// Position in one list.
#[derive(Clone, Default)]
struct Walk {
    /// Next key to check.
    next: Vec<u8>,
    /// First retained key of this round, where the next round starts.
    stayed: Option<Vec<u8>>,
}

/// Implements [`Ledger::purge`](super::Ledger::purge).
pub(super) async fn step(
    engine: &Engine,
    purge: &mut Purge,
    keep: &RetentionPolicy,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    let kind = Kind::ALL[purge.list];
    let walk = &mut purge.walks[purge.list];
    let next = walk.next.clone().max(kind.prefix().to_vec());
    let keys = engine.keys(kind.space(), next, kind.until(keep, now), KEYS_PER_BATCH).await?;
    let purged = purge_expired(engine, kind, keys.clone(), *keep, now).await?;
    walk.stayed = walk.stayed.take().or_else(|| keys.iter().find(|key| !purged.contains(key)).cloned());
    if let Some(last) = keys.last() {
        // The first possible key after the last one.
        walk.next = [last.as_slice(), &[0]].concat();
    }
    if keys.len() == KEYS_PER_BATCH {
        return Ok(false);
    }
    if let Some(stayed) = walk.stayed.take() {
        walk.next = stayed;
    }
    export_oldest_age(engine, kind, walk.next.clone(), now).await?;
    purge.list = (purge.list + 1) % Kind::ALL.len();
    Ok(purge.list == 0)
}

/// Purges the expired keys and returns them.
async fn purge_expired(
    engine: &Engine,
    kind: Kind,
    keys: Vec<Vec<u8>>,
    keep: RetentionPolicy,
    now: Timestamp,
) -> Result<Vec<Vec<u8>>, LedgerError> {
    let check = move |from: &dyn Read| Ok(all_expired(&from, kind, keys.clone(), &keep, now));
    let found = engine.read_uncommitted_view(check).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let names = found.iter().flat_map(|(_, old)| old.names.clone()).collect();
    let keys: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
    let work = move |tx: &mut Transaction<'_>| {
        // Checked again under the lock: another process may have purged a row, or a request may need it.
        let found = all_expired(tx, kind, keys.clone(), &keep, now);
        let rows = found.iter().flat_map(|(_, old)| &old.rows);
        let mut counts = BTreeMap::<Space, u64>::new();
        for (space, key) in rows {
            tx.remove(*space, key);
            *counts.entry(*space).or_default() += 1;
        }
        Ok((found.into_iter().map(|(key, _)| key).collect(), counts))
    };
    let (purged, counts) = engine.write(Applied, LockScope::Names(names), work).await?;
    for (space, count) in counts {
        engine.environment().metrics.record(Measurement::Purged { rows: space.name(), count });
    }
    Ok(purged)
}

/// Returns the expired keys. A row that cannot be read is retained and does not block the others.
fn all_expired(
    from: &impl Read,
    kind: Kind,
    keys: Vec<Vec<u8>>,
    keep: &RetentionPolicy,
    now: Timestamp,
) -> Vec<(Vec<u8>, Expired)> {
    let check = |key: Vec<u8>| match expired(from, kind, &key, keep, now) {
        Ok(old) => old.map(|old| (key, old)),
        Err(error) => {
            report_unreadable(&error, &format!("an old row of the {}, which stays,", kind.name()));
            None
        }
    };
    keys.into_iter().filter_map(check).collect()
}

/// Exports the age of the oldest remaining row.
async fn export_oldest_age(engine: &Engine, kind: Kind, from: Vec<u8>, now: Timestamp) -> Result<(), LedgerError> {
    let oldest = engine.keys(kind.space(), from.max(kind.prefix().to_vec()), kind.end(), 1).await?;
    let since = oldest.first().map(|key| millis_at(key.get(kind.prefix().len()..).unwrap_or_default()));
    let age = since.map_or(0, |since| millis(now).saturating_sub(since));
    let measurement = Measurement::OldestRow { kind: kind.name(), seconds: age as f64 / 1000.0 };
    engine.environment().metrics.record(measurement);
    Ok(())
}
