//! The authoritative clock: PostgreSQL's if several gateways share a ledger, else this machine's.
//!
//! Each renewal of the lease measures PostgreSQL's time. Between measurements the monotonic clock advances it, so a
//! step of this machine's wall clock has no effect. Steps of the authoritative clock are detected: certain durations
//! are counted from the last step, or from the start of the process.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// A larger difference between the authoritative and the monotonic clock counts as a step.
const MIN_STEP: SignedDuration = SignedDuration::from_secs(1);
/// Assumed maximum drift of a machine's monotonic clock: 1 second in 2,000.
const MAX_DRIFT: u32 = 2_000;

/// A measurement of PostgreSQL's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Middle of the round trip.
    at: Instant,
    /// PostgreSQL's time at `at`, within [`error`](Self::error).
    time: Timestamp,
    /// Half of the round trip time.
    error: Duration,
}

impl Sample {
    /// Creates a sample from a round trip.
    pub(super) fn of(sent: Instant, received: Instant, time: Timestamp) -> Self {
        let error = received.saturating_duration_since(sent) / 2;
        Self { at: sent + error, time, error }
    }

    fn time_at(&self, at: Instant) -> Timestamp {
        forward(self.time, self.at, at)
    }

    /// Returns the error bound, which grows with the sample's age.
    fn error_at(&self, at: Instant) -> Duration {
        self.error + at.saturating_duration_since(self.at) / MAX_DRIFT
    }
}

/// State of the authoritative clock.
#[derive(Debug)]
pub(super) struct Deciding {
    sample: Option<Sample>,
    /// The last reading, for detecting steps.
    read: (Instant, Timestamp),
    /// Time of the last step, or of the start.
    steady_since: Instant,
}

/// An offset between this machine's clock and PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset {
    /// Positive if this machine's clock is ahead.
    pub(super) ahead: SignedDuration,
    /// Bound of the measurement error.
    pub(super) error: SignedDuration,
}

impl Offset {
    /// Returns whether the offset certainly exceeds the limit.
    pub(super) fn exceeds(&self, limit: SignedDuration) -> bool {
        self.ahead.abs() - self.error > limit
    }
}

impl Deciding {
    pub(super) fn new(at: Instant, machine: Timestamp) -> Self {
        Self { sample: None, read: (at, machine), steady_since: at }
    }

    /// Returns the authoritative time, given the monotonic and the wall clock.
    pub(super) fn now(&mut self, at: Instant, machine: Timestamp) -> Timestamp {
        let now = self.sample.map_or(machine, |sample| sample.time_at(at));
        let (read_at, read) = self.read;
        let stepped = now.duration_since(forward(read, read_at, at));
        if stepped.abs() > MIN_STEP {
            self.steady_since = at;
            if self.sample.is_none() {
                tracing::warn!(seconds = stepped.as_secs_f64(), "this machine's clock was stepped");
            }
        }
        self.read = (at, now);
        now
    }

    /// Returns how long the clock has run without a step.
    pub(super) fn steady_for(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.steady_since)
    }

    /// Records a measurement, unless the previous one agrees and is more exact. Returns whether it was recorded.
    pub(super) fn measured(&mut self, sample: Sample, machine: Timestamp) -> bool {
        let is_needed = self.sample.is_none_or(|known| {
            let differ = sample.time.duration_since(known.time_at(sample.at)).unsigned_abs();
            let error = known.error_at(sample.at);
            sample.error <= error || differ > error + sample.error
        });
        if is_needed {
            self.sample = Some(sample);
            self.now(sample.at + sample.error, machine);
        }
        is_needed
    }

    /// Returns by how much this machine's clock is ahead of PostgreSQL's; `None` without a measurement.
    pub(super) fn offset(&self, at: Instant, machine: Timestamp) -> Option<Offset> {
        let sample = self.sample?;
        let error = SignedDuration::try_from(sample.error_at(at)).unwrap_or(SignedDuration::MAX);
        Some(Offset { ahead: machine.duration_since(sample.time_at(at)), error })
    }
}

/// Advances a time by the monotonic clock.
fn forward(time: Timestamp, from: Instant, to: Instant) -> Timestamp {
    let passed = SignedDuration::try_from(to.saturating_duration_since(from)).unwrap_or(SignedDuration::MAX);
    time.saturating_add(passed).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_750_000_000 + seconds).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn machine_clock_is_authoritative_until_first_sample() {
        let start = Instant::now();
        let mut clock = Deciding::new(start, time(600));
        assert_eq!(clock.now(start + seconds(1), time(601)), time(601));
        assert_eq!(clock.offset(start + seconds(1), time(601)), None);
        assert!(clock.measured(Sample::of(start + seconds(1), start + seconds(1), time(1)), time(601)));
        assert_eq!(clock.now(start + seconds(3), time(603)), time(3));
        let offset = clock.offset(start + seconds(3), time(603)).unwrap();
        assert_eq!(offset.ahead, SignedDuration::from_secs(600));
        assert!(offset.exceeds(SignedDuration::from_secs(5)) && !offset.exceeds(SignedDuration::from_secs(600)));
    }

    #[test]
    fn machine_clock_step_between_samples_has_no_effect() {
        let start = Instant::now();
        let mut clock = Deciding::new(start, time(0));
        clock.measured(Sample::of(start, start, time(0)), time(0));
        for ahead in [3600, -3600, 400 * DAY, -400 * DAY] {
            assert_eq!(clock.now(start + seconds(2), time(2 + ahead)), time(2), "{ahead}");
            let offset = clock.offset(start + seconds(2), time(2 + ahead)).unwrap();
            assert_eq!(offset.ahead.as_secs(), ahead);
        }
        assert_eq!(clock.steady_for(start + seconds(2)), seconds(2), "the authoritative clock has made no step");
    }

    #[test]
    fn slow_sample_replaces_exact_one_only_on_contradiction() {
        let start = Instant::now();
        let mut clock = Deciding::new(start, time(0));
        let at = |millis| start + Duration::from_millis(millis);
        assert!(clock.measured(Sample::of(at(0), at(2), time(0)), time(0)));
        // Two seconds under way: its middle may be a second off.
        assert!(!clock.measured(Sample::of(at(1000), at(3000), time(3)), time(3)));
        assert_eq!(clock.now(at(3001), time(3)).duration_since(time(3)).as_secs(), 0);
        assert!(clock.measured(Sample::of(at(4000), at(6000), time(60)), time(5)), "PostgreSQL's clock was set");
        assert_eq!(clock.steady_for(at(6000)), Duration::ZERO);
        assert!(clock.measured(Sample::of(at(7000), at(7002), time(62)), time(7)), "a more exact one");
    }

    #[test]
    fn clock_steps_are_detected_and_drift_is_ignored() {
        let start = Instant::now();
        let mut clock = Deciding::new(start, time(0));
        for second in 1..100_u64 {
            // Half a millisecond a second too fast.
            let machine = time(second as i64) + SignedDuration::from_micros(500 * second as i64);
            clock.now(start + seconds(second), machine);
        }
        assert_eq!(clock.steady_for(start + seconds(99)), seconds(99));
        for step in [3600, 0, -3600] {
            clock.now(start + seconds(100), time(100 + step));
            assert_eq!(clock.steady_for(start + seconds(100)), Duration::ZERO, "{step}");
            clock.now(start + seconds(101), time(101 + step));
            assert_eq!(clock.steady_for(start + seconds(101)), seconds(1), "{step}");
        }
    }
}
