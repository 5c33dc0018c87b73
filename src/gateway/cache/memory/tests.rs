use super::super::mark;
use super::*;

const ALONE: Capacity = Capacity { total: 1_000_000, is_shared: false };

fn nonce(name: &str, end: u64) -> NonceMark {
    NonceMark { hash: mark("k", name), end }
}

/// Inserts a nonce; `wall` and `monotonic` are in seconds.
fn insert(nonces: &Nonces, mark: NonceMark, (wall, monotonic): (u64, u64)) -> Remembered {
    nonces.insert(mark, "shop", ALONE, (wall, Duration::from_secs(monotonic)))
}

fn count_stored(nonces: &Nonces) -> usize {
    nonces.shards.iter().map(|shard| shard.lock().seen.len()).sum()
}

#[test]
fn nonce_is_accepted_once_until_its_signature_ends() {
    let nonces = Nonces::default();
    assert_eq!(insert(&nonces, nonce("n", 1300), (1000, 0)), Remembered::First);
    assert_eq!(insert(&nonces, nonce("n", 1300), (1300, 300)), Remembered::Seen);
    assert_eq!(insert(&nonces, nonce("other", 1600), (1300, 300)), Remembered::First);
    for number in 0..200 {
        insert(&nonces, nonce(&number.to_string(), 2800), (2500, 1500));
    }
    assert_eq!(count_stored(&nonces), 200, "expired nonces are evicted");
}

#[test]
fn future_signature_is_remembered_until_it_ends_not_for_a_fixed_time() {
    let nonces = Nonces::default();
    // Signed 300 s ahead of the gateway's clock, so it is valid for 600 s.
    assert_eq!(insert(&nonces, nonce("n", 1600), (1000, 0)), Remembered::First);
    for number in 0..200 {
        insert(&nonces, nonce(&number.to_string(), 1900), (1600, 600));
    }
    assert_eq!(insert(&nonces, nonce("n", 1600), (1600, 600)), Remembered::Seen);
}

#[test]
fn clock_that_jumps_ahead_and_comes_back_forgets_no_nonce() {
    let nonces = Nonces::default();
    assert_eq!(insert(&nonces, nonce("n", 10_300), (10_000, 0)), Remembered::First);
    for number in 0..200 {
        insert(&nonces, nonce(&number.to_string(), 13_900), (13_600, 5));
    }
    assert_eq!(insert(&nonces, nonce("n", 10_300), (10_010, 10)), Remembered::Seen);
    assert_eq!(insert(&nonces, nonce("new", 10_310), (10_010, 10)), Remembered::First);
}

#[test]
fn clock_set_back_rejects_evicted_nonces() {
    let nonces = Nonces::default();
    assert_eq!(insert(&nonces, nonce("n", 10_300), (10_000, 0)), Remembered::First);
    for number in 0..200 {
        insert(&nonces, nonce(&number.to_string(), 11_800), (11_500, 1_500));
    }
    assert_eq!(count_stored(&nonces), 200);
    // An hour back: the signature is valid again.
    assert_eq!(insert(&nonces, nonce("n", 10_300), (10_000, 1_600)), Remembered::Forgotten);
    assert_eq!(insert(&nonces, nonce("new", 10_301), (10_001, 1_601)), Remembered::First);
}

#[test]
fn concurrent_duplicate_nonce_is_accepted_once() {
    let nonces = Nonces::default();
    let first = std::thread::scope(|scope| {
        let tries: Vec<_> =
            (0..8).map(|_| scope.spawn(|| insert(&nonces, nonce("n", 1600), (1000, 0)) == Remembered::First)).collect();
        tries.into_iter().map(|handle| handle.join().unwrap()).filter(|first| *first).count()
    });
    assert_eq!(first, 1);
}

