//! Signal handlers, and whether they are installed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};

/// Tracks which signal handlers are not installed yet. Until then these signals kill the process.
#[derive(Debug)]
pub(crate) struct SignalReadiness {
    /// True while the handler of SIGHUP is not installed yet.
    pub(super) awaits_hang_up: AtomicBool,
    /// True while the handlers of SIGTERM and SIGINT are not installed yet.
    awaits_termination: AtomicBool,
}

impl SignalReadiness {
    pub(super) fn not_ready() -> Arc<Self> {
        Arc::new(Self { awaits_hang_up: true.into(), awaits_termination: true.into() })
    }

    /// Returns whether a handler is not installed yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.awaits_hang_up.load(Ordering::Acquire) || self.awaits_termination.load(Ordering::Acquire)
    }
}

/// Waits for SIGTERM and SIGINT.
pub(super) struct Signals(pub(super) Arc<SignalReadiness>);

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let handlers = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        self.0.awaits_termination.store(false, Ordering::Release);
        let (Ok(mut terminate), Ok(mut interrupt)) = handlers else {
            tracing::error!("signal handlers cannot be installed; shutting down");
            return ShutdownSignal::FastShutdown;
        };
        tokio::select! {
            _ = terminate.recv() => ShutdownSignal::GracefulTerminate,
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
        }
    }
}
