//! Golden files of Alipay in `tests/golden/alipay`: exact bytes in both directions. Files with published vectors must
//! equal them.
//!
//! `UPDATE_GOLDEN=1` rewrites our side of each file and signs Alipay's messages that have no signature.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::form::{self, Fields};
use super::super::golden::{self as shared, Golden, GoldenFixture, GoldenOperation, Message};
use super::super::*;
use super::account::Account;
use super::{Alipay, SPEC};
use crate::secret::Secret;
use crate::settings::Problems;
use crate::signer::{Key, Signer, rsa};

pub(super) use super::super::golden::NOW;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/alipay")
}

pub(super) fn key_file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("keys").join(name)).unwrap()
}

pub(super) fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("vectors.json")).unwrap()).unwrap()
}

pub(super) fn app_signer() -> Arc<dyn Signer> {
    rsa::signer("app", &key_file("ali_app.key.pem")).unwrap()
}

pub(super) fn alipay_signer() -> &'static dyn Signer {
    static SIGNER: LazyLock<Arc<dyn Signer>> =
        LazyLock::new(|| rsa::signer("alipay", &key_file("ali_alipay.key.pem")).unwrap());
    &**SIGNER
}

/// Returns a key as a channel's configuration would load it.
pub(super) fn key(file: &str) -> Key {
    let file = key_file(file);
    Key { id: (SPEC.key_id)(&file).unwrap(), verifier: rsa::verifier(&file).unwrap(), not_after: None }
}

/// Keyring with another key before Alipay's own, as during Alipay's migration of a merchant from one key to the other.
pub(super) fn keyring() -> Keyring {
    Keyring::new(vec![key("ali_app.pub.pem"), key("ali_alipay.pub.pem")])
}

