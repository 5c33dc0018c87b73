//! Bills: a merchant that may has the provider's file, checked; nobody has what is not the provider's.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Answer, OTHER, SHOP, World, ask, order_of};

/// A world in which `shop` may read the bills of its channel.
async fn world(provider: &'static str) -> World {
    let world = World::of(provider).await;
    let file = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("bills = [\"main\"]\n{text}")).unwrap();
    let answer = world.reload().await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    world
}

/// The sandbox pays now, so its bill is today's; a test that began just before midnight sees the next day's too.
async fn todays(world: &World, query: &str) -> Answer {
    let mut last = None;
    for day in [0, -1] {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(8));
        let day = jiff::Timestamp::now().to_zoned(zone).date().saturating_add(jiff::Span::new().days(day));
        let answer = world.ask("GET", &format!("/v1/channels/main/bills/{day}{query}"), None, &Value::Null).await;
        if answer.status != 404 {
            return answer;
        }
        last = Some(answer);
    }
    last.unwrap()
}

async fn paid(world: &World, method: &str) {
    let mut order = order_of("bill-1");
    order["method"] = json!(method);
    assert_eq!(world.ask("POST", "/v1/payments", Some("k-1"), &order).await.status, 201);
    world.pay("bill-1").await;
    world.until_status("bill-1", "succeeded").await;
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).unwrap_or_else(|| panic!("no {name}: {answer:?}")).to_str().unwrap()
}

fn assert_digest(answer: &Answer) {
    let digest = BASE64_STANDARD.encode(Sha256::digest(&answer.body));
    assert_eq!(header(answer, "content-digest"), format!("sha-256=:{digest}:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wechats_bill_comes_as_it_was_hashed() {
    let world = world("wechat-v3").await;
    paid(&world, "wechat.native").await;

    let bill = todays(&world, "").await;
    assert_eq!(bill.status, 200, "{bill:?}\n{}", world.log());
    assert_eq!((header(&bill, "content-type"), header(&bill, "x-tollgate-bill-proof")), ("text/csv", "hash"));
    assert!(header(&bill, "content-disposition").ends_with("-trade.csv\""), "{bill:?}");
    assert_digest(&bill);
    let text = std::str::from_utf8(&bill.body).unwrap();
    assert!(text.contains(&format!(",`{},", World::number("bill-1"))) && text.contains(",`10.00,"), "{text}");

    let funds = todays(&world, "?type=funds").await;
    assert!(std::str::from_utf8(&funds.body).unwrap().contains("收入"), "{funds:?}");
    let none = todays(&world, "?type=trade_refund").await;
    assert_eq!((none.status, &none.json()["code"]), (404, &json!("no_bill")), "{none:?}");
    assert_eq!(none.json()["provider"]["code"], "NO_STATEMENT_EXIST");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_providers_bill_is_not_passed_on() {
    let world = world("wechat-v3").await;
    paid(&world, "wechat.native").await;
    for (fault, code) in [
        (json!({"operation": "bill", "fault": "other_hash"}), "mismatch"),
        (json!({"operation": "bill", "fault": "other_host"}), "mismatch"),
        (json!({"operation": "bill", "fault": "unsigned"}), "provider_unclear"),
        (json!({"operation": "bill", "fault": "wrong_signature"}), "provider_unclear"),
        (json!({"operation": "bill_file", "fault": "garbage"}), "mismatch"),
        (json!({"operation": "bill_file", "fault": "status", "status": 500}), "provider_unclear"),
        (json!({"operation": "bill_file", "fault": "cut_after"}), "provider_unclear"),
    ] {
        world.fault(fault.clone()).await;
        let answer = todays(&world, "").await;
        assert_eq!((answer.status, &answer.json()["code"]), (502, &json!(code)), "{fault}\n{}", world.log());
    }
    // None of it counts against payments, and the next one is right.
    assert_eq!(todays(&world, "").await.status, 200);
    assert_eq!(world.create("bill-2", "k-2").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bill_is_for_those_who_may_read_it() {
    let world = world("wechat-v3").await;
    let to = world.gateway.listen;
    let get = async |merchant, target: &str| ask(to, merchant, "GET", target, None, &Value::Null).await;
    let not_named = get(&OTHER, "/v1/channels/main/bills/2026-11-22").await;
    let not_there = get(&OTHER, "/v1/channels/nowhere/bills/2026-11-22").await;
    for answer in [&not_named, &not_there] {
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("forbidden")), "{answer:?}");
    }
    assert_eq!(not_named.json()["detail"], not_there.json()["detail"]);
    for (target, status) in [
        ("/v1/channels/main/bills/2026-02-30", 400),
        ("/v1/channels/main/bills/20261122", 400),
        ("/v1/channels/main/bills/2026-11-22?type=nothing", 400),
        ("/v1/channels/main/bills", 404),
        ("/v1/channels/main/bills/2001-01-01", 404),
    ] {
        assert_eq!(get(&SHOP, target).await.status, status, "{target}");
    }
    let stats = world.control("GET", "/stats", Value::Null).await;
    assert_eq!(stats["arrivals"]["bill"], 1, "what is malformed or forbidden never leaves: {stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn alipays_bill_comes_from_its_link() {
    let world = world("alipay").await;
    paid(&world, "alipay.qr").await;

    let bill = todays(&world, "?type=trade").await;
    assert_eq!(bill.status, 200, "{bill:?}\n{}", world.log());
    assert_eq!((header(&bill, "content-type"), header(&bill, "x-tollgate-bill-proof")), ("application/zip", "host"));
    assert_digest(&bill);
    // The sandbox does not compress: the lines can be seen.
    let shown = bill.body.escape_ascii().to_string();
    assert!(bill.body.starts_with(b"PK\x03\x04") && shown.contains(&World::number("bill-1")), "{shown}");
    assert_eq!(todays(&world, "?type=funds").await.status, 200);

    for (fault, code) in [
        (json!({"operation": "bill", "fault": "other_host"}), "mismatch"),
        (json!({"operation": "bill", "fault": "wrong_signature"}), "provider_unclear"),
        (json!({"operation": "bill", "fault": "unsigned"}), "provider_unclear"),
        (json!({"operation": "bill_file", "fault": "garbage"}), "provider_unclear"),
        (json!({"operation": "bill_file", "fault": "cut_after"}), "provider_unclear"),
    ] {
        world.fault(fault.clone()).await;
        let answer = todays(&world, "").await;
        assert_eq!((answer.status, &answer.json()["code"]), (502, &json!(code)), "{fault}\n{}", world.log());
    }
    let none = world.ask("GET", "/v1/channels/main/bills/2020-01-01", None, &Value::Null).await;
    assert_eq!((none.status, &none.json()["code"]), (404, &json!("no_bill")), "{none:?}");
}
