//! Bills: an authorized merchant gets the provider's file, verified; a file that fails verification is rejected.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Answer, OTHER, SHOP, World, payment_body, signed_request};

/// Starts a world in which `shop` may read the bills of its channel.
async fn world(provider: &'static str) -> World {
    let world = World::for_provider(provider).await;
    let file = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("bills = [\"main\"]\n{text}")).unwrap();
    let answer = world.reload().await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    world
}

/// Returns today's bill, which the sandbox dates by the payment. Near midnight the day before or after is tried, because
/// UnionPay's day ends at 23:00.
async fn todays_bill(world: &World, query: &str) -> Answer {
    let mut last = None;
    for days in [0, -1, 1] {
        let answer = bill_of_day(world, days, query).await;
        if !matches!(answer.status, 400 | 404) {
            return answer;
        }
        last.get_or_insert(answer);
    }
    last.unwrap()
}

/// Requests the bill of the day `days` from today, in Beijing time.
async fn bill_of_day(world: &World, days: i32, query: &str) -> Answer {
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(8));
    let day = jiff::Timestamp::now().to_zoned(zone).date().saturating_add(jiff::Span::new().days(days));
    world.signed_request("GET", &format!("/v1/channels/main/bills/{day}{query}"), None, &Value::Null).await
}

async fn paid(world: &World, method: &str) {
    let mut order = payment_body("bill-1");
    order["method"] = json!(method);
    assert_eq!(world.signed_request("POST", "/v1/payments", Some("k-1"), &order).await.status, 201);
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

/// Expected bills of one provider.
struct Row {
    provider: &'static str,
    method: &'static str,
    content_type: &'static str,
    proof: &'static str,
    /// The amount as the bill writes it.
    amount: &'static str,
    /// Other bill types, each with a word it must contain; an empty word means that there is no such bill.
    others: &'static [(&'static str, &'static str)],
    /// Provider's error code for a missing bill.
    none: &'static str,
    /// Faults as (operation, fault), each with the expected error `code`.
    faults: &'static [(&'static str, &'static str, &'static str)],
}

const TABLE: &[Row] = &[
    Row {
        provider: "wechat-v3",
        method: "wechat.native",
        content_type: "text/csv",
        proof: "hash",
        amount: ",`10.00,",
        others: &[("funds", "收入"), ("trade_refund", "")],
        none: "NO_STATEMENT_EXIST",
        faults: &[
            ("bill", "other_hash", "mismatch"),
            ("bill", "other_host", "mismatch"),
            ("bill", "unsigned", "provider_response_invalid"),
            ("bill", "wrong_signature", "provider_response_invalid"),
            ("bill_file", "garbage", "mismatch"),
            ("bill_file", "status", "provider_response_invalid"),
            ("bill_file", "cut_after", "provider_response_invalid"),
        ],
    },
    Row {
        provider: "wechat-v2",
        method: "wechat.native",
        content_type: "text/csv",
        proof: "host",
        amount: ",`10.00,",
        others: &[("funds", "收入"), ("funds_fees", ""), ("trade_refund", "")],
        none: "20002",
        // APIv2 bills are not signed.
        faults: &[
            ("bill", "garbage", "provider_response_invalid"),
            ("bill", "status", "provider_response_invalid"),
            ("bill", "cut_after", "provider_response_invalid"),
        ],
    },
    ALIPAY,
    Row { provider: "alipay-v3", ..ALIPAY },
    UNIONPAY,
    Row { provider: "unionpay-sm3", ..UNIONPAY },
    Row { provider: "unionpay-sm2", ..UNIONPAY },
];

const ALIPAY: Row = Row {
    provider: "alipay",
    method: "alipay.qr",
    content_type: "application/zip",
    proof: "host",
    amount: ",10.00,",
    others: &[("funds", "10.00")],
    none: "isp.bill_not_exist",
    faults: &[
        ("bill", "other_host", "mismatch"),
        ("bill", "unsigned", "provider_response_invalid"),
        ("bill", "wrong_signature", "provider_response_invalid"),
        ("bill_file", "garbage", "provider_response_invalid"),
        ("bill_file", "cut_after", "provider_response_invalid"),
    ],
};

const UNIONPAY: Row = Row {
    provider: "unionpay",
    method: "unionpay.qr",
    content_type: "application/zip",
    proof: "signature",
    amount: " 000000001000 ",
    others: &[],
    none: "98",
    faults: &[
        ("bill", "other_account", "mismatch"),
        ("bill", "unsigned", "provider_response_invalid"),
        ("bill", "wrong_signature", "provider_response_invalid"),
        ("bill", "garbage", "provider_response_invalid"),
        ("bill", "status", "provider_response_invalid"),
        ("bill", "cut_after", "provider_response_invalid"),
    ],
};

