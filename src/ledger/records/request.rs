//! A merchant's request: its claim, the permit to execute it, and its response.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::payment::Payment;
use super::record::{Record, RecordId};
use super::refund::Refund;
use crate::claim_guard::{ClaimGuard, ExecutionId};
use crate::error::LedgerError;
use crate::limits::QueueFull;
use crate::timeline::event::{IntentKind, ProviderCall};

/// Idempotency key with the fingerprint of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimKey {
    /// Merchant that sent the key.
    pub merchant: String,
    /// HTTP method, as in `POST`.
    pub method: String,
    /// Canonical path.
    pub path: String,
    /// Value of `Idempotency-Key`.
    pub key: String,
    /// SHA-256 over method, canonical path, query, and body as received.
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
    /// The job is durable and will be executed once ([`Ledger::enqueue`](crate::Ledger::enqueue)).
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
    pub execution: ExecutionId,
    /// Ends the claim if the permit is dropped without [`Ledger::settle`] or [`Ledger::release`].
    ///
    /// [`Ledger::settle`]: crate::Ledger::settle
    /// [`Ledger::release`]: crate::Ledger::release
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
    pub(crate) fn new(execution: ExecutionId, payment: Payment, refund: Option<Refund>) -> Self {
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
    pub action: IntentKind,
    /// Body of the request as received. Deleted when the job ends.
    pub body: String,
    /// Time at which the job was enqueued.
    pub since: Timestamp,
    /// Number of attempts that could not send anything.
    pub tries: u32,
    /// Due time of the next attempt.
    pub due: Timestamp,
    /// True if the provider may know the request of an earlier execution; then `sent_at` must not change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_known: bool,
    /// Reason why the last attempt could not send anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
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
    /// See [`CreateRequest::public_url`](super::payment::CreateRequest::public_url).
    pub public_url: String,
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
