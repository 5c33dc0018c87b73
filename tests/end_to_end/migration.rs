//! Migration from an embedded ledger to PostgreSQL, and every way back, which must be rejected.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{World, WorldOptions};
use crate::server::Server;

fn tollgate(world: &World, command: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("--conf").arg(world.conf()).args(command).output().unwrap()
}

/// Runs the gateway, which must exit at once, and returns its output.
fn failed_start(world: &World) -> String {
    let output = tollgate(world, &["run"]);
    assert!(!output.status.success());
    said(&output)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn replace(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn migrated_ledger_is_rejected_by_every_later_start() {
    let server = Server::start(&["--port"]);
    let mut world =
        World::with(WorldOptions { ledger: Some("path = \"../data\"".to_owned()), ..WorldOptions::default() }).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    world.gateway.kill();
    let file = world.conf().join("tollgate.toml");
    let postgres = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
    let data = world.dir.path().join("data").display().to_string();

    // PostgreSQL without a migration: the payment would be unknown there.
    replace(&file, "path = \"../data\"", &postgres);
    let why = failed_start(&world);
    assert!(why.contains("has no mark of a move") && why.contains("tollgate migrate"), "{why}");
    let moved = tollgate(&world, &["migrate", &data]);
    assert!(moved.status.success(), "{}", said(&moved));
    let again = tollgate(&world, &["migrate", &data]);
    assert!(!again.status.success() && said(&again).contains("was moved to PostgreSQL at"), "{}", said(&again));

    // After an error in any file, the previous generation names the old ledger.
    let typo = world.conf().join("merchants/typo.toml");
    std::fs::write(&typo, "keys = [\n").unwrap();
    let why = failed_start(&world);
    assert!(why.contains("typo.toml") && why.contains("could execute payments twice"), "{why}");
    std::fs::remove_file(&typo).unwrap();
    // The old ledger is configured again, for a gateway and for `check`.
    replace(&file, &postgres, "path = \"../data\"");
    assert!(failed_start(&world).contains("was moved to PostgreSQL at"));
    let checked = tollgate(&world, &["check"]);
    assert!(!checked.status.success() && said(&checked).contains("was moved to PostgreSQL at"), "{}", said(&checked));
    std::fs::remove_dir_all(world.dir.path().join("conf.generations")).unwrap();
    assert!(failed_start(&world).contains("was moved to PostgreSQL at"), "the mark in the ledger itself is enough");
    assert!(said(&tollgate(&world, &["explain", "o-1"])).contains("was moved to PostgreSQL at"));

    replace(&file, "path = \"../data\"", &postgres);
    world.start().await;
    let again = world.create("o-1", "k-1").await;
    assert!(again.status == 201 && again.is_replayed(), "{:?}", again.body);
    assert_eq!(world.provider_order("o-1").await["arrivals"]["create"], Value::from(1));
    world.gateway.kill();

    // Another database, or a recreated one, knows no payments.
    let (client, connection) = tokio_postgres::connect(&server.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("CREATE DATABASE other").await.unwrap();
    replace(&file, "/postgres\"", "/other\"");
    let why = failed_start(&world);
    assert!(
        why.contains("database other") && why.contains("is in use (another database, or one that was made anew)"),
        "{why}"
    );
    replace(&file, "/other\"", "/postgres\"");
    client.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    let why = failed_start(&world);
    assert!(why.contains("made anew") && why.contains("ledger.json"), "{why}");
    // A new embedded ledger knows no payments.
    replace(&file, &postgres, "path = \"../fresh\"");
    assert!(failed_start(&world).contains("is in use"));
    assert!(!world.dir.path().join("fresh").exists());
}
