//! Identity of a ledger: a random name, which copies keep, and the migrations that filled it.

use super::failure::Failure;
use super::session::Session;
use super::tables::METADATA;
use crate::error::LedgerError;

/// Key of the ledger's name.
const NAME: &[u8] = b"name";
/// Key prefix of migrations.
const MIGRATION: &[u8] = b"migration:";

/// Returns the ledger's name, which is created at the first call.
pub(super) fn name(session: &Session) -> Result<String, Failure> {
    const CREATE_NAME: &str = "\
        INSERT INTO tollgate_records (space, key, value) VALUES ($1, $2, decode(md5(gen_random_uuid()::text), 'hex'))
        ON CONFLICT (space, key) DO NOTHING";
    const READ_NAME: &str = "SELECT encode(value, 'hex') FROM tollgate_records WHERE space = $1 AND key = $2";
    let mut rows = session.query(READ_NAME, &[&METADATA, &NAME])?;
    if rows.is_empty() {
        session.query(CREATE_NAME, &[&METADATA, &NAME])?;
        rows = session.query(READ_NAME, &[&METADATA, &NAME])?;
    }
    let name = rows.first().map(|row| row.get(0));
    name.ok_or_else(|| Failure::other("PostgreSQL did not store the name of the ledger"))
}

/// Returns the ids of the migrations that filled this ledger.
pub(super) fn migrations(session: &Session) -> Result<Vec<String>, Failure> {
    const READ_MIGRATIONS: &str = "SELECT key FROM tollgate_records WHERE space = $1 AND key >= $2 AND key < $3";
    let until: &[u8] = b"migration;";
    let rows = session.query(READ_MIGRATIONS, &[&METADATA, &MIGRATION, &until])?;
    let id = |key: &[u8]| String::from_utf8_lossy(key.get(MIGRATION.len()..).unwrap_or_default()).into_owned();
    Ok(rows.iter().map(|row| id(row.get(0))).collect())
}

/// Records the migration that fills this ledger.
pub(super) fn record_migration(session: &Session, id: &str) -> Result<(), Failure> {
    const INSERT_MIGRATION: &str = "INSERT INTO tollgate_records (space, key, value) VALUES ($1, $2, '')";
    let key = [MIGRATION, id.as_bytes()].concat();
    session.query(INSERT_MIGRATION, &[&METADATA, &key]).map(drop)
}

/// Returns the id of the server, the database and the tables.
pub(super) fn identity(session: &Session) -> Result<String, LedgerError> {
    const IDENTITY: &str = "\
        SELECT concat_ws('-', system_identifier,
            (SELECT oid FROM pg_database WHERE datname = current_database()), 'tollgate_records'::regclass::oid)
        FROM pg_control_system()";
    let rows = session.query(IDENTITY, &[])?;
    rows.first().map(|row| row.get(0)).ok_or_else(|| Failure::other("PostgreSQL returned no identity").into())
}
