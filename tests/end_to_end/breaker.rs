//! Circuit breaker: opens, probes, closes; an operator can force its state.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Answer, SHOP, World, WorldOptions, payment_body, send, signed_headers, until};

/// Opens after two failures, probes after one second, closes after one success.
pub fn eager(conf: &Path, _: SocketAddr) {
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once("request_volume_threshold").unwrap();
    let breaker =
        "request_volume_threshold = 2\nrolling_window = \"60s\"\nsleep_window = \"1s\"\nhalf_open_permits = 1\n";
    std::fs::write(&file, format!("{head}{breaker}")).unwrap();
}

/// Breaker like [`eager`] that probes after three seconds, so that a payment on a busy machine still finds the breaker open.
fn eager_with_later_probe(conf: &Path, address: SocketAddr) {
    eager(conf, address);
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("sleep_window = \"1s\"", "sleep_window = \"3s\"")).unwrap();
}

/// As [`eager`], and slow calls count as failures.
fn eager_with_slow_calls(conf: &Path, address: SocketAddr) {
    eager(conf, address);
    add(conf, "slow_call = { duration = \"1s\", percentage = 100 }\n");
}

fn add(conf: &Path, line: &str) {
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + line).unwrap();
}

/// As [`eager`], and a probe loses its permit after 200 ms.
fn eager_with_short_probes(conf: &Path, address: SocketAddr) {
    eager(conf, address);
    add(conf, "half_open_max_wait = \"200ms\"\n");
}

async fn eager_world() -> World {
    World::with(WorldOptions { edit: eager, ..WorldOptions::default() }).await
}

pub async fn inject_failures(world: &World, times: u32) {
    world.inject_fault(json!({"operation": "create", "fault": "status", "code": "", "times": times})).await;
}

async fn breakers(world: &World, method: &str, query: &str) -> Answer {
    send(method, &format!("http://{}/breakers{query}", world.gateway.admin), &[], b"").await.unwrap()
}

async fn breakers_page(world: &World) -> String {
    String::from_utf8(breakers(world, "GET", "").await.body.to_vec()).unwrap()
}

/// Creates payments under new order ids until one is accepted.
pub async fn until_accepted(world: &World, name: &str) {
    let mut round = 0;
    until(&format!("{name} is accepted"), || {
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
async fn breaker_opens_after_failures_and_closes_after_successful_probe() {
    let world = World::with(WorldOptions { edit: eager_with_later_probe, ..WorldOptions::default() }).await;
    inject_failures(&world, 3).await;
    for order in ["o-1", "o-2"] {
        assert_eq!(world.create(order, order).await.json()["status"], "unknown");
    }
    let held = world.create("o-3", "o-3").await;
    assert_eq!((held.status, held.json()["code"].as_str()), (503, Some("channel_unavailable")), "{}", held.json());
    let seconds: u64 = held.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=4).contains(&seconds), "{seconds}");
    // Payments are rejected while the resolver's queries continue.
    world.until_status("o-1", "failed").await;
    let breakers_page = breakers_page(&world).await;
    assert!(
        breakers_page.contains("main pay: open, 1 changes (2 of 2 calls failed within 60s: 2 HTTP 500)"),
        "{breakers_page}"
    );
    assert!(breakers_page.contains("main query: closed"), "{breakers_page}");
    until_accepted(&world, "after").await;
    assert!(world.metrics().await.contains("tollgate_breaker_state{channel=\"main\",operation=\"pay\"} 0"));
    assert_eq!(world.provider_order("o-3").await["arrivals"]["create"], Value::Null, "a rejected payment is not sent");
    assert_eq!(world.create("o-3", "o-3").await.status, 201, "the same key may retry");
}

#[tokio::test]
async fn slow_successful_calls_open_breaker() {
    let world = World::with(WorldOptions { edit: eager_with_slow_calls, ..WorldOptions::default() }).await;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 1100, "times": 2})).await;
    for order in ["o-1", "o-2"] {
        assert_eq!(world.create(order, order).await.status, 201);
    }
    assert_eq!(world.create("o-3", "o-3").await.status, 503);
    assert!(breakers_page(&world).await.contains("2 of 2 calls took 1s or longer"), "{}", breakers_page(&world).await);
}

#[tokio::test]
async fn operator_forces_breaker_open_and_closed() {
    let world = eager_world().await;
    assert_eq!(world.create("o-1", "o-1").await.status, 201);
    let answer = breakers(&world, "POST", "?channel=main&force=open&for=1m").await;
    assert_eq!(answer.body, "the breaker of main for pay, close, refund is forced open for 60s\n");
    assert_eq!(world.create("o-2", "o-2").await.json()["code"], "channel_unavailable");
    let asked = world.signed_request("GET", "/v1/payments/o-1", None, &Value::Null).await;
    assert_eq!((asked.status, asked.json().get("stale")), (200, None), "queries are still sent: {}", asked.json());
    assert!(
        breakers_page(&world).await.contains("main pay: closed, forced open for"),
        "{}",
        breakers_page(&world).await
    );
    breakers(&world, "POST", "?channel=main&force=none").await;
    assert_eq!(world.create("o-2", "o-2").await.status, 201);
    // A breaker that is forced closed rejects nothing.
    breakers(&world, "POST", "?channel=main&force=closed&operation=pay").await;
    inject_failures(&world, 4).await;
    for order in ["o-3", "o-4", "o-5", "o-6"] {
        assert_eq!(world.create(order, order).await.status, 202);
    }
    for (query, expected) in [("?channel=none&force=open", "there are main"), ("?force=open", "use ?channel=NAME")] {
        let refused = breakers(&world, "POST", query).await;
        assert_eq!(refused.status, 400);
        assert!(String::from_utf8_lossy(&refused.body).contains(expected), "{:?}", refused.body);
    }
}

