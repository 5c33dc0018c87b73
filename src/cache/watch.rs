//! Whether Redis can be relied on for nonces: it answers, takes writes, evicts nothing, and has forgotten nothing.
//!
//! A key of our own that never expires tells whether it has forgotten: after a restart without persistence or `FLUSHALL` it is gone.
//! After a failover another server answers, which may have lagged behind. Then nobody knows which signatures of the last minutes
//! were used, so those that were made before it was noticed are refused. That costs little: callers sign each request anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::CacheError;
use super::memory::in_present_time;
use super::redis::Redis;
use crate::clock;
use crate::telemetry::METRICS;

/// How often it is looked whether Redis takes writes and has forgotten nothing.
const BEAT: Duration = Duration::from_secs(1);
/// How often its settings and counters are read, in beats.
const SETTINGS: u32 = 30;
/// The key that must stay. It holds the unix second in which a gateway made it, and a random number.
const MARK: &str = "tollgate:mark";
/// Seconds by which signatures may be older than the loss: callers write whole seconds, and requests are under way.
const SLACK: u64 = 1;

/// What is known of the server.
#[derive(Default)]
pub(super) struct Watched(Mutex<State>);

#[derive(Default)]
struct State {
    /// Whether it was looked at all.
    is_known: bool,
    /// Why it cannot be used.
    trouble: Option<String>,
    /// What the key held last, and which run of a server said so, where it says.
    mark: Option<(String, Option<String>)>,
    /// Signatures made before that moment may have been used: in unix seconds by the clock at that time, and in time that no
    /// step of the clock changes.
    forgotten: Option<(u64, Instant)>,
    /// An answer failed since the last look.
    is_in_doubt: bool,
    policy: Option<String>,
    evicted: u64,
    is_closed: bool,
}

impl Watched {
    /// An answer failed: the server may be another one when it answers again.
    pub(super) fn doubt(&self) {
        self.0.lock().is_in_doubt = true;
    }

    /// Whether it must be looked at before an answer counts.
    pub(super) fn is_in_doubt(&self) -> bool {
        let state = self.0.lock();
        !state.is_known || state.is_in_doubt
    }

    /// Why no signed request can be let in.
    pub(super) fn not_ready(&self) -> Option<String> {
        let state = self.0.lock();
        if !state.is_known {
            return Some("Redis was not asked yet".to_owned());
        }
        state.trouble.as_ref().map(|why| {
            format!("Redis cannot be used ({why}), so that no signed request can be let in; see `cache.url`, its password and its role")
        })
    }

    /// Whether a signature of that unix second may have been used before Redis forgot. `now` is unix seconds and the same
    /// moment in time that no step of the clock changes.
    pub(super) fn has_forgotten(&self, created: u64, (now, at): (u64, Instant)) -> bool {
        let forgotten = self.0.lock().forgotten;
        forgotten.is_some_and(|(then, since)| {
            let since = in_present_time(then, (now, at.saturating_duration_since(since)));
            created < since.saturating_sub(SLACK)
        })
    }

    /// Redis answered with what the key held; nothing when it was not there, and now holds `own`. `run` is missing where it
    /// does not say which run it is.
    fn found(&self, found: Option<String>, own: String, run: Option<String>, (now, at): (u64, Instant)) {
        let mut state = self.0.lock();
        state.is_known = true;
        state.is_in_doubt = false;
        let was_bad = state.trouble.take().is_some();
        let is_new = found.is_none();
        let mark = found.unwrap_or(own);
        let before = state.mark.take();
        let is_first = before.is_none();
        let is_lost = before.as_ref().is_some_and(|(key, known)| {
            let is_another_run = known.is_some() && run.is_some() && *known != run;
            *key != mark || is_another_run
        });
        if is_lost {
            state.forgotten = Some((now, at));
        } else if is_first {
            // What it knew before the key was made is lost, whoever made it.
            let made = made_at(&mark).map(|made| made.min(now));
            let ago = made.map(|made| Duration::from_secs(now - made));
            state.forgotten = made.zip(ago.and_then(|ago| at.checked_sub(ago)));
        }
        // One that does not say it this time may say it the next time.
        state.mark = Some((mark, run.or(before.and_then(|(_, known)| known))));
        drop(state);
        METRICS.stores.cache_ready.set(1);
        if was_bad {
            tracing::info!("Redis can be used again");
        }
        if is_first && is_new {
            tracing::warn!(
                "Redis is new or has forgotten all nonces: signatures made before now are refused; if gateways have used it before, \
                 give it persistence"
            );
        }
        if is_lost {
            METRICS.stores.cache_losses_total.inc();
            tracing::error!(
                "Redis may have forgotten nonces (a restart, a failover or FLUSHALL): signatures made before now are refused; give the \
                 gateways a Redis of their own with persistence"
            );
        }
    }

