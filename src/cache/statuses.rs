//! How payments and refunds stand, as ready answers: a hit touches neither the ledger nor a provider.
//!
//! # Why an answer is never wrong
//! Final states change too: a refund changes its payment. So it is not enough that final answers are kept for minutes only.
//!
//! - Every change is told by the ledger before it is visible and again afterwards, to all machines on it
//!   ([`Listener`]). When it is told first, the answer goes, and until it is told again nothing new is
//!   kept about that record ([`INVALIDATION_HOLD`], should the second word never come: its machine died in between).
//! - A machine that begins to hear of changes waits first until what was under way then has its end.
//! - Who reads a record to keep an answer takes a [`Token`] before. If a change is told between the two, the answer is
//!   not kept: it may be from before. Both happen under one lock.
//! - On this machine the first word comes before whoever makes the change hears that it is made, so that nobody who knows of a
//!   change is answered from before it. On the others it is on its way then, for as long as a message takes.
//! - When a machine does not hear of changes any more (PostgreSQL is away), it forgets all answers and keeps none; if the
//!   connection was cut without a word, after three seconds.
//!
//! # Shared in Redis
//! With `cache.kind = "redis"` answers are also kept where every machine finds them ([`shared`](super::shared)). Nobody takes
//! them away there: Redis may be out of reach just when a payment changes. Instead a machine believes what it finds there
//! only if it would know of any change since:
//!
//! - It has heard everything since before the answer was read from the ledger: the time that the answer lay in Redis, and
//!   [`PROPAGATION_SLACK`] for the way there.
//! - It has heard of no change that makes the record newer than the answer, nor of one that is under way. Changes are
//!   remembered for longer than any answer is kept.
//!
//! An older answer never takes the place of a newer one there. What is not believed is read from the ledger, which then
//! takes its place.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::existence_filter::Orders;
use super::redis::Redis;
use super::redis_statuses::{ClusterLookup, Flight, RedisStatuses};
use crate::ledger::{ChangeListener, Changes, Ledger, LedgerError, RecordKey, Version};

/// How long at most an answer is kept.
pub const LONGEST: Duration = Duration::from_mins(5);
/// How long after it was read an answer may still come into Redis.
pub(super) const PROPAGATION_SLACK: Duration = Duration::from_secs(2);
/// How long nothing is kept about a record that is about to change, when it is never told that it has.
const INVALIDATION_HOLD: Duration = Duration::from_secs(30);
/// So many answers are kept; those that are seldom wanted go first.
const ANSWERS: u64 = 100_000;
/// So many changes are remembered. More would mean that it cannot be told what is new.
const CHANGES: usize = 1_000_000;
const SHARDS: usize = 64;
/// After an error.
const AGAIN: Duration = Duration::from_secs(1);

/// A ready answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedStatus {
    pub(crate) body: Bytes,
    pub(crate) channel: String,
    pub(crate) age: Version,
    /// The provider was asked for it, not only the ledger.
    pub(crate) is_asked: bool,
    /// The provider could not be asked.
    pub(crate) is_stale: bool,
}

pub(crate) struct StatusCache {
    /// Which orders there are.
    pub(crate) orders: Orders,
    /// Each with the end of its life. Put there and taken away under its shard's lock; whoever looks needs none.
    answers: Cache<RecordKey, (Arc<CachedStatus>, Instant)>,
    shards: Vec<Mutex<Shard>>,
    /// Chooses a name's shard. Its key is random, so that no merchant can fill one shard by its choice of order ids.
    hasher: RandomState,
    hearing: RwLock<Option<Hearing>>,
    /// Answers of other machines. Where there may be some, changes are remembered.
    shared: Option<RedisStatuses>,
}

/// That changes are heard of.
#[derive(Clone, Copy)]
struct Hearing {
    /// Since when there is none under way that was told before.
    since: Option<Instant>,
    /// Until when that is certain; `None`: always.
    until: Option<Instant>,
    /// Tells it from those before.
    began: Instant,
}

