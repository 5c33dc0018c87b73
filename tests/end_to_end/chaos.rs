//! Short runs of `tollgate chaos`, one of them with a broker. Each takes little longer than the not-found grace, and both
//! mostly wait, so they share one test thread.

use std::process::Command;

use crate::redis::Redis;
use crate::server::Server;

/// With this seed 7 payments are refunded in a provider's console, 3 end as PAYERROR, 1 as PAYERROR after a charge. No scanned
/// code stays open, because that takes long and has its own test.
const SEED: &str = "20261266";

#[tokio::test]
async fn chaos_with_one_and_three_gateways_reconciles_without_duplicate_payment() {
    let (server, redis) = (Server::start(&["--port"]), Redis::start().await);
    let cache = format!("redis://{}", redis.address);
    let stores = ["--gateways", "3", "--postgres", &server.url, "--redis", &cache];
    let three = [&stores[..], &["--payments", "100", "--clients", "12", "--seed", "20261124"]].concat();
    let broker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/rabbitmq");
    let one = ["--payments", "250", "--clients", "12", "--seed", SEED, "--rabbitmq", broker];
    tokio::join!(run(&one), run(&three));
}

async fn run(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("chaos").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("the records agree"), "{printed}\n{said}");
}
