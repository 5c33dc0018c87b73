//! Checkpoints: no row is lost on its way from the WAL to the tables.

use super::super::engine;
use super::backends::Tables;
use super::postgres_outage::until;
use super::*;

type Fixture = super::Fixture<Tables>;

impl Fixture {
    fn engine(&self) -> &Arc<embedded::Engine> {
        match &self.ledger.engine {
            engine::Engine::Embedded(engine) => engine,
            engine::Engine::Postgres(_) => panic!("it lies on the disk"),
        }
    }

    /// Creates this many payments with different results; the first is released.
    async fn fill(&self, from: usize, until: usize) {
        for number in from..until {
            let permit = self.run(&format!("k{number}"), pay(&format!("o{number}"))).await;
            match number % 4 {
                0 => self.ledger.release(permit).await.unwrap(),
                1 => drop(self.settle(permit, outcome(Status::Succeeded)).await),
                2 => drop(self.settle(permit, Update::Unknown(Reason::default())).await),
                _ => drop(self.settle(permit, Update::Declined(provider_error())).await),
            }
        }
    }

    async fn check(&self, count: usize) {
        self.check_each(count).await;
        assert_eq!(self.ledger.waiting().await.unwrap().unknown, ((count + 1) / 4) as u64);
        assert_eq!(self.due().await.len(), (count + 1) / 4);
    }

    async fn check_each(&self, count: usize) {
        for number in 0..count {
            let order = format!("o{number}");
            let status = self.ledger.payment("shop", &order).await.unwrap().map(|payment| payment.status);
            let wanted = [None, Some(Status::Succeeded), Some(Status::Unknown), Some(Status::Failed)];
            assert_eq!(status, wanted[number % 4], "{order}");
            let entries = self.ledger.timeline("shop", &order).await.unwrap().map_or(0, |(_, it)| it.entries.len());
            assert_eq!(entries > 0, status.is_some(), "{order}");
        }
    }
}

#[tokio::test]
async fn rows_across_many_wal_segments_have_their_last_value() {
    let mut fixture = Fixture::new();
    for round in 1..=3 {
        fixture.fill((round - 1) * 40, round * 40).await;
        fixture.check(round * 40).await;
        fixture = fixture.crash();
        fixture.check(round * 40).await;
    }
    let tables = std::fs::read_dir(fixture.backend.path().join("keyspaces")).unwrap();
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_dir(entry.unwrap().path().join("tables")).map_or(0, Iterator::count)
    };
    assert!(tables.map(size).sum::<usize>() > 13, "something was filed");
}

#[tokio::test]
async fn failed_checkpoint_is_repeated_by_the_next_start() {
    let fixture = Fixture::new();
    fixture.fill(0, 4).await;
    fixture.engine().failpoints().fail_next("checkpoint");
    let mut number = 4;
    while fixture.ledger.is_healthy() {
        let claimed =
            fixture.ledger.claim(claim_key(&format!("k{number}"), ""), pay(&format!("p{number}")), at(0)).await;
        if let Ok(ClaimResult::Run(permit)) = claimed {
            let _ = fixture.ledger.settle(permit, outcome(Status::Pending), at(1), answer).await;
        }
        number += 1;
    }
    let refused = fixture.ledger.claim(claim_key("k", ""), pay("k"), at(0)).await;
    assert!(matches!(refused, Err(LedgerError::SyncFailed { step: "a checkpoint failed", .. })), "{refused:?}");
    fixture.check(4).await;
    for fixture in [fixture.crash(), fixture.crash().crash()] {
        fixture.check_each(4).await;
        assert_eq!(fixture.payment("p4").await.status, Status::Pending);
        // The claim that was running at the failure still has its keys.
        fixture.fill(1000, 1040).await;
        fixture.check_each(4).await;
        assert_eq!(fixture.payment("o1037").await.status, Status::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoint_on_a_full_disk_is_retried_until_space_is_free() {
    let fixture = Fixture::new();
    fixture.engine().failpoints().fail_next_with_full_disk_at("checkpoint");
    fixture.engine().simulate_free(Some(RESERVE));
    for number in 0..500 {
        let order = format!("o{number}");
        match fixture.ledger.claim(claim_key(&order, ""), pay(&order), at(0)).await {
            Ok(claimed) => std::mem::forget(claimed),
            Err(_) => break,
        }
    }
    until("it is healthy", async || fixture.ledger.is_healthy()).await;
    for number in 0..40 {
        std::mem::forget(fixture.run(&format!("later{number}"), pay(&format!("later{number}"))).await);
    }
    let again = fixture.ledger.claim(claim_key("o0", ""), pay("o0"), at(0)).await.unwrap();
    assert!(matches!(again, ClaimResult::Running), "{again:?}");
    let after = fixture.crash();
    assert_eq!(after.payment("o0").await.status, Status::Unknown);
    assert_eq!(after.payment("later39").await.status, Status::Unknown);
}

/// Returns tables without a WAL, as if its directory had been removed.
fn without_its_log(fixture: &Fixture) -> Tables {
    let backend = fixture.backend.copy();
    std::fs::remove_dir_all(backend.path().join("wal")).unwrap();
    backend
}

#[tokio::test]
async fn tables_without_a_wal_are_rejected() {
    let fixture = Fixture::new();
    fixture.fill(0, 20).await;
    let backend = without_its_log(&fixture);
    let refusal = Ledger::open(backend.path()).err().unwrap().to_string();
    assert!(refusal.contains("wal/manifest") && refusal.contains("backup"), "{refusal}");
}
