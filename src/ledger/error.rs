//! Errors of the ledger, by what their receiver can do.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

/// Source of an error. One failure is the error of every transaction that waited for it, so the source is shared.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Reason why the ledger failed or refused. Unless a variant says otherwise, nothing was recorded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Less than the reserve is free. Only new claims are refused; they are accepted again once space is free.
    #[error("less than {} MiB free on {}: new payments are rejected until space is freed", reserve >> 20, path.display())]
    LowDiskSpace {
        /// Directory of the ledger.
        path: PathBuf,
        /// Reserve in bytes.
        reserve: u64,
    },

    /// The disk was full during a write. The ledger writes again by itself once space is free.
    #[error("the ledger's disk is full ({step}: {source}): free space, and the ledger continues by itself")]
    DiskFull {
        /// The failed step.
        step: &'static str,
        /// Error of the file system or of the tables.
        source: Cause,
    },

    /// A commit, sync or checkpoint failed, so nobody knows what reached the disk. The ledger stays read-only until
    /// the process restarts. The transactions of the failed batch may or may not be recorded.
    #[error("the ledger is not writable ({step}: {source}): check the disk, then restart")]
    SyncFailed {
        /// The failed step.
        step: &'static str,
        /// Error of the file system or of the tables.
        source: Cause,
    },

    /// The files of an embedded ledger cannot be used: permissions, another process, a foreign directory.
    #[error("cannot open {}: {source}", path.display())]
    CannotOpen {
        /// Directory or file.
        path: PathBuf,
        /// Error of the file system or of the tables.
        source: Cause,
    },

    /// Files or rows are missing or damaged. Retrying does not help; a person must review them.
    #[error(transparent)]
    Corrupt(#[from] Corruption),

    /// A read failed. It may succeed later.
    #[error("the ledger cannot be read: {source}")]
    ReadFailed {
        /// Error of the tables.
        source: Cause,
    },

    /// The lease of this process in PostgreSQL has expired, or expired since its permit was granted. Other processes
    /// may have taken over its claims, so nothing may be sent.
    #[error("{0}")]
    LeaseLost(String),

    /// PostgreSQL cannot be reached, or the connection to it was lost. After a lost commit it is unknown whether the
    /// transaction was recorded.
    #[error("{why}")]
    Unreachable {
        /// Description of the error.
        why: String,
        /// Error of the client.
        source: Option<Cause>,
    },

    /// The reply did not come in time. The transaction may still be recorded.
    #[error("PostgreSQL does not answer in time")]
    Timeout,

    /// A conflict with concurrent transactions. The same call may succeed later.
    #[error("{why}")]
    Conflict {
        /// Description of the error.
        why: String,
        /// Error of the client.
        source: Option<Cause>,
    },

    /// PostgreSQL refused a statement, and would refuse it again: a missing right, a missing table.
    #[error("{why}")]
    Refused {
        /// Description of the error.
        why: String,
        /// Error of the client.
        source: Option<Cause>,
    },

    /// The record has changed so that the request must not be executed any more.
    #[error("{0}")]
    Superseded(&'static str),

    /// The arguments contradict each other.
    #[error("{0}")]
    InvalidRequest(String),

    /// The ledger was moved to PostgreSQL. It does not know of later payments.
    #[error(
        "the ledger in {} was moved to {to} at {at}: it would not know of later payments and could make them twice. \
         Name that PostgreSQL in [ledger] of tollgate.toml and keep the directory as a backup",
        directory.display()
    )]
    Moved {
        /// Directory of the embedded ledger.
        directory: PathBuf,
        /// Host and database of the PostgreSQL.
        to: String,
        /// Start of the move.
        at: Timestamp,
    },

    /// A move to PostgreSQL was interrupted.
    #[error(
        "the ledger in {0} is being moved to {to} since {at}, and the move was not finished: run `tollgate migrate {0}` \
         again, which finishes it or says why not. Only if that PostgreSQL holds no payment and the move is given up, \
         delete {0}/{mark}",
        directory.display()
    )]
    MoveUnfinished {
        /// Directory of the embedded ledger.
        directory: PathBuf,
        /// Host and database of the PostgreSQL.
        to: String,
        /// Start of the move.
        at: Timestamp,
        /// Name of the file that marks the move.
        mark: &'static str,
    },

    /// A move to PostgreSQL was refused or failed. Running it again is safe.
    #[error("{0}")]
    MoveFailed(String),

    /// The ledger is being closed.
    #[error("the ledger is being closed")]
    Closed,

    /// A defect of the gateway, as a panic.
    #[error("{0}")]
    Internal(String),
}

/// Missing or damaged data.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Corruption {
    /// A file of the embedded ledger is missing or damaged.
    #[error("{0}")]
    File(String),
    /// A row cannot be decoded.
    #[error("a row in {space} cannot be read: {source}")]
    Row {
        /// Name of the key space.
        space: &'static str,
        /// Error of the decoder.
        source: Arc<serde_json::Error>,
    },
    /// A row that another row names is missing.
    #[error("a row in {0} is missing")]
    MissingRow(&'static str),
    /// A key or a value has the wrong form.
    #[error("{0}")]
    Form(String),
}
