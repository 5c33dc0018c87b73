//! Slots of concurrent deliveries. Sinks that fail or hang must not occupy the slots of healthy ones.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tollgate_ledger::SinkName;

use crate::task_pool::{EndedTask, KeyedTaskPool};

/// Maximum concurrent deliveries in total. Sinks that begin to hang keep slots until their first attempts time out, so there
/// are more slots than a gateway needs otherwise.
const MAX_CONCURRENT_DELIVERIES: usize = 2048;
/// Maximum concurrent deliveries to sinks whose last attempt failed, in total.
const MAX_FAILING: usize = 256;
/// Maximum concurrent deliveries per webhook, per other sink, and per sink that fails or hangs. A broker confirms many
/// messages at once, so it gets more.
const MAX_PER_WEBHOOK: usize = 8;
const MAX_PER_SINK: usize = 32;
const MAX_PER_FAILING_SINK: usize = 1;
/// Time without a success after which a sink with running deliveries counts as hanging.
const HANGING_AFTER: Duration = Duration::from_secs(1);

/// Class of sinks. Each has slots of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The last attempt succeeded, or there was none.
    Healthy,
    /// The last attempt failed.
    Failing,
}

/// The running deliveries, by event and [subscription](SinkName::subscription).
pub(super) struct DeliverySlots {
    /// A task returns whether it delivered its event.
    pool: KeyedTaskPool<bool>,
    /// Subscriptions whose last attempt failed.
    failing: HashSet<String>,
    /// Time of the last success of each subscription with running deliveries, or of the first one's start.
    progress: HashMap<String, Instant>,
}

impl DeliverySlots {
    pub(super) fn new() -> Self {
        let pool = KeyedTaskPool::new(MAX_CONCURRENT_DELIVERIES, MAX_PER_SINK);
        Self { pool, failing: HashSet::new(), progress: HashMap::new() }
    }

    /// Returns the number of free slots of a class.
    pub(super) fn limit(&self, class: Class) -> usize {
        match class {
            Class::Healthy => self.pool.free(),
            Class::Failing => {
                let running: usize = self.failing.iter().map(|subscription| self.pool.count(subscription)).sum();
                MAX_FAILING.saturating_sub(running).min(self.pool.free()).min(self.failing.len())
            }
        }
    }

    /// Returns the number of free slots of a subscription, if it is of this class.
    pub(super) fn free(&self, subscription: &str, class: Class) -> usize {
        let is_failing = self.failing.contains(subscription);
        if is_failing != (class == Class::Failing) {
            return 0;
        }
        let limit = match SinkName::of_subscription(subscription).is_webhook() {
            _ if is_failing || self.is_hanging(subscription) => MAX_PER_FAILING_SINK,
            true => MAX_PER_WEBHOOK,
            false => MAX_PER_SINK,
        };
        limit.saturating_sub(self.pool.count(subscription))
    }

    /// Returns whether an event is under way to a subscription.
    pub(super) fn is_running(&self, subscription: &str, event: &str) -> bool {
        self.pool.is_running(&key(subscription, event))
    }

    /// Starts a delivery.
    pub(super) fn start(&mut self, subscription: &str, event: &str, work: impl Future<Output = bool> + Send + 'static) {
        if self.pool.start(&key(subscription, event), subscription, work) {
            self.progress.entry(subscription.to_owned()).or_insert_with(Instant::now);
        }
    }

    /// Notes the deliveries that have ended.
    pub(super) fn collect_ended(&mut self) {
        while let Some(ended) = self.pool.try_join_next() {
            self.note(ended);
        }
    }

    /// Waits until a delivery ends, and notes it. Never returns if none is running.
    pub(super) async fn ended(&mut self) {
        let ended = self.pool.join_next().await;
        self.note(ended);
    }

    fn is_hanging(&self, subscription: &str) -> bool {
        self.progress.get(subscription).is_some_and(|since| since.elapsed() >= HANGING_AFTER)
    }

    fn note(&mut self, EndedTask { group: subscription, result: is_delivered }: EndedTask<bool>) {
        let is_delivered = is_delivered == Some(true);
        if self.pool.count(&subscription) == 0 {
            self.progress.remove(&subscription);
        } else if is_delivered {
            self.progress.insert(subscription.clone(), Instant::now());
        }
        match is_delivered {
            true => self.failing.remove(&subscription),
            false => self.failing.insert(subscription),
        };
    }
}

