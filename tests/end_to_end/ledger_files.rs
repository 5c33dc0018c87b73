//! Embedded ledger's files: missing, empty, damaged or removed.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{World, WorldOptions, until};

async fn world() -> World {
    World::with(WorldOptions { ledger: Some("path = \"../data\"".to_owned()), ..WorldOptions::default() }).await
}

fn data(world: &World) -> PathBuf {
    world.conf().with_file_name("data")
}

/// Starts a gateway that must exit at once, and returns its output.
async fn failed_start(world: &World) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["run", "--conf"]).arg(world.conf()).kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let ended = ended.expect("the gateway did not exit").unwrap();
    assert!(!ended.status.success());
    String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout)
}

#[tokio::test]
async fn missing_empty_or_replaced_ledger_is_rejected_until_restored() {
    let mut world = world().await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    world.gateway.kill();
    let (data, aside) = (data(&world), world.conf().with_file_name("aside"));
    std::fs::rename(&data, &aside).unwrap();
    let said = failed_start(&world).await;
    assert!(said.contains("holds no ledger") && said.contains("conf.generations/ledger.json"), "{said}");
    assert!(!data.exists());
    std::fs::create_dir(&data).unwrap();
    let said = failed_start(&world).await;
    assert!(said.contains("holds no ledger"), "{said}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    // An operator who wants an empty ledger removes the marker.
    let marker = world.conf().with_file_name("conf.generations").join("ledger.json");
    let known = std::fs::read(&marker).unwrap();
    std::fs::remove_file(&marker).unwrap();
    world.start().await;
    world.gateway.kill();
    std::fs::write(&marker, known).unwrap();
    let said = failed_start(&world).await;
    assert!(said.contains("holds another ledger"), "{said}");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    world.start().await;
    let again = world.create("o-1", "k-1").await;
    assert!(again.status == 201 && again.is_replayed());
}

#[tokio::test]
async fn corrupt_wal_is_rejected_at_start() {
    let mut world = world().await;
    for number in 0..5 {
        assert_eq!(world.create(&format!("o-{number}"), &format!("k-{number}")).await.status, 201);
    }
    world.gateway.kill();
    let file = data(&world).join("wal/0");
    let whole = std::fs::read(&file).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [3, used / 2, used] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        let said = failed_start(&world).await;
        assert!(said.contains("wal/0 at byte ") && said.contains("backup"), "{said}");
    }
    std::fs::write(&file, whole).unwrap();
    world.start().await;
    for number in 0..5 {
        assert!(world.create(&format!("o-{number}"), &format!("k-{number}")).await.is_replayed());
    }
}

#[tokio::test]
async fn removed_ledger_directory_stops_payments_and_readiness() {
    let world = world().await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    std::fs::remove_dir_all(data(&world)).unwrap();
    assert_eq!(world.create("o-2", "k-2").await.status, 503);
    until("the gateway is not ready", || async {
        let ready = world.admin_request("GET", "/readyz", &[]).await.status;
        (ready == 503).then_some(()).ok_or(ready)
    })
    .await;
    world.until_logged("removed, replaced or unmounted").await;
    assert_eq!(world.provider_order("o-2").await["arrivals"]["create"], serde_json::Value::Null);
}
