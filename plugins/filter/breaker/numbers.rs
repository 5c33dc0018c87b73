//! What the file says of a breaker, in Hystrix's names.

use std::time::Duration;

use super::super::Force;
use super::window::Sums;
use crate::settings::Settings;

/// The sleep window never grows beyond this.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// All that can be tuned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) request_volume_threshold: u32,
    pub(super) error_threshold_percentage: u32,
    pub(super) rolling_window: Duration,
    pub(super) sleep_window: Duration,
    pub(super) half_open_permits: u32,
    slow_call: Option<SlowCall>,
    pub(super) force: Option<Force>,
}

/// Calls that take this long count as slow, and so many of them open it.
#[derive(Clone, Copy, Debug)]
struct SlowCall {
    duration: Duration,
    percentage: u32,
}

impl Numbers {
    /// Says every mistake.
    pub(super) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let before = settings.problems().len();
        let numbers = Self {
            request_volume_threshold: settings.or("request_volume_threshold", 20),
            error_threshold_percentage: settings.or("error_threshold_percentage", 50),
            rolling_window: settings.or("rolling_window", Duration::from_secs(10)),
            sleep_window: settings.or("sleep_window", Duration::from_secs(5)),
            half_open_permits: settings.or("half_open_permits", 5),
            slow_call: settings.section("slow_call").and_then(slow_call),
            force: force(settings),
        };
        let wrong = |key: &str, message: &str| settings.problem(key, message, None);
        if numbers.request_volume_threshold == 0 {
            wrong(
                "request_volume_threshold",
                "`request_volume_threshold` must be at least 1: with 0 an idle channel would open",
            );
        }
        if !(1..=100).contains(&numbers.error_threshold_percentage) {
            wrong("error_threshold_percentage", "`error_threshold_percentage` must be from 1 to 100");
        }
        if numbers.rolling_window < Duration::from_millis(100) {
            wrong("rolling_window", "`rolling_window` must be at least 100ms: it is kept in 10 parts");
        }
        if numbers.sleep_window.is_zero() || numbers.sleep_window > LONGEST_SLEEP {
            wrong("sleep_window", "`sleep_window` must be more than 0 and at most 60s, to which it doubles");
        }
        if numbers.half_open_permits == 0 {
            wrong("half_open_permits", "`half_open_permits` must be at least 1: with 0 it could never close");
        }
        (settings.problems().len() == before).then_some(numbers)
    }

    /// Whether a call that took so long is slow.
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.slow_call.is_some_and(|slow| took >= slow.duration)
    }

    /// Why these calls are reason to open; nothing when they are none.
    pub(super) fn too_much(&self, sums: &Sums) -> Option<String> {
        let Sums { total, failed, slow } = *sums;
        let is_part = |part: u32, percentage: u32| u64::from(part) * 100 >= u64::from(total) * u64::from(percentage);
        if total < self.request_volume_threshold {
            return None;
        }
        if is_part(failed, self.error_threshold_percentage) {
            return Some(format!("{failed} of {total} calls failed within {:?}", self.rolling_window));
        }
        let limit = self.slow_call.filter(|limit| is_part(slow, limit.percentage))?;
        let (duration, window) = (limit.duration, self.rolling_window);
        Some(format!("{slow} of {total} calls took {duration:?} or longer within {window:?}"))
    }
}

fn slow_call(mut table: Settings<'_>) -> Option<SlowCall> {
    let (duration, percentage) = (table.required("duration"), table.or("percentage", 50));
    let (duration, before): (Duration, _) = (duration?, table.problems().len());
    if duration.is_zero() {
        table.problem("duration", "`slow_call.duration` must be more than 0: with 0 it could never close", None);
    }
    if !(1..=100).contains(&percentage) {
        table.problem("percentage", "`slow_call.percentage` must be from 1 to 100", None);
    }
    (table.problems().len() == before).then_some(SlowCall { duration, percentage })
}

fn force(settings: &mut Settings<'_>) -> Option<Force> {
    let word: Option<String> = settings.optional("force");
    settings.choices("force", [Force::Open, Force::Closed, Force::Off].map(Force::as_str));
    let word = word?;
    let force = Force::parse(&word);
    if force.is_none() {
        let suggestion = "or leave it away, and it finds its own way";
        settings.problem("force", "`force` must be \"open\", \"closed\" or \"off\"", Some(suggestion.to_owned()));
    }
    force
}
