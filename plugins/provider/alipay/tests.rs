use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;

use super::super::golden::{self, Bench, Message, NOW};
use super::*;
use crate::signer::{Key, Signer, rsa};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/alipay").join(name)).unwrap()
}

fn vectors() -> Value {
    serde_json::from_slice(&file("vectors.json")).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

type Keys = (Arc<dyn Signer>, Arc<dyn Signer>, Keyring);

/// Ours, Alipay's, and Alipay's public key.
static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let ours = rsa::signer("app", &file("keys/ali_app.key.pem")).unwrap();
    let theirs = rsa::signer("alipay", &file("keys/ali_alipay.key.pem")).unwrap();
    let verifier = rsa::verifier(&file("keys/ali_alipay.pub.pem")).unwrap();
    (ours, theirs, Keyring::new(vec![Key { id: "alipay".to_owned(), verifier, not_after: None }]))
});

fn provider() -> Alipay {
    let app_id = "2021000000000001".to_owned();
    let account =
        Account { app_id, seller_id: None, app_auth_token: None, gateway: GATEWAY.to_owned(), certificates: None };
    Alipay { account }
}

fn sign(text: &str) -> String {
    STANDARD.encode(KEYS.1.sign(text.as_bytes()).unwrap())
}

/// Alipay's side: an answer without a signature gets one, and so does a notification.
fn sign_as_alipay(message: &mut Message) {
    if message.body.starts_with('{') {
        if !message.body.contains("\"sign\":\"") {
            let signed = signature::unverified_response(message.body.as_bytes()).unwrap().to_owned();
            message.body.truncate(message.body.len() - 1);
            message.body += &format!(",\"sign\":\"{}\"}}", sign(&signed));
        }
    } else if !message.body.contains("&sign=") {
        let fields = form::decode(message.body.as_bytes()).unwrap();
        let unsigned = form::signed_text(fields.iter().filter(|(name, _)| *name != "sign_type"));
        let signature = form::Fields::from([("sign".to_owned(), sign(&unsigned))]);
        message.body += &format!("&{}", form::encode(&signature));
    }
}

#[test]
fn golden_files_hold() {
    let needed = "pay-qr pay-barcode pay-barcode-typing pay-page pay-wap pay-app pay-jsapi query query-unpaid query-refunded close cancel \
                  refund query-refund notification-payment notification-refund";
    let needed: Vec<&str> = needed.split_whitespace().collect();
    let bench =
        Bench { folder: "alipay", provider: &provider(), signer: &*KEYS.0, keys: &KEYS.2, sign: &sign_as_alipay };
    golden::hold(&bench, &needed);
}

fn verify(source: Source, body: impl Into<Bytes>) -> Result<Verified, BadSignature> {
    provider().verify(source, &HeaderMap::new(), body.into(), &KEYS.2, NOW)
}

