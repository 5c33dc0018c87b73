//! Malformed input is always answered by a 4xx problem and never crashes the gateway.

use crate::harness::{SHOP, World, payment_body, send, signed_headers, try_signed_request};

#[tokio::test]
async fn malformed_body_is_4xx_problem_at_each_endpoint() {
    let world = World::new().await;
    let good = payment_body("o-1").to_string();
    let with = |from: &str, to: &str| good.replace(from, to).into_bytes();
    let deep = [b"{\"order_id\":".to_vec(), vec![b'['; 100_000]].concat();
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        with("o-1", "\u{0}"),
        deep,
        with("\"value\":1000", "\"value\":-1"),
        with("\"value\":1000", "\"value\":0"),
        with("\"value\":1000", "\"value\":1e3"),
        with("\"value\":1000", "\"value\":18446744073709551616"),
        with("\"value\":1000", "\"value\":18446744073709551615"),
        with("\"value\":1000", "\"value\":\"1000\""),
        with("CNY", "CN"),
        with("o-1", &"x".repeat(65)),
        with("o-1", "../../etc"),
        with("茶 tea", &"茶".repeat(128)),
        with("wechat.native", "wechat.unheard"),
        with("\"method\"", "\"metod\""),
        b"{\"refund_id\":\"\",\"amount\":{\"value\":1,\"currency\":\"CNY\"}}".to_vec(),
        b"{\"refund_id\":5,\"amount\":null}".to_vec(),
        vec![b'x'; (1 << 20) + 1],
    ];
    for target in ["/v1/payments", "/v1/payments/o-1/refunds", "/v1/payments/o-1/close"] {
        for (number, body) in bodies.iter().enumerate() {
            if body.is_empty() && target.ends_with("close") {
                continue; // An empty body is valid for a close.
            }
            let key = format!("{target}-{number}");
            let answer = try_signed_request(world.gateway.listen, &SHOP, "POST", target, Some(&key), body).await;
            // The connection may be closed while a body over the limit is still being sent.
            let Ok(answer) = answer else {
                assert!(body.len() > 1 << 20, "{target} {number}");
                continue;
            };
            assert!((400..500).contains(&answer.status), "{target} {number}: {} {:?}", answer.status, answer.body);
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{target} {number}");
            let problem = answer.json();
            for field in ["type", "title", "status", "detail", "code", "retryable", "money_state", "request_id"] {
                assert!(!problem[field].is_null(), "{target} {number}: {field} in {problem}");
            }
        }
    }
    assert_eq!(world.create("o-1", "fine").await.status, 201, "the gateway still serves");
    assert!(!world.log().contains("panicked"), "{}", world.log());
}

/// Invalid text of one merchant must not count as a failure of the shared channel.
#[tokio::test]
async fn control_characters_are_400_and_line_endings_reach_xml_provider_as_signed() {
    let world = World::for_provider("wechat-v2").await;
    let pay = async |order: &str, field: &str, text: &str| {
        let mut body = payment_body(order);
        match field.strip_prefix("payer.") {
            Some(of_payer) => body["payer"] = serde_json::json!({ of_payer: text }),
            None => body[field] = text.into(),
        }
        world.signed_request("POST", "/v1/payments", Some(order), &body).await
    };
    for (number, (field, text)) in [
        ("description", "tea\u{0}"),
        ("description", "\u{1b}[31mtea"),
        ("description", "tea\u{fffe}"),
        ("description", "tea\u{85}"),
        ("payer.client_ip", "1.2.3.4\r\n"),
        ("payer.client_ip", "here"),
        ("payer.openid", "o\u{7f}"),
    ]
    .into_iter()
    .enumerate()
    {
        let order = format!("bad-{number}");
        let refused = pay(&order, field, text).await;
        let problem = refused.json();
        assert_eq!((refused.status, &problem["code"]), (400, &"invalid_request".into()), "{field} {text:?}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(field), "{problem}");
        assert_eq!(pay(&order, "description", "tea").await.status, 201, "the rejected request made no claim");
    }
    for number in 0..25 {
        let order = format!("lines-{number}");
        let answer = pay(&order, "description", "tea\r\ntwo cups\rand more\n\t]]> <&>").await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
    }
    world.pay("lines-0").await;
    world.until_status("lines-0", "succeeded").await;
    let refund = serde_json::json!({"refund_id": "r-1", "amount": {"value": 1, "currency": "CNY"}, "reason": "a\r\nb"});
    let answer = world.signed_request("POST", "/v1/payments/lines-0/refunds", Some("r-1"), &refund).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    let metrics = world.metrics().await;
    assert!(
        !metrics.contains("result=\"unauthorized\"") && !metrics.contains("result=\"unsupported_by_provider\""),
        "{metrics}"
    );
}

#[tokio::test]
async fn invalid_path_or_method_is_4xx_problem() {
    let world = World::new().await;
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/payments/%ff", 400),
        ("GET", "/v1/payments/%2e%2e%2f", 404),
        ("GET", "/v1/payments/a/b/c/d/e", 404),
        ("DELETE", "/v1/payments/o-1", 405),
        ("PUT", "/v1/payments", 405),
        ("GET", "/v1/payments/o-1/close", 405),
    ] {
        let answer = try_signed_request(world.gateway.listen, &SHOP, method, target, None, b"").await.unwrap();
        assert_eq!(answer.status, status, "{method} {target}: {:?}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{method} {target}");
    }
    let long = format!("/v1/payments/{}", "x".repeat(10_000));
    assert_eq!(try_signed_request(world.gateway.listen, &SHOP, "GET", &long, None, b"").await.unwrap().status, 404);
}

#[tokio::test]
async fn request_id_is_echoed_and_invalid_one_replaced() {
    let world = World::new().await;
    let url = format!("http://{}/v1/payments/o-1", world.gateway.listen);
    let mut headers = signed_headers(&SHOP, "GET", "/v1/payments/o-1", b"");
    headers.push(("x-request-id", "mine-1".to_owned()));
    let answer = send("GET", &url, &headers, b"").await.unwrap();
    assert_eq!(
        (&answer.headers["x-request-id"], &answer.json()["request_id"]),
        (&"mine-1".parse().unwrap(), &"mine-1".into())
    );
    headers[4].1 = "a b".to_owned();
    let answer = send("GET", &url, &headers, b"").await.unwrap();
    assert!(answer.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
}
