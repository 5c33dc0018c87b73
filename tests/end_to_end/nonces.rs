//! Nonces that several gateways share.

use http::StatusCode;
use serde_json::Value;

use crate::harness::{Answer, SHOP, Wishes, World, send, signed};
use crate::redis::Redis;

async fn world_on(redis: &Redis) -> World {
    let server: &'static str = format!("[cache]\nkind = \"redis\"\nurl = \"plain:redis://{}\"", redis.address).leak();
    World::with(Wishes { server, ..Wishes::default() }).await
}

/// A request of the merchant, with headers that were made before.
async fn repeat(world: &World, headers: &[(&'static str, String)]) -> Answer {
    send("GET", &format!("http://{}/v1/payments/none", world.gateway.listen), headers, b"").await.unwrap()
}

fn once() -> Vec<(&'static str, String)> {
    signed(&SHOP, "GET", "/v1/payments/none", b"")
}

#[tokio::test]
async fn a_nonce_is_good_once_in_the_whole_cluster_and_never_while_redis_is_gone() {
    let mut redis = Redis::start().await;
    let (one, other) = (world_on(&redis).await, world_on(&redis).await);
    let headers = once();
    assert_eq!(repeat(&one, &headers).await.status, StatusCode::NOT_FOUND, "let in");
    for world in [&one, &other] {
        let again = repeat(world, &headers).await;
        assert_eq!((again.status, &again.json()["code"]), (401, &Value::from("unauthorized")));
    }
    assert_eq!(repeat(&other, &once()).await.status, StatusCode::NOT_FOUND, "another one is let in");

    redis.kill();
    let headers = once();
    for world in [&one, &other] {
        let refused = repeat(world, &headers).await;
        let problem = refused.json();
        assert_eq!((refused.status, &problem["code"]), (503, &Value::from("cache_unavailable")), "{problem}");
        assert_eq!((&problem["money_state"], &problem["retryable"]), (&"not_sent".into(), &"same_key".into()));
    }
    redis.start_again().await;
    for world in [&one, &other] {
        assert_eq!(repeat(world, &once()).await.status, StatusCode::NOT_FOUND, "let in at the first request");
    }
}
