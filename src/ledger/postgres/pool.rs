//! A few threads with a connection each, and one queue of work for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::session::{Failure, Session};
use crate::ledger::records::LedgerError;

/// For so long after a failure nobody tries to connect again; whoever comes is refused at once.
const PAUSE: Duration = Duration::from_millis(300);
/// After so long a silence a connection is tried out before it is used.
const IDLE: Duration = Duration::from_millis(500);

/// One piece of work: with a connection, or told why there is none.
pub(super) type Job = Box<dyn FnOnce(Result<&Session, LedgerError>) + Send>;

/// What waits for a connection.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_shut: bool,
}

impl Queue {
    /// Gives the job back to nobody when it is shut: what it holds is dropped, which tells its waiter.
    pub(super) fn push(&self, job: Job) {
        let mut waiting = self.waiting.lock();
        if waiting.is_shut {
            // Not under the lock: what it holds may come back to us.
            drop(waiting);
            return drop(job);
        }
        waiting.jobs.push_back(job);
        self.came.notify_one();
    }

    /// Takes no more; what waits is still done.
    pub(super) fn shut(&self) {
        self.waiting.lock().is_shut = true;
        self.came.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.is_shut {
                return None;
            }
            self.came.wait(&mut waiting);
        }
    }
}

/// Whether the server can be used, as was seen last.
#[derive(Default)]
pub(super) struct Health {
    /// Since when it cannot, and why.
    down: Mutex<Option<(Instant, String)>>,
}

impl Health {
    pub(super) fn is_good(&self) -> bool {
        self.down.lock().is_none()
    }

    pub(super) fn good(&self) {
        if self.down.lock().take().is_some() {
            tracing::info!("the ledger can be reached again");
        }
    }

    pub(super) fn bad(&self, why: &str) {
        let before = self.down.lock().replace((Instant::now(), why.to_owned()));
        if before.is_none() {
            tracing::error!(why, "the ledger cannot be reached: nothing is sent until it is back");
        }
    }

    fn refusal(&self) -> Option<Failure> {
        let down = self.down.lock();
        down.as_ref().filter(|(since, _)| since.elapsed() < PAUSE).map(|(_, why)| Failure(why.clone()))
    }
}

/// A thread's connection, made anew when it is lost.
#[derive(Default)]
pub(super) struct Line(Option<Session>);

impl Line {
    pub(super) fn of(session: Session) -> Self {
        Self(Some(session))
    }

    /// A connection that worked a moment ago.
    pub(super) fn session(&mut self, shared: &Shared) -> Result<&Session, Failure> {
        let used = self.0.take().filter(|session| !session.is_broken());
        // The server may have been started anew since.
        let tried = used.filter(|session| session.idle() < IDLE || session.run("").is_ok());
        let session = match tried {
            Some(session) => session,
            None => {
                if let Some(refusal) = shared.health.refusal() {
                    return Err(refusal);
                }
                Session::connect(&shared.address).inspect_err(|failure| shared.health.bad(&failure.0))?
            }
        };
        Ok(self.0.insert(session))
    }
}

/// Works until the queue is shut and empty.
pub(super) fn work(shared: &Arc<Shared>) {
    let mut line = Line::default();
    while let Some(job) = shared.queue.next() {
        match line.session(shared) {
            Ok(session) => job(Ok(session)),
            Err(failure) => job(Err(failure.into())),
        }
    }
}
