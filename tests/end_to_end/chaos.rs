//! Short runs of `tollgate chaos`; the long ones are made by hand. Each lasts little longer than the settle window.

use std::process::Command;

use crate::redis::Redis;
use crate::server::Server;

#[tokio::test]
async fn while_everything_goes_wrong_nothing_is_sent_twice_and_the_books_agree() {
    run(&["--payments", "400", "--clients", "12", "--seed", "20261123"]).await;
}

#[tokio::test]
async fn three_gateways_whose_stores_come_and_go_send_nothing_twice_and_the_books_agree() {
    let (server, redis) = (Server::start(&["--port"]), Redis::start().await);
    let cache = format!("redis://{}", redis.address);
    let stores = ["--gateways", "3", "--postgres", &server.url, "--redis", &cache];
    run(&[&stores[..], &["--payments", "150", "--clients", "12", "--seed", "20261124"]].concat()).await;
}

async fn run(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("chaos").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("the books agree"), "{printed}\n{said}");
}
