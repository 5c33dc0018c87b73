//! Types of the ledger's records.

mod elsewhere;
mod inquiry;
mod update;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::{Method, Money, NextAction, Payer, Status};

pub use self::elsewhere::ELSEWHERE_PREFIX;
pub(super) use self::elsewhere::ElsewhereState;
pub use self::inquiry::Inquiry;
pub use self::update::*;
use super::claim_guard::{ClaimGuard, ExecutionId};
use super::limits::QueueFull;
use super::timeline::{self, ProviderCall};

/// Where the money is, as far as it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoneyState {
    /// Nothing left this machine.
    NotSent,
    /// Something was sent, and no trustworthy answer came.
    Unknown,
    /// The provider's verified answer says that money moved.
    Moved,
    /// The provider's verified answer says that no money moved (or not yet).
    NotMoved,
}

/// One attempt to take money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Merchant that owns the payment.
    pub merchant: String,
    /// The merchant's own number.
    pub order_id: String,
    /// The number that the provider sees.
    pub provider_order_no: String,
    /// SHA-256 in hexadecimal over the merchant's request. Distinguishes a repetition from other content under the
    /// same order id.
    pub content: String,
    /// Status of the payment.
    pub status: Status,
    /// What is certain about the money.
    pub money_state: MoneyState,
    /// Amount to be paid.
    pub amount: Money,
    /// Sum of successful refunds, in minor units.
    pub refunded: u64,
    /// Part of `refunded` that was refunded outside this gateway, in minor units.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refunded_elsewhere: u64,
    /// Payment method.
    pub method: Method,
    /// Channel that the payment was sent on.
    pub channel: String,
    /// Account of the channel at that time: the provider's name and the provider's number of the account.
    pub account: String,
    /// The provider's own number of the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_payment_id: Option<String>,
    /// Data with which the payer's device continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<NextAction>,
    /// Provider's error code and message of a refusal or of an answer that left the result open. Cleared when money
    /// has moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error: Option<ProviderError>,
    /// The gateway's reason for the status, where the provider gave no error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// Remaining fields of the create request, while the identical create may have to be repeated to obtain a lost
    /// `action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_request: Option<Box<CreateRequest>>,
    /// Version, which each change increments by one.
    pub version: u64,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// When a queued payment was first sent. Never changes once a request may have left, because queries name this
    /// time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When the order expires unpaid, if the merchant or the channel has set that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When the money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<Timestamp>,
    /// The merchant's own metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// State of the inquiry, while the result is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Inquiry>,
}

fn is_zero(sum: &u64) -> bool {
    *sum == 0
}

/// Fields of a create request that its payment does not have. Both together allow the identical create to be
/// repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Description that the payer sees.
    pub description: String,
    /// The payer.
    pub payer: Payer,
    /// Where the payer's browser is redirected afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_url: Option<String>,
    /// `public_url` of the gateway when the create was first sent; part of the notification URL.
    pub public_url: String,
}

/// Maximum number of repetitions of the identical create. One would be too few: a crash or another unclear answer may
/// use it up.
pub const MAX_REPEATED_CREATES: u32 = 3;

impl Payment {
    /// Returns whether the provider's repeated "not found" ends the payment. A pending payment instead ends when it
    /// expires, because the payer may still open it. A pending payment of a scanned code ends by "not found".
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self.status {
            Status::Unknown => true,
            Status::Pending => self.method.is_scanned() && self.money_state != MoneyState::NotSent,
            _ => false,
        }
    }

    /// Returns whether the payer cannot pay because the answer with the `action` was lost.
    pub fn lacks_action(&self) -> bool {
        let is_open = self.status == Status::Pending && self.money_state == MoneyState::NotMoved;
        is_open && self.action.is_none() && !self.method.is_scanned()
    }

    /// Returns whether the gateway still tries to obtain the lost `action` by repeating the identical create.
    pub fn awaits_action(&self) -> bool {
        let may_repeat = |search: &Inquiry| search.repeated_creates < MAX_REPEATED_CREATES && !search.closing;
        self.create_request.is_some() && self.search.as_ref().is_some_and(may_repeat)
    }

    /// Returns whether this is an abandoned attempt on a channel that the payment was moved away from. No merchant
    /// sees it.
    pub fn is_attempt(&self) -> bool {
        self.order_id.contains('/')
    }
}

/// Returns the merchant's order id of a payment or of an abandoned attempt (`ORDER/CHANNEL`).
pub fn merchants_order_id(order_id: &str) -> &str {
    order_id.split_once('/').map_or(order_id, |(order_id, _)| order_id)
}

/// Channel that a payment is moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// See [`Payment::channel`].
    pub channel: String,
    /// See [`Payment::account`].
    pub account: String,
    /// See [`Payment::expires_at`].
    pub expires_at: Option<Timestamp>,
    /// See [`CreateRequest::public_url`].
    pub public_url: String,
}