/// Returns the body as text. The sandbox's archives are stored without compression, so their content is readable.
fn body_text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bill_of_each_provider_is_passed_through_with_digest() {
    join_all(TABLE.iter().map(async |row| {
        let world = world(row.provider).await;
        paid(&world, row.method).await;
        let bill = todays_bill(&world, "").await;
        assert_eq!(bill.status, 200, "{bill:?}\n{}", world.log());
        assert_eq!(header(&bill, "content-type"), row.content_type, "{}", row.provider);
        assert_eq!(header(&bill, "x-tollgate-bill-proof"), row.proof, "{}", row.provider);
        let (is_archive, name) = (row.content_type == "application/zip", header(&bill, "content-disposition"));
        assert!(name.ends_with(if is_archive { "-trade.zip\"" } else { "-trade.csv\"" }), "{name}");
        assert_eq!(bill.body.starts_with(b"PK\x03\x04"), is_archive, "{bill:?}");
        assert_digest(&bill);
        let text = body_text(&bill);
        assert!(text.contains(&World::provider_order_no("bill-1")) && text.contains(row.amount), "{text}");
        assert_eq!(body_text(&todays_bill(&world, "?type=trade").await), text);

        for (kind, word) in row.others {
            let other = todays_bill(&world, &format!("?type={kind}")).await;
            match *word {
                "" => assert_eq!((other.status, &other.json()["code"]), (404, &json!("bill_not_found")), "{other:?}"),
                word => assert!(other.status == 200 && body_text(&other).contains(word), "{kind} {other:?}"),
            }
        }
        let none = bill_of_day(&world, -20, "").await;
        assert_eq!((none.status, &none.json()["code"]), (404, &json!("bill_not_found")), "{none:?}");
        assert_eq!(none.json()["provider"]["code"], row.none);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bill_that_fails_verification_is_502() {
    join_all(TABLE.iter().map(async |row| {
        let world = world(row.provider).await;
        paid(&world, row.method).await;
        // Late in the evening some providers' day is already the next one. The first request consumes the fault.
        let mut day = 0;
        for days in [0, -1, 1] {
            if bill_of_day(&world, days, "").await.status == 200 {
                day = days;
                break;
            }
        }
        for (operation, fault, code) in row.faults {
            world.inject_fault(json!({"operation": operation, "fault": fault})).await;
            let answer = bill_of_day(&world, day, "").await;
            let (provider, log) = (row.provider, world.log());
            assert_eq!((answer.status, &answer.json()["code"]), (502, &json!(code)), "{provider} {fault}\n{log}");
        }
        // Bill failures do not count in the payments' breaker, and the next bill is correct.
        assert_eq!(todays_bill(&world, "").await.status, 200);
        let mut order = payment_body("bill-2");
        order["method"] = json!(row.method);
        assert_eq!(world.signed_request("POST", "/v1/payments", Some("k-2"), &order).await.status, 201);
    }))
    .await;
}

/// A provider's error becomes a problem with the provider's code, never a file.
#[tokio::test(flavor = "multi_thread")]
async fn bill_error_carries_provider_code() {
    for (provider, code, status, problem) in [
        // The sandbox says that its system is busy.
        ("wechat-v2", "FAIL", 502, "provider_response_invalid"),
        ("wechat-v2", "NOAUTH", 422, "declined"),
        ("wechat-v2", "SYSTEMERROR", 502, "provider_response_invalid"),
        ("unionpay", "32", 422, "declined"),
        ("unionpay", "37", 503, "provider_busy"),
        ("unionpay", "06", 502, "provider_response_invalid"),
    ] {
        let world = world(provider).await;
        world.inject_fault(json!({"operation": "bill", "fault": "status", "status": 200, "code": code})).await;
        let answer = bill_of_day(&world, -1, "").await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(problem)), "{provider} {code} {answer:?}");
        assert_eq!(answer.json()["provider"]["code"], code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unionpay_bill_of_ambiguous_year_is_400_without_provider_call() {
    let world = world("unionpay").await;
    for days in [-366, 3] {
        let answer = bill_of_day(&world, days, "").await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("unsupported_by_provider")), "{answer:?}");
    }
    assert_eq!(world.sandbox_control("GET", "/stats", Value::Null).await["requests"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bill_is_403_without_permission() {
    let world = world("wechat-v3").await;
    let to = world.gateway.listen;
    let get = async |merchant, target: &str| signed_request(to, merchant, "GET", target, None, &Value::Null).await;
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
    let stats = world.sandbox_control("GET", "/stats", Value::Null).await;
    assert_eq!(stats["arrivals"]["bill"], 1, "invalid or forbidden requests are not sent to the provider: {stats}");
}
