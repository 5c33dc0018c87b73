//! Timeline events and the evidence of provider calls.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Kind, Money, Outcome, Status};

use crate::records::money_state::MoneyState;
use crate::records::sink_name::SinkName;

/// Maximum length of a text in an entry, in characters.
const MAX_TEXT_CHARS: usize = 200;

/// Timeline event. Contains no secrets, personal data or bodies; of bodies only length and digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum TimelineEvent {
    /// The merchant's request was claimed, durably and before anything was sent.
    Claimed {
        /// Operation.
        action: IntentKind,
        /// Channel of the payment.
        channel: String,
        /// Amount.
        amount: Money,
    },
    /// The request was enqueued.
    Queued {
        /// Operation.
        action: IntentKind,
    },
    /// A gateway dequeued the job.
    Dequeued {
        /// Name of the gateway.
        by: String,
    },
    /// Provably nothing was sent, so the job was requeued.
    Requeued {
        /// Due time of the next attempt.
        due: Timestamp,
    },
    /// The payment was moved to this channel, because nothing was sent on the earlier one.
    Rerouted {
        /// Present channel.
        channel: String,
    },
    /// Money was found on a channel that the payment had been moved away from.
    DuplicatePayment {
        /// That channel.
        channel: String,
    },
    /// A provider was called, or was to be called.
    ProviderCall(ProviderCall),
    /// Provably nothing was sent, so the claim was released.
    Released {
        /// Operation.
        action: IntentKind,
    },
    /// The result of an execution is unknown, so the provider is queried.
    Interrupted {
        /// Operation.
        action: IntentKind,
        /// Cause, as far as it is known.
        #[serde(default)]
        cause: LossCause,
    },
    /// The order will be closed as soon as it is known to be open.
    CloseScheduled,
    /// The provider reported a refund that was made outside this gateway, or its result.
    RefundElsewhere {
        /// Number of the refund at the provider.
        number: String,
        /// `unknown` while the provider is queried, `pending` where the provider has not finished it, or its result.
        /// `closed` if it belongs to the payment's own reversal.
        status: Status,
    },
    /// The record has changed.
    StatusChanged {
        /// New status.
        status: Status,
        /// State of the money.
        money_state: MoneyState,
        /// Version of the record.
        version: u64,
        /// Origin of the update.
        by: Origin,
    },
    /// The provider sent a notification.
    NotificationReceived {
        /// Channel of the notification.
        channel: String,
        /// Id of the notification.
        id: String,
        /// Effect of the notification.
        verdict: NotificationVerdict,
        /// Digest of the notification's body.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<BodyDigest>,
    },
    /// The record was marked for manual review.
    ManualReview {
        /// Reason.
        why: String,
    },
    /// An event for the merchant was published.
    Event {
        /// Id of the event.
        id: String,
        /// Type, as in `payment.succeeded`.
        kind: String,
    },
    /// A sink of the merchant received an event.
    Delivered {
        /// Id of the event.
        id: String,
        /// Sink of the delivery.
        #[serde(default, skip_serializing_if = "SinkName::is_webhook")]
        sink: SinkName,
    },
    /// An attempt to deliver an event failed; it is retried.
    Undelivered {
        /// Id of the event.
        id: String,
        /// Reason why the attempt failed.
        why: String,
        /// Sink of the delivery.
        #[serde(default, skip_serializing_if = "SinkName::is_webhook")]
        sink: SinkName,
    },
    /// The merchant requested an event again.
    RedeliveryRequested {
        /// Id of the event.
        id: String,
    },
    /// The delivery of an event was abandoned.
    DeliveryAbandoned {
        /// Id of the event.
        id: String,
        /// Reason.
        why: String,
        /// Sink of the delivery.
        #[serde(default, skip_serializing_if = "SinkName::is_webhook")]
        sink: SinkName,
    },
}

/// Operation of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentKind {
    /// Takes money.
    Pay,
    /// Closes a payment.
    Close,
    /// Returns money.
    Refund,
}

/// Reason why the result of an execution is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// No cause was recorded (entries of older versions).
    #[default]
    Unknown,
    /// The gateway that executed the request stopped or lost its lease on the ledger.
    Abandoned,
    /// The execution ended in this gateway without a result.
    NoResult,
    /// This gateway sent nothing, but the provider knows the request.
    KnownToProvider,
}

impl LossCause {
    /// Returns the cause as the reason of the record.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unknown => "it is not known whether it was sent",
            Self::Abandoned => {
                "the gateway that ran it stopped or lost the ledger, so it is not known whether it was sent"
            }
            Self::NoResult => "it ended in the gateway without a result, so it is not known whether it was sent",
            Self::KnownToProvider => "this gateway sent nothing, but the provider knows the request",
        }
    }
}

/// Origin of an update; it decides which transitions are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Response to the request itself. Only this origin may make a pending record unknown.
    Request,
    /// The provider's answer to a query. Ends the inquiry.
    Query,
    /// A notification, which may be late.
    Notification,
}

