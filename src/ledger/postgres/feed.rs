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
//! connection may be cut, or swallow what is told, without a word. Against that there is an echo: each process announces a number
//! a second, over the connection that announces changes, and must hear it over the one that listens. It comes behind all that was
//! told before it; without it nothing is believed any more ([`LIVE`]). Who must know that it has heard everything until now (that
//! there is no such order) asks a question on the listening connection, whose answer all who ask at the time share.

mod echo;
mod wire;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage};

pub(super) use self::echo::prove;
use self::echo::{Echoes, channel};
use self::wire::{Item, changes, items, messages, read};
use super::address::chain;
use super::connect::{Link, connect};
use super::pool::Next;
use super::session::{Failure, Session, says_yes};
use super::{Shared, thread};
use crate::ledger::change_feed::{ChangeListener, Changes};
use crate::ledger::records::LedgerError;

/// How long what was heard is believed to be all, from the moment when the last echo that came back was sent.
const LIVE: Duration = Duration::from_secs(3);
/// How often an echo is sent.
const BEAT: Duration = Duration::from_secs(1);
/// How soon it is tried again to listen.
const AGAIN: Duration = Duration::from_millis(300);
/// For how long the announcer does not try to connect after it could not.
const RESTS: Duration = Duration::from_secs(1);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a transaction waits for its announcement before it makes it itself.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// Tells everybody that nothing is as they know it.
pub(super) const ALL: &str = "SELECT pg_notify('tollgate_changes', '*')";

/// Tells what is in two lists, and whether the server takes writes: to a standby's listeners nobody may talk.
const NOTIFY: &str = "\
    SELECT current_setting('transaction_read_only')::bool, pg_notify(channel, message)
    FROM unnest($1::text[], $2::text[]) AS it (channel, message)";

const CHANGES: &str = "tollgate_changes";

/// Both directions, of one process.
#[derive(Default)]
pub(super) struct Feed {
    listener: OnceLock<Arc<dyn ChangeListener>>,
    line: Mutex<OutgoingQueue>,
    came: Condvar,
    questions: Mutex<Vec<oneshot::Sender<()>>>,
    asked: Notify,
    stop: Notify,
}

/// What waits to be announced.
#[derive(Default)]
struct OutgoingQueue {
    waiting: VecDeque<Word>,
    is_shut: bool,
}

enum Word {
    /// With whom to tell when it was announced.
    Changes(Vec<Item>, Option<mpsc::Sender<()>>),
    Echo(u64),
}

impl Feed {
    /// Returns once the others were told that this may change; false when it could not be done.
    fn announce(&self, changes: &Changes) -> bool {
        let (told, done) = mpsc::channel();
        self.push(Word::Changes(items(changes, false), Some(told))) && done.recv_timeout(ANNOUNCED).is_ok()
    }

    fn push(&self, word: Word) -> bool {
        let mut line = self.line.lock();
        if line.is_shut {
            return false;
        }
        line.waiting.push_back(word);
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
                listener.before_commit(&changes);
            }
            if !shared.feed.announce(&changes) {
                notify(session, shared.owner, &items(&changes, false), &[])?;
            }
        }
        Ok(Self { shared, changes })
    }

    /// It is committed.
    pub(super) fn after(self) {
        let feed = &self.shared.feed;
        if let Some(listener) = feed.listener.get().filter(|_| !self.changes.is_empty()) {
            listener.after_commit(&self.changes);
        }
        let items = items(&self.changes, true);
        if !items.is_empty() {
            feed.push(Word::Changes(items, None));
        }
    }
}

/// Announces until it is shut.
pub(super) fn announce(shared: &Arc<Shared>) {
    let mut session = None;
    let mut refused: Option<Instant> = None;
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
        let (mut items, mut told, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
        for word in batch {
            match word {
                Word::Changes(more, waiter) => {
                    items.extend(more);
                    told.extend(waiter);
                }
                Word::Echo(number) => echoes.push(number),
            }
        }
        if refused.is_some_and(|since| since.elapsed() < RESTS) {
            // Each transaction does it itself.
            echoes.into_iter().for_each(|number| echo_over_the_pool(shared, number));
            continue;
        }
        match tell(shared, &mut session, &items, &echoes) {
            Ok(()) => {
                if refused.take().is_some() {
                    tracing::info!("changes are announced together again");
                }
                // Whoever waited too long has done it himself.
                told.into_iter().for_each(|told| _ = told.send(()));
            }
            Err(Failure { why, .. }) => {
                if refused.replace(Instant::now()).is_none() {
                    tracing::warn!(
                        why,
                        "what changes cannot be announced; each transaction does it itself until it can"
                    );
                }
                echoes.into_iter().for_each(|number| echo_over_the_pool(shared, number));
            }
        }
    }
}

fn tell(shared: &Shared, session: &mut Option<Session>, items: &[Item], echoes: &[u64]) -> Result<(), Failure> {
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
    notify(session, shared.owner, items, echoes)
}

