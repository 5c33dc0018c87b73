//! What changes, told between the processes on one ledger.
//!
//! ```text
//! a transaction ─▶ written, not committed ─▶ announcer: NOTIFY what it changes ─▶ commit ─▶ announcer: NOTIFY what became
//! every process ◀─ LISTEN ─┘                                                                    of it, nobody waits
//! ```
//! A NOTIFY within the transaction would be simpler, but PostgreSQL lets only one transaction at a time commit that has one, and
//! holds that lock over the sync of its log: all payments of the cluster would wait for each other's disk. So what is about to
//! change is told just before the commit, over a connection of its own that waits for no disk, for all transactions that
//! wait at that moment together. When that connection fails, the transaction carries the NOTIFY itself.
//!
//! So nothing is ever visible of which the others were not told before. What they are told may be late all the same, or the
//! connection may be cut without a word. Against the latter there is a question a second, whose answer comes behind all
//! that was told before it; without answers nothing is believed any more ([`LIVE`]). Who must know that it has heard everything until
//! now (that there is no such order) asks for such an answer, which all who ask at the time share.

mod wire;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};

use self::wire::{Item, changes, items, messages, read};
use super::address::{Address, chain};
use super::session::{Failure, Session};
use super::{Shared, thread};
use crate::ledger::feed::{Changes, Listener};
use crate::ledger::records::LedgerError;

/// How long what was heard is believed to be all, from the last question that was answered.
const LIVE: Duration = Duration::from_secs(3);
/// How often a question is asked.
const BEAT: Duration = Duration::from_secs(1);
/// How soon it is tried again to listen.
const AGAIN: Duration = Duration::from_millis(300);
/// How long it may take to connect.
const REACHED: Duration = Duration::from_secs(8);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a transaction waits for its announcement before it makes it itself.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// Tells everybody that nothing is as they know it.
pub(super) const ALL: &str = "SELECT pg_notify('tollgate_changes', '*')";

const NOTIFY: &str = "SELECT pg_notify('tollgate_changes', message) FROM unnest($1::text[]) AS message";

/// Both directions, of one process.
#[derive(Default)]
pub(super) struct Feed {
    listener: OnceLock<Arc<dyn Listener>>,
    line: Mutex<Line>,
    came: Condvar,
    questions: Mutex<Vec<oneshot::Sender<()>>>,
    asked: Notify,
    stop: Notify,
}

/// What waits to be announced.
#[derive(Default)]
struct Line {
    waiting: VecDeque<(Vec<Item>, Option<mpsc::Sender<()>>)>,
    is_shut: bool,
}

impl Feed {
    /// Returns once the others were told that this may change; false when it could not be done.
    fn announce(&self, changes: &Changes) -> bool {
        let (told, done) = mpsc::channel();
        self.push(items(changes, false), Some(told)) && done.recv_timeout(ANNOUNCED).is_ok()
    }

    fn push(&self, items: Vec<Item>, told: Option<mpsc::Sender<()>>) -> bool {
        let mut line = self.line.lock();
        if line.is_shut {
            return false;
        }
        line.waiting.push_back((items, told));
        self.came.notify_one();
        true
    }

    /// Whether everything that anybody was told is durable has been heard of.
    pub(super) async fn caught_up(&self) -> bool {
        let (told, heard) = oneshot::channel();
        self.questions.lock().push(told);
        self.asked.notify_one();
        matches!(tokio::time::timeout(PATIENCE, heard).await, Ok(Ok(())))
    }

    /// Takes no more; what waits is still told.
    pub(super) fn shut(&self) {
        self.line.lock().is_shut = true;
        self.came.notify_all();
        self.stop.notify_one();
    }
}

/// One transaction's changes on their way.
pub(super) struct Announced<'a> {
    shared: &'a Shared,
    changes: Changes,
}

impl<'a> Announced<'a> {
    /// Tells everybody what is about to be committed over this session.
    pub(super) fn before(shared: &'a Shared, session: &Session, changes: Changes) -> Result<Self, Failure> {
        if !changes.is_empty() {
            if let Some(listener) = shared.feed.listener.get() {
                listener.changing(&changes);
            }
            if !shared.feed.announce(&changes) {
                session.query(NOTIFY, &[&messages(shared.owner, &items(&changes, false))])?;
            }
        }
        Ok(Self { shared, changes })
    }

    /// It is committed.
    pub(super) fn after(self) {
        let feed = &self.shared.feed;
        if let Some(listener) = feed.listener.get().filter(|_| !self.changes.is_empty()) {
            listener.changed(&self.changes);
        }
        let items = items(&self.changes, true);
        if !items.is_empty() {
            feed.push(items, None);
        }
    }
}

/// Announces until it is shut.
pub(super) fn announce(shared: &Shared) {
    let mut session = None;
    loop {
        let mut line = shared.feed.line.lock();
        while line.waiting.is_empty() && !line.is_shut {
            shared.feed.came.wait(&mut line);
        }
        let batch: Vec<_> = line.waiting.drain(..).collect();
        drop(line);
        if batch.is_empty() {
            return;
        }
        let items: Vec<Item> = batch.iter().flat_map(|(items, _)| items.iter().copied()).collect();
        let sent = tell(shared, &mut session, &messages(shared.owner, &items));
        if let Err(Failure(why)) = &sent {
            tracing::warn!(why, "what changes could not be announced; each transaction does it itself");
        }
        for told in batch.into_iter().filter_map(|(_, told)| told.filter(|_| sent.is_ok())) {
            // Whoever waited too long has done it himself.
            let _ = told.send(());
        }
    }
}

