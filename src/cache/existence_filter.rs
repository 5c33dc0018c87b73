//! Which orders and refunds there are, so that a question about one that does not exist costs neither ledger nor provider.
//!
//! A Bloom filter holds every entry of the ledger's index, by its hash. It may take what is not there for something that is;
//! what it does not know does not exist, ever:
//!
//! - What is born is told before it is durable ([`Listener`](crate::ledger::Listener)), on every machine, and put in at once.
//! - What was there before is read from the ledger, name after name. That begins when all that is born is heard of, and
//!   when everything that was told before has its end, so that nothing falls between the two.
//! - Where other machines write to the same ledger, an answer waits until everything is heard of that was durable when it was
//!   asked for ([`Ledger::caught_up`]): one question over a connection, for all who ask at that time, which looks at no
//!   record. If it fails, the ledger is asked.
//! - As long as anything may have gone unheard there is no filter.
//!
//! When more is in it than it was made for, or much of what is in it is gone, a new one is made beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bloom::BloomFilter;
use crate::ledger::{Ledger, LedgerError, RecordKey};
use crate::telemetry::METRICS;

/// The smallest filter is for so many names: 128 KiB.
const LEAST: u64 = 1 << 16;
/// So many are read at once.
const PAGE: usize = 10_000;

pub(crate) struct Orders {
    filter: ArcSwapOption<BloomFilter>,
    /// The one that is being made.
    next: ArcSwapOption<BloomFilter>,
    /// One at a time says what counts.
    turn: Mutex<()>,
    gone: AtomicU64,
    wanted: Notify,
    least: u64,
}

impl Default for Orders {
    fn default() -> Self {
        Self::for_names(LEAST)
    }
}

impl Orders {
    fn for_names(least: u64) -> Self {
        Self {
            filter: ArcSwapOption::empty(),
            next: ArcSwapOption::empty(),
            turn: Mutex::default(),
            gone: AtomicU64::new(0),
            wanted: Notify::new(),
            least,
        }
    }

    /// Whether nothing of this name exists, as far as was heard.
    pub(crate) fn is_unknown(&self, name: RecordKey) -> bool {
        self.filter.load().as_ref().is_some_and(|filter| !filter.may_have(name))
    }

    pub(super) fn born(&self, names: &[RecordKey]) {
        // In this order: the next becomes the present one before it is next no more.
        for filter in [self.next.load(), self.filter.load()].into_iter().filter_map(|filter| (*filter).clone()) {
            names.iter().for_each(|name| filter.insert(*name));
            if filter.is_full() {
                self.wanted.notify_one();
            }
        }
    }

    pub(super) fn gone(&self, names: &[RecordKey]) {
        let gone = self.gone.fetch_add(names.len() as u64, Ordering::Relaxed) + names.len() as u64;
        if self.filter.load().as_ref().is_some_and(|filter| gone > filter.count().max(self.least) / 4) {
            self.wanted.notify_one();
        }
    }

    /// Everything is heard from now on.
    pub(super) fn subscribed(&self) {
        self.wanted.notify_one();
    }

    /// Something may go unheard from now on.
    pub(super) fn disconnected(&self) {
        let _turn = self.turn.lock();
        self.next.store(None);
        self.filter.store(None);
    }

    /// Returns when a new filter is wanted.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Makes a new filter; larger ones, until everything finds room in it.
    pub(super) async fn make(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let known = self.filter.load().as_ref().map_or(0, |filter| filter.count());
        let gone = self.gone.swap(0, Ordering::Relaxed);
        let mut most = (known.saturating_sub(gone) * 2).max(self.least);
        loop {
            let new = Arc::new(BloomFilter::new(most));
            {
                let _turn = self.turn.lock();
                self.next.store(Some(Arc::clone(&new)));
            }
            ledger.quiesce().await?;
            let mut last = None;
            loop {
                let names = ledger.names(last, PAGE).await?;
                names.iter().for_each(|name| new.insert(*name));
                last = names.last().copied();
                if new.is_full() {
                    break;
                }
                if names.len() < PAGE {
                    self.take_over(new);
                    return Ok(());
                }
            }
            most = most.saturating_mul(4);
        }
    }

    fn take_over(&self, new: Arc<BloomFilter>) {
        let _turn = self.turn.lock();
        // Unless something went unheard while it was made: then it is made anew as soon as all is heard again.
        if self.next.load().as_ref().is_some_and(|next| Arc::ptr_eq(next, &new)) {
            self.filter.store(Some(new));
            self.next.store(None);
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn show(&self) {
        let filter = self.filter.load();
        let (names, rate, bytes) =
            filter.as_ref().map_or((0, 0.0, 0), |it| (it.count(), it.false_positives(), it.bytes()));
        METRICS.order_filter_entries.set(i64::try_from(names).unwrap_or(i64::MAX));
        METRICS.order_filter_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        METRICS.order_filter_false_positive_rate.set(rate);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::testing::{claim, name};

    #[tokio::test]
    async fn it_holds_what_was_there_and_what_comes_and_grows() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        for number in 0..300 {
            claim(&ledger, &format!("old-{number}")).await;
        }
        let orders = Orders::for_names(64);
        assert!(!orders.is_unknown(name("none")), "before it is made, nothing is known not to be");
        orders.make(&ledger).await.unwrap();
        assert!((0..300).all(|number| !orders.is_unknown(name(&format!("old-{number}")))));
        let unknown =
            |orders: &Orders| (0..1000).filter(|number| orders.is_unknown(name(&format!("x-{number}")))).count();
        assert!(unknown(&orders) > 950, "{}", unknown(&orders));
        // For 300 orders, 64 and 256 were too few.
        assert_eq!(orders.filter.load().as_ref().unwrap().most(), 1024);

        let new: Vec<RecordKey> = (0..800).map(|number| name(&format!("new-{number}"))).collect();
        orders.born(&new);
        assert!(new.iter().all(|name| !orders.is_unknown(*name)));
        tokio::time::timeout(Duration::from_secs(60), orders.wanted.notified()).await.expect("it is too full by now");
        orders.disconnected();
        assert!(!orders.is_unknown(name("none")), "what may have gone unheard may be there");
    }

    #[tokio::test]
    async fn what_is_born_while_it_is_made_is_in_it_and_what_goes_unheard_makes_it_void() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let orders = Orders::for_names(64);
        orders.make(&ledger).await.unwrap();
        let new = Arc::new(BloomFilter::new(64));
        orders.next.store(Some(Arc::clone(&new)));
        orders.born(&[name("meanwhile")]);
        orders.take_over(new);
        assert!(!orders.is_unknown(name("meanwhile")));
        assert!(orders.is_unknown(name("none")));
        let new = Arc::new(BloomFilter::new(64));
        orders.next.store(Some(Arc::clone(&new)));
        orders.disconnected();
        orders.take_over(new);
        assert!(!orders.is_unknown(name("none")));
    }

    #[tokio::test]
    async fn when_much_of_it_is_gone_it_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let orders = Orders::for_names(8);
        orders.make(&ledger).await.unwrap();
        orders.born(&[name("a"), name("b"), name("c")]);
        orders.gone(&[name("a"), name("b"), name("c")]);
        tokio::time::timeout(Duration::from_secs(60), orders.wanted.notified()).await.expect("it is wanted");
        orders.make(&ledger).await.unwrap();
        assert!(orders.is_unknown(name("a")), "the new one does not hold it");
    }
}
