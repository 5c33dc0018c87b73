//! Three gateways that share one ledger in PostgreSQL.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    Gateway, SHOP, World, WorldOptions, force_breaker, payment_body, signed_request, signed_request_async,
    try_signed_request, until,
};
use crate::server::Server;

struct Cluster {
    server: Server,
    world: World,
    others: Vec<Gateway>,
}

impl Cluster {
    async fn new() -> Self {
        let server = Server::start(&[]);
        let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
        let world = World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await;
        let others = vec![world.start_another("second").await, world.start_another("third").await];
        Self { server, world, others }
    }

    /// Sends the same request to every gateway, `times` times each, concurrently.
    fn all_ask(&self, times: usize) -> Vec<tokio::task::JoinHandle<Option<u16>>> {
        let doors = [self.world.gateway.listen, self.others[0].listen, self.others[1].listen];
        let asks = doors.into_iter().cycle().take(doors.len() * times).map(|door| {
            tokio::spawn(async move {
                let body = payment_body("o-1").to_string();
                let answer = try_signed_request(door, &SHOP, "POST", "/v1/payments", Some("k"), body.as_bytes()).await;
                answer.ok().map(|answer| answer.status)
            })
        });
        asks.collect()
    }
}

#[tokio::test]
async fn concurrent_requests_to_three_gateways_create_one_payment() {
    let cluster = Cluster::new().await;
    let world = &cluster.world;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 300})).await;
    let mut statuses = BTreeMap::new();
    for asked in cluster.all_ask(40) {
        *statuses.entry(asked.await.unwrap()).or_insert(0) += 1;
    }
    assert!(statuses.keys().all(|status| [Some(201), Some(409)].contains(status)), "{statuses:?}");
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["create"]), (&1.into(), &1.into()), "{seen}");
    // Every gateway returns the same payment, and the merchant gets one event.
    for other in &cluster.others {
        let again = signed_request(other.listen, &SHOP, "POST", "/v1/payments", Some("k"), &payment_body("o-1")).await;
        assert_eq!((again.status, again.is_replayed()), (201, true), "{:?}", again.body);
    }
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    for other in &cluster.others {
        let payment = signed_request(other.listen, &SHOP, "GET", "/v1/payments/o-1", None, &Value::Null).await.json();
        assert_eq!(payment["status"], "succeeded", "{payment}");
    }
    let refund = json!({"refund_id": "r-1", "amount": {"value": 1000, "currency": "CNY"}});
    let target = "/v1/payments/o-1/refunds";
    let answer = signed_request(cluster.others[1].listen, &SHOP, "POST", target, Some("r-1"), &refund).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    world.receiver.until("o-1", "refund.succeeded").await;
}

#[tokio::test]
async fn payment_of_crashed_gateway_is_resolved_by_another_and_never_resent() {
    let mut cluster = Cluster::new().await;
    let world = &cluster.world;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 3000})).await;
    let door = cluster.others[0].listen;
    let body = payment_body("o-1");
    let killed = tokio::spawn(async move {
        try_signed_request(door, &SHOP, "POST", "/v1/payments", Some("k"), body.to_string().as_bytes()).await
    });
    until("the sandbox has the order", || async {
        let seen = world.provider_order("o-1").await;
        (seen["executions"]["create"] == 1).then_some(()).ok_or(seen)
    })
    .await;
    cluster.others[0].kill();
    assert!(killed.await.unwrap().is_err(), "the client got no response");
    // The other gateways cannot know yet that the owner is dead: until its lease expires, the claim stays in progress.
    let early = world.create("o-1", "k").await;
    assert_eq!(early.status, 409, "{:?}", early.body);
    let present = until("another gateway resolves the payment", || async {
        let answer = world.create("o-1", "k").await;
        let is_known = answer.status == 201 && answer.is_replayed();
        is_known.then(|| answer.json()).ok_or_else(|| format!("{} {:?}", answer.status, answer.body))
    })
    .await;
    assert_eq!(present["status"], "pending", "{present}");
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    world.assert_created_once("o-1").await;
}

#[tokio::test]
async fn job_of_crashed_gateway_is_executed_once_by_another() {
    let mut cluster = Cluster::new().await;
    for gateway in std::iter::once(&cluster.world.gateway).chain(&cluster.others) {
        force_breaker(gateway, "open").await;
    }
    let accepted = signed_request_async(cluster.others[0].listen, "/v1/payments", "k", &payment_body("o-1")).await;
    assert_eq!(accepted.status, 202, "{:?}", accepted.body);
    let world = &cluster.world;
    until("the job is requeued", || async {
        let timeline = world.explain_json("o-1").await;
        timeline.contains("requeued").then_some(()).ok_or(timeline)
    })
    .await;
    cluster.others[0].kill();
    for gateway in [&cluster.world.gateway, &cluster.others[1]] {
        force_breaker(gateway, "none").await;
    }
    let event = world.receiver.until("o-1", "payment.pending").await.json();
    assert_eq!(event["data"]["payment"]["action"]["type"], "qr", "{event}");
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["create"]), (&1.into(), &1.into()), "{seen}");
    for gateway in [&cluster.world.gateway, &cluster.others[1]] {
        let again = signed_request_async(gateway.listen, "/v1/payments", "k", &payment_body("o-1")).await;
        assert_eq!((again.status, again.is_replayed()), (202, true), "{:?}", again.body);
    }
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
}

#[tokio::test]
async fn postgres_outage_rejects_payments_then_recovers() {
    let cluster = Cluster::new().await;
    let world = &cluster.world;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    cluster.server.crash();
    let refused = world.create("o-2", "k-2").await;
    assert_eq!(refused.status, 503, "{:?}", refused.body);
    assert_eq!(refused.json()["code"], "ledger_unavailable", "{:?}", refused.body);
    assert_eq!(world.provider_order("o-2").await["arrivals"]["create"], Value::Null);
    cluster.server.revive();
    until("payments are accepted again", || async {
        let answer = world.create("o-2", "k-2").await;
        (answer.status == 201).then_some(()).ok_or_else(|| format!("{} {:?}", answer.status, answer.body))
    })
    .await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
}