#[test]
fn full_memory_rejects_and_leaves_room_for_other_merchants() {
    let nonces = Nonces::default();
    let shared = Capacity { total: 1_000, is_shared: true };
    let fill = |merchant: &str, now: u64| {
        let name = |number: usize| nonce(&format!("{merchant}-{now}-{number}"), 10_300 + now);
        (0..2_000)
            .filter(|number| {
                let now = (10_000 + now, Duration::from_secs(now));
                nonces.insert(name(*number), merchant, shared, now) == Remembered::First
            })
            .count()
    };
    assert_eq!([fill("a", 0), fill("b", 0), fill("c", 0)], [500, 250, 125], "there is always room for the next");
    assert!(nonces.overflow_logged.load(Ordering::Acquire));
    assert_eq!(fill("a", 1_000), 500, "evicted nonces make room");
}

#[test]
fn nonce_accepted_before_a_restart_is_rejected_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let open = |now| Nonces::open(directory.path(), now, 300).unwrap();
    let first = open(9_000);
    assert_eq!(first.remember(nonce("n", 10_300), "shop", ALONE, 10_000), Remembered::First);
    // Killed: the process writes nothing at its end.
    std::mem::forget(first);
    for now in [10_000, 10_001, 13_600, 10_002] {
        let next = open(now);
        assert_eq!(next.remember(nonce("n", 10_300), "shop", ALONE, now), Remembered::Seen, "{now}");
        let fresh = nonce(&format!("fresh-{now}"), now + 299);
        assert_eq!(next.remember(fresh, "shop", ALONE, now), Remembered::First, "signed before the start: {now}");
    }
    // The clock was set back to a time before the log began.
    let next = open(6_400);
    assert_eq!(next.remember(nonce("n", 10_300), "shop", ALONE, 6_400), Remembered::Seen);
    assert_eq!(next.remember(nonce("new", 6_700), "shop", ALONE, 6_400), Remembered::First);
}

#[test]
fn missing_log_rejects_signatures_from_before_the_start() {
    let directory = tempfile::tempdir().unwrap();
    for (number, at) in [directory.path().to_owned(), directory.path().join("new")].iter().enumerate() {
        let nonces = Nonces::open(at, 10_000, 300).unwrap();
        assert_eq!(insert(&nonces, nonce("captured", 10_299), (10_000, 0)), Remembered::Forgotten, "{number}");
        // Callers sign whole seconds, and the process started in the middle of one.
        assert_eq!(insert(&nonces, nonce("new", 10_300), (10_000, 0)), Remembered::First, "{number}");
    }
}

#[test]
fn start_with_a_wrong_clock_is_judged_by_the_corrected_clock() {
    let directory = tempfile::tempdir().unwrap();
    for wrong in [10_000 + 401 * 86_400, 6_400] {
        let at = directory.path().join(wrong.to_string());
        let opened = Nonces::open(&at, wrong, 300).unwrap();
        for nonces in [&opened, &Nonces::without_log(wrong, 300)] {
            // Two seconds later the clock is corrected.
            let now = (10_002, 2);
            assert_eq!(insert(nonces, nonce("captured", 10_290), now), Remembered::Forgotten, "{wrong}");
            assert_eq!(insert(nonces, nonce("new", 10_301), now), Remembered::First, "{wrong}");
        }
        drop(opened);
        let next = Nonces::open(&at, 10_010, 300).unwrap();
        assert_eq!(insert(&next, nonce("signed later", 10_310), (10_010, 0)), Remembered::First, "{wrong}: next start");
    }
    let nonces = Nonces::without_log(10_000, 300);
    assert_eq!(nonces.floor((10_600, Duration::from_secs(600))), 10_300);
    assert_eq!(
        nonces.floor((10_601, Duration::from_secs(601))),
        0,
        "no signature from before the start is valid any more"
    );
}

#[test]
fn store_without_log_rejects_signatures_from_before_the_start() {
    let nonces = Nonces::without_log(10_000, 300);
    assert_eq!(nonces.remember(nonce("n", 10_300), "shop", ALONE, 10_000), Remembered::Forgotten);
    assert_eq!(nonces.remember(nonce("m", 10_301), "shop", ALONE, 10_001), Remembered::First);
}
