//! Idempotency: repeated requests, concurrent duplicates, crashes, lost connections, unverifiable responses.

use serde_json::{Value, json};

use crate::harness::{
    OTHER, SHOP, World, WorldOptions, payment_body, send, signed_headers, signed_request, try_signed_request, until,
    without_token,
};

#[tokio::test]
async fn repeated_request_is_replayed_and_different_content_is_422() {
    let world = World::new().await;
    let first = world.create("o-1", "k-1").await;
    let again = world.create("o-1", "k-1").await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body);
    assert!(!first.is_replayed() && again.is_replayed());

    let other_body = world.create("o-2", "k-1").await;
    assert_eq!((other_body.status, other_body.json()["code"].as_str()), (422, Some("idempotency_key_reused")));
    let other_key = world.create("o-1", "k-2").await;
    assert_eq!((other_key.status, other_key.json()["order_id"].as_str()), (201, Some("o-1")));
    let mut changed = payment_body("o-1");
    changed["amount"]["value"] = 1001.into();
    let other_content = world.signed_request("POST", "/v1/payments", Some("k-3"), &changed).await;
    assert_eq!((other_content.status, other_content.json()["code"].as_str()), (422, Some("id_conflict")));
    assert_eq!(world.provider_order("o-1").await["arrivals"]["create"], 1);

    let theirs =
        signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some("k-1"), &payment_body("o-1")).await;
    assert_eq!(theirs.status, 201, "keys and orders are scoped to a merchant");
    assert!(!theirs.is_replayed());
}

#[tokio::test]
async fn concurrent_duplicate_requests_create_one_payment() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 300})).await;
    let listen = world.gateway.listen;
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            tokio::spawn(async move {
                signed_request(listen, &SHOP, "POST", "/v1/payments", Some("k"), &payment_body("o-1")).await
            })
        })
        .collect();
    let mut statuses = std::collections::BTreeMap::new();
    for task in tasks {
        let answer = task.await.unwrap();
        if answer.status == 409 {
            assert!(answer.headers.contains_key("retry-after"));
        }
        *statuses.entry(answer.status).or_insert(0) += 1;
    }
    assert!(statuses.keys().all(|status| [201, 409].contains(status)), "{statuses:?}");
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["create"]), (&1.into(), &1.into()), "{seen}");
}

#[tokio::test]
async fn crash_after_send_never_resends() {
    let mut world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 3000, "times": 2})).await;
    let listen = world.gateway.listen;
    let body = payment_body("o-1").to_string();
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let body = body.clone();
            tokio::spawn(async move {
                try_signed_request(listen, &SHOP, "POST", "/v1/payments", Some("k"), body.as_bytes()).await
            })
        })
        .collect();
    until("the sandbox has the order", || async {
        let seen = world.provider_order("o-1").await;
        (seen["executions"]["create"] == 1).then_some(()).ok_or(seen)
    })
    .await;
    world.gateway.kill();
    for task in tasks {
        if let Ok(answer) = task.await.unwrap() {
            assert_eq!(answer.status, 409, "no response reported a success: {:?}", answer.body);
        }
    }
    // The identical create recovers the lost `action`; the gateway is killed during that one too.
    world.start().await;
    let repeated = world.until_decided("o-1", "k").await;
    assert!([201, 202].contains(&repeated.status), "{} {:?}", repeated.status, repeated.body);
    assert!(repeated.is_replayed());
    until("the identical create is sent", || async {
        let seen = world.provider_order("o-1").await;
        (seen["arrivals"]["create"] == 2).then_some(()).ok_or(seen)
    })
    .await;
    world.gateway.kill();
    world.start().await;
    let payable = until_payable(&world, "o-1").await;
    let again = world.until_decided("o-1", "k").await;
    assert_eq!((again.status, &again.json()["action"]), (201, &payable["action"]), "{:?}", again.body);
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    world.assert_created_once("o-1").await;
}

/// Waits until an order whose create response was lost has its action.
pub async fn until_payable(world: &World, order: &str) -> Value {
    until(&format!("{order} has its action"), || async {
        let payment = world.payment(order).await;
        (payment["action"]["type"] == "qr").then_some(payment.clone()).ok_or(payment)
    })
    .await
}

