//! What a password opens: PKCS#12 files (.pfx, .p12) and encrypted PKCS#8.

use p12_keystore::Pkcs12Archive;
use pkcs5::EncryptionScheme;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::{FileError, Password};

/// Contents of a PKCS#12 file as DER.
pub(super) struct Opened {
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) keys: Vec<Zeroizing<Vec<u8>>>,
}

/// Opens a PKCS#12 file.
pub(super) fn opened(der: &[u8], password: Password<'_>) -> Result<Opened, FileError> {
    let text = match password {
        Password::Given(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| FileError::bare("the password of this PFX file is no UTF-8 text"))?
        }
        // Some have none.
        Password::Missing | Password::NoPlace => "",
    };
    let archive = Pkcs12Archive::from_pkcs12(der, text).map_err(|_| match password {
        Password::Given(_) => FileError::new(
            "this PFX file cannot be opened: its password is another, or it is damaged",
            "try `openssl pkcs12 -in FILE -noout` with the same password (before OpenSSL 3, or with `-legacy`)",
        ),
        Password::Missing => FileError::new(
            "this is a PFX file (PKCS#12), and its password is missing",
            "add password = \"env:…\" beside it; WeChat Pay's is the merchant number",
        ),
        Password::NoPlace => FileError::new(
            "this is a PFX file (PKCS#12), where a certificate belongs",
            "take the certificates out: `openssl pkcs12 -in FILE -nokeys -out CERT.pem`",
        ),
    })?;
    Ok(Opened {
        certificates: archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect(),
        keys: archive.keys.iter().map(|bag| Zeroizing::new(bag.key.as_der().to_vec())).collect(),
    })
}

/// Decrypts a private key in PKCS#8.
pub(super) fn decrypted(der: &[u8], password: Password<'_>) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let plain = "decrypt it: `openssl pkey -in KEY -out PLAIN`";
    let password = match password {
        Password::Given(password) => password,
        Password::Missing => {
            let advice = format!("add password = \"env:…\" beside it, or {plain}");
            return Err(FileError::new(
                "the private key in this file is encrypted, and its password is missing",
                advice,
            ));
        }
        Password::NoPlace => {
            return Err(FileError::new("the private key in this file is encrypted with a passphrase", plain));
        }
    };
    let damaged = || FileError::bare("the encrypted private key in this file is damaged");
    let (_, outer) = Any::from_der(der).map_err(|_| damaged())?;
    let (rest, _) = Any::from_der(outer.data).map_err(|_| damaged())?;
    let algorithm = outer.data.get(..outer.data.len().saturating_sub(rest.len())).unwrap_or_default();
    let (_, sealed) = Any::from_der(rest).map_err(|_| damaged())?;
    let old = || {
        let advice = "encrypt it anew: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW`, or decrypt it: `openssl pkey -in KEY -out PLAIN`";
        FileError::new("the private key in this file is encrypted in a way that is not read", advice)
    };
    let scheme = EncryptionScheme::try_from(algorithm).map_err(|_| old())?;
    match scheme.decrypt(password, sealed.data) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(pkcs5::Error::DecryptFailed) => {
            let advice = "try `openssl pkey -in KEY -noout` with the same password";
            Err(FileError::new(
                "the private key in this file cannot be decrypted: its password is another, or it is damaged",
                advice,
            ))
        }
        Err(_) => Err(old()),
    }
}

/// What OpenSSL wrote before PKCS#8: its key derivation is broken (one round of MD5), so it is not read.
pub(super) fn old_encryption() -> FileError {
    let advice = "decrypt it: `openssl pkey -in KEY -out PLAIN`, or encrypt it anew: `openssl pkcs8 -topk8 -in KEY -out NEW`, and give `password`";
    FileError::new(
        "the private key in this file is encrypted with a passphrase in OpenSSL's old form (`Proc-Type`)",
        advice,
    )
}
