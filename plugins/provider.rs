//! Trait that a payment company's protocol implements, and the types of its registration.
//!
//! ```text
//! Operation ─ encode ─▶ request ─ sign ─▶ (sent)        (received) ─ verify ─▶ Verified ─ decode ─▶ Outcome
//! ```

pub mod alipay;
mod answer_codes;
pub mod bill;
mod china_time;
mod form;
#[cfg(test)]
mod golden;
pub mod inspect;
mod link;
mod merchant_account;
pub mod sandbox;
mod text;
pub mod unionpay;
mod v3_scheme;
mod wechat_files;
pub mod wechat_v2;
pub mod wechat_v3;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use std::ops::Range;
use std::time::Duration;

use self::bill::Bills;
use self::inspect::Inspection;
use crate::error::{Error, ProviderError};
use crate::payment::{Event, Operation, Outcome};
use crate::secret::Secret;
use crate::settings::Settings;
use crate::signer::{Key, Keyring, Signer};

/// Protocol of a payment company, configured with one account.
///
/// It encodes an [`Operation`] to bytes and decodes bytes to an [`Outcome`]. Implementations are pure: time, nonce and keys are
/// arguments.
pub trait Provider: Send + Sync {
    /// Encodes the operation as an HTTP request: method, path with query, headers, body. The caller adds the host.
    /// An operation that needs no request (a signed link for the payer's browser) returns its outcome.
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error>;

    /// Signs the request as it will be sent.
    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error>;

    /// Verifies the signature of a response or notification over its raw body. `now` is in Unix seconds.
    fn verify(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature>;

    /// Decodes a verified response. It may also sign the parameters for the payer's device.
    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error>;

    /// Decodes an error response without a signature. Such a response never proves success.
    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error;

    /// Decrypts and decodes a verified notification. A notification for another account is an error.
    fn decode_notification(&self, notification: Verified) -> Result<Event, Error>;

    /// Describes a verified notification, for the log line of an unusable one.
    fn describe(&self, notification: &Verified) -> Described;

    /// Returns the response to a notification. A provider repeats a notification that was not accepted.
    fn acknowledge(&self, accepted: bool) -> Response<Bytes>;

    /// Returns the account's id at the provider. A payment can only be queried with the account that created it.
    fn account(&self) -> &str;

    /// Returns the default lifetime of an order without `expires_at`; `None` if the provider decides. After that time, the
    /// provider's answer that an order was never begun is final.
    fn default_expiry(&self) -> Option<Duration> {
        None
    }

    /// Returns whether a key can verify a response at `now` (Unix seconds).
    fn can_verify(&self, keys: &Keyring, now: u64) -> bool;

    /// Returns how to fetch the provider's public keys; `None` if they are only configured.
    fn published_keys(&self) -> Option<&dyn PublishedKeys> {
        None
    }

    /// Returns how to download the provider's bills; `None` if it provides none.
    fn bills(&self) -> Option<&dyn Bills> {
        None
    }
}

/// Endpoint at which a provider publishes its public keys.
pub trait PublishedKeys: Send + Sync {
    /// Returns the unsigned request for the keys. `key_id` is the id of an unknown key that signed a message.
    ///
    /// Returns `None` if the provider requires a key id and `key_id` is `None`. Such a provider names its signing key in each
    /// response, so a request for a known key reveals the current key.
    fn request(&self, key_id: Option<&str>) -> Option<Request<Bytes>>;

    /// Verifies and decodes the response. `keys` are the known keys; `now` is in Unix seconds.
    fn read(&self, answer: &Response<Bytes>, keys: &Keyring, now: u64) -> Result<Vec<Key>, NoKeys>;

    /// Identifies the configured root certificates that authenticate fetched keys. Keys under other roots are discarded.
    fn trust_anchor(&self) -> &str;
}

/// Reason why published keys could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoKeys {
    /// Cause. Equal causes have equal texts.
    pub why: String,
    /// Provider's code and message, if its response had them.
    pub provider_error: Option<ProviderError>,
    /// Action for the operator.
    pub advice: &'static str,
}

/// Summary of a verified notification, for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Provider's name of the event, for example `TRANSACTION.SUCCESS`.
    pub event: Option<String>,
    /// Order number, as sent to the provider.
    pub order_number: Option<String>,
}

/// Encoded operation.
#[derive(Debug)]
pub enum Encoded {
    /// Request to sign and send.
    Send(Request<Bytes>),
    /// Outcome of an operation that needs no request.
    Answer(Outcome),
}

/// Input of a signature.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// Private key of the account.
    pub signer: &'a dyn Signer,
    /// Keys that will verify the response. Some providers require the id of one in the request.
    pub keys: &'a Keyring,
    /// Time and nonce.
    pub stamp: &'a Stamp,
}

/// Origin of received bytes. Some providers sign responses and notifications differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Response to a request of the gateway.
    Answer,
    /// Notification sent by the provider.
    Notification,
}

/// Time and nonce of one signature.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Unix time in seconds.
    pub unix_time: u64,
    /// Nonce: 32 letters and digits, never reused.
    pub nonce: String,
}

/// Bytes whose signature was verified. Only a provider's `verify` creates this proof.
#[derive(Debug)]
pub struct Verified {
    bytes: Bytes,
    members: Vec<Member>,
    key_id: String,
}

/// Byte ranges of a name and its value within [`Verified`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

