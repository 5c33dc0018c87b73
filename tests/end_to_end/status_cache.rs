//! Status queries: which ones cost a provider query or a ledger read.

use serde_json::{Value, json};

use crate::harness::{
    Answer, Gateway, OTHER, SHOP, World, WorldOptions, payment_body, send, signed_headers, signed_request,
    try_signed_request, until,
};
use crate::redis::Redis;
use crate::server::Server;

/// Returns one value of a gateway's metrics.
pub async fn reading(gateway: &Gateway, name: &str) -> f64 {
    let answer = send("GET", &format!("http://{}/metrics", gateway.admin), &[], b"").await.unwrap();
    let page = String::from_utf8(answer.body.to_vec()).unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

async fn result(gateway: &Gateway, result: &str) -> f64 {
    reading(gateway, &format!("tollgate_status_cache_total{{result=\"{result}\"}}")).await
}

async fn ledger_reads(gateway: &Gateway) -> f64 {
    reading(gateway, "tollgate_ledger_reads_total").await
}

/// Waits until the gateway's filter of existing orders is built; only then it caches statuses.
pub async fn until_order_filter_ready(gateway: &Gateway) {
    until("the filter of existing orders is built", || async {
        let bytes = reading(gateway, "tollgate_order_filter_bytes").await;
        (bytes > 0.0).then_some(()).ok_or(bytes)
    })
    .await;
}

async fn get(gateway: &Gateway, order: &str) -> Answer {
    signed_request(gateway.listen, &SHOP, "GET", &format!("/v1/payments/{order}"), None, &Value::Null).await
}

/// Queries an order `times` times concurrently, rotating over the gateways, and returns every response.
async fn all_get(gateways: &[&Gateway], order: &str, times: usize) -> Vec<Answer> {
    let target = format!("/v1/payments/{order}");
    let asks = gateways.iter().cycle().take(times).map(|gateway| {
        let (door, target) = (gateway.listen, target.clone());
        tokio::spawn(async move { try_signed_request(door, &SHOP, "GET", &target, None, b"").await.unwrap() })
    });
    let mut answers = Vec::new();
    for asked in asks.collect::<Vec<_>>() {
        answers.push(asked.await.unwrap());
    }
    answers
}

async fn queries(world: &World, order: &str) -> u64 {
    world.provider_order(order).await["arrivals"]["query"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn concurrent_status_queries_are_coalesced_into_one_provider_query() {
    let world = World::new().await;
    until_order_filter_ready(&world.gateway).await;
    world.create("o-1", "k-1").await;
    world.inject_fault(json!({"operation": "query", "fault": "delay", "delay_ms": 500})).await;
    let answers = all_get(&[&world.gateway], "o-1", 200).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json()["status"] == "pending"));
    assert_eq!(queries(&world, "o-1").await, 1);
    assert_eq!((result(&world.gateway, "miss").await, result(&world.gateway, "hit").await), (1.0, 199.0));
    // `no-cache` asks the provider, and concurrent ones share one query too.
    world.inject_fault(json!({"operation": "query", "fault": "delay", "delay_ms": 500})).await;
    let headers = |_| {
        let mut headers = signed_headers(&SHOP, "GET", "/v1/payments/o-1", b"");
        headers.push(("cache-control", "no-cache".to_owned()));
        headers
    };
    let url = format!("http://{}/v1/payments/o-1", world.gateway.listen);
    let asks: Vec<_> = (0..50)
        .map(headers)
        .map(|headers| {
            let url = url.clone();
            tokio::spawn(async move { send("GET", &url, &headers, b"").await.unwrap().status })
        })
        .collect();
    for asked in asks {
        assert_eq!(asked.await.unwrap(), 200);
    }
    assert_eq!(queries(&world, "o-1").await, 2);
    assert_eq!(result(&world.gateway, "bypass").await, 50.0);
}

#[tokio::test]
async fn unknown_order_costs_neither_ledger_read_nor_provider_query() {
    let mut world = World::new().await;
    world.create("o-1", "k-1").await;
    until_order_filter_ready(&world.gateway).await;
    let (reads, mut unknown) = (ledger_reads(&world.gateway).await, 0.0);
    for round in 0..10 {
        let answers = all_get(&[&world.gateway], &format!("none-{round}"), 50).await;
        assert!(answers.iter().all(|answer| answer.status == 404));
        unknown += 50.0;
    }
    let refund = world.signed_request("GET", "/v1/payments/o-1/refunds/none", None, &Value::Null).await;
    assert_eq!(refund.status, 404);
    let of_another = signed_request(world.gateway.listen, &OTHER, "GET", "/v1/payments/o-1", None, &Value::Null).await;
    assert_eq!(of_another.status, 404, "another merchant's order is unknown");
    assert_eq!(result(&world.gateway, "unknown").await, unknown + 2.0);
    assert_eq!(ledger_reads(&world.gateway).await, reads);
    assert_eq!(world.sandbox_control("GET", "/orders", Value::Null).await.as_array().map(Vec::len), Some(1));
    // Orders from before a start are known after it, and new ones at once.
    world.gateway.kill();
    world.start().await;
    assert_eq!(get(&world.gateway, "o-1").await.status, 200);
    until_order_filter_ready(&world.gateway).await;
    assert_eq!(get(&world.gateway, "o-1").await.status, 200);
    assert_eq!(world.create("o-2", "k-2").await.status, 201);
    assert_eq!(get(&world.gateway, "o-2").await.status, 200);
    assert!(reading(&world.gateway, "tollgate_order_filter_entries").await >= 2.0);
    assert!(reading(&world.gateway, "tollgate_order_filter_false_positive_rate").await < 0.01);
}

#[tokio::test]
async fn final_status_is_cached_until_invalidated() {
    let world = World::new().await;
    until_order_filter_ready(&world.gateway).await;
    world.create("o-1", "k-1").await;
    assert_eq!(world.payment("o-1").await["status"], "pending");
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let paid = world.payment("o-1").await;
    assert_eq!(paid["status"], "succeeded", "a notification invalidates the cache");
    let (reads, asked) = (ledger_reads(&world.gateway).await, queries(&world, "o-1").await);
    for answer in all_get(&[&world.gateway], "o-1", 100).await {
        assert_eq!(answer.json(), paid);
    }
    assert_eq!((ledger_reads(&world.gateway).await, queries(&world, "o-1").await), (reads, asked));

    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    assert_eq!(world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await.status, 201);
    world.receiver.until("o-1", "refund.succeeded").await;
    assert_eq!(world.payment("o-1").await["refunded"], 300, "a refund invalidates the cache");
    let refund = world.signed_request("GET", "/v1/payments/o-1/refunds/r-1", None, &Value::Null).await.json();
    assert_eq!(refund["status"], "succeeded");

    world.create("o-2", "k-2").await;
    assert_eq!(world.payment("o-2").await["status"], "pending");
    assert_eq!(world.signed_request("POST", "/v1/payments/o-2/close", Some("c-2"), &Value::Null).await.status, 200);
    assert_eq!(world.payment("o-2").await["status"], "closed", "a close invalidates the cache");
}

#[tokio::test]
async fn provider_outage_returns_stale_status() {
    let world = World::new().await;
    until_order_filter_ready(&world.gateway).await;
    world.create("o-1", "k-1").await;
    world.inject_fault(json!({"operation": "query", "fault": "cut_before", "times": 9})).await;
    for _ in 0..2 {
        let payment = world.payment("o-1").await;
        assert_eq!((&payment["status"], &payment["stale"]), (&"pending".into(), &true.into()), "{payment}");
    }
    assert_eq!(result(&world.gateway, "stale").await, 2.0);
}

#[tokio::test]
async fn client_timeout_returns_stale_status() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    world.inject_fault(json!({"operation": "query", "fault": "delay", "delay_ms": 3000})).await;
    let mut headers = signed_headers(&SHOP, "GET", "/v1/payments/o-1", b"");
    headers.push(("x-tollgate-timeout", "50ms".to_owned()));
    let answer = send("GET", &format!("http://{}/v1/payments/o-1", world.gateway.listen), &headers, b"").await.unwrap();
    let payment = answer.json();
    assert_eq!((answer.status, &payment["status"], &payment["stale"]), (200, &"pending".into(), &true.into()));
}

