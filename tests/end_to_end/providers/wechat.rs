//! WeChat Pay's undocumented behaviour: payments reported as failed after a charge, messages without codes, both sign types,
//! responses without account ids, signature probes, and every error code of its lists.

use crate::harness::Answer;

use super::scanned_codes::{SCANNED, scan, world_with_scanned_codes};
use super::*;

fn code_and_retryable(answer: &Answer) -> (u16, Value, Value) {
    let json = answer.json();
    (answer.status, json["code"].clone(), json["retryable"].clone())
}

/// WeChat Pay answers USERPAYING, charges the payer, then reports PAYERROR.
#[tokio::test]
async fn wechat_payerror_after_charge_is_reversed_unless_query_says_success() {
    let methods = SCANNED.iter().filter(|till| till.row.provider.starts_with("wechat"));
    join_all(methods.map(async |till| {
        let world = world_with_scanned_codes(till.row.provider).await;
        let typing = if till.row.provider == "wechat-v3" { 202 } else { 200 };
        for order in ["reversed", "paid"] {
            let number = World::provider_order_no(order);
            let fault = json!({"operation": "create", "fault": "status_after", "status": typing, "code": "USERPAYING",
                               "number": number});
            world.inject_fault(fault).await;
            // Each query consumes one fault.
            let times = if order == "reversed" { 1000 } else { 1 };
            world
                .inject_fault(json!({"operation": "query", "fault": "pay_error", "number": number, "times": times}))
                .await;
            if order == "paid" {
                world.inject_fault(json!({"operation": "cancel", "fault": "status", "number": number})).await;
            }
            let scanned = scan(&world, till, order, "1000").await;
            assert_eq!((scanned.status, &scanned.json()["status"]), (201, &json!("pending")), "{}", scanned.json());
        }
        let closed = world.until_status("reversed", "closed").await;
        assert_eq!(closed["money_state"], "not_moved", "{closed}");
        let seen = world.provider_order("reversed").await;
        assert_eq!(seen["executions"]["cancel"], 1, "the charge was reversed: {seen}");
        until("the other reversal is attempted", || async {
            let seen = world.provider_order("paid").await;
            (seen["arrivals"]["cancel"] == 1).then_some(()).ok_or(seen)
        })
        .await;
        world.until_status("paid", "succeeded").await;
        let seen = world.provider_order("paid").await;
        assert_eq!((&seen["arrivals"]["cancel"], &seen["executions"]["cancel"]), (&json!(1), &Value::Null), "{seen}");
        for order in ["reversed", "paid"] {
            let events = world.receiver.events_of(order);
            assert!(!events.iter().any(|event| event.json()["type"] == "payment.failed"), "{order}");
        }
    }))
    .await;
}

#[tokio::test]
async fn wechat_v2_fail_message_reaches_merchant_and_log() {
    let world = World::for_provider("wechat-v2").await;
    let row = row("wechat-v2", "wechat.native", "{}", "qr");
    let fail = async |operation: &str, order: &str, sentence: &str| {
        let number = World::provider_order_no(order);
        let fault = json!({"operation": operation, "fault": "status", "status": 200, "code": "FAIL", "number": number,
                           "message": sentence});
        world.inject_fault(fault).await;
    };
    let wrong_account = "appid和mch_id不匹配";
    fail("create", "account", wrong_account).await;
    let answer = create(&world, &row, "account").await;
    assert_eq!(code_and_retryable(&answer), (402, json!("declined"), json!("new_key")), "{}", answer.json());
    assert_eq!(answer.json()["provider"], json!({"code": "FAIL", "message": wrong_account}));
    assert!(world.explain_json("account").await.contains(wrong_account), "{}", world.explain_json("account").await);

    fail("create", "key", "签名校验失败，请检查后重试").await;
    let answer = create(&world, &row, "key").await;
    assert_eq!(
        code_and_retryable(&answer),
        (503, json!("channel_credentials_rejected"), json!("same_key")),
        "{}",
        answer.json()
    );
    assert_eq!(answer.json()["money_state"], "not_sent");
    assert_eq!(create(&world, &row, "key").await.status, 201, "the same key may retry");

    // Refunds: an error about our certificate is accepted unsigned; an error about the account is not.
    world.pay("key").await;
    world.receiver.until("key", "payment.succeeded").await;
    let refund = async |id: &str| {
        let body = json!({"refund_id": id, "amount": {"value": 300, "currency": "CNY"}});
        world.signed_request("POST", "/v1/payments/key/refunds", Some(id), &body).await
    };
    fail("refund", "key", "商户证书已过期").await;
    let answer = refund("r-1").await;
    assert_eq!(
        code_and_retryable(&answer),
        (503, json!("channel_credentials_rejected"), json!("same_key")),
        "{}",
        answer.json()
    );
    fail("refund", "key", "受理关系不存在").await;
    let answer = refund("r-1").await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{}", answer.json());
    // An unsigned refusal proves nothing either.
    let fault = json!({"operation": "refund", "fault": "status", "status": 200, "code": "NOAUTH", "unsigned": true});
    world.inject_fault(fault).await;
    let answer = refund("r-2").await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{}", answer.json());
    for id in ["r-1", "r-2"] {
        until(&format!("{id} has failed"), || async {
            let answer =
                world.signed_request("GET", &format!("/v1/payments/key/refunds/{id}"), None, &Value::Null).await.json();
            (answer["status"] == "failed").then_some(()).ok_or(answer)
        })
        .await;
    }
    let log = world.log();
    for sentence in [wrong_account, "签名校验失败", "商户证书已过期", "受理关系不存在"] {
        assert!(log.contains(sentence), "{sentence}: {log}");
    }
}

