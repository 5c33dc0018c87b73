//! Wakes what waits for changes of the ledger: streams of a payment's state, and long polls for a merchant's events.
//!
//! One subscription to the ledger's change feed serves all of them, with changes of other gateways included. A waiter
//! is only woken; it then reads the ledger itself. When changes may have been missed, every waiter is woken once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tollgate_ledger::{ChangeListener, Changes, MerchantKey, RecordKey};

/// Maximum number of reads of the ledger by woken streams at a time.
const MAX_READS: usize = 32;

/// The waiters of this gateway.
pub struct ChangeHub {
    /// Streams, by payment.
    pub(crate) payments: Arc<Topics<RecordKey>>,
    /// Long polls, by merchant.
    pub(crate) merchants: Arc<Topics<MerchantKey>>,
    /// Limits concurrent reads of woken streams.
    pub(crate) reads: Semaphore,
    /// True if changes may have been missed since the last subscription.
    has_missed: AtomicBool,
    draining: watch::Sender<bool>,
}

impl Default for ChangeHub {
    fn default() -> Self {
        Self {
            payments: Arc::default(),
            merchants: Arc::default(),
            reads: Semaphore::new(MAX_READS),
            // Until the first subscription, changes of other gateways are missed.
            has_missed: AtomicBool::new(true),
            draining: watch::Sender::new(false),
        }
    }
}

impl ChangeHub {
    /// Ends every stream and long poll when the process begins to shut down.
    pub async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        // An error means that the process ends.
        let _ = shutdown.wait_for(|stop| *stop).await;
        self.draining.send_replace(true);
    }

    /// Waits until the process begins to shut down.
    pub(crate) async fn draining(&self) {
        let mut draining = self.draining.subscribe();
        let _ = draining.wait_for(|is_draining| *is_draining).await;
    }

    fn wake_all(&self) {
        self.payments.wake_all();
        self.merchants.wake_all();
    }
}

impl ChangeListener for ChangeHub {
    fn before_commit(&self, _: &Changes) {}

    fn after_commit(&self, changes: &Changes) {
        changes.updated.iter().for_each(|(payment, _)| self.payments.wake(payment));
        changes.published.iter().for_each(|merchant| self.merchants.wake(merchant));
    }

    fn subscribed(&self, _: Option<Instant>) {
        if self.has_missed.swap(false, Ordering::AcqRel) {
            self.wake_all();
        }
    }

    fn disconnected(&self) {
        self.has_missed.store(true, Ordering::Release);
        self.wake_all();
    }
}

/// Passes every change to several listeners, in their order.
pub struct Listeners(pub Vec<Arc<dyn ChangeListener>>);

impl ChangeListener for Listeners {
    fn before_commit(&self, changes: &Changes) {
        self.0.iter().for_each(|listener| listener.before_commit(changes));
    }

    fn after_commit(&self, changes: &Changes) {
        self.0.iter().for_each(|listener| listener.after_commit(changes));
    }

    fn subscribed(&self, until: Option<Instant>) {
        self.0.iter().for_each(|listener| listener.subscribed(until));
    }

    fn disconnected(&self) {
        self.0.iter().for_each(|listener| listener.disconnected());
    }
}

/// Waiters by topic, with limits.
pub(crate) struct Topics<K>(Mutex<Table<K>>);

struct Table<K> {
    topics: HashMap<K, watch::Sender<()>>,
    waiters: usize,
}

impl<K> Default for Topics<K> {
    fn default() -> Self {
        Self(Mutex::new(Table { topics: HashMap::new(), waiters: 0 }))
    }
}

/// Limit of waiters that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// Waiters of this topic.
    OfTopic,
    /// Waiters in total.
    InTotal,
}

impl<K: Copy + Eq + Hash> Topics<K> {
    /// Adds a waiter to a topic, unless the topic has `each` waiters already, or all topics together `total`.
    pub(crate) fn subscribe(self: &Arc<Self>, topic: K, each: usize, total: usize) -> Result<Subscription<K>, TooMany> {
        let mut table = self.0.lock();
        if table.waiters >= total {
            return Err(TooMany::InTotal);
        }
        let sender = table.topics.entry(topic).or_default();
        if sender.receiver_count() >= each {
            return Err(TooMany::OfTopic);
        }
        let changes = Some(sender.subscribe());
        table.waiters += 1;
        Ok(Subscription { topics: Arc::clone(self), topic, changes })
    }

