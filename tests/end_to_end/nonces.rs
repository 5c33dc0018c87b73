//! Nonces shared by several gateways in Redis.

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, SHOP, World, WorldOptions, send, signed_headers, until};
use crate::redis::Redis;

async fn world_with_redis(redis: &Redis) -> World {
    let server: &'static str = format!("[cache]\nkind = \"redis\"\nurl = \"plain:redis://{}\"", redis.address).leak();
    World::with(WorldOptions { server, ..WorldOptions::default() }).await
}

/// Sends a request with existing headers again.
async fn send_again(world: &World, headers: &[(&'static str, String)]) -> Answer {
    send("GET", &format!("http://{}/v1/payments/none", world.gateway.listen), headers, b"").await.unwrap()
}

fn sign_once() -> Vec<(&'static str, String)> {
    signed_headers(&SHOP, "GET", "/v1/payments/none", b"")
}

#[tokio::test]
async fn nonce_is_accepted_once_per_cluster_and_rejected_without_redis() {
    let mut redis = Redis::start().await;
    let (one, other) = (world_with_redis(&redis).await, world_with_redis(&redis).await);
    let headers = sign_once();
    assert_eq!(send_again(&one, &headers).await.status, StatusCode::NOT_FOUND, "let in");
    for world in [&one, &other] {
        let again = send_again(world, &headers).await;
        assert_eq!((again.status, &again.json()["code"]), (401, &Value::from("unauthorized")));
    }
    assert_eq!(send_again(&other, &sign_once()).await.status, StatusCode::NOT_FOUND, "a new nonce is accepted");

    redis.kill();
    let headers = sign_once();
    for world in [&one, &other] {
        let refused = send_again(world, &headers).await;
        let problem = refused.json();
        assert_eq!((refused.status, &problem["code"]), (503, &Value::from("cache_unavailable")), "{problem}");
        assert_eq!((&problem["money_state"], &problem["retryable"]), (&"not_sent".into(), &"same_key".into()));
    }
    redis.start_again().await;
    for world in [&one, &other] {
        assert_eq!(
            send_again(world, &sign_once()).await.status,
            StatusCode::NOT_FOUND,
            "the first request after the outage is accepted"
        );
    }
}

async fn redis_command(redis: &Redis, line: &str) -> String {
    let mut stream = TcpStream::connect(redis.address).await.unwrap();
    stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 512];
    let count = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

async fn until_ready(world: &World, is_ready: bool, why: &str) {
    until("/readyz reports the expected state", || async {
        let answer = world.admin_request("GET", "/readyz", &[]).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        ((answer.status == 200) == is_ready && said.contains(why)).then_some(()).ok_or(said)
    })
    .await;
}

#[tokio::test]
async fn gateway_is_not_ready_while_redis_is_unusable() {
    let mut redis = Redis::start().await;
    let world = world_with_redis(&redis).await;
    until_ready(&world, true, "ready").await;
    redis_command(&redis, "REPLICAOF 127.0.0.1 1").await;
    until_ready(&world, false, "Redis cannot be used").await;
    redis_command(&redis, "REPLICAOF NO ONE").await;
    until_ready(&world, true, "ready").await;
    redis_command(&redis, "CONFIG SET requirepass secret").await;
    redis.kill();
    until_ready(&world, false, "no signed request can be accepted").await;
    world.until_metric("\ntollgate_cache_ready 0\n").await;
    redis.start_again().await;
    until_ready(&world, true, "ready").await;
    world.until_logged("Redis cannot be used: signed requests are answered 503").await;
}

#[tokio::test]
async fn signatures_older_than_redis_data_loss_are_rejected() {
    let redis = Redis::start().await;
    let (one, other) = (world_with_redis(&redis).await, world_with_redis(&redis).await);
    let headers = sign_once();
    assert_eq!(send_again(&one, &headers).await.status, StatusCode::NOT_FOUND, "let in");
    // Signatures have a resolution of one second, and those of the last second are still accepted.
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    assert!(redis_command(&redis, "FLUSHALL").await.starts_with("+OK"));
    for world in [&one, &other] {
        world.until_metric("\ntollgate_cache_losses_total 1\n").await;
    }
    let refused = send_again(&other, &headers).await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &Value::from("cache_unavailable")));
    until("new signatures are accepted", || async {
        let status = send_again(&other, &sign_once()).await.status;
        (status == StatusCode::NOT_FOUND).then_some(()).ok_or(status)
    })
    .await;
    assert!(other.log().contains("Redis may have lost nonces"));
}

#[tokio::test]
async fn evicting_redis_is_logged() {
    let redis = Redis::start().await;
    redis_command(&redis, "CONFIG SET maxmemory-policy allkeys-lru").await;
    let world = world_with_redis(&redis).await;
    until("the log", || async {
        let log = world.log();
        log.contains("set maxmemory-policy to noeviction").then_some(()).ok_or(log)
    })
    .await;
    assert!(world.metrics().await.contains("\ntollgate_cache_evicted_keys 0\n"));
}

#[tokio::test]
async fn rate_limit_works_on_single_node_redis_cluster() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]).await;
    assert!(redis_command(&redis, "CLUSTER ADDSLOTSRANGE 0 16383").await.starts_with("+OK"));
    until("the cluster is up", || async {
        let said = redis_command(&redis, "CLUSTER INFO").await;
        said.contains("cluster_state:ok").then_some(()).ok_or(said)
    })
    .await;
    let world = world_with_redis(&redis).await;
    let merchant = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&merchant).unwrap();
    std::fs::write(&merchant, format!("{text}\n[limit]\nrate = 500\nburst = 1000\n")).unwrap();
    let reloaded = world.reload().await;
    assert_eq!(reloaded.status, 200, "{:?}", reloaded.body);
    let headers = sign_once();
    assert_eq!(send_again(&world, &headers).await.status, StatusCode::NOT_FOUND, "let in");
    assert_eq!(send_again(&world, &headers).await.status, 401, "once");
}
