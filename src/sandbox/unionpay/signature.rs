//! Signatures of messages with each of UnionPay's methods.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use sm3::Sm3;

use crate::account::unionpay::{Account, Keys, Pair};
use crate::form::Form;

/// UnionPay's `signMethod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignMethod {
    /// 01: RSA over the digest of the digest.
    Rsa,
    /// 11: SHA-256 of the text and the key's digest.
    Sha256,
    /// 12: as 11, with SM3.
    Sm3,
    /// 21: SM2 over the hexadecimal digest. The user id is the serial number of the signer's certificate.
    Sm2,
}

impl SignMethod {
    pub(super) fn named(number: &str) -> Option<Self> {
        match number {
            "01" => Some(Self::Rsa),
            "11" => Some(Self::Sha256),
            "12" => Some(Self::Sm3),
            "21" => Some(Self::Sm2),
            _ => None,
        }
    }

    pub(super) fn number(self) -> &'static str {
        match self {
            Self::Rsa => "01",
            Self::Sha256 => "11",
            Self::Sm3 => "12",
            Self::Sm2 => "21",
        }
    }

    /// Returns whether the account has keys for this method.
    pub(super) fn suits(self, keys: &Keys) -> bool {
        match keys {
            Keys::Certificates(certificates) => match certificates.pair {
                Pair::Rsa { .. } => self == Self::Rsa,
                Pair::Sm2 { .. } => self == Self::Sm2,
            },
            Keys::Secret(_) => matches!(self, Self::Sha256 | Self::Sm3),
        }
    }

    /// Returns the digest in lower-case hexadecimal.
    fn digest(self, text: &str) -> String {
        match self {
            Self::Rsa | Self::Sha256 => hex::encode(Sha256::digest(text)),
            Self::Sm3 | Self::Sm2 => hex::encode(Sm3::digest(text)),
        }
    }

    fn keyed(self, text: &str, key: &str) -> String {
        self.digest(&format!("{text}&{}", self.digest(key)))
    }
}

/// Returns whether the merchant's signature of the request is valid.
pub(super) fn verifies(account: &Account, method: SignMethod, form: &Form) -> bool {
    let signature = form.get("signature").unwrap_or_default();
    let text = signed_text(form);
    match &account.keys {
        Keys::Certificates(certificates) => {
            let signature = STANDARD.decode(signature).unwrap_or_default();
            let digest = method.digest(&text);
            match &certificates.pair {
                Pair::Rsa { merchant, .. } => merchant.verifies(digest.as_bytes(), &signature),
                Pair::Sm2 { merchant, .. } => merchant.verifies(digest.as_bytes(), &signature),
            }
        }
        Keys::Secret(key) => method.keyed(&text, key) == signature,
    }
}

/// Signs a message of UnionPay. A non-empty `salt` makes the signature wrong.
pub(super) fn sign(account: &Account, method: SignMethod, form: &mut Form, salt: &str) {
    form.set("signMethod", method.number());
    if let Keys::Certificates(certificates) = &account.keys {
        form.set("signPubKeyCert", &certificates.shown);
    }
    let text = signed_text(form) + salt;
    let signature = match &account.keys {
        Keys::Certificates(certificates) => {
            let digest = method.digest(&text);
            match &certificates.pair {
                Pair::Rsa { unionpay, .. } => unionpay.sign(digest.as_bytes()),
                Pair::Sm2 { unionpay, .. } => unionpay.sign(digest.as_bytes()),
            }
        }
        Keys::Secret(key) => Some(method.keyed(&text, key)),
    };
    form.set("signature", signature.unwrap_or_default());
}

/// Returns the signed text: names in byte order, values not encoded, blank values left out.
fn signed_text(form: &Form) -> String {
    let parts = form.pairs().filter(|(name, value)| *name != "signature" && !value.trim().is_empty());
    parts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Request signed by UnionPay's SDK with each key.
    const REQUEST: &str = "accessType=0&backUrl=http://127.0.0.1/n&bizType=000201&channelType=08&currencyCode=156&\
                           encoding=UTF-8&merId=777290058110048&orderId=20250101000001&\
                           riskRateInfo={commodityName=测试 商品+1}&txnAmt=1&txnSubType=01&txnTime=20250101120000&\
                           txnType=01&version=5.1.0";

    #[test]
    fn signatures_of_unionpays_sdk_are_verified_for_each_method() {
        let mut form = Form::default();
        for pair in REQUEST.split('&') {
            let (name, value) = pair.split_once('=').unwrap();
            form.set(name, value);
        }
        form.set("signature", "not signed");
        form.set("reserved", "  ");
        for (method, signature) in [
            (SignMethod::Sha256, "2ce3f41668eb8928345582f77d944b1866dba3e78406138b47aff9df861613da"),
            (SignMethod::Sm3, "3d253064fe62305b5a862b0a2da3ec0d520b49b206a30127307750e8b57b6e64"),
        ] {
            form.set("signMethod", method.number());
            assert_eq!(method.keyed(&signed_text(&form), "88888888"), signature);
        }
        form.set("signMethod", "01");
        form.set("certId", "68759663125");
        let digest = "d4b8f0a0630439bfc5d7005fc8547f938022551bf72b6301364a72d0c9e29a64";
        assert_eq!(SignMethod::Rsa.digest(&signed_text(&form)), digest);
    }
}
