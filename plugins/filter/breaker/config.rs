//! What the file says of a breaker, in Hystrix's names.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::Force;
use super::window::{Sums, Window};
use crate::payment::Kind;
use crate::settings::Settings;

/// The sleep window never grows beyond this.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// So many calls do not come together within any window.
const MOST_CALLS: u32 = 1_000_000;
/// So many probes hardly come together.
const MOST_PERMITS: u32 = 1_000;
/// What a probe's permit may be held for. Nobody waits longer for a call than this.
const WAITS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// All that can be tuned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) request_volume_threshold: u32,
    pub(super) error_threshold_percentage: u32,
    pub(super) rolling_window: Duration,
    pub(super) sleep_window: Duration,
    pub(super) half_open_permits: u32,
    /// How long a probe may keep its permit; without it, until its caller stops waiting.
    pub(super) half_open_max_wait: Option<Duration>,
    slow_call: Option<SlowCall>,
    pub(super) force: Option<Force>,
}

const DEFAULTS: Numbers = Numbers {
    request_volume_threshold: 20,
    error_threshold_percentage: 50,
    rolling_window: Duration::from_secs(10),
    sleep_window: Duration::from_secs(5),
    half_open_permits: 5,
    half_open_max_wait: None,
    slow_call: None,
    force: None,
};

/// The numbers for each kind of operation, in the order of [`Kind::ALL`].
#[derive(Clone, Copy, Debug)]
pub(super) struct ByKind([Numbers; Kind::ALL.len()]);

impl ByKind {
    /// Reads those for all kinds, and what the tables `pay`, `query` and so on say otherwise; says every mistake.
    pub(super) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let before = settings.problems().len();
        let for_all = Numbers::read(settings, &DEFAULTS);
        let by_kind = Kind::ALL.map(|kind| {
            // What stops everything stops no queries, so that the truth about what was sent can be found.
            let force = for_all.force.filter(|force| *force != Force::Open || !kind.is_query());
            let own = Numbers { force, ..for_all };
            settings.section(kind.as_str()).map_or(own, |mut table| Numbers::read(&mut table, &own))
        });
        (settings.problems().len() == before).then_some(Self(by_kind))
    }

    pub(super) fn of(&self, kind: Kind) -> &Numbers {
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

/// Calls that take this long count as slow, and so many of them open it.
#[derive(Clone, Copy, Debug)]
struct SlowCall {
    duration: Duration,
    percentage: u32,
}

/// Why calls are reason to open.
pub(super) struct TooMuch {
    /// In one word, for counting.
    pub(super) class: &'static str,
    /// For people.
    pub(super) why: String,
}

impl Numbers {
    fn read(settings: &mut Settings<'_>, otherwise: &Self) -> Self {
        let numbers = Self {
            request_volume_threshold: settings.or("request_volume_threshold", otherwise.request_volume_threshold),
            error_threshold_percentage: settings.or("error_threshold_percentage", otherwise.error_threshold_percentage),
            rolling_window: settings.or("rolling_window", otherwise.rolling_window),
            sleep_window: settings.or("sleep_window", otherwise.sleep_window),
            half_open_permits: settings.or("half_open_permits", otherwise.half_open_permits),
            half_open_max_wait: settings.optional("half_open_max_wait").or(otherwise.half_open_max_wait),
            slow_call: settings.section("slow_call").and_then(slow_call).or(otherwise.slow_call),
            force: force(settings).or(otherwise.force),
        };
        let wrong = |key: &str, message: &str| settings.problem(key, message, None);
        match numbers.request_volume_threshold {
            0 => wrong(
                "request_volume_threshold",
                "`request_volume_threshold` must be at least 1: with 0 an idle channel would open",
            ),
            1..=MOST_CALLS => {}
            _ => wrong(
                "request_volume_threshold",
                "`request_volume_threshold` must be at most 1000000: with more it could never open",
            ),
        }
        if !(1..=100).contains(&numbers.error_threshold_percentage) {
            let message =
                "`error_threshold_percentage` must be from 1 to 100: with 0 it could never close, with more never open";
            wrong("error_threshold_percentage", message);
        }
        if numbers.rolling_window < Duration::from_millis(100) {
            wrong("rolling_window", "`rolling_window` must be at least 100ms: it is kept in 10 parts");
        }
        if numbers.sleep_window.is_zero() || numbers.sleep_window > LONGEST_SLEEP {
            wrong("sleep_window", "`sleep_window` must be more than 0 and at most 60s, to which it doubles");
        }
        match numbers.half_open_permits {
            0 => wrong("half_open_permits", "`half_open_permits` must be at least 1: with 0 it could never close"),
            1..=MOST_PERMITS => {}
            _ => {
                wrong("half_open_permits", "`half_open_permits` must be at most 1000: with more it would hardly close")
            }
        }
        if let Some(wait) = numbers.half_open_max_wait {
            if !WAITS.contains(&wait) {
                wrong(
                    "half_open_max_wait",
                    "`half_open_max_wait` must be from 100ms to 60s: within less no probe ends, and none lasts longer",
                );
            }
            if numbers.slow_call.is_some_and(|slow| wait < slow.duration) {
                let message = "`half_open_max_wait` must be at least `slow_call.duration`: a probe that takes longer counts as nothing, and a channel that is slow could never close";
                wrong("half_open_max_wait", message);
            }
        }
        numbers
    }

    /// Whether a call that took so long is slow.
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.slow_call.is_some_and(|slow| took >= slow.duration)
    }

    /// Why these calls are reason to open; nothing when they are none.
    pub(super) fn too_much(&self, window: &Window, now: Duration) -> Option<TooMuch> {
        let Sums { total, failed, slow } = window.sums(now);
        let is_part = |part: u32, percentage: u32| u64::from(part) * 100 >= u64::from(total) * u64::from(percentage);
        if total < self.request_volume_threshold {
            return None;
        }
        let within = self.rolling_window;
        if is_part(failed, self.error_threshold_percentage) {
            let reasons = window.reasons(now);
            let why = format!("{failed} of {total} calls failed within {within:?}: {reasons}");
            return Some(TooMuch { class: "errors", why });
        }
        let limit = self.slow_call.filter(|limit| is_part(slow, limit.percentage))?;
        let duration = limit.duration;
        let why = format!("{slow} of {total} calls took {duration:?} or longer within {within:?}");
        Some(TooMuch { class: "slow_calls", why })
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
