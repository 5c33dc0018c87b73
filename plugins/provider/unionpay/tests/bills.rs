//! Bills: only a signed archive of the requested day is accepted, with a bounded size.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::{Date, date};
use miniz_oxide::deflate::compress_to_vec_zlib;

use super::super::super::bill::{self, Answer, BillFile, BillReply, BillRequest, Bills, Proof, TRADE};
use super::super::super::golden::{GoldenFixture, Message};
use super::super::bills::decompress;
use super::*;

/// The day before [`NOW`].
const WANTED: BillRequest = BillRequest { day: date(2024, 12, 31), kind: TRADE };
const ARCHIVE: &[u8] = b"PK\x05\x06 an archive with nothing in it";

fn compressed(file: &[u8]) -> String {
    STANDARD.encode(compress_to_vec_zlib(file, 6))
}

fn answer() -> Fields {
    fields(&[
        ("encoding", "UTF-8"),
        ("merId", MER_ID),
        ("signMethod", "01"),
        ("txnType", "76"),
        ("settleDate", "1231"),
        ("respCode", "00"),
        ("respMsg", "成功[0000000]"),
        ("fileName", "777290058110048_20241231.zip"),
        ("fileContent", &compressed(ARCHIVE)),
    ])
}

fn find_body(status: u16, body: &[u8]) -> Result<BillFile, Error> {
    let checked = provider().verify(Source::Answer, &HeaderMap::new(), Bytes::copy_from_slice(body), &no_keys(), NOW);
    let (status, body) = (StatusCode::from_u16(status).unwrap(), Bytes::copy_from_slice(body));
    match provider().decode_bill(&WANTED, Answer { status, body, checked })? {
        BillReply::File(file) => Ok(file),
        BillReply::Link(link) => panic!("{link:?}"),
    }
}

fn find(fields: Fields) -> Result<BillFile, Error> {
    find_body(200, answer_body(signed_by_unionpay(fields)).as_bytes())
}

fn ask(provider: &UnionPay, day: Date, now: u64) -> Result<Fields, Error> {
    let request = signing_at(now, |with| provider.bill_request(&BillRequest { day, kind: TRADE }, with))?;
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "/"));
    Ok(Fields::of_request(provider.0.codec, request.body()).unwrap())
}

#[test]
fn golden_files_of_bills_match() {
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Form, signed_by_unionpay);
    let fixture = GoldenFixture {
        folder: "unionpay",
        provider: &provider(),
        signer: &*merchant_signer(),
        keys: &no_keys(),
        now: NOW,
        sign: &sign,
    };
    bill::golden::check_golden_files(&fixture, &["trade", "trade-absent", "trade-refused"]);
}

#[test]
fn altered_bill_is_rejected() {
    let body = answer_body(signed_by_unionpay(answer()));
    let whole = find_body(200, body.as_bytes()).unwrap();
    assert_eq!((whole.content.as_ref(), whole.proof), (ARCHIVE, Proof::Signature));
    for index in 0..body.len() {
        let mut altered = body.clone().into_bytes();
        altered[index] ^= 1;
        assert!(find_body(200, &altered).is_err(), "byte {index}");
    }
}

#[test]
fn bill_of_another_day_or_merchant_is_rejected() {
    let code = |name, value| find(with(answer(), name, value)).unwrap_err().code();
    for (name, value) in [("merId", "777290058110049"), ("settleDate", "1230"), ("txnType", "00")] {
        assert_eq!((code(name, value), code(name, "")), ("mismatch", "unclear"), "{name}");
    }
    for (name, value) in [
        ("fileContent", ""),
        ("fileContent", "no base64"),
        ("fileContent", STANDARD.encode(ARCHIVE).as_str()),
        ("fileContent", compressed(b"<html>no archive</html>").as_str()),
        ("fileContent", compressed(b"").as_str()),
    ] {
        assert_eq!(code(name, value), "unclear", "{value}");
    }
    // Signed or not, an answer in another format or with an error status is not a bill.
    let body = answer_body(signed_by_unionpay(answer()));
    assert_eq!(find_body(500, body.as_bytes()).unwrap_err().code(), "unclear");
    assert_eq!(find_body(200, answer_body(answer()).as_bytes()).unwrap_err().code(), "unclear");
    assert_eq!(find_body(200, b"<html>OK</html>").unwrap_err().code(), "unclear");
}

