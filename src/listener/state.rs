//! State of one connection: the phase that it is in, and why it is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::ServerLimits;

/// Why the gateway closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The TLS handshake failed or took too long.
    Handshake,
    /// The head of a request was not complete in time.
    Header,
    /// No request came in time.
    Idle,
    /// A response was not taken.
    Write,
    /// It was idle, and another connection needed its place.
    Evicted,
    /// What it sent never was a request.
    Refused,
}

impl Reason {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Header => "header_timeout",
            Self::Idle => "keepalive_timeout",
            Self::Write => "write_timeout",
            Self::Evicted => "evicted",
            Self::Refused => "invalid_request",
        }
    }
}

/// State of one connection, shared by its stream, its requests and the registry.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    header_timeout: Duration,
    keepalive_timeout: Duration,
    write_timeout: Duration,
    phase: Mutex<Phase>,
    is_trusted: AtomicBool,
    last_answer: Mutex<Instant>,
    closing: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request has begun.
    Idle {
        until: Option<Instant>,
    },
    /// The head of a request is on its way.
    Header {
        until: Instant,
    },
    /// So many requests have begun and did not end; so many of them are worked on. The others send their body, or take a
    /// response.
    Serving {
        requests: u32,
        working: u32,
    },
    Closed(Reason),
}

impl Phase {
    fn is_idle(self) -> bool {
        match self {
            Self::Idle { .. } | Self::Header { .. } => true,
            Self::Serving { working, .. } => working == 0,
            Self::Closed(_) => false,
        }
    }
}

