//! Tests with a scripted resolver on a paused clock.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use super::*;

/// Resolver that answers from a list, repeating the last answer; hangs if there is none.
#[derive(Default)]
pub(in crate::upstream) struct Scripted {
    answers: Mutex<VecDeque<Option<Result<Resolved, String>>>>,
    asked: AtomicUsize,
    under_way: AtomicUsize,
}

impl Scripted {
    pub(in crate::upstream) fn says(&self, addresses: &[&str], seconds: u64) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.then(Some(Ok(Resolved { addresses, ttl: Duration::from_secs(seconds) })));
    }

    fn then(&self, answer: Option<Result<Resolved, String>>) {
        self.answers.lock().push_back(answer);
    }

    fn fails(&self) {
        self.then(Some(Err("SERVFAIL".to_owned())));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Resolver for Scripted {
    async fn look_up(&self, _: &str, _permit: OwnedSemaphorePermit) -> Result<Resolved, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let answer = {
            let mut answers = self.answers.lock();
            if answers.len() > 1 { answers.pop_front().flatten() } else { answers.front().cloned().flatten() }
        };
        match answer {
            Some(answer) => {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                answer
            }
            None => std::future::pending().await,
        }
    }
}

fn scripted() -> (Arc<Scripted>, DnsCache) {
    let script = Arc::new(Scripted::default());
    (Arc::clone(&script), DnsCache::new(script))
}

async fn addresses(name: &Arc<Name>) -> Result<Vec<String>, String> {
    let found = name.addresses(Instant::now() + Duration::from_secs(1)).await.map_err(|lost| lost.why)?;
    Ok(found.iter().map(IpAddr::to_string).collect())
}

/// Lets spawned tasks run.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn later(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn addresses_are_cached_for_their_ttl_and_removed_ones_are_not_used() {
    let (script, names) = scripted();
    script.says(&["192.0.2.1", "192.0.2.2"], 60);
    script.says(&["192.0.2.2", "192.0.2.3"], 60);
    let name = names.name("pay.example.com");
    assert!(Arc::ptr_eq(&name, &names.name("pay.example.com")), "one lookup serves all channels");
    name.refresh();
    settle().await;
    assert_eq!((name.known().len(), script.asked()), (2, 1), "before any payment");
    later(59).await;
    name.refresh();
    settle().await;
    assert_eq!((addresses(&name).await.unwrap(), script.asked()), (vec!["192.0.2.1".into(), "192.0.2.2".into()], 1));
    later(1).await;
    let at_once = addresses(&name).await.unwrap();
    assert_eq!(at_once, ["192.0.2.1", "192.0.2.2"], "no caller waits for a refresh");
    settle().await;
    assert_eq!((addresses(&name).await.unwrap(), script.asked()), (vec!["192.0.2.2".into(), "192.0.2.3".into()], 2));
}

#[tokio::test(start_paused = true)]
async fn last_good_addresses_are_used_while_lookups_fail() {
    let (script, names) = scripted();
    script.says(&["192.0.2.1"], 10);
    script.then(None);
    (0..3).for_each(|_| script.fails());
    script.says(&[], 10);
    script.says(&["192.0.2.9"], 10);
    let name = names.name("pay.example.com");
    assert_eq!(addresses(&name).await.unwrap(), ["192.0.2.1"]);
    // It hangs until the timeout, then fails with growing back-off, and once answers without addresses.
    for (wait, asked) in [(10, 2), (30, 2), (1, 3), (1, 3), (1, 4), (3, 4), (1, 5), (7, 5), (1, 6)] {
        later(wait).await;
        name.refresh();
        settle().await;
        assert_eq!((addresses(&name).await.unwrap(), script.asked()), (vec!["192.0.2.1".into()], asked));
    }
    later(16).await;
    name.refresh();
    settle().await;
    assert_eq!(addresses(&name).await.unwrap(), ["192.0.2.9"]);
}

#[tokio::test(start_paused = true)]
async fn only_the_first_lookup_is_awaited_and_callers_share_it() {
    let (script, names) = scripted();
    script.then(None);
    let name = names.name("pay.example.com");
    let started = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let name = Arc::clone(&name);
        waiting.spawn(async move { addresses(&name).await });
    }
    for answer in waiting.join_all().await {
        assert_eq!(answer.unwrap_err(), "the name server did not answer in time");
    }
    assert_eq!((started.elapsed(), script.asked()), (Duration::from_secs(1), 1));
}

#[tokio::test(start_paused = true)]
async fn recent_failure_is_returned_without_waiting() {
    let (script, names) = scripted();
    script.fails();
    let name = names.name("pay.example.com");
    assert_eq!(addresses(&name).await.unwrap_err(), "SERVFAIL");
    let started = Instant::now();
    assert_eq!(addresses(&name).await.unwrap_err(), "SERVFAIL");
    assert_eq!((started.elapsed(), script.asked()), (Duration::ZERO, 1));
    later(1).await;
    script.answers.lock().clear();
    script.says(&["192.0.2.1"], 10);
    assert_eq!(addresses(&name).await.unwrap(), ["192.0.2.1"], "then it is resolved again");
}

#[tokio::test(start_paused = true)]
async fn hanging_name_server_blocks_a_limited_number_of_lookups() {
    let (script, names) = scripted();
    script.then(None);
    let all: Vec<_> = (0..50).map(|number| names.name(&format!("{number}.example.com"))).collect();
    all.iter().for_each(Name::refresh);
    settle().await;
    assert_eq!(script.under_way.load(Ordering::SeqCst), MAX_LOOKUPS);
    drop(all);
    assert_eq!(
        names.names.lock().values().filter(|name| name.strong_count() > 0).count(),
        50,
        "they wait for a permit"
    );
}

#[tokio::test]
async fn system_resolver_resolves_localhost() {
    let name = DnsCache::system().name("localhost");
    assert!(addresses(&name).await.unwrap().iter().any(|address| address == "127.0.0.1" || address == "::1"));
}
