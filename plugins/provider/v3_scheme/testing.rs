//! The provider's side of the scheme, for golden files: sealing and signing.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, Payload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::golden::{GoldenFixture, Message, NOW, check_golden_files, keys};
use super::{V3Account, V3Scheme};
use crate::signer::Signer;

/// Encrypts as the provider does, with a fixed nonce.
pub(in super::super) fn seal(key: &Aes256Gcm, plain: &[u8], aad: &str) -> Value {
    let nonce = "fdasflkja484";
    let payload = Payload { msg: plain, aad: aad.as_bytes() };
    let ciphertext = key.encrypt(&nonce.as_bytes().try_into().unwrap(), payload).unwrap();
    let ciphertext = STANDARD.encode(ciphertext);
    json!({"algorithm": "AEAD_AES_256_GCM", "nonce": nonce, "associated_data": aad, "ciphertext": ciphertext})
}

/// Builds a notification with encrypted content.
pub(in super::super) fn envelope(key: &Aes256Gcm, event_type: &str, original_type: &str, plain: &[u8]) -> Value {
    let mut resource = seal(key, plain, "transaction");
    resource["original_type"] = original_type.into();
    json!({"id": "x", "event_type": event_type, "resource": resource})
}

impl V3Scheme {
    /// Signs a message that has no signature, as the provider does.
    pub(in super::super) fn sign_message(&self, signer: &dyn Signer, message: &mut Message) {
        let name = |name: &str| format!("{}-{name}", self.header_prefix);
        if message.headers.contains_key(&name("signature")) {
            return;
        }
        let nonce = "c5ac7061fccab6bf3e254dcf98995b8c";
        let text = format!("{NOW}\n{nonce}\n{}\n", message.body);
        let serial = message.headers.get(&name("serial")).cloned().unwrap_or_else(|| signer.key_id().to_owned());
        for (header, value) in [
            ("nonce", nonce.to_owned()),
            ("serial", serial),
            ("signature", STANDARD.encode(signer.sign(text.as_bytes()).unwrap())),
            ("signature-type", self.authorization.to_owned()),
            ("timestamp", NOW.to_string()),
        ] {
            message.headers.insert(name(header), value);
        }
    }
}

/// Checks the golden files of an account whose secret is [`keys::SECRET`], signed with the neutral keys.
///
/// In a notification, `sealed` has `event_type`, `original_type` and `content`, which is encrypted into the body.
pub(in super::super) fn check_with_neutral_keys(folder: &str, account: &V3Account, needed: &[&str]) {
    let (signer, provider_signer, keys) = (keys::merchant_signer(), keys::provider_signer(), keys::keyring());
    let sign = |message: &mut Message| {
        if let Some(sealed) = &message.sealed {
            let text = |name: &str| sealed[name].as_str().unwrap_or_else(|| panic!("`sealed.{name}` is missing"));
            let content = sealed["content"].to_string();
            let body = envelope(&account.api_key, text("event_type"), text("original_type"), content.as_bytes());
            message.body = body.to_string();
            message.headers.clear();
        }
        account.scheme.sign_message(&*provider_signer, message);
    };
    check_golden_files(
        &GoldenFixture { folder, provider: account, signer: &*signer, keys: &keys, now: NOW, sign: &sign },
        needed,
    );
}