fn tell(shared: &Shared, session: &mut Option<Session>, messages: &[String]) -> Result<(), Failure> {
    let used = session.take().filter(|session| !session.is_broken());
    let session = match used {
        Some(used) => session.insert(used),
        None => {
            let new = Session::connect(&shared.address)?;
            // It has nothing to lose: who is told of what does not happen only reads once more.
            new.run("SET synchronous_commit = off; SET statement_timeout = '1s'")?;
            session.insert(new)
        }
    };
    session.query(NOTIFY, &[&messages]).map(drop)
}

/// Tells the first who asks for it of every change from now on.
pub(super) fn listen(
    shared: &Arc<Shared>,
    listener: Arc<dyn Listener>,
) -> Result<Option<std::thread::JoinHandle<()>>, LedgerError> {
    if shared.feed.listener.set(listener).is_err() {
        return Ok(None);
    }
    let shared = Arc::clone(shared);
    thread("ledger feed", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(hear(&shared)),
            Err(error) => tracing::error!(%error, "nobody can listen to the ledger"),
        }
    })
    .map(Some)
}

async fn hear(shared: &Shared) {
    let Some(listener) = shared.feed.listener.get() else { return };
    let ear = Ear { shared, listener: listener.as_ref() };
    loop {
        tokio::select! {
            ended = ear.connect() => if let Err(why) = ended {
                tracing::warn!(why, "changes on other machines are not heard of: every status is read from the ledger");
            },
            () = shared.feed.stop.notified() => return,
        }
        listener.deaf();
        shared.feed.questions.lock().clear();
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = shared.feed.stop.notified() => return,
        }
    }
}

struct Ear<'a> {
    shared: &'a Shared,
    listener: &'a dyn Listener,
}

impl Ear<'_> {
    async fn connect(&self) -> Result<(), String> {
        let Address { config, tls, .. } = &self.shared.address;
        let told = |error: tokio_postgres::Error| chain(&error);
        let late = |_| "PostgreSQL does not answer".to_owned();
        match tls {
            Some(tls) => {
                let connecting = tokio::time::timeout(REACHED, config.connect(tls.clone()));
                let (client, connection) = connecting.await.map_err(late)?.map_err(told)?;
                self.listen(&client, connection).await
            }
            None => {
                let connecting = tokio::time::timeout(REACHED, config.connect(NoTls));
                let (client, connection) = connecting.await.map_err(late)?.map_err(told)?;
                self.listen(&client, connection).await
            }
        }
    }

    /// Until the connection is of no use any more.
    async fn listen<S, T>(&self, client: &Client, mut connection: Connection<S, T>) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        self.ask(client, &mut connection, "LISTEN tollgate_changes").await?;
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                biased;
                message = poll_fn(|context| connection.poll_message(context)) => self.heard(message)?,
                () = self.shared.feed.asked.notified() => self.question(client, &mut connection).await?,
                _ = beat.tick() => self.question(client, &mut connection).await?,
            }
        }
    }

    /// Asks something, so that the answer comes behind everything that was told before.
    async fn question<S, T>(&self, client: &Client, connection: &mut Connection<S, T>) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let waiting = std::mem::take(&mut *self.shared.feed.questions.lock());
        let asked = Instant::now();
        self.ask(client, connection, "SELECT 1").await?;
        self.listener.hears(Some(asked + LIVE));
        for waiter in waiting {
            let _ = waiter.send(());
        }
        Ok(())
    }

    async fn ask<S, T>(&self, client: &Client, connection: &mut Connection<S, T>, what: &str) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let answer = client.simple_query(what);
        tokio::pin!(answer);
        let asking = async {
            loop {
                tokio::select! {
                    biased;
                    message = poll_fn(|context| connection.poll_message(context)) => self.heard(message)?,
                    answer = &mut answer => return answer.map(drop).map_err(|error| chain(&error)),
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("PostgreSQL does not answer".to_owned()))
    }

    fn heard(&self, message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> Result<(), String> {
        let message = message.ok_or("the connection was closed")?.map_err(|error| chain(&error))?;
        let AsyncMessage::Notification(told) = message else { return Ok(()) };
        if told.payload() == "*" {
            return Err("a whole ledger came".to_owned());
        }
        let Some((owner, items)) = read(told.payload()) else {
            tracing::warn!("somebody else writes to tollgate_changes");
            return Ok(());
        };
        // What this process tells the others it has heard itself, at once.
        if owner != self.shared.owner {
            let (before, after) = changes(&items);
            if !before.is_empty() {
                self.listener.changing(&before);
            }
            if !after.is_empty() {
                self.listener.changed(&after);
            }
        }
        Ok(())
    }
}

/// The server, the database in it, and the tables in that.
pub(super) fn identity(session: &Session) -> Result<String, LedgerError> {
    const IDENTITY: &str = "\
        SELECT concat_ws('-', system_identifier,
            (SELECT oid FROM pg_database WHERE datname = current_database()), 'tollgate_records'::regclass::oid)
        FROM pg_control_system()";
    let rows = session.query(IDENTITY, &[])?;
    rows.first().map(|row| row.get(0)).ok_or_else(|| LedgerError("PostgreSQL does not say which it is".to_owned()))
}

/// Returns once every transaction that was under way has its end.
pub(super) fn settled(session: &Session) -> Result<(), LedgerError> {
    const UNTIL: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(20);
    let number = |rows: Vec<tokio_postgres::Row>| rows.first().map(|row| row.get::<_, i64>(0)).unwrap_or_default();
    // Greater than that of every transaction that has written anything so far.
    let next = number(session.query("SELECT pg_current_xact_id()::text::bigint", &[])?);
    let began = Instant::now();
    while number(session.query("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint", &[])?) < next {
        if began.elapsed() > UNTIL {
            return Err(LedgerError("a transaction in PostgreSQL does not end".to_owned()));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
