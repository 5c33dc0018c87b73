//! Answers, changes and who hears of them, on a clock that the test moves.
#![allow(clippy::unwrap_used, clippy::panic)]

use tollgate_plugins::payment::{Outcome, Status as Came};

use super::*;
use crate::cache::testing::{claim, name, subject};
use crate::ledger::{Answer, RecordId, Update};

const SECOND: Duration = Duration::from_secs(1);

/// Hears of everything, with nothing under way.
fn hearing(is_shared: bool, now: Instant) -> StatusCache {
    let statuses = StatusCache::new(is_shared.then(no_redis), now);
    statuses.hears_at(None, now);
    settle(&statuses, now);
    statuses
}

/// Never asked.
fn no_redis() -> Arc<Redis> {
    let url = crate::cache::RedisUrl::new(tollgate_plugins::secret::Secret::new("redis://127.0.0.1:1")).unwrap();
    Arc::new(Redis::new(&url))
}

fn settle(statuses: &StatusCache, now: Instant) {
    statuses.pretend_hearing_since(now);
}

fn answer(version: u64) -> Arc<CachedStatus> {
    let body = Bytes::from(format!("version {version}"));
    Arc::new(CachedStatus { body, channel: "main".to_owned(), age: age(version), is_asked: true, is_stale: false })
}

fn age(version: u64) -> Version {
    Version { created: 1000, version }
}

fn became(order: &str, version: u64) -> Changes {
    Changes { updated: vec![(name(order), age(version))], ..Changes::default() }
}

fn keep(statuses: &StatusCache, order: &str, version: u64, life: Duration, now: Instant) -> bool {
    statuses.keep(name(order), statuses.token(name(order), now), answer(version), life, now)
}

#[test]
fn an_answer_is_kept_as_long_as_it_is_good_and_for_nobody_else() {
    let start = Instant::now();
    let statuses = hearing(false, start);
    assert!(keep(&statuses, "o", 1, 2 * SECOND, start));
    assert_eq!(statuses.find(name("o"), start + SECOND), Some(answer(1)));
    assert_eq!(statuses.find(name("o"), start + 2 * SECOND), None);
    let of_another = RecordKey::of(&RecordId { merchant: "other".to_owned(), ..subject("o") });
    assert_eq!(statuses.find(of_another, start), None);
    assert!(keep(&statuses, "o", 1, Duration::MAX, start));
    assert_eq!(statuses.find(name("o"), start + LONGEST), None, "nothing is good for ever");
}

#[test]
fn what_changes_goes_at_the_first_word_and_nothing_is_kept_until_the_second() {
    let start = Instant::now();
    let statuses = hearing(false, start);
    assert!(keep(&statuses, "o", 1, LONGEST, start));
    statuses.changing_at(&became("o", 2), start);
    assert_eq!(statuses.find(name("o"), start), None);
    assert!(!keep(&statuses, "o", 1, LONGEST, start), "it may be read from before the change");
    assert!(keep(&statuses, "other", 1, LONGEST, start));
    statuses.changed_at(&became("o", 2), start);
    assert!(keep(&statuses, "o", 2, LONGEST, start));
    assert_eq!(statuses.find(name("o"), start), Some(answer(2)));
    // The second word never comes: whoever was to say it died.
    statuses.changing_at(&became("o", 3), start);
    assert!(!keep(&statuses, "o", 2, LONGEST, start + INVALIDATION_HOLD - SECOND));
    assert!(keep(&statuses, "o", 2, LONGEST, start + INVALIDATION_HOLD));
}

#[test]
fn a_second_word_does_not_end_the_change_after_it() {
    let start = Instant::now();
    let statuses = hearing(false, start);
    statuses.changing_at(&became("o", 2), start);
    statuses.changing_at(&became("o", 3), start);
    statuses.changed_at(&became("o", 2), start);
    assert!(!keep(&statuses, "o", 2, LONGEST, start), "the third is under way");
    statuses.changed_at(&became("o", 3), start);
    assert!(keep(&statuses, "o", 3, LONGEST, start));
}

#[test]
fn what_was_read_before_a_change_is_not_kept_after_it() {
    let start = Instant::now();
    let statuses = hearing(false, start);
    let token = statuses.token(name("o"), start);
    statuses.changing_at(&became("o", 2), start);
    statuses.changed_at(&became("o", 2), start);
    assert!(!statuses.keep(name("o"), token, answer(1), LONGEST, start));
    assert_eq!(statuses.find(name("o"), start), None);
}

