//! Requests with wrong signatures, or of a wrong kind.

use serde_json::json;

use super::keys::Keys;
use super::shop::{self, Town, joined};
use super::{APP, app_order, with};
use crate::keygen::SandboxProvider;
use crate::sandbox::tests::merchant::Receiver;

#[tokio::test]
async fn what_is_not_signed_rightly_is_refused_without_a_signature() {
    let town = Town::start().await;
    let shop = &town.shop;
    let good = || app_order(&town, "order001");
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
        let told = shop.send(APP, fields).await.unwrap();
        assert!(told.code() == code && !told.believed && told.get("signature").is_empty(), "{code} {told:?}");
    }
    for (kind, body) in [("text/plain", ""), (shop::FORM, "a=1&a=2"), (shop::FORM, "a=%zz"), ("application/json", "[]")]
    {
        assert_eq!(shop.exchange(APP, kind, body.to_owned()).await.unwrap().code(), "10", "{kind} {body}");
    }
    assert_eq!(town.world.told("/orders").await, json!([]));
    assert_eq!(town.world.told("/stats").await["bad_signatures"], count);
}

#[tokio::test]
async fn sm2_covers_every_field_and_takes_the_certificates_number_for_the_user_id() {
    let town = Town::with(SandboxProvider::UnionpaySm2, |_| {}).await;
    let shop = &town.shop;
    let good = || app_order(&town, "order001");
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
        let told = shop.send(APP, fields).await.unwrap();
        assert!(told.code() == code && !told.believed && told.get("signature").is_empty(), "{code} {told:?}");
    }
    assert_eq!(town.world.told("/orders").await, json!([]));

    let mut receiver = Receiver::saying(&[], (200, "ok")).await;
    shop.ask(APP, with(good(), "backUrl", &receiver.url)).await.unwrap();
    town.pay("order001").await;
    let (fields, believed) = shop.news(&receiver.next().await.1);
    assert!(believed && fields["signMethod"] == "21" && fields["respCode"] == "00", "{fields:?}");
    town.world.control("POST", "/orders/order001/notify", json!({"tamper": "signature"})).await;
    assert!(!shop.news(&receiver.next().await.1).1);
}
