//! Clock skew: of one gateway in a cluster, and of a gateway that restarts.

use serde_json::{Value, json};

use crate::harness::{
    Gateway, LONG_TIMEOUTS, SHOP, World, WorldOptions, payment_body, send, signed_request, signed_request_async, until,
};
use crate::server::Server;

const DAY: i64 = 24 * 3600;

/// Starts a world on PostgreSQL whose gateways may have wrong clocks.
async fn over_postgres(server: &Server, more: &str, edit: fn(&std::path::Path, std::net::SocketAddr)) -> World {
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"\n{more}", server.url);
    World::with(WorldOptions {
        ledger: Some(ledger),
        provider: tollgate_sandbox::keygen::SandboxProvider::WECHAT_V2,
        edit,
        ..WorldOptions::default()
    })
    .await
}

/// Returns the body of a payment by a scanned code that succeeds at once.
fn scanned_payment(order: &str, serial: usize) -> Value {
    let mut body = payment_body(order);
    body["method"] = "wechat.codepay".into();
    body["payer"] = json!({"auth_code": format!("13{serial:012}1000"), "client_ip": "203.0.113.9"});
    body
}

#[tokio::test]
async fn late_executed_payment_is_not_failed_by_gateway_with_wrong_clock() {
    let server = Server::start(&[]);
    let started = jiff::Timestamp::now();
    let mut world = over_postgres(&server, "max_clock_offset = \"1h\"", |conf, _| {
        let file = conf.join("channels/main.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("not_found_grace = \"2s\"") && text.contains(LONG_TIMEOUTS), "{text}");
        let text = text.replace("not_found_grace = \"2s\"", "not_found_grace = \"14s\"");
        // The request times out before the provider executes it.
        let short = "timeouts = { connect = \"5s\", read = \"5s\", write = \"5s\", total = \"5s\" }";
        std::fs::write(&file, text.replace(LONG_TIMEOUTS, short)).unwrap();
    })
    .await;
    let mut others = Vec::new();
    for ahead in [60, 600, -600] {
        others.push(world.start_another_with_clock(&format!("ahead{ahead}"), ahead).await);
    }
    let orders = ["o-1", "o-2", "o-3"];
    world.inject_fault(json!({"operation": "create", "fault": "delay_before", "delay_ms": 11000, "times": 3})).await;
    let asked = create_concurrently(&world, orders).await;
    assert!(asked.iter().all(|status| *status == 202), "{asked:?}");
    // Only the gateways with wrong clocks keep running.
    world.gateway.kill();
    let address = others[1].listen;
    for order in orders {
        // Only the resolvers query the provider: a repeated request returns what they recorded in the ledger.
        let payment = until("the outcome is resolved", || async {
            let answer =
                signed_request(address, &SHOP, "POST", "/v1/payments", Some(order), &payment_body(order)).await.json();
            if answer["status"] == "unknown" { Err(answer) } else { Ok(answer) }
        })
        .await;
        assert_eq!(
            (&payment["status"], &payment["money_state"]),
            (&json!("pending"), &json!("not_moved")),
            "{payment}"
        );
    }
    // This gateway receives the notifications.
    world.start().await;
    for order in orders {
        world.pay(order).await;
        world.receiver.until(order, "payment.succeeded").await;
        let kinds: Vec<Value> =
            world.receiver.events_of(order).iter().map(|event| event.json()["type"].clone()).collect();
        assert!(!kinds.contains(&json!("payment.failed")), "{kinds:?}");
    }
    // Recorded times come from PostgreSQL's clock.
    let url = format!("http://{}/explain/o-1", others[0].admin);
    let timeline = send("GET", &url, &[], b"").await.unwrap().json().to_string();
    // The wrong clocks are at least one minute off.
    let tolerance = jiff::SignedDuration::from_secs(30);
    let (from, until) = (started - tolerance, jiff::Timestamp::now() + tolerance);
    let times: Vec<jiff::Timestamp> =
        timeline.split("\"at\":\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect();
    assert!(times.len() > 4, "{timeline}");
    for time in times {
        assert!((from..until).contains(&time), "{time}: {timeline}");
    }
}

