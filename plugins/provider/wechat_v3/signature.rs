//! Signatures of APIv3: requests over method, path and body; WeChat Pay's messages over time, nonce and body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::super::{BadSignature, Signing, Verified};
use crate::error::Error;
use crate::signer::{Key, Keyring, from_base64};

const SCHEME: &str = "WECHATPAY2-SHA256-RSA2048";
const PUBLIC_KEY_ID_PREFIX: &str = "PUB_KEY_ID_";
const PROBE_PREFIX: &str = "WECHATPAY/SIGNTEST/";
/// Maximum clock difference, in seconds. WeChat Pay has the same limit.
const MAX_CLOCK_DIFFERENCE: u64 = 300;

const TIMESTAMP: HeaderName = HeaderName::from_static("wechatpay-timestamp");
const NONCE: HeaderName = HeaderName::from_static("wechatpay-nonce");
const SERIAL: HeaderName = HeaderName::from_static("wechatpay-serial");
const SIGNATURE: HeaderName = HeaderName::from_static("wechatpay-signature");
const SIGNATURE_TYPE: HeaderName = HeaderName::from_static("wechatpay-signature-type");

/// Sets `Authorization`. If a WeChat Pay public key is configured, also sets `Wechatpay-Serial`, so that the answer is
/// signed with that key and not with an unknown certificate.
pub(super) fn sign(mchid: &str, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
    let Signing { signer, keys, stamp } = with;
    let method = request.method().as_str();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let head = format!("{method}\n{path}\n{}\n{}\n", stamp.unix_time, stamp.nonce);
    let text = [head.as_bytes(), request.body(), b"\n"].concat();
    let signature = STANDARD.encode(signer.sign(&text)?);
    let (nonce, timestamp, serial) = (&stamp.nonce, stamp.unix_time, signer.key_id().to_ascii_uppercase());
    let authorization = format!(
        "{SCHEME} mchid=\"{mchid}\",nonce_str=\"{nonce}\",timestamp=\"{timestamp}\",serial_no=\"{serial}\",signature=\"{signature}\""
    );
    request.headers_mut().insert(AUTHORIZATION, header(&authorization)?);
    if let Some(key) = keys.iter().find(|key| key.id.starts_with(PUBLIC_KEY_ID_PREFIX)) {
        request.headers_mut().insert(SERIAL, header(&key.id)?);
    }
    Ok(())
}

fn header(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| {
        Error::NotSent("a key id in `[keys]` contains characters that are not allowed in a header".to_owned())
    })
}

/// Checks the signature over the unchanged bytes.
pub(super) fn verify(headers: &HeaderMap, body: Bytes, keys: &Keyring, now: u64) -> Result<Verified, BadSignature> {
    if [TIMESTAMP, NONCE, SERIAL, SIGNATURE].iter().all(|name| !headers.contains_key(name)) {
        return Err(BadSignature::Missing);
    }
    let timestamp = single(headers, TIMESTAMP)?;
    let nonce = single(headers, NONCE)?;
    let serial = single(headers, SERIAL)?;
    let signature = single(headers, SIGNATURE)?;
    if signature.starts_with(PROBE_PREFIX) {
        return Err(BadSignature::Probe);
    }
    if headers.get_all(SIGNATURE_TYPE).iter().any(|kind| kind != SCHEME) {
        return Err(BadSignature::Wrong("unknown signature type"));
    }
    let seconds: u64 = timestamp.parse().map_err(|_| BadSignature::Wrong("the timestamp is not a number"))?;
    if now.abs_diff(seconds) >= MAX_CLOCK_DIFFERENCE {
        return Err(BadSignature::Stale);
    }
    let is_valid_key = |key: &&Key| is_same_id(&key.id, serial) && key.not_after.is_none_or(|end| now <= end);
    let key =
        keys.iter().find(is_valid_key).ok_or_else(|| BadSignature::UnknownKey(serial.chars().take(64).collect()))?;
    let signature = from_base64(signature).ok_or(BadSignature::Wrong("not base64"))?;
    let text = [timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", &body, b"\n"].concat();
    match key.verifier.verify(&text, &signature) {
        true => Ok(Verified::assertion(body, &key.id)),
        false => Err(BadSignature::Wrong("not over these bytes, or not by that key")),
    }
}

/// Returns a mandatory header. A duplicated header is rejected, because it would be unknown which value was checked.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<&str, BadSignature> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| BadSignature::Wrong("a signature header is not ASCII")),
        (None, _) => Err(BadSignature::Wrong("a signature header is missing")),
        (Some(_), Some(_)) => Err(BadSignature::Wrong("a signature header is duplicated")),
    }
}

/// Returns whether the id is this key's. Public keys have an exact id. Certificates have a serial number, compared
/// without case and leading zeros.
pub(super) fn is_same_id(id: &str, serial: &str) -> bool {
    if serial.starts_with(PUBLIC_KEY_ID_PREFIX) {
        return id == serial;
    }
    let digits = serial.trim_start_matches('0');
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.trim_start_matches('0').eq_ignore_ascii_case(digits)
}
