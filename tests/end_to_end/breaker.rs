//! A channel that fails is left alone and found again; an operator decides otherwise for a while.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Answer, Wishes, World, send, until};

/// Opens after two failures, tries again after a second, closes after one success.
fn eager(conf: &Path, _: SocketAddr) {
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once("request_volume_threshold").unwrap();
    let breaker =
        "request_volume_threshold = 2\nrolling_window = \"60s\"\nsleep_window = \"1s\"\nhalf_open_permits = 1\n";
    let slow = "slow_call = { duration = \"1s\", percentage = 100 }\n";
    std::fs::write(&file, format!("{head}{breaker}{slow}")).unwrap();
}

async fn eager_world() -> World {
    World::with(Wishes { edit: eager, ..Wishes::default() }).await
}

async fn fail(world: &World, times: u32) {
    world.fault(json!({"operation": "create", "fault": "status", "code": "", "times": times})).await;
}

async fn breakers(world: &World, method: &str, query: &str) -> Answer {
    send(method, &format!("http://{}/breakers{query}", world.gateway.admin), &[], b"").await.unwrap()
}

async fn told(world: &World) -> String {
    String::from_utf8(breakers(world, "GET", "").await.body.to_vec()).unwrap()
}

/// Tries under ever new orders until one is taken.
async fn until_taken(world: &World, name: &str) {
    let mut round = 0;
    until(&format!("{name} is taken"), || {
        round += 1;
        let order = format!("{name}-{round}");
        async move {
            let answer = world.create(&order, &order).await;
            if answer.status == 201 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.json())) }
        }
    })
    .await;
}

#[tokio::test]
async fn a_storm_opens_it_a_probe_that_fails_keeps_it_open_and_one_that_succeeds_closes_it() {
    let world = eager_world().await;
    fail(&world, 3).await;
    for order in ["o-1", "o-2"] {
        assert_eq!(world.create(order, order).await.json()["status"], "unknown");
    }
    let held = world.create("o-3", "o-3").await;
    assert_eq!((held.status, held.json()["code"].as_str()), (503, Some("not_sent")), "{}", held.json());
    let seconds: u64 = held.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    // Payments are stopped, and the truth about them is found all the same.
    world.until_status("o-1", "failed").await;
    let told = told(&world).await;
    assert!(told.contains("main pay: open, 1 changes (2 of 2 calls failed within 60s)"), "{told}");
    assert!(told.contains("main query: closed"), "{told}");
    until_taken(&world, "after").await;
    assert!(world.metrics().await.contains("tollgate_breaker_state{channel=\"main\",operation=\"pay\"} 0"));
    assert_eq!(world.seen("o-3").await["arrivals"]["create"], Value::Null, "what was held was never sent");
    assert_eq!(world.create("o-3", "o-3").await.status, 201, "and its key may try again");
}

#[tokio::test]
async fn slow_answers_open_it_though_they_are_right() {
    let world = eager_world().await;
    world.fault(json!({"operation": "create", "fault": "delay", "delay_ms": 1100, "times": 2})).await;
    for order in ["o-1", "o-2"] {
        assert_eq!(world.create(order, order).await.status, 201);
    }
    assert_eq!(world.create("o-3", "o-3").await.status, 503);
    assert!(told(&world).await.contains("2 of 2 calls took 1s or longer"), "{}", told(&world).await);
}

#[tokio::test]
async fn an_operator_stops_a_channel_and_lets_it_go_on() {
    let world = eager_world().await;
    assert_eq!(world.create("o-1", "o-1").await.status, 201);
    let answer = breakers(&world, "POST", "?channel=main&force=open&for=1m").await;
    assert_eq!(answer.body, "the breaker of main for pay, close, refund is forced open for 60s\n");
    assert_eq!(world.create("o-2", "o-2").await.json()["code"], "not_sent");
    let asked = world.ask("GET", "/v1/payments/o-1", None, &Value::Null).await;
    assert_eq!((asked.status, asked.json().get("stale")), (200, None), "queries go on: {}", asked.json());
    assert!(told(&world).await.contains("main pay: closed, forced open for"), "{}", told(&world).await);
    breakers(&world, "POST", "?channel=main&force=none").await;
    assert_eq!(world.create("o-2", "o-2").await.status, 201);
    // Forced closed, nothing stops it.
    breakers(&world, "POST", "?channel=main&force=closed&operation=pay").await;
    fail(&world, 4).await;
    for order in ["o-3", "o-4", "o-5", "o-6"] {
        assert_eq!(world.create(order, order).await.status, 202);
    }
    for (query, expected) in [("?channel=none&force=open", "there are main"), ("?force=open", "write ?channel=NAME")] {
        let refused = breakers(&world, "POST", query).await;
        assert_eq!(refused.status, 400);
        assert!(String::from_utf8_lossy(&refused.body).contains(expected), "{:?}", refused.body);
    }
}
