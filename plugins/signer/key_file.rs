//! Reader of key and certificate files, in every encoding that payment companies, tools and editors produce.
//!
//! ```text
//! file ─ text ─▶ blocks (PEM, DER, base64) ─ kind ─▶ kind of each ─ pkcs12 ─▶ decrypted ─▶ KeyFile
//! ```
//!
//! A byte order mark, UTF-16, CRLF, one long line and text around the blocks are accepted. The content of a block decides its
//! kind, because PEM labels are often wrong. The error for an unusable file names what it is and how to correct it. Errors
//! never repeat the content of a file.

mod kind;
mod pkcs12;
mod text;

#[cfg(test)]
mod tests;

use std::fmt;

use zeroize::Zeroizing;

use self::kind::Kind;
use super::KeyError;
use super::certificate::Certificate;
pub use super::keys::{KeyAlgorithm, PrivateKey, PublicKey};
pub use super::pem::write_pem;
use crate::secret::Secret;

/// Password of a file.
#[derive(Clone, Copy)]
pub enum Password<'a> {
    /// Password from the configuration.
    Given(&'a [u8]),
    /// The configuration could set `password`, but does not.
    Missing,
    /// The configuration has no `password` key for this file.
    Unsupported,
}

/// Reason why a file cannot be used, with a suggestion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Description of the problem.
    pub message: String,
    /// Advice on how to correct the file.
    pub suggestion: Option<String>,
}

