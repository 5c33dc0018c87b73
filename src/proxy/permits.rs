//! Permits: how many requests are worked on, and what a leaving process still waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::StatusCode;

use super::waiting::{Waiter, Waiting};
use crate::gateway::Admission;
use crate::problem::{Problem, Retryable};
use crate::telemetry::METRICS;

/// Counts requests by what they wait for. A leaving process waits longer for its own work than for callers.
#[derive(Clone, Default)]
pub struct InFlight(Arc<[AtomicUsize; 3]>);

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The caller, who sends it.
    Body,
    /// The gateway, until the answer is known.
    Work,
    /// The caller, who takes the response.
    Response,
}

impl InFlight {
    /// Number of requests that are still being received.
    pub fn bodies(&self) -> usize {
        self.count_in(Stage::Body)
    }

    /// Number of requests being worked on.
    pub fn count(&self) -> usize {
        self.count_in(Stage::Work)
    }

    /// Number of responses that are being written.
    pub fn responses(&self) -> usize {
        self.count_in(Stage::Response)
    }

    /// Counts work until the guard is dropped.
    pub(crate) fn enter(&self) -> InFlightGuard {
        self.enter_at(Stage::Work)
    }

    /// Counts a request that has arrived.
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

/// A request being served, or work for one that was answered already.
pub(crate) struct InFlightGuard {
    counts: InFlight,
    stage: Stage,
}

impl InFlightGuard {
    /// Counts the request in its next stage.
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

/// Number of requests being worked on, and bytes of their bodies. Providers' notifications have counts of their own, a quarter of
/// the requests': no flood of requests keeps a notification out.
#[derive(Default)]
pub(super) struct AdmissionLimits {
    requests: Arc<Used>,
    notifications: Arc<Used>,
}

#[derive(Default)]
struct Used {
    permits: AtomicUsize,
    bytes: AtomicU64,
    bodies: Arc<Waiting>,
}

/// Permission to work on one request, until dropped.
pub(super) struct Permit(Arc<Used>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.permits.fetch_sub(1, Ordering::AcqRel);
    }
}

impl AdmissionLimits {
    fn of(&self, admission: Admission) -> (&'static str, &Arc<Used>, u32) {
        match admission {
            Admission::Notification => ("notification", &self.notifications, 4),
            Admission::Request => ("request", &self.requests, 1),
        }
    }

    /// Refuses early, before the body of the request is read, when there is no permit for it.
    pub(super) fn check(&self, admission: Admission, most: u32) -> Result<(), Problem> {
        let (kind, used, part) = self.of(admission);
        match used.permits.load(Ordering::Acquire) < (most / part) as usize {
            true => Ok(()),
            false => Err(overloaded(kind)),
        }
    }

    /// Takes a permit. The body was read before, so that a slow sender holds none.
    pub(super) fn take(&self, admission: Admission, most: u32) -> Result<Permit, Problem> {
        let (kind, used, part) = self.of(admission);
        let permit = Permit(Arc::clone(used));
        match used.permits.fetch_add(1, Ordering::AcqRel) < (most / part) as usize {
            true => Ok(permit),
            false => Err(overloaded(kind)),
        }
    }

    /// Begins to count the bytes of a body.
    pub(super) fn buffer(&self, admission: Admission, most: u64) -> Buffered {
        let (kind, used, part) = self.of(admission);
        Buffered { kind, used: Arc::clone(used), most: most / u64::from(part), bytes: 0 }
    }

    /// Begins to wait for a body; as many are waited for as there are permits.
    pub(super) fn wait_for_body(&self, admission: Admission, most: u32) -> Waiter {
        let (_, used, part) = self.of(admission);
        used.bodies.enter((most / part) as usize)
    }
}

/// Bytes of one body in memory, until dropped.
pub(super) struct Buffered {
    kind: &'static str,
    used: Arc<Used>,
    most: u64,
    bytes: u64,
}

impl Buffered {
    /// Counts more bytes of the body. Beyond three quarters, the body that is waited for longest is given up.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let bytes = bytes as u64;
        self.bytes += bytes;
        METRICS.buffered_bytes.add(signed(bytes));
        let used = self.used.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if used > self.most - self.most / 4 {
            self.used.bodies.give_up_oldest();
        }
        if used <= self.most { Ok(()) } else { Err(self.overloaded()) }
    }

    /// The answer when the body is given up.
    pub(super) fn overloaded(&self) -> Problem {
        overloaded(self.kind)
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.used.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        METRICS.buffered_bytes.sub(signed(self.bytes));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn overloaded(kind: &'static str) -> Problem {
    METRICS.requests_shed_total.with_label_values(&[kind]).inc();
    let detail = "Nothing was done, because the gateway serves as many requests as it can. Send the same request again after 1 s.";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", Retryable::SameKey, detail).retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_and_bytes_of_requests_leave_those_of_notifications() {
        let permits = AdmissionLimits::default();
        let held: Vec<_> = (0..16).map(|_| permits.take(Admission::Request, 16).unwrap()).collect();
        assert!(permits.take(Admission::Request, 16).is_err() && permits.check(Admission::Request, 16).is_err());
        let notified: Vec<_> = (0..4).map(|_| permits.take(Admission::Notification, 16).unwrap()).collect();
        assert!(permits.take(Admission::Notification, 16).is_err());
        drop((held, notified));
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
    fn request_is_counted_by_what_it_waits_for() {
        let in_flight = InFlight::default();
        let counts = || (in_flight.bodies(), in_flight.count(), in_flight.responses());
        let mut inside = in_flight.arrive();
        assert_eq!(counts(), (1, 0, 0));
        inside.advance(Stage::Work);
        assert_eq!(counts(), (0, 1, 0));
        inside.advance(Stage::Response);
        assert_eq!(counts(), (0, 0, 1));
        drop(inside);
        assert_eq!(counts(), (0, 0, 0));
    }
}
