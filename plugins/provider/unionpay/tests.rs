use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde_json::Value;

use super::super::golden::{self, Bench, Message as Golden, NOW};
use super::form::Fields;
use super::signature::Method;
use super::*;
use crate::signer::{Signer, rsa};

/// When the test certificates are valid.
const LATER: u64 = 1_780_000_000;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/unionpay").join(name)).unwrap()
}

static VECTORS: LazyLock<Value> = LazyLock::new(|| serde_json::from_slice(&file("vectors.json")).unwrap());

fn text(vector: &str, name: &str) -> &'static str {
    VECTORS[vector][name].as_str().unwrap()
}

fn trust(test: bool) -> Trust {
    Trust::read(&file("keys/up_root.crt.pem"), &file("keys/up_middle.crt.pem"), test).unwrap()
}

fn provider(method: Method) -> UnionPay {
    let mer_id = "777290058110048".to_owned();
    UnionPay { account: Account { mer_id, method, gateway: GATEWAY.to_owned(), term_id: None } }
}

fn shared() -> UnionPay {
    provider(Method::Sha256("88888888".to_owned()))
}

fn signing<T>(signer: &dyn Signer, work: impl FnOnce(Signing<'_>) -> T) -> T {
    let stamp = super::super::Stamp { unix_time: NOW, nonce: String::new() };
    work(Signing { signer, keys: &Keyring::default(), stamp: &stamp })
}

fn nobody() -> Arc<dyn Signer> {
    crate::signer::none()
}

/// The fields of a vector's text.
fn fields(text: &str) -> Fields {
    message::read_answer(text.as_bytes()).unwrap()
}

fn signature(method: &Method, signer: &dyn Signer, text: &str) -> String {
    let mut fields = fields(text);
    signing(signer, |with| method.sign(&mut fields, with)).unwrap();
    fields.remove("signature").unwrap()
}

#[test]
fn signatures_are_as_published() {
    for (vector, method) in [
        ("acp510_11", Method::Sha256(String::new())),
        ("acp510_12", Method::Sm3(String::new())),
        ("consume_11", Method::Sha256("88888888".to_owned())),
        ("consume_12", Method::Sm3("88888888".to_owned())),
    ] {
        assert_eq!(signature(&method, &*nobody(), text(vector, "text")), text(vector, "signature"), "{vector}");
    }
    for (vector, key, id) in [
        ("acp510_rsa", "keys/up_acp_test_sign.key.pem", "68759663125"),
        ("consume_01_testcert", "keys/up_acp_test_sign.key.pem", "68759663125"),
        ("consume_01_official_java", "keys/up_merchant.key.pem", "68759663126"),
    ] {
        let signer = rsa::signer(id, &file(key)).unwrap();
        assert_eq!(
            signature(&Method::Rsa(trust(true)), &*signer, text(vector, "text")),
            text(vector, "signature"),
            "{vector}"
        );
    }
    assert_eq!(certificate::number(&file("keys/up_merchant.crt.pem")).unwrap(), "68759663126");
}

#[test]
fn a_published_notification_is_believed_where_its_certificate_is() {
    let body = Bytes::from_static(text("notification_01_official_java", "form_body").as_bytes());
    let verify = |test: bool, now: u64| {
        let provider = provider(Method::Rsa(trust(test)));
        provider.verify(Source::Notification, &HeaderMap::new(), body.clone(), &Keyring::default(), now)
    };
    assert!(verify(true, LATER).is_ok());
    let refused = |test: bool, now: u64| verify(test, now).unwrap_err().to_string();
    assert!(refused(false, LATER).contains("somebody else"), "a test certificate in production");
    assert!(refused(true, NOW).contains("not valid now"), "too early");
    assert!(refused(true, 4_000_000_000).contains("not valid now"), "too late");
    let other = Trust::read(&file("keys/up_root.crt.pem"), &file("keys/up_merchant.crt.pem"), true);
    assert!(other.is_err(), "a middle certificate that is not the root's");
    let whole = form::read(&body).unwrap();
    let provider = provider(Method::Rsa(trust(true)));
    for place in 0..body.len() {
        let mut altered = body.to_vec();
        altered[place] ^= 1;
        let filled =
            |fields: Fields| -> Fields { fields.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect() };
        let same = form::read(&altered).is_some_and(|fields| filled(fields) == filled(whole.clone()));
        let checked =
            provider.verify(Source::Notification, &HeaderMap::new(), altered.into(), &Keyring::default(), LATER);
        assert!(same || checked.is_err(), "byte {place}");
    }
}

/// UnionPay's side: what has no signature gets one.
fn sign(message: &mut Golden) {
    let is_form = message.status.is_none();
    let read =
        if is_form { form::read(message.body.as_bytes()) } else { message::read_answer(message.body.as_bytes()) };
    let mut fields = read.unwrap();
    if fields.contains_key("signature") {
        return;
    }
    signing(&*nobody(), |with| shared().account.method.sign(&mut fields, with)).unwrap();
    message.body = match is_form {
        true => form::write(&fields),
        false => fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&"),
    };
}

#[test]
fn golden_files_hold() {
    let needed = "pay-page pay-app pay-qr pay-barcode query query-unpaid query-late refund query-refund notification notification-refund";
    let needed: Vec<&str> = needed.split_whitespace().collect();
    let keys = Keyring::default();
    golden::hold(
        &Bench { folder: "unionpay", provider: &shared(), signer: &*nobody(), keys: &keys, sign: &sign },
        &needed,
    );
}

fn verify(source: Source, body: &[u8]) -> Result<Verified, BadSignature> {
    shared().verify(source, &HeaderMap::new(), Bytes::copy_from_slice(body), &Keyring::default(), NOW)
}

fn signed(pairs: &[(&str, &str)]) -> String {
    let mut fields: Fields = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    signing(&*nobody(), |with| shared().account.method.sign(&mut fields, with)).unwrap();
    fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

const PAID: &[(&str, &str)] = &[
    ("merId", "777290058110048"),
    ("orderId", "0123456789abcdef0123456789abcdef"),
    ("respCode", "00"),
    ("respMsg", "成功[0000000]"),
    ("origRespCode", "00"),
    ("queryId", "392311150613200000001"),
    ("txnAmt", "1"),
    ("currencyCode", "156"),
];

/// What a query is answered with, some fields being otherwise.
fn queried(otherwise: &[(&str, &str)]) -> Result<Outcome, Error> {
    let Operation::Pay(pay) = golden::pay("unionpay.qr") else { panic!() };
    answered(&Operation::Query(pay.order), otherwise)
}

fn answered(operation: &Operation, otherwise: &[(&str, &str)]) -> Result<Outcome, Error> {
    let body = signed(&[PAID, otherwise].concat());
    let reply = verify(Source::Answer, body.as_bytes()).unwrap();
    signing(&*nobody(), |with| shared().decode(operation, StatusCode::OK, reply, with))
}

#[test]
fn one_byte_altered_is_refused() {
    let body = signed(PAID);
    let whole = message::read_answer(body.as_bytes());
    for place in 0..body.len() {
        let mut altered = body.clone().into_bytes();
        altered[place] ^= 1;
        assert!(message::read_answer(&altered) == whole || verify(Source::Answer, &altered).is_err(), "byte {place}");
    }
    assert_eq!(verify(Source::Answer, b"respCode=00").unwrap_err(), BadSignature::Missing);
}

#[test]
fn only_what_agrees_with_the_order_is_accepted() {
    assert_eq!(queried(&[]).unwrap().status, Status::Succeeded);
    for (name, value) in [("merId", "1"), ("orderId", "1"), ("txnAmt", "1.0"), ("currencyCode", "840")] {
        assert_eq!(queried(&[(name, value)]).unwrap_err().code(), "mismatch", "{name}");
    }
}

#[test]
fn codes_say_what_the_table_says_and_unknown_ones_nothing() {
    let question = |code: &str| queried(&[("respCode", code)]).unwrap_err().code();
    assert_eq!(
        (question("34"), question("37"), question("11"), question("99")),
        ("absent", "provider_busy", "declined", "unclear")
    );
    let order = |code: &str| queried(&[("origRespCode", code)]).unwrap();
    assert_eq!(order("A6").status, Status::Succeeded);
    assert_eq!(
        (order("05").status, order("ZZ").status, order("").status),
        (Status::Pending, Status::Pending, Status::Pending)
    );
    assert_eq!(order("61").status, Status::Pending, "the cardholder may try again");
    let Operation::Pay(pay) = golden::pay("unionpay.barcode") else { panic!() };
    let at_the_till = Operation::Query(pay.order.clone());
    assert_eq!(answered(&at_the_till, &[("origRespCode", "61")]).unwrap().status, Status::Failed);
    let mut old = pay.order;
    (old.method, old.created_at) = (payment::Method::parse("unionpay.qr").unwrap(), jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(answered(&Operation::Query(old), &[("origRespCode", "61")]).unwrap().status, Status::Failed);
    assert!(order("42").needs_person.is_some() && order("42").status == Status::Succeeded);
    let barcode = golden::pay("unionpay.barcode");
    assert_eq!(answered(&barcode, &[]).unwrap().status, Status::Pending, "00 is: taken on");
    assert_eq!(answered(&barcode, &[("respCode", "03")]).unwrap_err().code(), "unclear");
    assert_eq!(answered(&barcode, &[("respCode", "05")]).unwrap().status, Status::Pending);
    assert_eq!(answered(&barcode, &[("respCode", "12")]).unwrap_err().code(), "conflict");
    let Operation::Pay(pay) = golden::pay("unionpay.qr") else { panic!() };
    let close = signing(&*nobody(), |with| shared().encode(&Operation::Close(pay.order), with)).unwrap_err();
    assert_eq!(close.code(), "unfit");
    assert_eq!(shared().refusal(&barcode, StatusCode::OK, b"respCode=11&respMsg=x").code(), "unclear");
}

#[test]
fn an_account_is_read_and_every_mistake_told() {
    let mistakes = |account: &str, secrets: &[(&'static str, Vec<u8>)], algorithm: Option<&'static str>| {
        let secrets = secrets.iter().map(|(name, value)| (*name, crate::secret::Secret::new(value.clone()))).collect();
        let table = toml::de::DeTable::parse(account).unwrap();
        let problems = crate::settings::Problems::default();
        let mut settings = Settings::root(&table, &problems);
        let built = build(&mut settings, &Given { secrets: &secrets, algorithm });
        drop(settings);
        let found: Vec<String> = problems.into_vec().into_iter().map(|problem| problem.message).collect();
        assert_eq!(built.is_some(), found.is_empty(), "{found:?}");
        found
    };
    let certificates = [(ROOT_CERT, file("keys/up_root.crt.pem")), (MIDDLE_CERT, file("keys/up_middle.crt.pem"))];
    let id = "merId = \"777290058110048\"\n";
    assert!(mistakes(id, &certificates, Some("rsa-sha256")).is_empty());
    assert!(mistakes(id, &certificates, None)[0].contains("has no `sign`"));
    assert!(mistakes(id, &[], Some("rsa-sha256"))[0].contains("`root_cert` and `middle_cert`"));
    let swapped = [(MIDDLE_CERT, file("keys/up_root.crt.pem")), (ROOT_CERT, file("keys/up_middle.crt.pem"))];
    assert!(mistakes(id, &swapped, Some("rsa-sha256"))[0].contains("was not signed by"));
    let shared = format!("{id}sign_method = \"12\"");
    assert!(mistakes(&shared, &[(SECURE_KEY, b"88888888".to_vec())], None).is_empty());
    assert!(mistakes(&shared, &[], None)[0].contains("no `secure_key`"));
    assert!(mistakes(&format!("{id}sign_method = \"21\""), &[], None)[0].contains("unknown"));
    assert!(
        mistakes("merId = \"1\"\nsign_method = \"11\"", &[(SECURE_KEY, b"8".to_vec())], None)[0].contains("15 digits")
    );
}

proptest! {
    #[test]
    fn whatever_comes_is_read_without_a_panic_and_not_believed(body in proptest::collection::vec(any::<u8>(), 0..200), text in "(signature|signPubKeyCert|orderId|[=&{}%a-z-]){0,20}") {
        let rsa = provider(Method::Rsa(trust(true)));
        for body in [&body[..], text.as_bytes()] {
            for source in [Source::Answer, Source::Notification] {
                prop_assert!(verify(source, body).is_err());
                prop_assert!(rsa.verify(source, &HeaderMap::new(), Bytes::copy_from_slice(body), &Keyring::default(), LATER).is_err());
            }
            let _ = shared().decode_notification(Verified::vouch(Bytes::copy_from_slice(body), "x"));
        }
    }

    #[test]
    fn a_mutated_answer_is_never_believed(place in any::<usize>(), byte in any::<u8>()) {
        static BODY: LazyLock<String> = LazyLock::new(|| signed(PAID));
        let mut altered = BODY.clone().into_bytes();
        let place = place % altered.len();
        altered[place] = byte;
        let same = message::read_answer(&altered) == message::read_answer(BODY.as_bytes());
        prop_assert!(same || verify(Source::Answer, &altered).is_err());
    }
}
