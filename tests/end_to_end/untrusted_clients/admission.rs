//! Admission: requests rejected by their head, and slow or missing bodies.

use serde_json::{Value, json};

use super::*;
use crate::harness::{SHOP, World, WorldOptions, send, signed_headers};

/// Header of a body that is never sent.
const BODY: &str = "content-length: 1048576\r\n";

#[tokio::test]
async fn unauthenticated_request_is_rejected_by_its_head_and_connection_closed() {
    let world = World::with(WorldOptions { server: "body_timeout = \"10m\"", ..WorldOptions::default() }).await;
    let signed_head = |method: &str, target: &str| {
        let lines =
            signed_headers(&SHOP, method, target, b"").into_iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{method} {target} HTTP/1.1\r\nhost: a\r\n{BODY}{}\r\n", lines.collect::<String>())
    };
    let old = badly_signed_head("shop-1", 100).replace("timestamp: 1", "timestamp: ");
    for (head, status, code) in [
        (format!("POST /v1/payments HTTP/1.1\r\nhost: a\r\n{BODY}\r\n"), 401, "unauthorized"),
        ("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), 401, "unauthorized"),
        (old, 401, "unauthorized"),
        (format!("POST /notify/none HTTP/1.1\r\nhost: a\r\n{BODY}\r\n"), 404, "not_found"),
        (format!("PUT /notify/main HTTP/1.1\r\nhost: a\r\n{BODY}\r\n"), 405, "method_not_allowed"),
        (format!("POST /notify/main HTTP/1.1\r\nhost: a\r\n{BODY}\r\n"), 413, "payload_too_large"),
        (signed_head("POST", "/v1/paymints"), 404, "not_found"),
        (signed_head("PUT", "/v1/payments"), 405, "method_not_allowed"),
    ] {
        let mut stream = open_and_send(world.gateway.listen, head.as_bytes()).await;
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{head}: {answer}");
    }
}

#[tokio::test]
async fn incomplete_bodies_occupy_no_permit() {
    let limits = "max_in_flight = 16\nbody_timeout = \"4s\"";
    let world = World::with(WorldOptions { server: limits, ..WorldOptions::default() }).await;
    let listen = world.gateway.listen;
    let mut slow = Vec::new();
    // As many as the gateway waits for.
    for _ in 0..4 {
        slow.push(open_and_send(listen, badly_signed_head("shop-1", 1000).as_bytes()).await);
        let head = "POST /notify/main HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{";
        slow.push(open_and_send(listen, head.as_bytes()).await);
    }
    for stream in &mut slow {
        let answer = until_closed(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":\"request_timeout\""), "{answer}");
    }
    assert!(!world.metrics().await.contains("tollgate_requests_shed_total{"));
    // Many more: the oldest are evicted, and only those.
    for _ in 0..40 {
        slow.push(open_and_send(listen, badly_signed_head("shop-1", 1000).as_bytes()).await);
        let head = "POST /notify/main HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{";
        slow.push(open_and_send(listen, head.as_bytes()).await);
    }
    world.until_metric("tollgate_requests_shed_total{kind=\"notification\"} 36").await;
    world.until_metric("tollgate_requests_shed_total{kind=\"request\"} 24").await;
    assert!(world.metrics().await.contains("tollgate_requests_in_flight 0"), "no request is in execution");
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    let notified = send("POST", &format!("http://{listen}/notify/main"), &[], b"{}").await.unwrap();
    assert_ne!(notified.status, 503);
}

#[tokio::test]
async fn unknown_key_id_is_indistinguishable_from_wrong_signature() {
    let world = World::with(WorldOptions { server: "body_timeout = \"500ms\"", ..WorldOptions::default() }).await;
    let shape = |answer: &str| {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head: Vec<_> = head.lines().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
        let mut body: Value = serde_json::from_str(body).unwrap();
        body["request_id"] = Value::Null;
        (head, body)
    };
    let signatures = |key: &str| {
        let now = tollgate_harness::merchant::unix_now();
        format!(
            "POST /v1/payments HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nsignature: a=:AAAA:, b=:AAAA:\r\nsignature-input: \
             a=(\"@method\" \"@target-uri\");created=1;nonce=\"n\";keyid=\"none\", b=(\"@method\" \"@target-uri\");created={now};nonce=\"n\";keyid=\"{key}\"\r\n\r\n"
        )
    };
    let to = |method_and_path: &'static str| {
        move |key: &str| badly_signed_head(key, 2).replace("POST /v1/payments", method_and_path)
    };
    let payment = to("POST /v1/payments");
    type Request<'a> = &'a dyn Fn(&str) -> String;
    let cases: [(Request<'_>, &str, &str); 7] = [
        (&payment, "", "408 Request Timeout"),
        (&payment, "{}", "401 Unauthorized"),
        (&to("POST /nope"), "{}", "404 Not Found"),
        (&to("PUT /v1/payments"), "{}", "405 Method Not Allowed"),
        (&to("POST /%ff"), "{}", "400 Bad Request"),
        (&signatures, "{}", "401 Unauthorized"),
        (&signatures, "", "408 Request Timeout"),
    ];
    // Missing bodies under unknown keys must not change the responses to others.
    let mut held = Vec::new();
    for _ in 0..70 {
        held.push(open_and_send(world.gateway.listen, badly_signed_head("junk", 9).as_bytes()).await);
    }
    for (head, body, status) in cases {
        let mut answers = Vec::new();
        for key in ["shop-1", "nobody-1"] {
            let mut stream = open_and_send(world.gateway.listen, format!("{}{body}", head(key)).as_bytes()).await;
            answers.push(shape(&response(&mut stream).await));
        }
        assert_eq!(answers[0], answers[1]);
        assert_eq!(answers[0].0[0], format!("HTTP/1.1 {status}"));
    }
}

