//! Golden files of UnionPay in `tests/golden/unionpay`: exact bytes in both directions.
//!
//! `UPDATE_GOLDEN=1` rewrites our side of each file (request, outcome, event) and signs messages that have no
//! signature.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::golden::{GoldenFixture, Message, check_golden_files};
use super::super::*;
use super::UnionPay;
use super::account::Account;
use super::chain::{Chain, Owners};
use super::fields::{self, Codec, Fields, SIGNATURE};
use super::signature::{Method, sha256, sm3};
use crate::signer::{rsa, sm2};

/// Time of signing and verification: 2025-01-01, when the certificates become valid.
pub(super) const NOW: u64 = 1_735_700_000;
/// A time at which the SM2 certificates are valid.
pub(super) const LATER: u64 = 1_800_000_000;
pub(super) const SM2_CERT_ID: &str = "69012345678";
pub(super) const SECURE_KEY: &[u8] = b"88888888";
pub(super) const MER_ID: &str = "777290058110048";
pub(super) const CERT_ID: &str = "68759663126";

pub(super) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/unionpay")
}

pub(super) fn key_file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("keys").join(name)).unwrap()
}

pub(super) fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("vectors.json")).unwrap()).unwrap()
}

pub(super) fn merchant_signer() -> Arc<dyn Signer> {
    rsa::signer(CERT_ID, &key_file("up_merchant.key.pem")).unwrap()
}

pub(super) fn chain() -> Chain {
    Chain::new(&key_file("up_middle.crt.pem"), &key_file("up_root.crt.pem"), Owners::Test).unwrap()
}

pub(super) fn sm2_signer() -> Arc<dyn Signer> {
    sm2::signer(SM2_CERT_ID, &key_file("sm2_leaf.key.pem")).unwrap()
}

pub(super) fn sm2_chain() -> Chain {
    Chain::new(&key_file("sm2_middle.crt.pem"), &key_file("sm2_root.crt.pem"), Owners::Production).unwrap()
}

pub(super) fn account(method: Method, codec: Codec) -> Account {
    Account {
        mer_id: MER_ID.to_owned(),
        name: MER_ID.to_owned(),
        method,
        codec,
        gateway: "https://gateway.95516.com".to_owned(),
        channel_type: "07".to_owned(),
        sub_merchant: None,
        term_id: Some("00000001".to_owned()),
        pay_timeout: std::time::Duration::from_secs(7200),
        undo: false,
    }
}

pub(super) fn provider() -> UnionPay {
    UnionPay(account(Method::Rsa(chain()), Codec::Form))
}

/// Runs `work` with the merchant's key and a fixed stamp.
pub(super) fn signing<T>(work: impl FnOnce(Signing<'_>) -> T) -> T {
    signing_at(NOW, work)
}

pub(super) fn signing_at<T>(unix_time: u64, work: impl FnOnce(Signing<'_>) -> T) -> T {
    static SIGNER: LazyLock<Arc<dyn Signer>> = LazyLock::new(merchant_signer);
    let stamp = Stamp { unix_time, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
    work(Signing { signer: &**SIGNER, keys: &Keyring::default(), stamp: &stamp })
}

/// Signs as UnionPay does, with the certificate in the message.
pub(super) fn signed_by_unionpay(mut fields: Fields) -> Fields {
    static SIGNER: LazyLock<Arc<dyn Signer>> = LazyLock::new(|| rsa::signer("", &key_file("up_acp.key.pem")).unwrap());
    fields.set("signPubKeyCert", String::from_utf8(key_file("up_acp.crt.pem")).unwrap());
    let digest = sha256(fields.signed_text().as_bytes());
    fields.set(SIGNATURE, STANDARD.encode(SIGNER.sign(&digest).unwrap()));
    fields
}

/// Signs with SM2. Both sides use the merchant's key.
pub(super) fn signed_with_sm2(mut fields: Fields) -> Fields {
    fields.set("signPubKeyCert", String::from_utf8(key_file("sm2_leaf.crt.pem")).unwrap());
    let digest = sm3(fields.signed_text().as_bytes());
    fields.set(SIGNATURE, STANDARD.encode(sm2_signer().sign(&digest).unwrap()));
    fields
}

/// Writes fields in the format of answers, without encoding.
pub(super) fn answer_body(fields: Fields) -> String {
    let pairs = fields.into_map().into_iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

/// Signs a message that has no signature, as a form or as JSON.
pub(super) fn sign_if_unsigned(message: &mut Message, codec: Codec, sign: impl Fn(Fields) -> Fields) {
    let source = if message.status.is_some() { Source::Answer } else { Source::Notification };
    let fields = fields::Message::read(codec, source, message.body.as_bytes()).unwrap();
    if fields.get(SIGNATURE).is_some() {
        return;
    }
    let signed = sign(fields.trimmed());
    message.body = match (source, codec) {
        (Source::Answer, Codec::Form) => answer_body(signed),
        _ => String::from_utf8(signed.write(codec).unwrap()).unwrap(),
    };
}

fn check_all(
    folder: &str,
    provider: &UnionPay,
    signer: &dyn Signer,
    now: u64,
    sign: &dyn Fn(&mut Message),
    needed: &str,
) {
    let fixture = GoldenFixture { folder, provider, signer, keys: &Keyring::default(), now, sign };
    check_golden_files(&fixture, &needed.split_whitespace().collect::<Vec<_>>());
}

/// Golden files that the other signature methods have too.
const OTHERS: &str = "pay-page pay-app pay-qr pay-barcode query close-barcode refund query-refund notification-payment \
                      notification-refund";

#[test]
fn golden_files_match() {
    let needed = "pay-page pay-app pay-qr pay-barcode query query-open query-closed query-barcode query-failed close-barcode refund \
                  query-refund notification-official notification-payment notification-refund";
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Form, signed_by_unionpay);
    check_all("unionpay", &provider(), &*merchant_signer(), NOW, &sign, needed);
}

#[test]
fn golden_files_with_sm2_match() {
    let provider = UnionPay(account(Method::Sm2(sm2_chain()), Codec::Form));
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Form, signed_with_sm2);
    check_all("unionpay-sm2", &provider, &*sm2_signer(), LATER, &sign, OTHERS);
}

#[test]
fn golden_files_in_json_with_sm3_match() {
    let provider = UnionPay(account(Method::sm3(SECURE_KEY), Codec::Json));
    let nobody = crate::signer::none();
    let by_key = |fields: Fields| Method::sm3(SECURE_KEY).sign(&fields, &*nobody).unwrap();
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Json, by_key);
    check_all("unionpay-sm3-json", &provider, &*nobody, NOW, &sign, OTHERS);
}

/// Account with a shared key that undoes (31) payments where possible instead of refunding them (04).
#[test]
fn golden_files_with_sha256_match() {
    let provider = UnionPay(Account { undo: true, ..account(Method::sha256(SECURE_KEY), Codec::Form) });
    let nobody = crate::signer::none();
    let by_key = |fields: Fields| Method::sha256(SECURE_KEY).sign(&fields, &*nobody).unwrap();
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Form, by_key);
    check_all("unionpay-sha256", &provider, &*nobody, NOW, &sign, OTHERS);
    let undone = super::super::golden::all(&folder().with_file_name("unionpay-sha256"));
    let (_, refund) = undone.into_iter().find(|(name, _)| name == "refund").unwrap();
    assert!(refund.request.unwrap()["body"].as_str().unwrap().contains("&txnType=31&"));
}
