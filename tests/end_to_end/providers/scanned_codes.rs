//! In-store payments by a scanned code: they end at once or wait for a password.

use super::*;

/// Scanned-code method of one provider. The sandbox decides by the code's last four digits.
pub(super) struct Till {
    pub(super) row: Row,
    /// Prefix of the codes.
    begin: &'static str,
    /// Status in the response to a code that pays at once.
    first_status: &'static str,
    /// Status after a reversal, as the provider reports it.
    ended: &'static str,
}

pub(super) const SCANNED: &[Till] = &[
    Till { row: row("wechat-v3", "wechat.codepay", "{}", ""), begin: "13", first_status: "succeeded", ended: "closed" },
    Till { row: row("wechat-v2", "wechat.codepay", "{}", ""), begin: "13", first_status: "succeeded", ended: "closed" },
    Till { row: row("alipay", "alipay.barcode", "{}", ""), begin: "28", first_status: "succeeded", ended: "closed" },
    Till { row: row("alipay-v3", "alipay.barcode", "{}", ""), begin: "28", first_status: "succeeded", ended: "closed" },
    // The response only says that the code was accepted.
    Till { row: row("unionpay", "unionpay.barcode", "{}", ""), begin: "622", first_status: "pending", ended: "failed" },
    Till {
        row: row("unionpay-sm2", "unionpay.barcode", "{}", ""),
        begin: "622",
        first_status: "pending",
        ended: "failed",
    },
];

/// Starts a world whose channel accepts scanned codes, which APIv3 of WeChat Pay must enable.
pub(super) async fn with_a_till(provider: &'static str) -> World {
    let edit: fn(&Path, SocketAddr) = |conf, _| more_of_the_account(conf, "codepay = true\nstore_id = \"0001\"", "");
    match provider {
        "wechat-v3" => World::with(WorldOptions { edit, ..WorldOptions::default() }).await,
        other => World::for_provider(other).await,
    }
}

/// Sends a till's request. `end` is the code's suffix: `0001` waits for a password, `0002` lacks funds, others pay at once.
pub(super) async fn scan(
    world: &World,
    Till { row, begin, .. }: &Till,
    order: &str,
    end: &str,
) -> crate::harness::Answer {
    let serial = u64::from_str_radix(&World::provider_order_no(order)[..8], 16).unwrap();
    let mut body = row.order(order);
    body["payer"] = json!({"auth_code": format!("{begin}{serial:012}{end}"), "client_ip": "203.0.113.9"});
    world.signed_request("POST", "/v1/payments", Some(&format!("pay-{order}")), &body).await
}

#[tokio::test]
async fn scanned_code_succeeds_waits_for_password_or_is_declined() {
    for entry in SCANNED {
        let row = &entry.row;
        let world = with_a_till(row.provider).await;
        let paid = scan(&world, entry, "at-once", "1000").await;
        // The notification may arrive before the response.
        assert_eq!(paid.status, 201, "{}", paid.json());
        assert!(paid.json()["status"] == entry.first_status || paid.json()["status"] == "succeeded", "{}", paid.json());
        assert_eq!(paid.json()["action"], Value::Null);
        notified_and_refunded(&world, row, "at-once").await;
        let again = scan(&world, entry, "at-once", "1000").await;
        assert!(again.is_replayed() && again.body == paid.body, "{:?}", again.body);

        let poor = scan(&world, entry, "poor", "0002").await;
        assert_eq!((poor.status, &poor.json()["code"]), (402, &json!("declined")), "{}", poor.json());
        assert_eq!(world.payment("poor").await["money_state"], "not_moved");

        let typing = scan(&world, entry, "typing", "0001").await;
        assert_eq!((typing.status, &typing.json()["status"]), (201, &json!("pending")), "{}", typing.json());
        world.pay("typing").await;
        notified_and_refunded(&world, row, "typing").await;

        // The till closes the payment.
        scan(&world, entry, "given-up", "0001").await;
        let closed = world.signed_request("POST", "/v1/payments/given-up/close", Some("close"), &Value::Null).await;
        assert_eq!((closed.status, &closed.json()["status"]), (200, &json!(entry.ended)), "{}", closed.json());
    }
}

