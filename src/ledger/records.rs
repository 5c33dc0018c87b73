//! What the ledger holds and hands out: the types of its records.

mod inquiry;
mod update;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::{Method, Money, NextAction, Payer, Status};

pub use self::inquiry::Inquiry;
pub use self::update::*;
use super::claim_guard::{ClaimGuard, ExecutionId};
use super::limits::QueueFull;
use super::timeline::{self, ProviderCall};

/// What is certain about the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoneyState {
    /// Nothing left this machine.
    NotSent,
    /// Something was sent and no trustworthy answer came.
    Unknown,
    /// In the provider's verified word, money moved.
    Moved,
    /// In the provider's verified word, no money moved (or not yet).
    NotMoved,
}

/// One attempt to take money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Whose it is.
    pub merchant: String,
    /// The merchant's own number.
    pub order_id: String,
    /// The number that the provider sees.
    pub provider_order_no: String,
    /// SHA-256 in hexadecimal over what the merchant asked for, to tell a repetition from another content.
    pub content: String,
    /// What it has come to.
    pub status: Status,
    /// What is certain about the money.
    pub money_state: MoneyState,
    /// What it is for.
    pub amount: Money,
    /// Minor units given back for certain.
    pub refunded: u64,
    /// How much of `refunded` went back by refunds that were not made here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refunded_elsewhere: u64,
    /// How it is paid.
    pub method: Method,
    /// Where it was sent.
    pub channel: String,
    /// The account that the channel had then: its provider and the provider's number of it.
    pub account: String,
    /// The provider's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_payment_id: Option<String>,
    /// What the payer's device needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<NextAction>,
    /// The provider's word when it refused, or when its answer left the end open. Kept until the money has moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error: Option<ProviderError>,
    /// The gateway's sentence about why it stands so, where the provider's word does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// The rest of the create request, while the identical create may have to be sent again to get a lost `action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_request: Option<Box<CreateRequest>>,
    /// Grows by one with each change.
    pub version: u64,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// When a queued one was sent first. It stays once a request may have left, because a query names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ends unpaid, where the merchant or the channel has settled that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When the money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<Timestamp>,
    /// The merchant's own notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Until the end is known: how the search for the truth stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Inquiry>,
}

fn is_zero(sum: &u64) -> bool {
    *sum == 0
}

/// What a create request says beside its payment's own fields. With both, the identical create can be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// What the payer reads.
    pub description: String,
    /// Who pays.
    pub payer: Payer,
    /// Where the payer's browser goes afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_url: Option<String>,
    /// The gateway's `public_url` when the create was first sent, to which the notification is to come.
    pub public_url: String,
}

/// How often the identical create is sent again at most. One would be too few: a crash, or another unclear answer, may cost it.
pub const MAX_REPEATED_CREATES: u32 = 3;

impl Payment {
    /// True if the provider's "not known", said for long enough, ends it. An unpaid order may come to life when the payer opens
    /// it, so a pending one ends by its time instead, unless a till scanned it.
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self.status {
            Status::Unknown => true,
            Status::Pending => self.method.is_scanned() && self.money_state != MoneyState::NotSent,
            _ => false,
        }
    }

    /// Whether the payer cannot pay because the answer that held the `action` was lost.
    pub fn lacks_action(&self) -> bool {
        let is_open = self.status == Status::Pending && self.money_state == MoneyState::NotMoved;
        is_open && self.action.is_none() && !self.method.is_scanned()
    }

    /// Whether the gateway still tries to get the lost `action` by the identical create.
    pub fn awaits_action(&self) -> bool {
        let may_repeat = |search: &Inquiry| search.repeated_creates < MAX_REPEATED_CREATES && !search.closing;
        self.create_request.is_some() && self.search.as_ref().is_some_and(may_repeat)
    }

    /// Whether it is what may be left of a payment on a channel that it went away from: no merchant knows of it.
    pub fn is_attempt(&self) -> bool {
        self.order_id.contains('/')
    }
}

/// The order id that the merchant knows, of a payment or of what is left of it on another channel.
pub fn merchants_order_id(order_id: &str) -> &str {
    order_id.split_once('/').map_or(order_id, |(order_id, _)| order_id)
}

/// Where a payment goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// As [`Payment::channel`].
    pub channel: String,
    /// As [`Payment::account`].
    pub account: String,
    /// As [`Payment::expires_at`].
    pub expires_at: Option<Timestamp>,
    /// As [`CreateRequest::public_url`].
    pub public_url: String,
}

/// One attempt to give money back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Whose it is.
    pub merchant: String,
    /// The payment's number.
    pub order_id: String,
    /// The merchant's own number of the refund.
    pub refund_id: String,
    /// The number that the provider sees.
    pub provider_refund_no: String,
    /// As [`Payment::content`].
    pub content: String,
    /// What it has come to.
    pub status: Status,
    /// What is certain about the money.
    pub money_state: MoneyState,
    /// How much goes back.
    pub amount: Money,
    /// What the payer reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The payment's channel.
    pub channel: String,
    /// The provider's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_refund_id: Option<String>,
    /// The provider's code and message that the refund began or ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error: Option<ProviderError>,
    /// The gateway's sentence about why the refund stands so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// Grows by one with each change.
    pub version: u64,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// When the request was first sent; part of some providers' requests and queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When the money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refunded_at: Option<Timestamp>,
    /// While `status` is unknown: how the search for the truth stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Inquiry>,
}

