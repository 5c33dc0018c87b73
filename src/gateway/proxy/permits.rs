//! Admission limits: concurrent requests, buffered bytes, and the count of requests in flight for a graceful
//! shutdown.
//!
//! Counters instead of `tokio` semaphores: the limits change with a reload, a semaphore cannot be lowered while its
//! permits are in use, and a request over the limit is rejected instead of queued.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::StatusCode;

use super::waiting::{Waiter, Waiting};
use crate::operations::Admission;
use crate::problem::{Problem, Retryable};
use crate::telemetry::METRICS;

/// Counts requests in flight by stage. A draining process waits longer for its own work than for callers.
#[derive(Clone, Default)]
pub struct InFlight(Arc<[AtomicUsize; 3]>);

/// Stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waiting for the caller to send the body.
    Body,
    /// Being processed by the gateway.
    Work,
    /// Waiting for the caller to read the response.
    Response,
}

impl InFlight {
    /// Number of requests being received.
    pub fn bodies(&self) -> usize {
        self.count_in(Stage::Body)
    }

    /// Number of requests being processed.
    pub fn count(&self) -> usize {
        self.count_in(Stage::Work)
    }

    /// Number of responses being written.
    pub fn responses(&self) -> usize {
        self.count_in(Stage::Response)
    }

    /// Counts background work until the guard is dropped.
    pub(crate) fn enter(&self) -> InFlightGuard {
        self.enter_at(Stage::Work)
    }

    /// Counts a new request.
    pub(super) fn arrive(&self) -> InFlightGuard {
        self.enter_at(Stage::Body)
    }

    fn enter_at(&self, stage: Stage) -> InFlightGuard {
        self.add(stage);
        InFlightGuard { counts: self.clone(), stage }
    }

    fn count_in(&self, stage: Stage) -> usize {
        self.0[stage as usize].load(Ordering::Acquire)
    }

    fn add(&self, stage: Stage) {
        self.0[stage as usize].fetch_add(1, Ordering::AcqRel);
        if stage == Stage::Work {
            METRICS.requests_in_flight.inc();
        }
    }

    fn subtract(&self, stage: Stage) {
        self.0[stage as usize].fetch_sub(1, Ordering::AcqRel);
        if stage == Stage::Work {
            METRICS.requests_in_flight.dec();
        }
    }
}

/// Counts a request, or background work, until dropped.
pub(crate) struct InFlightGuard {
    counts: InFlight,
    stage: Stage,
}

impl InFlightGuard {
    /// Moves the request to its next stage.
    pub(super) fn advance(&mut self, stage: Stage) {
        self.counts.add(stage);
        self.counts.subtract(std::mem::replace(&mut self.stage, stage));
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.counts.subtract(self.stage);
    }
}

/// Limits for concurrent requests and buffered bytes. Notifications have separate limits, a quarter of the requests'
/// limits, so that a flood of requests cannot block notifications.
#[derive(Default)]
pub(super) struct AdmissionLimits {
    requests: Arc<Usage>,
    notifications: Arc<Usage>,
}

#[derive(Default)]
struct Usage {
    permits: AtomicUsize,
    bytes: AtomicU64,
    bodies: Arc<Waiting>,
}

/// Permission to process one request, until dropped.
pub(super) struct Permit(Arc<Usage>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.permits.fetch_sub(1, Ordering::AcqRel);
    }
}

impl AdmissionLimits {
    fn of(&self, admission: Admission) -> (&'static str, &Arc<Usage>, u32) {
        match admission {
            Admission::Notification => ("notification", &self.notifications, 4),
            Admission::Request => ("request", &self.requests, 1),
        }
    }

    /// Rejects a request early, before its body is read, if no permit is free.
    pub(super) fn check(&self, admission: Admission, maximum: u32) -> Result<(), Problem> {
        let (kind, usage, divisor) = self.of(admission);
        match usage.permits.load(Ordering::Acquire) < (maximum / divisor) as usize {
            true => Ok(()),
            false => Err(overloaded(kind)),
        }
    }