/// Three gateways on one PostgreSQL, each with its own memory cache.
pub struct Cluster {
    pub server: Server,
    pub world: World,
    pub others: Vec<Gateway>,
}

impl Cluster {
    pub async fn new(server: &'static str) -> Self {
        let postgres = Server::start(&[]);
        let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", postgres.url);
        let world = World::with(WorldOptions { ledger: Some(ledger), server, ..WorldOptions::default() }).await;
        let others = vec![world.start_another("second").await, world.start_another("third").await];
        let cluster = Self { server: postgres, world, others };
        for gateway in cluster.all() {
            until_order_filter_ready(gateway).await;
        }
        cluster
    }

    pub fn all(&self) -> [&Gateway; 3] {
        [&self.world.gateway, &self.others[0], &self.others[1]]
    }

    /// Waits until every gateway returns this value: as long as a change message takes, far shorter than the cache TTL.
    pub async fn all_say(&self, order: &str, what: &str, expected: Value) {
        for gateway in self.all() {
            until(&format!("{order}: {what} {expected}"), || async {
                let payment = get(gateway, order).await.json();
                (payment[what] == expected).then_some(()).ok_or(payment)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn status_change_invalidates_caches_of_all_gateways() {
    let cluster = Cluster::new("").await;
    let world = &cluster.world;
    world.create("o-1", "k-1").await;
    cluster.all_say("o-1", "status", "pending".into()).await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    cluster.all_say("o-1", "status", "succeeded".into()).await;
    // Each gateway caches the final status for five minutes.
    for gateway in cluster.all() {
        // Waits until the last change message has arrived.
        until("the status is served from memory", || async {
            let reads = ledger_reads(gateway).await;
            assert!(all_get(&[gateway], "o-1", 20).await.iter().all(|answer| answer.status == 200));
            let read = ledger_reads(gateway).await - reads;
            if read == 0.0 { Ok(()) } else { Err(read) }
        })
        .await;
    }
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    let target = "/v1/payments/o-1/refunds";
    assert_eq!(signed_request(cluster.others[1].listen, &SHOP, "POST", target, Some("r-1"), &refund).await.status, 201);
    world.receiver.until("o-1", "refund.succeeded").await;
    cluster.all_say("o-1", "refunded", 300.into()).await;
    signed_request(cluster.others[0].listen, &SHOP, "POST", "/v1/payments", Some("k-2"), &payment_body("o-2")).await;
    cluster.all_say("o-2", "status", "pending".into()).await;
    let target = "/v1/payments/o-2/close";
    assert_eq!(
        signed_request(cluster.others[0].listen, &SHOP, "POST", target, Some("c-2"), &Value::Null).await.status,
        200
    );
    cluster.all_say("o-2", "status", "closed".into()).await;
}

#[tokio::test]
async fn new_order_is_known_to_all_gateways_at_once() {
    let cluster = Cluster::new("").await;
    let [first, second, third] = cluster.all();
    for number in 0..60 {
        let order = format!("o-{number}");
        let made =
            signed_request(first.listen, &SHOP, "POST", "/v1/payments", Some(&order), &payment_body(&order)).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        for gateway in [second, third] {
            assert_eq!(get(gateway, &order).await.status, 200, "{order}");
        }
    }
    for gateway in [second, third] {
        let reads = ledger_reads(gateway).await;
        assert!(all_get(&[gateway], "none", 50).await.iter().all(|answer| answer.status == 404));
        assert_eq!((ledger_reads(gateway).await, result(gateway, "unknown").await), (reads, 50.0));
    }
}

#[tokio::test]
async fn ledger_outage_disables_caches_until_resynchronized() {
    let cluster = Cluster::new("").await;
    let world = &cluster.world;
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    cluster.all_say("o-1", "status", "succeeded".into()).await;
    cluster.server.crash();
    until("the cache is not served", || async {
        let status = get(&world.gateway, "o-1").await.status;
        (status == 503).then_some(()).ok_or(status)
    })
    .await;
    cluster.server.revive();
    cluster.all_say("o-1", "status", "succeeded".into()).await;
    for gateway in cluster.all() {
        until_order_filter_ready(gateway).await;
        assert_eq!(get(gateway, "none").await.status, 404);
        assert_eq!(get(gateway, "o-1").await.status, 200);
    }
}

/// Starts three gateways that share PostgreSQL and Redis and accept each other's cached statuses.
async fn sharing() -> (Cluster, Redis) {
    let redis = Redis::start().await;
    let cache = format!("[cache]\nkind = \"redis\"\nurl = \"plain:redis://{}\"", redis.address).leak();
    let cluster = Cluster::new(cache).await;
    for gateway in cluster.all() {
        until("the shared status cache is active", || async {
            let shared = reading(gateway, "tollgate_status_cache_shared").await;
            (shared == 1.0).then_some(()).ok_or(shared)
        })
        .await;
    }
    (cluster, redis)
}

#[tokio::test]
async fn status_queries_to_three_gateways_are_coalesced_into_one_provider_query() {
    let (cluster, _redis) = sharing().await;
    let world = &cluster.world;
    world.create("o-1", "k-1").await;
    // Change messages are ordered: those of the second order arrive after all of the first.
    world.create("o-2", "k-2").await;
    for gateway in cluster.all() {
        assert_eq!(get(gateway, "none").await.status, 404);
    }
    world.inject_fault(json!({"operation": "query", "fault": "delay", "delay_ms": 500})).await;
    let answers = all_get(&cluster.all(), "o-1", 210).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json()["status"] == "pending"));
    assert_eq!(queries(world, "o-1").await, 1);
}

#[tokio::test]
async fn redis_shares_cached_statuses_and_its_outage_rejects_requests() {
    let (cluster, mut redis) = sharing().await;
    let world = &cluster.world;
    for order in ["o-1", "o-2"] {
        world.create(order, order).await;
        world.pay(order).await;
        world.receiver.until(order, "payment.succeeded").await;
    }
    // As above: every gateway has received the change to paid by now.
    world.create("o-3", "o-3").await;
    let [first, second, third] = cluster.all();
    assert_eq!(get(first, "none").await.status, 404);
    let paid = get(first, "o-1").await.json();
    assert_eq!(paid["status"], "succeeded");
    for gateway in [second, third] {
        assert_eq!(get(gateway, "none").await.status, 404);
        let reads = ledger_reads(gateway).await;
        assert_eq!(get(gateway, "o-1").await.json(), paid);
        assert_eq!(ledger_reads(gateway).await, reads, "found in Redis");
    }
    redis.kill();
    for gateway in [first, second, third] {
        assert_eq!(get(gateway, "o-1").await.status, 503);
        let refused =
            signed_request(gateway.listen, &SHOP, "POST", "/v1/payments", Some("k-9"), &payment_body("o-9")).await;
        assert_eq!((refused.status, &refused.json()["code"]), (503, &"cache_unavailable".into()));
    }
    redis.start_again().await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    let target = "/v1/payments/o-1/refunds";
    assert_eq!(signed_request(third.listen, &SHOP, "POST", target, Some("r-1"), &refund).await.status, 201);
    world.receiver.until("o-1", "refund.succeeded").await;
    cluster.all_say("o-1", "refunded", 300.into()).await;
}

#[tokio::test]
async fn rate_limits_are_shared_by_all_gateways() {
    let redis = Redis::start().await;
    let server = format!("[cache]\nkind = \"redis\"\nurl = \"plain:redis://{}\"", redis.address).leak();
    let edit = |conf: &std::path::Path, _| {
        let file = conf.join("channels/main.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("rate = 600"), "{text}");
        std::fs::write(&file, text.replace("rate = 600", "rate = 0.001\nburst = 2")).unwrap();
    };
    let world = World::with(WorldOptions { server, edit, ..WorldOptions::default() }).await;
    let file = world.gateway.conf.join("merchants/other.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}limit = {{ rate = 0.001, burst = 6 }}\n")).unwrap();
    assert_eq!(world.reload().await.status, 200);
    // Its own ledger does not matter here.
    let twin = World::with(WorldOptions { server, edit, ..WorldOptions::default() }).await;
    let conf = &twin.gateway.conf;
    std::fs::copy(&file, conf.join("merchants/other.toml")).unwrap();
    assert_eq!(twin.reload().await.status, 200);

    let gateways = [&world.gateway, &twin.gateway];
    let of_other = async |times: usize| {
        let mut passed = 0;
        for gateway in gateways.iter().cycle().take(times) {
            let answer = signed_request(gateway.listen, &OTHER, "GET", "/v1/payments/none", None, &Value::Null).await;
            assert!(answer.status == 404 || answer.headers.contains_key("retry-after"), "{}", answer.status);
            passed += u32::from(answer.status == 404);
        }
        passed
    };
    assert_eq!(of_other(12).await, 6);
    // The channel's limit is shared too: a third call is rejected by either gateway.
    for (gateway, order, expected) in [(0, "o-1", 201), (1, "o-2", 201), (0, "o-3", 503), (1, "o-4", 503)] {
        let door = gateways[gateway].listen;
        let answer = signed_request(door, &SHOP, "POST", "/v1/payments", Some(order), &payment_body(order)).await;
        assert_eq!(answer.status, expected, "{order}: {:?}", answer.body);
    }
}