/// Where the announcer has no connection.
fn echo_over_the_pool(shared: &Arc<Shared>, number: u64) {
    let weak = Arc::downgrade(shared);
    shared.queue.push(Box::new(move |session| {
        if let (Ok(session), Some(shared)) = (session, weak.upgrade()) {
            // Without it the feed is deaf, and says so.
            let _ = notify(session, shared.owner, &[], &[number]);
        }
        Next::Done
    }));
}

fn notify(session: &Session, owner: u32, items: &[Item], echoes: &[u64]) -> Result<(), Failure> {
    let mut texts = messages(owner, items);
    let mut channels = vec![CHANGES.to_owned(); texts.len()];
    texts.extend(echoes.iter().map(u64::to_string));
    channels.resize(texts.len(), channel(owner));
    let rows = session.query(NOTIFY, &[&channels, &texts])?;
    if rows.first().is_some_and(|row| row.get(0)) {
        return Err(session.must_go("PostgreSQL takes no more writes here: it became read-only"));
    }
    Ok(())
}

/// Tells the first who asks for it of every change from now on.
pub(super) fn listen(
    shared: &Arc<Shared>,
    listener: Arc<dyn ChangeListener>,
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
    let mut is_told = false;
    loop {
        let mut ear = NotificationListener { shared, listener: listener.as_ref(), echoes: Echoes::default() };
        tokio::select! {
            ended = ear.connect() => if let Err(why) = ended {
                // Once until it hears again.
                if ear.echoes.heard().is_some() || !is_told {
                    tracing::warn!(why, "changes on other machines are not heard of: every status is read from the ledger");
                }
                is_told = true;
            },
            () = shared.feed.stop.notified() => return,
        }
        listener.disconnected();
        shared.feed.questions.lock().clear();
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = shared.feed.stop.notified() => return,
        }
    }
}

struct NotificationListener<'a> {
    shared: &'a Shared,
    listener: &'a dyn ChangeListener,
    echoes: Echoes,
}

impl NotificationListener<'_> {
    async fn connect(&mut self) -> Result<(), String> {
        let (client, mut link) = connect(&self.shared.address).await.map_err(|failure| failure.why)?;
        self.listen(&client, &mut link).await
    }

    /// Until the connection is of no use any more.
    async fn listen(&mut self, client: &Client, link: &mut Link) -> Result<(), String> {
        let echo = channel(self.shared.owner);
        let begin = format!("SET application_name = 'tollgate feed'; LISTEN {CHANGES}; LISTEN {echo}");
        self.ask(client, link, &begin).await?;
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                biased;
                message = poll_fn(|context| link.poll_message(context)) => self.heard(message)?,
                () = self.shared.feed.asked.notified() => self.question(client, link).await?,
                _ = beat.tick() => {
                    if self.echoes.are_missing(LIVE) {
                        return Err("what this process announces does not come back to it".to_owned());
                    }
                    self.shared.feed.push(Word::Echo(self.echoes.next()));
                }
            }
        }
    }

    /// Asks something, so that the answer comes behind everything that was told before. Only a connection that brought its last
    /// echo, to a server that takes writes, is worth asking.
    async fn question(&mut self, client: &Client, link: &mut Link) -> Result<(), String> {
        const IS_READ_ONLY: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
        if self.echoes.heard().is_none_or(|sent| sent.elapsed() > LIVE) {
            // The next echo brings them back.
            return Ok(());
        }
        let waiting = std::mem::take(&mut *self.shared.feed.questions.lock());
        if says_yes(&self.ask(client, link, IS_READ_ONLY).await?) {
            return Err("PostgreSQL takes no more writes here: it became read-only".to_owned());
        }
        for waiter in waiting {
            let _ = waiter.send(());
        }
        Ok(())
    }

    async fn ask(&mut self, client: &Client, link: &mut Link, what: &str) -> Result<Vec<SimpleQueryMessage>, String> {
        let answer = client.simple_query(what);
        tokio::pin!(answer);
        let asking = async {
            loop {
                tokio::select! {
                    biased;
                    message = poll_fn(|context| link.poll_message(context)) => self.heard(message)?,
                    answer = &mut answer => return answer.map_err(|error| chain(&error)),
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("PostgreSQL does not answer".to_owned()))
    }

    fn heard(&mut self, message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> Result<(), String> {
        let message = message.ok_or("the connection was closed")?.map_err(|error| chain(&error))?;
        let AsyncMessage::Notification(told) = message else { return Ok(()) };
        if told.channel() != CHANGES {
            if let Some(sent) = told.payload().parse().ok().and_then(|number| self.echoes.back(number)) {
                self.listener.subscribed(Some(sent + LIVE));
                if !self.shared.feed.questions.lock().is_empty() {
                    self.shared.feed.asked.notify_one();
                }
            }
            return Ok(());
        }
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
                self.listener.before_commit(&before);
            }
            if !after.is_empty() {
                self.listener.after_commit(&after);
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
