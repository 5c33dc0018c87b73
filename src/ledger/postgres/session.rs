//! Connection used by one thread, and its statements.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::address::Address;
use super::connect::connect;
use super::failure::{Failure, Kind};
use super::tables;
use crate::error::LedgerError;
use crate::transaction::{Read, Space, Value};

/// Timeout of one statement, including lock waits. The server's timeout is a little shorter, so that its error has
/// the reason.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(8);
/// Timeout of the check that the server is writable.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Query whether the server takes no writes.
pub(super) const IS_READ_ONLY: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";

/// Settings of every session. Plans always use the indexes, because a plan made for empty tables would later scan
/// them. `synchronous_commit = off` of the database is overridden, because it may lose commits.
const SETTINGS: &str = "SET statement_timeout = '7s'; SET lock_timeout = '2s'; \
    SET idle_in_transaction_session_timeout = '10s'; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// A connection.
pub(super) struct Session {
    runtime: Runtime,
    client: Client,
    statements: RefCell<HashMap<&'static str, Statement>>,
    /// The connection must not be used any more.
    broken: Cell<bool>,
    /// A statement of the present transaction failed, so it must not be committed.
    failed: Cell<bool>,
    /// Kind of the last failed statement since the last [`reset`](Self::reset).
    last_failure: Cell<Option<Kind>>,
    /// A commit was sent and its result is unknown.
    in_doubt: Cell<bool>,
    /// Timeout of a statement.
    timeout: Cell<Duration>,
    used: Cell<Instant>,
    /// Time at which the server last confirmed that it is writable.
    checked: Cell<Instant>,
}

