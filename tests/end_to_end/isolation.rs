//! Isolation: one merchant's flood, errors and dead webhook do not affect another merchant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate_harness::merchant::provider_number;

use crate::harness::{
    Merchant, OTHER, SHOP, World, payment_body, signed_headers, try_signed_request, until, write_merchant,
};

/// Responses to the flooding merchant, counted by kind.
#[derive(Default)]
struct Seen {
    taken: AtomicU64,
    over_its_limit: AtomicU64,
    denied: AtomicU64,
    malformed: AtomicU64,
    other: AtomicU64,
}

impl Seen {
    fn count(&self, status: u16) {
        let counter = match status {
            201 | 202 => &self.taken,
            429 => &self.over_its_limit,
            401 => &self.denied,
            400 => &self.malformed,
            _ => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts a webhook that accepts connections and never answers.
async fn dead_webhook() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    format!("http://{address}/events")
}

/// Creates and pays orders one after the other and waits for their events. Returns the time of each create.
async fn run_customers(world: &World, name: &str, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..count {
        let order = format!("{name}-{number}");
        let start = Instant::now();
        let body = payment_body(&order).to_string();
        let answer =
            try_signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some(&order), body.as_bytes())
                .await
                .unwrap();
        took.push(start.elapsed());
        assert_eq!(answer.status, 201, "{order}: {}", answer.json());
        let paid = world
            .sandbox_control("POST", &format!("/orders/{}/pay", provider_number(&["other", &order])), json!({}))
            .await;
        assert_eq!(paid["state"], "SUCCESS", "{order}: {paid}");
    }
    for number in 0..count {
        world.receiver.until(&format!("{name}-{number}"), "payment.succeeded").await;
    }
    took.sort();
    took
}

fn print_latencies(name: &str, took: &[Duration]) {
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    println!("{name:<16} p50 {:>9.1?}  p90 {:>9.1?}  longest {:>9.1?}", at(50), at(90), at(100));
}

async fn flood(world: &World, stop: &Arc<AtomicBool>, seen: &Arc<Seen>) -> Vec<tokio::task::JoinHandle<()>> {
    let listen = world.gateway.listen;
    let forger = Merchant { key: SHOP.key, secret: "not the secret at all, and as long" };
    let forger: &'static Merchant = Box::leak(Box::new(forger));
    (0..12)
        .map(|worker| {
            let (stop, seen) = (Arc::clone(stop), Arc::clone(seen));
            tokio::spawn(async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let order = format!("flood-{worker}-{round}");
                    let body = payment_body(&order).to_string();
                    let (merchant, body) = match worker % 3 {
                        0 => (&SHOP, body.as_bytes()),
                        1 => (forger, body.as_bytes()),
                        _ => (&SHOP, b"{\"order_id\": 7".as_slice()),
                    };
                    match try_signed_request(listen, merchant, "POST", "/v1/payments", Some(&order), body).await {
                        Ok(answer) => seen.count(answer.status),
                        Err(_) => seen.count(0),
                    }
                }
            })
        })
        .collect()
}

#[tokio::test]
async fn flooding_merchant_does_not_affect_other_merchants() {
    let world = World::new().await;
    write_merchant(world.conf(), "shop", &SHOP, &dead_webhook().await);
    let file = world.conf().join("merchants/shop.toml");
    let limited = std::fs::read_to_string(&file).unwrap() + "limit = { rate = 50, burst = 50, in_flight = 4 }\n";
    std::fs::write(&file, limited).unwrap();
    assert_eq!(world.reload().await.status, 200);
    // These events keep the dead webhook busy.
    for number in 0..20 {
        let order = format!("dead-{number}");
        assert_eq!(world.create(&order, &order).await.status, 201);
        world.pay(&order).await;
    }
    let before = run_customers(&world, "before", 40).await;
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
    let flooding = flood(&world, &stop, &seen).await;
    // Waits until the flood exceeds its limit.
    crate::harness::until("the flood exceeds its limit", || async {
        let count = seen.over_its_limit.load(Ordering::Relaxed);
        if count > 20 { Ok(()) } else { Err(count) }
    })
    .await;
    let during = run_customers(&world, "during", 40).await;
    stop.store(true, Ordering::Relaxed);
    for worker in flooding {
        worker.await.unwrap();
    }
    print_latencies("before the flood", &before);
    print_latencies("during it", &during);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "the flood: {} taken, {} over its limit, {} denied, {} malformed, {} other",
        count(&seen.taken),
        count(&seen.over_its_limit),
        count(&seen.denied),
        count(&seen.malformed),
        count(&seen.other)
    );
    assert!(count(&seen.taken) > 0 && count(&seen.denied) > 0 && count(&seen.malformed) > 0);
    assert_eq!(count(&seen.other), 0, "the flood got only 2xx, 429, 401 and 400");
    assert!(world.receiver.events_of("dead-0").is_empty(), "events go only to their merchant's webhook");
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("tollgate_requests_total{channel=\"\",code=\"rate_limited\",merchant=\"shop\""),
        "{metrics}"
    );
}

#[tokio::test]
async fn metric_labels_contain_only_configured_names() {
    let world = World::new().await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    let unknown_merchant = Merchant { key: "nobody-1", secret: "0123456789abcdef0123456789abcdef" };
    for channel in ["nowhere", "nowhere-2"] {
        let target = format!("/notify/{channel}");
        let headers = signed_headers(&unknown_merchant, "POST", &target, b"{}");
        let url = format!("http://{}{target}", world.gateway.listen);
        assert_eq!(crate::harness::send("POST", &url, &headers, b"{}").await.unwrap().status, 404);
    }
    let denied = crate::harness::signed_request(
        world.gateway.listen,
        &unknown_merchant,
        "GET",
        "/v1/payments/x",
        None,
        &Value::Null,
    )
    .await;
    assert_eq!(denied.status, 401);
    // A request is counted after its response was sent.
    world.until_metric("merchant=\"shop\"").await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("channel=\"main\""), "{metrics}");
    assert!(!metrics.contains("nowhere") && !metrics.contains("nobody"), "{metrics}");
    // A removed merchant's labels disappear when its last generation is dropped.
    std::fs::remove_file(world.conf().join("merchants/shop.toml")).unwrap();
    assert_eq!(world.reload().await.status, 200);
    until("the removed merchant's labels are gone", || async {
        let metrics = world.metrics().await;
        (!metrics.contains("merchant=\"shop\"")).then_some(()).ok_or(metrics)
    })
    .await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("channel=\"main\""), "{metrics}");
}
