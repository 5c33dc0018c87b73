//! PostgreSQL engine: one ledger for several machines.
//!
//! ```text
//! claim, settle, … ─▶ queue ─▶ thread with a connection: lock the order ▶ read, run the rules ▶ write ▶ commit ─▶ answer
//!                              lease keeper: renew the lease      sweeper: end the claims of dead processes
//! ```
//! The rules are the same functions as in the embedded ledger, over rows of bytes. The embedded ledger serializes
//! transactions by one thread; here every process first locks the name of the order (advisory lock). Unique keys are
//! the last defence behind the locks.
//!
//! While the server is unreachable every call fails, so that nothing is sent. Calls succeed again when the server is
//! back.

mod address;
mod clock;
mod connect;
mod dequeue;
mod due_work;
mod event_page;
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
mod submit;
mod sweep;
mod tables;
mod transact;

use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::address::Address;
use self::failure::Failure;
use self::health::Health;
pub(super) use self::import::{Begun, Filling};
use self::lease::Lease;
use self::pool::Queue;
use self::running_executions::RunningExecutions;
use self::session::Session;
use super::change_feed::ChangeListener;
use super::claim_guard::{Abandoned, ClaimOwner, ExecutionId};
use super::environment::Environment;
use super::error::LedgerError;
use super::ids::Ids;
use super::records::Backlog;
use super::transaction::{Pair, Read, Space};

/// Connections of a process that serve no requests: lease keeper, announcer and listener.
const AUXILIARY_CONNECTIONS: usize = 3;
/// Minimum number of connections of a process.
pub const FEWEST_CONNECTIONS: usize = AUXILIARY_CONNECTIONS + 1;
/// Default maximum of connections of a process.
pub const CONNECTIONS: usize = 15;

/// PostgreSQL engine with its threads. When dropped, it completes the pending work, gives up the lease and joins the
/// threads.
pub(super) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Lease keeper and sweeper, each with the channel that stops it.
    background: Vec<(mpsc::Sender<()>, JoinHandle<()>)>,
    /// Announcer, and the listener once it is registered.
    feed: Mutex<Vec<JoinHandle<()>>>,
}

/// State shared by the threads and the handles.
pub(super) struct Shared {
    address: Address,
    environment: Environment,
    /// Number of this process, unique among all that ever used the ledger.
    owner: u32,
    ids: Mutex<Ids>,
    queue: Queue,
    health: Health,
    lease: Lease,
    /// Number of worker threads, each with its own connection if the server allows it.
    wanted_connections: usize,
    /// Name of the ledger, and the ids of the migrations that filled it.
    origin: (String, Vec<String>),
    running_executions: Mutex<RunningExecutions>,
    feed: feed::Feed,
    wake: watch::Sender<u64>,
    due: dequeue::DueScans,
    withheld: Arc<event_page::Withheld>,
}

impl Engine {
    /// Connects with at most this many connections, migrates the tables, and ends the claims of dead processes.
    pub(super) fn open(address: Address, connections: usize, environment: Environment) -> Result<Self, LedgerError> {
        Self::with(address, connections.max(FEWEST_CONNECTIONS) - AUXILIARY_CONNECTIONS, environment)
    }

    /// Connects like [`open`](Self::open), with this many connections for requests.
    pub(super) fn with(address: Address, connections: usize, environment: Environment) -> Result<Self, LedgerError> {
        let (done_sender, ready) = mpsc::channel();
        let (stop_keeper, stop) = mpsc::channel();
        let (shared_sender, shared) = mpsc::channel();
        // All waiting for the server is done on other threads, because the caller may be an async task.
        let lease_keeper = thread("ledger keeper", move || {
            let started = start(address, connections, environment);
            let (shared, session) = match started {
                Ok(started) => started,
                Err(failure) => return drop(done_sender.send(Err(failure))),
            };
            let _ = shared_sender.send(Arc::clone(&shared));
            lease::keep(&shared, session, &stop, &done_sender);
        })?;
        let thread_ended = || LedgerError::Internal("the lease keeper ended".to_owned());
        ready.recv().map_err(|_| thread_ended())??;
        let shared = shared.recv().map_err(|_| thread_ended())?;
        let mut engine =
            Self { shared, threads: Vec::new(), background: vec![(stop_keeper, lease_keeper)], feed: Mutex::default() };
        for _ in 0..connections {
            let shared = Arc::clone(&engine.shared);
            engine.threads.push(thread("ledger", move || pool::work(&shared))?);
        }
        let (sweeper, (sweeper_stop, stop)) = (Arc::clone(&engine.shared), mpsc::channel());
        let (done_sender, swept) = mpsc::channel();
        let sweeper = thread("ledger sweeper", move || sweep::run(&sweeper, &stop, done_sender))?;
        engine.background.push((sweeper_stop, sweeper));
        let announcer = Arc::clone(&engine.shared);
        engine.feed.get_mut().push(thread("ledger announcer", move || feed::announce(&announcer))?);
        // The sweeper drops its sender after the first batches.
        let _ = swept.recv();
        Ok(engine)
    }

