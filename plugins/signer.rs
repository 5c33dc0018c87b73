//! Signature algorithms: a signer signs with a private key, a verifier verifies with a public key.

pub mod certificate;
pub mod key_file;
mod keys;
mod pem;
pub mod rsa;
pub mod sm2;

use std::fmt;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::{Simd, general_purpose};

use crate::error::Error;

/// Signs with one private key.
pub trait Signer: Send + Sync {
    /// Returns the provider's id of the key, for example a certificate's serial number.
    fn key_id(&self) -> &str;
    /// Signs a message.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
    /// Returns whether a signature takes so long (RSA of more than 2048 bits) that it must not block a thread that serves
    /// requests.
    fn is_slow(&self) -> bool;
}

/// Decodes a signature from base64, with SIMD: scalar decoding costs about 2 % of an RSA verification.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    static ENGINE: LazyLock<Simd> = LazyLock::new(|| Simd::standard(general_purpose::PAD));
    ENGINE.decode(text).ok()
}

/// Verifies signatures with one public key.
pub trait Verifier: Send + Sync {
    /// Returns whether the signature is valid for this message and key.
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool;
}

/// Returns the signer of an account without a private key. Every signature fails.
pub fn none() -> Arc<dyn Signer> {
    struct NoSigner;
    impl Signer for NoSigner {
        fn key_id(&self) -> &str {
            ""
        }
        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
            Err(Error::NotSent("this channel has no private key; name one in `[keys]`, `sign`".to_owned()))
        }
        fn is_slow(&self) -> bool {
            false
        }
    }
    Arc::new(NoSigner)
}

/// Reason why a key could not be read. The message never contains key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// Registration of an algorithm in [`ALGORITHMS`](crate::registry::ALGORITHMS).
pub struct Algorithm {
    /// Name in a channel's `[keys]`.
    pub name: &'static str,
    /// Reader of a private key file.
    pub signer: ReadSigner,
    /// Reader of a public key or certificate file.
    pub verifier: ReadVerifier,
}

/// Creates a signer from a key's id and the content of its file.
pub type ReadSigner = fn(&str, &[u8]) -> Result<Arc<dyn Signer>, KeyError>;

/// Creates a verifier from the content of a file.
pub type ReadVerifier = fn(&[u8]) -> Result<Arc<dyn Verifier>, KeyError>;

/// Public keys of a provider.
#[derive(Clone, Default)]
pub struct Keyring(Vec<Key>);

/// Public key of a provider.
#[derive(Clone)]
pub struct Key {
    /// Id of the key in the provider's responses.
    pub id: String,
    /// Verifier with this key.
    pub verifier: Arc<dyn Verifier>,
    /// Unix time in seconds after which the key is rejected; `None` if it never expires.
    pub not_after: Option<u64>,
}

impl Key {
    /// Returns whether the key is valid at `now` (Unix seconds).
    pub fn is_valid(&self, now: u64) -> bool {
        self.not_after.is_none_or(|end| now <= end)
    }
}

impl Keyring {
    /// Creates a keyring.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// Returns the keys in the order of the constructor's argument.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// Returns whether a key is valid at `now` (Unix seconds).
    pub fn has_valid(&self, now: u64) -> bool {
        self.0.iter().any(|key| key.is_valid(now))
    }

    /// Returns whether the keyring has no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}
