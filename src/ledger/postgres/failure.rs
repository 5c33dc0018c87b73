//! Failure of a statement, classified by PostgreSQL's error code and never by its text.

use std::sync::Arc;

use tokio_postgres::error::SqlState;

use super::address::chain;
use crate::error::{Cause, LedgerError};

/// Error codes that a transaction pooler causes.
pub(super) const POOLER: &str = "LISTEN or prepared statements do not work over this connection: is it a pooler in transaction mode? Name \
    PostgreSQL itself in `ledger.url`, or a pooler in session mode";

/// Failure of a statement.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) why: String,
    /// Error of the client, if it reported one.
    pub(super) source: Option<Cause>,
}

/// Kind, which decides whether to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection is unusable; another one may work.
    Lost,
    /// The server, the database or the role allows no more connections.
    Crowded,
    /// A conflict with other transactions (serialization, deadlock, lock timeout) or a cancellation; a retry may
    /// succeed.
    Conflict,
    /// A retry would fail again.
    Other,
}

impl Failure {
    pub(super) fn other(why: impl Into<String>) -> Self {
        Self { kind: Kind::Other, why: why.into(), source: None }
    }

    pub(super) fn disconnected(why: impl Into<String>) -> Self {
        Self { kind: Kind::Lost, why: why.into(), source: None }
    }

    /// Classifies an error of the client.
    pub(super) fn of(error: tokio_postgres::Error) -> Self {
        let mut why = format!("PostgreSQL: {}", chain(&error));
        let kind = match error.code() {
            // An error of the network or the protocol.
            None => Kind::Lost,
            Some(code) => {
                if is_pooler(code) {
                    why = format!("{why} ({POOLER})");
                }
                kind(code)
            }
        };
        Self { kind, why, source: Some(Arc::new(error)) }
    }
}

impl From<Failure> for LedgerError {
    fn from(Failure { kind, why, source }: Failure) -> Self {
        match kind {
            Kind::Lost | Kind::Crowded => Self::Unreachable { why, source },
            Kind::Conflict => Self::Conflict { why, source },
            Kind::Other => Self::Refused { why, source },
        }
    }
}

fn kind(code: &SqlState) -> Kind {
    const CONFLICTS: [SqlState; 4] = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
    ];
    // The server shuts down, became a standby, or lost the session's state.
    const LOST: [SqlState; 7] = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::DATABASE_DROPPED,
    ];
    if *code == SqlState::TOO_MANY_CONNECTIONS {
        Kind::Crowded
    } else if CONFLICTS.contains(code) {
        Kind::Conflict
    // Class 08: connection exception. 57P05: idle session timeout.
    } else if LOST.contains(code) || is_pooler(code) || code.code().starts_with("08") || code.code() == "57P05" {
        Kind::Lost
    } else {
        Kind::Other
    }
}

/// Returns whether a prepared statement is missing or belongs to another session.
fn is_pooler(code: &SqlState) -> bool {
    [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_classified_by_error_code() {
        for (codes, expected) in [
            (
                &["25006", "57P01", "57P02", "57P03", "57P05", "25P03", "26000", "42P05", "0A000", "08006", "08P01"][..],
                Kind::Lost,
            ),
            (&["53300"], Kind::Crowded),
            (&["40001", "40P01", "55P03", "57014"], Kind::Conflict),
            (&["23505", "42501", "22001", "XX001"], Kind::Other),
        ] {
            for code in codes {
                assert_eq!(kind(&SqlState::from_code(code)), expected, "{code}");
            }
        }
    }
}