#[tokio::test]
async fn connection_is_closed_after_invalid_chunked_body() {
    let world = World::new().await;
    let paid = badly_signed_head("shop-1", 2).replace("content-length: 2", "transfer-encoding: chunked");
    let notified = "POST /notify/main HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for head in [paid.as_str(), notified] {
        let hidden = "GET /x HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut stream = open_and_send(world.gateway.listen, format!("{head}zz\r\n{hidden}").as_bytes()).await;
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn oversized_body_413_reaches_client_that_sends_all_first() {
    let world = World::new().await;
    let head = badly_signed_head("shop-1", 8 << 20);
    let mut stream = open_and_send(world.gateway.listen, head.as_bytes()).await;
    for _ in 0..128 {
        stream.write_all(&[b' '; 64 << 10]).await.unwrap();
    }
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn notifications_waiting_for_key_refresh_are_bounded() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "certificates", "fault": "delay", "delay_ms": 60_000})).await;
    let head = format!(
        "POST /notify/main HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nwechatpay-timestamp: {}\r\nwechatpay-nonce: n\r\n\
         wechatpay-signature: AAAA\r\nwechatpay-serial: 7777\r\n\r\n{{}}",
        tollgate_harness::merchant::unix_now()
    );
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(open_and_send(world.gateway.listen, head.as_bytes()).await);
    }
    world.until_metric("tollgate_notifications_total{channel=\"main\",result=\"bad_signature\"} 12").await;
    assert!(world.metrics().await.contains("tollgate_requests_in_flight 8"));
}

#[tokio::test]
async fn oldest_buffered_body_is_evicted_at_memory_limit() {
    let limits =
        "body_limit = \"64KiB\"\nmax_buffered_bytes = \"128KiB\"\nbody_timeout = \"10m\"\nmin_body_rate = \"0B\"";
    let world = World::with(WorldOptions { server: limits, ..WorldOptions::default() }).await;
    let request = [badly_signed_head("shop-1", 60_001).as_bytes(), &[b' '; 60_000]].concat();
    let mut oldest = open_and_send(world.gateway.listen, &request).await;
    world.until_metric("tollgate_buffered_bytes 60000").await;
    let large = open_and_send(world.gateway.listen, &request).await;
    let answer = until_closed(&mut oldest).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"code\":\"overloaded\""), "{answer}");
    world.until_metric("tollgate_buffered_bytes 60000").await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201, "a small body is admitted");
    let url = format!("http://{}/notify/main", world.gateway.listen);
    assert_ne!(
        send("POST", &url, &[], &[b' '; 30_000]).await.unwrap().status,
        503,
        "notifications have their own share"
    );
    drop(large);
    world.until_metric("tollgate_buffered_bytes 0").await;
}

#[tokio::test]
async fn invalid_http_request_is_answered_with_problem() {
    let world = World::new().await;
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nhost: a\r\nexpect: nonsense\r\nconnection: close\r\n\r\n", 417),
        ("GET / HTTP/1.0\r\nexpect: nonsense\r\n\r\n", 401),
    ] {
        let mut stream = open_and_send(world.gateway.listen, request.as_bytes()).await;
        let answer = response(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(answer.contains("application/problem+json") && !answer.contains("Pingora"), "{request:?}: {answer}");
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["status"], status, "{request:?}");
    }
    for (request, status) in [
        ("GET http://evil.example/metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 400),
        ("GET http://evil.example/metrics HTTP/1.1\r\nhost: evil.example\r\n\r\n", 403),
        ("GET http://127.0.0.1/healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 200),
        ("nonsense\r\n\r\n", 400),
    ] {
        let mut stream = open_and_send(world.gateway.admin, request.as_bytes()).await;
        let answer = response(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert_eq!(answer.contains("application/problem+json"), status == 400, "{request:?}: {answer}");
    }
    world.until_logged("\"operation\":\"invalid_request\"").await;
    assert!(!world.log().contains("\"level\":\"ERROR\""), "{}", world.log());
}

#[tokio::test]
async fn expect_continue_is_sent_only_after_head_is_accepted() {
    let world = World::new().await;
    let expects = |key: &str| badly_signed_head(key, 2).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    let mut stream = open_and_send(world.gateway.listen, expects("shop-1").as_bytes()).await;
    for _ in 0..2 {
        assert!(response(&mut stream).await.starts_with("HTTP/1.1 100 Continue"));
        stream.write_all(b"{}").await.unwrap();
        let answer = response(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 401 ") && answer.to_lowercase().contains("connection: keep-alive"),
            "{answer}"
        );
        stream.write_all(expects("shop-1").as_bytes()).await.unwrap();
    }
    let unsigned = b"POST /v1/payments HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    let mut stream = open_and_send(world.gateway.listen, unsigned).await;
    assert!(until_closed(&mut stream).await.starts_with("HTTP/1.1 401 "), "and no 100");
}
