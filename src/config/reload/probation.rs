//! A generation proves itself: for a while after it came into force its channels' errors and breakers are held against what
//! was usual before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use tokio::time::Instant;
use tollgate_plugins::payment::Kind;

use super::{Channel, Snapshot};
use crate::config::{AutoRollback, generations};
use crate::telemetry::METRICS;

/// Exchanges of each channel since the process began, by how they ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(BTreeMap<String, Ended>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ended {
    calls: u64,
    succeeded: u64,
    /// As a breaker counts them, or without a key that could verify the answer.
    failed: u64,
    /// Verified refusals of what was asked for: most are the payers' and merchants' doing.
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

    /// The calls that speak against a generation. Refusals do only where nothing succeeds at all: then the account is likely to
    /// be wrong, and not each payer.
    fn errors(self) -> u64 {
        if self.succeeded == 0 { self.failed + self.refused } else { self.failed }
    }
}

impl Counts {
    /// By the metrics.
    pub(super) fn now() -> Self {
        let mut counts = BTreeMap::new();
        for family in METRICS.provider_requests_total.collect() {
            for metric in family.get_metric() {
                let label = |name: &str| metric.get_label().iter().find(|label| label.name() == name);
                let Some(channel) = label("channel") else { continue };
                let is = |result: &str| label("result").is_some_and(|label| label.value() == result);
                // What a merchant asked for could not be written in the provider's form: nothing was asked of the channel.
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
                } else if !["absent", "conflict", "provider_busy"].into_iter().any(is) {
                    ended.failed += count;
                }
            }
        }
        Self(counts)
    }

    /// Calls and errors of a channel since an earlier count.
    fn since(&self, earlier: &Self, channel: &str) -> (u64, u64) {
        let of = |counts: &Self| counts.0.get(channel).copied().unwrap_or_default();
        let ended = of(self).since(of(earlier));
        (ended.calls, ended.errors())
    }
}

/// One generation being tried.
pub(super) struct Probation {
    /// Which.
    pub(super) generation: u64,
    /// Which one comes back.
    before: u64,
    /// Which instead where that one was not kept, the nearest first: it was being tried itself.
    earlier: Vec<u64>,
    rule: AutoRollback,
    ends: Instant,
    channels: Vec<WatchedChannel>,
    at_begin: Counts,
}

/// A channel that the generation changed.
struct WatchedChannel {
    name: String,
    /// Of a hundred calls before.
    usual_errors: f64,
    /// Which of its breakers were open before.
    open: BTreeSet<Kind>,
}

/// How a trial stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing speaks against it so far.
    Open,
    /// It stays, or another one is in force.
    Over,
    /// It must go, for this reason.
    Bad(String),
}

impl Probation {
    /// Nothing where the file asks for none, or no channel can have become worse.
    pub(super) fn begin(old: &Snapshot, new: &Snapshot, usual: &Counts) -> Option<Self> {
        let rule = new.process.auto_rollback?;
        let now = Counts::now();
        // By other routes any of them may get what it cannot take.
        let all = old.sources.routes != new.sources.routes;
        let is_same =
            |channel: &Arc<Channel>| old.channels.get(&channel.name).is_some_and(|before| Arc::ptr_eq(before, channel));
        let tried = |channel: &Arc<Channel>| {
            let (calls, errors) = now.since(usual, &channel.name);
            let usual_errors = if calls == 0 { 0.0 } else { errors as f64 * 100.0 / calls as f64 };
            WatchedChannel { name: channel.name.clone(), usual_errors, open: open(channel) }
        };
        let channels: Vec<_> = new.channels.values().filter(|channel| all || !is_same(channel)).map(tried).collect();
        (!channels.is_empty()).then(|| Self {
            generation: new.generation,
            before: old.generation,
            earlier: Vec::new(),
            rule,
            ends: Instant::now() + rule.window,
            channels,
            at_begin: now,
        })
    }

    /// The same, with what was being tried until now.
    pub(super) fn after(mut self, last: Option<&Self>) -> Self {
        let last = last.filter(|last| last.generation == self.before && Instant::now() < last.ends);
        self.earlier = last.into_iter().flat_map(Self::candidates).take(generations::MOST).collect();
        self
    }

