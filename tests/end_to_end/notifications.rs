//! Provider notifications: verified, matched by order and amount, deduplicated, durable before acknowledgement.

use serde_json::{Value, json};

use tollgate_harness::merchant::provider_number;

use crate::harness::{OTHER, World, WorldOptions, payment_body, send, signed_request, until, write_merchant};

/// Returns the gateway's response statuses to the notifications of an order, in order.
async fn answers(world: &World, order: &str) -> Vec<u64> {
    let seen = world.provider_order(order).await;
    let attempts = |notification: &Value| notification["attempts"].as_array().cloned().unwrap_or_default();
    let all = seen["notifications"].as_array().cloned().unwrap_or_default();
    all.iter().flat_map(attempts).filter_map(|attempt| attempt["status"].as_u64()).collect()
}

async fn until_answered(world: &World, order: &str, count: usize) -> Vec<u64> {
    until(&format!("{count} notifications answered"), || async {
        let answers = answers(world, order).await;
        if answers.len() >= count { Ok(answers) } else { Err(format!("{answers:?}")) }
    })
    .await
}

#[tokio::test]
async fn forged_altered_stale_or_foreign_notification_is_rejected() {
    let world = World::new().await;
    let kinds = ["body", "signature", "stale", "serial", "signtest", "amount", "account"];
    world.create("o-1", "k-1").await;
    let path = format!("/orders/{}", World::provider_order_no("o-1"));
    world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
    for (number, tamper) in kinds.iter().enumerate() {
        world.sandbox_control("POST", &format!("{path}/notify"), json!({"tamper": tamper})).await;
        let answers = until_answered(&world, "o-1", number + 1).await;
        assert!((400..500).contains(&answers[number]), "{tamper}: {answers:?}");
    }
    let metrics = world.metrics().await;
    for result in ["bad_signature", "probe", "mismatch"] {
        assert!(metrics.contains(&format!("channel=\"main\",result=\"{result}\"")), "{result}: {metrics}");
    }
    let mismatch = world.receiver.until("o-1", "payment.mismatch").await.json();
    assert_eq!(mismatch["data"]["payment"]["status"], "pending", "a mismatch changes no status: {mismatch}");
    assert!(!world.receiver.events_of("o-1").iter().any(|event| event.json()["type"] == "payment.succeeded"));

    world.sandbox_control("POST", &format!("{path}/notify"), json!({})).await;
    let answers = until_answered(&world, "o-1", kinds.len() + 1).await;
    assert_eq!(answers.last(), Some(&204));
    world.receiver.until("o-1", "payment.succeeded").await;
}