#[test]
fn unsigned_bill_refusal_is_accepted() {
    for (code, class) in [
        ("98", "not_found"),
        ("34", "not_found"),
        ("10", "declined"),
        ("11", "unauthorized"),
        ("37", "provider_busy"),
        ("06", "unclear"),
    ] {
        let refused = with(with(answer(), "respCode", code), "fileContent", "");
        assert_eq!(find(refused.clone()).unwrap_err().code(), class, "{code}");
        assert_eq!(find_body(200, answer_body(refused).as_bytes()).unwrap_err().code(), class, "{code}, unsigned");
    }
    let others = with(with(answer(), "respCode", "98"), "merId", "777290058110049");
    assert_eq!(find(others).unwrap_err().code(), "mismatch");
}

#[test]
fn archive_over_size_limit_is_rejected() {
    let bomb = compressed(&[0; 100_000]);
    assert!(bomb.len() < 1000);
    assert_eq!(decompress(&bomb, 100_000).unwrap().len(), 100_000);
    assert_eq!(decompress(&bomb, 99_999).unwrap_err().code(), "unclear");
}

/// `settleDate` has no year, so some days are ambiguous.
#[test]
fn ambiguous_bill_day_is_rejected() {
    let asked = |day| ask(&provider(), day, NOW);
    let fields = asked(date(2024, 12, 31)).unwrap();
    assert_eq!((fields.get("settleDate"), fields.get("txnTime")), (Some("1231"), Some("20250101105320")));
    assert_eq!(asked(date(2025, 1, 1)).unwrap().get("settleDate"), Some("0101"));
    assert_eq!(asked(date(2024, 1, 3)).unwrap().get("settleDate"), Some("0103"));
    for day in [date(2024, 1, 2), date(2024, 1, 1), date(2023, 12, 31), date(2025, 1, 2)] {
        assert_eq!(asked(day).unwrap_err().code(), "unsupported_by_provider", "{day}");
    }
    // From 23:00 on the clearing day is the next day.
    let eleven = u64::try_from(ORDERED).unwrap() + 23 * 3600;
    assert!(
        ask(&provider(), date(2025, 1, 2), eleven).is_ok() && ask(&provider(), date(2025, 1, 2), eleven - 1).is_err()
    );
}

#[test]
fn bill_request_uses_account_codec_and_platform_is_rejected() {
    let json = UnionPay(account(super::super::signature::Method::sm3(SECURE_KEY), Codec::Json));
    assert_eq!(ask(&json, WANTED.day, NOW).unwrap().get("signMethod"), Some("12"));
    let mut platform = account(super::super::signature::Method::sm3(SECURE_KEY), Codec::Form);
    let text = || "1".to_owned();
    platform.sub_merchant = Some(super::super::account::SubMerchant { id: text(), name: text(), abbreviation: text() });
    assert_eq!(ask(&UnionPay(platform), WANTED.day, NOW).unwrap_err().code(), "unsupported_by_provider");
}

proptest! {
    #[test]
    fn arbitrary_bill_answers_never_panic(status in 200u16..600, body in proptest::collection::vec(any::<u8>(), 0..200), content in "[A-Za-z0-9+/=]{0,60}") {
        prop_assert!(find_body(status, &body).is_err());
        let _ = find_body(status, format!("respCode=00&fileContent={content}").as_bytes());
        let _ = decompress(&content, 1000);
    }
}
