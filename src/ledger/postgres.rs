//! One ledger for several machines, in PostgreSQL.
//!
//! ```text
//! claim, settle, … ─▶ queue ─▶ thread with a connection: lock the order ▶ read, run the rules ▶ write ▶ commit ─▶ answer
//!                              keeper: renew the lease ▶ end the claims of those that are gone
//! ```
//! The rules are the embedded ledger's to the letter: the same functions over rows of bytes. What one thread is there, a
//! lock is here: whatever is about one order takes the lock of its name first, in every process, so that no two race.
//! Behind the locks, unique keys are the last line.
//!
//! When the server is gone, whatever is asked fails, so that nothing is sent; when it is back, everything goes on.

mod address;
mod clock;
mod due;
mod feed;
mod filling;
mod keeper;
mod pool;
mod save;
mod schema;
mod session;
mod tickets;

use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub use self::address::Address;
pub(super) use self::filling::Filling;
use self::pool::{Health, Queue};
use self::session::{Failure, Session};
use self::tickets::Tickets;
use super::about::About;
use super::engine::Durability;
use super::feed::Listener;
use super::held::{End, Holder, Turn};
use super::ids::{Id, Ids};
use super::limits::{DueLimit, QueueFull, QueueLimit};
use super::records::{Claimed, Delivery, LedgerError, Record, Waiting};
use super::transaction::{Read, Space, Transaction};
use super::{errands, outbox, searches};

/// How many connections a process has at most, beside the keeper's.
const CONNECTIONS: usize = 12;
/// How long anybody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ledger's threads. Dropped, they finish what waits, give up the lease and end.
pub(super) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    keeper: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    /// Announces changes, and hears of others' as soon as somebody wants to know.
    feed: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads and the handles share.
pub(super) struct Shared {
    address: Address,
    /// This process among those that ever used the ledger.
    owner: u32,
    ids: Mutex<Ids>,
    queue: Queue,
    health: Health,
    lease: Mutex<Lease>,
    tickets: Mutex<Tickets>,
    feed: feed::Feed,
    wake: watch::Sender<u64>,
    due: due::Looks,
}

/// Until when nobody holds this process for dead.
#[derive(Default)]
struct Lease {
    until: Option<Instant>,
    /// Grows whenever somebody may have held it for dead in between: what it had before it has no right to any more.
    term: u64,
}

impl Engine {
    /// Connects, brings the tables up to date, and ends what dead processes left.
    pub(super) fn open(address: Address) -> Result<Self, LedgerError> {
        Self::with(address, CONNECTIONS)
    }

    pub(super) fn with(address: Address, connections: usize) -> Result<Self, LedgerError> {
        let (said, ready) = mpsc::channel();
        let (keeper_stop, stop) = mpsc::channel();
        let (handed, shared) = mpsc::channel();
        // Everything that waits for the server does so on threads of its own: who opens may be a task.
        let keeper = thread("ledger keeper", move || {
            let started = start(address);
            let (shared, session) = match started {
                Ok(started) => started,
                Err(failure) => return drop(said.send(Err(failure))),
            };
            let _ = handed.send(Arc::clone(&shared));
            keeper::keep(&shared, session, &stop, &said);
        })?;
        let gone = || LedgerError("its thread ended".to_owned());
        ready.recv().map_err(|_| gone())??;
        let shared = shared.recv().map_err(|_| gone())?;
        let mut engine =
            Self { shared, threads: Vec::new(), keeper: Some((keeper_stop, keeper)), feed: Mutex::default() };
        let announcer = Arc::clone(&engine.shared);
        engine.feed.get_mut().push(thread("ledger announcer", move || feed::announce(&announcer))?);
        for _ in 0..connections {
            let shared = Arc::clone(&engine.shared);
            engine.threads.push(thread("ledger", move || pool::work(&shared))?);
        }
        Ok(engine)
    }