#[tokio::test]
async fn wechat_v2_accepts_both_sign_types_and_responses_without_account() {
    let world = World::for_provider("wechat-v2").await;
    let row = row("wechat-v2", "wechat.native", "{}", "qr");
    for operation in ["create", "refund"] {
        world
            .inject_fault(
                json!({"operation": operation, "fault": "other_sign_type", "number": World::provider_order_no("o-1")}),
            )
            .await;
    }
    let made = create(&world, &row, "o-1").await;
    assert_eq!((made.status, &made.json()["action"]["type"]), (201, &json!("qr")), "{}", made.json());
    let path = format!("/orders/{}", World::provider_order_no("o-1"));
    world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
    world.sandbox_control("POST", &format!("{path}/notify"), json!({"tamper": "signtype"})).await;
    expect_success_then_refund(&world, &row, "o-1").await;

    // The order was never created; the query responses name no account.
    let number = World::provider_order_no("nameless");
    world.inject_fault(json!({"operation": "create", "fault": "cut_before", "number": number})).await;
    let nameless = json!({"operation": "query", "fault": "no_account", "number": number, "times": 20});
    world.inject_fault(nameless).await;
    assert_eq!(create(&world, &row, "nameless").await.status, 202);
    world.until_status("nameless", "failed").await;
    let events = world.receiver.events_of("nameless");
    assert!(
        !events.iter().any(|event| event.json()["type"] == "payment.mismatch"),
        "a response without account is no mismatch"
    );
}

/// Signature probes, and SYSTEM_ERROR for an existing order, are frequent and final for no order.
#[tokio::test]
async fn wechat_signature_probe_or_system_error_is_unknown_then_resolved() {
    let world = World::for_provider("wechat-v3").await;
    let row = row("wechat-v3", "wechat.native", "{}", "qr");
    for fault in ["signtest", "status_after"] {
        world
            .inject_fault(json!({"operation": "create", "fault": fault, "number": World::provider_order_no(fault)}))
            .await;
        let answer = create(&world, &row, fault).await;
        assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{}", answer.json());
        world.until_status(fault, "pending").await;
        world.pay(fault).await;
        world.until_status(fault, "succeeded").await;
    }
    world.until_logged("the provider's probe").await;
    // The breaker does not count probes.
    world.until_metric("tollgate_provider_requests_total{channel=\"main\",operation=\"pay\",result=\"probe\"} 1").await;
}

