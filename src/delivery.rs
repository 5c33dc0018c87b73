//! Events to merchants, again until they have them. One dead endpoint delays no other, and the order is kept per payment
//! (the ledger gives out only the oldest event of each).

mod dial;
pub mod webhook;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use self::webhook::{Client, Reply};
use crate::clock;
use crate::config::{Current, Snapshot};
use crate::ledger::{Delivery, Ledger, TimelineEvent};
use crate::telemetry::{LABELS, METRICS};

/// The pauses before the second try, the third, and so on, in seconds: 5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h.
const RETRY_SCHEDULE: [u64; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// No `retry-after` is honoured beyond this.
const LONGEST_PAUSE: u64 = 86_400;
/// How long an event is held back whose merchant wants none or cannot be reached by its configuration.
const DEFER_FOR: u64 = 3600;
/// How many are under way at once in all, for one merchant, and for one whose last try failed: the dead wait for time-outs,
/// and must not take the places of the living.
const MAX_CONCURRENT_DELIVERIES: usize = 512;
const AT_ONCE_EACH: usize = 8;
const AT_ONCE_FAILING: usize = 1;
/// How long an event rests whose attempt could not be recorded. It is due still, and would be sent again at once.
const UNRECORDED_PAUSE: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub async fn run(current: Current, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
    let worker = Arc::new(Worker { current, ledger, client: Client, disabled: Mutex::default() });
    let mut wake = worker.ledger.wake();
    let mut under_way = JoinSet::new();
    let mut lanes = Lanes::default();
    loop {
        // All that ended: a look at what is due waits for the disk.
        while let Some(ended) = under_way.try_join_next_with_id() {
            lanes.ended(ended, &mut under_way);
        }
        // What cannot be written down as delivered would be delivered again and again.
        if worker.ledger.may_work() && clock::is_trusted() {
            let free = MAX_CONCURRENT_DELIVERIES.saturating_sub(under_way.len());
            let due = worker.ledger.due_deliveries(
                clock::now(),
                free,
                |merchant| lanes.free(merchant),
                |merchant, event| lanes.is_under_way(merchant, event),
            );
            for delivery in due.await {
                let (merchant, event) = (delivery.event.subject.merchant.clone(), delivery.event.id.clone());
                let worker = Arc::clone(&worker);
                let task = under_way.spawn(worker.deliver(delivery));
                lanes.enter(task.id(), merchant, event);
            }
        }
        tokio::select! {
            Some(ended) = under_way.join_next_with_id() => lanes.ended(ended, &mut under_way),
            _ = wake.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// Which events are under way, by merchant.
#[derive(Default)]
struct Lanes {
    lanes: BTreeMap<String, Lane>,
    places: HashMap<tokio::task::Id, (String, String)>,
}

#[derive(Default)]
struct Lane {
    events: BTreeSet<String>,
    failing: bool,
}

impl Lanes {
    /// How many places a merchant's lane has left.
    fn free(&self, merchant: &str) -> usize {
        self.lanes.get(merchant).map_or(AT_ONCE_EACH, |lane| {
            let places = if lane.failing { AT_ONCE_FAILING } else { AT_ONCE_EACH };
            places.saturating_sub(lane.events.len())
        })
    }

    fn is_under_way(&self, merchant: &str, event: &str) -> bool {
        self.lanes.get(merchant).is_some_and(|lane| lane.events.contains(event))
    }

    fn enter(&mut self, task: tokio::task::Id, merchant: String, event: String) {
        self.lanes.entry(merchant.clone()).or_default().events.insert(event.clone());
        self.places.insert(task, (merchant, event));
    }

    /// Frees the place of a task that ended. One that panicked keeps it for a while.
    fn ended(&mut self, ended: Result<(tokio::task::Id, bool), JoinError>, tasks: &mut JoinSet<bool>) {
        match ended {
            Ok((task, had)) => drop(self.leave(task, had)),
            Err(broken) => {
                if let Some((merchant, event)) = self.leave(broken.id(), false) {
                    let rest = tasks.spawn(async {
                        tokio::time::sleep(UNRECORDED_PAUSE).await;
                        false
                    });
                    self.enter(rest.id(), merchant, event);
                }
            }
        }
    }

    fn leave(&mut self, task: tokio::task::Id, had: bool) -> Option<(String, String)> {
        let (merchant, event) = self.places.remove(&task)?;
        if let Some(lane) = self.lanes.get_mut(&merchant) {
            lane.events.remove(&event);
            lane.failing = !had;
        }
        Some((merchant, event))
    }
}

struct Worker {
    current: Current,
    ledger: Ledger,
    client: Client,
    /// Merchants whose endpoint said 410, by the configuration for which it said so.
    disabled: Mutex<HashMap<String, String>>,
}

/// What comes after a try.
#[derive(Debug, PartialEq)]
enum Decision {
    /// They have it.
    Done(&'static str),
    /// It is not tried again.
    GiveUp(&'static str),
    /// Again after so many seconds.
    Again(u64),
    /// Again after so many seconds, and this was no try.
    Defer(u64),
}

impl Worker {
    /// Makes one attempt and records its end; returns whether the merchant has the event.
    async fn deliver(self: Arc<Self>, delivery: Delivery) -> bool {
        let merchant = delivery.event.subject.merchant.clone();
        let event = delivery.event.id.clone();
        // An attempt of its own, so that a defect in it counts as one that failed.
        let attempt = tokio::spawn({
            let (worker, delivery) = (Arc::clone(&self), delivery.clone());
            async move { worker.attempt(&worker.current.load_full(), &delivery).await }
        });
        let (next, why) = attempt.await.unwrap_or_else(|_| {
            let why = "the attempt broke off; see the log".to_owned();
            (after(&Err(why.clone()), delivery.tries, clock::now(), rand::rng().random()), Some(why))
        });
        let now = clock::now();
        let had = matches!(next, Decision::Done(_));
        if let Some(why) = &why {
            let undelivered = vec![TimelineEvent::Undelivered { id: event.clone(), why: why.clone() }];
            // What is written next waits for the disk, and takes this along.
            if let Err(error) = self.ledger.append_timeline(&delivery.event.subject, undelivered, now).await {
                tracing::warn!(%error, event, "the timeline misses that it was not taken");
            }
        }
        let written = match next {
            Decision::Done("delivered") => self.ledger.delivered(&event, now).await,
            Decision::Done(why) | Decision::GiveUp(why) => self.ledger.dropped(&event, why, now).await,
            Decision::Again(seconds) => self.ledger.postpone(&event, later(now, seconds), delivery.tries + 1).await,
            Decision::Defer(seconds) => self.ledger.postpone(&event, later(now, seconds), delivery.tries).await,
        };
        let result = match &next {
            Decision::Done(result) | Decision::GiveUp(result) => *result,
            Decision::Again(_) => "failed",
            Decision::Defer(_) => "held",
        };
        METRICS.deliveries_total.with_label_values(&[LABELS.merchant(&merchant), result]).inc();
        if let Decision::GiveUp(why) = next {
            tracing::error!(merchant, event, why, "an event is given up; the merchant must ask for it");
        } else if let Some(outcome) = why {
            tracing::info!(merchant, event, outcome, ?next, "an event was not delivered");
        }
        if let Err(error) = written {
            tracing::error!(%error, event, "a delivery's end could not be recorded; the event is sent again");
            tokio::time::sleep(UNRECORDED_PAUSE).await;
        }
        had
    }

    /// What comes next, and what happened instead of a delivery.
    async fn attempt(&self, snapshot: &Snapshot, delivery: &Delivery) -> (Decision, Option<String>) {
        let name = &delivery.event.subject.merchant;
        // A file that is missing now may be back soon.
        let Some(merchant) = snapshot.merchants.get(name) else {
            let why = "the merchant has no file".to_owned();
            return (after(&Err(why.clone()), delivery.tries, clock::now(), 0.5), Some(why));
        };
        let Some(target) = &merchant.webhook else { return (Decision::Done("no_webhook"), None) };
        if self.disabled.lock().get(name) == Some(&merchant.fingerprint) {
            return (Decision::Defer(DEFER_FOR), Some("the webhook said that it is gone (410)".to_owned()));
        }
        let reply = self.client.post(target, &snapshot.process.webhook_allow, &delivery.event, delivery.tries).await;
        if let Ok(Reply { status: 410, .. }) = reply {
            tracing::error!(
                merchant = name,
                "the webhook says it is gone (410): disabled until the merchant's file changes"
            );
            self.disabled.lock().insert(name.clone(), merchant.fingerprint.clone());
            return (Decision::Defer(DEFER_FOR), Some("it answered 410".to_owned()));
        }
        let next = after(&reply, delivery.tries, clock::now(), rand::rng().random());
        if matches!(next, Decision::Done(_)) {
            return (next, None);
        }
        let outcome = reply.map_or_else(|why| why, |reply| format!("it answered {}", reply.status));
        (next, Some(outcome))
    }
}

/// What comes after the reply to try number `tries` (counted from 0); `chance` is from 0 to 1.
fn after(reply: &Result<Reply, String>, tries: u32, now: Timestamp, chance: f64) -> Decision {
    match reply {
        Ok(reply) if (200..300).contains(&reply.status) => return Decision::Done("delivered"),
        _ => {}
    }
    let Some(pause) = RETRY_SCHEDULE.get(tries as usize) else { return Decision::GiveUp("given_up") };
    let scattered = (*pause as f64 * (0.9 + 0.2 * chance)).round() as u64;
    let asked = reply.as_ref().ok().and_then(|reply| reply.retry_after.as_deref()).and_then(|text| seconds(text, now));
    Decision::Again(scattered.max(asked.unwrap_or(0).min(LONGEST_PAUSE)))
}

fn later(now: Timestamp, seconds: u64) -> Timestamp {
    let pause = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    now.checked_add(pause).unwrap_or(now)
}

/// `retry-after`: seconds, or an HTTP date.
fn seconds(text: &str, now: Timestamp) -> Option<u64> {
    let date = || {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
        u64::try_from(date.duration_since(now).as_secs()).ok()
    };
    text.trim().parse().ok().or_else(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_takes_more_than_a_lane_and_the_failing_take_one_place() {
        let task = async || tokio::spawn(async { tokio::task::id() }).await.unwrap_or_else(|_| panic!("a task"));
        let mut lanes = Lanes::default();
        assert_eq!((lanes.free("a"), lanes.free("b")), (8, 8));
        let mut tasks = Vec::new();
        for event in 0..8 {
            tasks.push(task().await);
            lanes.enter(tasks[event], "a".to_owned(), event.to_string());
        }
        assert_eq!((lanes.free("a"), lanes.free("b")), (0, 8), "another merchant has a lane of its own");
        assert!(lanes.is_under_way("a", "0") && !lanes.is_under_way("b", "0") && !lanes.is_under_way("a", "8"));
        for task in tasks {
            lanes.leave(task, false);
        }
        assert_eq!(lanes.free("a"), 1, "its last try failed");
        let last = task().await;
        lanes.enter(last, "a".to_owned(), "8".to_owned());
        assert_eq!(lanes.free("a"), 0);
        lanes.leave(last, true);
        assert_eq!(lanes.free("a"), 8, "it works again");
    }

    fn reply(status: u16, retry_after: Option<&str>) -> Result<Reply, String> {
        Ok(Reply { status, retry_after: retry_after.map(str::to_owned) })
    }

    #[test]
    fn the_schedule_with_its_scatter_and_its_end() {
        let now = Timestamp::UNIX_EPOCH;
        for (tries, pause) in RETRY_SCHEDULE.iter().enumerate() {
            for chance in [0.0, 0.5, 0.999] {
                let Decision::Again(seconds) = after(&Err("cut".into()), tries as u32, now, chance) else {
                    panic!("again")
                };
                assert!(seconds * 10 >= pause * 9 && seconds * 10 <= pause * 11 + 5, "{tries}: {seconds} for {pause}");
            }
        }
        assert_eq!(after(&Err("cut".into()), 9, now, 0.5), Decision::GiveUp("given_up"));
    }

    #[test]
    fn what_counts_as_had_and_what_as_not() {
        let now = Timestamp::UNIX_EPOCH;
        for status in [200, 202, 204, 299] {
            assert_eq!(after(&reply(status, None), 0, now, 0.5), Decision::Done("delivered"));
        }
        for status in [199, 301, 302, 307, 400, 404, 429, 500, 503] {
            assert_eq!(after(&reply(status, None), 0, now, 0.5), Decision::Again(5), "{status}");
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(after(&reply(503, Some("120")), 0, now, 0.5), Decision::Again(120));
        assert_eq!(after(&reply(503, Some("1")), 0, now, 0.5), Decision::Again(5), "never sooner than the schedule");
        assert_eq!(after(&reply(503, Some("999999999")), 0, now, 0.5), Decision::Again(86_400));
        assert_eq!(after(&reply(503, Some("Thu, 01 Jan 1970 00:10:00 GMT")), 0, now, 0.5), Decision::Again(600));
        assert_eq!(after(&reply(503, Some("soon")), 0, now, 0.5), Decision::Again(5));
    }
}