impl Session {
    pub(super) fn connect(address: &Address) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::other(error.to_string()))?;
        let (client, link) = runtime.block_on(connect(address))?;
        runtime.spawn(link.carry());
        let session = Self {
            runtime,
            client,
            statements: RefCell::default(),
            broken: Cell::new(false),
            failed: Cell::new(false),
            last_failure: Cell::new(None),
            in_doubt: Cell::new(false),
            timeout: Cell::new(STATEMENT_TIMEOUT),
            used: Cell::new(Instant::now()),
            checked: Cell::new(Instant::now()),
        };
        session.run(SETTINGS)?;
        Ok(session)
    }

    /// Sets another timeout, in seconds. The client waits a second longer than the server.
    pub(super) fn with_timeout(self, seconds: u64) -> Result<Self, Failure> {
        self.run(&format!("SET statement_timeout = '{seconds}s'; SET lock_timeout = '{seconds}s'"))?;
        self.timeout.set(Duration::from_secs(seconds + 1));
        Ok(self)
    }

    /// Clears the state of earlier work.
    pub(super) fn reset(&self) -> &Self {
        self.last_failure.set(None);
        self.in_doubt.set(false);
        self
    }

    /// Returns whether a statement has failed, so that an error says nothing about the rows.
    pub(super) fn has_failed_statement(&self) -> bool {
        self.last_failure.get().is_some()
    }

    /// Returns whether the work failed temporarily and certainly committed nothing.
    pub(super) fn may_repeat(&self) -> bool {
        self.last_failure.get().is_some_and(|kind| kind != Kind::Other) && !self.in_doubt.get()
    }

    /// Returns whether it is unknown if the work was committed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.get()
    }

    /// Checks that the server responds and is writable. A server that became a standby keeps its connections.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let timeout = self.timeout.replace(CHECK_TIMEOUT);
        let answer = self.wait(self.client.simple_query(IS_READ_ONLY));
        self.timeout.set(timeout);
        if is_true(&answer?) {
            return Err(self.mark_broken("PostgreSQL takes no more writes here: it became a standby or read-only"));
        }
        self.checked.set(Instant::now());
        Ok(())
    }

    /// Marks the connection as broken.
    pub(super) fn mark_broken(&self, why: &str) -> Failure {
        self.failed.set(true);
        self.last_failure.set(Some(Kind::Lost));
        self.broken.set(true);
        Failure::disconnected(why)
    }

    /// Returns the time since the server was last confirmed writable.
    pub(super) fn unchecked(&self) -> Duration {
        self.checked.get().elapsed()
    }

    /// Returns whether the connection must not be used any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get() || self.client.is_closed()
    }

    /// Returns the time since the last answer of the server.
    pub(super) fn idle(&self) -> Duration {
        self.used.get().elapsed()
    }

    /// Runs statements without arguments.
    pub(super) fn run(&self, statements: &str) -> Result<(), Failure> {
        self.wait(self.client.batch_execute(statements))
    }

    /// Runs one statement, which is prepared at its first use.
    pub(super) fn query(
        &self,
        statement: &'static str,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let known = self.statements.borrow().get(statement).cloned();
        let prepared = match known {
            Some(prepared) => prepared,
            None => {
                let prepared = self.wait(self.client.prepare(statement))?;
                self.statements.borrow_mut().insert(statement, prepared.clone());
                prepared
            }
        };
        self.wait(self.client.query(&prepared, arguments))
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(self.timeout.get(), answer).await });
        self.used.set(Instant::now());
        let failure = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Failure::of(error),
            // After a timeout it is unknown what the server does, so the connection must not be reused.
            Err(_) => Failure::disconnected("PostgreSQL does not answer"),
        };
        self.failed.set(true);
        self.last_failure.set(Some(failure.kind));
        if matches!(failure.kind, Kind::Lost | Kind::Crowded) {
            self.broken.set(true);
        }
        Err(failure)
    }

    /// Reads a consistent snapshot.
    pub(super) fn read_snapshot<T>(
        &self,
        mut read: impl FnMut(&dyn Read) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let found = read(self);
        self.end(found, "COMMIT")
    }

    /// Returns the first keys of a space in the range from `from` (inclusive) to `until` (exclusive).
    pub(super) fn keys(&self, space: Space, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, Failure> {
        const KEYS: &str =
            "SELECT key FROM tollgate_records WHERE space = $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.query(KEYS, &[&tables::number(space), &from, &until, &limit])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Begins a transaction with these statements.
    pub(super) fn begin(&self, statements: &str) -> Result<(), Failure> {
        self.failed.set(false);
        self.run(statements).inspect_err(|_| self.roll_back())
    }

    /// Commits, or rolls back after an error.
    pub(super) fn end<T>(&self, done: Result<T, LedgerError>, commit: &str) -> Result<T, LedgerError> {
        let done = done.and_then(|value| {
            if self.failed.get() {
                let kind = self.last_failure.get().unwrap_or(Kind::Other);
                return Err(Failure { kind, ..Failure::other("a statement failed") }.into());
            }
            // A conflict rolls the commit back. After any other error its result is unknown.
            self.run(commit).inspect_err(|failure| self.in_doubt.set(failure.kind != Kind::Conflict))?;
            Ok(value)
        });
        if done.is_err() {
            self.roll_back();
        }
        done
    }

    /// Rolls back a transaction that was begun.
    pub(super) fn roll_back(&self) {
        if !self.is_broken() && self.run("ROLLBACK").is_err() {
            self.broken.set(true);
        }
    }
}

impl Read for Session {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        let statement = if tables::is_due(space) {
            "SELECT value FROM tollgate_due WHERE space = $1 AND key = $2"
        } else {
            "SELECT value FROM tollgate_records WHERE space = $1 AND key = $2"
        };
        let rows = self.query(statement, &[&tables::number(space), &key])?;
        Ok(rows.first().map(|row| row.get::<_, &[u8]>(0).into()))
    }
}

/// Returns whether the answer to a boolean query is true.
pub(super) fn is_true(answer: &[SimpleQueryMessage]) -> bool {
    answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")))
}
