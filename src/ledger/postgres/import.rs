//! An empty ledger that is filled with another's rows, in one transaction.

use super::address::Address;
use super::feed::ALL;
use super::origin;
use super::save::save;
use super::schema::{self, ABOUT};
use super::session::Session;
use crate::ledger::known_time;
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::{Space, Writes};

/// A ledger while it is filled. Dropped before its [`end`](Self::end), it is as empty as before.
pub(in crate::ledger) struct Filling(Box<Session>);

/// State of a ledger that is to be filled.
pub(in crate::ledger) enum Begun {
    /// It is empty.
    Filling(Filling),
    /// The same move has filled it before.
    Complete,
}

impl Filling {
    /// Begins the move with this id, or continues it. Refuses a ledger that has payments from elsewhere. Nobody else writes until
    /// the end.
    pub(in crate::ledger) fn begin(to: &Address, id: &str) -> Result<Begun, LedgerError> {
        const USED: &str = "\
            SELECT EXISTS (SELECT FROM tollgate_records WHERE space <> $1 AND NOT (space = $2 AND key = $3)) \
            OR EXISTS (SELECT FROM tollgate_due)";
        let session = Session::connect(to)?;
        schema::migrate(&session)?;
        // An interrupted move may be committing still: the lock waits for its end.
        session.run("BEGIN; LOCK TABLE tollgate_records, tollgate_due IN EXCLUSIVE MODE")?;
        if origin::moves(&session)?.iter().any(|known| known == id) {
            return Ok(Begun::Complete);
        }
        // A gateway that was only started has written the ledger's time and nothing else.
        if session
            .query(USED, &[&ABOUT, &schema::number(Space::Expiry), &known_time::KEY])?
            .first()
            .is_none_or(|row| row.get(0))
        {
            let why = format!("there are payments in the {to} already; a ledger is moved into an empty one only");
            return Err(LedgerError(why));
        }
        Ok(Begun::Filling(Self(Box::new(session))))
    }

    pub(in crate::ledger) fn add(&self, rows: &Writes) -> Result<(), LedgerError> {
        // Nothing runs in it, so nobody owns anything.
        Ok(save(&self.0, rows, 0)?)
    }

    /// Commits all rows, with the move's id.
    pub(in crate::ledger) fn end(self, id: &str) -> Result<(), LedgerError> {
        origin::moved(&self.0, id)?;
        // Whoever runs on it already knows of nothing that is in it now.
        Ok(self.0.run(&format!("{ALL}; COMMIT"))?)
    }
}
