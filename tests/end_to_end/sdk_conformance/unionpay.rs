//! UnionPay's signature rules in an independent implementation: it verifies what the gateway and the sandbox sign, and
//! produces messages that both must accept.

use serde_json::{Value, json};

use super::{all_are, golden_key, golden_parts, run_sdk};
use crate::harness::{World, send};

/// Returns the golden messages of one side as objects. Form responses are not escaped and are left out.
fn messages(folder: &str, pointer: &str) -> (Vec<String>, Vec<Value>) {
    let read = |body: Value| match body.as_str() {
        None => body,
        Some(json) if json.starts_with('{') => serde_json::from_str(json).unwrap(),
        Some(form) => super::fields(form),
    };
    golden_parts(folder, pointer).into_iter().map(|(name, body)| (name, read(body))).unzip()
}

fn altered(messages: &[Value]) -> Vec<Value> {
    let mut messages = messages.to_vec();
    for message in &mut messages {
        message["merId"] = "777290058110049".into();
    }
    messages
}

/// Asserts that all messages verify, and that none does with another account.
async fn check_with_sdk(script: &'static str, folder: &str, pointer: &str, keys: &Value) {
    let (names, messages) = messages(folder, pointer);
    for (verdict, messages) in [(true, messages.clone()), (false, altered(&messages))] {
        let mut question = keys.clone();
        question["messages"] = messages.into();
        all_are(verdict, &run_sdk(script, "messages", question).await, &names);
    }
}

#[tokio::test]
async fn unionpay_signatures_verify_in_every_sign_method() {
    let key = json!({"secureKey": "88888888"});
    let certificate = |name: &str| json!({"certificate": golden_key("unionpay", name)});
    check_with_sdk("unionpay.mjs", "unionpay", "/request/body", &certificate("up_merchant.crt.pem")).await;
    check_with_sdk("unionpay.mjs", "unionpay", "/outcome/action/fields", &certificate("up_merchant.crt.pem")).await;
    check_with_sdk("unionpay.mjs", "unionpay-sm2", "/request/body", &certificate("sm2_leaf.crt.pem")).await;
    for pointer in ["/request/body", "/answer/body"] {
        check_with_sdk("unionpay.mjs", "unionpay-sm3-json", pointer, &key).await;
        check_with_sdk("unionpay.py", "unionpay-sm3-json", pointer, &key).await;
    }
}

/// Returns the signing keys of a world's two sides in the script's format.
fn keys(world: &World, sign_method: &str) -> (Value, Value) {
    let (folder, account) = super::account(world);
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let number = |name: &str| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&std::fs::read(folder.join(name)).unwrap()).unwrap();
        pem.parse_x509().unwrap().serial.to_string()
    };
    if matches!(sign_method, "11" | "12") {
        let keys = json!({"signMethod": sign_method, "secureKey": account["secure_key"]});
        return (keys.clone(), keys);
    }
    let merchant = json!({
        "signMethod": sign_method, "privateKey": file("acp_sign_key.pem"), "certId": number("acp_sign_cert.pem"),
        "unionpayCertificate": file("unionpay_cert.pem"),
    });
    let unionpay =
        json!({"signMethod": sign_method, "privateKey": file("unionpay_key.pem"), "shown": file("unionpay_cert.pem")});
    (merchant, unionpay)
}

const WORLDS: [(&str, &str); 4] =
    [("unionpay", "01"), ("unionpay-sha256", "11"), ("unionpay-sm3", "12"), ("unionpay-sm2", "21")];

#[tokio::test]
async fn unionpay_sandbox_accepts_valid_signature_and_rejects_other_key() {
    for (provider, sign_method) in WORLDS {
        let world = World::for_provider(provider).await;
        let (folder, file) = super::account(&world);
        let mut account = keys(&world, sign_method).0;
        account["merId"] = file["merId"].as_str().into();
        account["now"] = now().into();
        let other_key = if sign_method == "21" { "sm2_leaf.key.pem" } else { "up_acp.key.pem" };
        account["other"] = json!({"secureKey": "another", "privateKey": golden_key("unionpay", other_key)});
        let question = json!({
            "url": format!("https://{}", world.sandbox.address()), "folder": folder, "number": "judge00001", "account": account,
        });
        let seen = run_sdk("unionpay.mjs", "client", question).await;
        let code = |name: &str| (seen[name]["respCode"].as_str().unwrap().to_owned(), seen[name]["isSigned"].clone());
        assert_eq!(code("created"), ("00".to_owned(), json!(true)), "{provider}: {seen}");
        assert!(!seen["created"]["tn"].as_str().unwrap().is_empty(), "{seen}");
        assert_eq!(code("again"), ("12".to_owned(), json!(true)), "{provider}: {seen}");
        assert_eq!(code("unknown"), ("34".to_owned(), json!(true)), "{provider}: {seen}");
        assert_eq!(code("forged"), ("11".to_owned(), json!(false)), "{provider}: {seen}");
        assert_eq!(seen["asked"]["isSigned"], true, "{provider}: {seen}");
    }
}

/// Beijing time in the format of the messages.
fn now() -> String {
    jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8))).strftime("%Y%m%d%H%M%S").to_string()
}

#[tokio::test]
async fn unionpay_notification_triggers_query_and_altered_one_is_rejected() {
    for (provider, sign_method) in WORLDS {
        let world = World::for_provider(provider).await;
        let mut order = crate::harness::payment_body("o-1");
        order["method"] = "unionpay.app".into();
        let made = world.signed_request("POST", "/v1/payments", Some("k-1"), &order).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        let path = format!("/orders/{}/pay", World::provider_order_no("o-1"));
        world.sandbox_control("POST", &path, json!({"notify": false})).await;
        let mut question = keys(&world, sign_method).1;
        question["fields"] = json!({
            "version": "5.1.0", "encoding": "UTF-8", "bizType": "000201", "txnType": "01", "txnSubType": "01",
            "accessType": "0", "merId": super::account(&world).1["merId"].as_str(), "orderId": World::provider_order_no("o-1"),
            "txnTime": now(), "txnAmt": "1000", "currencyCode": "156", "queryId": "202611230000007777928",
            "respCode": "00", "respMsg": "成功[0000000]", "settleAmt": "1000", "traceNo": "777792",
        });
        let notification = run_sdk("unionpay.mjs", "notification", question.clone()).await;
        let notification = notification.as_str().unwrap();
        for forged in
            [notification.replace("respCode=00", "respCode=A6"), notification.replace("signature=", "signature=A")]
        {
            assert_eq!(deliver(&world, &forged).await, 400, "{provider}");
        }
        question["fields"]["txnAmt"] = "1".into();
        let cheap = run_sdk("unionpay.mjs", "notification", question).await;
        assert_eq!(deliver(&world, cheap.as_str().unwrap()).await, 400, "{provider}: another amount is rejected");
        world.receiver.until("o-1", "payment.mismatch").await;
        let events = world.receiver.events_of("o-1");
        assert!(!events.iter().any(|event| event.json()["type"] == "payment.succeeded"), "{provider}");
        assert_eq!(deliver(&world, notification).await, 200, "{provider}");
        world.receiver.until("o-1", "payment.succeeded").await;
    }
}

async fn deliver(world: &World, body: &str) -> u16 {
    let headers = [("content-type", "application/x-www-form-urlencoded;charset=UTF-8".to_owned())];
    let url = format!("http://{}/notify/main", world.gateway.listen);
    send("POST", &url, &headers, body.as_bytes()).await.unwrap().status
}
