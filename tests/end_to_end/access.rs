//! Authentication and merchant isolation.

use serde_json::Value;
use tollgate_harness::merchant::{new_nonce, unix_now};
use tollgate_merchant::{Credentials, plain, rfc9421};

use crate::harness::{
    Merchant, OTHER, SHOP, WEBHOOK_SECRET, World, payment_body, send, signed_headers, signed_request, until,
};

#[tokio::test]
async fn altered_replayed_expired_or_unknown_signature_is_401_without_detail() {
    let world = World::new().await;
    let url = |target: &str| format!("http://{}{target}", world.gateway.listen);
    let target = "/v1/payments/o-1?a=1";
    let good = signed_headers(&SHOP, "GET", target, b"");
    assert_eq!(send("GET", &url(target), &good, b"").await.unwrap().status, 404, "a valid signature is accepted");
    let denied = async |headers: &[(&'static str, String)], method: &str, target: &str, body: &[u8]| {
        let answer = send(method, &url(target), headers, body).await.unwrap();
        let problem = answer.json();
        assert_eq!((answer.status, &problem["code"]), (401, &"unauthorized".into()), "{method} {target}: {problem}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        problem["detail"].clone()
    };
    let mut details = vec![denied(&good, "GET", target, b"").await];
    let fresh = || signed_headers(&SHOP, "GET", target, b"");
    details.push(denied(&fresh(), "GET", "/v1/payments/o-2?a=1", b"").await);
    details.push(denied(&fresh(), "GET", "/v1/payments/o-1?a=2", b"").await);
    details.push(denied(&fresh(), "GET", "/v1/payments/o-1", b"").await);
    details.push(denied(&fresh(), "POST", target, b"").await);
    details.push(denied(&fresh(), "GET", target, b"x").await);
    details.push(denied(&[], "GET", target, b"").await);
    details.push(denied(&[], "GET", "/nothing", b"").await);
    details.push(
        denied(&signed_headers(&Merchant { key: "nobody", ..SHOP }, "GET", target, b""), "GET", target, b"").await,
    );
    details.push(
        denied(&signed_headers(&Merchant { secret: OTHER.secret, ..SHOP }, "GET", target, b""), "GET", target, b"")
            .await,
    );
    let old = Credentials { key_id: SHOP.key, secret: SHOP.secret.as_bytes(), created: unix_now() - 301, nonce: "old" };
    details.push(denied(&plain(&old, "GET", target, b""), "GET", target, b"").await);
    assert!(details.iter().all(|detail| detail == &details[0]), "every 401 has the same detail: {details:?}");
}

#[tokio::test]
async fn rfc9421_message_signature_is_accepted_once() {
    let world = World::new().await;
    let body = payment_body("o-1").to_string();
    let nonce = new_nonce();
    let with = Credentials { key_id: SHOP.key, secret: SHOP.secret.as_bytes(), created: unix_now(), nonce: &nonce };
    let mut headers = rfc9421(&with, "POST", "/v1/payments", body.as_bytes());
    headers.push(("idempotency-key", "k-1".to_owned()));
    let url = format!("http://{}/v1/payments", world.gateway.listen);
    let answer = send("POST", &url, &headers, body.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert_eq!(send("POST", &url, &headers, body.as_bytes()).await.unwrap().status, 401, "the nonce is used up");
}

#[tokio::test]
async fn order_of_another_merchant_is_404() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    for (method, target, key) in [
        ("GET", "/v1/payments/o-1", None),
        ("GET", "/v1/payments/o-1/refunds/r-1", None),
        ("POST", "/v1/payments/o-1/close", Some("c-1")),
    ] {
        let answer = signed_request(world.gateway.listen, &OTHER, method, target, key, &Value::Null).await;
        assert_eq!(answer.status, 404, "{method} {target}: {:?}", answer.body);
    }
    assert_eq!(world.provider_order("o-1").await["state"], "NOTPAY");
}

#[tokio::test]
async fn log_and_metrics_contain_no_secrets() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    until("the access log contains the payment", || async {
        let log = world.log();
        let is_there = log.lines().any(|line| line.contains("create_payment") && line.ends_with('}'));
        is_there.then_some(()).ok_or(log)
    })
    .await;
    let log = world.log();
    // The last line may be incomplete.
    let log = &log[..=log.rfind('\n').unwrap()];
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let access: Vec<&Value> = lines.iter().filter(|line| line["target"] == "access").collect();
    let created = access.iter().find(|line| line["fields"]["operation"] == "create_payment").unwrap();
    assert_eq!(
        (&created["fields"]["status"], &created["fields"]["merchant"]),
        (&201.into(), &"shop".into()),
        "{created}"
    );
    let file = |name: &str| std::fs::read_to_string(world.conf().join("channels").join(name)).unwrap();
    let channel = file("main.toml");
    let api_v3 = channel.split("plain:").nth(1).unwrap().split('"').next().unwrap();
    let key = file("main/apiclient_key.pem");
    let secrets = [SHOP.secret, WEBHOOK_SECRET, api_v3, key.lines().nth(3).unwrap(), "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"];
    let metrics = world.metrics().await;
    for secret in secrets {
        assert!(secret.len() >= 16 && !log.contains(secret) && !metrics.contains(secret), "{secret}");
    }
}
