//! Encryption of contents between the app and Alipay: AES-128 in CBC mode with a zero initialization vector.
//!
//! The encryption only hides the content. Integrity is proven by the signature, which is checked first.

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Encryption key of one app.
pub(super) struct Sealer {
    encrypting: PaddedBlockEncryptingKey,
    decrypting: PaddedBlockDecryptingKey,
}

impl Sealer {
    /// Creates the sealer from the base64 that Alipay's console shows; `None` if it is not 16 bytes.
    pub(super) fn new(base64: &[u8]) -> Option<Self> {
        let key = Zeroizing::new(STANDARD.decode(base64.trim_ascii()).ok()?);
        let unbound = || UnboundCipherKey::new(&AES_128, &key).ok();
        Some(Self {
            encrypting: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).ok()?,
            decrypting: PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).ok()?,
        })
    }

    pub(super) fn seal(&self, plain: &str) -> Option<String> {
        let mut bytes = plain.as_bytes().to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from([0; 16]));
        self.encrypting.less_safe_encrypt(&mut bytes, context).ok()?;
        Some(STANDARD.encode(bytes))
    }

    pub(super) fn open(&self, base64: &str) -> Option<Vec<u8>> {
        let mut bytes = STANDARD.decode(base64).ok()?;
        let context = DecryptionContext::Iv128(FixedLength::from([0; 16]));
        self.decrypting.decrypt(&mut bytes, context).ok().map(|plain| plain.to_vec())
    }
}

pub(super) fn check(secret: &[u8]) -> Result<(), String> {
    Sealer::new(secret).map(drop).ok_or_else(|| {
        "the AES key must be the base64 of 16 bytes: copy it from open.alipay.com (接口内容加密方式)".to_owned()
    })
}
