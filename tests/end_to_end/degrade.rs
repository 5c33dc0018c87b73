//! Deliberate rejections: static route responses, admission limits, adaptive limits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::harness::{OTHER, SHOP, World, WorldOptions, payment_body, send, signed_request, until};

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get("retry-after")?.to_str().ok()?.parse().ok()
}

#[tokio::test]
async fn route_with_respond_claims_nothing_and_keeps_existing_payments() {
    let world = World::new().await;
    assert_eq!(world.create("before", "k-before").await.status, 201);
    let routes = world.conf().join("routes.toml");
    let paused = "[[route]]\nmatch = { merchant = \"shop\" }\nrespond = { code = \"stocktaking\", detail = \"Closed for an hour.\", retry_after = \"10m\" }\n";
    let open = std::fs::read_to_string(&routes).unwrap();
    std::fs::write(&routes, format!("{paused}{open}")).unwrap();
    assert_eq!(world.reload().await.status, 200);
    for body in [
        payment_body("during"),
        json!({"channel": "main", "order_id": "during", "amount": {"value": 1000, "currency": "CNY"}, "description": "茶 tea", "method": "wechat.native"}),
    ] {
        let answer = world.signed_request("POST", "/v1/payments", Some("k-during"), &body).await;
        let problem = answer.json();
        assert_eq!((answer.status, problem["code"].as_str()), (503, Some("stocktaking")), "{problem}");
        assert_eq!((&problem["money_state"], &problem["retryable"]), (&json!("not_sent"), &json!("same_key")));
        assert_eq!((&problem["detail"], retry_after(&answer.headers)), (&json!("Closed for an hour."), Some(600)));
    }
    let explained = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["--conf", world.conf().to_str().unwrap(), "route", "--merchant", "shop"])
        .args(["--method", "wechat.native", "--amount", "1000"])
        .output()
        .unwrap();
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("route 1    to answer 503 stocktaking") && explained.contains("taken"), "{explained}");
    assert!(explained.contains("no channel: the route answers 503 stocktaking, and nothing is sent"), "{explained}");
    // No claim was made: the order is unknown, and the key can be reused, even with another body.
    let asked = world.signed_request("GET", "/v1/payments/during", None, &Value::Null).await;
    assert_eq!(asked.status, 404);
    // An existing payment can still be replayed, queried and closed.
    let again = world.create("before", "k-before").await;
    assert!(again.status == 201 && again.is_replayed(), "{} {}", again.status, again.json());
    assert_eq!(world.payment("before").await["status"], "pending");
    // Another merchant is not affected.
    let other =
        signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some("k"), &payment_body("theirs")).await;
    assert_eq!(other.status, 201, "{}", other.json());
    std::fs::write(&routes, open).unwrap();
    assert_eq!(world.reload().await.status, 200);
    assert_eq!(world.create("during", "k-during").await.status, 201, "the same key may retry");
    assert_eq!(world.provider_order("during").await["arrivals"]["create"], 1);
}

#[tokio::test]
async fn overloaded_gateway_is_503_and_reserves_permits_for_notifications() {
    let world = Arc::new(World::with(WorldOptions { server: "max_in_flight = 16", ..WorldOptions::default() }).await);
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    // Each of two merchants may use half of the permits.
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 3000, "times": 16})).await;
    let mut stuck = Vec::new();
    for number in 0..8 {
        for merchant in [&SHOP, &OTHER] {
            let (listen, order) = (world.gateway.listen, format!("slow-{number}"));
            stuck.push(tokio::spawn(async move {
                signed_request(listen, merchant, "POST", "/v1/payments", Some(&order), &payment_body(&order)).await
            }));
        }
    }
    world.until_metric("tollgate_requests_in_flight 16").await;
    let full = world.create("o-2", "k-2").await;
    assert_eq!(full.status, 503);
    let problem = full.json();
    assert_eq!((problem["code"].as_str(), retry_after(&full.headers)), (Some("overloaded"), Some(1)), "{problem}");
    assert_eq!((&problem["money_state"], &problem["retryable"]), (&json!("not_sent"), &json!("same_key")));
    let shed = "tollgate_requests_shed_total{kind=\"request\"} 1";
    assert!(world.metrics().await.contains(shed));
    let notified = send("POST", &format!("http://{}/notify/main", world.gateway.listen), &[], b"{}").await.unwrap();
    assert!(!String::from_utf8_lossy(&notified.body).contains("overloaded"), "{:?}", notified.body);
    for request in stuck {
        assert!(matches!(request.await.unwrap().status, 201 | 202));
    }
    until("requests are admitted again", || async {
        let answer = world.create("o-3", "k-3").await;
        if answer.status == 201 { Ok(()) } else { Err(format!("{}", answer.status)) }
    })
    .await;
}

/// Fixes the adaptive limit at two concurrent calls per operation.
fn limit_to_two_calls(conf: &Path, _: SocketAddr) {
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "\n[[filter]]\nuse = \"adaptive\"\nfloor = 2\nceiling = 2\n").unwrap();
}

#[tokio::test]
async fn adaptive_limit_rejects_payments_and_admits_queries() {
    let world = Arc::new(World::with(WorldOptions { edit: limit_to_two_calls, ..WorldOptions::default() }).await);
    assert_eq!(world.create("first", "first").await.status, 201);
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 1500, "times": 2})).await;
    let slow: Vec<_> = ["o-1", "o-2"]
        .map(|order| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.create(order, order).await })
        })
        .into();
    until("both calls are in flight", || async {
        let metrics = world.metrics().await;
        let line = "tollgate_adaptive_in_flight{channel=\"main\",operation=\"pay\"} 2";
        if metrics.contains(line) { Ok(()) } else { Err(metrics) }
    })
    .await;
    let shed = world.create("o-3", "o-3").await;
    assert_eq!((shed.status, retry_after(&shed.headers)), (503, Some(1)), "{}", shed.json());
    assert!(
        shed.json()["detail"].as_str().unwrap().contains("adaptive limit of 2 concurrent calls for pay"),
        "{}",
        shed.json()
    );
    let asked = world.signed_request("GET", "/v1/payments/first", None, &Value::Null).await;
    assert_eq!((asked.status, asked.json().get("stale")), (200, None), "queries have their own limit");
    for call in slow {
        assert_eq!(call.await.unwrap().status, 201);
    }
    assert_eq!(world.create("o-3", "o-3").await.status, 201, "the same key may retry");
    let metrics = world.metrics().await;
    assert!(metrics.contains("tollgate_adaptive_shed_total{channel=\"main\",operation=\"pay\"} 1"), "{metrics}");
}