/// Reads an account from a channel's `[account]` and returns it with the reported problems.
pub(super) fn account(
    account: &str,
    secrets: &[(&'static str, &[u8])],
    algorithm: &'static str,
) -> (Option<Account>, Vec<String>) {
    let table = toml::de::DeTable::parse(account).unwrap();
    let secrets: Secrets = secrets.iter().map(|(name, value)| (*name, Secret::new(*value))).collect();
    let problems = Problems::default();
    let mut settings = Settings::root(&table, &problems);
    let account = super::account::read(&mut settings, &BuildContext { secrets: &secrets, algorithm: Some(algorithm) });
    drop(settings);
    (account, problems.into_vec().into_iter().map(|problem| problem.message).collect())
}

pub(super) fn provider_of(text: &str, secrets: &[(&'static str, &[u8])]) -> Alipay {
    let (account, problems) = account(text, secrets, "rsa-sha256");
    Alipay { account: account.unwrap_or_else(|| panic!("{problems:?}")) }
}

pub(super) fn provider() -> Alipay {
    provider_of("app_id = \"2021000000000001\"", &[])
}

/// Runs `work` with the app's key, Alipay's keys and a fixed stamp.
pub(super) fn signing<T>(work: impl FnOnce(Signing<'_>) -> T) -> T {
    static KEYS: LazyLock<(Arc<dyn Signer>, Keyring)> = LazyLock::new(|| (app_signer(), keyring()));
    let stamp = Stamp { unix_time: NOW, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
    work(Signing { signer: &*KEYS.0, keys: &KEYS.1, stamp: &stamp })
}

/// Returns every golden file by its name without `.json`.
pub(super) fn all() -> Vec<(String, Golden)> {
    shared::all(&folder())
}

pub(super) fn operations() -> Vec<Operation> {
    all().iter().filter_map(|(_, golden)| golden.operation.as_ref().map(GoldenOperation::operation)).collect()
}

/// Signs a content as Alipay does.
pub(super) fn answered(name: &str, content: &str) -> String {
    let signature = STANDARD.encode(alipay_signer().sign(content.as_bytes()).unwrap());
    format!(r#"{{"{name}":{content},"sign":"{signature}"}}"#)
}

/// Signs a notification as Alipay does.
pub(super) fn notified(body: &str) -> String {
    let mut params = Fields::new();
    form::read_into(body.as_bytes(), &mut params).unwrap();
    let text = form::text(&params, &["sign", "sign_type"]);
    params.insert("sign".to_owned(), STANDARD.encode(alipay_signer().sign(text.as_bytes()).unwrap()));
    form::write(&params)
}

fn sign_if_unsigned(message: &mut Message) {
    let body = &message.body;
    if body.starts_with('{') && !body.contains("\"sign\":") {
        let (name, content) = body.strip_prefix("{\"").unwrap().split_once("\":").unwrap();
        message.body = answered(name, content.strip_suffix('}').unwrap());
    } else if !body.starts_with('{') && !body.contains("&sign=") {
        message.body = notified(body);
    }
}

#[test]
fn golden_files_match() {
    let needed = "pay-qr pay-barcode pay-barcode-typing pay-page pay-wap pay-app pay-jsapi query query-unpaid \
                  query-closed query-given-back close close-barcode refund refund-repeated query-refund notification \
                  notification-closed notification-refund notification-given-back";
    let fixture = GoldenFixture {
        folder: "alipay",
        provider: &provider(),
        signer: &*app_signer(),
        keys: &keyring(),
        now: NOW,
        sign: &sign_if_unsigned,
    };
    shared::check_golden_files(&fixture, &needed.split_whitespace().collect::<Vec<_>>());
}

/// Partner that acts for a merchant, with certificates. Alipay's answers and notifications contain their serial number.
#[test]
fn golden_files_of_a_partner_with_certificates_match() {
    let needed = "pay-qr pay-barcode pay-page pay-wap pay-app pay-jsapi query close close-barcode refund query-refund notification \
                  notification-refund";
    let (app, root) = (key_file("ali_app.crt.pem"), key_file("ali_root_bundle.pem"));
    let text = "app_id = \"2021000000000001\"\nseller_id = \"2088000000000001\"\n\
                app_auth_token = \"201510BBaabdb44d8fd04607abf8d5931ec75D84\"";
    let certificate = key("ali_alipay.crt.pem");
    let number = certificate.id.clone();
    let sign = |message: &mut Message| {
        if message.body.contains("alipay_cert_sn") {
            return;
        }
        message.body = match message.body.strip_prefix('{') {
            Some(_) => {
                sign_if_unsigned(message);
                message.body.replacen('{', &format!("{{\"alipay_cert_sn\":\"{number}\","), 1)
            }
            None => notified(&format!("{}&alipay_cert_sn={number}", message.body)),
        }
    };
    let fixture = GoldenFixture {
        folder: "alipay-partner",
        provider: &provider_of(text, &[("app_cert", &app), ("root_cert", &root)]),
        signer: &*app_signer(),
        keys: &Keyring::new(vec![certificate]),
        now: NOW,
        sign: &sign,
    };
    shared::check_golden_files(&fixture, &needed.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn golden_files_of_the_v3_protocol_match() {
    let needed = "pay-qr pay-barcode pay-jsapi pay-page pay-wap pay-app query query-unpaid close close-barcode refund \
                  query-refund notification notification-refund";
    let provider = super::tests::v3::v3("");
    let fixture = GoldenFixture {
        folder: "alipay-v3",
        provider: &provider,
        signer: &*app_signer(),
        keys: &keyring(),
        now: NOW,
        sign: &|message| {
            // Notifications have the same format as in the form protocol.
            if message.status.is_some() {
                let headers = super::tests::v3::headers(&message.body);
                let pairs = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
                message.headers = pairs.collect();
            }
        },
    };
    shared::check_golden_files(&fixture, &needed.split_whitespace().collect::<Vec<_>>());
    super::super::bill::golden::check_golden_files(&fixture, &["trade", "trade-absent"]);
}

#[test]
fn golden_files_equal_published_vectors() {
    let vectors = vectors();
    let golden = |name: &str| all().into_iter().find(|(file, _)| file == name).unwrap().1;
    let read = |text: &str| {
        let mut params = Fields::new();
        form::read_into(text.as_bytes(), &mut params).unwrap();
        params
    };
    // The vector's subject has characters that our encoder replaces, so its parameters are signed unchanged.
    let mut params = read(vectors["request"]["form_body_example"].as_str().unwrap());
    let signature = params.remove("sign");
    let signed = signing(|with| super::signature::signed(&provider().account, params, with)).unwrap();
    assert_eq!(signed.get("sign"), signature.as_ref());
    assert_eq!(form::write(&signed), vectors["request"]["order_string_style_percent20"].as_str().unwrap());
    assert_eq!(golden("query").answer.unwrap().body, vectors["response"]["body"].as_str().unwrap());
    assert_eq!(golden("notification").notification.unwrap().body, vectors["notification"]["body"].as_str().unwrap());
}
