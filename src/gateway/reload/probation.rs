//! Probation of a new generation: for some time its channels' errors and breakers are compared with the baseline before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use tokio::time::Instant;
use tollgate_config::AutoRollback;
use tollgate_plugins::payment::Kind;

use super::generations;
use crate::snapshot::{Channel, Snapshot};
use crate::telemetry::METRICS;

/// Calls of each channel since the process started, by result.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(BTreeMap<String, Ended>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ended {
    calls: u64,
    succeeded: u64,
    /// Calls that a breaker counts as failures, and responses that no key could verify.
    failed: u64,
    /// Verified rejections. Most are caused by payers and merchants.
    refused: u64,
}

impl Ended {
    fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            failed: self.failed.saturating_sub(earlier.failed),
            refused: self.refused.saturating_sub(earlier.refused),
        }
    }

    /// Returns the calls that count against a generation. Rejections count only if no call succeeds: then the account is probably
    /// wrong, not each payer.
    fn errors(self) -> u64 {
        if self.succeeded == 0 { self.failed + self.refused } else { self.failed }
    }
}

impl Counts {
    /// Reads the counts from the metrics.
    pub(super) fn now() -> Self {
        let mut counts = BTreeMap::new();
        for family in METRICS.provider_requests_total.collect() {
            for metric in family.get_metric() {
                let label = |name: &str| metric.get_label().iter().find(|label| label.name() == name);
                let Some(channel) = label("channel") else { continue };
                let is = |result: &str| label("result").is_some_and(|label| label.value() == result);
                // The provider's protocol cannot express the request, so nothing was sent on the channel.
                if is("unsupported_by_provider") {
                    continue;
                }
                let count = metric.get_counter().get_value() as u64;
                let ended: &mut Ended = counts.entry(channel.value().to_owned()).or_default();
                ended.calls += count;
                if is("ok") {
                    ended.succeeded += count;
                } else if ["declined", "unlisted_refusal"].into_iter().any(is) {
                    ended.refused += count;
                } else if !["not_found", "conflict", "provider_busy"].into_iter().any(is) {
                    ended.failed += count;
                }
            }
        }
        Self(counts)
    }

    /// Returns calls and errors of a channel since an earlier count.
    fn since(&self, earlier: &Self, channel: &str) -> (u64, u64) {
        let of = |counts: &Self| counts.0.get(channel).copied().unwrap_or_default();
        let ended = of(self).since(of(earlier));
        (ended.calls, ended.errors())
    }
}

/// Generation on probation.
pub(super) struct Probation {
    /// Number of the generation.
    pub(super) generation: u64,
    /// Generation to roll back to.
    before: u64,
    /// Fallbacks, nearest first, if that generation was not archived because it was on probation itself.
    earlier: Vec<u64>,
    rule: AutoRollback,
    ends: Instant,
    channels: Vec<WatchedChannel>,
    at_start: Counts,
}

/// Channel that the generation changed.
struct WatchedChannel {
    name: String,
    /// Error rate before the reload, in percent.
    baseline_errors: f64,
    /// Operations whose breakers were open before the reload.
    open: BTreeSet<Kind>,
}

/// State of a probation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbationState {
    /// No threshold is exceeded so far.
    Running,
    /// The window ended, or another generation is in force.
    Over,
    /// A threshold is exceeded, for this reason.
    Failed(String),
}

impl Probation {
    /// Starts a probation; `None` if automatic rollback is disabled or no channel was affected.
    pub(super) fn begin(old: &Snapshot, new: &Snapshot, baseline: &Counts) -> Option<Self> {
        let rule = new.process.auto_rollback?;
        let now = Counts::now();
        // Changed routes may send unsuitable payments to any channel.
        let all = old.config.sources.routes != new.config.sources.routes;
        let is_same =
            |channel: &Arc<Channel>| old.channels.get(&channel.name).is_some_and(|before| Arc::ptr_eq(before, channel));
        let watched = |channel: &Arc<Channel>| {
            let (calls, errors) = now.since(baseline, &channel.name);
            let baseline_errors = if calls == 0 { 0.0 } else { errors as f64 * 100.0 / calls as f64 };
            WatchedChannel { name: channel.name.clone(), baseline_errors, open: open(channel) }
        };
        let channels: Vec<_> = new.channels.values().filter(|channel| all || !is_same(channel)).map(watched).collect();
        (!channels.is_empty()).then(|| Self {
            generation: new.generation,
            before: old.generation,
            earlier: Vec::new(),
            rule,
            ends: Instant::now() + rule.window,
            channels,
            at_start: now,
        })
    }

    /// Adds the candidates of the previous probation, if its generation is still on probation.
    pub(super) fn after(mut self, last: Option<&Self>) -> Self {
        let last = last.filter(|last| last.generation == self.before && Instant::now() < last.ends);
        self.earlier = last.into_iter().flat_map(Self::candidates).take(generations::MAX_STORED).collect();
        self
    }

    /// Continues the probation of the previous generation under a new one that changed no channel; `None` if it is over.
    pub(super) fn continued(self, old: &Snapshot, new: &Snapshot) -> Option<Self> {
        let rule = new.process.auto_rollback?;
        let is_running = self.generation == old.generation && Instant::now() < self.ends;
        is_running.then_some(Self { generation: new.generation, rule, ..self })
    }

