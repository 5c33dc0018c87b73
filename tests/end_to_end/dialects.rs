//! Every provider and method from one table: paid, repeated, notified, refunded; cut; wrongly signed; forged.

use serde_json::{Value, json};

use crate::harness::{World, order_of, until};

/// One way to pay.
struct Row {
    provider: &'static str,
    method: &'static str,
    /// A JSON object: what the method needs to know of the payer.
    payer: &'static str,
    /// The `type` of the action.
    action: &'static str,
    /// Whether creating it is an exchange with the provider; a signed link or form is made without one.
    is_sent: bool,
}

const fn row(provider: &'static str, method: &'static str, payer: &'static str, action: &'static str) -> Row {
    Row { provider, method, payer, action, is_sent: true }
}

const TABLE: &[Row] = &[
    row("wechat-v3", "wechat.native", "{}", "qr"),
    row("wechat-v3", "wechat.jsapi", r#"{"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}"#, "jsapi"),
    row("wechat-v3", "wechat.h5", r#"{"client_ip": "203.0.113.9"}"#, "redirect"),
    row("wechat-v3", "wechat.app", "{}", "app"),
    row("alipay", "alipay.qr", "{}", "qr"),
    row("alipay", "alipay.jsapi", r#"{"buyer_id": "2088102116773037"}"#, "jsapi"),
];

/// The rows of each provider, and a world in which its channel is the only one.
async fn each(work: impl AsyncFn(&World, &Row, &str)) {
    let mut done: Vec<&str> = Vec::new();
    for provider in TABLE.iter().map(|row| row.provider) {
        if done.contains(&provider) {
            continue;
        }
        done.push(provider);
        let world = World::of(provider).await;
        for row in TABLE.iter().filter(|row| row.provider == provider) {
            work(&world, row, &row.method.replace('.', "-")).await;
        }
    }
}

impl Row {
    fn order(&self, order: &str) -> Value {
        let mut body = order_of(order);
        body["method"] = self.method.into();
        body["payer"] = serde_json::from_str(self.payer).unwrap();
        body["return_url"] = "https://shop.example.com/thanks?order=1".into();
        body
    }
}

async fn create(world: &World, row: &Row, order: &str) -> crate::harness::Answer {
    world.ask("POST", "/v1/payments", Some(&format!("pay-{order}")), &row.order(order)).await
}

#[tokio::test]
async fn paid_repeated_notified_and_refunded() {
    each(async |world, row, order| {
        let answer = create(world, row, order).await;
        let payment = answer.json();
        assert_eq!(answer.status, 201, "{}: {payment}", row.method);
        assert_eq!(
            (&payment["status"], &payment["action"]["type"]),
            (&json!("pending"), &json!(row.action)),
            "{payment}"
        );
        let again = create(world, row, order).await;
        assert!(again.is_replayed() && again.body == answer.body, "{}: {:?}", row.method, again.body);

        world.pay(order).await;
        let event = world.receiver.until(order, "payment.succeeded").await.json();
        assert_eq!(event["data"]["payment"]["money_state"], "moved", "{event}");
        let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}, "reason": "退款"});
        let path = format!("/v1/payments/{order}/refunds");
        let refunded = world.ask("POST", &path, Some(&format!("refund-{order}")), &refund).await;
        assert_eq!(refunded.status, 201, "{}: {:?}", row.method, refunded.body);
        world.receiver.until(order, "refund.succeeded").await;
        let payment = world.payment(order).await;
        assert_eq!((&payment["status"], &payment["refunded"]), (&json!("succeeded"), &json!(300)), "{payment}");
        let seen = world.seen(order).await;
        assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["refund"]), (&json!(1), &json!(1)), "{seen}");
    })
    .await;
}

#[tokio::test]
async fn unclear_is_unknown_then_known_and_never_sent_again() {
    each(async |world, row, order| {
        if !row.is_sent {
            return;
        }
        let orders =
            ["cut_after", "wrong_signature", "unsigned", "garbage"].map(|fault| (fault, format!("{order}-{fault}")));
        for (fault, order) in &orders {
            world.fault(json!({"operation": "create", "fault": fault, "number": World::number(order)})).await;
            let answer = create(world, row, order).await;
            assert_eq!(answer.status, 202, "{} {fault}: {:?}", row.method, answer.body);
            let payment = answer.json();
            assert_eq!(
                (&payment["status"], &payment["action"]),
                (&json!("unknown"), &Value::Null),
                "{fault}: {payment}"
            );
        }
        // Together: an order that nobody scanned is not known to every provider, and that is believed only after a while.
        for (fault, order) in &orders {
            let payment = until(&format!("{} {fault} is known", row.method), || async {
                let payment = world.payment(order).await;
                (payment["status"] != "unknown").then_some(payment.clone()).ok_or(payment)
            })
            .await;
            assert_eq!(payment["money_state"], "not_moved", "{fault}: {payment}");
            create(world, row, order).await;
            assert_eq!(world.seen(order).await["arrivals"]["create"], 1, "{} {fault}", row.method);
        }
    })
    .await;
}

#[tokio::test]
async fn forged_and_altered_notifications_change_nothing() {
    each(async |world, row, order| {
        create(world, row, order).await;
        let path = format!("/orders/{}", World::number(order));
        world.control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
        for (count, tamper) in ["body", "signature", "amount", "account"].iter().enumerate() {
            world.control("POST", &format!("{path}/notify"), json!({"tamper": tamper})).await;
            let attempts = until(&format!("{} {tamper} was answered", row.method), || async {
                let seen = world.seen(order).await;
                let all = seen["notifications"].as_array().cloned().unwrap_or_default();
                let all: Vec<Value> =
                    all.iter().flat_map(|one| one["attempts"].as_array().cloned()).flatten().collect();
                let answered = all.iter().filter(|attempt| attempt["status"].is_u64()).count();
                if answered > count { Ok(all) } else { Err(seen) }
            })
            .await;
            assert!(attempts[count]["acknowledged"] != true, "{} {tamper}: {attempts:?}", row.method);
        }
        assert!(!world.receiver.of(order).iter().any(|event| event.json()["type"] == "payment.succeeded"));
        world.control("POST", &format!("{path}/notify"), json!({})).await;
        world.receiver.until(order, "payment.succeeded").await;
    })
    .await;
}
