//! How a payment company's dialect plugs in: one trait, one table.

pub mod alipay;
pub mod bill;
mod china_time;
mod form;
#[cfg(test)]
mod golden;
pub mod inspect;
mod link;
pub mod sandbox;
mod text;
pub mod unionpay;
mod wechat_account;
mod wechat_errors;
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

/// A dialect with one account in it. It turns an [`Operation`] into bytes and bytes into an [`Outcome`]; time, nonce and
/// keys are arguments, so that each answer depends on nothing else.
pub trait Provider: Send + Sync {
    /// Puts the operation into the provider's words: method, path with query, headers, body. The host is added later.
    /// What needs no exchange (a signed link for the payer's browser) is answered at once.
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error>;

    /// Signs the request, exactly as it will go out.
    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error>;

    /// Checks the signature of what came over its raw body; `now` is unix seconds.
    fn verify(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature>;

    /// Reads a verified answer. It may sign too: what the payer's device needs.
    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error>;

    /// Reads an error answer that carries no signature: it can say no or "later", never yes.
    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error;

    /// Decrypts and reads a verified notification; refuses one that is for another account.
    fn decode_notification(&self, notification: Verified) -> Result<Event, Error>;

    /// Says what a verified notification is about, for the log line of one that cannot be used.
    fn describe(&self, notification: &Verified) -> Described;

    /// What the provider wants to hear to its notification: taken, or not (then it sends it again).
    fn acknowledge(&self, accepted: bool) -> Response<Bytes>;

    /// The account's number at the provider. A payment that was made with one account can be asked about with no other.
    fn account(&self) -> &str;

    /// How long an order can be paid for which no end was asked; `None` when the provider settles that by itself. Beyond
    /// it the provider's word that an order was never begun is its last one.
    fn default_expiry(&self) -> Option<Duration>;

    /// Whether a key is there that could verify an answer now; `now` is unix seconds.
    fn can_verify(&self, keys: &Keyring, now: u64) -> bool;

    /// Where the provider publishes its keys; `None` when they are only ever configured.
    fn published_keys(&self) -> Option<&dyn PublishedKeys>;

    /// How its bills are had; `None` when it hands out none.
    fn bills(&self) -> Option<&dyn Bills>;
}

/// A provider that publishes its public keys itself.
pub trait PublishedKeys: Send + Sync {
    /// The request that asks for them, not yet signed. `key_id` is the id of an unknown key that a message was signed with.
    /// `None` where the provider must be told which key is wanted, and none is named. Such a provider names the key with which it
    /// signs in each answer, so a request for a known key tells which key is in use.
    fn request(&self, key_id: Option<&str>) -> Option<Request<Bytes>>;

    /// Checks and reads the answer; `keys` are those that are known already, `now` is unix seconds.
    fn read(&self, answer: &Response<Bytes>, keys: &Keyring, now: u64) -> Result<Vec<Key>, NoKeys>;

    /// Identity of the configured roots that vouch for fetched keys. Keys that other roots vouched for are not kept.
    fn trust_anchor(&self) -> &str;
}

/// Why published keys could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoKeys {
    /// What happened; the same words for the same cause.
    pub why: String,
    /// The provider's own code and message, where it answered with them.
    pub word: Option<ProviderError>,
    /// What an operator does about it.
    pub advice: &'static str,
}

/// What a verified notification says of itself, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The provider's name of the event, as in `TRANSACTION.SUCCESS`.
    pub event: Option<String>,
    /// The order number that the provider knows.
    pub order_number: Option<String>,
}

/// An operation in a provider's words.
#[derive(Debug)]
pub enum Encoded {
    /// To be signed and sent.
    Send(Request<Bytes>),
    /// Needs no exchange: this is its outcome.
    Answer(Outcome),
}

/// What a signature is made with.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// The account's private key.
    pub signer: &'a dyn Signer,
    /// The keys that the answer will be checked with: some providers want to hear which of them to answer with.
    pub keys: &'a Keyring,
    /// When and with which randomness.
    pub stamp: &'a Stamp,
}

/// How bytes came to us; some providers sign the two in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// As the answer to a request of ours.
    Answer,
    /// By themselves.
    Notification,
}

/// The moment and the randomness that go into one signature.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Unix seconds.
    pub unix_time: u64,
    /// 32 letters and digits, never used twice.
    pub nonce: String,
}

/// Bytes whose signature was checked. Only a provider's `verify` makes one, after the check.
#[derive(Debug)]
pub struct Verified {
    bytes: Bytes,
    members: Vec<Member>,
    key_id: String,
}

