//! A few threads, with a connection each as soon as there is work for it, and one queue of work for them.
//!
//! Only a thread with a connection takes work. One that cannot connect rests and leaves the work to the others; when none of them
//! has a connection, whatever waits is refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::failure::Kind;
use super::health::Part;
use super::session::{Failure, Session};
use crate::ledger::records::LedgerError;

/// Pause between two attempts to connect while no thread has a connection. Whoever comes meanwhile is refused at
/// once. An outage of the gateway lasts up to so much longer than the server's.
const PAUSE: Duration = Duration::from_millis(100);
/// The same while others have one: first and longest. It doubles.
const CROWDED: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];
/// After so long a silence a connection is tried before it is used.
const IDLE: Duration = Duration::from_millis(500);
/// After so long without a look, the server is asked whether it still takes writes.
const UNCHECKED: Duration = Duration::from_secs(1);

/// One piece of work: with a connection, or told why there is none.
pub(super) type Job = Box<dyn FnMut(Result<&Session, LedgerError>) -> Next + Send>;

/// What becomes of a piece of work that ran.
pub(super) enum Next {
    Done,
    /// It did nothing, for a reason that passes.
    Again,
}

/// How often one piece of work is tried, so that its caller is answered in time.
pub(super) struct Tries {
    /// When it was queued.
    began: Instant,
    left: u32,
}

impl Default for Tries {
    fn default() -> Self {
        Self { began: Instant::now(), left: 8 }
    }
}

impl Tries {
    const LONGEST: Duration = Duration::from_secs(6);

    /// Whether to try once more what ran on this connection.
    pub(super) fn again(&mut self, session: &Session) -> bool {
        if self.left == 0 || self.began.elapsed() > Self::LONGEST || !session.may_repeat() {
            return false;
        }
        self.left -= 1;
        true
    }
}

/// What waits for a connection, and who has one.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// For threads with a connection: there is work.
    came: Condvar,
    /// For threads without: another connection would help.
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    is_shut: bool,
    /// Threads with a connection, and those of them that wait for work.
    connected: usize,
    idle: usize,
    /// Threads that are connecting.
    connecting: usize,
    /// Attempts that failed since the last that did not.
    failures: u32,
    /// Before that nobody tries.
    rests_until: Option<Instant>,
    /// Why the last attempt failed.
    why: String,
    /// The operator knows that not every thread has a connection.
    is_told: bool,
}

impl State {
    fn wants_more(&self) -> bool {
        self.jobs.len() > self.idle + self.connecting || (self.connected == 0 && self.failures > 0)
    }
}

impl Queue {
    /// Gives the job back to nobody when it is shut: what it holds is dropped, which tells its waiter.
    pub(super) fn push(&self, job: Job) {
        self.add(job, false);
    }

    /// Before all others.
    pub(super) fn push_first(&self, job: Job) {
        self.add(job, true);
    }

    fn add(&self, job: Job, is_first: bool) {
        let mut state = self.state.lock();
        if state.is_shut {
            // Not under the lock: what it holds may come back to us.
            drop(state);
            return drop(job);
        }
        if is_first {
            state.jobs.push_front(job)
        } else {
            state.jobs.push_back(job)
        }
        self.came.notify_one();
        if state.wants_more() {
            self.wanted.notify_one();
        }
    }

    /// Puts back what did not run, before all others, also when it is shut.
    fn put_back(&self, job: Job) {
        self.state.lock().jobs.push_front(job);
        self.came.notify_one();
        self.wanted.notify_one();
    }

    /// Takes no more; what waits is still done.
    pub(super) fn shut(&self) {
        self.state.lock().is_shut = true;
        self.came.notify_all();
        self.wanted.notify_all();
    }

    /// Threads with a connection.
    pub(super) fn connected(&self) -> usize {
        self.state.lock().connected
    }

