//! Ledger on a full disk, as merchants see it.

use crate::harness::World;

/// Restarts the gateway with this `min_free_disk` line.
async fn keep_free(world: &mut World, reserve: &str) {
    world.gateway.kill();
    let file = world.conf().join("tollgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let rest = text.split_once("[ledger]\n").unwrap();
    let after = rest.1.trim_start_matches("min_free_disk = \"8000000GiB\"\n");
    std::fs::write(&file, format!("{}[ledger]\n{reserve}{after}", rest.0)).unwrap();
    world.start().await;
}

#[tokio::test]
async fn full_disk_rejects_payments_serves_reads_then_recovers() {
    let mut world = World::new().await;
    let first = world.create("o-1", "k-1").await;
    assert_eq!(first.status, 201);
    keep_free(&mut world, "min_free_disk = \"8000000GiB\"\n").await;
    let refused = world.create("o-2", "k-2").await;
    let said = refused.json();
    assert_eq!((refused.status, said["code"].as_str()), (503, Some("ledger_unavailable")));
    assert_eq!((said["money_state"].as_str(), said["retryable"].as_str()), (Some("not_sent"), Some("same_key")));
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(world.provider_order("o-2").await["arrivals"]["create"], serde_json::Value::Null);
    assert!(world.metrics().await.contains("\ntollgate_ledger_accepts_writes 0\n"));
    // Existing payments are still returned, and notifications still recorded.
    let again = world.create("o-1", "k-1").await;
    assert!(again.status == 201 && again.is_replayed() && again.body == first.body);
    world.pay("o-1").await;
    world.until_status("o-1", "succeeded").await;
    keep_free(&mut world, "").await;
    assert_eq!(world.create("o-2", "k-2").await.status, 201);
    assert!(world.metrics().await.contains("\ntollgate_ledger_accepts_writes 1\n"));
}
