//! Golden files of APIv3 in `tests/golden/wechat-v3`: exact bytes in both directions.
//!
//! Files with published vectors contain them; the others were made with another implementation (Python's
//! `cryptography`). `UPDATE_GOLDEN=1` rewrites our side of each file (request, outcome, event, keys) and signs messages
//! that have no signature.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::golden::{self as shared, Golden, GoldenOperation, Message, error_json, event_json};
use super::super::*;
use super::WechatV3;
use crate::signer::rsa;

pub(super) use super::super::golden::NOW;
pub(super) const NONCE: &str = "593BEC0C930BF1AFEB40B4A08C8FB242";
pub(super) const CERTIFICATE: &str = "440024045C4A427599D09BB4E3DE0279F2E813FD";
pub(super) const PUBLIC_KEY: &str = "PUB_KEY_ID_0114232134912410000000000000";

pub(super) fn sign_if_unsigned(message: &mut Message) {
    if message.headers.contains_key("wechatpay-signature") {
        return;
    }
    let nonce = "c5ac7061fccab6bf3e254dcf98995b8c";
    let serial = message.headers.get("wechatpay-serial").cloned().unwrap_or(CERTIFICATE.to_owned());
    let text = format!("{NOW}\n{nonce}\n{}\n", message.body);
    let signature = STANDARD.encode(wechat_signer().sign(text.as_bytes()).unwrap());
    for (name, value) in [
        ("wechatpay-nonce", nonce.to_owned()),
        ("wechatpay-serial", serial),
        ("wechatpay-signature", signature),
        ("wechatpay-signature-type", "WECHATPAY2-SHA256-RSA2048".to_owned()),
        ("wechatpay-timestamp", NOW.to_string()),
    ] {
        message.headers.insert(name.to_owned(), value);
    }
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

fn request_json(provider: &WechatV3, mut request: Request<Bytes>) -> Value {
    signing(|with| provider.sign(&mut request, with)).unwrap();
    shared::request_json(&request)
}

/// Computes our side of a golden file from the provider's side.
fn encode_and_decode(name: &str, golden: &Golden) -> Golden {
    let provider = if name.starts_with("partner-") { partner() } else { provider() };
    let (mut answer, mut notification) = (golden.answer.clone(), golden.notification.clone());
    answer.iter_mut().chain(&mut notification).for_each(sign_if_unsigned);
    let mut new = Golden {
        about: golden.about.clone(),
        operation: None,
        request: None,
        answer,
        notification,
        outcome: None,
        error: None,
        event: None,
        keys: None,
    };
    let verified = |message: &Message| {
        provider.verify(Source::Answer, &message.header_map(), message.body.clone().into(), &keyring(), NOW).unwrap()
    };
    if let Some(message) = &new.notification {
        let event = provider.decode_notification(verified(message)).unwrap();
        new.event = Some(event_json(&event));
        return new;
    }
    let message = new.answer.as_ref().unwrap();
    let Some(asked) = &golden.operation else {
        new.request = Some(request_json(&provider, provider.published_keys().unwrap().request(None).unwrap()));
        let keys = provider.published_keys().unwrap().read(&message.response(200), &Keyring::default(), NOW).unwrap();
        let keys = keys.iter().map(|key| json!({"id": key.id, "not_after": key.not_after}));
        new.keys = Some(keys.collect());
        return new;
    };
    let operation = asked.operation();
    let Encoded::Send(request) = signing(|with| provider.encode(&operation, with)).unwrap() else {
        panic!("nothing to send")
    };
    new.request = Some(request_json(&provider, request));
    let status = StatusCode::from_u16(message.status.unwrap()).unwrap();
    match signing(|with| provider.decode(&operation, status, verified(message), with)) {
        Ok(outcome) => new.outcome = Some(serde_json::to_value(outcome).unwrap()),
        Err(error) => new.error = Some(error_json(&error)),
    }
    new
}

#[test]
fn golden_files_match() {
    let files = all();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    for needed in
        "pay-native pay-jsapi pay-app pay-h5 pay-codepay pay-codepay-typing query query-unpaid close reverse refund query-refund \
         notification-payment notification-refund certificates partner-pay-native partner-pay-jsapi partner-pay-app \
         partner-pay-h5 partner-query partner-close partner-refund partner-query-refund partner-notification-payment \
         partner-notification-refund"
            .split(' ')
    {
        assert!(names.contains(&needed), "{needed} is missing");
    }
    let bless = std::env::var_os("UPDATE_GOLDEN").is_some();
    for (name, mut golden) in files {
        let mut new = encode_and_decode(&name, &golden);
        if bless {
            new.operation = golden.operation.take();
            let text = serde_json::to_string_pretty(&new).unwrap() + "\n";
            std::fs::write(folder().join(format!("{name}.json")), text).unwrap();
        } else {
            assert_eq!(new.request, golden.request, "request of {name}");
            assert_eq!(new.outcome, golden.outcome, "outcome of {name}");
            assert_eq!(new.error, golden.error, "error of {name}");
            assert_eq!(new.event, golden.event, "event of {name}");
            assert_eq!(new.keys, golden.keys, "keys of {name}");
        }
    }
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
