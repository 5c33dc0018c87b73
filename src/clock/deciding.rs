//! The clock that decides: PostgreSQL's where several gateways share a ledger, this machine's elsewhere.
//!
//! PostgreSQL's time is measured at each beat of the lease. Between two beats it is counted by the monotonic clock, so that a
//! step of this machine's wall clock changes nothing. Steps of the deciding clock itself are noticed: how long something has
//! lasted for certain is counted from the last step, or from the start of the process.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// Between two readings, a larger difference to the monotonic clock is a step of the wall clock.
const STEP: SignedDuration = SignedDuration::from_secs(1);
/// How fast a machine's monotonic clock may drift: 1 second in 2,000.
const DRIFT: u32 = 2_000;

/// A measurement of PostgreSQL's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The middle of the round trip.
    at: Instant,
    /// PostgreSQL's time then, as exact as [`error`](Self::error) says.
    time: Timestamp,
    /// Half of the round trip.
    error: Duration,
}

impl Sample {
    /// Reads a round trip that began and ended then.
    pub(super) fn of(sent: Instant, received: Instant, time: Timestamp) -> Self {
        let error = received.saturating_duration_since(sent) / 2;
        Self { at: sent + error, time, error }
    }

    fn time_at(&self, at: Instant) -> Timestamp {
        forward(self.time, self.at, at)
    }

    /// The error grows with the sample's age.
    fn error_at(&self, at: Instant) -> Duration {
        self.error + at.saturating_duration_since(self.at) / DRIFT
    }
}

/// The state of the clock that decides.
#[derive(Debug)]
pub(super) struct Deciding {
    sample: Option<Sample>,
    /// The last reading, to notice steps.
    read: (Instant, Timestamp),
    /// The last step, or the start.
    steady_since: Instant,
}

/// A difference between this machine's clock and PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset {
    /// Positive if this machine's clock is ahead.
    pub(super) ahead: SignedDuration,
    /// Bound of the error.
    pub(super) error: SignedDuration,
}

impl Offset {
    /// Whether the clocks differ by more than this for certain.
    pub(super) fn exceeds(&self, limit: SignedDuration) -> bool {
        self.ahead.abs() - self.error > limit
    }
}

impl Deciding {
    pub(super) fn new(at: Instant, machine: Timestamp) -> Self {
        Self { sample: None, read: (at, machine), steady_since: at }
    }

    /// Returns the time, given what the monotonic clock and this machine's wall clock say.
    pub(super) fn now(&mut self, at: Instant, machine: Timestamp) -> Timestamp {
        let now = self.sample.map_or(machine, |sample| sample.time_at(at));
        let (read_at, read) = self.read;
        let stepped = now.duration_since(forward(read, read_at, at));
        if stepped.abs() > STEP {
            self.steady_since = at;
            if self.sample.is_none() {
                tracing::warn!(seconds = stepped.as_secs_f64(), "this machine's clock was set");
            }
        }
        self.read = (at, now);
        now
    }

    /// Returns how long the clock has run without a step.
    pub(super) fn steady_for(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.steady_since)
    }

    /// Takes a measurement in, unless the one before says the same and is more exact. Returns whether it was taken.
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

    /// Returns how far this machine's clock is ahead of PostgreSQL's; `None` while this machine's decides.
    pub(super) fn offset(&self, at: Instant, machine: Timestamp) -> Option<Offset> {
        let sample = self.sample?;
        let error = SignedDuration::try_from(sample.error_at(at)).unwrap_or(SignedDuration::MAX);
        Some(Offset { ahead: machine.duration_since(sample.time_at(at)), error })
    }
}

/// Counts a time on by the monotonic clock.
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
    fn machine_clock_decides_until_the_first_sample() {
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
    fn step_of_machine_clock_between_samples_changes_no_time() {
        let start = Instant::now();
        let mut clock = Deciding::new(start, time(0));
        clock.measured(Sample::of(start, start, time(0)), time(0));
        for ahead in [3600, -3600, 400 * DAY, -400 * DAY] {
            assert_eq!(clock.now(start + seconds(2), time(2 + ahead)), time(2), "{ahead}");
            let offset = clock.offset(start + seconds(2), time(2 + ahead)).unwrap();
            assert_eq!(offset.ahead.as_secs(), ahead);
        }
        assert_eq!(clock.steady_for(start + seconds(2)), seconds(2), "the clock that decides has made no step");
    }

    #[test]
    fn slow_sample_does_not_replace_an_exact_one_unless_they_contradict() {
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
    fn steps_are_noticed_and_drift_is_not_one() {
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
