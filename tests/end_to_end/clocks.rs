//! Wrong clocks: of one gateway among several, and of one that starts anew.

use serde_json::{Value, json};

use crate::harness::{Gateway, SHOP, TIMEOUTS, World, WorldOptions, ask, ask_later, order_of, send, until};
use crate::server::Server;

const DAY: i64 = 24 * 3600;

/// A world over PostgreSQL whose gateways may have wrong clocks.
async fn over_postgres(server: &Server, more: &str, edit: fn(&std::path::Path, std::net::SocketAddr)) -> World {
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"\n{more}", server.url);
    World::with(WorldOptions {
        ledger: Some(ledger),
        provider: tollgate::keygen::SandboxProvider::WechatV2,
        edit,
        ..WorldOptions::default()
    })
    .await
}

/// A scanned code that pays at once.
fn till(order: &str, serial: usize) -> Value {
    let mut body = order_of(order);
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
        assert!(text.contains("not_found_grace = \"2s\"") && text.contains(TIMEOUTS), "{text}");
        let text = text.replace("not_found_grace = \"2s\"", "not_found_grace = \"14s\"");
        // The request ends before the provider executes it.
        let short = "timeouts = { connect = \"5s\", read = \"5s\", write = \"5s\", total = \"5s\" }";
        std::fs::write(&file, text.replace(TIMEOUTS, short)).unwrap();
    })
    .await;
    let mut others = Vec::new();
    for ahead in [60, 600, -600] {
        others.push(world.join_with_clock(&format!("ahead{ahead}"), ahead).await);
    }
    let orders = ["o-1", "o-2", "o-3"];
    world.fault(json!({"operation": "create", "fault": "delay_before", "delay_ms": 11000, "times": 3})).await;
    let asked = created_at_once(&world, orders).await;
    assert!(asked.iter().all(|status| *status == 202), "{asked:?}");
    // Only those with wrong clocks go on.
    world.gateway.kill();
    let door = others[1].listen;
    for order in orders {
        // Nobody asks but the resolvers: what they find out is found in the ledger.
        let payment = until("it is known", || async {
            let answer = ask(door, &SHOP, "POST", "/v1/payments", Some(order), &order_of(order)).await.json();
            if answer["status"] == "unknown" { Err(answer) } else { Ok(answer) }
        })
        .await;
        assert_eq!(
            (&payment["status"], &payment["money_state"]),
            (&json!("pending"), &json!("not_moved")),
            "{payment}"
        );
    }
    // Where notifications come in.
    world.start().await;
    for order in orders {
        world.pay(order).await;
        world.receiver.until(order, "payment.succeeded").await;
        let told: Vec<Value> = world.receiver.of(order).iter().map(|event| event.json()["type"].clone()).collect();
        assert!(!told.contains(&json!("payment.failed")), "{told:?}");
    }
    // What is written down has the time of PostgreSQL.
    let url = format!("http://{}/explain/o-1", others[0].admin);
    let told = send("GET", &url, &[], b"").await.unwrap().json().to_string();
    // The wrong clocks are at least a minute off.
    let tolerance = jiff::SignedDuration::from_secs(30);
    let (from, until) = (started - tolerance, jiff::Timestamp::now() + tolerance);
    let times: Vec<jiff::Timestamp> =
        told.split("\"at\":\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect();
    assert!(times.len() > 4, "{told}");
    for time in times {
        assert!((from..until).contains(&time), "{time}: {told}");
    }
}