/// One attempt to return money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Merchant that owns the refund.
    pub merchant: String,
    /// The payment's order id.
    pub order_id: String,
    /// The merchant's own number of the refund.
    pub refund_id: String,
    /// The number that the provider sees.
    pub provider_refund_no: String,
    /// See [`Payment::content`].
    pub content: String,
    /// Status of the refund.
    pub status: Status,
    /// What is certain about the money.
    pub money_state: MoneyState,
    /// Amount to be returned.
    pub amount: Money,
    /// Reason that the payer sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Channel of the payment.
    pub channel: String,
    /// The provider's own number of the refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_refund_id: Option<String>,
    /// Provider's error code and message at the start or the end of the refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error: Option<ProviderError>,
    /// The gateway's reason for the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// Version, which each change increments by one.
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
    /// State of the inquiry, while the result is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Inquiry>,
}

/// Key of a payment or refund.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    /// Merchant that owns the record.
    pub merchant: String,
    /// Order id of the payment.
    pub order_id: String,
    /// Id of the refund, if the record is a refund.
    pub refund_id: Option<String>,
}

/// Idempotency key with the fingerprint of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimKey {
    /// Merchant that sent the key.
    pub merchant: String,
    /// HTTP method, as in `POST`.
    pub method: String,
    /// Path as received.
    pub path: String,
    /// Value of `Idempotency-Key`.
    pub key: String,
    /// SHA-256 over method, path and body as received.
    pub fingerprint: [u8; 32],
}

/// Intent that is recorded before anything is sent.
#[derive(Clone, Debug)]
pub enum Intent {
    /// Create this payment (status pending, money not sent).
    Pay(Payment),
    /// Close this payment.
    Close(RecordId),
    /// Create this refund. The payment must have succeeded.
    Refund(Refund),
}

/// Result of a claim.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a request, matched at once: a box would only be in the way")]
pub enum ClaimResult {
    /// The claim is new and durable: execute it.
    Run(ExecutionPermit),
    /// The request was executed before; this was the response.
    Replay(Answer),
    /// The request is being executed now.
    Running,
    /// The job is durable and will be executed once ([`Ledger::enqueue`](super::Ledger::enqueue)).
    Accepted(Record),
    /// The job was accepted before and has not ended yet.
    Queued(Record),
    /// It is unknown whether the job was accepted: the ledger did not answer in time, or the connection was lost
    /// during the commit.
    InDoubt(LedgerError),
    /// The queue is full; nothing was recorded.
    QueueFull(QueueFull),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The order or refund id was used with other content.
    OrderIdReused,
    /// The record exists: an earlier request of unknown result created it, or an equal request under another key.
    /// This is its present state.
    AlreadyExists(Record),
    /// There is no such payment to refund or close.
    NotFound,
    /// The status of the payment does not allow the request (close of a paid one, refund of an unpaid one).
    Refused(Payment),
    /// The refund exceeds the refundable amount.
    ExceedsBalance {
        /// Refundable amount, in minor units.
        left: u64,
    },
}

/// Permission to execute one claim once.
#[derive(Debug)]
pub struct ExecutionPermit {
    /// Identifies the claim and this execution of it.
    pub(crate) execution: ExecutionId,
    /// Ends the claim if the permit is dropped without [`Ledger::settle`] or [`Ledger::release`].
    ///
    /// [`Ledger::settle`]: super::Ledger::settle
    /// [`Ledger::release`]: super::Ledger::release
    pub(crate) guard: ClaimGuard,
    /// Record that the claim is about.
    pub subject: RecordId,
    /// The payment as claimed. For a refund or close: the payment concerned.
    pub payment: Payment,
    /// The refund as claimed.
    pub refund: Option<Refund>,
    /// Provider calls made so far. They are appended to the timeline when the execution ends.
    pub evidence: Vec<ProviderCall>,
    /// The job, if the request was enqueued.
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

/// Asynchronous request in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Operation to execute.
    pub action: timeline::IntentKind,
    /// Body of the request as received. Deleted when the job ends.
    pub body: String,
    /// When the job was enqueued.
    pub since: Timestamp,
    /// Number of attempts that could not send anything.
    pub tries: u32,
    /// When it is due.
    pub due: Timestamp,
    /// Whether the provider may know the request of an earlier execution; then `sent_at` must not change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_known: bool,
    /// Why the last attempt could not send anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A payment or a refund.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A payment.
    Payment(Payment),
    /// A refund.
    Refund(Refund),
}

impl Record {
    /// Returns whether the provider's repeated "not found" ends the record.
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self {
            Self::Payment(payment) => payment.ends_by_absence(),
            Self::Refund(refund) => refund.ends_by_absence(),
        }
    }
}

impl Refund {
    /// Returns whether the provider's repeated "not found" ends the refund: its status is unknown, or it was accepted
    /// by an answer that does not prove that the provider has it.
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self.status {
            Status::Unknown => true,
            Status::Pending => self.money_state != MoneyState::NotSent && !self.is_confirmed(),
            _ => false,
        }
    }

    /// Returns whether the provider has confirmed the refund, by a number of its own or in answer to a query.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.provider_refund_id.is_some() || self.search.as_ref().is_some_and(|search| search.confirmed)
    }
}

/// Response sent to the merchant, stored byte for byte for replays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// The ledger failed (disk full, sync failed, PostgreSQL unreachable): nothing may be sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the ledger cannot write: {0}")]
pub struct LedgerError(pub String);
