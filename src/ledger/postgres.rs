//! One ledger for several machines, in PostgreSQL.
//!
//! ```text
//! claim, settle, … ─▶ queue ─▶ thread with a connection: lock the order ▶ read, run the rules ▶ write ▶ commit ─▶ answer
//!                              keeper: renew the lease      sweeper: end the claims of those that are gone
//! ```
//! The rules are the embedded ledger's to the letter: the same functions over rows of bytes. What one thread is there, a
//! lock is here: whatever is about one order takes the lock of its name first, in every process, so that no two race.
//! Behind the locks, unique keys are the last line.
//!
//! When the server is gone, whatever is asked fails, so that nothing is sent; when it is back, everything goes on.

mod address;
mod clock;
mod connect;
mod dequeue;
mod failure;
mod feed;
mod health;
mod import;
mod lease;
mod origin;
mod pool;
mod running_executions;
mod save;
mod schema;
mod session;
mod sweep;

use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub use self::address::Address;
use self::health::Health;
pub(super) use self::import::{Begun, Filling};
use self::lease::Lease;
use self::pool::{Next, Queue, Tries};
use self::running_executions::RunningExecutions;
use self::session::{Failure, Session};
use super::abandoned_attempts::DoublePayment;
use super::change_feed::ChangeListener;
use super::claim_guard::{Abandoned, ClaimOwner, ExecutionId};
use super::engine::Durability;
use super::ids::{Id, Ids};
use super::limits::{DueLimit, QueueFull, QueueLimit};
use super::lock_scope::LockScope;
use super::records::{Backlog, ClaimResult, Delivery, LedgerError, Record};
use super::transaction::{Read, Space, Transaction};
use super::{inquiries, jobs, outbox};

/// Connections of a process beside those that work for requests: the keeper's, the announcer's and the listener's.
const BESIDE: usize = 3;
/// The fewest connections that a process can work with.
pub const FEWEST_CONNECTIONS: usize = BESIDE + 1;
/// The most connections of a process, where nothing else is said.
pub const CONNECTIONS: usize = 15;
/// How long anybody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ledger's threads. Dropped, they finish what waits, give up the lease and end.
pub(super) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The keeper and the sweeper, each with what ends it.
    keepers: Vec<(mpsc::Sender<()>, JoinHandle<()>)>,
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
    lease: Lease,
    /// How many threads work for requests, with a connection each if there are so many.
    wanted_connections: usize,
    /// The ledger's name, and the moves that filled it.
    origin: (String, Vec<String>),
    running_executions: Mutex<RunningExecutions>,
    feed: feed::Feed,
    wake: watch::Sender<u64>,
    due: dequeue::Looks,
}

impl Engine {
    /// Connects with so many connections at most, brings the tables up to date, and ends what dead processes left.
    pub(super) fn open(address: Address, connections: usize) -> Result<Self, LedgerError> {
        Self::with(address, connections.max(FEWEST_CONNECTIONS) - BESIDE)
    }

    /// As [`open`](Self::open), with so many connections that work for requests.
    pub(super) fn with(address: Address, connections: usize) -> Result<Self, LedgerError> {
        let (said, ready) = mpsc::channel();
        let (keeper_stop, stop) = mpsc::channel();
        let (handed, shared) = mpsc::channel();
        // Everything that waits for the server does so on threads of its own: who opens may be a task.
        let keeper = thread("ledger keeper", move || {
            let started = start(address, connections);
            let (shared, session) = match started {
                Ok(started) => started,
                Err(failure) => return drop(said.send(Err(failure))),
            };
            let _ = handed.send(Arc::clone(&shared));
            lease::keep(&shared, session, &stop, &said);
        })?;
        let gone = || LedgerError("its thread ended".to_owned());
        ready.recv().map_err(|_| gone())??;
        let shared = shared.recv().map_err(|_| gone())?;
        let mut engine =
            Self { shared, threads: Vec::new(), keepers: vec![(keeper_stop, keeper)], feed: Mutex::default() };
        for _ in 0..connections {
            let shared = Arc::clone(&engine.shared);
            engine.threads.push(thread("ledger", move || pool::work(&shared))?);
        }
        let (sweeper, (sweeper_stop, stop)) = (Arc::clone(&engine.shared), mpsc::channel());
        let (said, swept) = mpsc::channel();
        let sweeper = thread("ledger sweeper", move || sweep::run(&sweeper, &stop, said))?;
        engine.keepers.push((sweeper_stop, sweeper));
        let announcer = Arc::clone(&engine.shared);
        engine.feed.get_mut().push(thread("ledger announcer", move || feed::announce(&announcer))?);
        // Its end is the sign.
        let _ = swept.recv();
        Ok(engine)
    }

