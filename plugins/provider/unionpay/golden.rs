//! Golden files: what goes out and what comes in, to the byte, in `tests/golden/unionpay`.
//!
//! `UPDATE_GOLDEN=1` writes our side of each file anew (request, outcome, event) and signs what has no signature.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::golden::{Bench, Message, hold};
use super::super::*;
use super::UnionPay;
use super::account::Account;
use super::chain::{Chain, Owners};
use super::fields::{self, Codec, Fields, SIGNATURE};
use super::signature::{Method, sha256, sm3};
use crate::signer::{rsa, sm2};

/// When signatures are made and checked: 2025-01-01, since the certificates are no older.
pub(super) const NOW: u64 = 1_735_700_000;
/// Inside the time of the SM2 certificates.
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

/// With the merchant's key and a stamp that is always the same.
pub(super) fn signing<T>(work: impl FnOnce(Signing<'_>) -> T) -> T {
    signing_at(NOW, work)
}

pub(super) fn signing_at<T>(unix_time: u64, work: impl FnOnce(Signing<'_>) -> T) -> T {
    static SIGNER: LazyLock<Arc<dyn Signer>> = LazyLock::new(merchant_signer);
    let stamp = Stamp { unix_time, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
    work(Signing { signer: &**SIGNER, keys: &Keyring::default(), stamp: &stamp })
}

/// Signs as UnionPay does: with the certificate inside.
pub(super) fn signed_by_unionpay(mut fields: Fields) -> Fields {
    static SIGNER: LazyLock<Arc<dyn Signer>> = LazyLock::new(|| rsa::signer("", &key_file("up_acp.key.pem")).unwrap());
    fields.set("signPubKeyCert", String::from_utf8(key_file("up_acp.crt.pem")).unwrap());
    let digest = sha256(fields.signed_text().as_bytes());
    fields.set(SIGNATURE, STANDARD.encode(SIGNER.sign(&digest).unwrap()));
    fields
}

/// The same with SM2. The merchant's key does for both sides.
pub(super) fn signed_with_sm2(mut fields: Fields) -> Fields {
    fields.set("signPubKeyCert", String::from_utf8(key_file("sm2_leaf.crt.pem")).unwrap());
    let digest = sm3(fields.signed_text().as_bytes());
    fields.set(SIGNATURE, STANDARD.encode(sm2_signer().sign(&digest).unwrap()));
    fields
}

/// As answers are written: nothing is encoded.
pub(super) fn answer_body(fields: Fields) -> String {
    let pairs = fields.into_map().into_iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

/// Signs what has no signature, as a form or as JSON.
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

fn hold_all(
    folder: &str,
    provider: &UnionPay,
    signer: &dyn Signer,
    now: u64,
    sign: &dyn Fn(&mut Message),
    needed: &str,
) {
    let bench = Bench { folder, provider, signer, keys: &Keyring::default(), now, sign };
    hold(&bench, &needed.split_whitespace().collect::<Vec<_>>());
}

/// What the other ways to sign have too.
const OTHERS: &str = "pay-page pay-app pay-qr pay-barcode query close-barcode refund query-refund notification-payment \
                      notification-refund";

#[test]
fn golden_files_hold() {
    let needed = "pay-page pay-app pay-qr pay-barcode query query-open query-closed query-barcode query-failed close-barcode refund \
                  query-refund notification-official notification-payment notification-refund";
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Form, signed_by_unionpay);
    hold_all("unionpay", &provider(), &*merchant_signer(), NOW, &sign, needed);
}

#[test]
fn golden_files_with_sm2_hold() {
    let provider = UnionPay(account(Method::Sm2(sm2_chain()), Codec::Form));
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Form, signed_with_sm2);
    hold_all("unionpay-sm2", &provider, &*sm2_signer(), LATER, &sign, OTHERS);
}

#[test]
fn golden_files_in_json_with_sm3_hold() {
    let provider = UnionPay(account(Method::sm3(SECURE_KEY), Codec::Json));
    let nobody = crate::signer::none();
    let by_key = |fields: Fields| Method::sm3(SECURE_KEY).sign(&fields, &*nobody).unwrap();
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Json, by_key);
    hold_all("unionpay-sm3-json", &provider, &*nobody, NOW, &sign, OTHERS);
}

/// With a key, and an account that undoes (31) what it can instead of giving it back (04).
#[test]
fn golden_files_with_sha256_hold() {
    let provider = UnionPay(Account { undo: true, ..account(Method::sha256(SECURE_KEY), Codec::Form) });
    let nobody = crate::signer::none();
    let by_key = |fields: Fields| Method::sha256(SECURE_KEY).sign(&fields, &*nobody).unwrap();
    let sign = |message: &mut Message| sign_if_unsigned(message, Codec::Form, by_key);
    hold_all("unionpay-sha256", &provider, &*nobody, NOW, &sign, OTHERS);
    let undone = super::super::golden::all(&folder().with_file_name("unionpay-sha256"));
    let (_, refund) = undone.into_iter().find(|(name, _)| name == "refund").unwrap();
    assert!(refund.request.unwrap()["body"].as_str().unwrap().contains("&txnType=31&"));
}
