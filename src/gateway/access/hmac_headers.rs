//! The HMAC scheme: hex(HMAC-SHA256(secret, METHOD\nPATH?QUERY\nTIMESTAMP\nNONCE\nhex(SHA-256(body)))).

use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::{Denied, Head, SignatureParameters, SignedRequest, is_nonce};

/// Parses key id and timestamp.
pub(super) fn parameters(head: &Head<'_>) -> Result<SignatureParameters, Denied> {
    let key_id = single_value(head.headers, "x-tollgate-key")?.to_owned();
    let timestamp = single_value(head.headers, "x-tollgate-timestamp")?;
    let is_number = (1..=19).contains(&timestamp.len()) && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let created = timestamp.parse().ok().filter(|_| is_number).ok_or(Denied::Malformed("timestamp"))?;
    Ok(SignatureParameters { key_id, created, expires: None })
}

pub(super) fn read(head: &Head<'_>, body: &[u8]) -> Result<SignedRequest, Denied> {
    let SignatureParameters { key_id, created, expires } = parameters(head)?;
    let timestamp = single_value(head.headers, "x-tollgate-timestamp")?;
    let nonce = single_value(head.headers, "x-tollgate-nonce")?;
    let signature = single_value(head.headers, "x-tollgate-signature")?;
    if !is_nonce(nonce) {
        return Err(Denied::Malformed("nonce"));
    }
    Ok(SignedRequest {
        key_id,
        created,
        expires,
        nonce: nonce.to_owned(),
        message: message(head.method, head.path_and_query, timestamp, nonce, body),
        signature: from_hex(signature).ok_or(Denied::Malformed("signature"))?,
    })
}

/// Returns the text to sign.
fn message(method: &str, path_and_query: &str, timestamp: &str, nonce: &str, body: &[u8]) -> Vec<u8> {
    let digest = hex::encode(Sha256::digest(body));
    format!("{method}\n{path_and_query}\n{timestamp}\n{nonce}\n{digest}").into_bytes()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|bytes| bytes.len() == 32)
}

fn single_value<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Denied> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Denied::Malformed(name)),
        (None, _) => Err(Denied::Malformed(name)),
        (Some(_), Some(_)) => Err(Denied::Malformed(name)),
    }
}
