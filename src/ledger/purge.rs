//! The old goes in small batches, so that nobody waits for it.
//!
//! A round walks along each list from its old end. What must stay is met again in the next round, and only that: what is
//! gone is not walked over again. Several processes may walk at once: each row is looked at again, alone with its order,
//! before it goes, and what is gone already goes no further.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::engine::Durability::Applied;
use super::engine::Engine;
use super::ids::{millis, millis_at};
use super::lock_scope::LockScope;
use super::records::LedgerError;
use super::retention::{Expired, Kind, RetentionPolicy, expired};
use super::transaction::{Read, Space, Transaction, Watched};
use crate::telemetry::METRICS;

/// So many of a list are looked at together.
const BATCH: usize = 32;

/// How far the purge has come. A new one begins at the old end of everything, wherever the one before was.
#[derive(Default)]
pub struct Purge {
    /// On which list it is.
    list: usize,
    /// How far on each.
    walks: [Walk; Kind::ALL.len()],
}

/// One list's round.
#[derive(Clone, Default)]
struct Walk {
    /// Where it goes on.
    next: Vec<u8>,
    /// The first that had to stay in this round: there the next one begins.
    stayed: Option<Vec<u8>>,
}

/// As [`Ledger::purge`](super::Ledger::purge).
pub(super) async fn step(
    engine: &Engine,
    purge: &mut Purge,
    keep: &RetentionPolicy,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    let kind = Kind::ALL[purge.list];
    let walk = &mut purge.walks[purge.list];
    let next = walk.next.clone().max(kind.prefix().to_vec());
    let keys = engine.keys(kind.space(), next, kind.until(keep, now), BATCH).await?;
    let gone = forget(engine, kind, keys.clone(), *keep, now).await?;
    walk.stayed = walk.stayed.take().or_else(|| keys.iter().find(|key| !gone.contains(key)).cloned());
    if let Some(last) = keys.last() {
        // The first key behind it.
        walk.next = [last.as_slice(), &[0]].concat();
    }
    if keys.len() == BATCH {
        return Ok(false);
    }
    if let Some(stayed) = walk.stayed.take() {
        walk.next = stayed;
    }
    show_oldest(engine, kind, walk.next.clone(), now).await?;
    purge.list = (purge.list + 1) % Kind::ALL.len();
    Ok(purge.list == 0)
}

/// Lets those of the keys go that may go; tells which.
async fn forget(
    engine: &Engine,
    kind: Kind,
    keys: Vec<Vec<u8>>,
    keep: RetentionPolicy,
    now: Timestamp,
) -> Result<Vec<Vec<u8>>, LedgerError> {
    let look = move |from: &dyn Read| Ok(all_old(&from, kind, keys.clone(), &keep, now));
    let found = engine.read_uncommitted_view(look).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let names = found.iter().flat_map(|(_, old)| old.names.clone()).collect();
    let keys: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
    let work = move |tx: &mut Transaction<'_>| {
        // Somebody may have been faster, or needs it again.
        let found = all_old(tx, kind, keys.clone(), &keep, now);
        let rows = found.iter().flat_map(|(_, old)| &old.rows);
        let mut counts = BTreeMap::<Space, u64>::new();
        for (space, key) in rows {
            tx.remove(*space, key);
            *counts.entry(*space).or_default() += 1;
        }
        Ok((found.into_iter().map(|(key, _)| key).collect(), counts))
    };
    let (gone, counts) = engine.write(Applied, LockScope::Names(names), work).await?;
    for (space, count) in counts {
        METRICS.ledger_purged_total.with_label_values(&[space.name()]).inc_by(count);
    }
    Ok(gone)
}

/// Those that may go. One that cannot be read stays and keeps no other.
fn all_old(
    from: &impl Read,
    kind: Kind,
    keys: Vec<Vec<u8>>,
    keep: &RetentionPolicy,
    now: Timestamp,
) -> Vec<(Vec<u8>, Expired)> {
    let from = Watched::new(from);
    let look = |key: Vec<u8>| match expired(&from, kind, &key, keep, now) {
        Ok(old) => old.map(|old| (key, old)),
        Err(error) => {
            from.report(&error, &format!("an old row of the {}, which stays,", kind.name()));
            None
        }
    };
    keys.into_iter().filter_map(look).collect()
}

/// How old the oldest is that is left.
async fn show_oldest(engine: &Engine, kind: Kind, from: Vec<u8>, now: Timestamp) -> Result<(), LedgerError> {
    let oldest = engine.keys(kind.space(), from.max(kind.prefix().to_vec()), kind.end(), 1).await?;
    let since = oldest.first().map(|key| millis_at(key.get(kind.prefix().len()..).unwrap_or_default()));
    let age = since.map_or(0, |since| millis(now).saturating_sub(since));
    METRICS.ledger_oldest_seconds.with_label_values(&[kind.name()]).set(age as f64 / 1000.0);
    Ok(())
}
