//! Full disk: nothing is sent, reads work, and writes resume once space is free.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::postgres_outage::until;
use super::*;

type Fixture = super::Fixture<Directory>;

#[tokio::test]
async fn nearly_full_disk_rejects_new_claims_and_completes_running_ones() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("k", pay("p")).await;
    let engine = fixture.engine().clone();
    engine.simulate_free(Some(RESERVE - 1));
    for intent in [pay("new"), refund_intent("o", "r", 10)] {
        let error = fixture.ledger.claim(claim_key("new", ""), intent, at(0)).await.unwrap_err();
        assert!(matches!(error, LedgerError::LowDiskSpace { reserve: RESERVE, .. }), "{error:?}");
        assert!(error.to_string().contains("256 MiB"), "{error}");
    }
    assert!(fixture.ledger.check_disk_space().is_err());
    assert_eq!(fixture.ledger.payment("shop", "new").await.unwrap(), None);
    // All other operations work.
    assert!(fixture.ledger.is_healthy());
    assert!(matches!(fixture.claim("pay o", pay("o")).await, ClaimResult::Replay(_)));
    assert!(matches!(fixture.claim("k", pay("p")).await, ClaimResult::Running));
    fixture.settle(permit, outcome(Status::Pending)).await;
    let paid = notification("e", "p", None, Outcome::of(Status::Succeeded));
    assert!(matches!(fixture.ledger.record("wechat", paid, at(2)).await.unwrap(), Recorded::Applied(_)));
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "payment.succeeded"]);
    engine.simulate_free(Some(RESERVE));
    fixture.run("new", pay("new")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_on_a_full_disk_blocks_writes_until_space_is_free() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let [held, lost] = [fixture.run("held", pay("held")).await, fixture.run("lost", pay("lost")).await];
    let engine = fixture.engine().clone();
    engine.simulate_free(Some(0));
    engine.failpoints().fail_next_with_full_disk();
    let settled = fixture.ledger.settle(lost, outcome(Status::Succeeded), at(1), answer).await;
    assert!(matches!(settled, Err(LedgerError::DiskFull { step: "a commit failed", .. })), "{settled:?}");
    assert!(!fixture.ledger.is_healthy());
    let refused = fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await;
    assert!(matches!(refused, Err(LedgerError::DiskFull { .. })), "nothing is written while it is full");
    assert!(fixture.ledger.claim(claim_key("new", ""), pay("new"), at(0)).await.is_err());
    assert_eq!(fixture.payment("o").await.status, Status::Succeeded, "reading goes on");
    engine.simulate_free(None);
    until("it is healthy", async || fixture.ledger.is_healthy()).await;
    // A permit stays valid. A claim whose end could not be written gets an inquiry.
    fixture.settle(held, outcome(Status::Succeeded)).await;
    until("the lost one is unknown", async || fixture.payment("lost").await.status == Status::Unknown).await;
    assert_eq!(fixture.due().await.len(), 1);
    fixture.run("new", pay("new")).await;
    let mut kinds = fixture.crash().kinds().await;
    kinds.sort();
    assert_eq!(kinds, ["payment.succeeded", "payment.succeeded", "payment.unknown", "payment.unknown"]);
}

/// Environment variable with the path of the small disk, in the process that has one.
const SMALL: &str = "TOLLGATE_SMALL_DISK";

/// Runs the test below in a process with a small disk of its own.
#[test]
fn small_disk_that_fills_up_loses_nothing_and_recovers() {
    const SCRIPT: &str = "mount -t tmpfs -o size=96m none \"$1\" || exit 77; \
        exec \"$2\" --exact tests::full_disk::ledger_on_a_full_small_disk_recovers --ignored --nocapture";
    let folder = tempfile::tempdir().unwrap();
    let mut inside = Command::new("unshare");
    inside.args(["-rm", "sh", "-c", SCRIPT, "sh"]).arg(folder.path()).arg(std::env::current_exe().unwrap());
    let may_mount = Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success());
    let said = may_mount.then(|| inside.env(SMALL, folder.path()).output().unwrap());
    match said.filter(|said| said.status.code() != Some(77)) {
        Some(said) => {
            let words = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
            assert!(said.status.success() && words.contains("1 passed"), "{words}");
        }
        None => eprintln!("this machine lets nobody mount a disk: not tried"),
    }
}