    /// Implements [`Engine::read`](super::engine::Engine::read).
    pub(super) async fn read<T: Send + 'static>(
        &self,
        mut read: impl FnMut(&dyn Read) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.ask(move |session| session.read_snapshot(&mut read)).await
    }

    /// Implements [`Engine::keys`](super::engine::Engine::keys).
    pub(super) async fn keys(
        &self,
        space: Space,
        from: Vec<u8>,
        until: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.ask(move |session| Ok(session.keys(space, &from, &until, limit)?)).await
    }

    pub(super) async fn waiting(&self) -> Result<Backlog, LedgerError> {
        self.ask(dequeue::backlog).await
    }

    /// Returns the outbox rows of a subscription.
    pub(super) async fn outbox_of(&self, subscription: String) -> Result<Vec<Pair>, LedgerError> {
        self.ask(move |session| Ok(dequeue::outbox_of(session, &subscription)?)).await
    }

    /// Implements [`Engine::newest`](super::engine::Engine::newest).
    pub(super) async fn newest(&self, spaces: &'static [Space]) -> Result<Option<Timestamp>, LedgerError> {
        self.ask(move |session| Ok(clock::newest(session, spaces)?)).await
    }

    /// Returns a counter that changes whenever this process makes something due sooner. Work of other processes is
    /// found by polling.
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        self.shared.wake.subscribe()
    }

    /// Registers the first listener for all changes, including those of other machines.
    pub(super) fn listen(&self, listener: Arc<dyn ChangeListener>) -> Result<(), LedgerError> {
        self.feed.lock().extend(feed::listen(&self.shared, listener)?);
        Ok(())
    }

    /// Implements [`Engine::caught_up`](super::engine::Engine::caught_up).
    pub(super) async fn caught_up(&self) -> bool {
        self.shared.feed.caught_up().await
    }

    /// Implements [`Engine::cluster_id`](super::engine::Engine::cluster_id).
    pub(super) async fn cluster_id(&self) -> Result<String, LedgerError> {
        self.ask(origin::identity).await
    }

    /// Implements [`Engine::quiesce`](super::engine::Engine::quiesce).
    pub(super) async fn quiesce(&self) -> Result<(), LedgerError> {
        self.ask(feed::quiesce).await
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.shared.environment
    }

    #[cfg(test)]
    pub(super) fn is_healthy(&self) -> bool {
        self.shared.health.is_good()
    }

    /// Implements [`Ledger::not_ready`](super::Ledger::not_ready).
    pub(super) fn not_ready(&self) -> Option<LedgerError> {
        let unreachable = self.shared.health.why().map(|why| LedgerError::Unreachable {
            why: format!(
                "the ledger cannot be reached ({why}); see that PostgreSQL runs and that `ledger.url` leads to it"
            ),
            source: None,
        });
        unreachable.or_else(|| self.shared.lease.expired_reason().map(LedgerError::LeaseLost))
    }

    /// Returns the ledger's name and the ids of the migrations that filled it.
    pub(super) fn origin(&self) -> (&str, &[String]) {
        (&self.shared.origin.0, &self.shared.origin.1)
    }

    pub(super) fn may_send(&self, execution: ExecutionId) -> Result<(), LedgerError> {
        let given = self.shared.running_executions.lock().term(execution);
        if let Some(why) = self.shared.lease.expired_reason() {
            return Err(LedgerError::LeaseLost(why));
        }
        if given == Some(self.shared.lease.term()) {
            return Ok(());
        }
        let why = "the lease of this gateway in PostgreSQL ended while the request was served, so that the other gateways held it for \
                   dead; it is renewed now, and the same request may be sent again";
        Err(LedgerError::LeaseLost(why.to_owned()))
    }

    #[cfg(test)]
    pub(super) fn lease(&self) -> &Lease {
        &self.shared.lease
    }

    /// Returns the pause before the next sweep.
    #[cfg(test)]
    pub(super) async fn sweep_pause(&self) -> std::time::Duration {
        let owner = self.shared.owner;
        self.ask(move |session| Ok(sweep::pause(session, owner)?)).await.unwrap_or_default()
    }

    pub(super) fn weak(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.queue.shut();
        // If the last handle is dropped by a reply on a worker thread, that thread cannot join itself.
        let own = std::thread::current().id();
        let join = |thread: JoinHandle<()>| {
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        };
        self.threads.drain(..).for_each(join);
        for (stop, lease_keeper) in self.background.drain(..) {
            drop(stop);
            join(lease_keeper);
        }
        // Last, because the other threads announce changes until they end.
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

/// Connects for the first time and creates the shared state.
fn start(address: Address, connections: usize, environment: Environment) -> Result<(Arc<Shared>, Session), Failure> {
    let session = Session::connect(&address)?;
    schema::migrate(&session)?;
    event_page::renumber_restored(&address, &session)?;
    clock::measure_first(&session, &*environment.clock)?;
    let owner = lease::number(&session)?;
    feed::prove(&address, &session, owner)?;
    let origin = (origin::name(&session)?, origin::migrations(&session)?);
    let session = session.with_timeout(lease::RENEWAL_TIMEOUT_SECS)?;
    let shared = Shared {
        address,
        environment,
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
        due: dequeue::DueScans::default(),
        withheld: Arc::default(),
    };
    Ok((Arc::new(shared), session))
}

/// Runs statements on a new connection.
#[cfg(test)]
pub(super) fn sql(address: Address, statements: String) -> Result<(), LedgerError> {
    let run = move || Ok(Session::connect(&address)?.run(&statements)?);
    std::thread::spawn(run).join().unwrap_or_else(|_| Err(LedgerError::Closed))
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LedgerError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| LedgerError::Internal(format!("the thread `{name}` cannot be started: {error}")))
}