/// Names what a claim, a search or an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    /// Whose.
    pub merchant: String,
    /// Which payment.
    pub order_id: String,
    /// Which of its refunds, when it is about one.
    pub refund_id: Option<String>,
}

/// Once-only: who asked for what under which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimKey {
    /// Whose key.
    pub merchant: String,
    /// As in `POST`.
    pub method: String,
    /// The path as received.
    pub path: String,
    /// The value of `Idempotency-Key`.
    pub key: String,
    /// SHA-256 over method, path and body as received.
    pub fingerprint: [u8; 32],
}

/// What to write down before anything is sent.
#[derive(Clone, Debug)]
pub enum Intent {
    /// Create this payment (status pending, money not sent).
    Pay(Payment),
    /// Close this payment.
    Close(RecordId),
    /// Make this refund; its subject's payment must have the money.
    Refund(Refund),
}

/// What the ledger says to a claim.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a request, matched at once: a box would only be in the way")]
pub enum ClaimResult {
    /// Nobody else may run it, and it is durable: go on.
    Run(ExecutionPermit),
    /// It was done before; this was the answer.
    Replay(Answer),
    /// It is being done right now.
    Running,
    /// It is durable and will be made by whoever takes it ([`Ledger::accept`](super::Ledger::accept)).
    Accepted(Record),
    /// It was accepted before and is not made yet.
    Queued(Record),
    /// Nobody knows whether it was accepted: the ledger did not answer in time, or was lost during the commit.
    InDoubt(LedgerError),
    /// So many wait already that no more are accepted; nothing was written down.
    QueueFull(QueueFull),
    /// The key was used for another request.
    KeyReused,
    /// The order or refund number was used for another content.
    OrderIdReused,
    /// It was sent before and its end was unknown then; this is how it stands now (or an equal request under another
    /// key made it).
    AlreadyExists(Record),
    /// There is no such payment (refund, close).
    NotFound,
    /// The payment is in a state that does not allow this (close of a paid one, refund of an unpaid one).
    Refused(Payment),
    /// The refund exceeds what is left; minor units that are left.
    ExceedsBalance {
        /// Minor units that may still go back.
        left: u64,
    },
}

/// The right to run one claim, once.
#[derive(Debug)]
pub struct ExecutionPermit {
    /// Names the claim inside the ledger, and which of its turns this is.
    pub(crate) execution: ExecutionId,
    /// Gives the claim back should the ticket be dropped without [`Ledger::settle`] or [`Ledger::release`].
    ///
    /// [`Ledger::settle`]: super::Ledger::settle
    /// [`Ledger::release`]: super::Ledger::release
    pub(crate) guard: ClaimGuard,
    /// What it is about.
    pub subject: RecordId,
    /// The payment as claimed (for a refund or close: the payment that it concerns).
    pub payment: Payment,
    /// The refund as claimed.
    pub refund: Option<Refund>,
    /// What was sent for it so far and what came back; goes into the timeline when it ends.
    pub evidence: Vec<ProviderCall>,
    /// What is to be done, where it was accepted to be made later.
    pub job: Option<Job>,
}

impl ExecutionPermit {
    pub(super) fn new(execution: ExecutionId, payment: Payment, refund: Option<Refund>) -> Self {
        let (merchant, order_id) = (payment.merchant.clone(), payment.order_id.clone());
        let refund_id = refund.as_ref().map(|refund| refund.refund_id.clone());
        let subject = RecordId { merchant, order_id, refund_id };
        Self { execution, guard: ClaimGuard::default(), subject, payment, refund, evidence: Vec::new(), job: None }
    }
}

/// What was accepted to be made later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What is to be done.
    pub action: timeline::IntentKind,
    /// The request's body as received; forgotten as soon as it is made.
    pub body: String,
    /// Since when it waits.
    pub since: Timestamp,
    /// How often it went back because nothing could be sent.
    pub tries: u32,
    /// When it is due.
    pub due: Timestamp,
    /// Whether the provider may know a request of an earlier turn; then the time of the sending stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_known: bool,
    /// Why nothing could be sent when it was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A payment or a refund, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A payment.
    Payment(Payment),
    /// A refund.
    Refund(Refund),
}

impl Record {
    /// Returns true if the provider's "not known", said for long enough, ends the record.
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self {
            Self::Payment(payment) => payment.ends_by_absence(),
            Self::Refund(refund) => refund.ends_by_absence(),
        }
    }
}

impl Refund {
    /// Whether the provider's "not known", said for long enough, ends it: it is unknown, or was accepted by an answer that does
    /// not prove that the provider has it.
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self.status {
            Status::Unknown => true,
            Status::Pending => self.money_state != MoneyState::NotSent && !self.is_confirmed(),
            _ => false,
        }
    }

    /// Whether the provider has said that it has this refund: by a number of its own, or when it was asked.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.provider_refund_id.is_some() || self.search.as_ref().is_some_and(|search| search.confirmed)
    }
}

/// What was answered to the merchant, for replays: status and body, to the byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// The ledger cannot do its work (disk full, sync failed): nothing may be sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the ledger cannot write: {0}")]
pub struct LedgerError(pub String);
