//! The certificates that WeChat Pay publishes for merchants without its public key.

use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use serde::Deserialize;
use x509_parser::pem::parse_x509_pem;

use super::super::{BadSignature, PublishedKeys};
use super::sealed::Sealed;
use super::{WechatV3, request, signature};
use crate::signer::{Key, Keyring, rsa};

/// A certificate's serial number as `Wechatpay-Serial` has it; a bare public key has only the id that WeChat Pay shows.
pub(super) fn number(file: &[u8]) -> Option<String> {
    let (_, block) = parse_x509_pem(file).ok()?;
    let certificate = block.parse_x509().ok()?;
    Some(format!("{:X}", certificate.tbs_certificate.serial))
}

impl PublishedKeys for WechatV3 {
    fn request(&self) -> Request<Bytes> {
        request::get(Uri::from_static("/v3/certificates"))
    }

    /// Trust begins with the APIv3 key: only WeChat Pay can have encrypted the certificates with it. Then one of them
    /// must have signed the whole answer.
    fn read(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<Vec<Key>, BadSignature> {
        let keys = self.unseal(body, now).map_err(BadSignature::Wrong)?;
        signature::verify(headers, Bytes::copy_from_slice(body), &Keyring::new(keys.clone()), now)?;
        Ok(keys)
    }
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
    /// The keys whose certificates are valid now; of those that are not there is nothing to believe.
    pub(super) fn unseal(&self, body: &[u8], now: u64) -> Result<Vec<Key>, &'static str> {
        let list: Certificates =
            serde_json::from_slice(body).map_err(|_| "the list of certificates has an unknown form")?;
        let mut keys = Vec::with_capacity(list.data.len());
        for entry in &list.data {
            let pem = entry.encrypt_certificate.open(&self.api_v3)?;
            keys.extend(key_of(&entry.serial_no, &pem, now)?);
        }
        if keys.is_empty() { Err("no certificate in the list is valid now") } else { Ok(keys) }
    }
}

fn key_of(serial: &str, pem: &[u8], now: u64) -> Result<Option<Key>, &'static str> {
    let (_, block) = parse_x509_pem(pem).map_err(|_| "a certificate in the list is no PEM")?;
    let certificate = block.parse_x509().map_err(|_| "a certificate in the list cannot be read")?;
    let own: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect();
    if !signature::is_named(&own, serial) {
        return Err("a certificate in the list has another serial number than the list says");
    }
    let seconds = |time: i64| u64::try_from(time).map_err(|_| "a certificate in the list has an impossible date");
    let not_before = seconds(certificate.validity().not_before.timestamp())?;
    let not_after = seconds(certificate.validity().not_after.timestamp())?;
    if !(not_before..=not_after).contains(&now) {
        return Ok(None);
    }
    let verifier = rsa::verifier(pem).map_err(|_| "a certificate in the list has a key that is not taken")?;
    Ok(Some(Key { id: serial.to_ascii_uppercase(), verifier, not_after: Some(not_after) }))
}