    /// Takes a permit. Call after the body was read, so that a slow sender occupies none.
    pub(super) fn take(&self, admission: Admission, maximum: u32) -> Result<Permit, Problem> {
        let (kind, usage, divisor) = self.of(admission);
        let permit = Permit(Arc::clone(usage));
        match usage.permits.fetch_add(1, Ordering::AcqRel) < (maximum / divisor) as usize {
            true => Ok(permit),
            false => Err(overloaded(kind)),
        }
    }

    /// Starts counting the bytes of a body.
    pub(super) fn buffer(&self, admission: Admission, maximum: u64) -> Buffered {
        let (kind, usage, divisor) = self.of(admission);
        Buffered { kind, usage: Arc::clone(usage), maximum: maximum / u64::from(divisor), bytes: 0 }
    }

    /// Starts waiting for a body. At most as many bodies are awaited as there are permits.
    pub(super) fn wait_for_body(&self, admission: Admission, maximum: u32) -> Waiter {
        let (_, usage, divisor) = self.of(admission);
        usage.bodies.enter((maximum / divisor) as usize)
    }
}

/// Counts the buffered bytes of one body, until dropped.
pub(super) struct Buffered {
    kind: &'static str,
    usage: Arc<Usage>,
    maximum: u64,
    bytes: u64,
}

impl Buffered {
    /// Counts more bytes of the body. Above three quarters of the limit, the body that has been awaited longest is
    /// given up.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let bytes = bytes as u64;
        self.bytes += bytes;
        METRICS.buffered_bytes.add(signed(bytes));
        let usage = self.usage.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if usage > self.maximum - self.maximum / 4 {
            self.usage.bodies.give_up_oldest();
        }
        if usage <= self.maximum { Ok(()) } else { Err(self.overloaded()) }
    }

    /// Returns the problem for a body that was given up.
    pub(super) fn overloaded(&self) -> Problem {
        overloaded(self.kind)
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.usage.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        METRICS.buffered_bytes.sub(signed(self.bytes));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn overloaded(kind: &'static str) -> Problem {
    METRICS.requests_shed_total.with_label_values(&[kind]).inc();
    let detail = "Nothing was done, because the gateway is at its limit of concurrent requests. Send the same request again after 1 s.";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", Retryable::SameKey, detail).retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_use_no_permits_or_bytes_of_notifications() {
        let permits = AdmissionLimits::default();
        let request_permits: Vec<_> = (0..16).map(|_| permits.take(Admission::Request, 16).unwrap()).collect();
        assert!(permits.take(Admission::Request, 16).is_err() && permits.check(Admission::Request, 16).is_err());
        let notification_permits: Vec<_> = (0..4).map(|_| permits.take(Admission::Notification, 16).unwrap()).collect();
        assert!(permits.take(Admission::Notification, 16).is_err());
        drop((request_permits, notification_permits));
        assert!(permits.check(Admission::Request, 16).is_ok() && permits.check(Admission::Notification, 16).is_ok());

        let mut first = permits.buffer(Admission::Request, 100);
        assert!(first.grow(60).is_ok());
        let mut second = permits.buffer(Admission::Request, 100);
        assert!(second.grow(60).is_err());
        assert!(permits.buffer(Admission::Notification, 100).grow(25).is_ok());
        assert!(permits.buffer(Admission::Notification, 100).grow(26).is_err());
        drop(second);
        assert!(first.grow(40).is_ok());
    }

    #[test]
    fn request_is_counted_in_its_stage() {
        let in_flight = InFlight::default();
        let counts = || (in_flight.bodies(), in_flight.count(), in_flight.responses());
        let mut guard = in_flight.arrive();
        assert_eq!(counts(), (1, 0, 0));
        guard.advance(Stage::Work);
        assert_eq!(counts(), (0, 1, 0));
        guard.advance(Stage::Response);
        assert_eq!(counts(), (0, 0, 1));
        drop(guard);
        assert_eq!(counts(), (0, 0, 0));
    }
}