    /// As [`Engine::write`](super::engine::Engine::write).
    pub(super) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        about: About,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let shared = Arc::downgrade(&self.shared);
        self.ask(move |session| {
            let Some(shared) = shared.upgrade() else { return Err(shut()) };
            let (value, wakes) = session.transaction(durability, &about, &shared, work)?;
            if wakes {
                shared.wake();
            }
            Ok(value)
        })
        .await
    }

    /// As [`Engine::read`](super::engine::Engine::read).
    pub(super) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Read) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.ask(move |session| session.look(look)).await
    }

    /// As [`Engine::keys`](super::engine::Engine::keys).
    pub(super) async fn keys(
        &self,
        space: Space,
        from: Vec<u8>,
        until: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.ask(move |session| Ok(session.keys(space, &from, &until, limit)?)).await
    }

    pub(super) async fn due_searches(&self, now: Timestamp, limit: usize) -> Vec<Record> {
        let owner = self.shared.owner;
        let when = self.shared.due.when(Space::Searches, now, searches::LATEST_DUE);
        let taken = self.ask(move |session| {
            let keys = due::take(session, Space::Searches, owner, &when, limit)?;
            Ok(searches::records(session, &keys))
        });
        or_none(taken.await)
    }

    pub(super) async fn due_jobs(&self, now: Timestamp, limit: DueLimit) -> Vec<(Id, String)> {
        let owner = self.shared.owner;
        let when = self.shared.due.when(Space::Errands, now, errands::LATEST_DUE);
        let taken = self.ask(move |session| Ok(errands::jobs(&due::take_jobs(session, owner, &when, &limit)?)));
        or_none(taken.await)
    }

    /// As [`Engine::accept`](super::engine::Engine::accept).
    pub(super) async fn accept(
        &self,
        merchant: String,
        limit: QueueLimit,
        about: About,
        work: impl FnOnce(&mut Transaction<'_>, Option<QueueFull>) -> Result<Claimed, LedgerError> + Send + 'static,
    ) -> Result<Claimed, LedgerError> {
        let shared = Arc::downgrade(&self.shared);
        self.ask(move |session| {
            let Some(shared) = shared.upgrade() else { return Err(shut()) };
            let work = |tx: &mut Transaction<'_>| work(tx, due::queue_is(session, &merchant, limit)?);
            let (claimed, wakes) = session.transaction(Durability::Durable, &about, &shared, work)?;
            if wakes {
                shared.wake();
            }
            Ok(claimed)
        })
        .await
    }

    pub(super) async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        let owner = self.shared.owner;
        let when = self.shared.due.when(Space::Outbox, now, searches::LATEST_DUE);
        let lanes = self.ask(move |session| Ok(due::lanes(session, owner, &when)?)).await;
        let chosen = match lanes {
            Ok(lanes) => due::choose(lanes, limit, free, under_way),
            Err(error) => return or_none(Err(error)),
        };
        if chosen.is_empty() {
            return Vec::new();
        }
        let taken = self.ask(move |session| {
            let taken = due::take_deliveries(session, owner, &chosen)?;
            Ok(outbox::deliveries(session, taken))
        });
        or_none(taken.await)
    }

    pub(super) async fn waiting(&self) -> Result<Waiting, LedgerError> {
        self.ask(due::waiting).await
    }

    /// As [`Engine::newest`](super::engine::Engine::newest).
    pub(super) async fn newest(&self, spaces: &'static [Space]) -> Result<Option<Timestamp>, LedgerError> {
        self.ask(move |session| Ok(clock::newest(session, spaces)?)).await
    }

    /// Changes whenever this process made something due sooner. What others make due is found by looking now and then.
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        self.shared.wake.subscribe()
    }

    /// Tells the first who asks for it of every change from now on, also of those on other machines.
    pub(super) fn listen(&self, listener: Arc<dyn Listener>) -> Result<(), LedgerError> {
        self.feed.lock().extend(feed::listen(&self.shared, listener)?);
        Ok(())
    }

    /// As [`Engine::caught_up`](super::engine::Engine::caught_up).
    pub(super) async fn caught_up(&self) -> bool {
        self.shared.feed.caught_up().await
    }

    /// As [`Engine::identity`](super::engine::Engine::identity).
    pub(super) async fn identity(&self) -> Result<String, LedgerError> {
        self.ask(feed::identity).await
    }

    /// As [`Engine::settled`](super::engine::Engine::settled).
    pub(super) async fn settled(&self) -> Result<(), LedgerError> {
        self.ask(feed::settled).await
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.shared.health.is_good()
    }

    pub(super) fn may_send(&self, turn: Turn) -> Result<(), LedgerError> {
        let given = self.shared.tickets.lock().term(turn);
        let lease = self.shared.lease.lock();
        let is_alive = lease.until.is_some_and(|until| Instant::now() < until);
        if is_alive && given == Some(lease.term) {
            return Ok(());
        }
        Err(LedgerError("this process could not renew its lease, so that others held it for dead".to_owned()))
    }

    /// As when the lease could not be renewed for too long.
    #[cfg(test)]
    pub(super) fn let_lease_end(&self) {
        self.shared.lease.lock().until = None;
    }

    /// As when the lease was renewed too late.
    #[cfg(test)]
    pub(super) fn let_lease_break(&self) {
        self.shared.lease.lock().term += 1;
    }

    pub(super) fn weak(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Session) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Box::new(move |session| {
            // Whoever waited may be gone; what a claim holds is given back then.
            let _ = reply.send(session.and_then(work));
        }));
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(shut())),
            Err(_) => Err(LedgerError("PostgreSQL does not answer in time".to_owned())),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.queue.shut();
        // An answer that owns the last handle is dropped on a thread of the pool, which cannot wait for its own end.
        let own = std::thread::current().id();
        let join = |thread: JoinHandle<()>| {
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        };
        self.threads.drain(..).for_each(join);
        if let Some((stop, keeper)) = self.keeper.take() {
            drop(stop);
            join(keeper);
        }
        // Last: the others announce until their end.
        self.shared.feed.shut();
        self.feed.get_mut().drain(..).for_each(join);
    }
}

