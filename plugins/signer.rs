//! Algorithms with a key in them: a signer makes signatures, a verifier checks them.

pub mod certificate;
pub mod key_file;
pub mod rsa;
pub mod sm2;

use std::fmt;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::{Simd, general_purpose};

use crate::error::Error;

/// Makes signatures with one private key.
pub trait Signer: Send + Sync {
    /// The name under which the other side knows the key (as a certificate's serial number).
    fn key_id(&self) -> &str;
    /// Signs the message's bytes.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
    /// Whether one signature takes long enough (RSA of 4096 bits) to be moved off the thread that serves requests.
    fn is_slow(&self) -> bool;
}

/// Reads a signature in base64. (With the processor's wide instructions: read byte by byte, it costs two hundredths of an RSA
/// signature's check.)
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    static ENGINE: LazyLock<Simd> = LazyLock::new(|| Simd::standard(general_purpose::PAD));
    ENGINE.decode(text).ok()
}

/// Checks signatures with one public key.
pub trait Verifier: Send + Sync {
    /// Whether this signature was made over exactly this message by the key's owner.
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool;
}

/// The signer of accounts without a private key; it refuses.
pub fn none() -> Arc<dyn Signer> {
    struct Nobody;
    impl Signer for Nobody {
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
    Arc::new(Nobody)
}

/// Why a key could not be read; says what was expected, never what the key holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// One row of [`ALGORITHMS`].
pub struct Algorithm {
    /// Its name in a channel's `[keys]`.
    pub name: &'static str,
    /// Reads a private key file in any usual format; the first argument is the key's id.
    pub signer: ReadSigner,
    /// Reads a public key or certificate file in any usual format.
    pub verifier: ReadVerifier,
}

/// Makes a signer of a key's id and its file.
pub type ReadSigner = fn(&str, &[u8]) -> Result<Arc<dyn Signer>, KeyError>;

/// Makes a verifier of a file.
pub type ReadVerifier = fn(&[u8]) -> Result<Arc<dyn Verifier>, KeyError>;

/// Every algorithm that a channel may name.
pub const ALGORITHMS: &[Algorithm] = &[
    Algorithm { name: "rsa-sha256", signer: rsa::signer, verifier: rsa::verifier },
    Algorithm { name: "sm2-sm3", signer: sm2::signer, verifier: sm2::verifier },
    Algorithm { name: "rsa-sha1", signer: rsa::sha1::signer, verifier: rsa::sha1::verifier },
];

/// Public keys by the name that the provider calls them.
#[derive(Clone, Default)]
pub struct Keyring(Vec<Key>);

/// One public key of a provider.
#[derive(Clone)]
pub struct Key {
    /// As the provider names it in its answers.
    pub id: String,
    /// The key.
    pub verifier: Arc<dyn Verifier>,
    /// Unix seconds after which it is believed no more.
    pub not_after: Option<u64>,
}

impl Key {
    /// Whether it is believed at this time, in unix seconds.
    pub fn is_valid(&self, now: u64) -> bool {
        self.not_after.is_none_or(|end| now <= end)
    }
}

impl Keyring {
    /// Makes a keyring.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// The keys, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// Whether a key is believed at this time, in unix seconds.
    pub fn has_valid(&self, now: u64) -> bool {
        self.0.iter().any(|key| key.is_valid(now))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}
