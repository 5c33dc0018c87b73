//! Signatures with the shared API key: MD5 or HMAC-SHA256 over the sorted fields.

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};

use super::super::form;
use super::super::{BadSignature, Verified};
use super::xml::{self, Fields};

/// Id of the only key.
const KEY_ID: &str = "api";

/// Fields that the decoder relies on, in answers and notifications.
const READ: &[&str] = &[
    "appid",
    "err_code",
    "fee_type",
    "mch_id",
    "out_refund_no",
    "out_trade_no",
    "recall",
    "refund_fee",
    "refund_id",
    "req_info",
    "result_code",
    "return_code",
    "sub_mch_id",
    "total_fee",
    "trade_state",
    "trade_type",
    "transaction_id",
];

/// Signature types, with WeChat Pay's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignType {
    Md5,
    HmacSha256,
}

impl SignType {
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Md5, Self::HmacSha256].into_iter().find(|sign_type| sign_type.as_str() == name)
    }

    /// Returns the type whose signatures have this number of hexadecimal digits.
    fn of_length(digits: usize) -> Option<Self> {
        match digits {
            32 => Some(Self::Md5),
            64 => Some(Self::HmacSha256),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::HmacSha256 => "HMAC-SHA256",
        }
    }
}

/// API key and the account's signature type.
pub(super) struct ApiKey {
    pub(super) key: String,
    pub(super) sign_type: SignType,
}

impl ApiKey {
    /// Returns the signature over all fields but `sign`, of the account's type.
    pub(super) fn sign(&self, fields: &Fields) -> String {
        self.sign_as(self.sign_type, fields)
    }

    /// Returns the signature over all fields but `sign`, in upper-case hexadecimal.
    pub(super) fn sign_as(&self, sign_type: SignType, fields: &Fields) -> String {
        let unsigned = form::text(fields, &["sign"]);
        let text = format!("{unsigned}&key={}", self.key);
        match sign_type {
            SignType::Md5 => hex::encode_upper(Md5::digest(text.as_bytes())),
            SignType::HmacSha256 => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes());
                hex::encode_upper(hmac::sign(&key, text.as_bytes()))
            }
        }
    }

    /// Checks the signature of an answer or of a payment's notification. The whole message is verified.
    ///
    /// WeChat Pay signs some messages with the other type than the request, and then `sign_type` may be missing. Both
    /// types require the API key. They are distinguished by the number of digits.
    pub(super) fn verify(&self, message: Bytes) -> Result<Verified, BadSignature> {
        let fields = xml::read("xml", &message).ok_or(BadSignature::Missing)?;
        let sign = fields.get("sign").ok_or(BadSignature::Missing)?;
        if form::hides(&fields, READ) {
            return Err(BadSignature::Wrong("the signed text is ambiguous"));
        }
        let sign_type = SignType::of_length(sign.len())
            .ok_or(BadSignature::Wrong("`sign` must have 32 (MD5) or 64 (HMAC-SHA256) hexadecimal digits"))?;
        verify_slices_are_equal(self.sign_as(sign_type, &fields).as_bytes(), sign.as_bytes())
            .map_err(|_| BadSignature::Wrong("not over this message, or by another API key"))?;
        Ok(Verified::assertion(message, KEY_ID))
    }

    /// Checks a refund's notification, which is encrypted instead of signed: its sender knows the API key.
    ///
    /// ECB does not protect the integrity of each byte, so the content must be confirmed by a query.
    pub(super) fn verify_refund(&self, message: Bytes) -> Result<Verified, BadSignature> {
        let fields = xml::read("xml", &message).ok_or(BadSignature::Wrong("not flat XML"))?;
        let sealed = fields.get("req_info").ok_or(BadSignature::Missing)?;
        match self.open(sealed) {
            Some(_) => Ok(Verified::assertion(message, KEY_ID)),
            None => Err(BadSignature::Wrong("`req_info` cannot be decrypted with this API key")),
        }
    }

    /// Decrypts a `req_info`: base64 of AES-256-ECB, whose key is the lower-case hexadecimal MD5 of the API key.
    pub(super) fn open(&self, sealed: &str) -> Option<Fields> {
        let mut bytes = STANDARD.decode(sealed).ok()?;
        let secret = hex::encode(Md5::digest(self.key.as_bytes()));
        let key = DecryptingKey::ecb(UnboundCipherKey::new(&AES_256, secret.as_bytes()).ok()?).ok()?;
        let plain = key.decrypt(&mut bytes, DecryptionContext::None).ok()?;
        // Some senders omit the padding if the text fills its last block.
        xml::read("root", without_padding(plain)).or_else(|| xml::read("root", plain))
    }
}

fn without_padding(plain: &[u8]) -> &[u8] {
    let count = plain.last().copied().unwrap_or_default();
    match plain.split_at_checked(plain.len().saturating_sub(usize::from(count))) {
        Some((text, padding)) if (1..=16).contains(&count) && padding.iter().all(|byte| *byte == count) => text,
        _ => plain,
    }
}