impl Verified {
    /// Asserts that the signature by the key `key_id` was verified. Only a provider's `verify` may call this.
    pub(crate) fn assertion(bytes: Bytes, key_id: impl Into<String>) -> Self {
        Self::assertion_with_members(bytes, Vec::new(), key_id)
    }

    /// Like [`assertion`](Self::assertion), with the members that the verification parsed, so that they are not parsed again.
    pub(crate) fn assertion_with_members(bytes: Bytes, members: Vec<Member>, key_id: impl Into<String>) -> Self {
        Self { bytes, members, key_id: key_id.into() }
    }

    /// Returns the signed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the members that the verification parsed; empty if it used the raw bytes.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the id of the key that signed the bytes.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

/// Reason why a signature was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// There is no signature.
    #[error("it carries no signature")]
    Missing,
    /// The timestamp is outside the provider's window.
    #[error("its timestamp is more than five minutes off")]
    Stale,
    /// No key has this id. A refresh of the keys may add it.
    #[error("it is signed with the unknown key `{0}`")]
    UnknownKey(String),
    /// The provider's self-test of whether signatures are verified.
    #[error("it is the provider's probe, signed wrongly on purpose")]
    Probe,
    /// The signature does not match these bytes and this key.
    #[error("the signature is wrong ({0})")]
    Wrong(&'static str),
}

/// Registration of a provider in [`PROVIDERS`](crate::registry::PROVIDERS).
pub struct ProviderSpec {
    /// Name in a channel's `provider`.
    pub name: &'static str,
    /// Payment methods that the provider serves.
    pub methods: &'static [&'static str],
    /// Methods among `methods` in which a cashier scans the payer's code. The create request of such a method moves
    /// money.
    pub scanned: &'static [&'static str],
    /// Secrets in `[keys]` beside `sign` and `verify`.
    pub secrets: &'static [SecretField],
    /// Algorithms that `[keys]` may name.
    pub algorithms: &'static [&'static str],
    /// Need for a private key in `[keys] sign`.
    pub sign: Need,
    /// Need for the provider's public keys in `[keys] verify`.
    pub verify: Need,
    /// Derives the provider's id of a key from the key's file; `None` if only the `id` in `[keys]` is known.
    pub key_id: fn(&[u8]) -> Option<String>,
    /// Time after a request during which the provider's "not found" is not final: it may still be processing the request.
    pub not_found_grace: Duration,
    /// Interval of status queries while a caller waits.
    pub poll_interval: PollInterval,
    /// Methods whose identical create request returns the same unpaid order, according to the provider's documentation. Scanned
    /// methods must not be listed.
    pub repeats_create: &'static [&'static str],
    /// Time for which the provider keeps an order without `expires_at` open; `None` if [`Provider::default_expiry`] sets the
    /// expiry or the time is unknown.
    pub unpaid_lifetime: Option<Duration>,
    /// Operations that need a client certificate in `[mtls]`, if only some do.
    pub without_mtls: Option<&'static str>,
    /// Consistency checks of the channel's files and ids.
    pub inspection: &'static Inspection,
    /// Constructor of the provider.
    pub build: BuildProvider,
}

impl ProviderSpec {
    /// Creates a registration with the required fields. The others say that the provider has none of what they describe: no
    /// scanned methods, secrets, keys, algorithms, documented repetitions or lifetimes, and no checks.
    pub const fn new(
        name: &'static str,
        methods: &'static [&'static str],
        not_found_grace: Duration,
        poll_interval: PollInterval,
        build: BuildProvider,
    ) -> Self {
        Self {
            name,
            methods,
            scanned: &[],
            secrets: &[],
            algorithms: &[],
            sign: Need::Nothing,
            verify: Need::Nothing,
            key_id: |_| None,
            not_found_grace,
            poll_interval,
            repeats_create: &[],
            unpaid_lifetime: None,
            without_mtls: None,
            inspection: &Inspection::NONE,
            build,
        }
    }
}

/// Builds a provider from `[account]`. Reports every error to the settings and returns `None` if there is one.
pub type BuildProvider = fn(&mut Settings<'_>, &BuildContext<'_>) -> Option<Box<dyn Provider>>;

/// Interval between status queries for one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollInterval {
    /// Constant interval.
    Steady(Duration),
    /// Starts at 1 s and doubles each time, because the provider rejects more frequent queries.
    Doubling,
}

/// Need for a configuration value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The value is required. The text says what it is and where to find it.
    Required(&'static str),
    /// The value is optional.
    Optional,
    /// The provider does not use the value.
    Nothing,
}

/// Content of `[keys]`, for building a provider.
#[derive(Clone, Copy)]
pub struct BuildContext<'a> {
    /// Values of [`ProviderSpec::secrets`], each accepted by its [`SecretField::check`].
    pub secrets: &'a Secrets,
    /// Algorithm of the private key, if there is one.
    pub algorithm: Option<&'static str>,
}

/// Secret in `[keys]` that a provider uses.
pub struct SecretField {
    /// Key in `[keys]`.
    pub name: &'static str,
    /// Need for the secret.
    pub need: Need,
    /// Validates a value. The error message does not repeat the value.
    pub check: fn(&[u8]) -> Result<(), String>,
}

/// Secrets of one channel, by name.
pub type Secrets = std::collections::BTreeMap<&'static str, Secret>;
