//! Tables and their migration.
//!
//! During a rollout two versions run side by side, so a step only adds. The older version ignores the additions, and
//! a program ignores a newer database.

use super::failure::Failure;
use super::session::Session;

/// Newest version of development versions, which were never released. This program cannot read their rows.
const NEWEST_UNRELEASED: i32 = 2;

/// Migration steps. Each brings the tables to the next version, the first one from nothing to the version after
/// [`NEWEST_UNRELEASED`]. Never changed after its release.
const STEPS: [&str; 1] = [
    // Records are read by key only. Due rows are in a table of their own that stays small, so that its dead rows are
    // few and vacuumed soon. Only undelivered events have a subscription: merchant and sink. Events of merchants are
    // in the order in which their transactions began to write, which is the order of reading.
    "CREATE TABLE tollgate_records (
        space smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (space, key));
     CREATE TABLE tollgate_due (
        space smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
        subscription text COLLATE \"C\", owner bigint, leased_until timestamptz, PRIMARY KEY (space, key)
     ) WITH (autovacuum_vacuum_scale_factor = 0.05);
     CREATE INDEX tollgate_due_subscriptions ON tollgate_due (subscription, key) WHERE subscription IS NOT NULL;
     CREATE SEQUENCE tollgate_owner_numbers MAXVALUE 4294967295;
     CREATE TABLE tollgate_owners (owner bigint PRIMARY KEY, expires timestamptz NOT NULL);
     CREATE TABLE tollgate_merchant_events (
        merchant bytea NOT NULL, event bytea NOT NULL, xact bigint NOT NULL, PRIMARY KEY (merchant, event));
     CREATE INDEX tollgate_merchant_events_order ON tollgate_merchant_events (merchant, xact, event);",
];

/// Arbitrary lock number, the same in every version, so that only one process migrates at a time.
pub(super) const MIGRATION_LOCK: i64 = 0x746f_6c6c_6761_7465;

/// Migrates the tables.
pub(super) fn migrate(session: &Session) -> Result<(), Failure> {
    let newest = NEWEST_UNRELEASED + STEPS.len() as i32;
    // Checked before the lock, so that a role without the right to change tables can use existing ones.
    let is_there = session.query("SELECT to_regclass('tollgate_schema') IS NOT NULL", &[])?;
    if is_there.first().is_some_and(|row| row.get(0)) {
        match version(session)? {
            version if version >= newest => return Ok(()),
            version @ 1..=NEWEST_UNRELEASED => return Err(unreleased(version)),
            _ => {}
        }
    }
    session.run(&format!(
        "BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); CREATE TABLE IF NOT EXISTS tollgate_schema (
            version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
    ))?;
    let done = (version(session)? - NEWEST_UNRELEASED).max(0) as usize;
    for (number, step) in (NEWEST_UNRELEASED + 1..).zip(STEPS).skip(done) {
        session.run(&format!("{step} INSERT INTO tollgate_schema (version) VALUES ({number})"))?;
        tracing::info!(version = number, "the ledger's tables were migrated");
    }
    session.run("COMMIT")
}

fn version(session: &Session) -> Result<i32, Failure> {
    let rows = session.query("SELECT coalesce(max(version), 0) FROM tollgate_schema", &[])?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

fn unreleased(version: i32) -> Failure {
    Failure::other(format!(
        "the tables were made by an unreleased version of Tollgate (version {version} in `tollgate_schema`), whose rows cannot be \
         read: name an empty database in `ledger.url`, or drop every table `tollgate_*` and the sequence \
         `tollgate_owner_numbers`, which deletes all payments there"
    ))
}