/// Creates three payments concurrently and returns the HTTP statuses.
async fn create_concurrently(world: &World, orders: [&'static str; 3]) -> Vec<u16> {
    let address = world.gateway.listen;
    let asks = orders.map(|order| {
        tokio::spawn(async move {
            signed_request(address, &SHOP, "POST", "/v1/payments", Some(order), &payment_body(order)).await.status
        })
    });
    let mut statuses = Vec::new();
    for asked in asks {
        statuses.push(asked.await.unwrap());
    }
    statuses
}

#[tokio::test]
async fn queued_job_is_executed_despite_clock_skew() {
    let server = Server::start(&[]);
    let world = over_postgres(&server, "max_clock_offset = \"1h\"", |_, _| {}).await;
    let mut others = Vec::new();
    for ahead in [90, 600, -600] {
        others.push(world.start_another_with_clock(&format!("ahead{ahead}"), ahead).await);
    }
    let addresses: Vec<_> = std::iter::once(&world.gateway).chain(&others).map(|gateway| gateway.listen).collect();
    for (serial, address) in addresses.iter().cycle().take(24).enumerate() {
        let order = format!("o-{serial}");
        let accepted = signed_request_async(*address, "/v1/payments", &order, &scanned_payment(&order, serial)).await;
        assert_eq!(accepted.status, 202, "{:?}", accepted.body);
    }
    for serial in 0..24 {
        world.receiver.until(&format!("o-{serial}"), "payment.succeeded").await;
    }
    for gateway in std::iter::once(&world.gateway).chain(&others) {
        let metrics = metrics(gateway).await;
        assert!(!metrics.contains("result=\"expired\""), "{metrics}");
    }
}

async fn metrics(gateway: &Gateway) -> String {
    let answer = send("GET", &format!("http://{}/metrics", gateway.admin), &[], b"").await.unwrap();
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test]
async fn gateway_beyond_max_clock_offset_is_not_ready_and_runs_no_background_work() {
    let server = Server::start(&[]);
    let mut world = over_postgres(&server, "", |_, _| {}).await;
    world.create("o-1", "k-1").await;
    world.gateway.kill();
    for ahead in [60, -600] {
        world.gateway.clock_ahead = ahead;
        world.start_without_readiness().await;
        let side = if ahead > 0 { "60.0 s ahead of PostgreSQL's" } else { "600.0 s behind PostgreSQL's" };
        until("/readyz gives the clock offset", || async {
            let ready = world.admin_request("GET", "/readyz", &[]).await;
            let said = String::from_utf8(ready.body.to_vec()).unwrap();
            let is_said = ready.status == 503 && said.contains(side) && said.contains("max_clock_offset");
            is_said.then_some(()).ok_or(said)
        })
        .await;
        let offset = metrics(&world.gateway).await;
        let offset = offset.lines().find_map(|line| line.strip_prefix("tollgate_clock_offset_seconds "));
        let offset: f64 = offset.unwrap().parse().unwrap();
        assert!((offset - ahead as f64).abs() < 5.0, "{offset}");
        world.until_logged("this gateway is not ready and does no background work").await;
        // Requests are still answered, by PostgreSQL's time.
        let answer = world.create("o-1", "k-1").await;
        assert!(answer.status == 201 && answer.is_replayed(), "{:?}", answer.body);
        let job = format!("job{ahead}");
        let accepted = signed_request_async(world.gateway.listen, "/v1/payments", &job, &payment_body(&job)).await;
        assert_eq!(accepted.status, 202, "{:?}", accepted.body);
        world.until_metric("tollgate_queue_depth 1").await;
        let timeline = world.explain_json(&job).await;
        assert!(timeline.contains("\"queued\"") && !timeline.contains("\"dequeued\""), "{timeline}");
        world.gateway.kill();
        // With a correct clock the job is executed.
        world.gateway.clock_ahead = 0;
        world.start().await;
        world.receiver.until(&job, "payment.pending").await;
        world.gateway.kill();
    }
}

#[tokio::test]
async fn start_with_clock_far_ahead_purges_nothing_and_keeps_idempotency_keys() {
    // The embedded ledger uses the clock of its own machine.
    let mut world =
        World::with(WorldOptions { ledger: Some("path = \"../data\"".to_owned()), ..WorldOptions::default() }).await;
    for order in ["o-1", "o-2", "o-3"] {
        assert_eq!(world.create(order, order).await.status, 201);
        world.pay(order).await;
        world.receiver.until(order, "payment.succeeded").await;
    }
    world.until_metric("tollgate_delivery_queue_depth{sink=\"webhook\"} 0").await;
    for (restarts, ahead) in [25 * 3600, 401 * DAY].into_iter().enumerate() {
        world.gateway.kill();
        world.gateway.clock_ahead = ahead;
        world.start().await;
        world.until_metric("\ntollgate_ledger_purge_refused 1\n").await;
        until("the log reports the refused purge", || async {
            let log = world.log();
            let said = log.matches("nothing is purged").count();
            if said == restarts + 1 { Ok(()) } else { Err(log) }
        })
        .await;
        assert!(!world.metrics().await.contains("tollgate_ledger_purged_total{"), "{ahead}");
    }
    world.gateway.kill();
    world.gateway.clock_ahead = 0;
    world.start().await;
    world.until_metric("\ntollgate_ledger_purge_refused 0\n").await;
    for order in ["o-1", "o-2", "o-3"] {
        let again = world.create(order, order).await;
        assert!(again.status == 201 && again.is_replayed(), "{:?}", again.body);
        assert_eq!(world.payment(order).await["status"], "succeeded");
        assert_eq!(world.provider_order(order).await["arrivals"]["create"], 1);
    }
}

#[tokio::test]
async fn retries_scheduled_under_wrong_clock_resume_after_correction() {
    let mut world =
        World::with(WorldOptions { ledger: Some("path = \"../data\"".to_owned()), ..WorldOptions::default() }).await;
    // An undelivered event and an unknown outcome, both retried under a clock that is far ahead.
    world.receiver.answer_with(500);
    world.inject_fault(json!({"operation": "query", "fault": "garbage", "times": 1000})).await;
    world.inject_fault(json!({"operation": "create", "fault": "cut_after"})).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 202);
    until("a delivery was attempted", || async {
        let came = world.receiver.events_of("o-1");
        if came.is_empty() { Err("nothing came") } else { Ok(()) }
    })
    .await;
    let before = world.receiver.events_of("o-1").len();
    world.gateway.kill();
    world.gateway.clock_ahead = 401 * DAY;
    world.start().await;
    until("the event and the query were retried", || async {
        let (came, timeline) = (world.receiver.events_of("o-1").len(), world.explain_json("o-1").await);
        let year = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(401 * 24)).to_string()[..4].to_owned();
        (came > before && timeline.contains(&format!("\"at\":\"{year}"))).then_some(()).ok_or(timeline)
    })
    .await;
    world.gateway.kill();
    world.gateway.clock_ahead = 0;
    world.receiver.answer_with(204);
    world.sandbox_control("DELETE", "/faults", Value::Null).await;
    world.start().await;
    world.until_status("o-1", "pending").await;
    world.receiver.until("o-1", "payment.unknown").await;
    let delivered = until("the event is delivered", || async {
        let delivered = world.receiver.events_of("o-1").into_iter().filter(|event| event.answered == 204).count();
        if delivered == 0 { Err("not yet") } else { Ok(delivered) }
    })
    .await;
    assert!(delivered > 0);
}
