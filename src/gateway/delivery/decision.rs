//! Decision after an attempt: the event is delivered, retried, or given up.

use jiff::Timestamp;

use super::failure::DeliveryError;

/// Delays before the second and later attempts, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
const RETRY_SCHEDULE: [u64; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// Upper bound for the endpoint's `retry-after`, in seconds.
const MAX_RETRY_AFTER: u64 = 86_400;
/// Delay of an event whose sink is not usable as it is configured, in seconds.
pub(super) const DEFER_FOR: u64 = 3600;
/// First delay of an event whose sink is not configured, in seconds. During a rolling reload another gateway may know it.
const FIRST_DEFER: u64 = 60;
/// Delay of an event whose broker accepts nothing at present, in seconds.
const BLOCKED_FOR: u64 = 5;
/// Delay of an event whose sink is not connected, in seconds. The sink is paused until it is.
const NOT_CONNECTED_FOR: u64 = 1;

/// Decision after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Decision {
    /// The sink has the event.
    Delivered,
    /// The merchant has no webhook any more.
    NoWebhook,
    /// The operator drops the events of this sink.
    Discarded,
    /// No further attempt.
    GiveUp,
    /// Retry after this many seconds.
    Again(u64),
    /// Retry after this many seconds without counting this attempt.
    Defer(u64),
}

impl Decision {
    /// Returns the metric label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::NoWebhook => "no_webhook",
            Self::Discarded => "discarded",
            Self::GiveUp => "given_up",
            Self::Again(_) => "failed",
            Self::Defer(_) => "deferred",
        }
    }

    /// Returns whether the event is finished without a failure.
    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::Delivered | Self::NoWebhook | Self::Discarded)
    }

    /// Decides after attempt number `tries`, counted from 0; `random` is from 0 to 1.
    pub(super) fn after(result: &Result<(), DeliveryError>, tries: u32, now: Timestamp, random: f64) -> Self {
        let error = match result {
            Ok(()) => return Self::Delivered,
            Err(DeliveryError::Gone) => return Self::Defer(DEFER_FOR),
            Err(DeliveryError::Blocked) => return Self::Defer(BLOCKED_FOR),
            Err(DeliveryError::NotConnected(_)) => return Self::Defer(NOT_CONNECTED_FOR),
            Err(error) => error,
        };
        let Some(pause) = RETRY_SCHEDULE.get(tries as usize) else { return Self::GiveUp };
        let delay = (*pause as f64 * (0.9 + 0.2 * random)).round() as u64;
        let requested = error.retry_after().and_then(|text| seconds(text, now));
        Self::Again(delay.max(requested.unwrap_or(0).min(MAX_RETRY_AFTER)))
    }

    /// Decides about an event whose sink is not configured. It is kept; the pause grows with its age up to an hour.
    pub(super) fn without_sink(created_at: Timestamp, now: Timestamp) -> Self {
        let age = u64::try_from(now.duration_since(created_at).as_secs()).unwrap_or(0);
        Self::Defer(age.clamp(FIRST_DEFER, DEFER_FOR))
    }
}

/// Parses `retry-after`: seconds or an HTTP date.
fn seconds(text: &str, now: Timestamp) -> Option<u64> {
    let date = || {
        let date = Timestamp::try_from(httpdate::parse_http_date(text.trim()).ok()?).ok()?;
        u64::try_from(date.duration_since(now).as_secs()).ok()
    };
    text.trim().parse().ok().or_else(date)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUT: DeliveryError = DeliveryError::Timeout(Duration::from_secs(15));

    fn after_status(status: u16, retry_after: Option<&str>) -> Decision {
        let error = DeliveryError::Status { status, retry_after: retry_after.map(str::to_owned) };
        Decision::after(&Err(error), 0, Timestamp::UNIX_EPOCH, 0.5)
    }

    #[test]
    fn retries_follow_schedule_with_jitter_and_end() {
        let now = Timestamp::UNIX_EPOCH;
        for (tries, pause) in RETRY_SCHEDULE.iter().enumerate() {
            for random in [0.0, 0.5, 0.999] {
                let Decision::Again(seconds) = Decision::after(&Err(TIMEOUT), tries as u32, now, random) else {
                    panic!("again")
                };
                assert!(seconds * 10 >= pause * 9 && seconds * 10 <= pause * 11 + 5, "{tries}: {seconds} for {pause}");
            }
        }
        assert_eq!(Decision::after(&Err(TIMEOUT), 9, now, 0.5), Decision::GiveUp);
        assert_eq!(Decision::after(&Ok(()), 9, now, 0.5), Decision::Delivered);
    }

    #[test]
    fn unreachable_or_blocked_broker_and_disabled_webhook_use_no_attempt_up() {
        let now = Timestamp::UNIX_EPOCH;
        let away = DeliveryError::NotConnected("connection refused".to_owned());
        assert_eq!(Decision::after(&Err(away), 9, now, 0.5), Decision::Defer(1));
        assert_eq!(Decision::after(&Err(DeliveryError::Blocked), 9, now, 0.5), Decision::Defer(5));
        assert_eq!(Decision::after(&Err(DeliveryError::Gone), 9, now, 0.5), Decision::Defer(3600));
    }

    #[test]
    fn event_without_sink_is_kept_and_retried_hourly_in_the_end() {
        let at = |second| Timestamp::from_second(second).unwrap_or_default();
        for (age, pause) in [(-5, 60), (0, 60), (300, 300), (3600, 3600), (1_000_000, 3600)] {
            assert_eq!(Decision::without_sink(at(100), at(100 + age)), Decision::Defer(pause), "{age}");
        }
    }

    #[test]
    fn retry_after_header_is_honoured_up_to_a_day() {
        assert_eq!(after_status(503, None), Decision::Again(5));
        assert_eq!(after_status(503, Some("120")), Decision::Again(120));
        assert_eq!(after_status(503, Some("1")), Decision::Again(5), "never sooner than the schedule");
        assert_eq!(after_status(503, Some("999999999")), Decision::Again(86_400));
        assert_eq!(after_status(503, Some("Thu, 01 Jan 1970 00:10:00 GMT")), Decision::Again(600));
        assert_eq!(after_status(503, Some("soon")), Decision::Again(5));
    }
}