/// Returns the key of a delivery: one event may be under way to several sinks.
fn key(subscription: &str, event: &str) -> String {
    format!("{subscription} {event}")
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::Class::{Failing, Healthy};
    use super::*;

    /// Deliveries that end once the test says so.
    struct Attempts {
        end: watch::Sender<Option<bool>>,
    }

    impl Attempts {
        fn new() -> Self {
            Self { end: watch::channel(None).0 }
        }

        fn start(&self, slots: &mut DeliverySlots, subscription: &str, event: &str) {
            let mut ended = self.end.subscribe();
            let work = async move { ended.wait_for(Option::is_some).await.is_ok_and(|result| *result == Some(true)) };
            slots.start(subscription, event, work);
        }

        async fn end(&self, slots: &mut DeliverySlots, count: usize, is_delivered: bool) {
            self.end.send_replace(Some(is_delivered));
            for _ in 0..count {
                slots.ended().await;
            }
            self.end.send_replace(None);
        }
    }

    #[test]
    fn sinks_of_a_merchant_have_slots_of_their_own() {
        let mut slots = DeliverySlots::new();
        slots.failing.insert("a/mq".to_owned());
        assert_eq!(["a", "a/mq", "a/other"].map(|it| slots.free(it, Healthy)), [8, 0, 32]);
        assert_eq!(["a", "a/mq", "a/other"].map(|it| slots.free(it, Failing)), [0, 1, 0]);
        assert_ne!(key("a", "evt_1"), key("a/mq", "evt_1"));
    }

    #[tokio::test]
    async fn webhook_is_limited_to_its_slots_and_to_one_while_failing() {
        let (mut slots, attempts) = (DeliverySlots::new(), Attempts::new());
        assert_eq!((slots.free("a", Healthy), slots.free("b", Healthy)), (8, 8));
        for event in 0..8 {
            attempts.start(&mut slots, "a", &event.to_string());
        }
        assert_eq!(
            (slots.free("a", Healthy), slots.free("b", Healthy)),
            (0, 8),
            "another merchant has slots of its own"
        );
        assert!(slots.is_running("a", "0") && !slots.is_running("a", "8"));
        attempts.end(&mut slots, 8, false).await;
        assert_eq!((slots.free("a", Healthy), slots.free("a", Failing)), (0, 1), "its last attempt failed");
        attempts.start(&mut slots, "a", "8");
        assert_eq!(slots.free("a", Failing), 0);
        attempts.end(&mut slots, 1, true).await;
        assert_eq!((slots.free("a", Healthy), slots.free("a", Failing)), (8, 0), "it works again");
    }

    #[tokio::test]
    async fn failing_sinks_never_take_the_slots_of_healthy_ones() {
        let (mut slots, attempts) = (DeliverySlots::new(), Attempts::new());
        let all = |number: usize| (0..number).map(|number| format!("m{number}"));
        for subscription in all(1000) {
            attempts.start(&mut slots, &subscription, "first");
        }
        attempts.end(&mut slots, 1000, false).await;
        let mut started = 0;
        for subscription in all(1000) {
            if slots.limit(Failing) > 0 && slots.free(&subscription, Failing) > 0 {
                attempts.start(&mut slots, &subscription, "second");
                started += 1;
            }
        }
        assert_eq!((started, slots.limit(Failing)), (MAX_FAILING, 0));
        assert_eq!(slots.limit(Healthy), MAX_CONCURRENT_DELIVERIES - MAX_FAILING);
        assert_eq!(slots.free("healthy", Healthy), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_sink_gets_no_further_slot_until_it_succeeds() {
        let (mut slots, attempts) = (DeliverySlots::new(), Attempts::new());
        attempts.start(&mut slots, "a/mq", "1");
        assert_eq!(slots.free("a/mq", Healthy), 31);
        tokio::time::advance(HANGING_AFTER).await;
        assert_eq!(slots.free("a/mq", Healthy), 0);
        attempts.end(&mut slots, 1, true).await;
        assert_eq!(slots.free("a/mq", Healthy), 32);
    }
}
