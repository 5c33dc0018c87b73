//! Golden files: what goes out and what comes in, to the byte, in `tests/golden/unionpay`.
//!
//! `TOLLGATE_BLESS=1` writes our side of each file anew (request, outcome, event) and signs what has no signature.

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
use super::fields::{Codec, Fields, SIGNATURE};
use super::signature::{Method, sha256};
use crate::signer::rsa;

/// When signatures are made and checked: 2025-01-01, since the certificates are no older.
pub(super) const NOW: u64 = 1_735_700_000;
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

pub(super) fn account(method: Method, codec: Codec) -> Account {
    Account {
        mer_id: MER_ID.to_owned(),
        method,
        codec,
        gateway: "https://gateway.95516.com".to_owned(),
        channel_type: "07".to_owned(),
        sub_merchant: None,
        term_id: Some("00000001".to_owned()),
        pay_timeout: std::time::Duration::from_secs(7200),
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
    fields.set(SIGNATURE, STANDARD.encode(SIGNER.sign(digest.as_bytes()).unwrap()));
    fields
}

/// As answers are written: nothing is encoded.
pub(super) fn answer_body(fields: Fields) -> String {
    let pairs = fields.into_map().into_iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

fn sign(message: &mut Message) {
    let source = if message.status.is_some() { Source::Answer } else { Source::Notification };
    let fields = Fields::read(Codec::Form, source, message.body.as_bytes()).unwrap();
    if fields.get(SIGNATURE).is_some() {
        return;
    }
    let signed = signed_by_unionpay(fields);
    message.body = match source {
        Source::Answer => answer_body(signed),
        Source::Notification => String::from_utf8(signed.write(Codec::Form).unwrap()).unwrap(),
    };
}

#[test]
fn golden_files_hold() {
    let bench = Bench {
        folder: "unionpay",
        provider: &provider(),
        signer: &*merchant_signer(),
        keys: &Keyring::default(),
        now: NOW,
        sign: &sign,
    };
    let needed = "pay-page pay-app pay-qr pay-barcode query query-open query-barcode query-failed close-barcode refund \
                  query-refund notification-official notification-payment notification-refund";
    hold(&bench, &needed.split_whitespace().collect::<Vec<_>>());
}
