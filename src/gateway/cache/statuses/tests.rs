//! Tests of the status cache and of change notifications, on a simulated clock.
#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use tollgate_ledger::{Answer, RecordId, Update};
use tollgate_plugins::payment::{Outcome, Status as Came};

use super::*;
use crate::cache::testing::{claim, name, subject};

const SECOND: Duration = Duration::from_secs(1);

/// Returns a cache that receives all changes, with no transaction in progress.
fn subscribed_cache(is_shared: bool, now: Instant) -> StatusCache {
    let statuses = StatusCache::new(is_shared.then(no_redis), now);
    statuses.subscribed_at(None, now);
    settle(&statuses, now);
    statuses
}

/// Returns a Redis client that is never used.
fn no_redis() -> Arc<Redis> {
    let url = tollgate_config::RedisUrl::new(tollgate_plugins::secret::Secret::new("redis://127.0.0.1:1"));
    Arc::new(Redis::new(&url))
}

fn settle(statuses: &StatusCache, now: Instant) {
    statuses.pretend_subscribed_since(now);
}

fn answer(version: u64) -> Arc<CachedStatus> {
    let body = Bytes::from(format!("version {version}"));
    Arc::new(CachedStatus {
        body,
        channel: "main".to_owned(),
        age: age(version),
        is_from_provider: true,
        is_stale: false,
    })
}

fn age(version: u64) -> Version {
    Version { created: 1000, version }
}

fn became(order: &str, version: u64) -> Changes {
    Changes { updated: vec![(name(order), age(version))], ..Changes::default() }
}

fn insert(statuses: &StatusCache, order: &str, version: u64, life: Duration, now: Instant) -> bool {
    statuses.insert(name(order), statuses.token(name(order), now), answer(version), life, now)
}

#[test]
fn status_is_cached_for_its_lifetime_and_for_one_merchant_only() {
    let start = Instant::now();
    let statuses = subscribed_cache(false, start);
    assert!(insert(&statuses, "o", 1, 2 * SECOND, start));
    assert_eq!(statuses.find(name("o"), start + SECOND), Some(answer(1)));
    assert_eq!(statuses.find(name("o"), start + 2 * SECOND), None);
    let of_another = RecordKey::of(&RecordId { merchant: "other".to_owned(), ..subject("o") });
    assert_eq!(statuses.find(of_another, start), None);
    assert!(insert(&statuses, "o", 1, Duration::MAX, start));
    assert_eq!(statuses.find(name("o"), start + MAX_STATUS_TTL), None, "nothing is good for ever");
}

#[test]
fn announced_change_evicts_and_blocks_caching_until_confirmed() {
    let start = Instant::now();
    let statuses = subscribed_cache(false, start);
    assert!(insert(&statuses, "o", 1, MAX_STATUS_TTL, start));
    statuses.changing_at(&became("o", 2), start);
    assert_eq!(statuses.find(name("o"), start), None);
    assert!(!insert(&statuses, "o", 1, MAX_STATUS_TTL, start), "it may be read from before the change");
    assert!(insert(&statuses, "other", 1, MAX_STATUS_TTL, start));
    statuses.changed_at(&became("o", 2), start);
    assert!(insert(&statuses, "o", 2, MAX_STATUS_TTL, start));
    assert_eq!(statuses.find(name("o"), start), Some(answer(2)));
    // The confirmation never arrives, because the machine died.
    statuses.changing_at(&became("o", 3), start);
    assert!(!insert(&statuses, "o", 2, MAX_STATUS_TTL, start + INVALIDATION_HOLD - SECOND));
    assert!(insert(&statuses, "o", 2, MAX_STATUS_TTL, start + INVALIDATION_HOLD));
}

#[test]
fn late_confirmation_does_not_end_the_next_change() {
    let start = Instant::now();
    let statuses = subscribed_cache(false, start);
    statuses.changing_at(&became("o", 2), start);
    statuses.changing_at(&became("o", 3), start);
    statuses.changed_at(&became("o", 2), start);
    assert!(!insert(&statuses, "o", 2, MAX_STATUS_TTL, start), "the third is under way");
    statuses.changed_at(&became("o", 3), start);
    assert!(insert(&statuses, "o", 3, MAX_STATUS_TTL, start));
}

#[test]
fn status_read_before_a_change_is_not_cached_after_it() {
    let start = Instant::now();
    let statuses = subscribed_cache(false, start);
    let token = statuses.token(name("o"), start);
    statuses.changing_at(&became("o", 2), start);
    statuses.changed_at(&became("o", 2), start);
    assert!(!statuses.insert(name("o"), token, answer(1), MAX_STATUS_TTL, start));
    assert_eq!(statuses.find(name("o"), start), None);
}

#[test]
fn nothing_is_cached_without_a_subscription() {
    let start = Instant::now();
    let statuses = StatusCache::new(None, start);
    assert!(!insert(&statuses, "o", 1, MAX_STATUS_TTL, start));
    statuses.subscribed_at(Some(start + 3 * SECOND), start);
    assert!(!insert(&statuses, "o", 1, MAX_STATUS_TTL, start), "a transaction may still be in progress");
    settle(&statuses, start);
    assert!(insert(&statuses, "o", 1, MAX_STATUS_TTL, start));
    assert_eq!(statuses.find(name("o"), start + 3 * SECOND), None, "the connection was silent for three seconds");
    statuses.subscribed_at(Some(start + 9 * SECOND), start + 4 * SECOND);
    assert_eq!(statuses.find(name("o"), start + 4 * SECOND), Some(answer(1)), "the message was only late");
    statuses.disconnected_at(start + 5 * SECOND);
    statuses.subscribed_at(Some(start + 9 * SECOND), start + 5 * SECOND);
    settle(&statuses, start + 5 * SECOND);
    assert_eq!(statuses.find(name("o"), start + 5 * SECOND), None, "a change may have been missed");
}

