//! A widely used SDK as a merchant of the APIv2 sandbox and as producer of notifications.

use serde_json::{Value, json};

use super::{account, run_sdk};
use crate::harness::{World, send};

const SIGN_TYPES: [&str; 2] = ["MD5", "HMAC-SHA256"];

#[tokio::test]
async fn wechat_v2_sdk_works_against_sandbox_in_both_sign_types() {
    let world = World::for_provider("wechat-v2").await;
    let (folder, account) = account(&world);
    for (sign_type, code) in SIGN_TYPES.into_iter().zip(["131234567890123456", "131234567890123457"]) {
        let number = format!("sdk-{sign_type}");
        let question = json!({
            "url": format!("https://{}", world.sandbox.address()),
            "folder": folder,
            "number": number,
            "signType": sign_type,
            "account": {
                "mchid": account["mchid"], "appid": account["appid"], "api": account["api"],
                "otherApi": "another key of thirty-two letter", "code": code,
            },
        });
        let seen = run_sdk("wechat_v2.mjs", "client", question).await;
        assert!(seen["created"]["code_url"].as_str().unwrap().starts_with("weixin://"), "{seen}");
        assert_eq!(
            (&seen["state"], &seen["closed"], &seen["afterwards"]),
            (&json!("NOTPAY"), &json!("SUCCESS"), &json!("CLOSED"))
        );
        assert_eq!((&seen["scanned"]["total_fee"], &seen["refunded"]["refund_fee"]), (&json!("888"), &json!("300")));
        assert_eq!(
            (&seen["refunds"]["out_refund_no_0"], &seen["refunds"]["refund_status_0"]),
            (&json!(format!("{number}-back")), &json!("SUCCESS")),
            "{seen}"
        );
        assert_eq!(seen["unknown"]["data"]["err_code"], "ORDERNOTEXIST", "{seen}");
        assert_eq!(seen["naked"]["status"], 400, "{seen}");
        assert_eq!(seen["forged"]["data"]["return_code"], "FAIL", "{seen}");
        let order = world.sandbox_control("GET", &format!("/orders/{number}-till"), Value::Null).await;
        assert_eq!((&order["created"], &order["executions"]["refund"]), (&json!(1), &json!(1)), "{order}");
    }
}

#[tokio::test]
async fn wechat_v2_sdk_notification_is_accepted_and_altered_one_rejected() {
    let world = World::for_provider("wechat-v2").await;
    world.create("o-1", "k-1").await;
    let (_, account) = account(&world);
    let transaction = "4200000000000000000000000001";
    let fields = json!({
        "return_code": "SUCCESS", "appid": account["appid"], "mch_id": account["mchid"],
        "result_code": "SUCCESS", "openid": "o-openid", "is_subscribe": "N", "trade_type": "NATIVE",
        "bank_type": "OTHERS", "total_fee": "1000", "cash_fee": "1000", "fee_type": "CNY", "attach": "茶 <a> & b",
        "transaction_id": transaction, "out_trade_no": World::provider_order_no("o-1"), "time_end": "20260102030405",
    });
    // The channel signs orders with HMAC-SHA256, so their notifications use it too.
    let question = json!({"api": account["api"], "signType": "HMAC-SHA256", "fields": fields});
    let made = run_sdk("wechat_v2.mjs", "payment", question.clone()).await;
    let made = made.as_str().unwrap();
    for altered in [made.replace("o-openid", "o-other"), made.replace("<sign>", "<sign>0")] {
        assert_eq!(deliver(&world, &altered).await.0, 400);
    }
    let mut forged = question;
    forged["api"] = "another key of thirty-two letter".into();
    let forged = run_sdk("wechat_v2.mjs", "payment", forged).await;
    assert_eq!(deliver(&world, forged.as_str().unwrap()).await.0, 400);
    assert_eq!(world.payment("o-1").await["status"], "pending");
    let (status, said) = deliver(&world, made).await;
    assert!(status == 200 && said.contains("<![CDATA[SUCCESS]]>"), "{status} {said}");
    let payment = world.until_status("o-1", "succeeded").await;
    assert_eq!(payment["provider_payment_id"], transaction);
}

#[tokio::test]
async fn wechat_v2_refund_notification_is_decrypted_and_wrong_key_rejected() {
    let world = World::for_provider("wechat-v2").await;
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.until_status("o-1", "succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}, "reason": "退款"});
    let refunded = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("k-2"), &refund).await;
    assert_eq!(refunded.status, 201, "{:?}", refunded.body);
    let seen = world.provider_order("o-1").await;
    let (number, known) = seen["refunds"].as_object().unwrap().iter().next().unwrap();
    let (_, account) = account(&world);
    let hidden = json!({
        "out_refund_no": number, "out_trade_no": World::provider_order_no("o-1"), "refund_id": known["refund_id"],
        "transaction_id": seen["transaction_id"], "refund_fee": "300", "settlement_refund_fee": "300",
        "total_fee": "1000", "settlement_total_fee": "1000", "refund_status": "SUCCESS",
        "success_time": "2026-01-02 03:04:05", "refund_recv_accout": "支付用户零钱", "refund_request_source": "API",
        "refund_account": "REFUND_SOURCE_UNSETTLED_FUNDS",
    });
    let question = |api: &Value| {
        let fields = json!({"return_code": "SUCCESS", "appid": account["appid"], "mch_id": account["mchid"]});
        json!({"api": api, "fields": fields, "hidden": hidden})
    };
    let api = json!(account["api"]);
    for (api, status) in [(&json!("another key of thirty-two letter"), 400), (&api, 200)] {
        let made = run_sdk("wechat_v2.mjs", "refund", question(api)).await;
        assert_eq!(deliver(&world, made.as_str().unwrap()).await.0, status);
    }
}

/// Posts a notification to the gateway. Returns the status and the body.
async fn deliver(world: &World, body: &str) -> (u16, String) {
    let url = format!("http://{}/notify/main", world.gateway.listen);
    let headers = [("content-type", "text/xml".to_owned())];
    let answer = send("POST", &url, &headers, body.as_bytes()).await.unwrap();
    (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
}
