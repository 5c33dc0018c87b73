//! Tables and their migration.
//!
//! During a rollout two versions run side by side, so a step only adds. The older version ignores the additions, and
//! a program ignores a newer database.

use super::failure::Failure;
use super::session::Session;

/// Migration steps. Each brings the tables from the version of its position to the next. Never changed after its
/// release.
const STEPS: [&str; 2] = [
    // Records are read by key only. Due rows are in a table of their own that stays small, so that its dead rows are
    // few and vacuumed soon. Only undelivered events have a subscription: merchant and sink.
    "CREATE TABLE tollgate_records (
        space smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (space, key));
     CREATE TABLE tollgate_due (
        space smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
        subscription text COLLATE \"C\", owner bigint, leased_until timestamptz, PRIMARY KEY (space, key)
     ) WITH (autovacuum_vacuum_scale_factor = 0.05);
     CREATE INDEX tollgate_due_subscriptions ON tollgate_due (subscription, key) WHERE subscription IS NOT NULL;
     CREATE SEQUENCE tollgate_owner_numbers MAXVALUE 4294967295;
     CREATE TABLE tollgate_owners (owner bigint PRIMARY KEY, expires timestamptz NOT NULL);",
    // Events in the order in which their transactions began to write, which is the order of reading.
    "CREATE TABLE tollgate_merchant_events (
        merchant bytea NOT NULL, event bytea NOT NULL, xact bigint NOT NULL, PRIMARY KEY (merchant, event));
     CREATE INDEX tollgate_merchant_events_order ON tollgate_merchant_events (merchant, xact, event);",
];

/// Arbitrary lock number, the same in every version, so that only one process migrates at a time.
const MIGRATION_LOCK: i64 = 0x746f_6c6c_6761_7465;

/// Migrates the tables.
pub(super) fn migrate(session: &Session) -> Result<(), Failure> {
    let newest = STEPS.len() as i32;
    // Checked before the lock, so that a role without the right to change tables can use existing ones.
    let is_there = session.query("SELECT to_regclass('tollgate_schema') IS NOT NULL", &[])?;
    if is_there.first().is_some_and(|row| row.get(0)) && version(session)? >= newest {
        return Ok(());
    }
    session.run(&format!(
        "BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); CREATE TABLE IF NOT EXISTS tollgate_schema (
            version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
    ))?;
    for (number, step) in (1..).zip(STEPS).skip(version(session)?.max(0) as usize) {
        session.run(&format!("{step} INSERT INTO tollgate_schema (version) VALUES ({number})"))?;
        tracing::info!(version = number, "the ledger's tables were migrated");
    }
    session.run("COMMIT")
}

fn version(session: &Session) -> Result<i32, Failure> {
    let rows = session.query("SELECT coalesce(max(version), 0) FROM tollgate_schema", &[])?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}