/// Effect of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationVerdict {
    /// The record has changed.
    Applied,
    /// Everything was known already.
    NoChange,
    /// The notification proves nothing by itself: the provider is queried.
    Verify,
    /// The notification names another amount or came over another channel.
    Mismatch,
}

/// Evidence of one provider call: the request and its response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderCall {
    /// Operation, as in `pay` or `query_refund`.
    pub operation: String,
    /// Channel of the call.
    pub channel: String,
    /// Start of the call.
    pub sent_at: Timestamp,
    /// Milliseconds until the whole response was received or the call was abandoned.
    pub took_ms: u64,
    /// Extent to which the bytes of the request were written.
    pub written: BytesSent,
    /// HTTP status of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Digest of the response's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<BodyDigest>,
    /// Status in the provider's answer, as in `succeeded`; else the error code, as in `unclear` or `declined`.
    pub result: String,
    /// Details of the error: the gateway's sentence or the provider's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl ProviderCall {
    /// Returns the evidence of a call that starts now.
    pub fn begun(operation: Kind, channel: &str, sent_at: Timestamp) -> Self {
        Self {
            operation: operation.as_str().to_owned(),
            channel: channel.to_owned(),
            sent_at,
            took_ms: 0,
            written: BytesSent::No,
            http_status: None,
            answer: None,
            result: String::new(),
            why: None,
        }
    }

    /// Records the result. The provider's sentences are left out, because they may name a person.
    pub fn ended(&mut self, result: &Result<Outcome, Error>) {
        self.result = result.as_ref().map_or_else(|error| error.code(), |outcome| outcome.status.as_str()).to_owned();
        self.why = match result {
            Ok(_) | Err(Error::Unsupported(_)) => None,
            Err(error @ Error::Probe) => Some(error.to_string()),
            Err(
                Error::NotSent(why)
                | Error::Rejected { why, .. }
                | Error::Unverifiable { why, .. }
                | Error::Mismatch(why),
            ) => Some(why.clone()),
            Err(Error::Unclear { why, provider_error: None }) => Some(why.clone()),
            Err(Error::Unclear { why, provider_error: Some(provider_error) }) => {
                Some(format!("{why} ({})", provider_error.code))
            }
            Err(
                Error::ProviderBusy(provider_error)
                | Error::Unauthorized(provider_error)
                | Error::Declined(provider_error)
                | Error::Conflict(provider_error)
                | Error::NotFound(provider_error)
                | Error::UnlistedRefusal(provider_error),
            ) => Some(provider_error.code.clone()),
        };
    }

    /// Returns whether the call was attempted: no filter rejected it, and the answer could be verified.
    pub fn was_tried(&self) -> bool {
        !["rejected", "unverifiable"].contains(&self.result.as_str())
    }

    /// Returns whether the provider may know the request: bytes were sent, and no verified answer says that it is
    /// busy and did nothing.
    pub fn may_have_reached(&self) -> bool {
        self.written != BytesSent::No && self.result != "provider_busy"
    }

    /// Returns the content without times and bytes, for comparison.
    fn says(&self) -> impl PartialEq + '_ {
        let key_id = self.answer.as_ref().map(|seen| seen.key_id.as_deref());
        let why = self.why.as_deref();
        (&self.operation, &self.channel, self.written, self.http_status, key_id, &self.result, why)
    }
}

/// Extent to which the bytes of a request were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BytesSent {
    /// Provably none.
    No,
    /// Some or all, with no proof that they arrived.
    Maybe,
    /// All: a response was received.
    Yes,
}

/// Length, digest and key id of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyDigest {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Id of the key whose signature over the body was verified; `None` if no signature was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

impl BodyDigest {
    /// Returns the digest of a body.
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: hex::encode(Sha256::digest(bytes)), bytes: bytes.len() as u64, key_id: None }
    }
}

impl TimelineEvent {
    /// Returns the events of provider calls that changed no record.
    pub fn exchanges(evidence: Vec<ProviderCall>) -> Vec<Self> {
        evidence.into_iter().map(Self::ProviderCall).collect()
    }

    /// Returns whether the event repeats the last one. Responses of equal content may differ in their bytes.
    pub(super) fn repeats(&self, last: &Self) -> bool {
        match (self, last) {
            (Self::ProviderCall(it), Self::ProviderCall(last)) => it.says() == last.says(),
            _ => self == last,
        }
    }

    /// Cuts texts of others to the maximum length.
    pub(super) fn shorten(&mut self) {
        let why = match self {
            Self::ProviderCall(ProviderCall { why: Some(why), .. })
            | Self::ManualReview { why }
            | Self::Undelivered { why, .. }
            | Self::DeliveryAbandoned { why, .. } => why,
            Self::NotificationReceived { id, .. } => id,
            Self::RefundElsewhere { number, .. } => number,
            _ => return,
        };
        if let Some((end, _)) = why.char_indices().nth(MAX_TEXT_CHARS) {
            why.truncate(end);
        }
    }
}