    fn wake(&self, topic: &K) {
        if let Some(sender) = self.0.lock().topics.get(topic) {
            sender.send_replace(());
        }
    }

    fn wake_all(&self) {
        self.0.lock().topics.values().for_each(|sender| {
            sender.send_replace(());
        });
    }
}

/// A waiter of one topic, until dropped.
pub(crate) struct Subscription<K: Copy + Eq + Hash> {
    topics: Arc<Topics<K>>,
    topic: K,
    changes: Option<watch::Receiver<()>>,
}

impl<K: Copy + Eq + Hash> Subscription<K> {
    /// Waits for the next change. A change since the subscription or the last call counts.
    pub(crate) async fn changed(&mut self) {
        match &mut self.changes {
            // The sender is dropped after its last receiver only.
            Some(changes) => drop(changes.changed().await),
            None => std::future::pending().await,
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Subscription<K> {
    fn drop(&mut self) {
        let mut table = self.topics.0.lock();
        self.changes = None;
        table.waiters = table.waiters.saturating_sub(1);
        if table.topics.get(&self.topic).is_some_and(|sender| sender.receiver_count() == 0) {
            table.topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;
    use tollgate_ledger::Version;

    use super::*;

    fn changes(payment: u8, merchant: u8) -> Changes {
        let updated = vec![(RecordKey([payment; 16]), Version { created: 0, version: 1 })];
        Changes { updated, published: vec![MerchantKey([merchant; 16])], ..Changes::default() }
    }

    #[tokio::test]
    async fn change_wakes_the_waiters_of_its_payment_and_merchant_only() {
        let hub = ChangeHub::default();
        let mut payments = [1, 1, 2].map(|key| hub.payments.subscribe(RecordKey([key; 16]), 8, 8).unwrap());
        let mut merchants = [7, 8].map(|key| hub.merchants.subscribe(MerchantKey([key; 16]), 8, 8).unwrap());
        hub.before_commit(&changes(1, 7));
        assert!(payments[0].changed().now_or_never().is_none(), "the change is not visible yet");
        hub.after_commit(&changes(1, 7));
        let woken = |it: &mut Subscription<RecordKey>| it.changed().now_or_never().is_some();
        assert_eq!(payments.each_mut().map(woken), [true, true, false]);
        assert_eq!(payments.each_mut().map(woken), [false; 3], "once for each change");
        assert_eq!(merchants.each_mut().map(|it| it.changed().now_or_never().is_some()), [true, false]);
    }

    #[tokio::test]
    async fn subscription_wakes_every_waiter_at_its_start_its_loss_and_its_return() {
        let hub = ChangeHub::default();
        let mut payment = hub.payments.subscribe(RecordKey([1; 16]), 8, 8).unwrap();
        let mut merchant = hub.merchants.subscribe(MerchantKey([1; 16]), 8, 8).unwrap();
        let mut woken = || (payment.changed().now_or_never().is_some(), merchant.changed().now_or_never().is_some());
        hub.subscribed(None);
        assert_eq!(woken(), (true, true), "a change before the first subscription was missed");
        hub.subscribed(None);
        assert_eq!(woken(), (false, false), "no change was missed");
        hub.disconnected();
        assert_eq!(woken(), (true, true));
        hub.subscribed(None);
        assert_eq!(woken(), (true, true));
        hub.subscribed(None);
        assert_eq!(woken(), (false, false));
    }

    #[test]
    fn limits_count_living_waiters_per_topic_and_in_total() {
        let topics = Arc::new(Topics::<u8>::default());
        let subscribe = |topic| topics.subscribe(topic, 2, 3);
        let (first, second) = (subscribe(1).unwrap(), subscribe(1).unwrap());
        assert_eq!(subscribe(1).err(), Some(TooMany::OfTopic));
        let third = subscribe(2).unwrap();
        assert_eq!(subscribe(3).err(), Some(TooMany::InTotal));
        drop(first);
        assert!(subscribe(1).is_ok());
        drop((second, third));
        assert!(topics.0.lock().topics.is_empty() && topics.0.lock().waiters == 0);
    }
}
