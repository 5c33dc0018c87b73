mod bills;
mod codes;
mod leaving;
mod shapes;

use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use super::super::answer_codes as table;
use super::super::form;
use super::super::golden::{self, GoldenFixture, Message as Golden, NOW};
use super::xml::Fields;
use super::*;
use crate::payment::{Pay, Payer, Status};

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/wechat-v2/vectors.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
});

fn key(sign_type: SignType) -> ApiKey {
    ApiKey { key: VECTORS["doc_vector"]["key"].as_str().unwrap().to_owned(), sign_type }
}

fn provider() -> WechatV2 {
    let ids = merchant_account::Account::new("10000100".to_owned(), "wxd930ea5d5a258f4f".to_owned(), None, None);
    let account = Account { ids, key: key(SignType::HmacSha256) };
    WechatV2 { account }
}

/// Service provider with MD5 signatures.
fn partner() -> WechatV2 {
    let [sub_mchid, sub_appid] = ["1900000109", "wx8888888888888888"].map(|id| Some(id.to_owned()));
    let ids = merchant_account::Account::new("10000100".into(), "wxd930ea5d5a258f4f".into(), sub_mchid, sub_appid);
    WechatV2 { account: Account { ids, key: key(SignType::Md5) } }
}

fn fields(params: &Value) -> Fields {
    params.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

/// Checks the golden files of a folder. WeChat Pay's messages without a signature get one, except notifications of
/// refunds, which have none.
fn check_golden_files(folder: &str, provider: &WechatV2) {
    let needed = "pay-native pay-jsapi pay-h5 pay-app pay-codepay query close reverse refund query-refund notification-payment \
                  notification-refund";
    let needed: Vec<&str> = needed.split_whitespace().collect();
    let (signer, keys) = (crate::signer::none(), Keyring::default());
    let sign = |message: &mut Golden| {
        let mut fields = xml::read("xml", message.body.as_bytes()).unwrap();
        if !fields.contains_key("sign") && !fields.contains_key("req_info") {
            fields.insert("sign".to_owned(), provider.account.key.sign(&fields));
            message.body = xml::write(&fields);
        }
    };
    golden::check_golden_files(
        &GoldenFixture { folder, provider, signer: &*signer, keys: &keys, now: NOW, sign: &sign },
        &needed,
    );
}

#[test]
fn golden_files_match() {
    check_golden_files("wechat-v2", &provider());
}

#[test]
fn golden_files_of_a_service_provider_with_md5_match() {
    check_golden_files("wechat-v2-partner", &partner());
}

#[test]
fn signatures_match_published_ones() {
    let doc = &VECTORS["doc_vector"];
    assert_eq!(key(SignType::Md5).sign(&fields(&doc["params"])), doc["md5"].as_str().unwrap());
    assert_eq!(key(SignType::HmacSha256).sign(&fields(&doc["params"])), doc["hmac_sha256"].as_str().unwrap());
    let order = &VECTORS["unifiedorder"];
    assert_eq!(key(SignType::HmacSha256).sign(&fields(&order["params"])), order["hmac_sha256"].as_str().unwrap());
}

#[test]
fn published_refund_notification_is_decrypted() {
    let vector = &VECTORS["refund_req_info"];
    let opened = key(SignType::Md5).open(vector["req_info"].as_str().unwrap()).unwrap();
    assert_eq!(Some(opened), xml::read("root", vector["plaintext"].as_str().unwrap().as_bytes()));
    for bad in ["", "!", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA=="] {
        assert!(key(SignType::Md5).open(bad).is_none(), "{bad}");
    }
}

fn verify(source: Source, body: &[u8]) -> Result<Verified, BadSignature> {
    provider().verify(source, &HeaderMap::new(), Bytes::copy_from_slice(body), &Keyring::default(), NOW)
}

fn signed(params: &[(&str, &str)]) -> String {
    let mut fields: Fields = params.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    fields.insert("sign".to_owned(), provider().account.key.sign(&fields));
    xml::write(&fields)
}

const PAID: &[(&str, &str)] = &[
    ("return_code", "SUCCESS"),
    ("result_code", "SUCCESS"),
    ("appid", "wxd930ea5d5a258f4f"),
    ("mch_id", "10000100"),
    ("out_trade_no", "0123456789abcdef0123456789abcdef"),
    ("transaction_id", "4200001988202311150000000001"),
    ("trade_state", "SUCCESS"),
    ("total_fee", "1"),
    ("time_end", "20231115061325"),
];

#[test]
fn any_altered_byte_is_rejected() {
    let body = signed(PAID);
    assert!(verify(Source::Answer, body.as_bytes()).is_ok());
    let whole = xml::read("xml", body.as_bytes());
    for index in 0..body.len() {
        let mut altered = body.clone().into_bytes();
        altered[index] ^= 1;
        let refused = verify(Source::Notification, &altered).is_err();
        assert!(refused || xml::read("xml", &altered) == whole, "byte {index}");
    }
    assert_eq!(
        verify(Source::Answer, b"<xml><return_code>FAIL</return_code></xml>").unwrap_err(),
        BadSignature::Missing
    );
    let sealed = b"<xml><req_info>AAAA</req_info></xml>";
    assert!(matches!(verify(Source::Notification, sealed), Err(BadSignature::Wrong(_))));
}

/// Decodes the answer to a query, with some fields replaced.
fn queried(method: &str, replaced: &[(&str, &str)]) -> Result<Outcome, Error> {
    let Operation::Pay(pay) = golden::pay(method) else { panic!() };
    answered(&Operation::Query(pay.order), replaced)
}

fn answered(operation: &Operation, replaced: &[(&str, &str)]) -> Result<Outcome, Error> {
    let (signer, keys) = (crate::signer::none(), Keyring::default());
    let stamp = super::super::Stamp { unix_time: NOW, nonce: String::new() };
    let with = Signing { signer: &*signer, keys: &keys, stamp: &stamp };
    let body = signed(&[PAID, replaced].concat());
    provider().decode(operation, StatusCode::OK, verify(Source::Answer, body.as_bytes()).unwrap(), with)
}

#[test]
fn answer_about_another_order_is_rejected() {
    assert_eq!(queried("wechat.native", &[]).unwrap().status, Status::Succeeded);
    for (name, value) in
        [("appid", "wx1"), ("mch_id", "1"), ("out_trade_no", "1"), ("total_fee", "1.0"), ("fee_type", "USD")]
    {
        assert_eq!(queried("wechat.native", &[(name, value)]).unwrap_err().code(), "mismatch", "{name}");
    }
    assert_eq!(queried("wechat.native", &[("trade_state", "ODD")]).unwrap_err().code(), "unclear");
    assert_eq!(queried("wechat.native", &[("trade_state", "REFUND")]).unwrap().status, Status::Succeeded);
}

/// The signed text is the same if a field is hidden in the value or name of another one.
#[test]
fn field_hidden_in_another_field_is_rejected() {
    let body =
        signed(&[PAID, &[("cash_fee", "1"), ("fee_type", "USD"), ("mweb_url", "https://w?a=1&package=2")]].concat());
    let whole = xml::read("xml", body.as_bytes()).unwrap();
    let result = |fields: &Fields| {
        assert_eq!(form::text(fields, &["sign"]), form::text(&whole, &["sign"]));
        verify(Source::Answer, xml::write(fields).as_bytes()).map(drop)
    };
    assert_eq!(result(&whole), Ok(()), "a value that hides no field may contain any character");
    let mut folded = whole.clone();
    let (first, value) = (folded["cash_fee"].clone(), folded.remove("fee_type").unwrap());
    folded.insert("cash_fee".to_owned(), format!("{first}&fee_type={value}"));
    assert!(result(&folded).is_err(), "in a value");
    folded.remove("cash_fee");
    folded.insert(format!("cash_fee={first}&fee_type"), value);
    assert!(result(&folded).is_err(), "in a name");
}

#[test]
fn control_character_is_rejected_with_field_name() {
    let stamp = super::super::Stamp { unix_time: NOW, nonce: String::new() };
    let keys = Keyring::default();
    let with = Signing { signer: &*crate::signer::none(), keys: &keys, stamp: &stamp };
    let pay = |text: &str, payer: Payer| {
        let Operation::Pay(pay) = golden::pay("wechat.jsapi") else { panic!() };
        let payer = Payer { openid: payer.openid.or(Some("o1".into())), ..payer };
        provider().encode(&Operation::Pay(Pay { description: text.to_owned(), payer, ..pay }), with)
    };
    for text in ["a\rb", "a\r\nb", "\u{0}", "\u{1b}", "\u{fffe}"] {
        let Err(Error::Unsupported(why)) = pay(text, Payer::default()) else { panic!("{text:?}") };
        assert!(why.contains("`description`"), "{why}");
        let payer = Payer { openid: Some(text.to_owned()), ..Payer::default() };
        let Err(Error::Unsupported(why)) = pay("tea", payer) else { panic!("{text:?}") };
        assert!(why.contains("`payer.openid`"), "{why}");
        let payer = Payer { client_ip: Some(text.to_owned()), ..Payer::default() };
        let Err(Error::Unsupported(why)) = pay("tea", payer) else { panic!("{text:?}") };
        assert!(why.contains("`payer.client_ip`"), "{why}");
    }
    assert!(matches!(pay("a\n\tb]]>", Payer::default()), Ok(Encoded::Send(_))));
}

#[test]
fn service_provider_sends_openid_of_merchants_app() {
    let Operation::Pay(pay) = golden::pay("wechat.jsapi") else { panic!() };
    let payer = Payer { openid: Some("o1".into()), ..Payer::default() };
    let pay = Operation::Pay(Pay { payer, ..pay });
    for (sub_appid, name) in [(None, "<openid>o1]"), (Some("wx8".to_owned()), "<sub_openid>o1]")] {
        let ids = merchant_account::Account::new("10000100".into(), "wx9".into(), Some("1900000109".into()), sub_appid);
        let account = Account { ids, key: key(SignType::HmacSha256) };
        let stamp = super::super::Stamp { unix_time: NOW, nonce: String::new() };
        let with = Signing { signer: &*crate::signer::none(), keys: &Keyring::default(), stamp: &stamp };
        let Ok(Encoded::Send(request)) = (WechatV2 { account }).encode(&pay, with) else { panic!() };
        let body = String::from_utf8(request.body().to_vec()).unwrap().replace("<![CDATA[", "");
        assert!(body.contains(name), "{body}");
    }
}

#[test]
fn reversal_is_done_only_if_recall_is_n() {
    let Operation::Pay(pay) = golden::pay("wechat.codepay") else { panic!() };
    let reverse = Operation::Close(pay.order);
    assert_eq!(answered(&reverse, &[("recall", "N")]).unwrap().status, Status::Closed);
    assert!(answered(&reverse, &[("recall", "Y")]).unwrap().needs_reversal, "the channel is healthy");
    assert_eq!(answered(&reverse, &[]).unwrap_err().code(), "unclear");
}

#[test]
fn pay_error_of_scanned_code_needs_reversal_others_are_final() {
    let found = |method, state| {
        let outcome = queried(method, &[("trade_state", state)]).unwrap();
        (outcome.status, outcome.needs_reversal)
    };
    assert_eq!(found("wechat.codepay", "PAYERROR"), (Status::Pending, true));
    assert_eq!(found("wechat.codepay", "SUCCESS"), (Status::Succeeded, false), "it was paid nevertheless");
    assert_eq!(found("wechat.codepay", "REVOKED"), (Status::Closed, false), "after the reversal");
    assert_eq!(found("wechat.codepay", "USERPAYING"), (Status::Pending, false));
    for method in ["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app"] {
        assert_eq!(found(method, "PAYERROR"), (Status::Failed, false), "{method}");
    }
}

#[test]
fn message_signed_with_other_algorithm_and_same_key_is_accepted() {
    let with = |key: &ApiKey, sign_type: SignType| {
        let mut fields: Fields = PAID.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        fields.insert("sign".to_owned(), key.sign_as(sign_type, &fields));
        xml::write(&fields)
    };
    let other = ApiKey { key: "0123456789abcdef0123456789abcdef".to_owned(), sign_type: SignType::Md5 };
    for sign_type in [SignType::Md5, SignType::HmacSha256] {
        for source in [Source::Answer, Source::Notification] {
            let body = with(&key(SignType::HmacSha256), sign_type);
            assert!(verify(source, body.as_bytes()).is_ok(), "{sign_type:?}");
            assert!(matches!(verify(source, with(&other, sign_type).as_bytes()), Err(BadSignature::Wrong(_))));
            let short = body.replace("</sign>", "</sign><sign_type>MD5</sign_type>");
            assert!(verify(source, short.as_bytes()).is_err(), "a field added after signing is rejected");
        }
    }
}

#[test]
fn notification_that_is_not_xml_is_reported() {
    for body in [&b"<xml><a>1</xml>"[..], b"", b"{}"] {
        let error = verify(Source::Notification, body).unwrap_err();
        assert!(error.to_string().contains("not flat XML"), "{error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_messages_are_rejected_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200), text in "(<xml>)?[<>/a-z\\[\\]&;! ]{0,80}(</xml>)?") {
        for body in [&body[..], text.as_bytes()] {
            prop_assert!(verify(Source::Answer, body).is_err());
            prop_assert!(verify(Source::Notification, body).is_err());
            let _ = provider().decode_notification(Verified::assertion(Bytes::copy_from_slice(body), "api"));
        }
    }

    #[test]
    fn mutated_answer_is_rejected(index in any::<usize>(), byte in any::<u8>()) {
        static BODY: LazyLock<String> = LazyLock::new(|| signed(PAID));
        let mut altered = BODY.clone().into_bytes();
        let index = index % altered.len();
        altered[index] = byte;
        let same = xml::read("xml", &altered) == xml::read("xml", BODY.as_bytes());
        prop_assert!(same || verify(Source::Answer, &altered).is_err());
    }
}