/// The statuses of answers to new payments that are made at the same time.
async fn created_at_once(world: &World, orders: [&'static str; 3]) -> Vec<u16> {
    let door = world.gateway.listen;
    let asks = orders.map(|order| {
        tokio::spawn(
            async move { ask(door, &SHOP, "POST", "/v1/payments", Some(order), &order_of(order)).await.status },
        )
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
        others.push(world.join_with_clock(&format!("ahead{ahead}"), ahead).await);
    }
    let doors: Vec<_> = std::iter::once(&world.gateway).chain(&others).map(|gateway| gateway.listen).collect();
    for (serial, door) in doors.iter().cycle().take(24).enumerate() {
        let order = format!("o-{serial}");
        let accepted = ask_later(*door, "/v1/payments", &order, &till(&order, serial)).await;
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
        world.gateway.ahead = ahead;
        world.start_alive().await;
        let side = if ahead > 0 { "60.0 s ahead of PostgreSQL's" } else { "600.0 s behind PostgreSQL's" };
        until("it says why it is not ready", || async {
            let ready = world.admin("GET", "/readyz", &[]).await;
            let said = String::from_utf8(ready.body.to_vec()).unwrap();
            let is_said = ready.status == 503 && said.contains(side) && said.contains("max_clock_offset");
            is_said.then_some(()).ok_or(said)
        })
        .await;
        let offset = metrics(&world.gateway).await;
        let offset = offset.lines().find_map(|line| line.strip_prefix("tollgate_clock_offset_seconds "));
        let offset: f64 = offset.unwrap().parse().unwrap();
        assert!((offset - ahead as f64).abs() < 5.0, "{offset}");
        assert!(world.log().contains("this gateway is not ready and does no background work"), "{}", world.log());
        // What comes all the same is answered, by PostgreSQL's time.
        let answer = world.create("o-1", "k-1").await;
        assert!(answer.status == 201 && answer.is_replayed(), "{:?}", answer.body);
        let job = format!("job{ahead}");
        let accepted = ask_later(world.gateway.listen, "/v1/payments", &job, &order_of(&job)).await;
        assert_eq!(accepted.status, 202, "{:?}", accepted.body);
        world.until_metric("tollgate_queue_depth 1").await;
        let told = world.explained(&job).await;
        assert!(told.contains("\"queued\"") && !told.contains("\"dequeued\""), "{told}");
        world.gateway.kill();
        // With a right clock it goes on.
        world.gateway.ahead = 0;
        world.start().await;
        world.receiver.until(&job, "payment.pending").await;
        world.gateway.kill();
    }
}

#[tokio::test]
async fn start_with_clock_far_ahead_purges_nothing_and_keeps_idempotency_keys() {
    // This is about the clock of one machine.
    let mut world =
        World::with(WorldOptions { ledger: Some("path = \"../data\"".to_owned()), ..WorldOptions::default() }).await;
    for order in ["o-1", "o-2", "o-3"] {
        assert_eq!(world.create(order, order).await.status, 201);
        world.pay(order).await;
        world.receiver.until(order, "payment.succeeded").await;
    }
    world.until_metric("tollgate_delivery_queue_depth 0").await;
    for (restarts, ahead) in [25 * 3600, 401 * DAY].into_iter().enumerate() {
        world.gateway.kill();
        world.gateway.ahead = ahead;
        world.start().await;
        world.until_metric("\ntollgate_ledger_purge_refused 1\n").await;
        until("the log says so", || async {
            let log = world.log();
            let said = log.matches("nothing is purged").count();
            if said == restarts + 1 { Ok(()) } else { Err(log) }
        })
        .await;
        assert!(!world.metrics().await.contains("tollgate_ledger_purged_total{"), "{ahead}");
    }
    world.gateway.kill();
    world.gateway.ahead = 0;
    world.start().await;
    world.until_metric("\ntollgate_ledger_purge_refused 0\n").await;
    for order in ["o-1", "o-2", "o-3"] {
        let again = world.create(order, order).await;
        assert!(again.status == 201 && again.is_replayed(), "{:?}", again.body);
        assert_eq!(world.payment(order).await["status"], "succeeded");
        assert_eq!(world.seen(order).await["arrivals"]["create"], 1);
    }
}

#[tokio::test]
async fn retries_scheduled_under_wrong_clock_resume_after_correction() {
    let mut world =
        World::with(WorldOptions { ledger: Some("path = \"../data\"".to_owned()), ..WorldOptions::default() }).await;
    // An event that nobody takes and an outcome that nobody knows, both tried under a clock that is far ahead.
    world.receiver.answer_with(500);
    world.fault(json!({"operation": "query", "fault": "garbage", "times": 1000})).await;
    world.fault(json!({"operation": "create", "fault": "cut_after"})).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 202);
    until("its event was tried", || async {
        let came = world.receiver.of("o-1");
        if came.is_empty() { Err("nothing came") } else { Ok(()) }
    })
    .await;
    let before = world.receiver.of("o-1").len();
    world.gateway.kill();
    world.gateway.ahead = 401 * DAY;
    world.start().await;
    until("it was tried again, and asked about", || async {
        let (came, told) = (world.receiver.of("o-1").len(), world.explained("o-1").await);
        let year = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(401 * 24)).to_string()[..4].to_owned();
        (came > before && told.contains(&format!("\"at\":\"{year}"))).then_some(()).ok_or(told)
    })
    .await;
    world.gateway.kill();
    world.gateway.ahead = 0;
    world.receiver.answer_with(204);
    world.control("DELETE", "/faults", Value::Null).await;
    world.start().await;
    world.until_status("o-1", "pending").await;
    world.receiver.until("o-1", "payment.unknown").await;
    let heard = until("it is delivered", || async {
        let heard = world.receiver.of("o-1").into_iter().filter(|event| event.answered == 204).count();
        if heard == 0 { Err("not yet") } else { Ok(heard) }
    })
    .await;
    assert!(heard > 0);
}
