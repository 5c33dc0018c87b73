//! Change feed between the processes of one ledger, over LISTEN and NOTIFY.
//!
//! ```text
//! a transaction ─▶ written, not committed ─▶ announcer: NOTIFY before ─▶ commit ─▶ announcer: NOTIFY after
//! every process ◀─ LISTEN ─┘                                                       (not waited for)
//! ```
//! NOTIFY inside the transaction would be simpler. But PostgreSQL commits only one transaction with NOTIFY at a time,
//! and holds that lock over its fsync, so all payments of the cluster would wait for each other's disk. Changes are
//! therefore announced just before the commit, on a connection that waits for no fsync, together for all transactions
//! that wait. If that connection fails, the transaction sends the NOTIFY itself.
//!
//! No change is visible before it was announced. An announcement may still be late, or the connection may lose it
//! silently. Each process therefore sends an echo every second on the announcing connection and must receive it on
//! the listening one, after all earlier announcements. Without an echo within [`MAX_ECHO_AGE`] the caches are not
//! trusted. A caller that must know that all changes have arrived (to answer that an order does not exist) sends a
//! query on the listening connection; concurrent callers share its answer.

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
use super::session::{Failure, Session, is_true};
use super::{Shared, thread};
use crate::change_feed::{ChangeListener, Changes};
use crate::records::LedgerError;

/// Maximum age of the last returned echo, from its sending. After that, changes may have been missed.
const MAX_ECHO_AGE: Duration = Duration::from_secs(3);
/// Interval of echoes.
const ECHO_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before the listener reconnects.
const RELISTEN_INTERVAL: Duration = Duration::from_millis(300);
/// Delay before the announcer reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Timeout of a query on the listening connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of an announcement. After it the transaction sends the NOTIFY itself.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);

/// Statement that tells every process to discard its caches.
pub(super) const ALL: &str = "SELECT pg_notify('tollgate_changes', '*')";

/// Statement that sends notifications, and returns whether the server is read-only. A standby reaches no listeners.
const NOTIFY: &str = "\
    SELECT current_setting('transaction_read_only')::bool, pg_notify(channel, message)
    FROM unnest($1::text[], $2::text[]) AS it (channel, message)";

const CHANGES: &str = "tollgate_changes";

/// Both directions of the feed of one process.
#[derive(Default)]
pub(super) struct Feed {
    listener: OnceLock<Arc<dyn ChangeListener>>,
    queue: Mutex<OutgoingQueue>,
    not_empty: Condvar,
    catch_up_waiters: Mutex<Vec<oneshot::Sender<()>>>,
    catch_up_requested: Notify,
    stop: Notify,
}

/// Announcements that wait to be sent.
#[derive(Default)]
struct OutgoingQueue {
    waiting: VecDeque<OutgoingMessage>,
    is_shut: bool,
}

enum OutgoingMessage {
    /// Changes, with the transaction to wake after they were announced.
    Changes(Vec<Item>, Option<mpsc::Sender<()>>),
    Echo(u64),
}

impl Feed {
    /// Announces changes before their commit. Returns false if that failed.
    fn announce(&self, changes: &Changes) -> bool {
        let (waiters, done) = mpsc::channel();
        self.push(OutgoingMessage::Changes(items(changes, false), Some(waiters)))
            && done.recv_timeout(ANNOUNCE_TIMEOUT).is_ok()
    }

    fn push(&self, message: OutgoingMessage) -> bool {
        let mut queue = self.queue.lock();
        if queue.is_shut {
            return false;
        }
        queue.waiting.push_back(message);
        self.not_empty.notify_one();
        true
    }

    /// Returns whether every change acknowledged as durable before this call has arrived.
    pub(super) async fn caught_up(&self) -> bool {
        let (waiters, handle_message) = oneshot::channel();
        self.catch_up_waiters.lock().push(waiters);
        self.catch_up_requested.notify_one();
        matches!(tokio::time::timeout(ANSWER_TIMEOUT, handle_message).await, Ok(Ok(())))
    }

    /// Accepts no further announcements. Waiting ones are still sent.
    pub(super) fn shut(&self) {
        self.queue.lock().is_shut = true;
        self.not_empty.notify_all();
        self.stop.notify_one();
    }
}

/// Changes of one transaction between announcement and commit.
pub(super) struct Announced<'a> {
    shared: &'a Shared,
    changes: Changes,
}

