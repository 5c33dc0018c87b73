//! An empty ledger that is filled with another's rows, in one transaction.

use super::address::Address;
use super::feed::ALL;
use super::save::save;
use super::schema;
use super::session::Session;
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::Writes;

/// A ledger while it is filled. Dropped before its [`end`](Self::end), it is as empty as before.
pub(in crate::ledger) struct Filling(Session);

impl Filling {
    /// Refuses a ledger in which there is something. Nobody else writes until the end.
    pub(in crate::ledger) fn begin(to: &Address) -> Result<Self, LedgerError> {
        let session = Session::connect(to)?;
        schema::migrate(&session)?;
        session.run("BEGIN; LOCK TABLE tollgate_records, tollgate_due IN EXCLUSIVE MODE")?;
        let used =
            session.query("SELECT EXISTS (SELECT FROM tollgate_records) OR EXISTS (SELECT FROM tollgate_due)", &[])?;
        if used.first().is_none_or(|row| row.get(0)) {
            let why = format!("there are payments in the {to} already; a ledger is moved into an empty one only");
            return Err(LedgerError(why));
        }
        Ok(Self(session))
    }

    pub(in crate::ledger) fn add(&self, rows: &Writes) -> Result<(), LedgerError> {
        // Nothing runs in it, so nobody owns anything.
        Ok(save(&self.0, rows, 0)?)
    }

    pub(in crate::ledger) fn end(self) -> Result<(), LedgerError> {
        // Whoever runs on it already knows of nothing that is in it now.
        Ok(self.0.run(&format!("{ALL}; COMMIT"))?)
    }
}
