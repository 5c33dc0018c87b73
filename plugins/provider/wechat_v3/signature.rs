//! Signatures, both ways: ours over method, path and body; WeChat Pay's over time, nonce and body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::super::{BadSignature, Signing, Verified};
use crate::error::Error;
use crate::signer::{Key, Keyring, from_base64};

const SCHEME: &str = "WECHATPAY2-SHA256-RSA2048";
const PUBLIC_KEY: &str = "PUB_KEY_ID_";
const PROBE: &str = "WECHATPAY/SIGNTEST/";
/// Both sides refuse what is this many seconds off.
const WINDOW: u64 = 300;

const TIMESTAMP: HeaderName = HeaderName::from_static("wechatpay-timestamp");
const NONCE: HeaderName = HeaderName::from_static("wechatpay-nonce");
const SERIAL: HeaderName = HeaderName::from_static("wechatpay-serial");
const SIGNATURE: HeaderName = HeaderName::from_static("wechatpay-signature");
const SIGNATURE_TYPE: HeaderName = HeaderName::from_static("wechatpay-signature-type");

/// Sets `Authorization`, and `Wechatpay-Serial` when there is a WeChat Pay public key: then the answer is signed with
/// that key, and not with a certificate which we may not have.
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
    if let Some(key) = keys.iter().find(|key| key.id.starts_with(PUBLIC_KEY)) {
        request.headers_mut().insert(SERIAL, header(&key.id)?);
    }
    Ok(())
}

fn header(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text)
        .map_err(|_| Error::NotSent("a key id in `[keys]` has characters that no header can carry".to_owned()))
}

/// Checks the signature over the bytes as they came.
pub(super) fn verify(headers: &HeaderMap, body: Bytes, keys: &Keyring, now: u64) -> Result<Verified, BadSignature> {
    if [TIMESTAMP, NONCE, SERIAL, SIGNATURE].iter().all(|name| !headers.contains_key(name)) {
        return Err(BadSignature::Missing);
    }
    let timestamp = single(headers, TIMESTAMP)?;
    let nonce = single(headers, NONCE)?;
    let serial = single(headers, SERIAL)?;
    let signature = single(headers, SIGNATURE)?;
    if signature.starts_with(PROBE) {
        return Err(BadSignature::Probe);
    }
    if headers.get_all(SIGNATURE_TYPE).iter().any(|kind| kind != SCHEME) {
        return Err(BadSignature::Wrong("it is of another type"));
    }
    let seconds: u64 = timestamp.parse().map_err(|_| BadSignature::Wrong("its timestamp is no number"))?;
    if now.abs_diff(seconds) >= WINDOW {
        return Err(BadSignature::Stale);
    }
    let believed = |key: &&Key| is_named(&key.id, serial) && key.not_after.is_none_or(|end| now <= end);
    let key = keys.iter().find(believed).ok_or_else(|| BadSignature::UnknownKey(serial.chars().take(64).collect()))?;
    let signature = from_base64(signature).ok_or(BadSignature::Wrong("it is no base64"))?;
    let text = [timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", &body, b"\n"].concat();
    match key.verifier.verify(&text, &signature) {
        true => Ok(Verified::assertion(body, &key.id)),
        false => Err(BadSignature::Wrong("it is not over these bytes, or not by that key")),
    }
}

/// A header that must be there, and once: of two, nobody could say which one was checked.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<&str, BadSignature> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| BadSignature::Wrong("a header of it is not ASCII")),
        (None, _) => Err(BadSignature::Wrong("a header of it is missing")),
        (Some(_), Some(_)) => Err(BadSignature::Wrong("a header of it is there twice")),
    }
}

/// Public keys go by their exact id; certificates by a serial number, which is a number: neither the case of its digits
/// nor leading zeros count.
pub(super) fn is_named(id: &str, serial: &str) -> bool {
    if serial.starts_with(PUBLIC_KEY) {
        return id == serial;
    }
    let digits = serial.trim_start_matches('0');
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.trim_start_matches('0').eq_ignore_ascii_case(digits)
}
