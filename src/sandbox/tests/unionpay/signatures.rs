//! Tests of requests with invalid signatures or sign methods.

use serde_json::json;

use super::keys::Keys;
use super::shop::{self, Fixture, joined};
use super::{APP, app_order, with};
use crate::keygen::SandboxProvider;
use crate::tests::merchant::Receiver;

#[tokio::test]
async fn request_with_invalid_signature_is_rejected_unsigned() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let good = || app_order(&fixture, "order001");
    let (signed, late) =
        (|name, value| shop.sign(with(good(), name, value)), |name, value| with(shop.sign(good()), name, value));
    let wrong = [
        (late("signature", "c2lnbg=="), "11"),
        (late("txnAmt", "1"), "11"),
        (late("surprise", "1"), "11"),
        (late("signature", ""), "13"),
        (signed("certId", "68759663125"), "11"),
        (signed("certId", ""), "13"),
        (signed("merId", "777290000000000"), "31"),
        (signed("signMethod", "21"), "10"),
        (signed("signMethod", "11"), "10"),
        (signed("version", "5.0.0"), "10"),
        (signed("encoding", "GBK"), "10"),
        (signed("txnType", "02"), "32"),
        (signed("bizType", ""), "13"),
    ];
    let count = wrong.len();
    for (fields, code) in wrong {
        let reply = shop.send(APP, fields).await.unwrap();
        assert!(
            reply.code() == code && !reply.is_signature_valid && reply.get("signature").is_empty(),
            "{code} {reply:?}"
        );
    }
    for (kind, body) in [("text/plain", ""), (shop::FORM, "a=1&a=2"), (shop::FORM, "a=%zz"), ("application/json", "[]")]
    {
        assert_eq!(shop.exchange(APP, kind, body.to_owned()).await.unwrap().code(), "10", "{kind} {body}");
    }
    assert_eq!(fixture.simulator.control_get("/orders").await, json!([]));
    assert_eq!(fixture.simulator.control_get("/stats").await["bad_signatures"], count);
}

#[tokio::test]
async fn sm2_signature_covers_every_field_and_uses_certificate_number_as_user_id() {
    let fixture = Fixture::with(SandboxProvider::UNIONPAY_SM2, |_| {}).await;
    let shop = &fixture.shop;
    let good = || app_order(&fixture, "order001");
    let named_otherwise = Keys::sm2(&shop.files.account, "1234567812345678").sign(&joined(&good()));
    let wrong = [
        (with(shop.sign(good()), "txnAmt", "1"), "11"),
        (with(good(), "signature", &named_otherwise), "11"),
        (with(good(), "signature", "c2lnbg=="), "11"),
        (shop.sign(with(good(), "certId", "68759663125")), "11"),
        (shop.sign(with(good(), "certId", "")), "13"),
        (shop.sign(with(good(), "signMethod", "01")), "10"),
        (shop.sign(with(good(), "signMethod", "12")), "10"),
        (shop.sign(with(good(), "signMethod", "22")), "10"),
    ];
    for (fields, code) in wrong {
        let reply = shop.send(APP, fields).await.unwrap();
        assert!(
            reply.code() == code && !reply.is_signature_valid && reply.get("signature").is_empty(),
            "{code} {reply:?}"
        );
    }
    assert_eq!(fixture.simulator.control_get("/orders").await, json!([]));

    let mut receiver = Receiver::responding(&[], (200, "ok")).await;
    shop.ask(APP, with(good(), "backUrl", &receiver.url)).await.unwrap();
    fixture.pay("order001").await;
    let (fields, is_signature_valid) = shop.notification(&receiver.next().await.1);
    assert!(is_signature_valid && fields["signMethod"] == "21" && fields["respCode"] == "00", "{fields:?}");
    fixture.simulator.control("POST", "/orders/order001/notify", json!({"tamper": "signature"})).await;
    assert!(!shop.notification(&receiver.next().await.1).1);
}
