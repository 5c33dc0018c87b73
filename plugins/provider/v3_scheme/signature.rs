//! Signatures of the scheme: requests over method, path and body; the provider's messages over time, nonce and body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::super::{BadSignature, Signing, Verified};
use super::V3Scheme;
use crate::error::Error;
use crate::signer::{Key, Keyring, from_base64};

/// Maximum clock difference, in seconds. The providers have the same limit.
const MAX_CLOCK_DIFFERENCE: u64 = 300;

impl V3Scheme {
    /// Returns the name of a signature header.
    fn header(&self, name: &str) -> String {
        format!("{}-{name}", self.header_prefix)
    }

    /// Returns whether the id is a bare public key's.
    fn is_public_key(&self, id: &str) -> bool {
        self.public_key_prefix.is_some_and(|prefix| id.starts_with(prefix))
    }

    /// Sets `Authorization`. If a public key of the provider is configured, also sets `NAME-serial`, so that the answer is
    /// signed with that key and not with an unknown certificate.
    pub(super) fn sign(&self, mchid: &str, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        let Signing { signer, keys, stamp } = with;
        let method = request.method().as_str();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let head = format!("{method}\n{path}\n{}\n{}\n", stamp.unix_time, stamp.nonce);
        let text = [head.as_bytes(), request.body(), b"\n"].concat();
        let signature = STANDARD.encode(signer.sign(&text)?);
        let (nonce, timestamp, serial) = (&stamp.nonce, stamp.unix_time, signer.key_id().to_ascii_uppercase());
        let scheme = self.authorization;
        let authorization = format!(
            "{scheme} mchid=\"{mchid}\",nonce_str=\"{nonce}\",timestamp=\"{timestamp}\",serial_no=\"{serial}\",signature=\"{signature}\""
        );
        request.headers_mut().insert(AUTHORIZATION, header(&authorization)?);
        if let Some(key) = keys.iter().find(|key| self.is_public_key(&key.id)) {
            let name = HeaderName::try_from(self.header("serial"))
                .map_err(|_| Error::NotSent("the provider's header prefix is invalid".to_owned()))?;
            request.headers_mut().insert(name, header(&key.id)?);
        }
        Ok(())
    }

    /// Checks the signature over the unchanged bytes.
    pub(super) fn verify(
        &self,
        headers: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        let names = ["timestamp", "nonce", "serial", "signature"].map(|name| self.header(name));
        if names.iter().all(|name| !headers.contains_key(name)) {
            return Err(BadSignature::Missing);
        }
        let [timestamp, nonce, serial, signature] = names.each_ref().map(|name| single(headers, name));
        let (timestamp, nonce, serial, signature) = (timestamp?, nonce?, serial?, signature?);
        if self.probe_prefix.is_some_and(|prefix| signature.starts_with(prefix)) {
            return Err(BadSignature::Probe);
        }
        if headers.get_all(self.header("signature-type")).iter().any(|kind| kind != self.authorization) {
            return Err(BadSignature::Wrong("unknown signature type"));
        }
        let seconds: u64 = timestamp.parse().map_err(|_| BadSignature::Wrong("the timestamp is not a number"))?;
        if now.abs_diff(seconds) >= MAX_CLOCK_DIFFERENCE {
            return Err(BadSignature::Stale);
        }
        let is_valid_key = |key: &&Key| self.is_same_id(&key.id, serial) && key.not_after.is_none_or(|end| now <= end);
        let key = keys
            .iter()
            .find(is_valid_key)
            .ok_or_else(|| BadSignature::UnknownKey(serial.chars().take(64).collect()))?;
        let signature = from_base64(signature).ok_or(BadSignature::Wrong("not base64"))?;
        let text = [timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", &body, b"\n"].concat();
        match key.verifier.verify(&text, &signature) {
            true => Ok(Verified::assertion(body, &key.id)),
            false => Err(BadSignature::Wrong("not over these bytes, or not by that key")),
        }
    }

    /// Returns whether the id is this key's. Public keys have an exact id. Certificates have a serial number, compared
    /// without case and leading zeros.
    pub(super) fn is_same_id(&self, id: &str, serial: &str) -> bool {
        if self.is_public_key(serial) {
            return id == serial;
        }
        let digits = serial.trim_start_matches('0');
        !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            && id.trim_start_matches('0').eq_ignore_ascii_case(digits)
    }
}

fn header(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| {
        Error::NotSent("a key id in `[keys]` contains characters that are not allowed in a header".to_owned())
    })
}

/// Returns a mandatory header. A duplicated header is rejected, because it would be unknown which value was checked.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, BadSignature> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| BadSignature::Wrong("a signature header is not ASCII")),
        (None, _) => Err(BadSignature::Wrong("a signature header is missing")),
        (Some(_), Some(_)) => Err(BadSignature::Wrong("a signature header is duplicated")),
    }
}