/// Returns the counter of breaker transitions with these labels.
async fn changes(world: &World, from: &str, to: &str, reason: &str) -> u64 {
    let labels = format!("channel=\"main\",from=\"{from}\",operation=\"pay\",reason=\"{reason}\",to=\"{to}\"");
    let line = format!("tollgate_breaker_transitions_total{{{labels}}} ");
    let metrics = world.metrics().await;
    metrics.lines().find_map(|it| it.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn sleep_window_grows_while_probes_fail_and_resets_after_recovery() {
    let world = eager_world().await;
    // Two failures open the breaker, and two probes fail.
    inject_failures(&world, 4).await;
    let (mut unknown, mut waits, mut round) = (0, Vec::new(), 0);
    let mut taken = false;
    while !taken {
        assert!(round < 1000, "no payment was accepted");
        round += 1;
        let order = format!("o-{round}");
        let answer = world.create(&order, &order).await;
        match answer.status {
            201 => taken = true,
            202 => unknown += 1,
            503 => waits.push(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap()),
            other => panic!("{other} {}", answer.json()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(unknown, 4, "two calls opened the breaker, two probes failed, no other call was sent");
    let (first, longest) = (waits[0], *waits.iter().max().unwrap());
    assert!(first <= 2 && longest > first, "the sleep window grew: {first} {longest}");
    assert_eq!(changes(&world, "closed", "open", "errors").await, 1);
    assert_eq!(changes(&world, "half_open", "open", "probe_failed").await, 2);
    assert_eq!(changes(&world, "half_open", "closed", "probes_succeeded").await, 1);
    assert_eq!(changes(&world, "open", "half_open", "sleep_over").await, 3);
    inject_failures(&world, 2).await;
    for order in ["again-1", "again-2"] {
        assert_eq!(world.create(order, order).await.status, 202);
    }
    let held = world.create("again-3", "again-3").await;
    assert!(held.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 2, "the sleep window was reset");
    world.until_logged("2 of 2 calls failed within 60s: 2 HTTP 500").await;
}

#[tokio::test]
async fn hung_half_open_probe_releases_its_permit() {
    let world = std::sync::Arc::new(
        World::with(WorldOptions { edit: eager_with_short_probes, ..WorldOptions::default() }).await,
    );
    inject_failures(&world, 2).await;
    for order in ["o-1", "o-2"] {
        assert_eq!(world.create(order, order).await.status, 202);
    }
    world.inject_fault(json!({"operation": "create", "fault": "delay_before", "delay_ms": 15000, "times": 1})).await;
    // Rejected calls are answered at once; the call that hangs is the probe.
    let mut round = 0;
    let hung = loop {
        assert!(round < 1000, "no probe was admitted");
        round += 1;
        let (asking, order) = (std::sync::Arc::clone(&world), format!("probe-{round}"));
        let call = tokio::spawn(async move { asking.create(&order, &order).await });
        let hangs = until("the call is answered or has reached the provider", || async {
            let waiting = world.sandbox_control("GET", "/faults", Value::Null).await;
            let is_answered = call.is_finished();
            if is_answered || waiting == json!([]) { Ok(!is_answered) } else { Err(waiting) }
        })
        .await;
        match hangs {
            false => assert_eq!(call.await.unwrap().status, 503),
            true => break call,
        }
    };
    until_accepted(&world, "after").await;
    assert!(!hung.is_finished(), "the probe still hangs");
    assert_eq!(changes(&world, "half_open", "closed", "probes_succeeded").await, 1);
    hung.abort();
}

#[tokio::test]
async fn client_timeouts_do_not_open_breaker() {
    let world = eager_world().await;
    assert_eq!(world.create("first", "first").await.status, 201);
    let mut unknown = 0;
    for number in 0..4 {
        let order = format!("hasty-{number}");
        let delay = json!({"operation": "create", "fault": "delay", "delay_ms": 900, "number": World::provider_order_no(&order)});
        world.inject_fault(delay).await;
        let body = payment_body(&order).to_string();
        let mut headers = signed_headers(&SHOP, "POST", "/v1/payments", body.as_bytes());
        headers.extend([("idempotency-key", order), ("x-tollgate-timeout", "400ms".to_owned())]);
        let url = format!("http://{}/v1/payments", world.gateway.listen);
        let answer = send("POST", &url, &headers, body.as_bytes()).await.unwrap();
        // On a slow machine the deadline may pass before the request is sent.
        assert!([202, 503].contains(&answer.status), "{}", answer.json());
        unknown += u32::from(answer.status == 202);
    }
    assert!(unknown > 0, "no call reached the provider in time");
    assert_eq!(world.create("patient", "patient").await.status, 201);
    assert!(breakers_page(&world).await.contains("main pay: closed, 0 changes"), "{}", breakers_page(&world).await);
}
