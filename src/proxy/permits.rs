//! Permits: how many requests are worked on, and what a leaving process still waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::StatusCode;

use super::waiting::{Waiter, Waiting};
use crate::gateway::Admission;
use crate::problem::{Problem, Retryable};
use crate::telemetry::METRICS;

/// Counts requests until their answer is known, and then their responses until they are taken.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Counts>);

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    responses: AtomicUsize,
}

impl InFlight {
    /// Number of requests whose answer is not known yet.
    pub fn count(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
    }

    /// Number of responses that are being written.
    pub fn responses(&self) -> usize {
        self.0.responses.load(Ordering::Acquire)
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn enter(&self) -> Inside {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        METRICS.requests_in_flight.inc();
        Inside(Arc::clone(&self.0))
    }
}

/// A request being served, or work for one that was answered already.
pub(crate) struct Inside(Arc<Counts>);

impl Inside {
    /// The answer is known: from here only its response is counted.
    pub(super) fn answered(self) -> Response {
        self.0.responses.fetch_add(1, Ordering::AcqRel);
        Response(Arc::clone(&self.0))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
        METRICS.requests_in_flight.dec();
    }
}

/// A response being written.
pub(super) struct Response(Arc<Counts>);

impl Drop for Response {
    fn drop(&mut self) {
        self.0.responses.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Number of requests being worked on, and bytes of their bodies. Providers' notifications have counts of their own, a quarter of
/// the requests': no flood of requests keeps a notification out.
#[derive(Default)]
pub(super) struct Permits {
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

impl Permits {
    fn of(&self, admission: Admission) -> (&'static str, &Arc<Used>, u32) {
        match admission {
            Admission::Notification => ("notification", &self.notifications, 4),
            Admission::Request | Admission::UnknownKey => ("request", &self.requests, 1),
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
        let permits = Permits::default();
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
    fn request_is_in_flight_until_its_answer_is_known() {
        let in_flight = InFlight::default();
        let response = in_flight.enter().answered();
        assert_eq!((in_flight.count(), in_flight.responses()), (0, 1));
        drop(response);
        assert_eq!(in_flight.responses(), 0);
    }
}
