//! Replay protection: a signed request is accepted once, over restarts, reloads and clock changes.

use serde_json::Value;
use tollgate_harness::merchant::{new_nonce, unix_now};
use tollgate_merchant::{Credentials, plain};

use crate::harness::{OTHER, SHOP, World, send, signed_headers, signed_request, until};

type Headers = Vec<(&'static str, String)>;

const TARGET: &str = "/v1/payments/none";

/// Signs a request with a clock that is `seconds` ahead.
fn signed_ahead(seconds: i64) -> Headers {
    let nonce = new_nonce();
    let created = unix_now().checked_add_signed(seconds).unwrap();
    let with = Credentials { key_id: SHOP.key, secret: SHOP.secret.as_bytes(), created, nonce: &nonce };
    plain(&with, "GET", TARGET, b"")
}

async fn status(world: &World, headers: &Headers) -> u16 {
    send("GET", &format!("http://{}{TARGET}", world.gateway.listen), headers, b"").await.unwrap().status
}

#[tokio::test]
async fn replayed_request_is_401_after_crash_shutdown_and_reload() {
    let mut world = World::new().await;
    // Requests signed before the first start are rejected.
    let captured: Vec<Headers> = [0, 100, 290].map(signed_ahead).to_vec();
    for headers in &captured {
        assert_eq!(status(&world, headers).await, 404, "let in");
    }
    let stops = ["-KILL", "-TERM", "reload", "-KILL"];
    for stop in stops {
        // Signed before the stop and sent after it: a new nonce.
        let waiting = signed_ahead(0);
        match stop {
            "-KILL" => world.gateway.kill(),
            "-TERM" => {
                world.gateway.signal("TERM");
                world.gateway.wait_exit().await;
            }
            _ => assert_eq!(world.reload().await.status, 200),
        }
        if stop != "reload" {
            world.start().await;
        }
        for headers in &captured {
            assert_eq!(status(&world, headers).await, 401, "after {stop}");
        }
        assert_eq!(status(&world, &waiting).await, 404, "{stop}: a request signed before the stop is accepted");
        assert_eq!(status(&world, &signed_ahead(0)).await, 404, "{stop}: a new request is accepted");
    }
}

#[tokio::test]
async fn replayed_request_is_401_after_clock_changes() {
    let mut world = World::new().await;
    let captured = signed_ahead(0);
    assert_eq!(status(&world, &captured).await, 404, "let in");
    for ahead in [3600, 0, -3600, 0] {
        world.gateway.kill();
        world.gateway.clock_ahead = ahead;
        world.start().await;
        assert_eq!(status(&world, &captured).await, 401, "{ahead}");
        assert_eq!(
            status(&world, &signed_ahead(ahead)).await,
            404,
            "{ahead}: a request signed by the same clock is accepted"
        );
    }
}

#[tokio::test]
async fn replay_of_unsent_payment_after_restart_is_401() {
    let mut world = World::new().await;
    crate::harness::force_breaker(&world.gateway, "open").await;
    let body = crate::harness::payment_body("o-1").to_string();
    let mut headers = signed_headers(&SHOP, "POST", "/v1/payments", body.as_bytes());
    headers.push(("idempotency-key", "k-1".to_owned()));
    let url = format!("http://{}/v1/payments", world.gateway.listen);
    let refused = send("POST", &url, &headers, body.as_bytes()).await.unwrap();
    assert_eq!((refused.status, &refused.json()["money_state"]), (503, &Value::from("not_sent")));
    world.gateway.kill();
    world.start().await;
    let again = send("POST", &url, &headers, body.as_bytes()).await.unwrap();
    assert_eq!(
        (again.status, world.provider_order("o-1").await["arrivals"].clone()),
        (401, Value::Null),
        "{:?}",
        again.body
    );
}

#[tokio::test]
async fn rate_limited_request_stores_no_nonce_and_replay_costs_no_rate() {
    let world = World::new().await;
    let path = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("limit = {{ rate = 0.5, burst = 2 }}\n{text}")).unwrap();
    assert_eq!(world.reload().await.status, 200);
    let captured = signed_ahead(0);
    assert_eq!(status(&world, &captured).await, 404, "let in");
    for _ in 0..20 {
        assert_eq!(status(&world, &captured).await, 401);
    }
    assert_eq!(status(&world, &signed_ahead(0)).await, 404, "replays used no token of the burst");
    let over = signed_ahead(0);
    assert_eq!(status(&world, &over).await, 429);
    let let_in = until("a token is available", || async {
        let status = status(&world, &over).await;
        if status == 429 { Err(status) } else { Ok(status) }
    })
    .await;
    assert_eq!(let_in, 404, "the rate-limited request is accepted later");
    assert_eq!(status(&world, &over).await, 401, "once");
    let other = signed_request(world.gateway.listen, &OTHER, "GET", TARGET, None, &Value::Null).await;
    assert_eq!(other.status, 404);
}
