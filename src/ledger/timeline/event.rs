//! The things that can happen to a payment, and what is kept of each.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Kind, Money, Outcome, Status};

use crate::ledger::records::MoneyState;

/// The longest text in an entry, in characters.
const LONGEST_TEXT: usize = 200;

/// What can happen. No secrets, no personal data, no bodies: of bytes only their length and digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum TimelineEvent {
    /// The merchant asked, and nothing like it runs or ran: the claim was made durable before anything was sent.
    Claimed {
        /// What is to be done.
        action: IntentKind,
        /// Over which channel.
        channel: String,
        /// Over how much.
        amount: Money,
    },
    /// It was accepted to be made by the queue.
    Queued {
        /// What is to be done.
        action: IntentKind,
    },
    /// Somebody took it from the queue to make it.
    Dequeued {
        /// Which gateway.
        by: String,
    },
    /// Provably nothing was sent, so it waits in the queue for another try.
    Requeued {
        /// When it is due.
        due: Timestamp,
    },
    /// Nothing was sent on the channel before, so it goes to this one.
    Rerouted {
        /// The channel.
        channel: String,
    },
    /// Money was found on a channel that it had gone away from.
    DuplicatePayment {
        /// The channel.
        channel: String,
    },
    /// A provider was asked, or was to be asked.
    ProviderCall(ProviderCall),
    /// Provably nothing was done, so the claim was given back.
    Released {
        /// What is not done.
        action: IntentKind,
    },
    /// How an execution ended is not known, so the provider is asked.
    Interrupted {
        /// What was to be done.
        action: IntentKind,
        /// What is known of the end.
        #[serde(default)]
        cause: LossCause,
    },
    /// It is to be closed as soon as it is known to be open.
    CloseScheduled,
    /// The provider told of a refund that was not made here, and by which no money has gone back.
    RefundElsewhere {
        /// The refund's number at the provider.
        number: String,
        /// `failed`, or `pending` where the end is open.
        status: Status,
    },
    /// The record changed.
    StatusChanged {
        /// What it came to.
        status: Status,
        /// What is certain about the money.
        money_state: MoneyState,
        /// The record's version.
        version: u64,
        /// Who brought the news.
        by: Origin,
    },
    /// The provider told something by itself.
    NotificationReceived {
        /// On which channel.
        channel: String,
        /// The notification's id.
        id: String,
        /// What was made of it.
        verdict: NotificationVerdict,
        /// The notification as it came in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<BodyDigest>,
    },
    /// A person was asked to look at it.
    ManualReview {
        /// Why.
        why: String,
    },
    /// The merchant is to hear of it.
    Event {
        /// The event's id.
        id: String,
        /// As in `payment.succeeded`.
        kind: String,
    },
    /// The merchant took an event.
    Delivered {
        /// The event's id.
        id: String,
    },
    /// The merchant did not take an event; it is sent again.
    Undelivered {
        /// The event's id.
        id: String,
        /// What happened instead.
        why: String,
    },
    /// An event is sent no more.
    DeliveryAbandoned {
        /// The event's id.
        id: String,
        /// Why.
        why: String,
    },
}

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentKind {
    /// To take money.
    Pay,
    /// To close a payment.
    Close,
    /// To give money back.
    Refund,
}

/// What is known of an execution whose end is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// Nothing; entries of older versions say no more.
    #[default]
    Unknown,
    /// It was running when the gateway that ran it stopped, or lost its lease on the ledger.
    Abandoned,
    /// It ended in the running gateway without a result.
    NoResult,
    /// This gateway sent nothing, but the provider has told of it.
    KnownToProvider,
}

impl LossCause {
    /// Says what is known, as the reason of the record.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unknown => "it is not known whether it was sent",
            Self::Abandoned => {
                "the gateway that ran it stopped or lost the ledger, so it is not known whether it was sent"
            }
            Self::NoResult => "it ended in the gateway without a result, so it is not known whether it was sent",
            Self::KnownToProvider => "this gateway sent nothing, but the provider has told of it",
        }
    }
}

