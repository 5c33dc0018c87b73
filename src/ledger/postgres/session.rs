//! One connection, used by one thread: statements, and one transaction of the rules over them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::Shared;
use super::address::Address;
use super::connect::connect;
pub(super) use super::failure::Failure;
use super::failure::Kind;
use super::feed::Announced;
use super::save::save;
use super::schema;
use crate::ledger::change_feed::Changes;
use crate::ledger::engine::Durability;
use crate::ledger::ids::Id;
use crate::ledger::lock_scope::LockScope;
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::{Nothing, Read, Space, Transaction, Value};
use crate::telemetry::METRICS;

/// How long one statement may take, waiting for locks included. The server gives up a little earlier, so that it says why.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the server may take to say that it still takes writes.
const CHECKED: Duration = Duration::from_secs(3);

/// What every session begins with. Plans are by key always: tables that were empty when a plan was made must not be read
/// from end to end later. Whoever set the database to forget commits did not think of money.
const SETTINGS: &str = "SET statement_timeout = '7s'; SET lock_timeout = '2s'; \
    SET idle_in_transaction_session_timeout = '10s'; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// What a statement sees is what was committed before it began, so that what is read behind a lock is the truth.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// A connection.
pub(super) struct Session {
    runtime: Runtime,
    client: Client,
    statements: RefCell<HashMap<&'static str, Statement>>,
    /// Nothing more can be said over it.
    broken: Cell<bool>,
    /// A statement of the present transaction failed, so that it must not be committed, whoever overlooked it.
    failed: Cell<bool>,
    /// Why the last statement failed that did, since the present work began.
    trouble: Cell<Option<Kind>>,
    /// A commit was sent, and nobody knows what became of it.
    in_doubt: Cell<bool>,
    /// How long an answer is waited for.
    patience: Cell<Duration>,
    used: Cell<Instant>,
    /// When the server said last that it takes writes.
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
            trouble: Cell::new(None),
            in_doubt: Cell::new(false),
            patience: Cell::new(PATIENCE),
            used: Cell::new(Instant::now()),
            checked: Cell::new(Instant::now()),
        };
        session.run(SETTINGS)?;
        Ok(session)
    }

    /// The same for work that must not wait long: the server gives up after these seconds, and the client a second later.
    pub(super) fn hasty(self, seconds: u64) -> Result<Self, Failure> {
        self.run(&format!("SET statement_timeout = '{seconds}s'; SET lock_timeout = '{seconds}s'"))?;
        self.patience.set(Duration::from_secs(seconds + 1));
        Ok(self)
    }

    /// Begins another piece of work, with nothing known of the one before.
    pub(super) fn fresh(&self) -> &Self {
        self.trouble.set(None);
        self.in_doubt.set(false);
        self
    }

    /// Whether a statement failed since then, so that an error says nothing about the rows.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.get().is_some()
    }

    /// Whether the present work failed for a reason that passes, and certainly did nothing.
    pub(super) fn may_repeat(&self) -> bool {
        self.trouble.get().is_some_and(|kind| kind != Kind::Other) && !self.in_doubt.get()
    }

    /// Whether nobody knows if the present work was committed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.get()
    }

    /// Makes sure that the server is there and still takes writes: one that became a standby keeps its connections.
    pub(super) fn check(&self) -> Result<(), Failure> {
        const IS_READ_ONLY: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
        let patience = self.patience.replace(CHECKED);
        let answer = self.wait(self.client.simple_query(IS_READ_ONLY));
        self.patience.set(patience);
        if says_yes(&answer?) {
            return Err(self.must_go("PostgreSQL takes no more writes here: it became a standby or read-only"));
        }
        self.checked.set(Instant::now());
        Ok(())
    }

    /// Says that this connection must not be used any more.
    pub(super) fn must_go(&self, why: &str) -> Failure {
        self.failed.set(true);
        self.trouble.set(Some(Kind::Lost));
        self.broken.set(true);
        Failure::disconnected(why)
    }

    /// For how long that is known.
    pub(super) fn unchecked(&self) -> Duration {
        self.checked.get().elapsed()
    }

    /// Whether it is of no use any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get() || self.client.is_closed()
    }

    /// Since when nobody has heard of the server over it.
    pub(super) fn idle(&self) -> Duration {
        self.used.get().elapsed()
    }

    /// Statements without arguments, one after another.
    pub(super) fn run(&self, statements: &str) -> Result<(), Failure> {
        self.wait(self.client.batch_execute(statements))
    }

    /// One statement, prepared the first time.
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
        let answer = self.runtime.block_on(async { tokio::time::timeout(self.patience.get(), answer).await });
        self.used.set(Instant::now());
        let failure = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Failure::of(&error),
            // What it does with the statement nobody knows: this connection must not be used for anything else.
            Err(_) => Failure::disconnected("PostgreSQL does not answer"),
        };
        self.failed.set(true);
        self.trouble.set(Some(failure.kind));
        if matches!(failure.kind, Kind::Lost | Kind::Crowded) {
            self.broken.set(true);
        }
        Err(failure)
    }

    /// Looks at everything as it is at one moment.
    pub(super) fn look<T>(&self, mut look: impl FnMut(&dyn Read) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let found = look(self);
        self.end(found, "COMMIT")
    }

    /// One transaction of the rules. What is about one order is done one after another, by locks on the order's name that
    /// every process takes before it looks. Tells whether something became due sooner.
    ///
    /// An error means that it was not done, with one exception: when the connection is lost while it is committed, nobody
    /// knows. For a claim that is as good as an error, because its ticket has not been given out; so nothing is sent, and
    /// its holder's end takes the claim back.
    pub(super) fn transaction<T>(
        &self,
        durability: Durability,
        scope: &LockScope,
        shared: &Shared,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<(T, bool), LedgerError> {
        let is_known = match scope {
            LockScope::Names(_) => {
                let names = scope.names(self)?.unwrap_or_default();
                self.begin_alone(&names)?;
                true
            }
            _ => {
                self.begin(BEGIN)?;
                match scope.names(self).and_then(|names| names.map(|names| Ok(self.run(&locks(&names))?)).transpose()) {
                    Ok(locked) => locked.is_some(),
                    Err(error) => return self.end(Err(error), ""),
                }
            }
        };
        // What there was nothing of before the lock must not be there behind it, where no lock protects it.
        self.finish(if is_known { self } else { &Nothing }, durability, shared, work)
    }

    /// Begins a transaction that is alone with these names. Its end is [`finish`](Self::finish).
    pub(super) fn begin_alone(&self, names: &[Id]) -> Result<(), Failure> {
        self.begin(&format!("{BEGIN}{}", locks(names)))
    }

    /// Gives up a transaction that was begun.
    pub(super) fn give_up(&self) {
        self.roll_back();
    }

    /// Runs the rules over what can be read in a transaction that was begun, and commits.
    pub(super) fn finish<T>(
        &self,
        base: &dyn Read,
        durability: Durability,
        shared: &Shared,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<(T, bool), LedgerError> {
        let mut transaction = Transaction::new(base, &shared.ids);
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut transaction)));
        let writes = transaction.into_writes();
        let done = done.unwrap_or_else(|_| Err(LedgerError("a transaction panicked".to_owned())));
        let done = done.and_then(|value| {
            if !writes.is_empty() {
                save(self, &writes, shared.owner)?;
            }
            // When it is written: whoever waits for what is under way sees that there is a transaction.
            Ok((value, Announced::before(shared, self, Changes::of(&writes))?))
        });
        let may_be_late = durability == Durability::Applied && !writes.wakes;
        let commit = if may_be_late { "SET LOCAL synchronous_commit = off; COMMIT" } else { "COMMIT" };
        let started = Instant::now();
        let (value, announced) = self.end(done, commit)?;
        announced.after();
        METRICS.ledger_commit_seconds.observe(started.elapsed().as_secs_f64());
        Ok((value, writes.wakes))
    }

    /// The first keys of a space of records from one on and before another.
    pub(super) fn keys(&self, space: Space, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, Failure> {
        const KEYS: &str =
            "SELECT key FROM tollgate_records WHERE space = $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.query(KEYS, &[&schema::number(space), &from, &until, &limit])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn begin(&self, statements: &str) -> Result<(), Failure> {
        self.failed.set(false);
        self.run(statements).inspect_err(|_| self.roll_back())
    }

    /// Commits, or rolls back what went wrong.
    fn end<T>(&self, done: Result<T, LedgerError>, commit: &str) -> Result<T, LedgerError> {
        let done = done.and_then(|value| {
            if self.failed.get() {
                return Err(LedgerError("a statement failed".to_owned()));
            }
            // A conflict at the commit has rolled it back; of what else goes wrong there nobody knows.
            self.run(commit).inspect_err(|failure| self.in_doubt.set(failure.kind != Kind::Conflict))?;
            Ok(value)
        });
        if done.is_err() {
            self.roll_back();
        }
        done
    }

    fn roll_back(&self) {
        if !self.is_broken() && self.run("ROLLBACK").is_err() {
            self.broken.set(true);
        }
    }
}

impl Read for Session {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        let statement = if schema::is_due(space) {
            "SELECT value FROM tollgate_due WHERE space = $1 AND key = $2"
        } else {
            "SELECT value FROM tollgate_records WHERE space = $1 AND key = $2"
        };
        let rows = self.query(statement, &[&schema::number(space), &key])?;
        Ok(rows.first().map(|row| row.get::<_, &[u8]>(0).into()))
    }
}

/// Whether the answer to a question of one value is true.
pub(super) fn says_yes(answer: &[SimpleQueryMessage]) -> bool {
    answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")))
}

fn locks(names: &[Id]) -> String {
    let lock = |name: &Id| {
        let number = name.0.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
        format!("; SELECT pg_advisory_xact_lock({number})")
    };
    names.iter().map(lock).collect()
}
