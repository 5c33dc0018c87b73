//! Certificates that the provider publishes for merchants without its public key.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use serde::Deserialize;
use x509_parser::pem::parse_x509_pem;

use super::super::{NoKeys, PublishedKeys};
use super::sealed::Sealed;
use super::{V3Account, V3Scheme, request};
use crate::error::ProviderError;
use crate::signer::{Key, Keyring, rsa};

/// Advice for an operator whose keys cannot be fetched, by cause.
pub(in super::super) struct KeyAdvice {
    /// The account has no certificates.
    pub(in super::super) use_public_key: &'static str,
    /// The request's signature was rejected.
    pub(in super::super) check_signer: &'static str,
    /// The list cannot be decrypted.
    pub(in super::super) check_api_key: &'static str,
    /// Any other cause.
    pub(in super::super) ask_provider: &'static str,
}

/// Returns a certificate's serial number in the format of `NAME-serial`. A bare public key has only the id that the
/// provider's console shows.
pub(in super::super) fn serial(file: &[u8]) -> Option<String> {
    let (_, block) = parse_x509_pem(file).ok()?;
    let certificate = block.parse_x509().ok()?;
    Some(format!("{:X}", certificate.tbs_certificate.serial))
}

impl PublishedKeys for V3Account {
    /// The list contains every certificate, so the key id is not needed.
    fn request(&self, _: Option<&str>) -> Option<Request<Bytes>> {
        Some(request::get(Uri::from_static(self.scheme.paths.certificates)))
    }

    /// Decrypts the list and verifies the answer. Only the provider can have encrypted the certificates with the APIv3
    /// key. One of them must also have signed the whole answer.
    fn read(&self, answer: &Response<Bytes>, _: &Keyring, now: u64) -> Result<Vec<Key>, NoKeys> {
        if !answer.status().is_success() {
            return Err(self.scheme.certificates_refused(answer.status(), answer.body()));
        }
        let keys = self.unseal(answer.body(), now)?;
        let checked = self.scheme.verify(answer.headers(), answer.body().clone(), &Keyring::new(keys.clone()), now);
        checked.map_err(|bad| {
            let why = format!("the signature of the list of certificates is invalid: {bad}");
            unusable(why, self.scheme.key_advice.ask_provider)
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

impl V3Scheme {
    /// Returns why the provider did not return the list.
    fn certificates_refused(&self, status: StatusCode, body: &[u8]) -> NoKeys {
        let provider_error = serde_json::from_slice::<Refusal>(body)
            .ok()
            .map(|detail| ProviderError { code: detail.code, message: detail.message });
        let code =
            provider_error.as_ref().map(|provider_error| provider_error.code.replace('_', "")).unwrap_or_default();
        let advice = match (code.as_str(), status) {
            // WeChat Pay documents this code (404) with the advice to use the public key.
            ("RESOURCENOTEXISTS", _) => self.key_advice.use_public_key,
            ("SIGNERROR", _) | (_, StatusCode::UNAUTHORIZED) => self.key_advice.check_signer,
            _ => self.key_advice.ask_provider,
        };
        let detail = provider_error.as_ref().map(|provider_error| format!(" ({provider_error})")).unwrap_or_default();
        let why = format!("{} returned no certificates: HTTP {}{detail}", self.company, status.as_u16());
        NoKeys { why, provider_error, advice }
    }
}

fn unusable(why: impl Into<String>, advice: &'static str) -> NoKeys {
    NoKeys { why: why.into(), provider_error: None, advice }
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

impl V3Account {
    /// Decrypts the list and returns the keys of certificates that are valid now.
    pub(in super::super) fn unseal(&self, body: &[u8], now: u64) -> Result<Vec<Key>, NoKeys> {
        let advice = &self.scheme.key_advice;
        let malformed = |why| unusable(why, advice.ask_provider);
        let list: Certificates =
            serde_json::from_slice(body).map_err(|_| malformed("the list of certificates has an unknown format"))?;
        let mut keys = Vec::with_capacity(list.data.len());
        for entry in &list.data {
            let opened = entry.encrypt_certificate.open(&self.api_key);
            let pem = opened.map_err(|why| {
                unusable(format!("the list of certificates cannot be decrypted: {why}"), advice.check_api_key)
            })?;
            keys.extend(key_of(self.scheme, &entry.serial_no, &pem, now).map_err(malformed)?);
        }
        if keys.is_empty() { Err(malformed("no certificate in the list is valid now")) } else { Ok(keys) }
    }
}

fn key_of(scheme: &V3Scheme, serial: &str, pem: &[u8], now: u64) -> Result<Option<Key>, &'static str> {
    let (_, block) = parse_x509_pem(pem).map_err(|_| "a certificate in the list is not PEM")?;
    let certificate = block.parse_x509().map_err(|_| "a certificate in the list cannot be parsed")?;
    let serial_in_certificate: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect();
    if !scheme.is_same_id(&serial_in_certificate, serial) {
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
