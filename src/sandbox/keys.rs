//! The sandbox's own RSA and AES code, independent of the gateway's, so that tests detect an error in either.

pub(super) mod sm2;

use std::io;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use rand::distr::Alphanumeric;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

/// Private key of the provider, with the id that merchants know.
pub(super) struct SigningKey {
    pub(super) id: String,
    pair: RsaKeyPair,
}

impl SigningKey {
    /// Reads a PKCS#8 PEM file.
    pub(super) fn read(id: &str, path: &Path) -> io::Result<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| about(path, error))?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| about(path, error))?;
        Ok(Self { id: id.to_owned(), pair })
    }

    /// Returns the signature in base64; `None` only if the system has no randomness for blinding.
    pub(super) fn sign(&self, text: &[u8]) -> Option<String> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).ok()?;
        Some(STANDARD.encode(signature))
    }
}

/// Public key of a merchant.
pub(super) struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Reads an SPKI PEM file.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let der = SubjectPublicKeyInfoDer::from_pem_file(path).map_err(|error| about(path, error))?;
        Ok(Self(der.to_vec()))
    }

    /// Returns whether the signature of the text is valid.
    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        verifies(&self.0, text, signature)
    }
}

fn verifies(public_key: &[u8], text: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key).verify(text, signature).is_ok()
}

/// Parsed certificate.
pub(super) struct Certificate {
    /// Serial number in upper-case hexadecimal.
    pub(super) serial: String,
    /// Serial number in decimal, as UnionPay writes it.
    pub(super) number: String,
    /// Public key as SPKI.
    pub(super) public_key: Vec<u8>,
    /// Content of the PEM file.
    pub(super) pem: Vec<u8>,
    /// Start of validity in Unix seconds.
    pub(super) not_before: i64,
    /// End of validity in Unix seconds.
    pub(super) not_after: i64,
}

impl Certificate {
    /// Reads a PEM file.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let pem = std::fs::read(path).map_err(|error| about(path, error))?;
        let der = CertificateDer::from_pem_slice(&pem).map_err(|error| about(path, error))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| about(path, error))?;
        Ok(Self {
            serial: serial_of(&der).unwrap_or_default(),
            number: parsed.serial.to_string(),
            public_key: parsed.tbs_certificate.subject_pki.raw.to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            pem,
        })
    }

    /// Returns whether the signature of the text is valid for the certificate's key.
    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        verifies(&self.public_key, text, signature)
    }
}

/// Returns the serial number as WeChat writes it: upper-case hexadecimal without leading zeros.
pub(super) fn serial_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let hex: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect();
    Some(hex.trim_start_matches('0').to_owned())
}

/// Encrypts with AES-256-GCM as API v3 does. Returns the ciphertext with its tag in base64, and the nonce.
pub(super) fn encrypt(key: &[u8; 32], associated_data: &str, plaintext: &[u8]) -> Option<(String, String)> {
    let nonce = random_text(12);
    Some((encrypt_with_nonce(key, &nonce, associated_data, plaintext)?, nonce))
}

fn encrypt_with_nonce(key: &[u8; 32], nonce: &str, associated_data: &str, plaintext: &[u8]) -> Option<String> {
    let nonce: [u8; 12] = nonce.as_bytes().try_into().ok()?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let mut text = plaintext.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated_data), &mut text).ok()?;
    Some(STANDARD.encode(text))
}