impl ConnectionState {
    pub(super) fn new(limits: &ServerLimits) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            header_timeout: limits.header_timeout,
            keepalive_timeout: limits.keepalive_timeout,
            write_timeout: limits.write_timeout,
            phase: Mutex::new(Phase::Header { until: now + limits.handshake_timeout + limits.header_timeout }),
            is_trusted: AtomicBool::new(false),
            last_answer: Mutex::new(now),
            closing: Notify::new(),
        })
    }

    pub(super) fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    /// The handshake is over: the head of the first request may come.
    pub(super) fn expect_first_head(&self) {
        self.unless_closed(|phase| *phase = Phase::Header { until: Instant::now() + self.header_timeout });
    }

    /// The previous request is over: the head of the next one may come.
    pub(super) fn expect_next_head(&self) {
        let until = Some(Instant::now() + self.keepalive_timeout);
        self.unless_closed(|phase| *phase = Phase::Idle { until });
    }

    /// HTTP/2 has begun. From here Pingora measures how long the connection is idle.
    pub(super) fn is_http2(&self) {
        self.unless_closed(|phase| *phase = Phase::Idle { until: None });
    }

    /// Bytes came in. True when they are the first of a head.
    pub(super) fn received(&self) -> bool {
        let mut phase = self.phase.lock();
        let is_first = matches!(*phase, Phase::Idle { until: Some(_) });
        if is_first {
            *phase = Phase::Header { until: Instant::now() + self.header_timeout };
        }
        is_first
    }

    /// The time until which the next bytes must come, and the reason when they do not.
    pub(super) fn read_deadline(&self) -> Option<(Instant, Reason)> {
        match *self.phase.lock() {
            Phase::Idle { until } => until.map(|until| (until, Reason::Idle)),
            Phase::Header { until } => Some((until, Reason::Header)),
            Phase::Serving { .. } | Phase::Closed(_) => None,
        }
    }

    /// Whether what is written now cannot be the answer to a request.
    pub(super) fn is_before_request(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Idle { .. } | Phase::Header { .. })
    }

    /// A request begins. False when the connection was closed already.
    pub(super) fn begin(&self) -> bool {
        let mut phase = self.phase.lock();
        *phase = match *phase {
            Phase::Closed(_) => return false,
            Phase::Serving { requests, working } => Phase::Serving { requests: requests + 1, working },
            Phase::Idle { .. } | Phase::Header { .. } => {
                // The time without a request is not time in which a response was not taken.
                self.answered();
                Phase::Serving { requests: 1, working: 0 }
            }
        };
        true
    }

    /// Work on a request begins: from here the connection is not evicted. False when it was closed already.
    pub(super) fn begin_work(&self) -> bool {
        match &mut *self.phase.lock() {
            Phase::Serving { working, .. } => *working += 1,
            Phase::Closed(_) | Phase::Idle { .. } | Phase::Header { .. } => return false,
        }
        true
    }

    /// Work on a request ended.
    pub(super) fn end_work(&self) {
        if let Phase::Serving { working, .. } = &mut *self.phase.lock() {
            *working = working.saturating_sub(1);
        }
    }

    /// A request ended.
    pub(super) fn end(&self) {
        self.unless_closed(|phase| {
            *phase = match *phase {
                Phase::Serving { requests, working } if requests > 1 => {
                    Phase::Serving { requests: requests - 1, working }
                }
                _ => Phase::Idle { until: None },
            };
        });
    }

    /// A response was taken as a whole.
    pub(crate) fn answered(&self) {
        *self.last_answer.lock() = Instant::now();
    }

    /// Closes the connection if no response was taken for as long as one may take, and nothing is worked on for it.
    pub(crate) fn close_stuck(&self) {
        if self.last_answer.lock().elapsed() >= self.write_timeout {
            self.close_idle(Reason::Write);
        }
    }

    /// Its caller is known: it is evicted after those of strangers.
    pub(crate) fn trust(&self) {
        self.is_trusted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted.load(Ordering::Relaxed)
    }

    /// Whether nothing is worked on for this connection.
    pub(super) fn is_idle(&self) -> bool {
        self.phase.lock().is_idle()
    }

    /// Closes the connection if nothing is worked on for it.
    pub(super) fn evict(&self) -> bool {
        self.close_idle(Reason::Evicted)
    }

    fn close_idle(&self, reason: Reason) -> bool {
        let mut phase = self.phase.lock();
        let is_idle = phase.is_idle();
        if is_idle {
            *phase = Phase::Closed(reason);
            drop(phase);
            self.closing.notify_one();
        }
        is_idle
    }

    /// Closes the connection, whatever is under way on it.
    pub(crate) fn close(&self, reason: Reason) {
        self.unless_closed(|phase| *phase = Phase::Closed(reason));
        self.closing.notify_one();
    }

    /// Waits until the connection is to be closed.
    pub(super) async fn closed(&self) -> Reason {
        loop {
            if let Phase::Closed(reason) = *self.phase.lock() {
                return reason;
            }
            self.closing.notified().await;
        }
    }

    fn unless_closed(&self, change: impl FnOnce(&mut Phase)) {
        let mut phase = self.phase.lock();
        if !matches!(*phase, Phase::Closed(_)) {
            change(&mut phase);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_is_evicted_unless_a_request_on_it_is_worked_on() {
        let limits = ServerLimits::default();
        let state = ConnectionState::new(&limits);
        assert!(state.begin() && state.begin() && state.begin_work());
        assert!(!state.evict());
        state.end();
        assert!(!state.evict(), "another request on it ended");
        state.end_work();
        assert!(state.evict(), "its response is still to be taken");
        assert!(!state.begin() && !state.begin_work(), "nothing begins on a connection that is being closed");
        let state = ConnectionState::new(&limits);
        assert!(state.begin() && state.evict(), "its body is still to come");
        assert!(!state.begin_work());
        assert_eq!(state.read_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_connection_stays_while_a_request_on_it_is_worked_on() {
        let limits = ServerLimits::default();
        let state = ConnectionState::new(&limits);
        tokio::time::advance(limits.write_timeout * 2).await;
        assert!(state.begin() && state.begin());
        state.close_stuck();
        assert!(state.begin_work(), "it was without a request before");
        tokio::time::advance(limits.write_timeout).await;
        state.close_stuck();
        assert!(state.begin(), "a request on it is worked on");
        state.end_work();
        state.close_stuck();
        assert!(!state.begin());
    }

    #[test]
    fn each_phase_has_its_deadline() {
        let limits = ServerLimits::default();
        let state = ConnectionState::new(&limits);
        assert_eq!(state.read_deadline().unwrap().1, Reason::Header);
        state.expect_next_head();
        assert_eq!(state.read_deadline().unwrap().1, Reason::Idle);
        assert!(state.received());
        let (first, reason) = state.read_deadline().unwrap();
        assert_eq!(reason, Reason::Header);
        assert!(!state.received());
        assert_eq!(state.read_deadline().unwrap().0, first, "more bytes of a head do not extend its time");
        assert!(state.begin());
        assert_eq!(state.read_deadline(), None);
        state.is_http2();
        assert!(!state.received());
        assert_eq!(state.read_deadline(), None);
    }
}
