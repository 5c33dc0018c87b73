//! Signatures over the fields in the order of their names, by one of four methods.
//!
//! | `signMethod` | signature |
//! |---|---|
//! | 01 | base64 of RSA over the *hexadecimal text* of SHA-256, so SHA-256 is applied twice |
//! | 11 | hexadecimal SHA-256 of the text, `&` and the hexadecimal SHA-256 of the key |
//! | 12 | like 11, with SM3 |
//! | 21 | base64 of SM2 over the hexadecimal text of SM3; the user id is `certId`. From UnionPay's sources, never
//! tested against UnionPay |

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sm3::{Digest, Sm3};

use super::super::BadSignature;
use super::chain::{Chain, Kind};
use super::fields::{Fields, Message, SIGNATURE};
use crate::error::Error;
use crate::secret::Secret;
use crate::signer::{Signer, from_base64};

/// Signature method of an account, with its verification keys.
pub(super) enum Method {
    /// `signMethod` 01.
    Rsa(Chain),
    /// `signMethod` 11, with the hexadecimal hash of the shared key.
    Sha256(Secret),
    /// `signMethod` 12, with the hexadecimal hash of the shared key.
    Sm3(Secret),
    /// `signMethod` 21.
    Sm2(Chain),
}

impl Method {
    pub(super) fn sha256(key: &[u8]) -> Self {
        Self::Sha256(Secret::new(sha256(key)))
    }

    pub(super) fn sm3(key: &[u8]) -> Self {
        Self::Sm3(Secret::new(sm3(key)))
    }

    /// Returns `signMethod`.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "01",
            Self::Sha256(_) => "11",
            Self::Sm3(_) => "12",
            Self::Sm2(_) => "21",
        }
    }

    /// Returns whether an answer could be verified at this time (unix seconds). A shared key never expires,
    /// certificates do.
    pub(super) fn can_verify(&self, now: u64) -> bool {
        match self {
            Self::Rsa(chain) | Self::Sm2(chain) => chain.can_verify(now),
            Self::Sha256(_) | Self::Sm3(_) => true,
        }
    }

    /// Returns the signed fields. `certId` is added before signing, `signature` after.
    pub(super) fn sign(&self, fields: &Message<'_>, signer: &dyn Signer) -> Result<Fields, Error> {
        let mut fields = fields.trimmed();
        fields.set("signMethod", self.code());
        if matches!(self, Self::Rsa(_) | Self::Sm2(_)) {
            fields.set("certId", signer.key_id());
        }
        fields.set(SIGNATURE, "");
        let text = fields.signed_text();
        let signature = match self {
            Self::Rsa(_) => STANDARD.encode(signer.sign(&sha256(text.as_bytes()))?),
            Self::Sm2(_) => STANDARD.encode(signer.sign(&sm3(text.as_bytes()))?),
            Self::Sha256(key) => String::from_utf8_lossy(&keyed_hash(sha256, &text, key)).into_owned(),
            Self::Sm3(key) => String::from_utf8_lossy(&keyed_hash(sm3, &text, key)).into_owned(),
        };
        fields.set(SIGNATURE, signature);
        Ok(fields)
    }

    /// Checks the signature of a message. Returns the id of the key that signed it.
    pub(super) fn verify(&self, fields: &Message<'_>, now: u64) -> Result<String, BadSignature> {
        let signature = fields.get(SIGNATURE).ok_or(BadSignature::Missing)?;
        if fields.get("signMethod") != Some(self.code()) {
            return Err(BadSignature::Wrong("`signMethod` differs from the account's"));
        }
        if !fields.get("encoding").is_none_or(|encoding| encoding.eq_ignore_ascii_case("UTF-8")) {
            return Err(BadSignature::Wrong("`encoding` is not UTF-8"));
        }
        let text = || fields.signed_text();
        match self {
            Self::Rsa(chain) => verify_by_certificate(chain, Kind::Rsa, fields, signature, &sha256_of(fields), now),
            Self::Sm2(chain) => {
                verify_by_certificate(chain, Kind::Sm2, fields, signature, &sm3(text().as_bytes()), now)
            }
            Self::Sha256(key) => verify_by_shared_key(&keyed_hash(sha256, &text(), key), signature),
            Self::Sm3(key) => verify_by_shared_key(&keyed_hash(sm3, &text(), key), signature),
        }
    }
}

fn verify_by_certificate(
    chain: &Chain,
    kind: Kind,
    fields: &Message<'_>,
    signature: &str,
    digest: &Digits,
    now: u64,
) -> Result<String, BadSignature> {
    let certificate = fields.get("signPubKeyCert").ok_or(BadSignature::Wrong("`signPubKeyCert` is missing"))?;
    let leaf = chain.leaf(certificate, kind, now)?;
    let signature = from_base64(signature).ok_or(BadSignature::Wrong("not base64"))?;
    match leaf.verifier.verify(digest, &signature) {
        true => Ok(leaf.serial),
        false => Err(BadSignature::Wrong("not over these fields, or not by that key")),
    }
}

fn verify_by_shared_key(ours: &Digits, theirs: &str) -> Result<String, BadSignature> {
    match verify_slices_are_equal(ours, theirs.as_bytes()) {
        Ok(()) => Ok("secure_key".to_owned()),
        Err(_) => Err(BadSignature::Wrong("not over these fields, or not by that key")),
    }
}

fn keyed_hash(hash: fn(&[u8]) -> Digits, text: &str, key: &Secret) -> Digits {
    let covered = zeroize::Zeroizing::new([text.as_bytes(), b"&", key.expose()].concat());
    hash(&covered)
}

pub(super) fn sha256(bytes: &[u8]) -> Digits {
    digits(digest(&SHA256, bytes).as_ref())
}

/// Hashes the signed text of a message without copying it.
fn sha256_of(message: &Message<'_>) -> Digits {
    let mut hash = Context::new(&SHA256);
    message.signed_parts().for_each(|part| hash.update(part.as_bytes()));
    digits(hash.finish().as_ref())
}

pub(super) fn sm3(bytes: &[u8]) -> Digits {
    digits(&Sm3::digest(bytes))
}

/// Hash in hexadecimal digits.
pub(super) type Digits = [u8; 64];

fn digits(hash: &[u8]) -> Digits {
    let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
    let mut digits = [0; 64];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    digits
}
