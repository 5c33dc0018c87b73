//! Decryption of PKCS#12 files (.pfx, .p12) and encrypted PKCS#8.

use p12_keystore::Pkcs12Archive;
use pkcs5::EncryptionScheme;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::{FileError, Password};

/// Content of a PKCS#12 file as DER.
pub(super) struct Pkcs12Content {
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) keys: Vec<Zeroizing<Vec<u8>>>,
}

/// Decrypts a PKCS#12 file.
pub(super) fn open(der: &[u8], password: Password<'_>) -> Result<Pkcs12Content, FileError> {
    let text = match password {
        Password::Given(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| FileError::bare("the password of this PFX file is no UTF-8 text"))?
        }
        // Some files have an empty password.
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
    Ok(Pkcs12Content {
        certificates: archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect(),
        keys: archive.keys.iter().map(|bag| Zeroizing::new(bag.key.as_der().to_vec())).collect(),
    })
}

/// Decrypts a private key in PKCS#8.
pub(super) fn decrypt(der: &[u8], password: Password<'_>) -> Result<Zeroizing<Vec<u8>>, FileError> {
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
    let unsupported = || {
        let advice = "encrypt it again: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW`, or decrypt it: `openssl pkey -in KEY -out PLAIN`";
        FileError::new("the private key in this file is encrypted with an unsupported algorithm", advice)
    };
    let scheme = EncryptionScheme::try_from(algorithm).map_err(|_| unsupported())?;
    match scheme.decrypt(password, sealed.data) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(pkcs5::Error::DecryptFailed) => {
            let advice = "try `openssl pkey -in KEY -noout` with the same password";
            Err(FileError::new(
                "the private key in this file cannot be decrypted: its password is another, or it is damaged",
                advice,
            ))
        }
        Err(_) => Err(unsupported()),
    }
}

/// Returns the error for OpenSSL's encryption before PKCS#8. It is unsupported, because its key derivation (one round of MD5) is
/// broken.
pub(super) fn old_encryption() -> FileError {
    let advice = "decrypt it: `openssl pkey -in KEY -out PLAIN`, or encrypt it again: `openssl pkcs8 -topk8 -in KEY -out NEW`, and set `password`";
    FileError::new(
        "the private key in this file is encrypted with a passphrase in OpenSSL's old format (`Proc-Type`)",
        advice,
    )
}