#[test]
fn a_request_is_signed_as_published() {
    let vectors = vectors();
    let request = &vectors["request"];
    let mut fields: form::Fields = request["params"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(form::signed_text(fields.iter()), text(request, "sign_text"));
    let stamp = super::super::Stamp { unix_time: NOW, nonce: String::new() };
    let with = Signing { signer: &*KEYS.0, keys: &KEYS.2, stamp: &stamp };
    signature::sign(&mut fields, with).unwrap();
    assert_eq!(fields["sign"], text(request, "sign"));
}

#[test]
fn answers_and_notifications_are_verified_as_published_and_no_byte_may_differ() {
    let vectors = vectors();
    let verified = verify(Source::Answer, text(&vectors["response"], "body").to_owned()).unwrap();
    assert_eq!(verified.bytes(), text(&vectors["response"], "signed_text").as_bytes());
    let encrypted = verify(Source::Answer, text(&vectors["response_encrypted"], "body").to_owned()).unwrap();
    assert_eq!(encrypted.bytes(), text(&vectors["response_encrypted"], "signed_text").as_bytes());

    let notification = text(&vectors["notification"], "body");
    assert!(verify(Source::Notification, notification.to_owned()).is_ok());
    let signed_part = |body: &str, signed: &str| body.find(signed).map(|start| start..start + signed.len()).unwrap();
    let answer = text(&vectors["response"], "body");
    for place in signed_part(answer, text(&vectors["response"], "signed_text")) {
        let mut altered = answer.as_bytes().to_vec();
        altered[place] ^= 1;
        assert!(verify(Source::Answer, altered).is_err(), "byte {place} of the answer");
    }
    for place in 0..notification.len() {
        let mut altered = notification.as_bytes().to_vec();
        altered[place] ^= 1;
        // Neither `sign_type` nor what is empty is signed; nothing reads them either.
        let same = form::decode(&altered).is_some_and(|fields| {
            let strip = |mut fields: form::Fields| {
                fields.remove("sign_type");
                fields.retain(|_, value| !value.is_empty());
                fields
            };
            strip(fields) == strip(form::decode(notification.as_bytes()).unwrap())
        });
        assert!(same || verify(Source::Notification, altered).is_err(), "byte {place} of the notification");
    }
}

#[test]
fn what_is_unsigned_doubled_or_by_another_key_is_refused() {
    let signed = sign("{}");
    let wrong = |body: String| verify(Source::Answer, body).unwrap_err();
    assert_eq!(wrong("{\"a_response\":{}}".into()), BadSignature::Missing);
    assert_eq!(wrong("not JSON".into()), BadSignature::Missing);
    assert!(verify(Source::Answer, format!("{{\"a_response\":{{}},\"sign\":\"{signed}\"}}")).is_ok());
    for two in ["a", "b"] {
        let body = format!("{{\"a_response\":{{}},\"{two}_response\":{{\"x\":1}},\"sign\":\"{signed}\"}}");
        assert!(matches!(wrong(body), BadSignature::Wrong(_) | BadSignature::Missing), "{two}");
    }
    let other = format!("{{\"a_response\":{{}},\"alipay_cert_sn\":\"c0ffee\",\"sign\":\"{signed}\"}}");
    assert_eq!(wrong(other), BadSignature::UnknownKey("c0ffee".to_owned()));
    assert_eq!(verify(Source::Notification, "a=1").unwrap_err(), BadSignature::Missing);
}

#[test]
fn certificates_are_named_as_published() {
    let vectors = vectors();
    let ours = &vectors["cert_sn"];
    assert_eq!(certificate::number(&file("keys/ali_app.crt.pem")).unwrap(), text(ours, "app_cert_sn"));
    assert_eq!(certificate::number(&file("keys/ali_alipay.crt.pem")).unwrap(), text(ours, "alipay_cert_sn"));
    assert_eq!(certificate::root_number(&file("keys/ali_root_bundle.pem")).unwrap(), text(ours, "alipay_root_cert_sn"));
    let theirs = &vectors["public_cert_sn"];
    let named = |name: &str| file(&format!("keys/{}", text(&theirs[name], "file").rsplit('/').next().unwrap()));
    assert_eq!(certificate::number(&named("app")).unwrap(), text(&theirs["app"], "sn"));
    assert_eq!(certificate::number(&named("alipay")).unwrap(), text(&theirs["alipay"], "sn"));
    assert_eq!(certificate::root_number(&named("root")).unwrap(), text(&theirs["root"], "sn"));
}

/// The mistakes in an `[account]`, with these secrets beside it.
fn mistakes(account: &str, certificates: &[(&'static str, &str)]) -> Vec<String> {
    let secret = |name: &str| crate::secret::Secret::new(file(&format!("keys/{name}")));
    let secrets = certificates.iter().map(|(field, name)| (*field, secret(name))).collect();
    let table = toml::de::DeTable::parse(account).unwrap();
    let problems = crate::settings::Problems::default();
    let mut settings = Settings::root(&table, &problems);
    let built = build(&mut settings, &Given { secrets: &secrets, algorithm: Some("rsa-sha256") });
    drop(settings);
    let found: Vec<String> = problems.into_vec().into_iter().map(|problem| problem.message).collect();
    assert_eq!(built.is_some(), found.is_empty(), "{found:?}");
    found
}

#[test]
fn an_account_is_read_and_every_mistake_told() {
    let good = "app_id = \"2021000000000001\"\nseller_id = \"2088102146225135\"\napp_auth_token = \"token\"";
    assert!(mistakes(good, &[]).is_empty());
    assert!(mistakes(good, &[(APP_CERT, "ali_app.crt.pem"), (ROOT_CERT, "ali_root_bundle.pem")]).is_empty());
    assert!(mistakes(good, &[(APP_CERT, "ali_app.crt.pem")])[0].contains("needs both"));
    let bad = mistakes("app_id = \"wx1\"\nseller_id = \"x\"\ngateway = \"ftp://a\"", &[]);
    assert_eq!(bad.len(), 3, "{bad:?}");
    assert!(mistakes("", &[])[0].contains("`app_id` is missing"));
}

fn answered(method: &str, response: &str) -> Result<Outcome, Error> {
    let Operation::Pay(pay) = golden::pay(method) else { panic!() };
    answer::decode(&Operation::Query(pay.order), response.as_bytes())
}

#[test]
fn codes_say_what_the_table_says_and_unknown_ones_nothing() {
    let code = |code: &str, sub_code: &str| {
        let response = format!(r#"{{"code":"{code}","msg":"m","sub_code":"{sub_code}","sub_msg":"说明"}}"#);
        answered("alipay.qr", &response).unwrap_err().code()
    };
    assert_eq!(code("40004", "ACQ.TRADE_NOT_EXIST"), "absent");
    assert_eq!(code("40004", "ACQ.SYSTEM_ERROR"), "unclear");
    assert_eq!(code("40004", "ACQ.TRADE_HAS_SUCCESS"), "conflict");
    assert_eq!(code("40004", "ACQ.BEYOND_PER_RECEIPT_DAY_RESTRICTION"), "declined");
    assert_eq!(code("40004", "ACQ.SOMETHING_NEW"), "unclear");
    assert_eq!(code("40002", "isv.invalid-signature"), "declined");
    assert_eq!(code("20000", "isp.unknow-error"), "unclear");
    assert_eq!(code("40005", "isv.app-call-limited"), "provider_busy");
    let unsigned = br#"{"error_response":{"code":"40002","msg":"m","sub_code":"isv.invalid-signature","sub_msg":"s"}}"#;
    let error = provider().refusal(&golden::pay("alipay.qr"), StatusCode::OK, unsigned);
    assert!(
        matches!(&error, Error::Unclear { word: Some(word), .. } if word.code == "isv.invalid-signature"),
        "{error}"
    );
}

#[test]
fn what_is_not_about_this_order_is_a_mismatch() {
    let number = "0123456789abcdef0123456789abcdef";
    let response = |number: &str, amount: &str, rest: &str| {
        format!(
            r#"{{"code":"10000","out_trade_no":"{number}","trade_no":"1","trade_status":"TRADE_SUCCESS","total_amount":{amount}{rest}}}"#
        )
    };
    assert_eq!(answered("alipay.qr", &response("other", "\"0.01\"", "")).unwrap_err().code(), "mismatch");
    assert_eq!(answered("alipay.qr", &response(number, "\"0.015\"", "")).unwrap_err().code(), "mismatch");
    // A number may have lost its zeros; the amount is the same.
    assert_eq!(answered("alipay.qr", &response(number, "8.8", "")).unwrap().amount.unwrap().value, 880);
    assert_eq!(
        answered("alipay.qr", &response(number, "\"0.01\"", ",\"code\":\"10000\"")).unwrap_err().code(),
        "unclear"
    );
    let elsewhere = "app_id=1&out_trade_no=2&trade_no=3&trade_status=TRADE_SUCCESS&total_amount=0.01";
    assert_eq!(notify::decode(&provider().account, elsewhere.as_bytes()).unwrap_err().code(), "mismatch");
}

proptest! {
    #[test]
    fn whatever_comes_is_read_without_a_panic_and_not_believed(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(verify(Source::Answer, body.clone()).is_err());
        prop_assert!(verify(Source::Notification, body.clone()).is_err());
        let _ = notify::decode(&provider().account, &body);
        let _ = answer::decode(&golden::pay("alipay.qr"), &body);
        let _ = certificate::number(&body);
    }

    #[test]
    fn a_mutated_answer_is_never_believed(place in 0usize..600, byte in any::<u8>()) {
        static BODY: LazyLock<String> = LazyLock::new(|| text(&vectors()["response"], "body").to_owned());
        let mut altered = BODY.as_bytes().to_vec();
        let place = place % altered.len();
        altered[place] = byte;
        if let Ok(verified) = verify(Source::Answer, altered) {
            prop_assert!(BODY.contains(std::str::from_utf8(verified.bytes()).unwrap()));
        }
    }
}