impl<'a> Announced<'a> {
    /// Announces the changes that this session is about to commit.
    pub(super) fn before(shared: &'a Shared, session: &Session, changes: Changes) -> Result<Self, Failure> {
        if !changes.is_empty() {
            if let Some(listener) = shared.feed.listener.get() {
                listener.before_commit(&changes);
            }
            if !shared.feed.announce(&changes) {
                send_notifications(session, shared.owner, &items(&changes, false), &[])?;
            }
        }
        Ok(Self { shared, changes })
    }

    /// Announces the changes after the commit.
    pub(super) fn after(self) {
        let feed = &self.shared.feed;
        if let Some(listener) = feed.listener.get().filter(|_| !self.changes.is_empty()) {
            listener.after_commit(&self.changes);
        }
        let items = items(&self.changes, true);
        if !items.is_empty() {
            feed.push(OutgoingMessage::Changes(items, None));
        }
    }
}

/// Runs the announcer until the feed is shut.
pub(super) fn announce(shared: &Arc<Shared>) {
    let mut session = None;
    let mut refused: Option<Instant> = None;
    loop {
        let mut queue = shared.feed.queue.lock();
        while queue.waiting.is_empty() && !queue.is_shut {
            shared.feed.not_empty.wait(&mut queue);
        }
        let batch: Vec<_> = queue.waiting.drain(..).collect();
        drop(queue);
        if batch.is_empty() {
            return;
        }
        let (mut items, mut waiters, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
        for message in batch {
            match message {
                OutgoingMessage::Changes(more, waiter) => {
                    items.extend(more);
                    waiters.extend(waiter);
                }
                OutgoingMessage::Echo(number) => echoes.push(number),
            }
        }
        if refused.is_some_and(|since| since.elapsed() < RECONNECT_DELAY) {
            // Each transaction announces its changes itself.
            echoes.into_iter().for_each(|number| send_echo_over_pool(shared, number));
            continue;
        }
        match send(shared, &mut session, &items, &echoes) {
            Ok(()) => {
                if refused.take().is_some() {
                    tracing::info!("changes are announced together again");
                }
                // A transaction that waited too long has announced its changes itself.
                waiters.into_iter().for_each(|waiters| _ = waiters.send(()));
            }
            Err(Failure { why, .. }) => {
                if refused.replace(Instant::now()).is_none() {
                    tracing::warn!(
                        why,
                        "changes cannot be announced together; each transaction announces its own until the connection is back"
                    );
                }
                echoes.into_iter().for_each(|number| send_echo_over_pool(shared, number));
            }
        }
    }
}

fn send(shared: &Shared, session: &mut Option<Session>, items: &[Item], echoes: &[u64]) -> Result<(), Failure> {
    let used = session.take().filter(|session| !session.is_broken());
    let session = match used {
        Some(used) => session.insert(used),
        None => {
            let new = Session::connect(&shared.address)?;
            // Nothing can be lost: after an announcement without a commit the others only read once more.
            new.run("SET synchronous_commit = off; SET statement_timeout = '1s'")?;
            session.insert(new)
        }
    };
    send_notifications(session, shared.owner, items, echoes)
}

/// Sends an echo on a connection of the pool, while the announcer has none.
fn send_echo_over_pool(shared: &Arc<Shared>, number: u64) {
    let weak = Arc::downgrade(shared);
    shared.queue.push(Box::new(move |session| {
        if let (Ok(session), Some(shared)) = (session, weak.upgrade()) {
            // Without its echo the feed reports itself as disconnected.
            let _ = send_notifications(session, shared.owner, &[], &[number]);
        }
        Next::Done
    }));
}

fn send_notifications(session: &Session, owner: u32, items: &[Item], echoes: &[u64]) -> Result<(), Failure> {
    let mut texts = messages(owner, items);
    let mut channels = vec![CHANGES.to_owned(); texts.len()];
    texts.extend(echoes.iter().map(u64::to_string));
    channels.resize(texts.len(), channel(owner));
    let rows = session.query(NOTIFY, &[&channels, &texts])?;
    if rows.first().is_some_and(|row| row.get(0)) {
        return Err(session.mark_broken("PostgreSQL takes no more writes here: it became read-only"));
    }
    Ok(())
}

/// Registers the first listener and starts its thread.
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
            Ok(runtime) => runtime.block_on(run_listener(&shared)),
            Err(error) => tracing::error!(%error, "the change feed cannot start: every status is read from the ledger"),
        }
    })
    .map(Some)
}

