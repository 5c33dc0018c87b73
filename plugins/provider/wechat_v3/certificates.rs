//! Certificates that WeChat Pay publishes for merchants without its public key.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use serde::Deserialize;
use x509_parser::pem::parse_x509_pem;

use super::super::{NoKeys, PublishedKeys};
use super::sealed::Sealed;
use super::{WechatV3, request, signature};
use crate::error::ProviderError;
use crate::signer::{Key, Keyring, rsa};

/// Advice for merchants opened since autumn 2024, who have no platform certificates.
const USE_PUBLIC_KEY: &str = "this account has no platform certificates: download WeChat Pay's public key (微信支付公钥) from \
                              pay.weixin.qq.com (账户中心 → API安全) and put it in the channel's `keys.verify`, as in [{ id = \
                              \"PUB_KEY_ID_…\", file = \"pub_key.pem\" }]";
const CHECK_SIGNER: &str = "check that `keys.sign` has the private key and the serial number of the API certificate (API证书), that \
                          `account.mchid` is its merchant, and that this machine's clock is right";
const CHECK_API_V3: &str = "check that `keys.api_v3` is the APIv3 key set at pay.weixin.qq.com (账户中心 → API安全 → \
                          APIv3密钥); it differs from the API key of APIv2";
const ASK_PROVIDER: &str = "the gateway retries automatically; if the error persists, ask WeChat Pay, or put its public key (PUB_KEY_ID_…) in \
                            the channel's `keys.verify`";

/// Returns a certificate's serial number in the format of `Wechatpay-Serial`. A bare public key has only the id that
/// WeChat Pay's console shows.
pub(super) fn serial(file: &[u8]) -> Option<String> {
    let (_, block) = parse_x509_pem(file).ok()?;
    let certificate = block.parse_x509().ok()?;
    Some(format!("{:X}", certificate.tbs_certificate.serial))
}

impl PublishedKeys for WechatV3 {
    /// The list contains every certificate, so the key id is not needed.
    fn request(&self, _: Option<&str>) -> Option<Request<Bytes>> {
        Some(request::get(Uri::from_static("/v3/certificates")))
    }

    /// Decrypts the list and verifies the answer. Only WeChat Pay can have encrypted the certificates with the APIv3
    /// key. One of them must also have signed the whole answer.
    fn read(&self, answer: &Response<Bytes>, _: &Keyring, now: u64) -> Result<Vec<Key>, NoKeys> {
        if !answer.status().is_success() {
            return Err(refusal(answer.status(), answer.body()));
        }
        let keys = self.unseal(answer.body(), now)?;
        let checked = signature::verify(answer.headers(), answer.body().clone(), &Keyring::new(keys.clone()), now);
        checked.map_err(|bad| {
            unusable(format!("the signature of the list of certificates is invalid: {bad}"), ASK_PROVIDER)
        })?;
        Ok(keys)
    }

    /// There is no root: the APIv3 key authenticates the certificates, and stays valid evidence after a change of that
    /// key.
    fn trust_anchor(&self) -> &str {
        ""
    }
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
}

/// Returns why WeChat Pay did not return the list.
fn refusal(status: StatusCode, body: &[u8]) -> NoKeys {
    let word = serde_json::from_slice::<Refusal>(body)
        .ok()
        .map(|detail| ProviderError { code: detail.code, message: detail.message });
    let code = word.as_ref().map(|word| word.code.replace('_', "")).unwrap_or_default();
    let advice = match (code.as_str(), status) {
        // WeChat Pay documents this code (404) with the advice to use the public key.
        ("RESOURCENOTEXISTS", _) => USE_PUBLIC_KEY,
        ("SIGNERROR", _) | (_, StatusCode::UNAUTHORIZED) => CHECK_SIGNER,
        _ => ASK_PROVIDER,
    };
    let detail = word.as_ref().map(|word| format!(" ({word})")).unwrap_or_default();
    let why = format!("WeChat Pay returned no certificates: HTTP {}{detail}", status.as_u16());
    NoKeys { why, word, advice }
}

fn unusable(why: impl Into<String>, advice: &'static str) -> NoKeys {
    NoKeys { why: why.into(), word: None, advice }
}

#[derive(Deserialize)]
struct Certificates {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    serial_no: String,
    encrypt_certificate: Sealed,
}

impl WechatV3 {
    /// Decrypts the list and returns the keys of certificates that are valid now.
    pub(super) fn unseal(&self, body: &[u8], now: u64) -> Result<Vec<Key>, NoKeys> {
        let malformed = |why| unusable(why, ASK_PROVIDER);
        let list: Certificates =
            serde_json::from_slice(body).map_err(|_| malformed("the list of certificates has an unknown format"))?;
        let mut keys = Vec::with_capacity(list.data.len());
        for entry in &list.data {
            let opened = entry.encrypt_certificate.open(&self.api_v3);
            let pem = opened.map_err(|why| {
                unusable(format!("the list of certificates cannot be decrypted: {why}"), CHECK_API_V3)
            })?;
            keys.extend(key_of(&entry.serial_no, &pem, now).map_err(malformed)?);
        }
        if keys.is_empty() { Err(malformed("no certificate in the list is valid now")) } else { Ok(keys) }
    }
}

fn key_of(serial: &str, pem: &[u8], now: u64) -> Result<Option<Key>, &'static str> {
    let (_, block) = parse_x509_pem(pem).map_err(|_| "a certificate in the list is not PEM")?;
    let certificate = block.parse_x509().map_err(|_| "a certificate in the list cannot be parsed")?;
    let serial_in_certificate: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect();
    if !signature::is_same_id(&serial_in_certificate, serial) {
        return Err("a certificate in the list has a serial number that differs from the list");
    }
    let seconds = |time: i64| u64::try_from(time).map_err(|_| "a certificate in the list has an impossible date");
    let not_before = seconds(certificate.validity().not_before.timestamp())?;
    let not_after = seconds(certificate.validity().not_after.timestamp())?;
    if !(not_before..=not_after).contains(&now) {
        return Ok(None);
    }
    let verifier = rsa::verifier(pem).map_err(|_| "a certificate in the list has an unsupported key")?;
    Ok(Some(Key { id: serial.to_ascii_uppercase(), verifier, not_after: Some(not_after) }))
}