    fn failed(&self, why: String) {
        let mut state = self.0.lock();
        let was_good = !state.is_known || state.trouble.is_none();
        (state.is_known, state.is_in_doubt) = (true, true);
        state.trouble = Some(why.clone());
        drop(state);
        METRICS.stores.cache_ready.set(0);
        if was_good {
            tracing::error!(
                why,
                "Redis cannot be used: signed requests are answered 503 until it can; see `cache.url`, its password and its role"
            );
        }
    }

    /// What `INFO` says.
    fn read(&self, info: &str) {
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
                "Redis evicts keys when its memory is full, nonces too, so that a signed request would be good once more: set \
                 maxmemory-policy to noeviction"
            );
        }
        if more {
            tracing::warn!(
                evicted,
                "Redis has evicted keys: nonces among them are good again; give it more memory, and noeviction"
            );
        }
    }

    fn has_no_info(&self, why: &str) {
        if !std::mem::replace(&mut self.0.lock().is_closed, true) {
            tracing::info!(why, "Redis does not say how it evicts keys: see that its maxmemory-policy is noeviction");
        }
    }
}

/// Looks now and then until told to stop.
pub(crate) async fn run(redis: Option<Arc<Redis>>, mut stop: watch::Receiver<bool>) {
    let Some(redis) = redis else { return METRICS.stores.cache_ready.set(1) };
    let mut beats = 0;
    loop {
        let is_there = look(&redis).await.is_ok();
        if is_there && beats % SETTINGS == 0 {
            settings(&redis).await;
        }
        beats = if is_there { beats + 1 } else { 0 };
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Makes sure that Redis takes writes, and finds out whether it has forgotten something.
pub(super) async fn look(redis: &Redis) -> Result<(), CacheError> {
    let now = (clock::unix_now(), Instant::now());
    let own = mark(now.0);
    let answer = redis.asked(redis::cmd("SET").arg(MARK).arg(&own).arg("NX").arg("GET")).await;
    let found = answer.and_then(|answer| {
        redis::from_redis_value::<Option<String>>(answer).map_err(|error| CacheError(error.to_string()))
    });
    match found {
        Ok(found) => {
            let run = info(redis, Some("server")).await.ok();
            redis.watched.found(found, own, run.and_then(|info| field(&info, "run_id")), now);
            Ok(())
        }
        Err(error) => {
            redis.watched.failed(error.0.clone());
            Err(error)
        }
    }
}

/// Returns what the key is to hold if it is made in that unix second.
fn mark(now: u64) -> String {
    format!("{now}-{}", hex::encode(rand::random::<[u8; 8]>()))
}

/// Returns the unix second in which the key was made, if it says so.
fn made_at(mark: &str) -> Option<u64> {
    mark.split_once('-')?.0.parse().ok()
}

async fn settings(redis: &Redis) {
    match info(redis, None).await {
        Ok(info) => redis.watched.read(&info),
        Err(error) => redis.watched.has_no_info(&error.0),
    }
}

async fn info(redis: &Redis, section: Option<&str>) -> Result<String, CacheError> {
    let answer = redis.asked(redis::cmd("INFO").arg(section)).await?;
    redis::from_redis_value(answer).map_err(|error| CacheError(error.to_string()))
}

fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
}

/// Asks a server once, for a check of the configuration.
pub(crate) async fn probe(redis: &Redis) -> Result<String, String> {
    look(redis).await.map_err(|error| error.0)?;
    settings(redis).await;
    let state = redis.watched.0.lock();
    Ok(match state.policy.as_deref() {
        Some("noeviction") => "reached, and it evicts nothing".to_owned(),
        Some(policy) => {
            format!("reached; it evicts nonces when its memory is full (maxmemory-policy {policy}): set noeviction")
        }
        None => "reached; how it evicts keys it does not say".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of a server, by a clock that is right.
    struct Test {
        watched: Watched,
        start: Instant,
    }

    impl Default for Test {
        fn default() -> Self {
            Self { watched: Watched::default(), start: Instant::now() }
        }
    }

    impl Test {
        fn at(&self, now: u64) -> Instant {
            self.start + Duration::from_secs(now)
        }

        fn found(&self, found: Option<&str>, run: Option<&str>, now: u64) {
            let (found, run) = (found.map(str::to_owned), run.map(str::to_owned));
            self.watched.found(found, mark(now), run, (now, self.at(now)));
        }

        fn has_forgotten(&self, created: u64, now: u64) -> bool {
            self.watched.has_forgotten(created, (now, self.at(now)))
        }
    }

    #[test]
    fn loss_of_the_mark_refuses_signatures_made_before_it_was_noticed() {
        let test = Test::default();
        assert!(test.watched.not_ready().is_some());
        test.found(Some("a"), None, 100);
        assert!(test.watched.not_ready().is_none() && !test.has_forgotten(1, 110));
        test.found(None, None, 120);
        assert!(test.has_forgotten(118, 121) && !test.has_forgotten(119, 121) && !test.has_forgotten(120, 121));
        // Another gateway was faster to set it.
        test.found(Some("d"), Some("run"), 130);
        assert!(test.has_forgotten(128, 131));
        // The key is there, but another server has it.
        test.found(Some("d"), Some("another"), 140);
        assert!(test.has_forgotten(138, 141));
    }

    #[test]
    fn redis_that_is_empty_at_the_start_refuses_signatures_made_before_it() {
        let test = Test::default();
        assert!(test.watched.is_in_doubt(), "it is looked at before the first request is let in");
        test.found(None, None, 1_000);
        assert!(!test.watched.is_in_doubt());
        assert!(test.has_forgotten(998, 1_001) && !test.has_forgotten(999, 1_001) && !test.has_forgotten(1_000, 1_001));
        // So does a gateway that starts later and finds the key of the first one.
        let test = Test::default();
        test.found(Some(&mark(1_000)), None, 1_010);
        assert!(test.has_forgotten(998, 1_011) && !test.has_forgotten(999, 1_011));
        // A gateway whose clock is ahead made it.
        let test = Test::default();
        test.found(Some(&mark(9_999_999)), None, 1_010);
        assert!(test.has_forgotten(1_008, 1_011) && !test.has_forgotten(1_009, 1_011));
    }

    #[test]
    fn loss_noticed_by_a_wrong_clock_is_judged_by_the_right_one() {
        for wrong in [1_000 + 401 * 86_400, 600] {
            let test = Test::default();
            test.found(Some("a"), None, 990);
            let at = test.at(1_000);
            test.watched.found(None, mark(wrong), None, (wrong, at));
            assert!(test.has_forgotten(998, 1_002), "{wrong}");
            assert!(!test.has_forgotten(1_001, 1_002), "{wrong}: the clock was set right, and new signatures are good");
        }
    }

    #[test]
    fn info_that_fails_is_no_loss() {
        let test = Test::default();
        for run in [None, Some("run"), None, Some("run")] {
            test.found(Some("a"), run, 100);
            assert!(!test.has_forgotten(1, 101), "{run:?}");
        }
        // The server is another one, though its first answer did not say so.
        test.found(Some("a"), None, 110);
        test.found(Some("a"), Some("another"), 111);
        assert!(test.has_forgotten(109, 112));
    }

    #[test]
    fn settings_are_read_from_what_redis_says_of_itself() {
        let watched = Watched::default();
        watched.read("# Memory\r\nmaxmemory_policy:allkeys-lru\r\n# Stats\r\nevicted_keys:12\r\n");
        let state = watched.0.lock();
        assert_eq!((state.policy.as_deref(), state.evicted), (Some("allkeys-lru"), 12));
    }

    #[test]
    fn failure_is_the_reason_why_it_is_not_ready() {
        let watched = Watched::default();
        watched.failed("NOAUTH".to_owned());
        assert!(watched.not_ready().is_some_and(|why| why.contains("(NOAUTH)")));
        watched.found(None, mark(1), None, (1, Instant::now()));
        assert!(watched.not_ready().is_none());
    }
}
