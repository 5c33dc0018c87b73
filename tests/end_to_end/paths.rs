//! Path normalization for routing and idempotency scopes; the signature covers the target as sent.

use serde_json::Value;

use crate::harness::{Answer, SHOP, World, payment_body, send, signed_headers};

async fn post(world: &World, target: &str, key: &str, body: &str) -> Answer {
    let mut headers = signed_headers(&SHOP, "POST", target, body.as_bytes());
    headers.push(("idempotency-key", key.to_owned()));
    send("POST", &format!("http://{}{target}", world.gateway.listen), &headers, body.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn percent_encoded_path_has_same_idempotency_scope() {
    let world = World::new().await;
    let (first, second) = (payment_body("o-1").to_string(), payment_body("o-2").to_string());
    let created = post(&world, "/v1/payments", "k-1", &first).await;
    assert_eq!(created.status, 201, "{:?}", created.body);
    for target in ["/v1/%70ayments", "/%761/payments", "/v1/payment%73"] {
        let again = post(&world, target, "k-1", &first).await;
        assert!(again.status == 201 && again.is_replayed() && again.body == created.body, "{target}: {again:?}");
        let other = post(&world, target, "k-1", &second).await;
        assert_eq!((other.status, &other.json()["code"]), (422, &Value::from("idempotency_key_reused")), "{target}");
    }
    for target in
        ["/v1//payments", "/v1/payments/", "/V1/payments", "/v1/payments;x=1", "/v1/./payments", "/v1/%2e/payments"]
    {
        let lost = post(&world, target, "k-1", &second).await;
        assert!([404, 405].contains(&lost.status), "{target}: {lost:?}");
    }
    // The query is not part of the scope, but of the fingerprint.
    let with_query = post(&world, "/v1/payments?x=1", "k-1", &first).await;
    assert_eq!((with_query.status, &with_query.json()["code"]), (422, &Value::from("idempotency_key_reused")));
    assert_eq!(
        world.provider_order("o-2").await["arrivals"],
        Value::Null,
        "no second order was created under a used key"
    );
    // The same for an order id in the path, with and without percent-encoding.
    let odd = payment_body("a:1").to_string();
    assert_eq!(post(&world, "/v1/payments", "k-2", &odd).await.status, 201);
    let closed = post(&world, "/v1/payments/a:1/close", "c-1", "").await;
    assert_eq!(closed.status, 200, "{:?}", closed.body);
    for target in ["/v1/payments/a%3A1/close", "/v1/payments/a%3a1/close"] {
        let again = post(&world, target, "c-1", "").await;
        assert!(again.status == 200 && again.is_replayed(), "{target}: {again:?}");
    }
}

#[tokio::test]
async fn dot_segment_order_id_is_400() {
    let world = World::new().await;
    for order in [".", ".."] {
        let refused = post(&world, "/v1/payments", &format!("k{order}"), &payment_body(order).to_string()).await;
        assert_eq!((refused.status, &refused.json()["code"]), (400, &Value::from("invalid_request")), "{order}");
    }
    for target in ["/v1/payments/..", "/v1/payments/%2e%2E"] {
        let headers = signed_headers(&SHOP, "GET", target, b"");
        let answer = send("GET", &format!("http://{}{target}", world.gateway.listen), &headers, b"").await.unwrap();
        assert_eq!(answer.status, 404, "{target}");
    }
    for order in ["...", ".a", "a..", "-"] {
        assert_eq!(world.create(order, order).await.status, 201, "{order}");
    }
}

#[tokio::test]
async fn payment_without_route_is_503_no_route() {
    let world = World::new().await;
    std::fs::remove_file(world.conf().join("routes.toml")).unwrap();
    assert_eq!(world.reload().await.status, 200);
    let mut named = payment_body("o-1");
    named["channel"] = "main".into();
    for body in [named, payment_body("o-2")] {
        let refused = post(&world, "/v1/payments", body["order_id"].as_str().unwrap(), &body.to_string()).await;
        let problem = refused.json();
        assert_eq!((refused.status, &problem["code"]), (503, &Value::from("no_route")), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("the operator must add one to routes.toml") && !detail.contains("leave"), "{detail}");
    }
}

#[tokio::test]
async fn environment_secret_is_trimmed_like_file_secret() {
    let world = World::new().await;
    let merchant = world.conf().join("merchants/third.toml");
    std::fs::write(&merchant, "keys = [{ id = \"third-1\", secret = \"env:TOLLGATE_TEST_NEWLINE\" }]\n").unwrap();
    for (value, expected) in
        [("0123456789abcdef\n", None), ("0123456789abcde\n", Some("too short")), ("\r\n", Some("is not set"))]
    {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["check", "--conf"]).arg(world.conf()).env("TOLLGATE_TEST_NEWLINE", value);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), expected.is_none(), "{value:?}: {said}");
        assert!(expected.is_none_or(|expected| said.contains(expected)), "{value:?}: {said}");
    }
}
