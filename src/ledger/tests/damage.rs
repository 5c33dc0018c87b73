//! Damaged and missing files of a real ledger, tables included: a start is rejected, or everything is readable.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::engine;
use super::backends::{Backend, Tables};
use super::postgres_outage::until;
use super::*;

const PAYMENTS: usize = 12;

/// Returns a closed ledger with some rows in the tables and some in the WAL.
async fn closed() -> Tables {
    let fixture = super::Fixture::<Tables>::new();
    for number in 0..PAYMENTS {
        fixture.paid(&format!("o{number}")).await;
    }
    let fixture = fixture.crash();
    fixture.paid("late").await;
    let backend = fixture.backend.copy();
    drop(fixture);
    backend
}

fn open(backend: &Tables) -> Result<Ledger, LedgerError> {
    Ledger::open(backend.path())
}

/// Returns whether the damage was detected. Fails if a payment was lost silently.
async fn refused_or_whole(backend: &Tables, case: &str) -> bool {
    let Ok(ledger) = open(backend) else { return true };
    let mut noticed = false;
    for order in (0..PAYMENTS).map(|number| format!("o{number}")).chain(["late".to_owned()]) {
        match ledger.payment("shop", &order).await {
            Ok(found) => {
                assert_eq!(found.map(|found| found.status), Some(Status::Succeeded), "{case}: {order} is forgotten")
            }
            Err(_) => noticed = true,
        }
    }
    noticed
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(all_files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[tokio::test]
async fn missing_empty_or_corrupt_file_is_detected_or_harmless() {
    let backend = closed().await;
    let mut noticed = 0;
    for file in all_files(backend.path()) {
        let name = file.strip_prefix(backend.path()).unwrap().to_owned();
        let case = name.display().to_string();
        let copy = backend.copy();
        fs::remove_file(copy.path().join(&name)).unwrap();
        noticed += usize::from(refused_or_whole(&copy, &format!("{case} is missing")).await);
        let copy = backend.copy();
        fs::write(copy.path().join(&name), []).unwrap();
        noticed += usize::from(refused_or_whole(&copy, &format!("{case} is empty")).await);
        let length = fs::read(&file).unwrap().len().min(4096);
        for at in [0, length / 3, length / 2, length.saturating_sub(1)].into_iter().filter(|at| *at < length) {
            let copy = backend.copy();
            let mut bytes = fs::read(&file).unwrap();
            bytes[at] ^= 4;
            fs::write(copy.path().join(&name), bytes).unwrap();
            refused_or_whole(&copy, &format!("{case} at {at}")).await;
        }
    }
    assert!(noticed > 20, "{noticed}");
}

#[tokio::test]
async fn missing_tables_directory_is_rejected_before_any_change() {
    let backend = closed().await;
    for space in fs::read_dir(backend.path().join("keyspaces")).unwrap() {
        let name = space.unwrap().file_name();
        let copy = backend.copy();
        fs::remove_dir_all(copy.path().join("keyspaces").join(&name)).unwrap();
        let before = all_files(copy.path());
        let refusal = open(&copy).err().unwrap().to_string();
        assert!(refusal.contains("current is missing") && refusal.contains("backup"), "{refusal}");
        assert_eq!(all_files(copy.path()), before);
    }
}

#[tokio::test]
async fn corrupt_wal_is_rejected_with_file_and_position() {
    let backend = closed().await;
    let file = backend.path().join("wal/0");
    let mut bytes = fs::read(&file).unwrap();
    bytes[9] ^= 1;
    fs::write(&file, bytes).unwrap();
    let refusal = open(&backend).err().unwrap().to_string();
    assert!(refusal.contains("wal/0 at byte 0") && refusal.contains("backup"), "{refusal}");
}

#[tokio::test]
async fn interrupted_creation_is_completed_by_the_next_start() {
    let backend = Tables::new();
    drop(open(&backend).unwrap());
    // Before anything was written, at different points.
    for left in ["version", "keyspaces/3/current"] {
        let copy = backend.copy();
        fs::remove_dir_all(copy.path().join("wal")).unwrap();
        fs::remove_dir_all(copy.path().join("keyspaces")).unwrap();
        for name in ["lock", "version", "0.jnl"] {
            let _ = fs::remove_file(copy.path().join(name));
        }
        embedded::create_log(copy.path());
        let left = copy.path().join(left);
        fs::create_dir_all(left.parent().unwrap()).unwrap();
        fs::write(&left, "half").unwrap();
        fs::write(copy.path().join("0.jnl"), "").unwrap();
        let ledger = open(&copy).unwrap();
        ledger.claim(claim_key("k", ""), pay("o"), at(0)).await.unwrap();
    }
}

#[tokio::test]
async fn all_files_are_readable_by_the_owner_only() {
    let fixture = super::Fixture::<Tables>::new();
    for number in 0..40 {
        fixture.paid(&format!("o{number}")).await;
    }
    let backend = fixture.backend.copy();
    drop(fixture);
    let open_to_all = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    all_files(backend.path()).iter().for_each(|file| open_to_all(file, 0o644));
    for folder in ["", "wal", "keyspaces"] {
        open_to_all(&backend.path().join(folder), 0o755);
    }
    let fixture = super::Fixture { ledger: backend.open(), backend };
    for number in 40..80 {
        fixture.paid(&format!("o{number}")).await;
    }
    let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
    // Compaction may have removed a file meanwhile.
    let modes: Vec<_> =
        all_files(fixture.backend.path()).into_iter().filter_map(|file| Some((mode(&file).ok()?, file))).collect();
    assert!(modes.len() > 30 && modes.iter().all(|(mode, _)| mode & 0o077 == 0), "{modes:?}");
    for folder in ["", "wal", "keyspaces", "keyspaces/1/tables"] {
        assert_eq!(mode(&fixture.backend.path().join(folder)).unwrap(), 0o700, "{folder}");
    }
}

fn engine(ledger: &Ledger) -> &embedded::Engine {
    match &ledger.engine {
        engine::Engine::Embedded(engine) => engine,
        engine::Engine::Postgres(_) => panic!("it lies on the disk"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_removed_or_replaced_while_in_use_is_detected() {
    for is_removed in [true, false] {
        let fixture = super::Fixture::<Directory>::new();
        fixture.paid("o").await;
        let (path, aside) = (fixture.backend.path().to_owned(), tempfile::tempdir().unwrap());
        match is_removed {
            true => fs::remove_dir_all(path.join("wal")).unwrap(),
            false => fs::rename(path.join("wal"), aside.path().join("wal")).unwrap(),
        }
        // A transaction that comes at once is not acknowledged as durable.
        let claimed = fixture.ledger.claim(claim_key("k", ""), pay("p"), at(0)).await;
        assert!(claimed.is_err());
        assert!(!fixture.ledger.is_healthy());
        let refusal = engine(&fixture.ledger).refusal();
        assert!(refusal.contains("removed, replaced or unmounted"), "{refusal}");
    }
    // The same without any transaction.
    let fixture = super::Fixture::<Directory>::new();
    fs::remove_dir_all(fixture.backend.path()).unwrap();
    until("it is unhealthy", async || !fixture.ledger.is_healthy()).await;
    fs::create_dir(fixture.backend.path()).unwrap();
}