async fn run_listener(shared: &Shared) {
    let Some(listener) = shared.feed.listener.get() else { return };
    let mut is_reported = false;
    loop {
        let mut connection = NotificationListener { shared, listener: listener.as_ref(), echoes: Echoes::default() };
        tokio::select! {
            ended = connection.connect() => if let Err(why) = ended {
                // Logged once until an echo returns again.
                if connection.echoes.last_returned().is_some() || !is_reported {
                    tracing::warn!(why, "changes of other machines are not received: every status is read from the ledger");
                }
                is_reported = true;
            },
            () = shared.feed.stop.notified() => return,
        }
        listener.disconnected();
        shared.feed.catch_up_waiters.lock().clear();
        tokio::select! {
            () = tokio::time::sleep(RELISTEN_INTERVAL) => {}
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

    /// Receives until the connection fails.
    async fn listen(&mut self, client: &Client, link: &mut Link) -> Result<(), String> {
        let echo = channel(self.shared.owner);
        let begin = format!("SET application_name = 'tollgate feed'; LISTEN {CHANGES}; LISTEN {echo}");
        self.ask(client, link, &begin).await?;
        let mut beat = tokio::time::interval(ECHO_INTERVAL);
        loop {
            tokio::select! {
                biased;
                message = poll_fn(|context| link.poll_message(context)) => self.handle_message(message)?,
                () = self.shared.feed.catch_up_requested.notified() => self.answer_catch_up(client, link).await?,
                _ = beat.tick() => {
                    if self.echoes.are_missing(MAX_ECHO_AGE) {
                        return Err("this process's own notifications do not come back to it".to_owned());
                    }
                    self.shared.feed.push(OutgoingMessage::Echo(self.echoes.next()));
                }
            }
        }
    }

    /// Sends a query whose answer follows every earlier notification. Done only if the last echo returned recently,
    /// and fails if the server is read-only.
    async fn answer_catch_up(&mut self, client: &Client, link: &mut Link) -> Result<(), String> {
        const IS_READ_ONLY: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
        if self.echoes.last_returned().is_none_or(|sent| sent.elapsed() > MAX_ECHO_AGE) {
            // The next echo triggers it again.
            return Ok(());
        }
        let waiting = std::mem::take(&mut *self.shared.feed.catch_up_waiters.lock());
        if is_true(&self.ask(client, link, IS_READ_ONLY).await?) {
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
                    message = poll_fn(|context| link.poll_message(context)) => self.handle_message(message)?,
                    answer = &mut answer => return answer.map_err(|error| chain(&error)),
                }
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asking)
            .await
            .unwrap_or_else(|_| Err("PostgreSQL does not answer".to_owned()))
    }

    fn handle_message(&mut self, message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> Result<(), String> {
        let message = message.ok_or("the connection was closed")?.map_err(|error| chain(&error))?;
        let AsyncMessage::Notification(waiters) = message else { return Ok(()) };
        if waiters.channel() != CHANGES {
            if let Some(sent) = waiters.payload().parse().ok().and_then(|number| self.echoes.returned(number)) {
                self.listener.subscribed(Some(sent + MAX_ECHO_AGE));
                if !self.shared.feed.catch_up_waiters.lock().is_empty() {
                    self.shared.feed.catch_up_requested.notify_one();
                }
            }
            return Ok(());
        }
        if waiters.payload() == "*" {
            return Err("the ledger was imported".to_owned());
        }
        let Some((owner, items)) = read(waiters.payload()) else {
            tracing::warn!("another program writes to the channel tollgate_changes");
            return Ok(());
        };
        // This process's own changes were reported at once.
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

/// Returns the id of the server, the database and the tables.
pub(super) fn identity(session: &Session) -> Result<String, LedgerError> {
    const IDENTITY: &str = "\
        SELECT concat_ws('-', system_identifier,
            (SELECT oid FROM pg_database WHERE datname = current_database()), 'tollgate_records'::regclass::oid)
        FROM pg_control_system()";
    let rows = session.query(IDENTITY, &[])?;
    rows.first().map(|row| row.get(0)).ok_or_else(|| LedgerError("PostgreSQL returned no identity".to_owned()))
}

/// Waits until every transaction that is in progress has ended.
pub(super) fn quiesce(session: &Session) -> Result<(), LedgerError> {
    const UNTIL: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(20);
    let number = |rows: Vec<tokio_postgres::Row>| rows.first().map(|row| row.get::<_, i64>(0)).unwrap_or_default();
    // Greater than the id of every transaction that has written anything so far.
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