/// Returns random letters and digits.
pub(super) fn random_text(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

/// Returns random digits, as in the providers' own numbers.
pub(super) fn random_digits(length: usize) -> String {
    (0..length).map(|_| char::from(b'0' + rand::rng().random_range(0..10u8))).collect()
}

fn about(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Test merchant of WeChat Pay's Java SDK.
    const MERCHANT: &str = "\
-----BEGIN CERTIFICATE-----
MIIDrTCCApWgAwIBAgIUXxxy4qiTG3Ki4Tr43ukkces5cRUwDQYJKoZIhvcNAQEL
BQAwZjELMAkGA1UEBhMCQ04xEjAQBgNVBAgMCUd1YW5nZG9uZzERMA8GA1UEBwwI
c2hlbnpoZW4xITAfBgNVBAoMGEludGVybmV0IFdpZGdpdHMgUHR5IEx0ZDENMAsG
A1UEAwwEdGVzdDAeFw0yMjA1MTAwMTU3MTBaFw0yNTA1MDkwMTU3MTBaMGYxCzAJ
BgNVBAYTAkNOMRIwEAYDVQQIDAlHdWFuZ2RvbmcxETAPBgNVBAcMCHNoZW56aGVu
MSEwHwYDVQQKDBhJbnRlcm5ldCBXaWRnaXRzIFB0eSBMdGQxDTALBgNVBAMMBHRl
c3QwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCaZzehUwzcxdLgGn/U
NryHLdX0yBvCqD0p92/BdlCIBi0dmzZzrfc+FF0xK70AP9b2+Ry5q+zXUU+dPucJ
mgwABiZ+Lte+4euMxqPCEkdEu9lyiphalpoaOVPbmDNatzq9k5a/P454QRWMdkLU
JZCeoL9bF2Gn/2+wWEw3sL8zFFcOM8Jr1PdOLmAx+h7pf/87jcmXXCm+SZqw5MtI
LKQi9zHWujYdMA0IcYNeQaNl1h/NUnungdIHKaaU+17wCXqTcZsipAGoqfqrHx/s
r30ZszOdHYOvFNiB+rhEldBGSLWwSYE6LFkbP9GdQWKIQCip3E5dLj5ZFkDeOv4H
ekf9AgMBAAGjUzBRMB0GA1UdDgQWBBQQicr3Vq+2NG2ykH0nxQxsct1RtTAfBgNV
HSMEGDAWgBQQicr3Vq+2NG2ykH0nxQxsct1RtTAPBgNVHRMBAf8EBTADAQH/MA0G
CSqGSIb3DQEBCwUAA4IBAQCH//ZlSAbc6xRlwKwwfbHMsVpAfo/p+Y3397Gi4sR8
RbsW6a3ezXhbiSGiJxDnerx9Cmp4K6U+D3Fl0N9K6CDWfwpGNiZvjmCxtM/wb7dM
u+4U0MXJGBcaePj4mtV/+qPxSWDCQ+PR5OcYRQnac9LfrffTuejQx5aw9FcD7egI
SYfgkZ/wgHyQcZyhh8s6DuigpEaVGMLLoWDZGJ3D+rt4kXk9y5+03KBB2vobyl6P
+PDgaYrlNR/UQMnKMdkgWp7bebmrcXte32/6FAwK3SuHZOSkteDtRCYhYfG5SGSr
go1ujfIK1zIFyPkKKnsgTUPJXwdC7LI+ZqJuWTyVTNj6
-----END CERTIFICATE-----";

    // Both values come from WeChat Pay's SDKs, which makes this test independent of the sandbox's own code.
    #[test]
    fn ciphertext_and_signature_of_wechats_sdks_are_reproduced_and_verified() {
        let key = b"a7cde1ZJB1kG2e7VfTs3jQzaWizur8Gb";
        let sign_now = encrypt_with_nonce(key, "uluk4a9R25RW", "associatedData", b"message").unwrap();
        assert_eq!(sign_now, "ulwSiIajGClcvcOYvOQ7+l+0PAbzzwI=");

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), MERCHANT).unwrap();
        let merchant = Certificate::read(file.path()).unwrap();
        assert_eq!(merchant.serial, "5F1C72E2A8931B72A2E13AF8DEE92471EB397115");
        let text = "GET\n/v3/pay/transactions/out-trade-no/T20231115000001?mchid=1234567891\n1700000000\n\
                    593BEC0C930BF1AFEB40B4A08C8FB242\n\n";
        let signature = "aKf+Wvv/abg1oX9iERf+cJi6gDRbw7XAkuiUI8OVTMwYvrds1K8Mpb3vue+OTuxhiQLFPEk1W92XGcBITbK9UAtKo8DfKX0w\
             /vgRXC0j5BkVmCwRrQPFRehQnJUHLN14eZZNjNrNbBNwE4jHsySpuPEhF8V0xNRp5Tvcs7dZKK9EbxAM/q70EqPZKLtyVc7b\
             0wJH4q5tr+AN9yMDyBZr+xfg8PUhbt3W0Kk1jlmm4nG4k85bQAKKevcVBduEeqKkYu3PmkV+9RjNTnnOIW7UCr9O/YmEMkux\
             zYrx5uqR7wRCFLJDkwe809ZgL/NF5ywdNnHsSwYgJ1GAOyYPwhJdDA==";
        let signature = STANDARD.decode(signature).unwrap();
        assert!(merchant.verifies(text.as_bytes(), &signature));
        assert!(!merchant.verifies(&text.as_bytes()[1..], &signature));
    }
}
