//! Durability of the embedded ledger: group commit, failed syncs and panics.

use std::sync::mpsc;

use super::super::embedded::Engine;
use super::super::engine;
use super::super::transaction::Durability;
use super::*;

type Fixture = super::Fixture<Directory>;

impl Fixture {
    pub(super) fn engine(&self) -> &Arc<Engine> {
        match &self.ledger.engine {
            engine::Engine::Embedded(engine) => engine,
            engine::Engine::Postgres(_) => panic!("it lies on the disk"),
        }
    }
}

#[tokio::test]
async fn closed_ledger_reopens_unchanged() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let payment = fixture.payment("o").await;
    let Fixture { ledger, backend } = fixture;
    drop(ledger);
    let fixture = Fixture { ledger: backend.open(), backend };
    assert_eq!(fixture.payment("o").await, payment);
    assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn ledger_cannot_be_opened_twice_at_once() {
    let fixture = Fixture::new();
    assert!(Ledger::open(fixture.backend.path()).is_err());
}

/// Blocks the writer until the sender is dropped, so that a known number of transactions queues behind it.
async fn hold(engine: Arc<Engine>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    // Everything written before is synced by then.
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
    engine.failpoints().start_counting();
    (release, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_transactions_share_one_sync() {
    let fixture = Fixture::new();
    let (release, held) = hold(fixture.engine().clone()).await;
    let tasks = (0..64).map(|number| {
        let ledger = fixture.ledger.clone();
        tokio::spawn(async move {
            ledger.claim(claim_key(&format!("{number}"), ""), pay(&format!("o{number}")), at(0)).await.unwrap()
        })
    });
    let tasks: Vec<_> = tasks.collect();
    fixture.engine().failpoints().wait_for_submitted(64).await;
    let before = fixture.engine().failpoints().sizes().len();
    drop(release);
    held.await.unwrap();
    let mut permits = Vec::new();
    for task in tasks {
        permits.push(task.await.unwrap());
        assert!(matches!(permits.last(), Some(ClaimResult::Run(_))));
    }
    let sizes = fixture.engine().failpoints().sizes().split_off(before);
    assert!(sizes.iter().any(|size| *size >= 60) && sizes.len() <= 4, "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_transaction_shares_the_sync_of_a_later_one() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let (release, held) = hold(fixture.engine().clone()).await;
    let before = fixture.engine().failpoints().syncs();
    let (noting, changing) = (fixture.ledger.clone(), fixture.ledger.clone());
    let note = vec![TimelineEvent::ManualReview { why: "x".into() }];
    let noted = tokio::spawn(async move { noting.append_timeline(&of("o"), note, at(1)).await });
    fixture.engine().failpoints().wait_for_submitted(1).await;
    let changed = tokio::spawn(async move { changing.mismatch(&of("o"), at(2)).await });
    fixture.engine().failpoints().wait_for_submitted(2).await;
    drop(release);
    held.await.unwrap();
    noted.await.unwrap().unwrap();
    changed.await.unwrap().unwrap();
    assert_eq!(fixture.engine().failpoints().syncs(), before + 1, "what was noted went along with the change");
    let (_, timeline) = fixture.ledger.timeline("shop", "o").await.unwrap().unwrap();
    assert!(matches!(timeline.entries[3].what, TimelineEvent::ManualReview { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_batch_fails_all_its_transactions_permanently() {
    for step in ["commit", "sync"] {
        let fixture = Fixture::new();
        fixture.paid("o").await;
        let running = fixture.run("running", pay("running")).await;
        let (release, held) = hold(fixture.engine().clone()).await;
        let tasks = (0..8).map(|number| {
            let ledger = fixture.ledger.clone();
            tokio::spawn(async move {
                ledger.claim(claim_key(&format!("{number}"), ""), pay(&format!("{number}")), at(0)).await
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let settling = {
            let ledger = fixture.ledger.clone();
            tokio::spawn(async move { ledger.settle(running, outcome(Status::Pending), at(1), answer).await })
        };
        fixture.engine().failpoints().wait_for_submitted(9).await;
        fixture.engine().failpoints().fail_next(step);
        drop(release);
        held.await.unwrap();
        for task in tasks {
            assert!(task.await.unwrap().is_err(), "{step}: it must not send");
        }
        // Applied before the sync, so only a failed commit rolls it back.
        assert_eq!(settling.await.unwrap().is_ok(), step == "sync");
        assert!(!fixture.ledger.is_healthy());
        let later = fixture.ledger.claim(claim_key("later", ""), pay("later"), at(0)).await;
        assert!(matches!(later, Err(LedgerError::SyncFailed { .. })), "no second try: {later:?}");
        assert_eq!(fixture.payment("o").await.status, Status::Succeeded, "reading goes on");
    }
}

#[tokio::test]
async fn panic_in_a_transaction_returns_an_error() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    let settled = fixture.ledger.settle(permit, outcome(Status::Succeeded), at(1), |_| panic!("no answer")).await;
    assert!(matches!(settled, Err(LedgerError::Internal(why)) if why.contains("no answer")));
    assert!(!fixture.ledger.is_healthy());
    assert!(fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.is_err());
    assert_eq!(fixture.payment("o").await.status, Status::Pending, "nothing of it was written");
    // The next start finds the claim that was left.
    assert_eq!(fixture.crash().payment("o").await.status, Status::Unknown);
}

#[tokio::test]
async fn applied_writes_are_synced_soon_and_at_shutdown() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    let before = fixture.engine().failpoints().syncs();
    fixture.settle(permit, outcome(Status::Pending)).await;
    while fixture.engine().failpoints().syncs() == before {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let permit = fixture.run("last", pay("last")).await;
    let shared = fixture.engine().weak().upgrade().unwrap();
    let before = shared.failpoints().syncs();
    fixture.settle(permit, outcome(Status::Pending)).await;
    let Fixture { ledger, backend } = fixture;
    drop(ledger);
    assert_eq!(shared.failpoints().syncs(), before + 1);
    drop((shared, backend));
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_delivered_only_after_it_is_durable() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.engine().failpoints().fail_next("sync");
    fixture.ledger.settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
    assert_eq!(fixture.payment("o").await.status, Status::Succeeded, "it is seen already");
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 1);
    assert!(fixture.deliveries(at(10), 10).await.is_empty(), "a power cut would take it back");
}
