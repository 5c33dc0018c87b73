//! Alipay's own SDK and the most used Python SDK: they verify signatures, use the sandbox as merchants and produce
//! notifications.

use std::path::Path;

use serde_json::{Value, json};
use tollgate_sandbox::keygen::SandboxProvider;

use super::{account, all_are, fields, golden_key, golden_parts, run_sdk};
use crate::harness::{World, WorldOptions, payment_body, send};

#[tokio::test]
async fn alipay_sdk_verifies_requests_links_and_order_strings() {
    let (mut names, mut signed) = (Vec::new(), Vec::new());
    for pointer in ["/request/body", "/outcome/action/url", "/outcome/action/params/orderStr"] {
        for (name, part) in golden_parts("alipay", pointer) {
            let form = part.as_str().unwrap();
            signed.push(fields(form.split_once("gateway.do?").map_or(form, |(_, query)| query)));
            names.push(format!("{name} {pointer}"));
        }
    }
    assert!(names.len() >= 14, "{names:?}");
    let (public, private) = (golden_key("alipay", "ali_app.pub.pem"), golden_key("alipay", "ali_app.key.pem"));
    let question = |signed: &[Value]| json!({"publicKey": public, "privateKey": private, "signed": signed});
    all_are(true, &run_sdk("alipay.mjs", "forms", question(&signed)).await, &names);
    for fields in &mut signed {
        fields["timestamp"] = "2023-11-15 06:13:21".into();
    }
    all_are(false, &run_sdk("alipay.mjs", "forms", question(&signed)).await, &names);
}

#[tokio::test]
async fn alipay_sdks_verify_golden_responses_and_notifications() {
    let (public, private) = (golden_key("alipay", "ali_alipay.pub.pem"), golden_key("alipay", "ali_app.key.pem"));
    let question = |name: &str, what: Vec<Value>| json!({"publicKey": public, "privateKey": private, name: what});
    let (names, answers): (Vec<_>, Vec<_>) = golden_parts("alipay", "/answer/body").into_iter().unzip();
    all_are(true, &run_sdk("alipay.mjs", "answers", question("answers", answers)).await, &names);
    let (names, bodies): (Vec<_>, Vec<_>) = golden_parts("alipay", "/notification/body").into_iter().unzip();
    let forms: Vec<Value> = bodies.iter().map(|body| fields(body.as_str().unwrap())).collect();
    all_are(true, &run_sdk("alipay.mjs", "forms", question("signed", forms)).await, &names);
    all_are(true, &run_sdk("alipay_python.py", "notifications", question("notifications", bodies)).await, &names);
}

/// Settings with which an SDK acts as this merchant.
fn merchant(world: &World, number: &str, other_world: &World) -> Value {
    let (folder, table) = account(world);
    let read = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let mut merchant = json!({
        "appId": table["app_id"],
        "privateKey": read(&folder, "app_private_key.pem"),
        "publicKey": read(&folder, "alipay_public_key.pem"),
        "otherKey": read(&account(other_world).0, "app_private_key.pem"),
    });
    if table.contains_key("certificates") {
        merchant["certificates"] = json!({
            "application": read(&folder, "app_cert.pem"),
            "alipay": read(&folder, "alipay_cert.pem"),
            "root": read(&folder, "alipay_root_cert.pem"),
        });
    }
    let url = format!("https://{}/gateway.do", world.sandbox.address());
    json!({"url": url, "folder": folder, "number": number, "account": merchant})
}

#[tokio::test]
async fn alipay_sdk_works_against_sandbox_with_keys_and_certificates() {
    let other_world = World::for_provider("alipay").await;
    for provider in [SandboxProvider::ALIPAY, SandboxProvider::ALIPAY_CERTIFICATES] {
        let world = World::with(WorldOptions { provider, ..WorldOptions::default() }).await;
        let question = merchant(&world, "judge1", &other_world);
        let seen = run_sdk("alipay.mjs", "client", question.clone()).await;
        assert_eq!(seen["created"]["outTradeNo"], "judge1", "{seen}");
        assert!(seen["created"]["qrCode"].as_str().unwrap().starts_with("https://qr.alipay.com/"), "{seen}");
        assert_eq!(seen["unknown"]["subCode"], "ACQ.TRADE_NOT_EXIST", "{seen}");
        assert_eq!(seen["forged"]["subCode"], "isv.invalid-signature", "{seen}");
        let page = world.open(&json!({"type": "redirect", "url": seen["link"]})).await;
        assert!(page.contains("judge1_page"), "{page}");
        let page = world.open(&json!({"type": "app", "params": {"orderStr": seen["text"]}})).await;
        assert!(page.contains("judge1_app"), "{page}");

        world.sandbox_control("POST", "/orders/judge1/pay", json!({"notify": false})).await;
        let seen = run_sdk("alipay.mjs", "paid", question).await;
        assert_eq!(
            (&seen["asked"]["tradeStatus"], &seen["asked"]["totalAmount"]),
            (&json!("TRADE_SUCCESS"), &json!("8.88")),
            "{seen}"
        );
        assert_eq!(
            (&seen["refunded"]["fundChange"], &seen["refunded"]["refundFee"]),
            (&json!("Y"), &json!("3.00")),
            "{seen}"
        );
        assert_eq!(seen["refund"]["refundStatus"], "REFUND_SUCCESS", "{seen}");
    }
}

