//! How messages are signed: with RSA twice over (01), or with a key that both sides have (11 SHA-256, 12 SM3).
//!
//! With 01 the signature is over the hexadecimal digits of the text's digest, so the text is digested twice. The key that
//! checks it comes in the message itself, as a certificate: it counts for nothing unless it leads to the configured root.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use sm3::Sm3;

use super::super::form::{self, Fields};
use super::super::{BadSignature, Signing, Verified};
use super::certificate::Trust;
use crate::error::Error;
use crate::signer::rsa;

/// `signMethod`, with what it needs.
pub(super) enum Method {
    /// 01: the channel's private key, and whom to trust.
    Rsa(Trust),
    /// 11: a shared key.
    Sha256(String),
    /// 12: a shared key.
    Sm3(String),
}

impl Method {
    /// Its number.
    pub(super) fn number(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "01",
            Self::Sha256(_) => "11",
            Self::Sm3(_) => "12",
        }
    }

    /// Adds `signature`, and before it `certId` where a certificate is named.
    pub(super) fn sign(&self, fields: &mut Fields, with: Signing<'_>) -> Result<(), Error> {
        fields.remove("signature");
        let signature = match self {
            Self::Rsa(_) => {
                fields.insert("certId".to_owned(), with.signer.key_id().to_owned());
                let digest = hex::encode(Sha256::digest(text(fields)));
                STANDARD.encode(with.signer.sign(digest.as_bytes())?)
            }
            _ => self.shared(&text(fields)).unwrap_or_default(),
        };
        fields.insert("signature".to_owned(), signature);
        Ok(())
    }

    /// Checks a message that came as these fields.
    pub(super) fn verify(&self, fields: &Fields, message: Bytes, now: u64) -> Result<Verified, BadSignature> {
        let field = |name: &str| fields.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let signature = field("signature").ok_or(BadSignature::Missing)?;
        let text = text(fields);
        if let Self::Rsa(trust) = self {
            let file = field("signPubKeyCert").ok_or(BadSignature::Wrong("it brings no certificate"))?;
            let number = trust.check(file.as_bytes(), now).map_err(BadSignature::Wrong)?;
            let key =
                rsa::verifier(file.as_bytes()).map_err(|_| BadSignature::Wrong("its certificate has no RSA key"))?;
            let signature = STANDARD.decode(signature).map_err(|_| BadSignature::Wrong("it is not base64"))?;
            let digest = hex::encode(Sha256::digest(&text));
            if !key.verify(digest.as_bytes(), &signature) {
                return Err(BadSignature::Wrong("it is not over this message, or by another key"));
            }
            return Ok(Verified::vouch(message, number));
        }
        let ours = self.shared(&text).unwrap_or_default();
        verify_slices_are_equal(ours.as_bytes(), signature.as_bytes())
            .map_err(|_| BadSignature::Wrong("it is not over this message, or by another secure key"))?;
        Ok(Verified::vouch(message, "secure_key"))
    }

    /// The signature with a shared key, of which not the key but its digest is added to the text.
    fn shared(&self, text: &str) -> Option<String> {
        match self {
            Self::Rsa(_) => None,
            Self::Sha256(key) => {
                let key = hex::encode(Sha256::digest(key));
                Some(hex::encode(Sha256::digest(format!("{text}&{key}"))))
            }
            Self::Sm3(key) => {
                let key = hex::encode(Sm3::digest(key));
                Some(hex::encode(Sm3::digest(format!("{text}&{key}"))))
            }
        }
    }
}

/// What is signed: the sorted fields but `signature`, without those that are blank.
fn text(fields: &Fields) -> String {
    let blank = fields.iter().filter(|(_, value)| value.trim().is_empty()).map(|(name, _)| name.as_str());
    let without: Vec<&str> = blank.chain(["signature"]).collect();
    form::text(fields, &without)
}