impl FileError {
    fn new(message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: Some(suggestion.into()) }
    }

    fn bare(message: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: None }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.suggestion {
            Some(suggestion) => write!(f, "{} ({suggestion})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl From<FileError> for KeyError {
    fn from(error: FileError) -> Self {
        Self(error.to_string())
    }
}

/// Content of one key or certificate file.
#[derive(Default)]
pub struct KeyFile {
    private_keys: Vec<PrivateKey>,
    public_keys: Vec<PublicKey>,
    /// Certificates in the order of the file.
    certificates: Vec<Certificate>,
    /// Certificates, leaf first.
    chain: Vec<Certificate>,
    revocation_lists: Vec<Vec<u8>>,
    /// Reason why a private key in the file could not be read.
    unreadable_key: Option<FileError>,
    /// Descriptions of other content.
    others: Vec<&'static str>,
    is_encrypted: bool,
}

impl KeyFile {
    /// Reads a file. Any damaged block is an error that names the block.
    pub fn read(file: &[u8], password: Password<'_>) -> Result<Self, FileError> {
        let mut read = Self::default();
        for block in text::blocks(file)? {
            match kind::of(&block.der) {
                _ if block.is_old_encryption => {
                    read.is_encrypted = true;
                    read.unreadable_key = Some(pkcs12::old_encryption());
                }
                _ if block.label.as_deref() == Some("OPENSSH PRIVATE KEY") => {
                    read.others.push("an SSH private key");
                    let advice = "convert it: `ssh-keygen -p -m PKCS8 -f KEY`";
                    read.unreadable_key = Some(FileError::new("this is a private key in the form of OpenSSH", advice));
                }
                // Parameters of a Diffie-Hellman key exchange or of a curve are no keys.
                _ if block.label.as_deref().is_some_and(|label| label.ends_with(" PARAMETERS")) => {}
                Kind::Certificate => read.add_certificate(&block.der, &block)?,
                Kind::PublicKey => {
                    let key = PublicKey::read(&block.der).ok_or_else(|| block.damaged())?;
                    if !read.public_keys.contains(&key) {
                        read.public_keys.push(key);
                    }
                }
                Kind::PrivateKey => read.add_private_key(block.der.clone(), &block)?,
                Kind::EncryptedKey => {
                    read.is_encrypted = true;
                    match pkcs12::decrypt(&block.der, password) {
                        Ok(der) => read.add_private_key(der, &block)?,
                        Err(error) => read.unreadable_key = Some(error),
                    }
                }
                Kind::Pfx => {
                    read.is_encrypted = true;
                    let content = pkcs12::open(&block.der, password)?;
                    content.certificates.iter().try_for_each(|der| read.add_certificate(der, &block))?;
                    content.keys.into_iter().try_for_each(|key| read.add_private_key(key, &block))?;
                }
                Kind::RevocationList => read.revocation_lists.push(block.der.to_vec()),
                Kind::Request => read.others.push("a certificate signing request (CSR)"),
                Kind::Pkcs7 => {
                    let advice = "take the certificates out: `openssl pkcs7 -in FILE -print_certs -out CERT.pem`, with `-inform DER` \
                                  if the file is no text";
                    return Err(FileError::new("this is a PKCS#7 file (.p7b)", advice));
                }
                Kind::Parameters => {}
                Kind::Unknown => return Err(block.damaged()),
            }
        }
        read.chain = read.leaf_first();
        Ok(read)
    }

    fn add_certificate(&mut self, der: &[u8], block: &text::Block) -> Result<(), FileError> {
        let certificate = Certificate::read(der).ok_or_else(|| block.damaged())?;
        if !self.certificates.iter().any(|known| known.der == certificate.der) {
            self.certificates.push(certificate);
        }
        Ok(())
    }

    fn add_private_key(&mut self, der: Zeroizing<Vec<u8>>, block: &text::Block) -> Result<(), FileError> {
        let key = PrivateKey::read(der).ok_or_else(|| block.damaged())?;
        if !self.private_keys.iter().any(|known| known.is_same(&key)) {
            self.private_keys.push(key);
        }
        Ok(())
    }

    /// Returns whether the file has encrypted content.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Returns the private key. It is an error if there is none or more than one.
    pub fn private_key(&self) -> Result<&PrivateKey, FileError> {
        match (self.private_keys.as_slice(), &self.unreadable_key) {
            ([key], _) => Ok(key),
            ([], Some(closed)) => Err(closed.clone()),
            ([], None) => {
                let advice = match () {
                    () if !self.certificates.is_empty() => {
                        "name the file that contains `BEGIN PRIVATE KEY` or `BEGIN RSA PRIVATE KEY`"
                    }
                    () if !self.public_keys.is_empty() => "name the file with the private key of the pair",
                    () => "use PKCS#8, PKCS#1, SEC1 or PKCS#12 (with `password`), as PEM, DER or base64",
                };
                Err(FileError::new(format!("this file has no private key in it: {}", self.content()), advice))
            }
            (several, _) => {
                let message = format!("this file holds {} private keys, and exactly one is needed", several.len());
                Err(FileError::new(message, "remove the others"))
            }
        }
    }

    /// Returns the certificates, leaf first. It is an error if there is none.
    pub fn certificates(&self) -> Result<&[Certificate], FileError> {
        self.authorities().map(|_| self.chain.as_slice())
    }

    /// Returns the certificates in the order of the file, which matters for some providers' roots. It is an error if there is
    /// none.
    pub fn authorities(&self) -> Result<&[Certificate], FileError> {
        if !self.certificates.is_empty() {
            return Ok(&self.certificates);
        }
        let advice = match () {
            () if self.others.iter().any(|other| other.contains("CSR")) => {
                "name the certificate that the authority issued for the request"
            }
            () => "the right file contains `BEGIN CERTIFICATE`; use PEM, DER or base64",
        };
        Err(FileError::new(format!("this file has no certificate in it: {}", self.content()), advice))
    }

    /// Returns the certificates, leaf first; empty if there are none.
    pub fn all_certificates(&self) -> &[Certificate] {
        &self.chain
    }

    /// Returns the public key of the leaf certificate, or the only bare public key. A file with a private key is an error.
    pub fn public_key(&self) -> Result<&PublicKey, FileError> {
        if !self.private_keys.is_empty() || self.unreadable_key.is_some() {
            let advice = "name the file with the public key or the certificate";
            return Err(FileError::new("this is a private key, and only its owner may have it", advice));
        }
        if let Some(leaf) = self.chain.first() {
            return leaf
                .public_key
                .as_ref()
                .ok_or_else(|| FileError::bare("the key in this certificate is of an unknown algorithm"));
        }
        match self.public_keys.as_slice() {
            [key] => Ok(key),
            [] => {
                let message = format!("this file has no public key or certificate in it: {}", self.content());
                let advice =
                    "the right file contains `BEGIN PUBLIC KEY` or `BEGIN CERTIFICATE`; use PEM, DER or base64";
                Err(FileError::new(message, advice))
            }
            several => {
                let message = format!("this file holds {} public keys, and exactly one is needed", several.len());
                Err(FileError::new(message, "put each into a file of its own"))
            }
        }
    }

    /// Returns the revocation lists as DER. It is an error if there is none.
    pub fn revocation_lists(&self) -> Result<&[Vec<u8>], FileError> {
        if self.revocation_lists.is_empty() {
            let message = format!("this file has no revocation list in it: {}", self.content());
            return Err(FileError::new(message, "the right file contains `BEGIN X509 CRL`"));
        }
        Ok(&self.revocation_lists)
    }

    /// Encodes chain and keys as plain unencrypted PEM.
    pub fn to_pem(&self) -> Secret {
        let mut text = Zeroizing::new(String::new());
        for certificate in &self.chain {
            text.push_str(&write_pem("CERTIFICATE", &certificate.der));
        }
        for key in &self.public_keys {
            text.push_str(&write_pem("PUBLIC KEY", &key.to_spki()));
        }
        for key in &self.private_keys {
            text.push_str(&key.to_pem());
        }
        Secret::new(text.as_bytes())
    }

    /// Returns the certificates with the leaf first and the others in file order. The leaf is the certificate of the private key,
    /// or else a certificate that issued no other.
    fn leaf_first(&self) -> Vec<Certificate> {
        let key = match self.private_keys.as_slice() {
            [key] => key.public_key(),
            _ => None,
        };
        let all = &self.certificates;
        let has_key = |one: &Certificate| key.is_some() && one.public_key == key;
        let is_leaf = |one: &Certificate| !one.is_self_issued() && !all.iter().any(|other| other.names_as_issuer(one));
        let leaf = all.iter().position(has_key).or_else(|| all.iter().position(is_leaf));
        let mut chain = all.clone();
        if let Some(leaf) = leaf {
            let leaf = chain.remove(leaf);
            chain.insert(0, leaf);
        }
        chain
    }

    /// Describes the content, for example "this is a certificate".
    fn content(&self) -> String {
        let known = [
            (!self.private_keys.is_empty(), "a private key"),
            (!self.certificates.is_empty(), "a certificate"),
            (!self.public_keys.is_empty(), "a public key"),
            (!self.revocation_lists.is_empty(), "a revocation list"),
            (self.unreadable_key.is_some() && self.others.is_empty(), "an encrypted private key"),
        ];
        let known = known.into_iter().filter_map(|(is_there, what)| is_there.then_some(what));
        let mut all: Vec<&str> = known.chain(self.others.iter().copied()).collect();
        all.dedup();
        match all.as_slice() {
            [] => "it contains only parameters".to_owned(),
            all => format!("this is {}", all.join(" and ")),
        }
    }
}