#[tokio::test]
async fn connection_lost_after_execution_is_unknown_then_resolved() {
    let world = World::new().await;
    // The resolver's queries fail for a while too, so that `unknown` can be observed.
    world.inject_fault(json!({"operation": "query", "fault": "cut_before", "times": 9})).await;
    world.inject_fault(json!({"operation": "create", "fault": "cut_after"})).await;
    let answer = world.create("o-1", "k-1").await;
    let payment = answer.json();
    assert_eq!(answer.status, 202, "{payment}");
    assert_eq!((&payment["status"], &payment["money_state"]), (&"unknown".into(), &"unknown".into()), "{payment}");
    let repeated = world.create("o-1", "k-1").await;
    assert_eq!(repeated.status, 202, "{:?}", repeated.body);
    assert!(world.metrics().await.contains("tollgate_unknown_payments 1"), "{}", world.metrics().await);
    world.until_status("o-1", "pending").await;
    // The lost action is recovered, so that the payer can pay.
    let payable = until_payable(&world, "o-1").await;
    assert_eq!((&payable["provider"], &payable["status_reason"]), (&Value::Null, &Value::Null), "{payable}");
    let present = world.create("o-1", "k-1").await;
    assert_eq!((present.status, &without_token(&present)), (201, &payable));
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    world.assert_created_once("o-1").await;
}

#[tokio::test]
async fn unrecoverable_action_advises_new_order_id() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "status_after", "status": 500, "times": 4})).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 202);
    let lost = until("the action is given up", || async {
        let payment = world.payment("o-1").await;
        let is_recorded = payment["status_reason"].as_str().is_some_and(|why| why.contains("new `order_id`"));
        (is_recorded && payment["status"] == "pending").then_some(payment.clone()).ok_or(payment)
    })
    .await;
    assert_eq!(lost["provider"]["code"], "SYSTEM_ERROR", "{lost}");
    assert_eq!(without_token(&world.create("o-1", "k-1").await), lost);
    assert!(world.explain_json("o-1").await.contains("new `order_id`"));
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["create"]), (&4.into(), &1.into()), "{seen}");
    let closed = world.signed_request("POST", "/v1/payments/o-1/close", Some("c-1"), &Value::Null).await;
    assert_eq!((closed.status, &closed.json()["status"]), (200, &"closed".into()), "{:?}", closed.body);
}

#[tokio::test]
async fn failed_payment_and_refund_keep_first_provider_error() {
    let world = World::new().await;
    let refused = |operation| json!({"operation": operation, "fault": "status", "status": 500, "code": "SYSTEM_ERROR"});
    world.inject_fault(refused("create")).await;
    assert_eq!(world.create("o-1", "k-1").await.json()["provider"]["code"], "SYSTEM_ERROR");
    world.create("paid", "k-2").await;
    world.pay("paid").await;
    world.until_status("paid", "succeeded").await;
    world.inject_fault(refused("refund")).await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 1000, "currency": "CNY"}});
    let target = "/v1/payments/paid/refunds";
    assert_eq!(world.signed_request("POST", target, Some("r-1"), &refund).await.status, 202);
    for (order, kind) in [("o-1", "payment"), ("paid", "refund")] {
        let event = world.receiver.until(order, &format!("{kind}.failed")).await.json();
        assert_eq!(event["data"][kind]["provider"]["code"], "SYSTEM_ERROR", "{event}");
        assert!(world.explain_json(order).await.contains("\"refused\":\"SYSTEM_ERROR"));
    }
    assert_eq!(world.payment("o-1").await["provider"]["code"], "SYSTEM_ERROR");
    let failed = world.signed_request("GET", &format!("{target}/r-1"), None, &Value::Null).await.json();
    assert_eq!((&failed["status"], &failed["provider"]["code"]), (&"failed".into(), &"SYSTEM_ERROR".into()));
    // The amount is refundable again.
    let other = json!({"refund_id": "r-2", "amount": {"value": 1000, "currency": "CNY"}});
    assert_eq!(world.signed_request("POST", target, Some("r-2"), &other).await.status, 201);
}

#[tokio::test]
async fn connection_lost_before_execution_fails_after_not_found_grace() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "cut_before"})).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 202);
    let payment = world.until_status("o-1", "failed").await;
    assert_eq!(payment["money_state"], "not_moved");
    assert!(payment["status_reason"].as_str().is_some_and(|why| why.contains("unclear")), "{payment}");
    let seen = world.provider_order("o-1").await;
    assert_eq!(
        (&seen["arrivals"]["create"], &seen["executions"]["create"]),
        (&1.into(), &serde_json::Value::Null),
        "{seen}"
    );
    world.receiver.until("o-1", "payment.failed").await;
}

