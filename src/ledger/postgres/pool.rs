//! Connection pool: worker threads with a connection each, and one queue of work.
//!
//! Only a thread with a connection takes work. A thread that cannot connect pauses. If no thread has a connection,
//! queued work is rejected.
//!
//! Why not `deadpool-postgres` or `bb8`: both lend a connection to an async task. Here work goes to a connection,
//! because the rules are blocking functions that read row by row. Each connection belongs to a thread. What the ledger
//! needs beyond lending would have to be written around either library:
//! - After a switchover a standby keeps its connections. Before work, a connection that was idle for 0.5 s, or
//!   unchecked for 1 s, is asked whether the server takes writes.
//! - Without a connection, queued work is rejected at once, and one thread reconnects every 100 ms. In the bench
//!   `switchover` no server took writes for 0.5 to 0.7 s, and no payment was made for 0.6 to 0.8 s.
//! - Work that failed before its commit returns to the front of the queue, for another connection: at most 8 times
//!   within 6 s.
//! - Renewals of the lease precede all other work. Work whose caller has stopped waiting is skipped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::failure::{Failure, Kind};
use super::health::Part;
use super::session::Session;
use crate::error::LedgerError;

/// Interval of connection attempts while no thread has a connection. Work is rejected meanwhile, so an outage of the
/// gateway lasts up to this much longer than the server's.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// First and longest interval while other threads have a connection. The interval doubles.
const CONNECTION_LIMIT_BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];
/// Number of attempts, refused by the server's connection limit, during which work waits while no thread has a connection.
/// A closing connection of this gateway may still count.
const MAX_WAITS_FOR_LIMIT: u32 = 10;
/// Idle time after which a connection is checked before use.
const MAX_IDLE: Duration = Duration::from_millis(500);
/// Time after which the server is asked whether it is still writable.
const MAX_UNCHECKED: Duration = Duration::from_secs(1);

/// A piece of work. It gets a connection, or the reason why there is none.
pub(super) type Job = Box<dyn FnMut(Result<&Session, LedgerError>) -> Next + Send>;

/// Next step for work that ran.
pub(super) enum Next {
    Done,
    /// Retry: nothing was done, for a temporary reason.
    Retry,
}

/// Limits of retries of one piece of work, so that its caller is answered in time.
pub(super) struct RetryBudget {
    /// Time at which the work was queued.
    queued_at: Instant,
    remaining: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { queued_at: Instant::now(), remaining: 8 }
    }
}

impl RetryBudget {
    const MAX_DURATION: Duration = Duration::from_secs(6);

    /// Returns whether to retry work that ran on this connection.
    pub(super) fn may_retry(&mut self, session: &Session) -> bool {
        if self.remaining == 0 || self.queued_at.elapsed() > Self::MAX_DURATION || !session.may_repeat() {
            return false;
        }
        self.remaining -= 1;
        true
    }
}

/// Queue of work and the state of the worker threads.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes threads with a connection: there is work.
    job_available: Condvar,
    /// Wakes threads without a connection: another one is needed.
    connection_needed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    is_shut: bool,
    /// Threads with a connection, and those of them that are idle.
    connected: usize,
    idle: usize,
    /// Threads that are connecting.
    connecting: usize,
    /// Failed attempts since the last success, and how many of them the server's connection limit refused.
    failures: u32,
    refused_by_limit: u32,
    /// Earliest time of the next attempt.
    retry_after: Option<Instant>,
    /// Reason why the last attempt failed.
    why: String,
    /// True after the lack of connections was logged.
    is_reported: bool,
}

impl State {
    fn wants_more(&self) -> bool {
        self.jobs.len() > self.idle + self.connecting || (self.connected == 0 && self.failures > 0)
    }

    /// Returns whether queued work has to be rejected after a failed attempt.
    fn rejects_jobs(&self) -> bool {
        let waits_for_limit = self.refused_by_limit == self.failures && self.failures <= MAX_WAITS_FOR_LIMIT;
        self.connected == 0 && !waits_for_limit
    }
}

impl Queue {
    /// Queues work. After the shutdown the work is dropped, which fails its caller.
    pub(super) fn push(&self, job: Job) {
        self.add(job, false);
    }

    /// Queues work before all other.
    pub(super) fn push_first(&self, job: Job) {
        self.add(job, true);
    }

    fn add(&self, job: Job, is_first: bool) {
        let mut state = self.state.lock();
        if state.is_shut {
            // Dropped outside the lock, because its drop may call this queue.
            drop(state);
            return drop(job);
        }
        if is_first {
            state.jobs.push_front(job)
        } else {
            state.jobs.push_back(job)
        }
        self.job_available.notify_one();
        if state.wants_more() {
            self.connection_needed.notify_one();
        }
    }

    /// Returns work that did not run to the front of the queue, also after the shutdown.
    fn push_back_to_front(&self, job: Job) {
        self.state.lock().jobs.push_front(job);
        self.job_available.notify_one();
        self.connection_needed.notify_one();
    }

    /// Accepts no further work. Queued work is still executed.
    pub(super) fn shut(&self) {
        self.state.lock().is_shut = true;
        self.job_available.notify_all();
        self.connection_needed.notify_all();
    }

