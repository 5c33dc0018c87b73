//! Health of Redis for nonces, as observed: it responds, accepts writes, evicts nothing, and has lost nothing.
//!
//! A marker key without expiry detects data loss: after a restart without persistence or `FLUSHALL` it is missing. After a failover
//! another server responds, which may have lagged behind. Then it is unknown which recent signatures were used, so signatures from
//! before the detection are rejected. That costs little, because callers sign each request anew.
//!
//! [`redis`](super::redis) checks the marker, and [`watch`](super::watch) repeats the check.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::memory::in_present_time;
use crate::telemetry::METRICS;

/// Seconds by which signatures may be older than the loss: callers sign whole seconds, and requests are on their way.
const LOSS_SLACK_SECONDS: u64 = 1;

/// Observed state of the server.
#[derive(Default)]
pub(super) struct RedisHealth(Mutex<State>);

#[derive(Default)]
struct State {
    /// True after the first check of the server.
    is_known: bool,
    /// Reason why the server cannot be used.
    failure: Option<String>,
    /// Last content of the marker, and the run id of the server, where it reports one.
    mark: Option<(String, Option<String>)>,
    /// Signatures from before this moment may have been used: in Unix seconds by the clock at that time, and as a monotonic instant.
    lost_before: Option<(u64, Instant)>,
    /// True if a command failed since the last check.
    is_in_doubt: bool,
    policy: Option<String>,
    evicted: u64,
    info_denied: bool,
}

impl RedisHealth {
    /// Records that a command failed. When the server responds again, it may be another one.
    pub(super) fn doubt(&self) {
        self.0.lock().is_in_doubt = true;
    }

    /// Returns whether a check is needed before a reply counts.
    pub(super) fn is_in_doubt(&self) -> bool {
        let state = self.0.lock();
        !state.is_known || state.is_in_doubt
    }

    /// Returns the reason why no signed request can be accepted.
    pub(super) fn not_ready(&self) -> Option<String> {
        let state = self.0.lock();
        if !state.is_known {
            return Some("Redis was not checked yet".to_owned());
        }
        state.failure.as_ref().map(|why| {
            format!("Redis cannot be used ({why}), so no signed request can be accepted; check `cache.url`, its password and its role")
        })
    }

    /// Returns whether a signature of that Unix second may have been used before Redis lost data. `now` is in Unix
    /// seconds, with the same moment as a monotonic instant.
    pub(super) fn has_forgotten(&self, created: u64, (now, at): (u64, Instant)) -> bool {
        let lost_before = self.0.lock().lost_before;
        lost_before.is_some_and(|(then, since)| {
            let since = in_present_time(then, (now, at.saturating_duration_since(since)));
            created < since.saturating_sub(LOSS_SLACK_SECONDS)
        })
    }

    /// Records a successful check. `found` is the content of the marker; `None` if it was missing and now contains `own`. `run` is
    /// `None` if the server does not report its run id.
    pub(super) fn found(&self, found: Option<String>, own: String, run: Option<String>, (now, at): (u64, Instant)) {
        let mut state = self.0.lock();
        state.is_known = true;
        state.is_in_doubt = false;
        let was_bad = state.failure.take().is_some();
        let is_new = found.is_none();
        let mark = found.unwrap_or(own);
        let before = state.mark.take();
        let is_first = before.is_none();
        let is_lost = before.as_ref().is_some_and(|(key, known)| {
            let is_another_run = known.is_some() && run.is_some() && *known != run;
            *key != mark || is_another_run
        });
        if is_lost {
            state.lost_before = Some((now, at));
        } else if is_first {
            // Everything from before the marker was created is lost, by whichever gateway.
            let made = made_at(&mark).map(|made| made.min(now));
            let ago = made.map(|made| Duration::from_secs(now - made));
            state.lost_before = made.zip(ago.and_then(|ago| at.checked_sub(ago)));
        }
        // A server that does not report its run id now may report it the next time.
        state.mark = Some((mark, run.or(before.and_then(|(_, known)| known))));
        drop(state);
        METRICS.stores.cache_ready.set(1);
        if was_bad {
            tracing::info!("Redis can be used again");
        }
        if is_first && is_new {
            tracing::warn!(
                "Redis is new or has lost all nonces: signatures made before now are rejected; if gateways have used it before, \
                 give it persistence"
            );
        }
        if is_lost {
            METRICS.stores.cache_losses_total.inc();
            tracing::error!(
                "Redis may have lost nonces (a restart, a failover or FLUSHALL): signatures made before now are rejected; give the \
                 gateways a Redis of their own with persistence"
            );
        }
    }

    pub(super) fn failed(&self, why: String) {
        let mut state = self.0.lock();
        let was_good = !state.is_known || state.failure.is_none();
        (state.is_known, state.is_in_doubt) = (true, true);
        state.failure = Some(why.clone());
        drop(state);
        METRICS.stores.cache_ready.set(0);
        if was_good {
            tracing::error!(
                why,
                "Redis cannot be used: signed requests are answered 503 until it can; check `cache.url`, its password and its role"
            );
        }
    }