#[tokio::test]
async fn unverifiable_response_is_unknown_and_not_leaked() {
    let world = World::new().await;
    for (number, fault) in ["unsigned", "wrong_signature", "stale", "garbage", "other_amount"].iter().enumerate() {
        let order = format!("o-{number}");
        world
            .inject_fault(json!({"operation": "create", "fault": fault, "number": World::provider_order_no(&order)}))
            .await;
        let answer = world.create(&order, &order).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        if *fault == "other_amount" && answer.status == 201 {
            continue; // A native answer names no amount.
        }
        assert_eq!(answer.status, 202, "{fault}: {text}");
        assert!(!text.contains("weixin://"), "{fault}: {text}");
        assert_eq!(answer.json()["status"], "unknown", "{fault}");
        world.until_status(&order, "pending").await;
        world.assert_created_once(&order).await;
    }
}

#[tokio::test]
async fn provider_system_error_is_unknown() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "status_after", "status": 500})).await;
    let unclear = world.create("o-1", "k-1").await;
    assert_eq!((unclear.status, unclear.json()["status"].as_str()), (202, Some("unknown")), "{:?}", unclear.body);
    world.until_status("o-1", "pending").await;
}

#[tokio::test]
async fn not_sent_payment_may_be_retried_with_same_key() {
    let mut world = World::new().await;
    // A new gateway has no pooled connection.
    world.inject_fault(json!({"operation": "*", "fault": "refuse_connection", "times": 3})).await;
    let refused = world.create("o-1", "k-1").await;
    let problem = refused.json();
    assert_eq!((refused.status, &problem["code"]), (503, &"provider_unreachable".into()), "{problem}");
    assert_eq!((&problem["retryable"], &problem["money_state"]), (&"same_key".into(), &"not_sent".into()));
    assert!(refused.headers.contains_key("retry-after"));
    let again = world.create("o-1", "k-1").await;
    assert_eq!(again.status, 201, "{:?}", again.body);
    assert!(!again.is_replayed());
    assert_eq!(world.provider_order("o-1").await["executions"]["create"], 1);
    world.gateway.kill();
}

#[tokio::test]
async fn interrupted_refund_is_resolved_and_executed_once() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.until_status("o-1", "succeeded").await;
    world.inject_fault(json!({"operation": "refund", "fault": "cut_after"})).await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 400, "currency": "CNY"}});
    let answer = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    // The refund's notification may arrive before the lost connection is noticed; then the refund succeeds at once.
    let outcome = (answer.status, answer.json()["status"].as_str().unwrap().to_owned());
    assert!([(202, "unknown".to_owned()), (201, "succeeded".to_owned())].contains(&outcome), "{:?}", answer.body);
    let again = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    assert!([201, 202].contains(&again.status) && again.is_replayed());
    world.receiver.until("o-1", "refund.succeeded").await;
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["refund"], &seen["executions"]["refund"]), (&1.into(), &1.into()), "{seen}");
    assert_eq!(world.payment("o-1").await["refunded"], 400);
}

#[tokio::test]
async fn invalid_idempotency_key_is_400() {
    let world = World::new().await;
    let body = payment_body("o-1").to_string();
    for key in [None, Some(""), Some("a b"), Some(&*"x".repeat(256))] {
        let mut headers = signed_headers(&SHOP, "POST", "/v1/payments", body.as_bytes());
        headers.extend(key.map(|key| ("idempotency-key", key.to_owned())));
        let url = format!("http://{}/v1/payments", world.gateway.listen);
        let answer = send("POST", &url, &headers, body.as_bytes()).await.unwrap();
        assert_eq!(answer.status, 400, "{key:?}");
    }
    assert_eq!(world.create("o-1", &"x".repeat(255)).await.status, 201);
}

#[tokio::test]
async fn connection_lost_before_close_retries_until_closed() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    // The provider did not read the close: the order is still open.
    world.inject_fault(json!({"operation": "close", "fault": "cut_before"})).await;
    let unclear = world.signed_request("POST", "/v1/payments/o-1/close", Some("c-1"), &Value::Null).await;
    assert_eq!((unclear.status, &unclear.json()["status"]), (202, &"pending".into()), "{:?}", unclear.body);
    world.receiver.until("o-1", "payment.closed").await;
    assert_eq!(world.provider_order("o-1").await["executions"]["close"], 1);
    let again = world.signed_request("POST", "/v1/payments/o-1/close", Some("c-1"), &Value::Null).await;
    assert_eq!((again.status, &again.json()["status"]), (200, &"closed".into()));
}