/// Every listed code of a new order, signed: the merchant's error code, and that the breaker stays closed.
#[tokio::test]
async fn wechat_order_codes_map_to_error_codes() {
    const V2: &[(&str, u16, &str, &str)] = &[
        (
            "APPID_MCHID_NOT_MATCH APPID_NOT_EXIST INVALID_REQUEST LACK_PARAMS MCHID_NOT_EXIST NOAUTH NOTENOUGH NOT_UTF8 \
             PARAM_ERROR POST_DATA_EMPTY REQUIRE_POST_METHOD RULELIMIT TRADE_ERROR XML_FORMAT_ERROR",
            402,
            "declined",
            "new_key",
        ),
        ("FREQUENCY_LIMITED INVALID_REQ_TOO_MUCH", 503, "provider_busy", "same_key"),
        ("SOMETHING_NEW ORDERPAID OUT_TRADE_NO_USED", 202, "", ""),
        ("SIGNERROR CERT_ERROR", 503, "channel_credentials_rejected", "same_key"),
        ("SYSTEMERROR", 202, "", ""),
    ];
    const V3: &[(&str, u16, &str, &str)] = &[
        (
            "ACCOUNT_ERROR APPID_MCHID_NOT_MATCH INVALID_REQUEST MCH_NOT_EXISTS NOT_ENOUGH NO_AUTH PARAM_ERROR RULE_LIMIT \
             TRADE_ERROR USER_NOT_EXISTS",
            402,
            "declined",
            "new_key",
        ),
        ("FREQUENCY_LIMITED RATELIMIT_EXCEEDED", 503, "provider_busy", "same_key"),
        ("SOMETHING_NEW ORDER_PAID OUT_TRADE_NO_USED", 202, "", ""),
        ("SIGN_ERROR", 503, "channel_credentials_rejected", "same_key"),
        ("SYSTEM_ERROR", 202, "", ""),
    ];
    let work = [("wechat-v2", 200, V2), ("wechat-v3", 403, V3)].map(async |(provider, status, table)| {
        let world = World::for_provider(provider).await;
        let row = row(provider, "wechat.native", "{}", "qr");
        for (codes, wanted, problem, retryable) in table {
            for code in codes.split_whitespace() {
                let order = format!("o-{}", code.to_ascii_lowercase().replace('_', "-"));
                let fault = json!({"operation": "create", "fault": "status", "status": status, "code": code,
                                   "number": World::provider_order_no(&order), "message": "余额不足"});
                world.inject_fault(fault).await;
                let answer = create(&world, &row, &order).await;
                let json = answer.json();
                assert_eq!(answer.status, *wanted, "{provider} {code}: {json}");
                if *wanted == 202 {
                    assert_eq!(json["status"], "unknown", "{provider} {code}: {json}");
                    continue;
                }
                assert_eq!(
                    code_and_retryable(&answer),
                    (*wanted, json!(problem), json!(retryable)),
                    "{provider} {code}: {json}"
                );
                assert_eq!(json["provider"], json!({"code": code, "message": "余额不足"}), "{json}");
            }
        }
        let next = create(&world, &row, "next").await;
        assert_eq!(next.status, 201, "the breaker is closed: {}", next.json());
    });
    join_all(work).await;
}

/// A console refund that fails or needs an operator: recorded, acknowledged, not counted as refunded.
#[tokio::test]
async fn wechat_console_refund_without_money_is_acknowledged_and_not_counted() {
    let work = ["wechat-v2", "wechat-v3"].map(async |provider| {
        let world = World::for_provider(provider).await;
        let row = row(provider, "wechat.native", "{}", "qr");
        assert_eq!(create(&world, &row, "o-1").await.status, 201);
        world.pay("o-1").await;
        world.receiver.until("o-1", "payment.succeeded").await;
        let path = format!("/orders/{}/refund_in_console", World::provider_order_no("o-1"));
        for (number, status) in [("CONSOLE-1", "CLOSED"), ("CONSOLE-2", "ABNORMAL")] {
            world.sandbox_control("POST", &path, json!({"number": number, "amount": 300, "status": status})).await;
        }
        let acknowledged = |count: usize| {
            let world = &world;
            async move {
                until("the console's notifications are acknowledged", || async {
                    let seen = world.provider_order("o-1").await;
                    let refunds = seen["refunds"].as_object().cloned().unwrap_or_default();
                    let all = refunds.values().flat_map(|refund| refund["notifications"].as_array().cloned());
                    let done: Vec<bool> = all.flatten().map(|it| it["acknowledged"] == true).collect();
                    (done.len() == count && !done.contains(&false)).then_some(()).ok_or(seen)
                })
                .await;
            }
        };
        acknowledged(2).await;
        let timeline = world.explain_json("o-1").await;
        assert_eq!(timeline.matches("refund_elsewhere").count(), 2, "{timeline}");
        assert!(timeline.contains("finish it in the provider's console"), "{timeline}");
        world.until_metric("tollgate_manual_review_total{channel=\"main\"} 1").await;
        let payment = world.payment("o-1").await;
        assert_eq!((&payment["status"], &payment["refunded"]), (&json!("succeeded"), &json!(0)), "{payment}");
        // The operator has finished the refund.
        let finished = json!({"number": "CONSOLE-2", "amount": 300});
        world.sandbox_control("POST", &path, finished).await;
        let event = world.receiver.until("o-1", "payment.refunded_elsewhere").await.json();
        assert_eq!(event["data"]["payment"]["refunded"], 300, "{event}");
        acknowledged(3).await;
    });
    join_all(work).await;
}