#[tokio::test]
async fn duplicate_and_late_notifications_are_acknowledged_with_one_event() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    let path = format!("/orders/{}", World::provider_order_no("o-1"));
    world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
    world.sandbox_control("POST", &format!("{path}/notify"), json!({"times": 3})).await;
    assert_eq!(until_answered(&world, "o-1", 3).await, [204, 204, 204]);
    world.receiver.until("o-1", "payment.succeeded").await;
    let version = world.payment("o-1").await["version"].clone();

    let refund = json!({"refund_id": "r-1", "amount": {"value": 1000, "currency": "CNY"}});
    world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    world.receiver.until("o-1", "refund.succeeded").await;
    // A late payment notification, after the refund.
    world.sandbox_control("POST", &format!("{path}/notify"), json!({})).await;
    assert_eq!(until_answered(&world, "o-1", 4).await.last(), Some(&204));
    let payment = world.payment("o-1").await;
    assert_eq!((&payment["status"], &payment["refunded"]), (&"succeeded".into(), &1000.into()));
    assert!(payment["version"].as_u64() > version.as_u64(), "the refund increased the version");
    let kinds: Vec<String> =
        world.receiver.events_of("o-1").iter().map(|event| event.json()["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["payment.succeeded", "refund.succeeded"]);
}

#[tokio::test]
async fn acknowledged_notification_survives_crash_and_event_keeps_its_id() {
    let mut world = World::new().await;
    world.receiver.answer_with(503);
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    assert_eq!(until_answered(&world, "o-1", 1).await, [204]);
    world.gateway.kill();
    let before = world.receiver.events_of("o-1");
    world.receiver.answer_with(204);
    world.start().await;
    let after = until("the event is delivered", || async {
        let all = world.receiver.events_of("o-1");
        all.iter().find(|event| event.answered == 204).cloned().ok_or(format!("{all:?}"))
    })
    .await;
    assert_eq!(after.json()["type"], "payment.succeeded");
    for earlier in before {
        assert_eq!(
            (earlier.id, earlier.body),
            (after.id.clone(), after.body.clone()),
            "each attempt has the same id and body"
        );
    }
    assert_eq!(world.payment("o-1").await["status"], "succeeded");
}

#[tokio::test]
async fn failed_webhook_is_retried_with_same_event_id() {
    let world = World::new().await;
    world.receiver.answer_with(500);
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    world.receiver.answer_with(204);
    let events = until("the event is delivered again", || async {
        let events = world.receiver.events_of("o-1");
        if events.last().is_some_and(|event| event.answered == 204) { Ok(events) } else { Err(format!("{events:?}")) }
    })
    .await;
    assert!(events.len() >= 2 && events.iter().all(|event| event.id == events[0].id && event.body == events[0].body));
}

#[tokio::test]
async fn abnormal_refund_is_escalated_to_manual_review() {
    let world = World::with(WorldOptions { refunds_wait: true, ..WorldOptions::default() }).await;
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    let path = format!("/refunds/{}/finish", provider_number(&["shop", "o-1", "r-1"]));
    world.sandbox_control("POST", &path, json!({"status": "ABNORMAL"})).await;
    world.until_metric("tollgate_manual_review_total{channel=\"main\"} 1").await;
    let timeline = world.explain_json("o-1").await;
    assert!(timeline.contains("\"what\":\"manual_review\""), "{timeline}");
    let asked =
        world.signed_request("GET", "/v1/payments/o-1/refunds/r-1", None, &serde_json::Value::Null).await.json();
    assert_eq!(asked["status"], "pending", "{asked}");
    world.sandbox_control("POST", &path, json!({"status": "SUCCESS"})).await;
    world.receiver.until("o-1", "refund.succeeded").await;
}

#[tokio::test]
async fn hung_webhook_does_not_delay_other_merchants() {
    let world = World::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/events", silent.local_addr().unwrap());
    write_merchant(world.conf(), "other", &OTHER, &url);
    assert_eq!(world.reload().await.status, 200);
    let orders: Vec<_> = (0..20).map(|number| format!("silent-{number}")).collect();
    for order in &orders {
        let body = payment_body(order);
        signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some(order), &body).await;
        let path = format!("/orders/{}/pay", provider_number(&["other", order]));
        assert_eq!(world.sandbox_control("POST", &path, json!({})).await["state"], "SUCCESS");
    }
    let (_held, _) = silent.accept().await.unwrap();
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    until("all events of the other merchant are pending", || async {
        let metrics = world.metrics().await;
        let waiting = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tollgate_delivery_queue_depth{sink=\"webhook\"} "))
            .unwrap();
        if waiting.parse::<f64>().unwrap() >= 20.0 { Ok(()) } else { Err(waiting.to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn platform_certificates_are_fetched_beside_configured_public_keys() {
    let edit = |conf: &std::path::Path, _| {
        // `older` has no configured public key, so its keys are fetched from the provider.
        let path = conf.join("channels/older.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("verify")).collect();
        std::fs::write(path, lines.join("\n")).unwrap();
    };
    let world = World::with(WorldOptions { channels: vec!["main", "older"], edit, ..WorldOptions::default() }).await;
    for (channel, key) in [("main", "public_key"), ("older", "certificate"), ("main", "certificate")] {
        let order = format!("{channel}-{key}").replace('_', "-");
        let mut body = payment_body(&order);
        body["channel"] = channel.into();
        let created = world.signed_request("POST", "/v1/payments", Some(&order), &body).await;
        assert_eq!(created.status, 201, "{channel}: {:?}", created.body);
        let path = format!("/orders/{}", World::provider_order_no(&order));
        world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
        // An unknown certificate makes `main` fetch the published ones once.
        world.sandbox_control("POST", &format!("{path}/notify"), json!({"key": key})).await;
        world.receiver.until(&order, "payment.succeeded").await;
    }
}

#[tokio::test]
async fn unsigned_request_to_notify_path_is_4xx() {
    let world = World::new().await;
    let base = format!("http://{}/notify", world.gateway.listen);
    for (method, path, body) in [
        ("POST", "/nobody", "{}"),
        ("GET", "/main", ""),
        ("POST", "/main", ""),
        ("POST", "/main", "{}"),
        ("POST", "/", ""),
    ] {
        let answer = send(method, &format!("{base}{path}"), &[], body.as_bytes()).await.unwrap();
        assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.status);
    }
}
