//! Tests of scripted faults.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::NOWHERE;
use super::merchant::{Receiver, TestSandbox};

#[tokio::test]
async fn cut_connection_gives_no_response_and_counters_show_arrivals_and_executions() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    for (number, fault, arrivals, created) in
        [("order-unread", "cut_unread", 0, 0), ("order-before", "cut_before", 1, 0), ("order-after", "cut_after", 1, 1)]
    {
        for protocol in [b"http/1.1".as_slice(), b"h2"] {
            simulator.control("POST", "/reset", Value::Null).await;
            simulator.fault(json!({"operation": "create", "fault": fault})).await;
            let body = merchant.order(number, NOWHERE);
            let request = || merchant.request("POST", "/v3/pay/transactions/native", &body);
            merchant.send_over(request(), protocol).await.unwrap_err();
            let orders = simulator.control_get("/orders").await;
            assert_eq!(orders[0]["arrivals"]["create"].as_u64().unwrap_or(0), arrivals, "{fault}: {orders}");
            assert_eq!(orders[0]["created"].as_u64().unwrap_or(0), created, "{fault}: {orders}");
            assert_eq!(simulator.control_get("/stats").await["cuts"], 1);
            // The fault is used up: the same request succeeds and creates no second order.
            assert_eq!(merchant.send_over(request(), protocol).await.unwrap().status, 200);
            let order = simulator.control_get(&format!("/orders/{number}")).await;
            assert_eq!((&order["created"], &order["arrivals"]["total"]), (&json!(1), &json!(arrivals + 1)), "{order}");
        }
    }
}

#[tokio::test]
async fn scripted_number_of_connections_and_client_certificates_is_rejected() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    simulator.fault(json!({"fault": "refuse_connection"})).await;
    simulator.fault(json!({"fault": "refuse_client_certificate", "times": 2})).await;
    for _ in 0..3 {
        merchant.query("order-1").await.unwrap_err();
    }
    assert_eq!(merchant.query("order-1").await.unwrap().status, 404);
    let stats = simulator.control_get("/stats").await;
    assert_eq!((&stats["refused_connections"], &stats["refused_handshakes"]), (&json!(1), &json!(2)), "{stats}");
    assert_eq!(stats["requests"], 1);
}

#[tokio::test]
async fn connection_without_client_certificate_is_rejected_unless_optional() {
    for required in [true, false] {
        let mut simulator = TestSandbox::with(|options| options.require_client_certificate = required).await;
        let tls = &mut simulator.merchant.tls;
        tls.client_auth_cert_resolver = Arc::new(NoCertificate);
        let answer = simulator.merchant.query("order-1").await;
        assert_eq!(answer.is_err(), required);
    }
}

#[tokio::test]
async fn scripted_response_faults_change_responses() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    merchant.create(&merchant.order("order-1", NOWHERE)).await.unwrap();
    simulator.control("POST", "/orders/order-1/pay", json!({"notify": false})).await;
    let good = merchant.query("order-1").await.unwrap().json();
    for fault in ["unsigned", "wrong_signature", "stale", "garbage", "other_amount", "other_account", "status"] {
        simulator
            .fault(json!({"operation": "query", "fault": fault, "number": "order-1", "status": 502, "code": "X"}))
            .await;
        // The fault remains pending for its order.
        assert_eq!(merchant.query("order-2").await.unwrap().status, 404);
        let answer = merchant.query("order-1").await.unwrap();
        let is_signature_valid = merchant.verifies(&answer.headers, &answer.body);
        assert_eq!(is_signature_valid, !matches!(fault, "unsigned" | "wrong_signature" | "stale"), "{fault}");
        let body = answer.json();
        match fault {
            "garbage" => assert_eq!((answer.status, body), (200, Value::Null)),
            "other_amount" => assert_eq!(body["amount"]["total"], 101),
            "other_account" => assert_ne!(body["mchid"], good["mchid"]),
            "status" => assert_eq!((answer.status, body["code"].as_str()), (502, Some("X"))),
            "unsigned" => assert!(body == good && !answer.headers.contains_key("wechatpay-signature")),
            _ => assert_eq!(body, good),
        }
        assert_eq!(merchant.query("order-1").await.unwrap().json(), good);
    }
}

#[tokio::test]
async fn error_status_after_execution_leaves_order_created() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    simulator.fault(json!({"operation": "create", "fault": "status", "code": ""})).await;
    simulator.fault(json!({"operation": "create", "fault": "status_after"})).await;
    let order = merchant.order("order-1", NOWHERE);
    let answer = merchant.create(&order).await.unwrap();
    assert_eq!((answer.status, answer.json()), (500, Value::Null));
    assert!(!answer.headers.contains_key("wechatpay-signature"));
    assert_eq!(simulator.control_get("/orders/order-1").await["state"], "NONE");
    let answer = merchant.create(&order).await.unwrap();
    assert_eq!((answer.status, answer.json()["code"].as_str()), (500, Some("SYSTEM_ERROR")));
    assert_eq!(simulator.control_get("/orders/order-1").await["state"], "NOTPAY");
}