    /// Returns the generations to roll back to, the best first.
    pub(super) fn candidates(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.before).chain(self.earlier.iter().copied())
    }

    pub(super) fn check(&mut self, running: &Snapshot) -> ProbationState {
        if running.generation != self.generation {
            return ProbationState::Over;
        }
        let now = Counts::now();
        let mut opened = Vec::new();
        for watched in &self.channels {
            let Some(channel) = running.channels.get(&watched.name) else { continue };
            if let Some(why) = self.errors(watched, now.since(&self.at_start, &watched.name)) {
                return ProbationState::Failed(why);
            }
            let new = open(channel).into_iter().filter(|kind| !watched.open.contains(kind));
            opened.extend(new.map(|kind| format!("{} for {}", watched.name, kind.as_str())));
        }
        if opened.len() as u64 >= self.rule.breaker_trips {
            return ProbationState::Failed(format!("breakers opened: {}", opened.join(", ")));
        }
        if Instant::now() >= self.ends { ProbationState::Over } else { ProbationState::Running }
    }

    fn errors(&self, watched: &WatchedChannel, (calls, errors): (u64, u64)) -> Option<String> {
        let share = errors as f64 * 100.0 / calls.max(1) as f64;
        let is_bad =
            calls >= self.rule.calls && share >= watched.baseline_errors + f64::from(self.rule.error_percentage);
        let (name, baseline) = (&watched.name, watched.baseline_errors);
        is_bad
            .then(|| format!("{errors} of {calls} calls of the channel {name} failed, the baseline is {baseline:.0} %"))
    }
}

/// Returns the operations for which a breaker of the channel is open.
fn open(channel: &Channel) -> BTreeSet<Kind> {
    let statuses = channel.filters.iter().flat_map(|filter| filter.statuses(Duration::ZERO));
    statuses.filter(|status| status.state == "open").map(|status| status.operation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probation(baseline_errors: f64) -> (Probation, WatchedChannel) {
        let rule = AutoRollback { window: Duration::from_secs(60), calls: 20, error_percentage: 20, breaker_trips: 1 };
        let (channels, at_start) = (Vec::new(), Counts::default());
        let (before, earlier, ends) = (1, Vec::new(), Instant::now());
        let probation = Probation { generation: 2, before, earlier, rule, ends, channels, at_start };
        (probation, WatchedChannel { name: "main".into(), baseline_errors, open: BTreeSet::new() })
    }

    #[test]
    fn rollback_skips_only_generations_on_probation() {
        let now = Instant::now();
        let watched = |generation, ends| Probation { generation, before: generation - 1, ends, ..probation(0.0).0 };
        let [first, second] = [1, 2].map(|generation| watched(generation, now + Duration::from_secs(60)));
        let candidates = |last: &Probation| watched(3, now).after(Some(last)).candidates().collect::<Vec<_>>();
        assert_eq!(candidates(&second), [2, 1]);
        assert_eq!(candidates(&watched(2, now)), [2], "its probation has ended");
        assert_eq!(candidates(&first), [2], "an earlier generation does not count");
        assert_eq!(candidates(&second.after(Some(&first))), [2, 1, 0]);
    }

    #[test]
    fn errors_count_above_the_baseline_and_from_a_minimum_of_calls() {
        for (baseline, counted, is_bad) in [
            (0.0, (19, 19), false),
            (0.0, (20, 3), false),
            (0.0, (20, 4), true),
            (10.0, (20, 5), false),
            (10.0, (20, 6), true),
            (90.0, (100, 100), false),
        ] {
            let (probation, watched) = probation(baseline);
            assert_eq!(probation.errors(&watched, counted).is_some(), is_bad, "{baseline} {counted:?}");
        }
    }

    #[test]
    fn success_is_no_error_and_unsupported_request_is_no_call() {
        for (result, times) in [("ok", 3), ("unclear", 1), ("declined", 1), ("unsupported_by_provider", 100)] {
            METRICS.provider_requests_total.with_label_values(&["watched-out", "pay", result]).inc_by(times);
        }
        assert_eq!(Counts::now().since(&Counts::default(), "watched-out"), (5, 1));
    }

    #[test]
    fn rejections_are_errors_only_if_nothing_succeeds() {
        let count = |result: &str, times| {
            METRICS.provider_requests_total.with_label_values(&["refused-out", "pay", result]).inc_by(times);
            Counts::now().since(&Counts::default(), "refused-out")
        };
        assert_eq!(count("declined", 20), (20, 20), "the account is wrong");
        assert_eq!(count("unlisted_refusal", 2), (22, 22));
        assert_eq!(count("ok", 1), (23, 0), "the payers were refused");
        for (result, errors) in [
            ("not_found", 0),
            ("conflict", 0),
            ("provider_busy", 0),
            ("not_sent", 1),
            ("unverifiable", 2),
            ("unauthorized", 3),
            ("mismatch", 4),
        ] {
            assert_eq!(count(result, 1).1, errors, "{result}");
        }
    }

    #[test]
    fn counts_are_differences_of_two_readings() {
        let counts = |calls, failed| {
            let ended = Ended { calls, succeeded: calls - failed, failed, refused: 0 };
            Counts(BTreeMap::from([("main".to_owned(), ended)]))
        };
        assert_eq!(counts(30, 5).since(&counts(10, 2), "main"), (20, 3));
        assert_eq!(counts(30, 5).since(&Counts::default(), "main"), (30, 5));
        assert_eq!(counts(30, 5).since(&Counts::default(), "other"), (0, 0));
    }
}