#[test]
fn who_does_not_hear_keeps_nothing() {
    let start = Instant::now();
    let statuses = StatusCache::new(None, start);
    assert!(!keep(&statuses, "o", 1, LONGEST, start));
    statuses.hears_at(Some(start + 3 * SECOND), start);
    assert!(!keep(&statuses, "o", 1, LONGEST, start), "something may be under way still");
    settle(&statuses, start);
    assert!(keep(&statuses, "o", 1, LONGEST, start));
    assert_eq!(statuses.find(name("o"), start + 3 * SECOND), None, "nobody answered for three seconds");
    statuses.hears_at(Some(start + 9 * SECOND), start + 4 * SECOND);
    assert_eq!(statuses.find(name("o"), start + 4 * SECOND), Some(answer(1)), "it was only late");
    statuses.deaf_at(start + 5 * SECOND);
    statuses.hears_at(Some(start + 9 * SECOND), start + 5 * SECOND);
    settle(&statuses, start + 5 * SECOND);
    assert_eq!(statuses.find(name("o"), start + 5 * SECOND), None, "it may have changed unheard");
}

#[test]
fn an_answer_from_elsewhere_is_believed_by_who_would_know_better() {
    let start = Instant::now();
    let statuses = hearing(true, start);
    let now = start + 60 * SECOND;
    let believes = |version, lay| statuses.is_current(name("o"), age(version), lay, now);
    assert!(believes(1, 57 * SECOND));
    assert!(!believes(1, 59 * SECOND), "it lay there before this machine heard anything");
    statuses.changing_at(&became("o", 2), now);
    assert!(!believes(1, SECOND) && !believes(2, SECOND), "nobody knows");
    statuses.changed_at(&became("o", 2), now);
    assert!(!believes(1, SECOND) && believes(2, SECOND) && believes(3, SECOND));
    statuses.changed_at(&became("o", 1), now);
    assert!(!believes(1, SECOND), "an older word takes nothing back");
    // As long as an answer may lie there, the change is remembered.
    let later = now + LONGEST + PROPAGATION_SLACK;
    assert!(!statuses.is_current(name("o"), age(1), LONGEST, later));
    statuses.changed_at(&Changes { deleted: vec![name("o")], ..Changes::default() }, later);
    assert!(!statuses.is_current(name("o"), age(9), SECOND, later));
}

#[test]
fn who_cannot_remember_all_changes_believes_less_and_keeps_nothing() {
    let start = Instant::now();
    let statuses = hearing(true, start);
    for shard in &statuses.shards {
        shard.lock().changes.most = 2;
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
    let kept = |at| statuses.keep(first, statuses.token(first, at), answer(3), LONGEST, at);
    assert!(kept(now) && statuses.is_current(first, age(2), SECOND, now));
    statuses.changed_at(&in_one_shard(three), now);
    assert_eq!(statuses.find(first, now), None);
    assert!(!kept(now) && !statuses.is_current(first, age(2), SECOND, now));
    assert!(kept(now + INVALIDATION_HOLD));
}

#[test]
fn it_stays_small() {
    let start = Instant::now();
    let statuses = hearing(false, start);
    let mut number = 0_u64;
    let mut some = |count: u64, now| {
        for _ in 0..count {
            number += 1;
            assert!(keep(&statuses, &number.to_string(), 1, LONGEST, now));
        }
    };
    some(2 * ANSWERS, start);
    statuses.answers.run_pending_tasks();
    assert!(statuses.answers.entry_count() <= ANSWERS, "{}", statuses.answers.entry_count());
}

#[tokio::test]
async fn everything_that_changes_a_record_in_the_ledger_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let statuses = Arc::new(StatusCache::new(None, Instant::now()));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&statuses).run(ledger.clone(), stopped));
    while !statuses.orders.is_unknown(name("none")) {
        tokio::task::yield_now().await;
    }
    let mut ticket = claim(&ledger, "o").await;
    assert!(!statuses.orders.is_unknown(name("o")));
    let kept = |version| keep(&statuses, "o", version, LONGEST, Instant::now());
    let is_kept = || statuses.find(name("o"), Instant::now()).is_some();
    let now = crate::clock::now();

    assert!(kept(1) && is_kept());
    let payment = ledger.payment("shop", "o").await.unwrap().unwrap();
    let to = crate::ledger::Destination {
        channel: "b".into(),
        account: payment.account,
        expires_at: None,
        public_url: String::new(),
    };
    ledger.reroute(&mut ticket, to, now).await.unwrap();
    assert!(!is_kept(), "moved");

    assert!(kept(2));
    let done = |_: &crate::ledger::Record| Answer { status: 201, content_type: String::new(), body: String::new() };
    ledger.settle(ticket, Update::Outcome(Outcome::of(Came::Pending)), now, done).await.unwrap();
    assert!(!is_kept(), "settled");

    assert!(kept(3));
    ledger.save_inquiry(&subject("o"), None).await.unwrap();
    assert!(is_kept(), "what no merchant sees is no change");
    ledger.apply(&subject("o"), Update::Outcome(Outcome::of(Came::Succeeded)), now).await.unwrap();
    assert!(!is_kept(), "the provider's word");

    let given_back = claim(&ledger, "p").await;
    assert!(keep(&statuses, "p", 1, LONGEST, Instant::now()));
    ledger.release(given_back).await.unwrap();
    assert!(statuses.find(name("p"), Instant::now()).is_none(), "as if it had never been");
    stop.send_replace(true);
    running.await.unwrap();
}
