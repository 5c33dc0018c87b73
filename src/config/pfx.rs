//! PFX files (PKCS#12), as UnionPay and WeChat Pay hand them out: certificate and private key under one password.

use p12_keystore::{KeyStore, Pkcs12ImportPolicy};
use tollgate_plugins::secret::Secret;
use zeroize::Zeroizing;

use crate::pem;

/// Whether this is such a file: DER, with the version 3 right after the outer length.
pub(super) fn is_one(file: &[u8]) -> bool {
    file.first() == Some(&0x30)
        && file.get(2..9).is_some_and(|head| head.windows(3).any(|bytes| bytes == [0x02, 0x01, 0x03]))
}

/// The same as PEM: the certificate, the private key, and what else is in it. An error says what to do.
pub(super) fn to_pem(file: &[u8], password: &Secret) -> Result<Secret, &'static str> {
    let password =
        std::str::from_utf8(password.expose()).map_err(|_| "the password of this PFX file is no UTF-8 text")?;
    let store = KeyStore::from_pkcs12(file, password, Pkcs12ImportPolicy::Relaxed)
        .map_err(|_| "this PFX file cannot be opened: its password is another, or it is damaged")?;
    let (_, chain) = store.private_key_chain().ok_or("this PFX file has no private key in it")?;
    let certificates = chain.certs().iter().map(|certificate| pem::write("CERTIFICATE", certificate.as_der()));
    let key = Zeroizing::new(pem::write("PRIVATE KEY", chain.key().as_der()));
    let text = Zeroizing::new(certificates.collect::<String>() + &key);
    Ok(Secret::new(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = include_bytes!("../../tests/golden/unionpay/keys/up_acp_test_sign.pfx");
    const NEW: &[u8] = include_bytes!("../../tests/golden/unionpay/keys/up_merchant.pfx");

    #[test]
    fn old_and_new_files_are_opened() {
        for (file, number) in [(OLD, "68759663125"), (NEW, "68759663126")] {
            assert!(is_one(file));
            let text = to_pem(file, &Secret::new("000000")).unwrap();
            let row = tollgate_plugins::provider::PROVIDERS.iter().find(|row| row.name == "unionpay").unwrap();
            assert_eq!((row.key_id)(text.expose()).as_deref(), Some(number));
            let rsa =
                tollgate_plugins::signer::ALGORITHMS.iter().find(|algorithm| algorithm.name == "rsa-sha256").unwrap();
            (rsa.signer)(number, text.expose()).unwrap();
            assert!(to_pem(file, &Secret::new("000001")).unwrap_err().contains("password"));
        }
        for other in [&b""[..], b"-----BEGIN", &[0x30, 0x82], &[0x30; 20]] {
            assert!(!is_one(other) && to_pem(other, &Secret::new("000000")).is_err());
        }
    }
}