impl Shared {
    fn wake(&self) {
        self.wake.send_modify(|count| *count += 1);
    }
}

impl Holder for Shared {
    fn holds(&self, turn: Turn) {
        let term = self.lease.lock().term;
        self.tickets.lock().given(turn, term);
    }

    fn let_go(&self, turn: Turn) {
        self.tickets.lock().ended(turn);
    }

    fn end(self: Arc<Self>, turn: Turn, end: End) {
        self.tickets.lock().dropped(turn, end);
        let shared = Arc::downgrade(&self);
        self.queue.push(Box::new(move |session| {
            let Some(shared) = shared.upgrade() else { return };
            let ended = session.and_then(|session| keeper::end_claim(&shared, session, turn, end));
            if let Err(error) = ended {
                tracing::error!(%error, "a claim that nobody holds any more is ended when PostgreSQL is back");
            }
        }));
    }
}

/// Connects for the first time.
fn start(address: Address) -> Result<(Arc<Shared>, Session), Failure> {
    let session = Session::connect(&address)?;
    schema::migrate(&session)?;
    clock::measure_first(&session)?;
    let owner = keeper::number(&session)?;
    let shared = Shared {
        address,
        owner,
        ids: Mutex::new(Ids::of(owner)),
        queue: Queue::default(),
        health: Health::default(),
        lease: Mutex::default(),
        tickets: Mutex::default(),
        feed: feed::Feed::default(),
        wake: watch::Sender::new(0),
        due: due::Looks::default(),
    };
    Ok((Arc::new(shared), session))
}

/// Statements over a connection of their own.
#[cfg(test)]
pub(super) fn sql(address: Address, statements: String) -> Result<(), LedgerError> {
    let run = move || Ok(Session::connect(&address)?.run(&statements)?);
    std::thread::spawn(run).join().unwrap_or_else(|_| Err(shut()))
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LedgerError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|error| LedgerError(error.to_string()))
}

fn shut() -> LedgerError {
    LedgerError("it is shut".to_owned())
}

/// What is due can wait for the next look.
fn or_none<T>(due: Result<Vec<T>, LedgerError>) -> Vec<T> {
    due.unwrap_or_else(|error| {
        tracing::warn!(%error, "what is due could not be looked up");
        Vec::new()
    })
}
