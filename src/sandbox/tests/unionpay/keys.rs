//! Keys of the test merchant: signing, and verification of UnionPay's certificates.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use sm2::dsa::signature::{Signer, Verifier};
use sm2::dsa::{Signature, SigningKey, VerifyingKey};
use sm2::pkcs8::DecodePrivateKey;
use x509_cert::der::Decode;
use x509_cert::der::asn1::Uint;
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::parse_x509_pem;

/// Sign method of the account's channel file.
pub(super) enum Keys {
    /// `signMethod` 01.
    Rsa(Box<RsaKeyPair>),
    /// `signMethod` 21.
    Sm2(Box<SigningKey>),
    /// `signMethod` 11.
    Sha256(String),
    /// `signMethod` 12.
    Sm3(String),
}

impl Keys {
    pub(super) fn read(channel: &toml::Table, account: &Path) -> Self {
        let keys = &channel["keys"];
        let secret = || keys["secure_key"].as_str().unwrap().trim_start_matches("plain:").to_owned();
        match channel["account"].get("sign_method").map_or("01", |method| method.as_str().unwrap()) {
            "01" => Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(private(account).secret_pkcs8_der()).unwrap())),
            "21" => Self::sm2(account, keys["sign"]["id"].as_str().unwrap()),
            "11" => Self::Sha256(secret()),
            "12" => Self::Sm3(secret()),
            other => panic!("no sign method: {other}"),
        }
    }

    /// Signs with this user id.
    pub(super) fn sm2(account: &Path, user_id: &str) -> Self {
        let key = sm2::SecretKey::from_pkcs8_der(private(account).secret_pkcs8_der()).unwrap();
        Self::Sm2(Box::new(SigningKey::new(user_id, &key).unwrap()))
    }

    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "01",
            Self::Sm2(_) => "21",
            Self::Sha256(_) => "11",
            Self::Sm3(_) => "12",
        }
    }

    pub(super) fn sign(&self, text: &str) -> String {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let text = sha256(text);
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
                STANDARD.encode(signature)
            }
            Self::Sm2(key) => STANDARD.encode(key.sign(sm3(text).as_bytes()).to_bytes()),
            Self::Sha256(key) => sha256(&format!("{text}&{}", sha256(key))),
            Self::Sm3(key) => sm3(&format!("{text}&{}", sm3(key))),
        }
    }

    /// Returns whether UnionPay's signature of the text is valid with the certificate in the message.
    pub(super) fn believe(&self, text: &str, signature: &str, certificate: Option<&str>, account: &Path) -> bool {
        if matches!(self, Self::Sha256(_) | Self::Sm3(_)) {
            return certificate.is_none() && signature == self.sign(text);
        }
        let read = |name: &str| std::fs::read(account.join(name)).unwrap();
        let (root, middle) = (read("acp_root.pem"), read("acp_middle.pem"));
        let (root, middle) = (parse_x509_pem(&root).unwrap().1, parse_x509_pem(&middle).unwrap().1);
        let (root, middle) = (root.parse_x509().unwrap(), middle.parse_x509().unwrap());
        let shown = parse_x509_pem(certificate.unwrap().as_bytes()).unwrap().1;
        let shown = shown.parse_x509().unwrap();
        for (certificate, issuer) in [(&shown, &middle), (&middle, &root)] {
            assert_eq!(certificate.issuer(), issuer.subject());
            assert!(self.is_issued(certificate, issuer));
        }
        let name = shown.subject().iter_common_name().next().unwrap().as_str().unwrap();
        assert_eq!(name.split('@').nth(2), Some("00040000:SIGN"));
        let signature = STANDARD.decode(signature).unwrap();
        match self {
            Self::Sm2(_) => by_sm2(&shown, &shown.serial.to_string(), sm3(text).as_bytes(), &signature),
            _ => by_rsa(&shown, sha256(text).as_bytes(), &signature),
        }
    }

    fn is_issued(&self, certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
        let signed = certificate.tbs_certificate.as_ref();
        let signature = &certificate.signature_value.data;
        if !matches!(self, Self::Sm2(_)) {
            return by_rsa(issuer, signed, signature);
        }
        let numbers = Vec::<Uint>::from_der(signature).unwrap();
        let padded = |number: &Uint| [vec![0; 32 - number.as_bytes().len()], number.as_bytes().to_vec()].concat();
        let plain: Vec<u8> = numbers.iter().flat_map(padded).collect();
        by_sm2(issuer, "1234567812345678", signed, &plain)
    }
}

fn private(account: &Path) -> PrivatePkcs8KeyDer<'static> {
    PrivatePkcs8KeyDer::from_pem_file(account.join("acp_sign_key.pem")).unwrap()
}

fn by_rsa(signer: &X509Certificate<'_>, text: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, signer.public_key().raw).verify(text, signature).is_ok()
}

fn by_sm2(signer: &X509Certificate<'_>, user_id: &str, text: &[u8], signature: &[u8]) -> bool {
    let key = VerifyingKey::from_sec1_bytes(user_id, &signer.public_key().subject_public_key.data).unwrap();
    key.verify(text, &Signature::from_slice(signature).unwrap()).is_ok()
}

fn sha256(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}

fn sm3(text: &str) -> String {
    use sm3::Digest;
    hex::encode(sm3::Sm3::digest(text))
}
