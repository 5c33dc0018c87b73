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
//! the listening one, after all earlier announcements. Without an echo within 3 s the caches are not
//! trusted. A caller that must know that all changes have arrived (to answer that an order does not exist) sends a
//! query on the listening connection; concurrent callers share its answer.

mod echo;
mod listener;
mod wire;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use self::echo::channel;
pub(super) use self::echo::prove;
use self::listener::run_listener;
use self::wire::{Item, items, messages};
use super::failure::Failure;
use super::pool::Next;
use super::session::Session;
use super::{Shared, thread};
use crate::change_feed::{ChangeListener, Changes};
use crate::error::LedgerError;

/// Delay before the announcer reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Timeout of a query on the listening connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of an announcement. After it the transaction sends the NOTIFY itself.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);

/// Statement that tells every process to discard its caches.
pub(super) const ANNOUNCE_ALL: &str = "SELECT pg_notify('tollgate_changes', '*')";

/// Statement that sends notifications, and returns whether the server is read-only. A standby reaches no listeners.
const NOTIFY: &str = "\
    SELECT current_setting('transaction_read_only')::bool, pg_notify(channel, message)
    FROM unnest($1::text[], $2::text[]) AS it (channel, message)";

const CHANGES_CHANNEL: &str = "tollgate_changes";

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
    fn announce(&self, items: Vec<Item>) -> bool {
        let (waiters, done) = mpsc::channel();
        self.push(OutgoingMessage::Changes(items, Some(waiters))) && done.recv_timeout(ANNOUNCE_TIMEOUT).is_ok()
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
            let items = items(&changes, false);
            if !items.is_empty() && !shared.feed.announce(items.clone()) {
                send_notifications(session, shared.owner, &items, &[])?;
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
    let mut channels = vec![CHANGES_CHANNEL.to_owned(); texts.len()];
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

/// Waits until every transaction that is in progress has ended.
pub(super) fn quiesce(session: &Session) -> Result<(), LedgerError> {
    const TRANSACTION_END_TIMEOUT: Duration = Duration::from_secs(60);
    const TRANSACTION_POLL_INTERVAL: Duration = Duration::from_millis(20);
    let number = |rows: Vec<tokio_postgres::Row>| rows.first().map(|row| row.get::<_, i64>(0)).unwrap_or_default();
    // Greater than the id of every transaction that has written anything so far.
    let next = number(session.query("SELECT pg_current_xact_id()::text::bigint", &[])?);
    let began = Instant::now();
    while number(session.query("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint", &[])?) < next {
        if began.elapsed() > TRANSACTION_END_TIMEOUT {
            let why = "a transaction in PostgreSQL does not end".to_owned();
            return Err(LedgerError::Conflict { why, source: None });
        }
        std::thread::sleep(TRANSACTION_POLL_INTERVAL);
    }
    Ok(())
}