/// A file that fills the disk.
struct Filler(PathBuf);

impl Filler {
    /// Fills the disk until this much is free.
    fn leave(folder: &Path, least: u64) -> Self {
        let path = folder.join("filler");
        let mut file = File::create(&path).unwrap();
        while free(folder) >= least && file.write_all(&[1; 4096]).is_ok() {}
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn free(folder: &Path) -> u64 {
    let disk = rustix::fs::statvfs(folder).unwrap();
    disk.f_bavail * disk.f_frsize
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above, on a small disk"]
async fn ledger_on_a_full_small_disk_recovers() {
    let folder = PathBuf::from(std::env::var(SMALL).unwrap());
    with_a_reserve(&folder).await;
    without_a_reserve(&folder).await;
}

async fn begin(ledger: &Ledger, order: &str) -> Result<ClaimResult, LedgerError> {
    ledger.claim(claim_key(order, ""), pay(order), at(0)).await
}

fn permit(claimed: ClaimResult) -> ExecutionPermit {
    match claimed {
        ClaimResult::Run(permit) => permit,
        other => panic!("{other:?}"),
    }
}

async fn with_a_reserve(folder: &Path) {
    let reserve = 16 << 20;
    let ledger = Ledger::open_with(&folder.join("reserve"), reserve, environment()).unwrap();
    let under_way = permit(begin(&ledger, "under way").await.unwrap());
    let filler = Filler::leave(folder, reserve);
    // A moment ago there was room.
    until("there is no room", async || ledger.check_disk_space().is_err()).await;
    let refused = begin(&ledger, "new").await.unwrap_err();
    assert!(matches!(refused, LedgerError::LowDiskSpace { .. }) && refused.to_string().contains("16 MiB"), "{refused}");
    ledger.settle(under_way, outcome(Status::Succeeded), at(1), answer).await.unwrap();
    assert!(ledger.is_healthy());
    drop(filler);
    until("there is room", async || ledger.check_disk_space().is_ok()).await;
    permit(begin(&ledger, "new").await.unwrap());
}

async fn without_a_reserve(folder: &Path) {
    let path = folder.join("none");
    let ledger = Ledger::open_with(&path, 0, environment()).unwrap();
    let mut under_way = vec![permit(begin(&ledger, "first").await.unwrap())];
    let filler = Filler::leave(folder, 0);
    let (mut orders, mut refused) = (vec!["first".to_owned()], Vec::new());
    for number in 0..10_000 {
        let order = format!("o{number}");
        match begin(&ledger, &order).await {
            Ok(claimed) => {
                under_way.push(permit(claimed));
                orders.push(order);
            }
            Err(_) => refused.push(order),
        }
        if refused.len() == 5 {
            break;
        }
    }
    assert_eq!(refused.len(), 5, "the disk never was full");
    assert!(!ledger.is_healthy());
    assert_eq!(ledger.payment("shop", "first").await.unwrap().unwrap().status, Status::Pending, "reading goes on");
    drop(filler);
    until("it is healthy", async || ledger.is_healthy()).await;
    for permit in under_way {
        ledger.settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
    }
    // A rejected claim was not sent: it may run now, or it reached the disk after all and has an inquiry.
    for order in &refused {
        match begin(&ledger, order).await.unwrap() {
            ClaimResult::Run(permit) => ledger.release(permit).await.unwrap(),
            other => assert!(matches!(other, ClaimResult::AlreadyExists(_) | ClaimResult::Running), "{other:?}"),
        }
    }
    drop(ledger);
    let ledger = Ledger::open_with(&path, 0, environment()).unwrap();
    for order in orders {
        assert_eq!(ledger.payment("shop", &order).await.unwrap().unwrap().status, Status::Succeeded, "{order}");
    }
}
