//! What a failing disk and a crowd leave of the embedded ledger.

use std::sync::mpsc;

use super::super::embedded::{Durability, Engine};
use super::super::engine;
use super::*;

type Bench = super::Fixture<Directory>;

impl Bench {
    pub(super) fn engine(&self) -> &Arc<Engine> {
        match &self.ledger.engine {
            engine::Engine::Embedded(engine) => engine,
            engine::Engine::Postgres(_) => panic!("it lies on the disk"),
        }
    }
}

#[tokio::test]
async fn a_ledger_that_was_closed_opens_as_it_was() {
    let bench = Bench::new();
    bench.paid("o").await;
    let payment = bench.payment("o").await;
    let Bench { ledger, place } = bench;
    drop(ledger);
    let bench = Bench { ledger: place.open(), place };
    assert_eq!(bench.payment("o").await, payment);
    assert_eq!(bench.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn two_at_once_may_not_open_it() {
    let bench = Bench::new();
    assert!(Ledger::open(bench.place.path()).is_err());
}

/// Keeps the thread busy until the sender is dropped, so that a known crowd gathers behind.
async fn hold(engine: Arc<Engine>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    // All that was written before is synced by then.
    engine.write(Durability::Durable, |_| Ok(())).await.unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (started, has_started) = tokio::sync::oneshot::channel();
    let held = engine.clone();
    let task = tokio::spawn(async move {
        let work = move |_: &mut super::super::transaction::Transaction<'_>| {
            let _ = started.send(());
            let _ = released.recv();
            Ok(())
        };
        held.write(Durability::Durable, work).await.unwrap();
    });
    has_started.await.unwrap();
    engine.hooks().start_counting();
    (release, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_shares_one_sync() {
    let bench = Bench::new();
    let (release, held) = hold(bench.engine().clone()).await;
    let tasks = (0..64).map(|number| {
        let ledger = bench.ledger.clone();
        tokio::spawn(async move {
            ledger.claim(claim_key(&format!("{number}"), ""), pay(&format!("o{number}")), at(0)).await.unwrap()
        })
    });
    let tasks: Vec<_> = tasks.collect();
    bench.engine().hooks().crowd(64).await;
    let before = bench.engine().hooks().sizes().len();
    drop(release);
    held.await.unwrap();
    let mut permits = Vec::new();
    for task in tasks {
        permits.push(task.await.unwrap());
        assert!(matches!(permits.last(), Some(ClaimResult::Run(_))));
    }
    let sizes = bench.engine().hooks().sizes().split_off(before);
    assert!(sizes.iter().any(|size| *size >= 60) && sizes.len() <= 4, "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_told_without_a_sync_of_its_own() {
    let bench = Bench::new();
    bench.paid("o").await;
    let (release, held) = hold(bench.engine().clone()).await;
    let before = bench.engine().hooks().syncs();
    let (noting, changing) = (bench.ledger.clone(), bench.ledger.clone());
    let note = vec![TimelineEvent::ManualReview { why: "x".into() }];
    let noted = tokio::spawn(async move { noting.append_timeline(&of("o"), note, at(1)).await });
    bench.engine().hooks().crowd(1).await;
    let changed = tokio::spawn(async move { changing.mismatch(&of("o"), at(2)).await });
    bench.engine().hooks().crowd(2).await;
    drop(release);
    held.await.unwrap();
    noted.await.unwrap().unwrap();
    changed.await.unwrap().unwrap();
    assert_eq!(bench.engine().hooks().syncs(), before + 1, "what was noted went along with the change");
    let (_, timeline) = bench.ledger.timeline("shop", "o").await.unwrap().unwrap();
    assert!(matches!(timeline.entries[3].what, TimelineEvent::ManualReview { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_fails_for_all_and_for_good() {
    for step in ["commit", "sync"] {
        let bench = Bench::new();
        bench.paid("o").await;
        let running = bench.run("running", pay("running")).await;
        let (release, held) = hold(bench.engine().clone()).await;
        let tasks = (0..8).map(|number| {
            let ledger = bench.ledger.clone();
            tokio::spawn(async move {
                ledger.claim(claim_key(&format!("{number}"), ""), pay(&format!("{number}")), at(0)).await
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let settling = {
            let ledger = bench.ledger.clone();
            tokio::spawn(async move { ledger.settle(running, outcome(Status::Pending), at(1), answer).await })
        };
        bench.engine().hooks().crowd(9).await;
        bench.engine().hooks().fail_next(step);
        drop(release);
        held.await.unwrap();
        for task in tasks {
            assert!(task.await.unwrap().is_err(), "{step}: it must not send");
        }
        // Applied before the sync, so that only a failing commit takes it back.
        assert_eq!(settling.await.unwrap().is_ok(), step == "sync");
        assert!(!bench.ledger.is_healthy());
        let later = bench.ledger.claim(claim_key("later", ""), pay("later"), at(0)).await;
        assert!(later.unwrap_err().to_string().contains("failed"), "no second try");
        assert_eq!(bench.payment("o").await.status, Status::Succeeded, "reading goes on");
    }
}

#[tokio::test]
async fn a_panic_inside_a_transaction_is_an_error_not_a_silence() {
    let bench = Bench::new();
    let permit = bench.run("k", pay("o")).await;
    let settled = bench.ledger.settle(permit, outcome(Status::Succeeded), at(1), |_| panic!("no answer")).await;
    assert!(settled.unwrap_err().to_string().contains("no answer"));
    assert!(!bench.ledger.is_healthy());
    assert!(bench.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.is_err());
    assert_eq!(bench.payment("o").await.status, Status::Pending, "nothing of it was written");
    // The next start finds the claim that was left.
    assert_eq!(bench.crash().payment("o").await.status, Status::Unknown);
}

#[tokio::test]
async fn what_nobody_waited_for_is_synced_soon_and_at_the_latest_at_the_end() {
    let bench = Bench::new();
    let permit = bench.run("k", pay("o")).await;
    let before = bench.engine().hooks().syncs();
    bench.settle(permit, outcome(Status::Pending)).await;
    while bench.engine().hooks().syncs() == before {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let permit = bench.run("last", pay("last")).await;
    let shared = bench.engine().weak().upgrade().unwrap();
    let before = shared.hooks().syncs();
    bench.settle(permit, outcome(Status::Pending)).await;
    let Bench { ledger, place } = bench;
    drop(ledger);
    assert_eq!(shared.hooks().syncs(), before + 1);
    drop((shared, place));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_out_when_it_is_on_the_disk_and_not_before() {
    let bench = Bench::new();
    let permit = bench.run("k", pay("o")).await;
    bench.engine().hooks().fail_next("sync");
    bench.ledger.settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
    assert_eq!(bench.payment("o").await.status, Status::Succeeded, "it is seen already");
    assert_eq!(bench.ledger.waiting().await.unwrap().deliveries, 1);
    assert!(bench.deliveries(at(10), 10).await.is_empty(), "a power cut would take it back");
}