#[test]
fn redis_status_is_used_only_if_any_change_would_be_known() {
    let start = Instant::now();
    let statuses = subscribed_cache(true, start);
    let now = start + 60 * SECOND;
    let is_used = |version, lay| statuses.is_current(name("o"), age(version), lay, now);
    assert!(is_used(1, 57 * SECOND));
    assert!(!is_used(1, 59 * SECOND), "it was stored before this machine subscribed");
    statuses.changing_at(&became("o", 2), now);
    assert!(!is_used(1, SECOND) && !is_used(2, SECOND), "the change is not confirmed");
    statuses.changed_at(&became("o", 2), now);
    assert!(!is_used(1, SECOND) && is_used(2, SECOND) && is_used(3, SECOND));
    statuses.changed_at(&became("o", 1), now);
    assert!(!is_used(1, SECOND), "an older confirmation changes nothing");
    // The change is retained as long as an older status may be stored in Redis.
    let later = now + MAX_STATUS_TTL + PROPAGATION_SLACK;
    assert!(!statuses.is_current(name("o"), age(1), MAX_STATUS_TTL, later));
    statuses.changed_at(&Changes { deleted: vec![name("o")], ..Changes::default() }, later);
    assert!(!statuses.is_current(name("o"), age(9), SECOND, later));
}

#[test]
fn overflow_of_retained_changes_blocks_caching_and_redis_statuses() {
    let start = Instant::now();
    let statuses = subscribed_cache(true, start);
    for shard in &statuses.shards {
        shard.lock().changes.capacity = 2;
    }
    let now = start + 60 * SECOND;
    let first = RecordKey([0; 16]);
    let is_with_first = |name: &RecordKey| std::ptr::eq(statuses.shard(*name), statuses.shard(first));
    let names = (0..10_000u128).map(|number| RecordKey(number.to_be_bytes())).filter(is_with_first);
    let [one, two, three] = names.take(3).collect::<Vec<_>>()[..] else { panic!("a shard has its part of the names") };
    let in_one_shard = |name: RecordKey| Changes { updated: vec![(name, age(2))], ..Changes::default() };
    for name in [one, two] {
        statuses.changed_at(&in_one_shard(name), now);
    }
    let kept = |at| statuses.insert(first, statuses.token(first, at), answer(3), MAX_STATUS_TTL, at);
    assert!(kept(now) && statuses.is_current(first, age(2), SECOND, now));
    statuses.changed_at(&in_one_shard(three), now);
    assert_eq!(statuses.find(first, now), None);
    assert!(!kept(now) && !statuses.is_current(first, age(2), SECOND, now));
    assert!(kept(now + INVALIDATION_HOLD));
}

#[test]
fn number_of_cached_statuses_is_bounded() {
    let start = Instant::now();
    let statuses = subscribed_cache(false, start);
    let mut number = 0_u64;
    let mut some = |count: u64, now| {
        for _ in 0..count {
            number += 1;
            assert!(insert(&statuses, &number.to_string(), 1, MAX_STATUS_TTL, now));
        }
    };
    some(2 * MAX_STATUSES, start);
    statuses.cached.run_pending_tasks();
    assert!(statuses.cached.entry_count() <= MAX_STATUSES, "{}", statuses.cached.entry_count());
}

#[tokio::test]
async fn every_visible_ledger_change_evicts_the_status() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let statuses = Arc::new(StatusCache::new(None, Instant::now()));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&statuses).run(ledger.clone(), Arc::clone(&statuses) as _, stopped));
    while !statuses.existence.is_unknown(name("none")) {
        tokio::task::yield_now().await;
    }
    let mut permit = claim(&ledger, "o").await;
    assert!(!statuses.existence.is_unknown(name("o")));
    let kept = |version| insert(&statuses, "o", version, MAX_STATUS_TTL, Instant::now());
    let is_kept = || statuses.find(name("o"), Instant::now()).is_some();
    let now = crate::clock::now();

    assert!(kept(1) && is_kept());
    let payment = ledger.payment("shop", "o").await.unwrap().unwrap();
    let to = tollgate_ledger::Destination {
        channel: "b".into(),
        account: payment.account,
        expires_at: None,
        public_url: String::new(),
    };
    ledger.reroute(&mut permit, to, now).await.unwrap();
    assert!(!is_kept(), "moved");

    assert!(kept(2));
    let done = |_: &tollgate_ledger::Record| Answer { status: 201, content_type: String::new(), body: String::new() };
    ledger.settle(permit, Update::Outcome(Outcome::of(Came::Pending)), now, done).await.unwrap();
    assert!(!is_kept(), "settled");

    assert!(kept(3));
    let loaded = tollgate_ledger::Inquiry::new(now);
    assert!(ledger.save_inquiry(&subject("o"), &loaded, None).await.unwrap());
    assert!(is_kept(), "an invisible change does not evict");
    ledger.apply(&subject("o"), Update::Outcome(Outcome::of(Came::Succeeded)), now).await.unwrap();
    assert!(!is_kept(), "a provider update evicts");

    let released = claim(&ledger, "p").await;
    assert!(insert(&statuses, "p", 1, MAX_STATUS_TTL, Instant::now()));
    ledger.release(released).await.unwrap();
    assert!(statuses.find(name("p"), Instant::now()).is_none(), "a released claim evicts");
    stop.send_replace(true);
    running.await.unwrap();
}