#[tokio::test]
async fn open_scanned_payment_is_reversed_and_unclear_one_is_queried() {
    let mut worlds = Vec::new();
    for entry in SCANNED {
        let world = with_a_till(entry.row.provider).await;
        let waiting = scan(&world, entry, "nobody-types", "0001").await;
        assert_eq!(waiting.json()["status"], "pending", "{}", waiting.json());
        for fault in ["cut_after", "wrong_signature"] {
            world
                .inject_fault(json!({"operation": "create", "fault": fault, "number": World::provider_order_no(fault)}))
                .await;
            let answer = scan(&world, entry, fault, "1000").await;
            let outcome = (answer.status, answer.json()["status"].clone());
            // The notification may arrive before the gateway sees that the response is missing.
            assert!(outcome == (202, json!("unknown")) || outcome == (201, json!("succeeded")), "{}", answer.json());
        }
        worlds.push(world);
    }
    for (world, Till { row, ended, .. }) in worlds.iter().zip(SCANNED) {
        for order in ["cut_after", "wrong_signature"] {
            world.until_status(order, "succeeded").await;
            assert_eq!(world.provider_order(order).await["arrivals"]["create"], 1, "{} {order}", row.method);
        }
        let reversed = world.until_status("nobody-types", ended).await;
        assert_eq!(reversed["money_state"], "not_moved", "{reversed}");
    }
}

#[tokio::test]
async fn unknown_scanned_payment_is_reversed_before_it_fails() {
    let mut worlds = Vec::new();
    for entry in SCANNED.iter().filter(|entry| !entry.row.provider.starts_with("unionpay")) {
        let mut world = with_a_till(entry.row.provider).await;
        world.inject_fault(json!({"operation": "create", "fault": "cut_before"})).await;
        // The first reversal fails.
        world.inject_fault(json!({"operation": "cancel", "fault": "cut_before"})).await;
        world.inject_fault(json!({"operation": "cancel", "fault": "delay_before", "delay_ms": 60_000})).await;
        assert_eq!(scan(&world, entry, "lost", "1000").await.json()["status"], "unknown");
        until(&format!("{} is being reversed", entry.row.provider), || async {
            let seen = world.provider_order("lost").await;
            (seen["arrivals"]["cancel"] == 2).then_some(()).ok_or(seen)
        })
        .await;
        assert_eq!(world.payment("lost").await["status"], "unknown", "{}", entry.row.provider);
        world.gateway.kill();
        world.start().await;
        worlds.push(world);
    }
    for world in &worlds {
        let failed = world.until_status("lost", "failed").await;
        assert_eq!(failed["money_state"], "not_moved", "{failed}");
        let seen = world.provider_order("lost").await;
        assert!(seen["arrivals"]["cancel"].as_u64() >= Some(3) && seen["arrivals"]["create"] == 1, "{seen}");
    }
}

/// The payer was charged, but UnionPay's query does not find the order. The reversal (冲正) returns the money before the
/// payment is reported as failed.
#[tokio::test]
async fn unionpay_unknown_scanned_payment_is_reversed_and_payer_refunded() {
    let entry = SCANNED.iter().find(|entry| entry.row.provider == "unionpay").unwrap();
    let world = with_a_till("unionpay").await;
    let number = World::provider_order_no("lost");
    world.inject_fault(json!({"operation": "create", "fault": "cut_after", "number": number})).await;
    let absent = json!({"operation": "query", "fault": "status", "status": 200, "code": "34", "number": number,
                        "times": 50});
    world.inject_fault(absent).await;
    let unknown = scan(&world, entry, "lost", "1000").await;
    assert_eq!((unknown.status, &unknown.json()["status"]), (202, &json!("unknown")), "{}", unknown.json());
    assert_eq!(world.provider_order("lost").await["state"], "SUCCESS", "the payer was charged");
    let seen = until("the payment is reversed", || async {
        let seen = world.provider_order("lost").await;
        (seen["executions"]["cancel"] == 1).then_some(seen.clone()).ok_or(seen)
    })
    .await;
    assert_eq!(seen["state"], "CLOSED", "the money was returned");
    assert_eq!(world.payment("lost").await["status"], "unknown", "the reversal was only accepted");
    world.sandbox_control("DELETE", "/faults", Value::Null).await;
    let failed = world.until_status("lost", "failed").await;
    assert_eq!(failed["money_state"], "not_moved", "{failed}");
    world.receiver.until("lost", "payment.failed").await;
    let seen = world.provider_order("lost").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["cancel"]), (&json!(1), &json!(1)), "{seen}");
}