    /// What may come back, the best first.
    pub(super) fn candidates(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.before).chain(self.earlier.iter().copied())
    }

    pub(super) fn look(&mut self, running: &Snapshot) -> Verdict {
        if running.generation != self.generation {
            return Verdict::Over;
        }
        let now = Counts::now();
        let mut opened = Vec::new();
        for tried in &self.channels {
            let Some(channel) = running.channels.get(&tried.name) else { continue };
            if let Some(why) = self.errors(tried, now.since(&self.at_begin, &tried.name)) {
                return Verdict::Bad(why);
            }
            let new = open(channel).into_iter().filter(|kind| !tried.open.contains(kind));
            opened.extend(new.map(|kind| format!("{} for {}", tried.name, kind.as_str())));
        }
        if opened.len() as u64 >= self.rule.breaker_trips {
            return Verdict::Bad(format!("breakers opened: {}", opened.join(", ")));
        }
        if Instant::now() >= self.ends { Verdict::Over } else { Verdict::Open }
    }

    fn errors(&self, tried: &WatchedChannel, (calls, errors): (u64, u64)) -> Option<String> {
        let share = errors as f64 * 100.0 / calls.max(1) as f64;
        let is_bad = calls >= self.rule.calls && share >= tried.usual_errors + f64::from(self.rule.error_percentage);
        let (name, usual) = (&tried.name, tried.usual_errors);
        is_bad.then(|| format!("{errors} of {calls} calls of the channel {name} failed, usual are {usual:.0} %"))
    }
}

/// The kinds of operation for which a breaker of the channel is open.
fn open(channel: &Channel) -> BTreeSet<Kind> {
    let stances = channel.filters.iter().flat_map(|filter| filter.statuses(Duration::ZERO));
    stances.filter(|stance| stance.state == "open").map(|stance| stance.operation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(usual_errors: f64) -> (Probation, WatchedChannel) {
        let rule = AutoRollback { window: Duration::from_secs(60), calls: 20, error_percentage: 20, breaker_trips: 1 };
        let (channels, at_begin) = (Vec::new(), Counts::default());
        let (before, earlier, ends) = (1, Vec::new(), Instant::now());
        let trial = Probation { generation: 2, before, earlier, rule, ends, channels, at_begin };
        (trial, WatchedChannel { name: "main".into(), usual_errors, open: BTreeSet::new() })
    }

    #[test]
    fn only_what_was_being_tried_is_passed_over() {
        let now = Instant::now();
        let tried = |generation, ends| Probation { generation, before: generation - 1, ends, ..trial(0.0).0 };
        let [first, second] = [1, 2].map(|generation| tried(generation, now + Duration::from_secs(60)));
        let candidates = |last: &Probation| tried(3, now).after(Some(last)).candidates().collect::<Vec<_>>();
        assert_eq!(candidates(&second), [2, 1]);
        assert_eq!(candidates(&tried(2, now)), [2], "it has proved itself");
        assert_eq!(candidates(&first), [2], "that was long ago");
        assert_eq!(candidates(&second.after(Some(&first))), [2, 1, 0]);
    }

    #[test]
    fn errors_count_above_what_was_usual_and_from_enough_calls_on() {
        for (usual, counted, is_bad) in [
            (0.0, (19, 19), false),
            (0.0, (20, 3), false),
            (0.0, (20, 4), true),
            (10.0, (20, 5), false),
            (10.0, (20, 6), true),
            (90.0, (100, 100), false),
        ] {
            let (trial, tried) = trial(usual);
            assert_eq!(trial.errors(&tried, counted).is_some(), is_bad, "{usual} {counted:?}");
        }
    }

    #[test]
    fn what_succeeded_is_no_error_and_what_a_merchant_wrote_is_no_call() {
        for (result, times) in [("ok", 3), ("unclear", 1), ("declined", 1), ("unsupported_by_provider", 100)] {
            METRICS.provider_requests_total.with_label_values(&["tried-out", "pay", result]).inc_by(times);
        }
        assert_eq!(Counts::now().since(&Counts::default(), "tried-out"), (5, 1));
    }

    #[test]
    fn refusals_are_errors_only_where_nothing_succeeds() {
        let count = |result: &str, times| {
            METRICS.provider_requests_total.with_label_values(&["refused-out", "pay", result]).inc_by(times);
            Counts::now().since(&Counts::default(), "refused-out")
        };
        assert_eq!(count("declined", 20), (20, 20), "the account is wrong");
        assert_eq!(count("unlisted_refusal", 2), (22, 22));
        assert_eq!(count("ok", 1), (23, 0), "the payers were refused");
        for (result, errors) in [
            ("absent", 0),
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
    fn counts_are_differences() {
        let counts = |calls, failed| {
            let ended = Ended { calls, succeeded: calls - failed, failed, refused: 0 };
            Counts(BTreeMap::from([("main".to_owned(), ended)]))
        };
        assert_eq!(counts(30, 5).since(&counts(10, 2), "main"), (20, 3));
        assert_eq!(counts(30, 5).since(&Counts::default(), "main"), (30, 5));
        assert_eq!(counts(30, 5).since(&Counts::default(), "other"), (0, 0));
    }
}