/// Who brings news; it decides what the news may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The end of the very request that was sent. Only it may make a pending one unknown.
    Request,
    /// The provider's answer to a question. It ends a search.
    Query,
    /// A notification. It may be late.
    Notification,
}

/// What was made of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationVerdict {
    /// It was news.
    Applied,
    /// All of it was known.
    NoChange,
    /// It proves nothing by itself: the provider is asked.
    Verify,
    /// It names another amount or came over another channel.
    Mismatch,
}

/// One request to a provider and what came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderCall {
    /// As in `pay`, `query_refund`.
    pub operation: String,
    /// On which channel.
    pub channel: String,
    /// When it was about to be sent.
    pub sent_at: Timestamp,
    /// How long until the whole answer was there, or until it was given up, in milliseconds.
    pub took_ms: u64,
    /// Whether anything of it was written.
    pub written: BytesSent,
    /// The answer's HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// The answer as it came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<BodyDigest>,
    /// What the provider said, as in `succeeded`; else why there is no outcome, as in `unclear` or `declined`.
    pub result: String,
    /// More about why, in the gateway's words or by the provider's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl ProviderCall {
    /// One that is about to be sent.
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

    /// Takes in how it ended. The provider's own sentences are left out: a person may be named in them.
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
            Err(Error::Unclear { why, word: None }) => Some(why.clone()),
            Err(Error::Unclear { why, word: Some(word) }) => Some(format!("{why} ({})", word.code)),
            Err(
                Error::ProviderBusy(word)
                | Error::Unauthorized(word)
                | Error::Declined(word)
                | Error::Conflict(word)
                | Error::NotFound(word)
                | Error::UnlistedRefusal(word),
            ) => Some(word.code.clone()),
        };
    }

    /// Whether an attempt was made to reach the provider: no filter held it back, and its answer could be verified.
    pub fn was_tried(&self) -> bool {
        !["held", "unverifiable"].contains(&self.result.as_str())
    }

    /// Whether the provider may know the request: bytes left, and no verified answer says that it did nothing for now.
    pub fn may_have_reached(&self) -> bool {
        self.written != BytesSent::No && self.result != "provider_busy"
    }

    /// What it says, without when and by which bytes.
    fn says(&self) -> impl PartialEq + '_ {
        let key_id = self.answer.as_ref().map(|seen| seen.key_id.as_deref());
        let why = self.why.as_deref();
        (&self.operation, &self.channel, self.written, self.http_status, key_id, &self.result, why)
    }
}

/// Whether a request's bytes left this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BytesSent {
    /// Provably none.
    No,
    /// Some or all, and nobody knows whether they arrived.
    Maybe,
    /// All, for an answer came.
    Yes,
}

/// Bytes that somebody sent, without the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyDigest {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// How many.
    pub bytes: u64,
    /// Whose signature over them was verified, by the key's id; `None`: they were not believed for their signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

impl BodyDigest {
    /// What is kept of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: hex::encode(Sha256::digest(bytes)), bytes: bytes.len() as u64, key_id: None }
    }
}

impl TimelineEvent {
    /// Requests that changed nothing.
    pub fn exchanges(evidence: Vec<ProviderCall>) -> Vec<Self> {
        evidence.into_iter().map(Self::ProviderCall).collect()
    }

    /// Whether it is the same once more. Two answers that say the same differ in their bytes.
    pub(super) fn repeats(&self, last: &Self) -> bool {
        match (self, last) {
            (Self::ProviderCall(it), Self::ProviderCall(last)) => it.says() == last.says(),
            _ => self == last,
        }
    }

    /// Cuts off what others say at too great length.
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
        if let Some((end, _)) = why.char_indices().nth(LONGEST_TEXT) {
            why.truncate(end);
        }
    }
}
