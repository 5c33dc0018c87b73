//! Configuration of a breaker, in Hystrix's names.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::Force;
use super::window::{Counts, Window};
use crate::payment::Kind;
use crate::settings::Settings;

/// Upper bound of the doubling sleep window.
pub(super) const MAX_SLEEP_WINDOW: Duration = Duration::from_secs(60);

/// Maximum `request_volume_threshold`. More calls never fit into a window.
const MAX_REQUEST_VOLUME: u32 = 1_000_000;
/// Maximum `half_open_permits`. More probes would hardly ever succeed in a row.
const MAX_HALF_OPEN_PERMITS: u32 = 1_000;
/// Allowed range of `half_open_max_wait`. No call lasts longer than its end.
const HALF_OPEN_MAX_WAIT_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// Settings of a breaker for one kind of operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct BreakerConfig {
    pub(super) request_volume_threshold: u32,
    pub(super) error_threshold_percentage: u32,
    pub(super) rolling_window: Duration,
    pub(super) sleep_window: Duration,
    pub(super) half_open_permits: u32,
    /// Maximum time for which a probe holds its permit; by default until the caller's deadline.
    pub(super) half_open_max_wait: Option<Duration>,
    slow_call: Option<SlowCall>,
    pub(super) force: Option<Force>,
}

const DEFAULTS: BreakerConfig = BreakerConfig {
    request_volume_threshold: 20,
    error_threshold_percentage: 50,
    rolling_window: Duration::from_secs(10),
    sleep_window: Duration::from_secs(5),
    half_open_permits: 5,
    half_open_max_wait: None,
    slow_call: None,
    force: None,
};

/// Settings for each kind of operation, in the order of [`Kind::ALL`].
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfigByKind([BreakerConfig; Kind::ALL.len()]);

impl ConfigByKind {
    /// Reads the settings of all kinds and the tables `pay`, `query` and so on, which override them. Reports every error.
    pub(super) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let before = settings.problems().len();
        let for_all = BreakerConfig::read(settings, &DEFAULTS);
        let by_kind = Kind::ALL.map(|kind| {
            // A breaker forced open for all kinds still passes queries, so that unknown outcomes can be resolved.
            let force = for_all.force.filter(|force| *force != Force::Open || !kind.is_query());
            let own = BreakerConfig { force, ..for_all };
            settings.section(kind.as_str()).map_or(own, |mut table| BreakerConfig::read(&mut table, &own))
        });
        (settings.problems().len() == before).then_some(Self(by_kind))
    }

    pub(super) fn of(&self, kind: Kind) -> &BreakerConfig {
        let [pay, query, close, refund, query_refund] = &self.0;
        match kind {
            Kind::Pay => pay,
            Kind::Query => query,
            Kind::Close => close,
            Kind::Refund => refund,
            Kind::QueryRefund => query_refund,
        }
    }
}

/// Calls that take `duration` or longer are slow; `percentage` slow calls open the breaker.
#[derive(Clone, Copy, Debug)]
struct SlowCall {
    duration: Duration,
    percentage: u32,
}

/// Reason to open a breaker.
pub(super) struct OpenReason {
    /// Metric label.
    pub(super) class: &'static str,
    /// Text for people.
    pub(super) why: String,
}

impl BreakerConfig {
    fn read(settings: &mut Settings<'_>, defaults: &Self) -> Self {
        let config = Self {
            request_volume_threshold: settings.or("request_volume_threshold", defaults.request_volume_threshold),
            error_threshold_percentage: settings.or("error_threshold_percentage", defaults.error_threshold_percentage),
            rolling_window: settings.or("rolling_window", defaults.rolling_window),
            sleep_window: settings.or("sleep_window", defaults.sleep_window),
            half_open_permits: settings.or("half_open_permits", defaults.half_open_permits),
            half_open_max_wait: settings.optional("half_open_max_wait").or(defaults.half_open_max_wait),
            slow_call: settings.section("slow_call").and_then(slow_call).or(defaults.slow_call),
            force: force(settings).or(defaults.force),
        };
        let wrong = |key: &str, message: &str| settings.problem(key, message, None);
        match config.request_volume_threshold {
            0 => wrong(
                "request_volume_threshold",
                "`request_volume_threshold` must be at least 1: with 0 an idle channel would open",
            ),
            1..=MAX_REQUEST_VOLUME => {}
            _ => wrong(
                "request_volume_threshold",
                "`request_volume_threshold` must be at most 1000000: with more it could never open",
            ),
        }
        if !(1..=100).contains(&config.error_threshold_percentage) {
            let message =
                "`error_threshold_percentage` must be from 1 to 100: with 0 it could never close, with more never open";
            wrong("error_threshold_percentage", message);
        }
        if config.rolling_window < Duration::from_millis(100) {
            wrong("rolling_window", "`rolling_window` must be at least 100ms: it is divided into 10 buckets");
        }
        if config.sleep_window.is_zero() || config.sleep_window > MAX_SLEEP_WINDOW {
            wrong("sleep_window", "`sleep_window` must be more than 0 and at most 60s, to which it doubles");
        }
        match config.half_open_permits {
            0 => wrong("half_open_permits", "`half_open_permits` must be at least 1: with 0 it could never close"),
            1..=MAX_HALF_OPEN_PERMITS => {}
            _ => {
                wrong("half_open_permits", "`half_open_permits` must be at most 1000: with more it would hardly close")
            }
        }
        if let Some(wait) = config.half_open_max_wait {
            if !HALF_OPEN_MAX_WAIT_RANGE.contains(&wait) {
                wrong(
                    "half_open_max_wait",
                    "`half_open_max_wait` must be from 100ms to 60s: no probe ends sooner, and none lasts longer",
                );
            }
            if config.slow_call.is_some_and(|slow| wait < slow.duration) {
                let message = "`half_open_max_wait` must be at least `slow_call.duration`: a probe that exceeds it is not counted, so the breaker of a slow channel could never close";
                wrong("half_open_max_wait", message);
            }
        }
        config
    }

    /// Returns whether a call of this duration counts as slow.
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.slow_call.is_some_and(|slow| took >= slow.duration)
    }

    /// Returns the reason to open after these calls; `None` if there is none.
    pub(super) fn open_reason(&self, window: &Window, now: Duration) -> Option<OpenReason> {
        let Counts { total, failed, slow } = window.sums(now);
        let is_part = |part: u32, percentage: u32| u64::from(part) * 100 >= u64::from(total) * u64::from(percentage);
        if total < self.request_volume_threshold {
            return None;
        }
        let within = self.rolling_window;
        if is_part(failed, self.error_threshold_percentage) {
            let reasons = window.reasons(now);
            let why = format!("{failed} of {total} calls failed within {within:?}: {reasons}");
            return Some(OpenReason { class: "errors", why });
        }
        let limit = self.slow_call.filter(|limit| is_part(slow, limit.percentage))?;
        let duration = limit.duration;
        let why = format!("{slow} of {total} calls took {duration:?} or longer within {within:?}");
        Some(OpenReason { class: "slow_calls", why })
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
        let suggestion = "remove it to let the breaker decide by itself";
        settings.problem("force", "`force` must be \"open\", \"closed\" or \"off\"", Some(suggestion.to_owned()));
    }
    force
}
