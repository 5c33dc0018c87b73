//! Golden files of APIv3 in `tests/golden/wechat-v3`: exact bytes in both directions.
//!
//! Files with published vectors contain them; the others were made with another implementation (Python's
//! `cryptography`). `UPDATE_GOLDEN=1` rewrites our side of each file (request, outcome, event, keys) and signs messages
//! that have no signature.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::super::golden::{self as shared, Golden, GoldenFixture, GoldenOperation, Message};
use super::super::*;
use super::WechatV3;
use crate::signer::rsa;

pub(super) use super::super::golden::NOW;
pub(super) const NONCE: &str = "593BEC0C930BF1AFEB40B4A08C8FB242";
pub(super) const CERTIFICATE: &str = "440024045C4A427599D09BB4E3DE0279F2E813FD";
pub(super) const PUBLIC_KEY: &str = "PUB_KEY_ID_0114232134912410000000000000";

pub(super) fn sign_if_unsigned(message: &mut Message) {
    super::SCHEME.sign_message(&*wechat_signer(), message);
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/wechat-v3")
}

fn key_file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("keys").join(name)).unwrap()
}

pub(super) fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("vectors.json")).unwrap()).unwrap()
}

pub(super) fn merchant_signer() -> Arc<dyn Signer> {
    rsa::signer("5F1C72E2A8931B72A2E13AF8DEE92471EB397115", &key_file("wxjava_merchant_private_key.pem")).unwrap()
}

pub(super) fn wechat_signer() -> Arc<dyn Signer> {
    rsa::signer(CERTIFICATE, &key_file("wxjava_wechat_pay_private_key.pem")).unwrap()
}

/// Both kinds of key, as during WeChat Pay's migration of a merchant from one to the other.
pub(super) fn keyring() -> Keyring {
    let verifier = rsa::verifier(&key_file("wxjava_wechat_pay_public_key.pem")).unwrap();
    let key = |id: &str| Key { id: id.to_owned(), verifier: verifier.clone(), not_after: None };
    Keyring::new(vec![key(CERTIFICATE), key(PUBLIC_KEY)])
}

pub(super) fn provider_of(mchid: &str, appid: &str) -> WechatV3 {
    with_ids(super::Account::new(mchid.to_owned(), appid.to_owned(), None, None))
}

fn with_ids(ids: super::Account) -> WechatV3 {
    let shop = super::codepay::ScanningShop::new("0001", "till-1");
    WechatV3 { merchant: merchant(ids), shop: Some(shop) }
}

/// Returns the account with these ids and the published APIv3 key.
pub(super) fn merchant(ids: super::Account) -> super::V3Account {
    let vectors = vectors();
    let key = vectors["notification"]["api_v3_key"].as_str().unwrap().as_bytes();
    super::V3Account::new(&super::SCHEME, ids, key).unwrap()
}

/// Service provider that acts for a merchant with its own app.
pub(super) fn partner() -> WechatV3 {
    let [mchid, appid, sub_mchid, sub_appid] = ["1234567891", "wxd678efh567hg6787", "1900000109", "wx8888888888888888"];
    with_ids(super::Account::new(mchid.into(), appid.into(), Some(sub_mchid.into()), Some(sub_appid.into())))
}

pub(super) fn provider() -> WechatV3 {
    provider_of("1234567891", "wxd678efh567hg6787")
}

pub(super) fn stamp() -> Stamp {
    Stamp { unix_time: NOW, nonce: NONCE.to_owned() }
}

/// Runs `work` with the merchant's key, WeChat Pay's keys and a fixed stamp.
pub(super) fn signing<T>(work: impl FnOnce(Signing<'_>) -> T) -> T {
    static KEYS: LazyLock<(Arc<dyn Signer>, Keyring)> = LazyLock::new(|| (merchant_signer(), keyring()));
    work(Signing { signer: &*KEYS.0, keys: &KEYS.1, stamp: &stamp() })
}

/// Returns every golden file by its name without `.json`.
pub(super) fn all() -> Vec<(String, Golden)> {
    shared::all(&folder())
}

pub(super) fn operations() -> Vec<Operation> {
    all().iter().filter_map(|(_, golden)| golden.operation.as_ref().map(GoldenOperation::operation)).collect()
}

fn check(folder: &str, provider: &WechatV3, needed: &str) {
    let (signer, keys) = (merchant_signer(), keyring());
    let fixture = GoldenFixture { folder, provider, signer: &*signer, keys: &keys, now: NOW, sign: &sign_if_unsigned };
    shared::check_golden_files(&fixture, &needed.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn golden_files_match() {
    let needed = "pay-native pay-jsapi pay-app pay-h5 pay-codepay pay-codepay-typing query query-unpaid close reverse refund \
                  query-refund notification-payment notification-refund certificates";
    check("wechat-v3", &provider(), needed);
}

#[test]
fn golden_files_of_a_service_provider_match() {
    let needed =
        "pay-native pay-jsapi pay-app pay-h5 query close refund query-refund notification-payment notification-refund";
    check("wechat-v3-partner", &partner(), needed);
}

#[test]
fn golden_files_equal_published_vectors() {
    let vectors = vectors();
    let files: BTreeMap<_, _> = all().into_iter().collect();
    let request = |name: &str| files[name].request.clone().unwrap();
    for (file, vector) in [("pay-native", "request_post_native"), ("query", "request_get_query")] {
        let encode_and_decode = request(file);
        for field in ["method", "uri", "body"] {
            assert_eq!(encode_and_decode[field], vectors[vector][field], "{file} {field}");
        }
        assert_eq!(encode_and_decode["headers"]["authorization"], vectors[vector]["authorization"], "{file}");
    }
    let same = |message: &Message, vector: &Value| {
        assert_eq!(message.body, vector["body"].as_str().unwrap());
        for (name, value) in vector["headers"].as_object().unwrap() {
            assert_eq!(message.headers[&name.to_lowercase()], value.as_str().unwrap());
        }
    };
    same(files["pay-native"].answer.as_ref().unwrap(), &vectors["response"]);
    same(files["notification-payment"].notification.as_ref().unwrap(), &vectors["notification"]);
    let close = files["close"].answer.as_ref().unwrap();
    assert_eq!(close.headers["wechatpay-signature"], vectors["response_204_empty"]["signature"].as_str().unwrap());
}
