//! Uses of the API key: signatures of messages, and encryption of refund notifications.

use aws_lc_rs::cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use super::xml::Fields;

/// Sign type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignType {
    Md5,
    HmacSha256,
}

impl SignType {
    /// Returns the sign type of this name; the default is MD5.
    pub(super) fn named(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("MD5") => Some(Self::Md5),
            Some("HMAC-SHA256") => Some(Self::HmacSha256),
            Some(_) => None,
        }
    }

    /// Returns the other sign type.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Md5 => Self::HmacSha256,
            Self::HmacSha256 => Self::Md5,
        }
    }

    /// Returns the signature over all fields except `sign`.
    pub(super) fn sign(self, fields: &Fields, key: &str) -> String {
        let signed = fields.iter().filter(|(name, value)| *name != "sign" && !value.is_empty());
        let text: String = signed.map(|(name, value)| format!("{name}={value}&")).collect();
        let text = format!("{text}key={key}");
        match self {
            Self::Md5 => hex::encode_upper(Md5::digest(text)),
            Self::HmacSha256 => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
                hex::encode_upper(hmac::sign(&key, text.as_bytes()))
            }
        }
    }
}

/// Encrypts with AES-256-ECB. The key is the MD5 of the API key in lower-case hexadecimal.
pub(super) fn encrypt(text: &str, key: &str) -> Option<String> {
    let key = hex::encode(Md5::digest(key));
    let key = UnboundCipherKey::new(&AES_256, key.as_bytes()).ok()?;
    let mut bytes = text.as_bytes().to_vec();
    PaddedBlockEncryptingKey::ecb_pkcs7(key).ok()?.encrypt(&mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    // The values come from WeChat Pay's documentation and two SDKs, which makes this test independent of the
    // sandbox's own code.
    #[test]
    fn signatures_and_ciphertext_of_published_examples_are_reproduced() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/wechat-v2/vectors.json");
        let vectors: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for (name, algorithm, kind) in [
            ("doc_vector", "md5", SignType::Md5),
            ("doc_vector", "hmac_sha256", SignType::HmacSha256),
            ("unifiedorder", "hmac_sha256", SignType::HmacSha256),
        ] {
            let vector = &vectors[name];
            let fields: Fields = serde_json::from_value(vector["params"].clone()).unwrap();
            assert_eq!(kind.sign(&fields, vector["key"].as_str().unwrap()), vector[algorithm], "{name} {algorithm}");
        }
        let hidden = &vectors["refund_req_info"];
        let text = |name: &str| hidden[name].as_str().unwrap();
        assert_eq!(encrypt(text("plaintext"), text("api_key")).unwrap(), text("req_info"));
    }
}