#[tokio::test]
async fn expired_order_is_replayed_and_new_one_is_400() {
    let world = World::new().await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let mut body = payment_body("o-1");
    body["expires_at"] = soon.to_string().into();
    let first = world.signed_request("POST", "/v1/payments", Some("k-1"), &body).await;
    assert_eq!(first.status, 402, "WeChat Pay requires one minute at least: {:?}", first.body);
    until("the order has expired", || async { (jiff::Timestamp::now() > soon).then_some(()).ok_or("not yet") }).await;
    let again = world.signed_request("POST", "/v1/payments", Some("k-1"), &body).await;
    assert_eq!((again.status, again.body.clone(), again.is_replayed()), (402, first.body, true));
    body["order_id"] = "o-2".into();
    let late = world.signed_request("POST", "/v1/payments", Some("k-2"), &body).await;
    assert_eq!((late.status, &late.json()["code"]), (400, &"invalid_request".into()));
    assert_eq!(
        world.signed_request("GET", "/v1/payments/o-2", None, &Value::Null).await.status,
        404,
        "a rejected request is not stored"
    );
}

#[tokio::test]
async fn replaced_account_is_not_queried_for_old_payments() {
    let world = World::with(WorldOptions { channels: vec!["main", "other"], ..WorldOptions::default() }).await;
    world.create("o-1", "k-1").await;
    let at = world.conf().join("channels");
    let other = std::fs::read_to_string(at.join("other.toml")).unwrap();
    std::fs::write(at.join("main.toml"), other).unwrap();
    assert_eq!(world.reload().await.status, 200);
    let forced = send_no_cache(&world, "/v1/payments/o-1").await;
    assert_eq!((&forced["status"], &forced["stale"]), (&"pending".into(), &true.into()), "{forced}");
    let refused = world.signed_request("POST", "/v1/payments/o-1/close", Some("c-1"), &Value::Null).await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &"provider_unreachable".into()), "{:?}", refused.body);
    assert_eq!(world.provider_order("o-1").await["arrivals"], json!({"create": 1, "total": 1}));
}

async fn send_no_cache(world: &World, target: &str) -> Value {
    let mut headers = signed_headers(&SHOP, "GET", target, b"");
    headers.push(("cache-control", "no-cache".to_owned()));
    send("GET", &format!("http://{}{target}", world.gateway.listen), &headers, b"").await.unwrap().json()
}

#[tokio::test]
async fn explicit_channel_without_route_is_400() {
    let world = World::with(WorldOptions { channels: vec!["main", "theirs"], ..WorldOptions::default() }).await;
    let routes = "[[route]]\nto = [{ channel = \"main\" }]\n\
                  [[route]]\nmatch = { merchant = \"other\" }\nto = [{ channel = \"theirs\" }]\n";
    std::fs::write(world.conf().join("routes.toml"), routes).unwrap();
    assert_eq!(world.reload().await.status, 200);
    let mut body = payment_body("o-1");
    body["channel"] = "theirs".into();
    let refused = world.signed_request("POST", "/v1/payments", Some("k-1"), &body).await;
    assert_eq!((refused.status, &refused.json()["code"]), (400, &"unknown_channel".into()), "{:?}", refused.body);
    let taken = signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some("k-1"), &body).await;
    assert_eq!((taken.status, &taken.json()["channel"]), (201, &"theirs".into()), "{:?}", taken.body);
}

/// The client's deadline ends its wait, not the payment.
#[tokio::test]
async fn client_timeout_returns_202_and_payment_continues() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 5000})).await;
    let within = async |limit: &str, order: &str| {
        let body = payment_body(order).to_string();
        let mut headers = signed_headers(&SHOP, "POST", "/v1/payments", body.as_bytes());
        headers.extend([("idempotency-key", order.to_owned()), ("x-tollgate-timeout", limit.to_owned())]);
        let url = format!("http://{}/v1/payments", world.gateway.listen);
        send("POST", &url, &headers, body.as_bytes()).await.unwrap()
    };
    for wrong in ["", "2", "-1s", "0s", "soon"] {
        let refused = within(wrong, "o-0").await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (400, Some("invalid_request")), "{wrong}");
    }
    let answer = within("3s", "o-1").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (202, Some("unknown")), "{:?}", answer.body);
    world.until_status("o-1", "pending").await;
    assert_eq!(within("20s", "o-2").await.status, 201);
    world.assert_created_once("o-1").await;
}