#[tokio::test]
async fn alipay_sdk_works_against_sandbox_in_v3() {
    let other_world = World::for_provider("alipay").await;
    for provider in [SandboxProvider::ALIPAY, SandboxProvider::ALIPAY_V3] {
        let world = World::with(WorldOptions { provider, ..WorldOptions::default() }).await;
        let mut question = merchant(&world, "judge3", &other_world);
        question["pay"] = format!("http://{}/orders/judge3/pay", world.sandbox.control_address()).into();
        let seen = run_sdk("alipay.mjs", "v3", question).await;
        let said = |step: &str, name: &str| (seen[step]["status"].clone(), seen[step][name].clone());
        assert!(seen["created"]["qr_code"].as_str().unwrap().starts_with("https://qr.alipay.com/"), "{seen}");
        assert_eq!(said("unknown", "code"), (json!(400), json!("ACQ.TRADE_NOT_EXIST")), "{seen}");
        assert_eq!(said("forged", "code"), (json!(401), json!("invalid-signature")), "{seen}");
        assert_eq!(said("asked", "trade_status"), (json!(200), json!("TRADE_SUCCESS")), "{seen}");
        assert_eq!(said("refunded", "fund_change"), (json!(200), json!("Y")), "{seen}");
        assert_eq!(said("refund", "refund_status"), (json!(200), json!("REFUND_SUCCESS")), "{seen}");
    }
}

#[tokio::test]
async fn alipay_python_sdk_works_against_sandbox() {
    let world = World::for_provider("alipay").await;
    let mut question = merchant(&world, "judge2", &world);
    for (name, value) in question["account"].take().as_object().unwrap() {
        question[name] = value.clone();
    }
    let seen = run_sdk("alipay_python.py", "client", question).await;
    assert_eq!((&seen["created"]["code"], &seen["created"]["out_trade_no"]), (&json!("10000"), &json!("judge2")));
    assert_eq!(
        (&seen["asked"]["sub_code"], &seen["cancelled"]["retry_flag"]),
        (&json!("ACQ.TRADE_NOT_EXIST"), &json!("N"))
    );
}

#[tokio::test]
async fn alipay_sdk_notification_is_accepted_and_altered_one_rejected() {
    let world = World::for_provider("alipay").await;
    let mut order = payment_body("o-1");
    order["method"] = "alipay.qr".into();
    world.signed_request("POST", "/v1/payments", Some("k-1"), &order).await;
    let (folder, table) = account(&world);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let question = json!({
        "privateKey": read("alipay_private_key.pem"), "publicKey": read("alipay_public_key.pem"),
        "fields": {
            "app_id": table["app_id"], "auth_app_id": table["app_id"], "seller_id": table["seller_id"],
            "notify_id": "2026010200222030405000000000000001", "notify_type": "trade_status_sync",
            "notify_time": "2026-01-02 03:04:06", "charset": "utf-8", "version": "1.0",
            "trade_no": "2026010222001400000000000001", "out_trade_no": World::provider_order_no("o-1"),
            "trade_status": "TRADE_SUCCESS", "total_amount": "10.00", "receipt_amount": "10.00",
            "gmt_create": "2026-01-02 03:04:00", "gmt_payment": "2026-01-02 03:04:05",
            "subject": "茶 100% a+b&c=d", "buyer_id": "2088102116773037",
            "fund_bill_list": "[{\"amount\":\"10.00\",\"fundChannel\":\"ALIPAYACCOUNT\"}]",
        },
    });
    let made = run_sdk("alipay_python.py", "notification", question).await;
    let made = made.as_str().unwrap();
    let deliver = async |body: String| {
        let url = format!("http://{}/notify/main", world.gateway.listen);
        let kind = "application/x-www-form-urlencoded; charset=utf-8".to_owned();
        send("POST", &url, &[("content-type", kind)], body.as_bytes()).await.unwrap()
    };
    let altered = deliver(made.replace("total_amount=10.00", "total_amount=10.01")).await;
    assert_ne!(altered.body, "success", "{altered:?}");
    assert_eq!(world.payment("o-1").await["status"], "pending");
    let taken = deliver(made.to_owned()).await;
    assert_eq!((taken.status, &*taken.body), (200, &b"success"[..]));
    let payment = world.until_status("o-1", "succeeded").await;
    assert_eq!(payment["provider_payment_id"], "2026010222001400000000000001");
}