#[tokio::test]
async fn delayed_request_is_executed_after_client_disconnects() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    simulator.fault(json!({"operation": "create", "fault": "delay_before", "delay_ms": 300})).await;
    let order = merchant.order("order-1", NOWHERE);
    // The client disconnects as soon as its request has arrived.
    tokio::select! {
        answer = merchant.create(&order) => panic!("answered: {answer:?}"),
        _ = simulator.until("/orders/order-1", |order| order["arrivals"]["create"] == 1) => {}
    }
    simulator.until("/orders/order-1", |order| order["created"] == 1).await;

    simulator.fault(json!({"operation": "query", "fault": "delay", "delay_ms": 200})).await;
    let start = Instant::now();
    assert_eq!(merchant.query("order-1").await.unwrap().status, 200);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn scripted_notifications_are_forged_duplicated_and_delayed() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let mut receiver = Receiver::start(&[500; 7]).await;
    merchant.create(&merchant.order("order-1", &receiver.url)).await.unwrap();
    assert_eq!(simulator.control("POST", "/orders/order-1/notify", Value::Null).await.0, 409, "nothing to tell yet");
    simulator.control("POST", "/orders/order-1/pay", json!({"notify": false})).await;
    for tamper in ["body", "signature", "stale", "serial", "signtest", "amount", "account"] {
        simulator.control("POST", "/orders/order-1/notify", json!({"tamper": tamper})).await;
        let (headers, body) = receiver.next().await;
        let is_signature_valid = merchant.verifies(&headers, &body);
        assert_eq!(is_signature_valid, matches!(tamper, "amount" | "account"), "{tamper}");
        if is_signature_valid {
            let notification: Value = serde_json::from_slice(&body).unwrap();
            let payment: Value = serde_json::from_slice(&merchant.open(&notification["resource"])).unwrap();
            let right = (&json!(100), &json!(merchant.files.mchid));
            assert_ne!((&payment["amount"]["total"], &payment["mchid"]), right, "{tamper}");
        }
    }
    let start = Instant::now();
    simulator
        .control("POST", "/orders/order-1/notify", json!({"times": 2, "delay_ms": 100, "key": "certificate"}))
        .await;
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(first.1, second.1);
    for (headers, body) in [&first, &second] {
        assert!(merchant.verifies(headers, body));
        assert_ne!(headers["wechatpay-serial"], merchant.public_key_id.as_str());
    }
    // Seven rejections: no forged notification was repeated.
    let order = simulator.until("/orders/order-1", |order| order["notifications"][8]["acknowledged"] == true).await;
    let tries = order["notifications"].as_array().unwrap().iter().map(|n| n["attempts"].as_array().unwrap().len());
    assert_eq!(tries.collect::<Vec<_>>(), [1; 9]);
}

#[tokio::test]
async fn control_api_can_fail_payment_or_pay_another_amount() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    for number in ["order-1", "order-2"] {
        merchant.create(&merchant.order(number, NOWHERE)).await.unwrap();
    }
    simulator.control("POST", "/orders/order-1/fail", Value::Null).await;
    assert_eq!(merchant.query("order-1").await.unwrap().json()["trade_state"], "PAYERROR");
    assert_eq!(simulator.control("POST", "/orders/order-1/pay", Value::Null).await.0, 409);
    simulator.control("POST", "/orders/order-2/pay", json!({"notify": false, "amount": 1})).await;
    assert_eq!(merchant.query("order-2").await.unwrap().json()["amount"]["total"], 1);
}

#[tokio::test]
async fn invalid_fault_is_rejected_and_reset_deletes_everything() {
    let simulator = TestSandbox::start().await;
    for wrong in [
        json!({"fault": "explode"}),
        json!({"fault": "delay", "operation": "dance"}),
        json!({"fault": "delay", "surprise": 1}),
        json!({"fault": "delay", "times": 0}),
        json!({"fault": "refuse_connection", "number": "order-1"}),
    ] {
        assert_eq!(simulator.control("POST", "/faults", wrong.clone()).await.0, 400, "{wrong}");
    }
    simulator.fault(json!({"fault": "cut_before", "times": 3})).await;
    assert_eq!(simulator.control_get("/faults").await[0]["times"], 3);
    assert_eq!(simulator.control("DELETE", "/faults", Value::Null).await.1, json!([]));
    simulator.merchant.create(&simulator.merchant.order("order-1", NOWHERE)).await.unwrap();
    simulator.control("POST", "/reset", Value::Null).await;
    assert_eq!(simulator.control_get("/orders").await, json!([]));
    assert_eq!(simulator.control_get("/stats").await["requests"], 0);
}

#[tokio::test]
async fn stopped_sandbox_releases_its_ports() {
    let simulator = TestSandbox::start().await;
    let (address, control) = (simulator.sandbox.address(), simulator.sandbox.control_address());
    simulator.merchant.query("order-1").await.unwrap();
    simulator.sandbox.stop().await;
    let mut options = super::Options::new([simulator.directory.path().to_owned()]);
    (options.listen, options.control) = (address, control);
    let again = super::super::Sandbox::start(options).await.unwrap();
    assert_eq!(simulator.merchant.query("order-1").await.unwrap().status, 404);
    drop(again);
}

#[derive(Debug)]
pub(super) struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
