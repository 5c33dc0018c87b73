//! Cache of payment and refund statuses as ready response bodies. A hit touches neither the ledger nor a provider.
//!
//! # Why a cached status is never wrong
//! Final statuses change too, for example by a refund, so a short lifetime is not enough.
//!
//! - The ledger publishes every change twice to all gateways on it ([`ChangeListener`]): before the change is visible, and after
//!   the commit. The first message evicts the cached status. Until the second one, nothing is cached about that record (at most
//!   [`INVALIDATION_HOLD`], in case the machine died in between).
//! - A gateway that begins to listen first waits until every transaction already in progress has ended.
//! - Before a record is read in order to cache its status, a [`Token`] is taken. If a change is published between the two, the
//!   status is not cached, because it may be outdated. Both steps happen under one lock.
//! - On this machine the first message is handled before the writer learns that the change succeeded. Whoever knows of a change is
//!   therefore never answered from before it. On other machines the delay is the time of a message.
//! - When the connection to PostgreSQL is lost, the gateway evicts everything and caches nothing. A connection that was cut
//!   silently is detected after three seconds.
//!
//! # Sharing through Redis
//! With `cache.kind = "redis"`, statuses are also stored where every gateway finds them
//! ([`redis_statuses`](super::redis_statuses)). They are not evicted there, because Redis may be unreachable just when a payment
//! changes. Instead, a gateway uses a status from Redis only if it would know of any change since:
//!
//! - It has received all changes since before the status was read from the ledger. That is the time that the status was stored in
//!   Redis, plus [`PROPAGATION_SLACK`] for the way there.
//! - It knows of no change that makes the record newer than the status, nor of one in progress. Changes are retained for longer
//!   than any status is cached.
//!
//! An older status never replaces a newer one in Redis. If a status from Redis is not used, it is read from the ledger, and that
//! result replaces it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tollgate_config::MAX_STATUS_TTL;
use tollgate_ledger::{ChangeListener, Changes, Ledger, LedgerError, RecordKey, Version};

use super::cached_status::{CachedStatus, PROPAGATION_SLACK, Token};
use super::existence_filter::ExistenceFilter;
use super::redis::Redis;
use super::redis_statuses::{ClusterLookup, QueryLease, RedisStatuses};
use crate::telemetry::METRICS;

/// Maximum time for which nothing is cached about a record after a change was announced but never confirmed.
const INVALIDATION_HOLD: Duration = Duration::from_secs(30);
/// Maximum number of cached statuses. Those that are used least are evicted first.
const MAX_STATUSES: u64 = 100_000;
/// Maximum number of retained changes. Beyond it, the cache cannot determine which statuses are outdated.
const MAX_CHANGES: usize = 1_000_000;
const STATUS_SHARDS: usize = 64;
/// Wait after an error.
const CATCH_UP_RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub struct StatusCache {
    /// Filter of existing orders.
    pub(crate) existence: ExistenceFilter,
    /// Statuses with their expiry. Written under the lock of their shard; lookups need no lock.
    cached: Cache<RecordKey, (Arc<CachedStatus>, Instant)>,
    shards: Vec<Mutex<Shard>>,
    /// Chooses the shard of a key. The hash key is random, so that no merchant can fill one shard by its order ids.
    hasher: RandomState,
    subscription: RwLock<Option<Subscription>>,
    /// Statuses of other gateways. If present, changes are retained.
    shared: Option<RedisStatuses>,
}

/// State of the subscription to the ledger's changes.
#[derive(Clone, Copy)]
struct Subscription {
    /// Moment since which all changes are received; `None` while older transactions may be in progress.
    since: Option<Instant>,
    /// Moment until which that is certain; `None` means always.
    until: Option<Instant>,
    /// Start of the subscription, which distinguishes it from earlier ones.
    began: Instant,
}

