//! The tables, and how they come up to date by themselves.
//!
//! Two versions of the program run side by side while one is rolled out, so a step only ever adds: the older version goes
//! on as if nothing had happened, and a database that is newer than this program is none of its concern.

use super::session::{Failure, Session};
use crate::ledger::transaction::Space;

/// Each brings the tables from its position's version to the next. Never changed once released.
const STEPS: [&str; 1] = [
    // Records are found by key alone. What is due is apart, in a table that stays small, so that the dead rows of what was
    // done are few and soon gone.
    "CREATE TABLE tollgate_records (
        space smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (space, key));
     CREATE TABLE tollgate_due (
        space smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
        lane text COLLATE \"C\", owner bigint, taken_until timestamptz, PRIMARY KEY (space, key)
     ) WITH (autovacuum_vacuum_scale_factor = 0.05);
     CREATE INDEX tollgate_lanes ON tollgate_due (lane, key) WHERE lane IS NOT NULL;
     CREATE SEQUENCE tollgate_owner_numbers MAXVALUE 4294967295;
     CREATE TABLE tollgate_owners (owner bigint PRIMARY KEY, expires timestamptz NOT NULL);",
];

/// Any number; the same in every version, so that only one process at a time brings the tables up to date.
const LOCK: i64 = 0x746f_6c6c_6761_7465;

/// Brings the tables up to date.
pub(super) fn migrate(session: &Session) -> Result<(), Failure> {
    let newest = STEPS.len() as i32;
    // Without the lock first, so that whoever may not change tables can run on tables that are there.
    let is_there = session.query("SELECT to_regclass('tollgate_schema') IS NOT NULL", &[])?;
    if is_there.first().is_some_and(|row| row.get(0)) && version(session)? >= newest {
        return Ok(());
    }
    session.run(&format!(
        "BEGIN; SELECT pg_advisory_xact_lock({LOCK}); CREATE TABLE IF NOT EXISTS tollgate_schema (
            version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
    ))?;
    for (number, step) in (1..).zip(STEPS).skip(version(session)?.max(0) as usize) {
        session.run(&format!("{step} INSERT INTO tollgate_schema (version) VALUES ({number})"))?;
        tracing::info!(version = number, "the ledger's tables were brought up to date");
    }
    session.run("COMMIT")
}

fn version(session: &Session) -> Result<i32, Failure> {
    let rows = session.query("SELECT coalesce(max(version), 0) FROM tollgate_schema", &[])?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

/// How a space is numbered in the tables.
pub(super) fn number(space: Space) -> i16 {
    space as i16
}

/// Events that no merchant has yet: only counted.
pub(super) const QUEUED: i16 = 100;

/// What the ledger knows of itself, among the records: its name and the moves that filled it.
pub(super) const ABOUT: i16 = 101;

/// Whether rows of a space are waiting for something; they are in a table of their own.
pub(super) fn is_due(space: Space) -> bool {
    matches!(space, Space::Running | Space::Outbox | Space::Inquiries | Space::Unknown | Space::Jobs)
}

/// Whether a row of a space is written once and never changed: then a second one under the same key is refused, which is
/// the last line behind the locks.
pub(super) fn is_unique(space: Space) -> bool {
    matches!(space, Space::Index | Space::Keys)
}
