//! Tests of UnionPay's bill file of a clearing day.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::{TimeZone, offset};
use miniz_oxide::inflate::decompress_to_vec_zlib;
use serde_json::json;

use super::shop::{FILES, Fields, Fixture, encoded};
use super::{APP, BACK, app_order, shop, with};
use crate::keygen::SandboxProvider;

/// Returns a request for the file of a day, with only the documented fields.
fn file(fixture: &Fixture, settle_date: &str) -> Fields {
    let mut fields = fixture.shop.request("7601", "000000", "");
    fields.retain(|name, _| name != "orderId" && name != "channelType");
    with(with(fields, "fileType", "00"), "settleDate", settle_date)
}

/// Returns the clearing day this number of days from now, as `MMDD`.
fn day(days: i32) -> String {
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let day = now.to_zoned(TimeZone::fixed(offset(8))).date().saturating_add(jiff::Span::new().days(days));
    day.strftime("%m%d").to_string()
}

#[tokio::test]
async fn bill_file_of_a_day_is_signed_and_missing_without_transactions() {
    for provider in [SandboxProvider::UNIONPAY, SandboxProvider::UNIONPAY_SM3] {
        let fixture = Fixture::with(provider, |_| {}).await;
        let shop = &fixture.shop;
        let none = shop.ask(FILES, file(&fixture, &day(0))).await.unwrap();
        assert!(none.is_signature_valid && none.code() == "98" && none.get("fileContent").is_empty(), "{none:?}");
        let order = app_order(&fixture, "order001");
        shop.ask(APP, order.clone()).await.unwrap();
        fixture.pay("order001").await;
        let original = shop.query(&order).await.get("queryId").to_owned();
        shop.ask(BACK, shop.back("0400", "000201", "refund01", &original, "60")).await.unwrap();

        // Around 23:00 the transactions may belong to the previous clearing day.
        let mut reply = shop.ask(FILES, file(&fixture, &day(0))).await.unwrap();
        if reply.code() == "98" {
            reply = shop.ask(FILES, file(&fixture, &day(-1))).await.unwrap();
        }
        assert!(reply.is_signature_valid && reply.code() == "00", "{reply:?}");
        assert!(reply.get("fileName").ends_with(".zip") && reply.get("settleDate").len() == 4, "{reply:?}");
        let content = decompress_to_vec_zlib(&STANDARD.decode(reply.get("fileContent")).unwrap()).unwrap();
        assert!(content.starts_with(b"PK\x03\x04"));
        let shown = content.escape_ascii().to_string();
        assert!(shown.contains("E74 ") && shown.contains(" 000000000100 ") && shown.contains(" order001 "), "{shown}");
        assert!(shown.contains("E84 ") && shown.contains(" 000000000060 ") && shown.contains(" refund01 "), "{shown}");

        let json = json!(shop.sign(file(&fixture, &day(-9)))).to_string();
        let reply = shop.exchange(FILES, "application/json;charset=UTF-8", json).await.unwrap();
        assert!(reply.text.starts_with('{') && reply.code() == "98", "{reply:?}");
    }
}

#[tokio::test]
async fn bill_file_request_of_other_merchant_or_with_invalid_fields_is_rejected() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let good = || file(&fixture, &day(0));
    for (name, value, code) in [
        ("fileType", "01", "10"),
        ("fileType", "", "13"),
        ("settleDate", "", "13"),
        ("settleDate", "1301", "10"),
        ("settleDate", "101", "10"),
        ("bizType", "000201", "10"),
        ("orderId", "order001", "10"),
        ("txnTime", "20200101000000", "10"),
        ("txnSubType", "00", "32"),
    ] {
        let reply = shop.ask(FILES, with(good(), name, value)).await.unwrap();
        assert_eq!(reply.code(), code, "{name}={value} {reply:?}");
    }
    // Files exist only at this path, and nothing else does.
    assert_eq!(shop.ask(BACK, good()).await.unwrap().code(), "32");
    assert_eq!(shop.ask(FILES, app_order(&fixture, "order001")).await.unwrap().code(), "32");
    let forged = with(shop.sign(good()), "settleDate", &day(-1));
    let reply = shop.exchange(FILES, shop::FORM, encoded(&forged)).await.unwrap();
    assert!(reply.code() == "11" && !reply.is_signature_valid, "{reply:?}");
    let stats = fixture.simulator.control_get("/stats").await;
    assert_eq!(stats["bad_signatures"], 4, "{stats}");
}
