//! Migration of an embedded ledger to PostgreSQL.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::claims;
use super::embedded::{self, View};
use super::environment::Environment;
use super::error::LedgerError;
use super::ids::Id;
use super::moved::Mark;
use super::outbox;
use super::postgres::{Address, Begun, Filling};
use super::rows::{PaymentRow, TrackedRow};
use super::transaction::{Space, Writes};

/// Number of rows in a batch.
const ROWS_PER_BATCH: usize = 500;

/// Number of migrated rows of each kind.
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

/// Copies an embedded ledger that no gateway runs on into an empty one in PostgreSQL, in one transaction. Claims that
/// were running become unknown, as after any start.
///
/// The embedded ledger is then marked as moved and cannot be opened. If a crash interrupts the migration, calling
/// this function again completes it.
pub fn migrate(from: &Path, to: Address, environment: Environment) -> Result<Moved, LedgerError> {
    let cannot_open = |error| LedgerError::CannotOpen { path: from.to_owned(), source: Arc::new(error) };
    if !embedded::holds_ledger(from).map_err(cannot_open)? {
        let why = format!("{} holds no ledger: name the directory of the old one", from.display());
        return Err(LedgerError::MoveFailed(why));
    }
    let begun = match Mark::read(from)? {
        Some(Mark { complete: true, to, at, .. }) => {
            let why = format!("the ledger in {} was moved to {to} at {at} already", from.display());
            return Err(LedgerError::MoveFailed(why));
        }
        // The earlier migration may have copied all rows, which cannot be checked here.
        Some(mark) if mark.to != to.to_string() => {
            let Mark { to: first, at, .. } = mark;
            return Err(LedgerError::MoveFailed(format!(
                "a move to {first} began at {at} and may be complete: name that PostgreSQL in `ledger.url` to finish it"
            )));
        }
        begun => begun,
    };
    // Stays open until the end, so that no gateway can start on the ledger.
    let now = environment.now();
    let engine = embedded::Engine::open(from, 0, environment, move |tx, running| claims::recover(tx, running, now))?;
    let view = engine.view()?;
    // The caller may be an async task, so the server is waited for on another thread.
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| fill(&view, from, begun, &to)).join();
        moved.unwrap_or_else(|_| Err(LedgerError::Internal("the migration panicked".to_owned())))
    })
}

fn fill(view: &View<'_>, from: &Path, begun: Option<Mark>, to: &Address) -> Result<Moved, LedgerError> {
    let mark = begun.unwrap_or_else(|| Mark::begin(to.to_string()));
    let mut counts = Vec::new();
    let filling = match Filling::begin(to, &mark.id)? {
        Begun::Filling(filling) => filling,
        // The earlier migration was committed, and only the mark was not completed.
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
                batch.queued.extend(outbox::waiting(view, &tracked.row)?.into_iter().map(|event| (event.into(), true)));
            }
            batch.rows.insert(space, key, Some(value.into()));
            count += 1;
            if batch.rows.len() == ROWS_PER_BATCH {
                filling.add(&std::mem::take(&mut batch))?;
            }
        }
        filling.add(&batch)?;
        counts.push((space.name(), count));
    }
    // Written before the rows are visible. After a crash in between, neither ledger can be used.
    mark.write(from)?;
    filling.end(&mark.id)?;
    Mark { complete: true, ..mark }.write(from)?;
    Ok(Moved(counts))
}
