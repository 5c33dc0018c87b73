//! Short runs of `tollgate chaos`; the long ones are made by hand. Each lasts little longer than the settle window, and both
//! mostly wait: together they occupy one test thread.

use std::process::Command;

use crate::redis::Redis;
use crate::server::Server;

/// Payments of this run that are refunded in a provider's console 7, PAYERROR 3, PAYERROR but charged 1. No scanned code is left
/// open for ever, which lasts long and has a test of its own.
const SEED: &str = "20261266";

#[tokio::test]
async fn chaos_with_one_and_three_gateways_reconciles_without_duplicate_payment() {
    let (server, redis) = (Server::start(&["--port"]), Redis::start().await);
    let cache = format!("redis://{}", redis.address);
    let stores = ["--gateways", "3", "--postgres", &server.url, "--redis", &cache];
    let three = [&stores[..], &["--payments", "100", "--clients", "12", "--seed", "20261124"]].concat();
    tokio::join!(run(&["--payments", "250", "--clients", "12", "--seed", SEED]), run(&three));
}

async fn run(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("chaos").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("the books agree"), "{printed}\n{said}");
}
