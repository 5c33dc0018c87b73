//! The body of a request: bounded in size, in time and from below in its rate.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use pingora::protocols::http::ServerSession;
use tokio::time::{Instant, sleep_until, timeout};

use super::permits::Buffered;
use super::waiting::Waiter;
use crate::config::ServerLimits;
use crate::problem::{Problem, Retryable};

/// Time over which the rate of a body is measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Time and bytes for which the rest of a refused body is still read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DISCARDED: usize = 64 << 20;

/// Refuses a body that is announced to be too large.
pub(super) fn check_length(headers: &HeaderMap, most: usize) -> Result<(), Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match announced.is_some_and(|length| length > most as u64) {
        true => Err(too_large(most)),
        false => Ok(()),
    }
}

/// Reads the body. After an error the connection is of no more use: nobody knows where the next request would begin.
pub(super) async fn read(
    session: &mut ServerSession,
    limits: &ServerLimits,
    most: usize,
    (waiter, buffered): (Waiter, &mut Buffered),
) -> Result<Bytes, Problem> {
    let body = read_all(session, limits, most, (waiter, buffered)).await;
    if body.is_err() {
        session.set_keepalive(None);
    }
    body
}

/// Reads the rest of a body that is not wanted, for a bounded time and size.
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
    most: usize,
    (waiter, buffered): (Waiter, &mut Buffered),
) -> Result<Bytes, Problem> {
    let mut pace = Pace::new(limits, Instant::now());
    let mut body = BytesMut::new();
    let mut length = 0;
    loop {
        let mut part = pin!(session.read_request_body());
        let part = loop {
            tokio::select! {
                biased;
                () = waiter.given_up() => return Err(buffered.overloaded()),
                part = &mut part => break part,
                () = sleep_until(pace.next_check()) => {
                    if pace.is_too_slow(Instant::now()) {
                        return Err(too_slow());
                    }
                }
            }
        };
        match part {
            Ok(Some(part)) => {
                length += part.len();
                if length > most {
                    return Err(too_large(most));
                }
                pace.received(part.len());
                // A part may come at every moment, so that the branch above is never reached.
                if Instant::now() >= pace.next_check() && pace.is_too_slow(Instant::now()) {
                    return Err(too_slow());
                }
                buffered.grow(part.len())?;
                body.extend_from_slice(&part);
            }
            Ok(None) => return Ok(body.freeze()),
            Err(_) => return Err(Problem::malformed("The body ended before it was complete.")),
        }
    }
}

/// Measures whether a body comes fast enough.
struct Pace {
    end: Instant,
    window_end: Instant,
    received: u64,
    least: u64,
}

impl Pace {
    fn new(limits: &ServerLimits, now: Instant) -> Self {
        let least = limits.min_body_rate.saturating_mul(RATE_WINDOW.as_secs());
        Self { end: now + limits.body_timeout, window_end: now + RATE_WINDOW, received: 0, least }
    }

    fn next_check(&self) -> Instant {
        self.window_end.min(self.end)
    }

    fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Ends the window; true when the body is to be given up.
    fn is_too_slow(&mut self, now: Instant) -> bool {
        if now >= self.end || self.received < self.least {
            return true;
        }
        self.received = 0;
        self.window_end = now + RATE_WINDOW;
        false
    }
}

fn too_large(most: usize) -> Problem {
    let detail = format!("The body is larger than {most} bytes; send a smaller one.");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", Retryable::NewKey, detail)
}

fn too_slow() -> Problem {
    let detail = "The body did not come in time. Send the same request again.";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", Retryable::SameKey, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_too_slow_below_the_rate_or_after_its_time() {
        let limits = ServerLimits { min_body_rate: 100, ..ServerLimits::default() };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(&limits, start);
        assert_eq!(pace.next_check(), at(5));
        pace.received(499);
        assert!(pace.is_too_slow(at(5)));
        let mut pace = Pace::new(&limits, start);
        for window in 1..6 {
            pace.received(500);
            assert!(!pace.is_too_slow(at(window * 5)), "{window}");
        }
        pace.received(1 << 30);
        assert!(pace.is_too_slow(at(30)), "however fast it is");
        let any = ServerLimits { min_body_rate: 0, body_timeout: Duration::from_secs(2), ..limits };
        assert!(Pace::new(&any, start).is_too_slow(at(2)) && !Pace::new(&any, start).is_too_slow(at(1)));
    }
}