    /// Reads the reply of `INFO`.
    pub(super) fn read(&self, info: &str) {
        let evicted = field(info, "evicted_keys").and_then(|count| count.parse().ok()).unwrap_or(0);
        let policy = field(info, "maxmemory_policy");
        let mut state = self.0.lock();
        let more = evicted > state.evicted;
        state.evicted = evicted;
        let is_new = state.policy != policy;
        state.policy.clone_from(&policy);
        drop(state);
        METRICS.stores.cache_evicted_keys.set(i64::try_from(evicted).unwrap_or(i64::MAX));
        if let Some(policy) = policy.filter(|policy| is_new && policy != "noeviction") {
            tracing::warn!(
                policy,
                "Redis evicts keys when its memory is full, nonces too, so a signed request could be replayed: set \
                 maxmemory-policy to noeviction"
            );
        }
        if more {
            tracing::warn!(
                evicted,
                "Redis has evicted keys: evicted nonces could be replayed; give it more memory, and set maxmemory-policy to noeviction"
            );
        }
    }

    pub(super) fn has_no_info(&self, why: &str) {
        if !std::mem::replace(&mut self.0.lock().info_denied, true) {
            tracing::info!(
                why,
                "Redis does not report its eviction policy: make sure that maxmemory-policy is noeviction"
            );
        }
    }

    /// Returns the server's eviction policy, where it reports one.
    pub(super) fn eviction_policy(&self) -> Option<String> {
        self.0.lock().policy.clone()
    }
}

/// Returns the content of a marker created in that Unix second.
pub(super) fn mark(now: u64) -> String {
    format!("{now}-{}", hex::encode(rand::random::<[u8; 8]>()))
}

/// Returns the Unix second in which the marker was created, if it contains one.
fn made_at(mark: &str) -> Option<u64> {
    mark.split_once('-')?.0.parse().ok()
}

/// Returns the value of a field in the reply of `INFO`.
pub(super) fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// State of a server, observed with a correct clock.
    struct Test {
        health: RedisHealth,
        start: Instant,
    }

    impl Default for Test {
        fn default() -> Self {
            Self { health: RedisHealth::default(), start: Instant::now() }
        }
    }

    impl Test {
        fn at(&self, now: u64) -> Instant {
            self.start + Duration::from_secs(now)
        }

        fn found(&self, found: Option<&str>, run: Option<&str>, now: u64) {
            let (found, run) = (found.map(str::to_owned), run.map(str::to_owned));
            self.health.found(found, mark(now), run, (now, self.at(now)));
        }

        fn has_forgotten(&self, created: u64, now: u64) -> bool {
            self.health.has_forgotten(created, (now, self.at(now)))
        }
    }

    #[test]
    fn loss_of_the_marker_rejects_earlier_signatures() {
        let test = Test::default();
        assert!(test.health.not_ready().is_some());
        test.found(Some("a"), None, 100);
        assert!(test.health.not_ready().is_none() && !test.has_forgotten(1, 110));
        test.found(None, None, 120);
        assert!(test.has_forgotten(118, 121) && !test.has_forgotten(119, 121) && !test.has_forgotten(120, 121));
        // Another gateway was faster to create the marker.
        test.found(Some("d"), Some("run"), 130);
        assert!(test.has_forgotten(128, 131));
        // The marker is there, but on another server.
        test.found(Some("d"), Some("another"), 140);
        assert!(test.has_forgotten(138, 141));
    }

    #[test]
    fn empty_redis_at_start_rejects_earlier_signatures() {
        let test = Test::default();
        assert!(test.health.is_in_doubt(), "it is checked before the first request is accepted");
        test.found(None, None, 1_000);
        assert!(!test.health.is_in_doubt());
        assert!(test.has_forgotten(998, 1_001) && !test.has_forgotten(999, 1_001) && !test.has_forgotten(1_000, 1_001));
        // A gateway that starts later finds the marker of the first one and also rejects.
        let test = Test::default();
        test.found(Some(&mark(1_000)), None, 1_010);
        assert!(test.has_forgotten(998, 1_011) && !test.has_forgotten(999, 1_011));
        // A gateway with a fast clock created it.
        let test = Test::default();
        test.found(Some(&mark(9_999_999)), None, 1_010);
        assert!(test.has_forgotten(1_008, 1_011) && !test.has_forgotten(1_009, 1_011));
    }

    #[test]
    fn loss_detected_with_a_wrong_clock_is_judged_by_the_corrected_clock() {
        for wrong in [1_000 + 401 * 86_400, 600] {
            let test = Test::default();
            test.found(Some("a"), None, 990);
            let at = test.at(1_000);
            test.health.found(None, mark(wrong), None, (wrong, at));
            assert!(test.has_forgotten(998, 1_002), "{wrong}");
            assert!(!test.has_forgotten(1_001, 1_002), "{wrong}: the clock was set right, and new signatures are good");
        }
    }

    #[test]
    fn failed_info_command_is_no_loss() {
        let test = Test::default();
        for run in [None, Some("run"), None, Some("run")] {
            test.found(Some("a"), run, 100);
            assert!(!test.has_forgotten(1, 101), "{run:?}");
        }
        // The server is another one, though its first reply did not show that.
        test.found(Some("a"), None, 110);
        test.found(Some("a"), Some("another"), 111);
        assert!(test.has_forgotten(109, 112));
    }

    #[test]
    fn eviction_settings_are_read_from_info() {
        let health = RedisHealth::default();
        health.read("# Memory\r\nmaxmemory_policy:allkeys-lru\r\n# Stats\r\nevicted_keys:12\r\n");
        let state = health.0.lock();
        assert_eq!((state.policy.as_deref(), state.evicted), (Some("allkeys-lru"), 12));
    }

    #[test]
    fn failed_check_is_reported_as_not_ready() {
        let health = RedisHealth::default();
        health.failed("NOAUTH".to_owned());
        assert!(health.not_ready().is_some_and(|why| why.contains("(NOAUTH)")));
        health.found(None, mark(1), None, (1, Instant::now()));
        assert!(health.not_ready().is_none());
    }
}