struct Shard {
    /// Changes with each change that is told.
    turn: u64,
    changes: GenerationalMap<Change>,
    /// Before then nothing is kept, because more happened than could be remembered.
    again: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Change {
    /// Between its two words, or for ever if the second never comes.
    UnderWay {
        to: Version,
        barred_until: Instant,
    },
    To(Version),
}

/// Taken before a record is read whose answer is to be kept.
#[derive(Clone, Copy)]
pub(crate) struct Token {
    turn: u64,
    pub(super) at: Instant,
}

impl StatusCache {
    /// With the Redis that machines share.
    pub(crate) fn new(redis: Option<Arc<Redis>>, now: Instant) -> Self {
        let shard = || Shard {
            turn: 0,
            changes: GenerationalMap::new(LONGEST + PROPAGATION_SLACK * 2, CHANGES / SHARDS, now),
            again: None,
        };
        Self {
            orders: Orders::default(),
            answers: Cache::builder().max_capacity(ANSWERS).time_to_live(LONGEST).build(),
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            hearing: RwLock::default(),
            shared: redis.map(RedisStatuses::new),
        }
    }

    /// The answer, if there is one that is good still.
    pub(crate) fn find(&self, name: RecordKey, now: Instant) -> Option<Arc<CachedStatus>> {
        self.hearing(now)?;
        self.answers.get(&name).filter(|(_, until)| now < *until).map(|(status, _)| status)
    }

    /// Taken before the ledger is asked.
    pub(crate) fn token(&self, name: RecordKey, now: Instant) -> Token {
        Token { turn: self.shard(name).lock().turn, at: now }
    }

    /// Keeps an answer for so long, unless it may be from before a change. Says whether.
    pub(crate) fn keep(
        &self,
        name: RecordKey,
        token: Token,
        status: Arc<CachedStatus>,
        life: Duration,
        now: Instant,
    ) -> bool {
        if self.hearing(now).is_none() {
            return false;
        }
        let shard = self.shard(name).lock();
        let is_barred = match shard.changes.get(&name) {
            Some(Change::UnderWay { barred_until, .. }) => now < *barred_until,
            _ => false,
        };
        if shard.turn != token.turn || is_barred || shard.again.is_some_and(|again| now < again) {
            return false;
        }
        self.answers.insert(name, (status, now + life.min(LONGEST)));
        true
    }

    /// Whether an answer of this age, which has been in Redis for so long, can be believed.
    pub(crate) fn is_current(&self, name: RecordKey, age: Version, lay: Duration, now: Instant) -> bool {
        let Some(since) = self.hearing(now) else { return false };
        if now.saturating_duration_since(since) < lay + PROPAGATION_SLACK {
            return false;
        }
        match self.shard(name).lock().changes.get(&name) {
            None => true,
            Some(Change::To(known)) => age >= *known,
            Some(Change::UnderWay { .. }) => false,
        }
    }

