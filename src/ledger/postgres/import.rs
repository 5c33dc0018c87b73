//! Bulk import of another ledger's rows into an empty ledger, in one transaction.

use super::address::Address;
use super::feed::ANNOUNCE_ALL;
use super::origin;
use super::save::save;
use super::schema;
use super::session::Session;
use super::tables::{self, METADATA};
use crate::error::LedgerError;
use crate::retention::{KNOWN_TIME_KEY, SECRET_KEY};
use crate::transaction::{Space, Writes};

/// Ledger during an import. If dropped before [`end`](Self::end), the import is rolled back.
pub(crate) struct Filling(Box<Session>);

/// State of the target of an import.
pub(crate) enum Begun {
    /// The ledger is empty.
    Filling(Filling),
    /// The ledger was filled earlier, by the same migration.
    Complete,
}

impl Filling {
    /// Begins or continues the migration with this id. Fails if the ledger contains payments from elsewhere. No other
    /// process can write until the end.
    pub(crate) fn begin(to: &Address, id: &str) -> Result<Begun, LedgerError> {
        const USED: &str = "\
            SELECT EXISTS (SELECT FROM tollgate_records WHERE space <> $1 AND NOT (space = $2 AND key = ANY ($3))) \
            OR EXISTS (SELECT FROM tollgate_due)";
        let session = Session::connect(to)?;
        schema::migrate(&session)?;
        // An interrupted migration may still be committing; the lock waits for its end.
        session.run("BEGIN; LOCK TABLE tollgate_records, tollgate_due IN EXCLUSIVE MODE")?;
        if origin::migrations(&session)?.iter().any(|known| known == id) {
            return Ok(Begun::Complete);
        }
        // A gateway without payments has written the ledger's clock and secret at most.
        let unused: &[&[u8]] = &[KNOWN_TIME_KEY, SECRET_KEY];
        let used = session.query(USED, &[&METADATA, &tables::number(Space::Expiry), &unused])?;
        if used.first().is_none_or(|row| row.get(0)) {
            let why = format!("there are payments in the {to} already; a ledger is moved into an empty one only");
            return Err(LedgerError::MoveFailed(why));
        }
        Ok(Begun::Filling(Self(Box::new(session))))
    }

    pub(crate) fn add(&self, rows: &Writes) -> Result<(), LedgerError> {
        // Nothing is running in the copy, so no process owns a claim.
        Ok(save(&self.0, rows, 0)?)
    }

    /// Commits all rows with the id of the migration.
    pub(crate) fn end(self, id: &str) -> Result<(), LedgerError> {
        origin::record_migration(&self.0, id)?;
        // Tells running gateways to discard their caches.
        Ok(self.0.run(&format!("{ANNOUNCE_ALL}; COMMIT"))?)
    }
}
