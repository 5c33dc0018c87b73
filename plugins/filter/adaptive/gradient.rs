//! How a limit follows the latencies.

use std::time::Duration;

use super::Numbers;

/// With fewer latencies a window goes on: by so few nobody can tell a queue from chance.
const ENOUGH: u32 = 5;
/// By this part of the difference what is usual follows a longer latency at each window: a channel that is four times as slow
/// for good is taken for usual after some 400 of them. Faster, and a crowd that lasts would become usual itself.
const DRIFT: f64 = 0.002;
/// A limit falls by no more than this at each window, so that one odd one does not close the channel.
const STEEPEST: f64 = 0.5;

/// A limit with the measurements that it rests on.
#[derive(Debug)]
pub(super) struct Gradient {
    limit: f64,
    /// The long-term minimum, in seconds; nothing before the first window.
    usual: Option<f64>,
    /// When the window began.
    since: Duration,
    count: u32,
    /// Of all latencies in the window, in seconds.
    sum: f64,
    /// The most calls at the same time in the window.
    most_inside: u32,
}

impl Gradient {
    pub(super) fn new(numbers: &Numbers, now: Duration) -> Self {
        Self { limit: f64::from(numbers.start), usual: None, since: now, count: 0, sum: 0.0, most_inside: 0 }
    }

    /// How many calls may be inside.
    pub(super) fn limit(&self, numbers: &Numbers) -> u32 {
        (self.limit as u32).clamp(numbers.floor, numbers.ceiling)
    }

    /// The latency that counts as usual, in seconds.
    pub(super) fn usual(&self) -> f64 {
        self.usual.unwrap_or_default()
    }

    /// When the window began.
    #[cfg(test)]
    pub(super) fn since(&self) -> Duration {
        self.since
    }

    /// Takes the latency of a call that ended now while so many were inside.
    pub(super) fn add(&mut self, numbers: &Numbers, now: Duration, took: Duration, inside: u32) {
        self.count += 1;
        self.sum += took.as_secs_f64();
        self.most_inside = self.most_inside.max(inside);
        if now.saturating_sub(self.since) >= numbers.window && self.count >= ENOUGH {
            self.turn(numbers);
            *self = Self { since: now, count: 0, sum: 0.0, most_inside: 0, limit: self.limit, usual: self.usual };
        }
    }

    /// The same for a call of which it is only known that it would have taken longer.
    pub(super) fn add_if_longer(&mut self, numbers: &Numbers, now: Duration, took: Duration, inside: u32) {
        if self.usual.is_some_and(|usual| took.as_secs_f64() > usual * numbers.tolerance) {
            self.add(numbers, now, took, inside);
        }
    }

    /// The end of a window.
    fn turn(&mut self, numbers: &Numbers) {
        let latency = self.sum / f64::from(self.count);
        let usual = match self.usual {
            Some(usual) if latency > usual => usual + (latency - usual) * DRIFT,
            _ => latency,
        };
        let before = self.usual.replace(usual).unwrap_or(usual);
        let gradient = if latency > 0.0 { numbers.tolerance * before / latency } else { 1.0 };
        let limit = self.limit.clamp(f64::from(numbers.floor), f64::from(numbers.ceiling));
        // A limit that nobody came near is not known to be borne.
        let room = if f64::from(self.most_inside) * 2.0 >= limit { limit.sqrt() } else { 0.0 };
        let next = limit * gradient.clamp(STEEPEST, 1.0) + room;
        self.limit = next.clamp(f64::from(numbers.floor), f64::from(numbers.ceiling));
    }
}