    /// Returns the number of threads with a connection.
    pub(super) fn connected(&self) -> usize {
        self.state.lock().connected
    }

    /// Returns the next work for a thread with a connection.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.is_shut {
                return None;
            }
            state.idle += 1;
            self.job_available.wait(&mut state);
            state.idle -= 1;
        }
    }

    /// Waits until a thread without a connection should connect. Returns false at the end. Rejects queued work while
    /// no thread can connect.
    fn wait_until_needed(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.is_shut && (state.jobs.is_empty() || state.connected > 0) {
                return false;
            }
            let retry_after = state.retry_after.filter(|until| Instant::now() < *until);
            // After a failure one thread at a time tries to connect.
            let may_try = retry_after.is_none() && (state.failures == 0 || state.connecting == 0);
            if state.wants_more() && may_try {
                state.connecting += 1;
                return true;
            }
            if retry_after.is_some() && state.rejects_jobs() && !state.jobs.is_empty() {
                let (jobs, why) = (std::mem::take(&mut state.jobs), state.why.clone());
                drop(state);
                refuse(jobs, &why);
                state = self.state.lock();
                continue;
            }
            match retry_after.filter(|_| state.wants_more()) {
                Some(until) => drop(self.connection_needed.wait_until(&mut state, until)),
                None => self.connection_needed.wait(&mut state),
            }
        }
    }

    fn connect_succeeded(&self, shared: &Shared) {
        let mut state = self.state.lock();
        state.connecting -= 1;
        state.connected += 1;
        (state.failures, state.refused_by_limit, state.retry_after) = (0, 0, None);
        if state.connected == shared.wanted_connections {
            state.is_reported = false;
        }
        drop(state);
        shared.health.good(Part::Pool);
        self.connection_needed.notify_all();
    }

    fn connect_failed(&self, failure: Failure, shared: &Shared) {
        let mut state = self.state.lock();
        state.connecting -= 1;
        state.failures += 1;
        state.refused_by_limit += u32::from(failure.kind == Kind::Crowded);
        state.why.clone_from(&failure.why);
        let is_alone = state.connected == 0;
        let doubled = CONNECTION_LIMIT_BACKOFF[0] * 2u32.saturating_pow(state.failures.min(8) - 1);
        state.retry_after =
            Some(Instant::now() + if is_alone { RECONNECT_INTERVAL } else { doubled.min(CONNECTION_LIMIT_BACKOFF[1]) });
        // A single failure may also be the network's.
        let is_limit = failure.kind == Kind::Crowded || state.failures > 2;
        let reported =
            (!is_alone && is_limit && !std::mem::replace(&mut state.is_reported, true)).then_some(state.connected);
        let jobs = if state.rejects_jobs() { std::mem::take(&mut state.jobs) } else { VecDeque::new() };
        drop(state);
        if let Some(connected) = reported {
            let allowed = connected + super::AUXILIARY_CONNECTIONS;
            let (connection_needed, why) = (shared.wanted_connections + super::AUXILIARY_CONNECTIONS, &failure.why);
            tracing::warn!(
                allowed,
                connection_needed,
                why,
                "PostgreSQL allows only {allowed} connections to this gateway: it works with them; allow {connection_needed}, or lower \
                 `[ledger] connections`"
            );
        }
        if is_alone {
            shared.health.bad(Part::Pool, &failure.why);
        }
        refuse(jobs, &failure.why);
        self.connection_needed.notify_one();
    }

    fn connection_lost(&self) {
        let mut state = self.state.lock();
        state.connected -= 1;
        if state.connected == 0 {
            // No thread serves new work, so an attempt must show the state at once.
            state.retry_after = None;
        }
        drop(state);
        self.connection_needed.notify_one();
    }
}

/// Rejects work. Called outside the lock, because a job's drop may call this queue.
fn refuse(jobs: VecDeque<Job>, why: &str) {
    for mut job in jobs {
        _ = job(Err(LedgerError::Unreachable { why: why.to_owned(), source: None }));
    }
}

/// Runs a worker thread until the queue is shut and empty.
pub(super) fn work(shared: &Arc<Shared>) {
    let queue = &shared.queue;
    while queue.wait_until_needed() {
        match connect(shared) {
            Ok(session) => {
                queue.connect_succeeded(shared);
                serve(shared, &session);
                queue.connection_lost();
            }
            Err(failure) => queue.connect_failed(failure, shared),
        }
    }
}

fn connect(shared: &Shared) -> Result<Session, Failure> {
    let session = Session::connect(&shared.address)?;
    shared.numbered_for.follow(&shared.address, &session)?;
    Ok(session)
}

/// Serves work on one connection while it is usable, or until the queue is shut and empty.
fn serve(shared: &Shared, session: &Session) {
    while let Some(mut job) = shared.queue.next() {
        let is_old = session.idle() > MAX_IDLE || session.unchecked() > MAX_UNCHECKED;
        if is_old && session.check().is_err() {
            return shared.queue.push_back_to_front(job);
        }
        if let Next::Retry = job(Ok(session.reset())) {
            shared.queue.push_back_to_front(job);
        }
        if session.is_broken() {
            return;
        }
    }
}
