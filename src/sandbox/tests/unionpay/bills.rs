//! The statement of a clearing day.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::{TimeZone, offset};
use miniz_oxide::inflate::decompress_to_vec_zlib;
use serde_json::json;

use super::shop::{FILES, Fields, Town, encoded};
use super::{APP, BACK, app_order, shop, with};
use crate::keygen::SandboxProvider;

/// Asks for the file of a day, with what the documentation names and nothing else.
fn file(town: &Town, settle_date: &str) -> Fields {
    let mut fields = town.shop.request("7601", "000000", "");
    fields.retain(|name, _| name != "orderId" && name != "channelType");
    with(with(fields, "fileType", "00"), "settleDate", settle_date)
}

/// The clearing day so many days from now, as `MMDD`.
fn day(days: i32) -> String {
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let day = now.to_zoned(TimeZone::fixed(offset(8))).date().saturating_add(jiff::Span::new().days(days));
    day.strftime("%m%d").to_string()
}

#[tokio::test]
async fn a_file_lists_the_day_and_is_signed_or_there_is_none() {
    for provider in [SandboxProvider::Unionpay, SandboxProvider::UnionpaySm3] {
        let town = Town::with(provider, |_| {}).await;
        let shop = &town.shop;
        let none = shop.ask(FILES, file(&town, &day(0))).await.unwrap();
        assert!(none.believed && none.code() == "98" && none.get("fileContent").is_empty(), "{none:?}");
        let order = app_order(&town, "order001");
        shop.ask(APP, order.clone()).await.unwrap();
        town.pay("order001").await;
        let original = shop.query(&order).await.get("queryId").to_owned();
        shop.ask(BACK, shop.back("0400", "000201", "refund01", &original, "60")).await.unwrap();

        // At 23:00 it may be yesterday's.
        let mut told = shop.ask(FILES, file(&town, &day(0))).await.unwrap();
        if told.code() == "98" {
            told = shop.ask(FILES, file(&town, &day(-1))).await.unwrap();
        }
        assert!(told.believed && told.code() == "00", "{told:?}");
        assert!(told.get("fileName").ends_with(".zip") && told.get("settleDate").len() == 4, "{told:?}");
        let content = decompress_to_vec_zlib(&STANDARD.decode(told.get("fileContent")).unwrap()).unwrap();
        assert!(content.starts_with(b"PK\x03\x04"));
        let shown = content.escape_ascii().to_string();
        assert!(shown.contains("E74 ") && shown.contains(" 000000000100 ") && shown.contains(" order001 "), "{shown}");
        assert!(shown.contains("E84 ") && shown.contains(" 000000000060 ") && shown.contains(" refund01 "), "{shown}");

        let json = json!(shop.sign(file(&town, &day(-9)))).to_string();
        let told = shop.exchange(FILES, "application/json;charset=UTF-8", json).await.unwrap();
        assert!(told.text.starts_with('{') && told.code() == "98", "{told:?}");
    }
}

#[tokio::test]
async fn a_file_is_only_for_its_merchant_and_asked_for_as_documented() {
    let town = Town::start().await;
    let shop = &town.shop;
    let good = || file(&town, &day(0));
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
        let told = shop.ask(FILES, with(good(), name, value)).await.unwrap();
        assert_eq!(told.code(), code, "{name}={value} {told:?}");
    }
    // Elsewhere there are no files, and here is nothing else.
    assert_eq!(shop.ask(BACK, good()).await.unwrap().code(), "32");
    assert_eq!(shop.ask(FILES, app_order(&town, "order001")).await.unwrap().code(), "32");
    let forged = with(shop.sign(good()), "settleDate", &day(-1));
    let told = shop.exchange(FILES, shop::FORM, encoded(&forged)).await.unwrap();
    assert!(told.code() == "11" && !told.believed, "{told:?}");
    let stats = town.world.told("/stats").await;
    assert_eq!(stats["bad_signatures"], 4, "{stats}");
}