/// Where in such bytes a name and its value are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

impl Verified {
    /// For a provider's `verify` alone, after the check: the bytes, and the id of the key that signed them.
    pub(crate) fn assertion(bytes: Bytes, key_id: impl Into<String>) -> Self {
        Self::assertion_with_members(bytes, Vec::new(), key_id)
    }

    /// The same with what had to be read for the check, so that it need not be read again.
    pub(crate) fn assertion_with_members(bytes: Bytes, members: Vec<Member>, key_id: impl Into<String>) -> Self {
        Self { bytes, members, key_id: key_id.into() }
    }

    /// The bytes that were signed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was read for the check; nothing where it was a check of the bytes as they are.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Which key signed them.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

/// Why bytes are not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// There is no signature at all.
    #[error("it carries no signature")]
    Missing,
    /// It is older or newer than the provider's window allows.
    #[error("its timestamp is more than five minutes off")]
    Stale,
    /// No key of that name is known; a refresh of the keys may bring it.
    #[error("it is signed with the unknown key `{0}`")]
    UnknownKey(String),
    /// The provider's own test of whether signatures are checked.
    #[error("it is the provider's probe, signed wrongly on purpose")]
    Probe,
    /// The signature is not over these bytes, or not by that key.
    #[error("the signature is wrong ({0})")]
    Wrong(&'static str),
}

/// One row of [`PROVIDERS`].
pub struct ProviderSpec {
    /// Its name in a channel's `provider`.
    pub name: &'static str,
    /// The methods that it serves.
    pub methods: &'static [&'static str],
    /// The secrets that it wants in `[keys]` beside `sign` and `verify`.
    pub secrets: &'static [SecretField],
    /// The algorithms that `[keys]` may name for it.
    pub algorithms: &'static [&'static str],
    /// Whether `[keys]` names a private key in `sign`.
    pub sign: Need,
    /// Whether `[keys]` names the provider's public keys in `verify`.
    pub verify: Need,
    /// Works out by what id the provider knows a key, from its file; `None` when only the `id` in `[keys]` tells.
    pub key_id: fn(&[u8]) -> Option<String>,
    /// How long after a request "there is no such order" is not believed yet: the request may still be on its way inside.
    pub not_found_grace: Duration,
    /// How often it may be asked about what somebody waits for.
    pub pace: PollInterval,
    /// The methods whose identical create gives the same unpaid order again, by the provider's documentation. Never a scanned
    /// method: its create moves money.
    pub repeats_create: &'static [&'static str],
    /// How long the provider keeps an order open for which no end was asked; `None` where [`Provider::lifetime`] sets the end
    /// or nothing is known.
    pub unpaid_lifetime: Option<Duration>,
    /// What cannot be done without a client certificate in `[mtls]`, where some of it can.
    pub without_mtls: Option<&'static str>,
    /// Holds its files and ids against each other.
    pub inspection: &'static Inspection,
    /// Reads `[account]`; says every mistake to the settings and gives `None` if there was one.
    pub build: fn(&mut Settings<'_>, &BuildContext<'_>) -> Option<Box<dyn Provider>>,
}

impl ProviderSpec {
    /// Finds a provider's row by its name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|row| row.name == name)
    }
}

/// How the pauses go between questions about one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollInterval {
    /// The same pause each time.
    Steady(Duration),
    /// Twice as long each time, from one second on: the provider turns away who asks more often.
    Doubling,
}

/// Whether something may or must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The provider cannot do without; what belongs there, and where one finds it.
    Required(&'static str),
    /// It may be there.
    Optional,
    /// It has no meaning for this provider.
    Nothing,
}

/// What `[keys]` holds, for building a provider.
#[derive(Clone, Copy)]
pub struct BuildContext<'a> {
    /// The secrets of [`ProviderSpec::secrets`], each checked by its own check.
    pub secrets: &'a Secrets,
    /// The algorithm of the private key, if there is one.
    pub algorithm: Option<&'static str>,
}

/// A secret that a provider wants.
pub struct SecretField {
    /// Its key in `[keys]`.
    pub name: &'static str,
    /// Whether the provider cannot do without.
    pub need: Need,
    /// Says what is wrong with a value, without repeating it.
    pub check: fn(&[u8]) -> Result<(), String>,
}

/// The secrets of one channel, by name.
pub type Secrets = std::collections::BTreeMap<&'static str, Secret>;

/// Every provider that a channel may name.
pub const PROVIDERS: &[ProviderSpec] = &[alipay::SPEC, sandbox::SPEC, unionpay::SPEC, wechat_v2::SPEC, wechat_v3::SPEC];
