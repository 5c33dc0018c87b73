//! Timeline: the full history of a payment, for its merchant and for support.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{OTHER, World, payment_body, signed_request, until};

impl World {
    async fn timeline(&self, order: &str) -> Value {
        let answer = self.signed_request("GET", &format!("/v1/payments/{order}/timeline"), None, &Value::Null).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json()
    }

    /// Waits until the timeline records the delivery of this kind of event.
    async fn until_delivered(&self, order: &str, kind: &str) -> Value {
        let id = self.receiver.until(order, kind).await.id;
        until(&format!("{kind} is recorded as delivered"), || async {
            let timeline = self.timeline(order).await;
            let entries = timeline["entries"].as_array().unwrap();
            let is_recorded = entries.iter().any(|entry| entry["what"] == "delivered" && entry["id"] == id.as_str());
            is_recorded.then_some(timeline.clone()).ok_or(timeline)
        })
        .await
    }

    async fn run_explain(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["explain", "--conf"]).arg(self.conf()).args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Summarizes each entry in a few words.
fn summaries(timeline: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let word = |entry: &Value| {
        let detail = match entry["what"].as_str().unwrap() {
            "claimed" => text(&entry["action"]),
            "provider_call" => {
                format!("{} {} {}", text(&entry["operation"]), text(&entry["written"]), text(&entry["result"]))
            }
            "status_changed" => text(&entry["status"]),
            "notification_received" => text(&entry["verdict"]),
            "event" => text(&entry["kind"]),
            _ => String::new(),
        };
        let refund = entry["refund_id"].as_str().map_or(String::new(), |refund| format!("{refund}: "));
        format!("{refund}{} {detail}", text(&entry["what"])).trim().to_owned()
    };
    timeline["entries"].as_array().unwrap().iter().map(word).collect()
}

/// Returns the first entry of this kind.
fn first<'a>(timeline: &'a Value, what: &str) -> &'a Value {
    timeline["entries"].as_array().unwrap().iter().find(|entry| entry["what"] == what).unwrap()
}

#[tokio::test]
async fn timeline_lists_calls_updates_notifications_refunds_and_deliveries() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "cut_after"})).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 202);
    world.until_delivered("o-1", "payment.unknown").await;
    world.until_status("o-1", "pending").await;
    world.pay("o-1").await;
    world.until_delivered("o-1", "payment.succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    let refunded = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    assert_eq!(refunded.status, 201);
    let timeline = world.until_delivered("o-1", "refund.succeeded").await;

    let entries_seen = summaries(&timeline);
    let expected_entries = [
        "claimed pay",
        "provider_call pay maybe unclear",
        "status_changed unknown",
        "event payment.unknown",
        "provider_call query yes pending",
        "status_changed pending",
        "notification_received applied",
        "status_changed succeeded",
        "event payment.succeeded",
        "delivered",
        "r-1: claimed refund",
        "r-1: status_changed succeeded",
        "r-1: event refund.succeeded",
        "r-1: delivered",
    ];
    let mut rest = entries_seen.iter();
    for part in expected_entries {
        assert!(rest.any(|word| word == part), "{part} is missing or out of order: {entries_seen:#?}");
    }
    for once in ["claimed pay", "provider_call pay maybe unclear", "event payment.succeeded", "r-1: claimed refund"] {
        assert_eq!(entries_seen.iter().filter(|word| *word == once).count(), 1, "{once}: {entries_seen:#?}");
    }
    let notification = first(&timeline, "notification_received");
    assert_eq!(notification["seen"]["sha256"].as_str().unwrap().len(), 64, "{notification}");
    assert!(notification["seen"]["key_id"].as_str().is_some_and(|id| !id.is_empty()), "{notification}");
    let call = first(&timeline, "provider_call");
    assert!(call["sent_at"].is_string() && call["answer"].is_null(), "{call}");
    let text = timeline.to_string();
    for secret in ["openid", "ciphertext", "茶 tea", "weixin://"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }

    for order in ["o-1", "nothing"] {
        let path = format!("/v1/payments/{order}/timeline");
        let theirs = signed_request(world.gateway.listen, &OTHER, "GET", &path, None, &Value::Null).await;
        assert_eq!((theirs.status, theirs.json()["code"].as_str()), (404, Some("not_found")));
    }
    let posted = world.signed_request("POST", "/v1/payments/o-1/timeline", Some("k"), &Value::Null).await;
    assert_eq!(posted.status, 405);
}

#[tokio::test]
async fn explain_shows_payment_with_and_without_running_gateway() {
    let mut world = World::new().await;
    world.create("o-1", "k-1").await;
    let theirs =
        signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some("k"), &payment_body("o-1")).await;
    assert_eq!(theirs.status, 201);
    world.pay("o-1").await;
    world.until_delivered("o-1", "payment.succeeded").await;

    let both = said(&world.run_explain(&["o-1"]).await);
    assert!(both.contains("o-1 of shop: 10.00 CNY") && both.contains("o-1 of other: 10.00 CNY"), "{both}");
    let ours = said(&world.run_explain(&["o-1", "--merchant", "shop"]).await);
    assert!(ours.contains("PAID at ") && !ours.contains("of other"), "{ours}");
    assert!(
        ours.contains("verified and applied") && ours.contains("the event evt_") && ours.contains("was delivered"),
        "{ours}"
    );
    let by_number = said(&world.run_explain(&[&World::provider_order_no("o-1")]).await);
    assert_eq!(by_number, ours, "the payer's receipt names the provider's order number");
    let open = said(&world.run_explain(&["o-1", "--merchant", "other"]).await);
    assert!(open.contains("NOT PAID YET"), "{open}");
    let json: Value =
        serde_json::from_str(&said(&world.run_explain(&["o-1", "--merchant", "shop", "--json"]).await)).unwrap();
    assert_eq!(
        (&json[0]["status"], &json[0]["entries"][0]["what"]),
        (&"succeeded".into(), &"claimed".into()),
        "{json}"
    );
    let missing = world.run_explain(&["nothing"]).await;
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no payment `nothing`"), "{missing:?}");

    world.gateway.kill();
    assert_eq!(
        said(&world.run_explain(&["o-1", "--merchant", "shop"]).await),
        ours,
        "explain reads the ledger directly"
    );
}