    /// The next work for a thread with a connection.
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
            self.came.wait(&mut state);
            state.idle -= 1;
        }
    }

    /// Waits until a thread without a connection should get one; false at the end. Refuses what waits meanwhile while nobody
    /// can connect.
    fn wait_for_need(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.is_shut && (state.jobs.is_empty() || state.connected > 0) {
                return false;
            }
            let rests_until = state.rests_until.filter(|until| Instant::now() < *until);
            // After a failure one thread is enough to find out whether there is a way again.
            let may_try = rests_until.is_none() && (state.failures == 0 || state.connecting == 0);
            if state.wants_more() && may_try {
                state.connecting += 1;
                return true;
            }
            if rests_until.is_some() && state.connected == 0 && !state.jobs.is_empty() {
                let (jobs, why) = (std::mem::take(&mut state.jobs), state.why.clone());
                drop(state);
                refuse(jobs, &why);
                state = self.state.lock();
                continue;
            }
            match rests_until.filter(|_| state.wants_more()) {
                Some(until) => drop(self.wanted.wait_until(&mut state, until)),
                None => self.wanted.wait(&mut state),
            }
        }
    }

    fn has_connected(&self, shared: &Shared) {
        let mut state = self.state.lock();
        state.connecting -= 1;
        state.connected += 1;
        (state.failures, state.rests_until) = (0, None);
        if state.connected == shared.wanted_connections {
            state.is_told = false;
        }
        drop(state);
        shared.health.good(Part::Pool);
        self.wanted.notify_all();
    }

    fn has_failed(&self, failure: Failure, shared: &Shared) {
        let mut state = self.state.lock();
        state.connecting -= 1;
        state.failures += 1;
        state.why.clone_from(&failure.why);
        let is_alone = state.connected == 0;
        let doubled = CROWDED[0] * 2u32.saturating_pow(state.failures.min(8) - 1);
        state.rests_until = Some(Instant::now() + if is_alone { PAUSE } else { doubled.min(CROWDED[1]) });
        // One failure of another kind may be the network's.
        let is_limit = failure.kind == Kind::Crowded || state.failures > 2;
        let told = (!is_alone && is_limit && !std::mem::replace(&mut state.is_told, true)).then_some(state.connected);
        let jobs = if is_alone { std::mem::take(&mut state.jobs) } else { VecDeque::new() };
        drop(state);
        if let Some(connected) = told {
            let allowed = connected + super::BESIDE;
            let (wanted, why) = (shared.wanted_connections + super::BESIDE, &failure.why);
            tracing::warn!(
                allowed,
                wanted,
                why,
                "PostgreSQL allows only {allowed} connections to this gateway: it works with them; allow {wanted}, or lower \
                 `[ledger] connections`"
            );
        }
        if is_alone {
            shared.health.bad(Part::Pool, &failure.why);
        }
        refuse(jobs, &failure.why);
        self.wanted.notify_one();
    }

    fn has_lost(&self) {
        let mut state = self.state.lock();
        state.connected -= 1;
        if state.connected == 0 {
            // Nobody works for those who come: an attempt tells them at once how it stands.
            state.rests_until = None;
        }
        drop(state);
        self.wanted.notify_one();
    }
}

/// Not under the lock: what a job holds may come back to us.
fn refuse(jobs: VecDeque<Job>, why: &str) {
    for mut job in jobs {
        _ = job(Err(LedgerError(why.to_owned())));
    }
}

/// Works until the queue is shut and empty.
pub(super) fn work(shared: &Arc<Shared>) {
    let queue = &shared.queue;
    while queue.wait_for_need() {
        match Session::connect(&shared.address) {
            Ok(session) => {
                queue.has_connected(shared);
                serve(shared, &session);
                queue.has_lost();
            }
            Err(failure) => queue.has_failed(failure, shared),
        }
    }
}

/// Works over one connection, as long as it is good or until the queue is shut and empty.
fn serve(shared: &Shared, session: &Session) {
    while let Some(mut job) = shared.queue.next() {
        let is_old = session.idle() > IDLE || session.unchecked() > UNCHECKED;
        if is_old && session.check().is_err() {
            return shared.queue.put_back(job);
        }
        if let Next::Again = job(Ok(session.fresh())) {
            shared.queue.put_back(job);
        }
        if session.is_broken() {
            return;
        }
    }
}