    /// Listens to the ledger from now on, and finds out which orders there are, until shutdown.
    pub(crate) async fn run(self: Arc<Self>, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
        if let Err(error) = ledger.listen(Arc::clone(&self) as Arc<dyn ChangeListener>) {
            tracing::error!(%error, "every status is read from the ledger");
            return;
        }
        let follow = async {
            loop {
                self.orders.wanted().await;
                while let Err(error) = self.catch_up(&ledger).await {
                    tracing::warn!(%error, "every status is read from the ledger for now");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        tokio::select! {
            () = follow => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    async fn catch_up(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let before = *self.hearing.read();
        ledger.quiesce().await?;
        if let Some(shared) = &self.shared
            && let Some(identity) = ledger.cluster_id().await?
        {
            shared.is_about(identity);
        }
        if let (Some(before), Some(hearing)) = (before, &mut *self.hearing.write())
            && before.began == hearing.began
        {
            hearing.since.get_or_insert(Instant::now());
        }
        self.orders.make(ledger).await
    }

    /// Whether what other machines know would be believed.
    pub(crate) fn is_sharing(&self) -> bool {
        let now = Instant::now();
        let since = self.shared.as_ref().filter(|shared| shared.is_ready()).and_then(|_| self.hearing(now));
        since.is_some_and(|since| now.saturating_duration_since(since) > PROPAGATION_SLACK)
    }

    #[cfg(test)]
    pub(super) fn pretend_hearing_since(&self, since: Instant) {
        if let Some(hearing) = &mut *self.hearing.write() {
            hearing.since = Some(since);
        }
    }

    /// Since when nothing went unheard, if that is so.
    fn hearing(&self, now: Instant) -> Option<Instant> {
        self.hearing.read().filter(|hearing| hearing.until.is_none_or(|until| now < until))?.since
    }

    fn shard(&self, RecordKey(name): RecordKey) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS]
    }

    /// What other machines know; waits for one that is asking.
    pub(crate) async fn elsewhere(&self, name: RecordKey, forced: bool) -> ClusterLookup {
        match &self.shared {
            Some(shared) if self.hearing(Instant::now()).is_some() => shared.elsewhere(self, name, forced).await,
            _ => ClusterLookup::Unavailable,
        }
    }

    /// Gives the others the answer for which this machine was to ask; none if it came to none.
    pub(crate) async fn tell(&self, name: RecordKey, flight: Flight, told: Option<(Token, &CachedStatus, Duration)>) {
        let Some(shared) = &self.shared else { return };
        match told {
            Some((token, status, life)) => shared.put(name, flight, token, status, life.min(LONGEST)).await,
            None => shared.end(name, flight).await,
        }
    }

    fn note(&self, name: RecordKey, now: Instant, change: impl FnOnce(Option<Change>) -> Change) {
        let mut shard = self.shard(name).lock();
        shard.turn += 1;
        self.answers.invalidate(&name);
        let change = change(shard.changes.get(&name).copied());
        if self.shared.is_none() && matches!(change, Change::To(_)) {
            // Nothing comes from elsewhere that could be older.
            return shard.changes.remove(&name);
        }
        if shard.changes.insert(name, change, now) {
            // Among what is forgotten may be what is still under way.
            self.answers.invalidate_all();
            shard.again = Some(now + INVALIDATION_HOLD);
            drop(shard);
            if let Some(Hearing { since: Some(since), .. }) = &mut *self.hearing.write() {
                *since = now;
            }
        }
    }

    fn changing_at(&self, changes: &Changes, now: Instant) {
        self.orders.born(&changes.inserted);
        self.orders.gone(&changes.deleted);
        for (name, to) in each(changes) {
            self.note(name, now, |_| Change::UnderWay { to, barred_until: now + INVALIDATION_HOLD });
        }
    }

    fn changed_at(&self, changes: &Changes, now: Instant) {
        for (name, age) in each(changes) {
            self.note(name, now, |known| match known {
                // The second words of two machines may come in any order, and behind the first word of the next change.
                Some(Change::To(known)) => Change::To(known.max(age)),
                Some(change @ Change::UnderWay { to, .. }) if age < to => change,
                _ => Change::To(age),
            });
        }
    }

    fn hears_at(&self, until: Option<Instant>, now: Instant) {
        let before = {
            let mut hearing = self.hearing.write();
            let known = hearing.unwrap_or(Hearing { since: None, until, began: now });
            hearing.replace(Hearing { until, ..known })
        };
        if before.is_none() {
            self.orders.subscribed();
        }
    }

    fn deaf_at(&self, now: Instant) {
        *self.hearing.write() = None;
        self.orders.disconnected();
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.turn += 1;
            shard.changes.clear(now);
        }
        self.answers.invalidate_all();
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
        self.hears_at(until, Instant::now());
    }

    fn disconnected(&self) {
        self.deaf_at(Instant::now());
    }
}

/// A map that forgets what is older than twice a period, and what is older than one when there is too much.
struct GenerationalMap<T> {
    young: HashMap<RecordKey, T>,
    old: HashMap<RecordKey, T>,
    turned: Instant,
    period: Duration,
    most: usize,
}

impl<T> GenerationalMap<T> {
    fn new(period: Duration, most: usize, now: Instant) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), turned: now, period, most: most.max(1) }
    }

    fn get(&self, name: &RecordKey) -> Option<&T> {
        self.young.get(name).or_else(|| self.old.get(name))
    }

    /// Says whether something was forgotten before its time.
    fn insert(&mut self, name: RecordKey, value: T, now: Instant) -> bool {
        let is_time = now.saturating_duration_since(self.turned) >= self.period;
        let is_full = self.young.len() >= self.most && !self.young.contains_key(&name);
        if is_time || is_full {
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
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
        self.turned = now;
    }
}

#[cfg(test)]
mod tests;
