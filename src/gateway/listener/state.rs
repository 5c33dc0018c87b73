//! State of a connection: its phase, and the reason for its closing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tollgate_config::ServerLimits;

/// Reason why the gateway closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The TLS handshake failed or took too long.
    Handshake,
    /// The head of a request did not arrive in time.
    Header,
    /// No request arrived in time.
    Idle,
    /// The caller did not read a response.
    Write,
    /// The connection was idle and was evicted for a new one.
    Evicted,
    /// The input was not an HTTP request.
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
    last_response_read: Mutex<Instant>,
    closing: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request is in progress.
    Idle {
        deadline: Option<Instant>,
    },
    /// The head of a request is being received.
    Header {
        deadline: Instant,
    },
    /// `requests` are in progress, and `working` of them are being processed. The others are sending their body or
    /// reading their response.
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
            phase: Mutex::new(Phase::Header { deadline: now + limits.handshake_timeout + limits.header_timeout }),
            is_trusted: AtomicBool::new(false),
            last_response_read: Mutex::new(now),
            closing: Notify::new(),
        })
    }

    pub(super) fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    /// Starts the time limit of the first head, after the handshake.
    pub(super) fn expect_first_head(&self) {
        self.change_unless_closed(|phase| *phase = Phase::Header { deadline: Instant::now() + self.header_timeout });
    }

    /// Starts the keep-alive time, after a request has ended.
    pub(super) fn expect_next_head(&self) {
        let deadline = Some(Instant::now() + self.keepalive_timeout);
        self.change_unless_closed(|phase| *phase = Phase::Idle { deadline });
    }

    /// Switches to HTTP/2. From here Pingora measures the idle time.
    pub(super) fn is_http2(&self) {
        self.change_unless_closed(|phase| *phase = Phase::Idle { deadline: None });
    }

    /// Records received bytes. Returns true if they are the first of a head.
    pub(super) fn received(&self) -> bool {
        let mut phase = self.phase.lock();
        let is_first = matches!(*phase, Phase::Idle { deadline: Some(_) });
        if is_first {
            *phase = Phase::Header { deadline: Instant::now() + self.header_timeout };
        }
        is_first
    }

    /// Returns the deadline of the next read, and the reason for closing after it.
    pub(super) fn read_deadline(&self) -> Option<(Instant, Reason)> {
        match *self.phase.lock() {
            Phase::Idle { deadline } => deadline.map(|deadline| (deadline, Reason::Idle)),
            Phase::Header { deadline } => Some((deadline, Reason::Header)),
            Phase::Serving { .. } | Phase::Closed(_) => None,
        }
    }

    /// Returns whether a write at this time cannot be a response to a request.
    pub(super) fn is_before_request(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Idle { .. } | Phase::Header { .. })
    }

    /// Starts a request. Returns false if the connection is closed already.
    pub(super) fn begin(&self) -> bool {
        let mut phase = self.phase.lock();
        *phase = match *phase {
            Phase::Closed(_) => return false,
            Phase::Serving { requests, working } => Phase::Serving { requests: requests + 1, working },
            Phase::Idle { .. } | Phase::Header { .. } => {
                // Time without a request must not count as time in which a response was not read.
                self.answered();
                Phase::Serving { requests: 1, working: 0 }
            }
        };
        true
    }

    /// Starts processing, during which the connection is not evicted. Returns false if it is closed already.
    pub(super) fn begin_work(&self) -> bool {
        match &mut *self.phase.lock() {
            Phase::Serving { working, .. } => *working += 1,
            Phase::Closed(_) | Phase::Idle { .. } | Phase::Header { .. } => return false,
        }
        true
    }

    /// Ends the processing of a request.
    pub(super) fn end_work(&self) {
        if let Phase::Serving { working, .. } = &mut *self.phase.lock() {
            *working = working.saturating_sub(1);
        }
    }

    /// Ends a request.
    pub(super) fn end(&self) {
        self.change_unless_closed(|phase| {
            *phase = match *phase {
                Phase::Serving { requests, working } if requests > 1 => {
                    Phase::Serving { requests: requests - 1, working }
                }
                _ => Phase::Idle { deadline: None },
            };
        });
    }

    /// Records that a response was read completely.
    pub(crate) fn answered(&self) {
        *self.last_response_read.lock() = Instant::now();
    }

    /// Closes the connection if no response was read within the write timeout and no request is being processed.
    pub(crate) fn close_stuck(&self) {
        if self.last_response_read.lock().elapsed() >= self.write_timeout {
            self.close_idle(Reason::Write);
        }
    }

    /// Marks the caller as authenticated, so that the connection is evicted after others.
    pub(crate) fn trust(&self) {
        self.is_trusted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted.load(Ordering::Relaxed)
    }

    /// Returns whether no request is being processed.
    pub(super) fn is_idle(&self) -> bool {
        self.phase.lock().is_idle()
    }

    /// Closes the connection if no request is being processed.
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

    /// Closes the connection unconditionally.
    pub(crate) fn close(&self, reason: Reason) {
        self.change_unless_closed(|phase| *phase = Phase::Closed(reason));
        self.closing.notify_one();
    }

    /// Waits until the connection is to be closed. Returns the reason.
    pub(super) async fn closed(&self) -> Reason {
        loop {
            if let Phase::Closed(reason) = *self.phase.lock() {
                return reason;
            }
            self.closing.notified().await;
        }
    }

    fn change_unless_closed(&self, change: impl FnOnce(&mut Phase)) {
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
    fn connection_is_evicted_unless_a_request_is_being_processed() {
        let limits = ServerLimits::default();
        let state = ConnectionState::new(&limits);
        assert!(state.begin() && state.begin() && state.begin_work());
        assert!(!state.evict());
        state.end();
        assert!(!state.evict(), "another request on it ended");
        state.end_work();
        assert!(state.evict(), "its response is not read yet");
        assert!(!state.begin() && !state.begin_work(), "no request begins on a closed connection");
        let state = ConnectionState::new(&limits);
        assert!(state.begin() && state.evict(), "its body has not arrived");
        assert!(!state.begin_work());
        assert_eq!(state.read_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_connection_stays_open_while_a_request_is_processed() {
        let limits = ServerLimits::default();
        let state = ConnectionState::new(&limits);
        tokio::time::advance(limits.write_timeout * 2).await;
        assert!(state.begin() && state.begin());
        state.close_stuck();
        assert!(state.begin_work(), "the time without a request does not count");
        tokio::time::advance(limits.write_timeout).await;
        state.close_stuck();
        assert!(state.begin(), "a request is being processed");
        state.end_work();
        state.close_stuck();
        assert!(!state.begin());
    }

    #[test]
    fn each_phase_has_its_read_deadline() {
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