struct Shard {
    /// Counts the published changes.
    epoch: u64,
    changes: GenerationalMap<Change>,
    /// Moment before which nothing is cached, because more changed than could be retained.
    blocked_until: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Change {
    /// Between the two messages of a change, or for ever if the second never arrives.
    UnderWay {
        to: Version,
        hold_until: Instant,
    },
    To(Version),
}

impl StatusCache {
    /// Creates an empty cache, optionally with a shared Redis.
    pub(crate) fn new(redis: Option<Arc<Redis>>, now: Instant) -> Self {
        let shard = || Shard {
            epoch: 0,
            changes: GenerationalMap::new(MAX_STATUS_TTL + PROPAGATION_SLACK * 2, MAX_CHANGES / STATUS_SHARDS, now),
            blocked_until: None,
        };
        Self {
            existence: ExistenceFilter::default(),
            cached: Cache::builder().max_capacity(MAX_STATUSES).time_to_live(MAX_STATUS_TTL).build(),
            shards: (0..STATUS_SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            subscription: RwLock::default(),
            shared: redis.map(RedisStatuses::new),
        }
    }

    /// Returns the cached status if it is still valid.
    pub(crate) fn find(&self, name: RecordKey, now: Instant) -> Option<Arc<CachedStatus>> {
        self.subscription(now)?;
        self.cached.get(&name).filter(|(_, until)| now < *until).map(|(status, _)| status)
    }

    /// Returns a token; must be taken before the ledger is read.
    pub(crate) fn token(&self, name: RecordKey, now: Instant) -> Token {
        Token { epoch: self.shard(name).lock().epoch, at: now }
    }

    /// Caches a status for `life`, unless it may be older than a change. Returns whether it was cached.
    pub(crate) fn insert(
        &self,
        name: RecordKey,
        token: Token,
        status: Arc<CachedStatus>,
        life: Duration,
        now: Instant,
    ) -> bool {
        if self.subscription(now).is_none() {
            return false;
        }
        let shard = self.shard(name).lock();
        let is_on_hold = match shard.changes.get(&name) {
            Some(Change::UnderWay { hold_until, .. }) => now < *hold_until,
            _ => false,
        };
        if shard.epoch != token.epoch
            || is_on_hold
            || shard.blocked_until.is_some_and(|blocked_until| now < blocked_until)
        {
            return false;
        }
        self.cached.insert(name, (status, now + life.min(MAX_STATUS_TTL)));
        true
    }

    /// Returns whether a status of this version, stored in Redis for the duration `stored_for`, is current.
    pub(super) fn is_current(&self, name: RecordKey, age: Version, stored_for: Duration, now: Instant) -> bool {
        let Some(since) = self.subscription(now) else { return false };
        if now.saturating_duration_since(since) < stored_for + PROPAGATION_SLACK {
            return false;
        }
        match self.shard(name).lock().changes.get(&name) {
            None => true,
            Some(Change::To(known)) => age >= *known,
            Some(Change::UnderWay { .. }) => false,
        }
    }

    /// Subscribes `listener` to the ledger's changes, which it must pass to this cache first. Maintains the filter of
    /// existing orders until shutdown.
    pub async fn run(
        self: Arc<Self>,
        ledger: Ledger,
        listener: Arc<dyn ChangeListener>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        if let Err(error) = ledger.listen(listener) {
            tracing::error!(%error, "every status is read from the ledger");
            return;
        }
        let follow = async {
            loop {
                self.existence.rebuild_needed().await;
                while let Err(error) = self.catch_up(&ledger).await {
                    tracing::warn!(%error, "every status is read from the ledger until this succeeds");
                    tokio::time::sleep(CATCH_UP_RETRY_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            () = follow => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    async fn catch_up(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let before = *self.subscription.read();
        ledger.quiesce().await?;
        if let Some(shared) = &self.shared
            && let Some(identity) = ledger.cluster_id().await?
        {
            shared.set_ledger(identity);
        }
        if let (Some(before), Some(subscription)) = (before, &mut *self.subscription.write())
            && before.began == subscription.began
        {
            subscription.since.get_or_insert(Instant::now());
        }
        self.existence.rebuild(ledger).await
    }

    /// Updates the gauges of the cache.
    pub fn update_metrics(&self) {
        self.existence.show();
        METRICS.status_cache_shared.set(i64::from(self.is_sharing()));
    }

    /// Returns whether the statuses of other gateways would be used.
    fn is_sharing(&self) -> bool {
        let now = Instant::now();
        let since = self.shared.as_ref().filter(|shared| shared.is_ready()).and_then(|_| self.subscription(now));
        since.is_some_and(|since| now.saturating_duration_since(since) > PROPAGATION_SLACK)
    }

    #[cfg(test)]
    pub(super) fn pretend_subscribed_since(&self, since: Instant) {
        if let Some(subscription) = &mut *self.subscription.write() {
            subscription.since = Some(since);
        }
    }

    /// Returns the moment since which no change was missed, if the subscription is intact.
    fn subscription(&self, now: Instant) -> Option<Instant> {
        self.subscription.read().filter(|subscription| subscription.until.is_none_or(|until| now < until))?.since
    }

    fn shard(&self, RecordKey(name): RecordKey) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(name) as usize % STATUS_SHARDS]
    }

    /// Looks up a status of other gateways; waits for one that is being queried.
    pub(crate) async fn find_in_cluster(&self, name: RecordKey, forced: bool) -> ClusterLookup {
        match &self.shared {
            Some(shared) if self.subscription(Instant::now()).is_some() => {
                let is_current = |age, stored_for| self.is_current(name, age, stored_for, Instant::now());
                shared.find(name, forced, is_current).await
            }
            _ => ClusterLookup::Unavailable,
        }
    }

    /// Stores the status that this gateway queried for the cluster; `None` if the query failed.
    pub(crate) async fn insert_in_cluster(
        &self,
        name: RecordKey,
        lease: QueryLease,
        result: Option<(Token, &CachedStatus, Duration)>,
    ) {
        let Some(shared) = &self.shared else { return };
        match result {
            Some((token, status, life)) => shared.put(name, lease, token, status, life.min(MAX_STATUS_TTL)).await,
            None => shared.end(name, lease).await,
        }
    }

    fn record_change(&self, name: RecordKey, now: Instant, change: impl FnOnce(Option<Change>) -> Change) {
        let mut shard = self.shard(name).lock();
        shard.epoch += 1;
        self.cached.invalidate(&name);
        let change = change(shard.changes.get(&name).copied());
        if self.shared.is_none() && matches!(change, Change::To(_)) {
            // Without other gateways no older status can arrive.
            return shard.changes.remove(&name);
        }
        if shard.changes.insert(name, change, now) {
            // The evicted changes may include one that is still in progress.
            self.cached.invalidate_all();
            shard.blocked_until = Some(now + INVALIDATION_HOLD);
            drop(shard);
            if let Some(Subscription { since: Some(since), .. }) = &mut *self.subscription.write() {
                *since = now;
            }
        }
    }

    fn changing_at(&self, changes: &Changes, now: Instant) {
        self.existence.inserted(&changes.inserted);
        self.existence.deleted(&changes.deleted);
        for (name, to) in each(changes) {
            self.record_change(name, now, |_| Change::UnderWay { to, hold_until: now + INVALIDATION_HOLD });
        }
    }

    fn changed_at(&self, changes: &Changes, now: Instant) {
        for (name, age) in each(changes) {
            self.record_change(name, now, |known| match known {
                // The confirmations of two machines may arrive in any order, and after the announcement of the next change.
                Some(Change::To(known)) => Change::To(known.max(age)),
                Some(change @ Change::UnderWay { to, .. }) if age < to => change,
                _ => Change::To(age),
            });
        }
    }

    fn subscribed_at(&self, until: Option<Instant>, now: Instant) {
        let before = {
            let mut subscription = self.subscription.write();
            let known = subscription.unwrap_or(Subscription { since: None, until, began: now });
            subscription.replace(Subscription { until, ..known })
        };
        if before.is_none() {
            self.existence.subscribed();
        }
    }

    fn disconnected_at(&self, now: Instant) {
        *self.subscription.write() = None;
        self.existence.disconnected();
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.epoch += 1;
            shard.changes.clear(now);
        }
        self.cached.invalidate_all();
    }
}

fn each(changes: &Changes) -> impl Iterator<Item = (RecordKey, Version)> {
    changes.updated.iter().copied().chain(changes.deleted.iter().map(|name| (*name, Version::DELETED)))
}

impl ChangeListener for StatusCache {
    fn before_commit(&self, changes: &Changes) {
        self.changing_at(changes, Instant::now());
    }

    fn after_commit(&self, changes: &Changes) {
        self.changed_at(changes, Instant::now());
    }

    fn subscribed(&self, until: Option<Instant>) {
        self.subscribed_at(until, Instant::now());
    }

    fn disconnected(&self) {
        self.disconnected_at(Instant::now());
    }
}

/// Map with two generations of entries. An entry is evicted after one to two periods, or earlier if the map is full.
struct GenerationalMap<T> {
    young: HashMap<RecordKey, T>,
    old: HashMap<RecordKey, T>,
    rotated_at: Instant,
    period: Duration,
    capacity: usize,
}

impl<T> GenerationalMap<T> {
    fn new(period: Duration, capacity: usize, now: Instant) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), rotated_at: now, period, capacity: capacity.max(1) }
    }

    fn get(&self, name: &RecordKey) -> Option<&T> {
        self.young.get(name).or_else(|| self.old.get(name))
    }

    /// Inserts an entry. Returns whether entries were evicted early.
    fn insert(&mut self, name: RecordKey, value: T, now: Instant) -> bool {
        let is_time = now.saturating_duration_since(self.rotated_at) >= self.period;
        let is_full = self.young.len() >= self.capacity && !self.young.contains_key(&name);
        if is_time || is_full {
            self.old = std::mem::take(&mut self.young);
            self.rotated_at = now;
        }
        self.young.insert(name, value);
        is_full && !is_time
    }

    fn remove(&mut self, name: &RecordKey) {
        self.young.remove(name);
        self.old.remove(name);
    }

    fn clear(&mut self, now: Instant) {
        (self.young, self.old) = (HashMap::new(), HashMap::new());
        self.rotated_at = now;
    }
}

#[cfg(test)]
mod tests;
