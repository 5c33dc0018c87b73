//! An embedded ledger's way into PostgreSQL, when one gateway becomes several.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;

use super::claims;
use super::embedded::{self, View};
use super::ids::Id;
use super::outbox;
use super::postgres::{Address, Filling};
use super::records::LedgerError;
use super::rows::{Kept, PaymentRow};
use super::transaction::{Space, Writes};

/// So many rows at a time.
const BATCH: usize = 500;

/// How many rows of each kind were moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved(Vec<(&'static str, usize)>);

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.0 {
            writeln!(f, "{name:<9} {count:>9}")?;
        }
        Ok(())
    }
}

/// Copies everything of an embedded ledger that no gateway runs on into an empty one in PostgreSQL: all of it or nothing.
/// What was running when its last gateway ended is unknown then, as after any start.
pub fn migrate(from: &Path, to: Address) -> Result<Moved, LedgerError> {
    let is_empty = std::fs::read_dir(from).map_or(true, |mut entries| entries.next().is_none());
    if is_empty {
        return Err(LedgerError(format!("there is none in {}; name the directory of the old one", from.display())));
    }
    // Open until the end, so that no gateway starts on it meanwhile.
    let engine = embedded::Engine::open(from, 0, |tx, running| claims::recover(tx, running, Timestamp::now()))?;
    let view = engine.view()?;
    // The server is waited for on a thread of its own: who calls may be a task.
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| fill(&view, &to)).join();
        moved.unwrap_or_else(|_| Err(LedgerError("it panicked".to_owned())))
    })
}

fn fill(view: &View<'_>, to: &Address) -> Result<Moved, LedgerError> {
    let filling = Filling::begin(to)?;
    let mut counts = Vec::new();
    for space in Space::ALL {
        let (mut count, mut batch) = (0, Writes::default());
        for row in view.each(space) {
            let (key, value) = row?;
            if space == Space::Payments {
                let kept = Kept::<PaymentRow>::must(view, Id::from_bytes(&key)?)?;
                batch.queued.extend(outbox::waiting(view, &kept.row)?.into_iter().map(|event| (event, true)));
            }
            batch.rows.insert(space, key, Some(value.into()));
            count += 1;
            if batch.rows.len() == BATCH {
                filling.add(&std::mem::take(&mut batch))?;
            }
        }
        filling.add(&batch)?;
        counts.push((space.name(), count));
    }
    filling.end()?;
    Ok(Moved(counts))
}
