//! Reads request bodies with limits for size, time and minimum rate.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use pingora::protocols::http::ServerSession;
use tokio::time::{Instant, sleep_until, timeout};
use tollgate_config::ServerLimits;

use super::permits::Buffered;
use super::waiting::Waiter;
use crate::problem::{Problem, Retryable};

/// Window in which the rate of a body is measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Maximum time and bytes for discarding the rest of a rejected body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DISCARDED: usize = 64 << 20;

/// Rejects a body whose `Content-Length` exceeds the limit.
pub(super) fn check_length(headers: &HeaderMap, max_bytes: usize) -> Result<(), Problem> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match declared.is_some_and(|length| length > max_bytes as u64) {
        true => Err(too_large(max_bytes)),
        false => Ok(()),
    }
}

/// Reads the body. After an error the connection cannot be reused, because the start of the next request is unknown.
pub(super) async fn read(
    session: &mut ServerSession,
    limits: &ServerLimits,
    max_bytes: usize,
    (waiter, buffered): (Waiter, &mut Buffered),
) -> Result<Bytes, Problem> {
    let body = read_all(session, limits, max_bytes, (waiter, buffered)).await;
    if body.is_err() {
        session.set_keepalive(None);
    }
    body
}

/// Reads and discards the rest of a body, within limits for time and size.
pub(super) async fn discard(session: &mut ServerSession) {
    let all = async {
        let mut length = 0;
        while let Ok(Some(part)) = session.read_request_body().await {
            length += part.len();
            if length > MAX_DISCARDED {
                break;
            }
        }
    };
    drop(timeout(DISCARD_TIMEOUT, all).await);
}

async fn read_all(
    session: &mut ServerSession,
    limits: &ServerLimits,
    max_bytes: usize,
    (waiter, buffered): (Waiter, &mut Buffered),
) -> Result<Bytes, Problem> {
    let mut rate_check = RateCheck::new(limits, Instant::now());
    let mut body = BytesMut::new();
    let mut length = 0;
    loop {
        let mut part = pin!(session.read_request_body());
        let part = loop {
            tokio::select! {
                biased;
                () = waiter.given_up() => return Err(buffered.overloaded()),
                part = &mut part => break part,
                () = sleep_until(rate_check.next_check()) => {
                    if rate_check.is_too_slow(Instant::now()) {
                        return Err(timed_out());
                    }
                }
            }
        };
        match part {
            Ok(Some(part)) => {
                length += part.len();
                if length > max_bytes {
                    return Err(too_large(max_bytes));
                }
                rate_check.received(part.len());
                // Parts may arrive so often that the timer branch above never runs.
                if Instant::now() >= rate_check.next_check() && rate_check.is_too_slow(Instant::now()) {
                    return Err(timed_out());
                }
                buffered.grow(part.len())?;
                body.extend_from_slice(&part);
            }
            Ok(None) => return Ok(body.freeze()),
            Err(_) => return Err(Problem::malformed("The body ended before it was complete.")),
        }
    }
}

/// Checks the minimum rate and total time of a body.
struct RateCheck {
    end: Instant,
    window_end: Instant,
    received: u64,
    min_bytes: u64,
}

impl RateCheck {
    fn new(limits: &ServerLimits, now: Instant) -> Self {
        let min_bytes = limits.min_body_rate.saturating_mul(RATE_WINDOW.as_secs());
        Self { end: now + limits.body_timeout, window_end: now + RATE_WINDOW, received: 0, min_bytes }
    }

    fn next_check(&self) -> Instant {
        self.window_end.min(self.end)
    }

    fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Ends the window. Returns true if the body is too slow or its total time has passed.
    fn is_too_slow(&mut self, now: Instant) -> bool {
        if now >= self.end || self.received < self.min_bytes {
            return true;
        }
        self.received = 0;
        self.window_end = now + RATE_WINDOW;
        false
    }
}

fn too_large(max_bytes: usize) -> Problem {
    let detail = format!("The body is larger than {max_bytes} bytes; send a smaller one.");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", Retryable::NewKey, detail)
}

fn timed_out() -> Problem {
    let detail = "The body did not arrive in time. Send the same request again.";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", Retryable::SameKey, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_below_min_rate_or_over_its_time_limit_times_out() {
        let limits = ServerLimits { min_body_rate: 100, ..ServerLimits::default() };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate_check = RateCheck::new(&limits, start);
        assert_eq!(rate_check.next_check(), at(5));
        rate_check.received(499);
        assert!(rate_check.is_too_slow(at(5)));
        let mut rate_check = RateCheck::new(&limits, start);
        for window in 1..6 {
            rate_check.received(500);
            assert!(!rate_check.is_too_slow(at(window * 5)), "{window}");
        }
        rate_check.received(1 << 30);
        assert!(rate_check.is_too_slow(at(30)), "the total time has passed");
        let any = ServerLimits { min_body_rate: 0, body_timeout: Duration::from_secs(2), ..limits };
        assert!(RateCheck::new(&any, start).is_too_slow(at(2)) && !RateCheck::new(&any, start).is_too_slow(at(1)));
    }
}
