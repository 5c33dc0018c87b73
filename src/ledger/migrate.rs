//! An embedded ledger's way into PostgreSQL, when one gateway becomes several.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;

use super::claims;
use super::embedded::{self, View};
use super::ids::Id;
use super::moved::Mark;
use super::outbox;
use super::postgres::{Address, Begun, Filling};
use super::records::LedgerError;
use super::rows::{PaymentRow, TrackedRow};
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
///
/// From then on the embedded ledger is marked as moved and refuses to be opened. A move that a crash interrupted is finished by
/// calling this again.
pub fn migrate(from: &Path, to: Address) -> Result<Moved, LedgerError> {
    if !embedded::holds_ledger(from).map_err(|error| LedgerError(format!("{}: {error}", from.display())))? {
        return Err(LedgerError(format!("there is none in {}; name the directory of the old one", from.display())));
    }
    let begun = match Mark::read(from)? {
        Some(Mark { complete: true, to, at, .. }) => {
            return Err(LedgerError(format!("the ledger in {} was moved to {to} at {at} already", from.display())));
        }
        // That one may have all rows, which cannot be seen from here.
        Some(mark) if mark.to != to.to_string() => {
            let Mark { to: first, at, .. } = mark;
            return Err(LedgerError(format!(
                "a move to {first} began at {at} and may be complete: name that PostgreSQL in `ledger.url` to finish it"
            )));
        }
        begun => begun,
    };
    // Open until the end, so that no gateway starts on it meanwhile.
    let engine = embedded::Engine::open(from, 0, |tx, running| claims::recover(tx, running, Timestamp::now()))?;
    let view = engine.view()?;
    // The server is waited for on a thread of its own: who calls may be a task.
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| fill(&view, from, begun, &to)).join();
        moved.unwrap_or_else(|_| Err(LedgerError("it panicked".to_owned())))
    })
}

fn fill(view: &View<'_>, from: &Path, begun: Option<Mark>, to: &Address) -> Result<Moved, LedgerError> {
    let mark = begun.unwrap_or_else(|| Mark::begin(to.to_string()));
    let mut counts = Vec::new();
    let filling = match Filling::begin(to, &mark.id)? {
        Begun::Filling(filling) => filling,
        // The commit of the first run was done, and only the mark was not finished.
        Begun::Complete => {
            Mark { complete: true, ..mark }.write(from)?;
            for space in Space::ALL {
                counts.push((space.name(), view.each(space).count()));
            }
            return Ok(Moved(counts));
        }
    };
    for space in Space::ALL {
        let (mut count, mut batch) = (0, Writes::default());
        for row in view.each(space) {
            let (key, value) = row?;
            if space == Space::Payments {
                let tracked = TrackedRow::<PaymentRow>::must(view, Id::from_bytes(&key)?)?;
                batch.queued.extend(outbox::waiting(view, &tracked.row)?.into_iter().map(|event| (event, true)));
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
    // Before the rows can be seen: a crash in between leaves two ledgers of which nobody can use either.
    mark.write(from)?;
    filling.end(&mark.id)?;
    Mark { complete: true, ..mark }.write(from)?;
    Ok(Moved(counts))
}