    /// As [`Engine::write`](super::engine::Engine::write).
    pub(super) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        scope: LockScope,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.ask(self.transaction(durability, scope, work)).await
    }

    /// Runs the transaction of a claim, like [`Engine::claim`](super::engine::Engine::claim).
    pub(super) async fn claim<T: Send + 'static>(
        &self,
        scope: LockScope,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let claimed = self.submit(Unawaited::Skipped, self.transaction(Durability::Durable, scope, work)).await;
        claimed.unwrap_or_else(|| Err(not_in_time()))
    }

    fn transaction<T: Send + 'static>(
        &self,
        durability: Durability,
        scope: LockScope,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> impl FnMut(&Session) -> Result<T, LedgerError> + Send + 'static {
        let shared = Arc::downgrade(&self.shared);
        move |session| {
            let Some(shared) = shared.upgrade() else { return Err(shut()) };
            let work = |tx: &mut Transaction<'_>| Ok((work(tx)?, tx.take_double_payments()));
            let ((value, double_payments), wakes) = session.transaction(durability, &scope, &shared, work)?;
            // Here and not where it is waited for: nobody may wait any more.
            double_payments.iter().for_each(DoublePayment::report);
            if wakes {
                shared.wake();
            }
            Ok(value)
        }
    }

    /// As [`Engine::read`](super::engine::Engine::read).
    pub(super) async fn read<T: Send + 'static>(
        &self,
        mut look: impl FnMut(&dyn Read) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.ask(move |session| session.look(&mut look)).await
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

    pub(super) async fn due_searches(&self, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Record> {
        let owner = self.shared.owner;
        let when = self.shared.due.when(Space::Inquiries, now, inquiries::LATEST_DUE);
        let busy = busy.to_vec();
        let taken = self.ask(move |session| {
            let keys = dequeue::take_searches(session, owner, &when, limit, &busy)?;
            whole(session, inquiries::records(session, &keys))
        });
        or_none(taken.await)
    }

    pub(super) async fn due_jobs(&self, now: Timestamp, limit: DueLimit) -> Vec<(Id, String)> {
        let owner = self.shared.owner;
        let when = self.shared.due.when(Space::Jobs, now, jobs::LATEST_DUE);
        let taken = self.ask(move |session| Ok(jobs::jobs(&dequeue::take_jobs(session, owner, &when, &limit)?)));
        or_none(taken.await)
    }

    /// As [`Engine::accept`](super::engine::Engine::accept).
    pub(super) async fn enqueue(
        &self,
        merchant: String,
        limit: QueueLimit,
        scope: LockScope,
        mut work: impl FnMut(&mut Transaction<'_>, Option<QueueFull>) -> Result<ClaimResult, LedgerError> + Send + 'static,
    ) -> Result<ClaimResult, LedgerError> {
        let shared = Arc::downgrade(&self.shared);
        let accepted = self.submit(Unawaited::Skipped, move |session| {
            let Some(shared) = shared.upgrade() else { return Err(shut()) };
            let work = |tx: &mut Transaction<'_>| work(tx, dequeue::queue_is(session, &merchant, limit)?);
            match session.transaction(Durability::Durable, &scope, &shared, work) {
                Ok((claimed, wakes)) => {
                    if wakes {
                        shared.wake();
                    }
                    Ok(claimed)
                }
                Err(error) if session.is_in_doubt() => Ok(ClaimResult::InDoubt(error)),
                Err(error) => Err(error),
            }
        });
        // What has begun may still be committed.
        accepted.await.unwrap_or_else(|| Ok(ClaimResult::InDoubt(not_in_time())))
    }

    pub(super) async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        let owner = self.shared.owner;
        let when = self.shared.due.when(Space::Outbox, now, inquiries::LATEST_DUE);
        let lanes = self.ask(move |session| Ok(dequeue::lanes(session, owner, &when)?)).await;
        let chosen = match lanes {
            Ok(lanes) => dequeue::choose(lanes, limit, free, under_way),
            Err(error) => return or_none(Err(error)),
        };
        if chosen.is_empty() {
            return Vec::new();
        }
        let taken = self.ask(move |session| {
            let taken = dequeue::take_deliveries(session, owner, &chosen)?;
            whole(session, outbox::deliveries(session, taken))
        });
        or_none(taken.await)
    }

    pub(super) async fn waiting(&self) -> Result<Backlog, LedgerError> {
        self.ask(dequeue::waiting).await
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
    pub(super) fn listen(&self, listener: Arc<dyn ChangeListener>) -> Result<(), LedgerError> {
        self.feed.lock().extend(feed::listen(&self.shared, listener)?);
        Ok(())
    }

    /// As [`Engine::caught_up`](super::engine::Engine::caught_up).
    pub(super) async fn caught_up(&self) -> bool {
        self.shared.feed.caught_up().await
    }

    /// As [`Engine::identity`](super::engine::Engine::identity).
    pub(super) async fn cluster_id(&self) -> Result<String, LedgerError> {
        self.ask(feed::identity).await
    }

    /// As [`Engine::settled`](super::engine::Engine::settled).
    pub(super) async fn quiesce(&self) -> Result<(), LedgerError> {
        self.ask(feed::settled).await
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.shared.health.is_good()
    }

    /// As [`Ledger::not_ready`](super::Ledger::not_ready).
    pub(super) fn not_ready(&self) -> Option<String> {
        let unreachable = self.shared.health.why().map(|why| {
            format!("the ledger cannot be reached ({why}); see that PostgreSQL runs and that `ledger.url` leads to it")
        });
        unreachable.or_else(|| self.shared.lease.over())
    }

    /// The ledger's name, and the moves that filled it.
    pub(super) fn origin(&self) -> (&str, &[String]) {
        (&self.shared.origin.0, &self.shared.origin.1)
    }

    pub(super) fn may_send(&self, execution: ExecutionId) -> Result<(), LedgerError> {
        let given = self.shared.running_executions.lock().term(execution);
        if let Some(why) = self.shared.lease.over() {
            return Err(LedgerError(why));
        }
        if given == Some(self.shared.lease.term()) {
            return Ok(());
        }
        let why = "the lease of this gateway in PostgreSQL ended while the request was served, so that the other gateways held it for \
                   dead; it is renewed now, and the same request may be sent again";
        Err(LedgerError(why.to_owned()))
    }

    #[cfg(test)]
    pub(super) fn lease(&self) -> &Lease {
        &self.shared.lease
    }

    /// Returns the pause before the next sweep.
    #[cfg(test)]
    pub(super) async fn sweep_pause(&self) -> Duration {
        let owner = self.shared.owner;
        self.ask(move |session| Ok(sweep::pause(session, owner)?)).await.unwrap_or_default()
    }

    pub(super) fn weak(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// Runs work over a connection. What fails for a reason that passes, and certainly did nothing, is tried again: a conflict
    /// with another transaction, a connection that was lost.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnMut(&Session) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.submit(Unawaited::Done, work).await.unwrap_or_else(|| Err(not_in_time()))
    }

    /// Asks within a time limit; `None` when there was no answer in time. The request may still be executed then.
    async fn submit<T: Send + 'static>(
        &self,
        unawaited: Unawaited,
        mut work: impl FnMut(&Session) -> Result<T, LedgerError> + Send + 'static,
    ) -> Option<Result<T, LedgerError>> {
        let (reply, answer) = oneshot::channel();
        let (mut reply, mut tries) = (Some(reply), Tries::default());
        self.shared.queue.push(Box::new(move |session| {
            if unawaited == Unawaited::Skipped && reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return Next::Done;
            }
            let done = match session {
                Ok(session) => {
                    let done = work(session);
                    if done.is_err() && tries.again(session) {
                        return Next::Again;
                    }
                    done
                }
                Err(error) => Err(error),
            };
            // Whoever waited may be gone; what a claim holds is given back then.
            reply.take().map(|reply| reply.send(done));
            Next::Done
        }));
        let answer = tokio::time::timeout(PATIENCE, answer).await.ok()?;
        Some(answer.unwrap_or_else(|_| Err(shut())))
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
        for (stop, keeper) in self.keepers.drain(..) {
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

impl ClaimOwner for Shared {
    fn acquired(&self, execution: ExecutionId) {
        let term = self.lease.term();
        self.running_executions.lock().permitted(execution, term);
    }

    fn released(&self, execution: ExecutionId) {
        self.running_executions.lock().ended(execution);
    }

    fn abandon(self: Arc<Self>, execution: ExecutionId, end: Abandoned) {
        self.running_executions.lock().dropped(execution, end);
        let shared = Arc::downgrade(&self);
        self.queue.push(Box::new(move |session| sweep::end_soon(&shared, execution, end, session)));
    }
}

/// What becomes of work that has not begun when its caller stops waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unawaited {
    Done,
    /// Its caller is told that nothing was done.
    Skipped,
}

/// Connects for the first time.
fn start(address: Address, connections: usize) -> Result<(Arc<Shared>, Session), Failure> {
    let session = Session::connect(&address)?;
    schema::migrate(&session)?;
    clock::measure_first(&session)?;
    let owner = lease::number(&session)?;
    feed::prove(&address, &session, owner)?;
    let origin = (origin::name(&session)?, origin::moves(&session)?);
    let session = session.hasty(lease::RENEWAL)?;
    let shared = Shared {
        address,
        owner,
        ids: Mutex::new(Ids::of(owner)),
        queue: Queue::default(),
        health: Health::default(),
        lease: Lease::default(),
        wanted_connections: connections,
        origin,
        running_executions: Mutex::default(),
        feed: feed::Feed::default(),
        wake: watch::Sender::new(0),
        due: dequeue::Looks::default(),
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

fn not_in_time() -> LedgerError {
    LedgerError("PostgreSQL does not answer in time".to_owned())
}

fn shut() -> LedgerError {
    LedgerError("it is shut".to_owned())
}

/// What was read, unless something could not be read for want of a connection: that is looked for once more.
fn whole<T>(session: &Session, found: Vec<T>) -> Result<Vec<T>, LedgerError> {
    match session.is_in_trouble() {
        false => Ok(found),
        true => Err(LedgerError("PostgreSQL was lost while it was read".to_owned())),
    }
}

/// What is due can wait for the next look.
fn or_none<T>(due: Result<Vec<T>, LedgerError>) -> Vec<T> {
    due.unwrap_or_else(|error| {
        tracing::warn!(%error, "what is due could not be looked up");
        Vec::new()
    })
}
