//! Updates of payments and refunds, and the events that merchants receive.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::error::{Error, ProviderError};
use tollgate_plugins::payment::{Method, Money, Outcome, Status};

use super::record::{Record, RecordId};
use super::sink_name::SinkName;

/// Update of a payment or refund.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The provider's verified outcome. Never `Closed` for a refund.
    Outcome(Outcome),
    /// The provider refused the request. Final; no money moved.
    Declined(ProviderError),
    /// Something was sent, and no trustworthy answer came.
    Unknown(Reason),
    /// The provider never had the request: it answered "not found" twice after the grace period.
    NotFoundAtProvider,
    /// The payment has expired and the provider does not know it: nobody has opened it, and nobody can any more.
    Expired,
    /// Provably nothing was sent and nothing will be: the job expired (`Failed`) or was cancelled (`Closed`).
    NotSent(Status, Reason),
}

/// Reason of a status: the provider's error if there is one, else the gateway's sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The provider's code and message.
    pub provider_error: Option<ProviderError>,
    /// The gateway's sentence, where the provider gave no error.
    pub sentence: Option<String>,
}

/// Maximum length of a reason's sentence, in characters.
const MAX_REASON_CHARS: usize = 200;

impl Reason {
    /// Returns a reason with a sentence of the gateway, cut to 200 characters.
    pub fn sentence(sentence: impl Into<String>) -> Self {
        let mut sentence = sentence.into();
        if let Some((end, _)) = sentence.char_indices().nth(MAX_REASON_CHARS) {
            sentence.truncate(end);
        }
        Self { provider_error: None, sentence: Some(sentence) }
    }
}

impl From<&Error> for Reason {
    fn from(error: &Error) -> Self {
        match error.provider_error() {
            Some(provider_error) => Self { provider_error: Some(provider_error.clone()), sentence: None },
            None => Self::sentence(error.to_string()),
        }
    }
}

/// Result of [`Ledger::record`](crate::Ledger::record).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The notification was new and is durable.
    Applied(RecordId),
    /// The notification was recorded before, or changes nothing. It is durable as well.
    Duplicate,
    /// This amount was refunded outside this gateway. The merchant gets an event.
    RefundedElsewhere(RecordId, Money),
    /// The notification is about a refund made outside this gateway that returned no money, or whose result the
    /// notification does not prove. The refund is recorded and durable; an open result is queried. Carries the reason
    /// for a manual review, if one is needed.
    RefundElsewhere(RecordId, Option<&'static str>),
    /// The order does not exist here.
    UnknownOrder,
    /// Amount, currency or channel differ from the record. A mismatch event is published; the payment is unchanged.
    Mismatch(RecordId),
}

/// Event for the merchant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Event id, `evt_…`, ordered by time.
    pub id: String,
    /// Type, as in `payment.succeeded`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Time of the event.
    pub created_at: Timestamp,
    /// Record that the event is about.
    pub subject: RecordId,
    /// The payment or refund at that time.
    pub data: Record,
}

/// Event that is to be delivered to one sink of a merchant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Event to deliver.
    pub event: Event,
    /// Sink that gets the event.
    pub sink: SinkName,
    /// Payment method, also of a refund's payment. `None` for the webhook, which does not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Due time of the next attempt.
    pub due: Timestamp,
    /// Number of attempts so far.
    pub tries: u32,
}

/// Size of the backlog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Undelivered events; an event counts once for each sink that has not received it.
    pub deliveries: u64,
    /// Undelivered events by name of the sink, over all merchants. Sinks without undelivered events are left out.
    pub deliveries_by_sink: BTreeMap<SinkName, u64>,
    /// Creation time of the oldest of these events, by name of the sink.
    pub oldest_by_sink: BTreeMap<SinkName, Timestamp>,
    /// Payments and refunds with an unknown result.
    pub unknown: u64,
    /// Time at which the oldest unknown result became unknown.
    pub oldest_unknown: Option<Timestamp>,
    /// Jobs that no process has dequeued.
    pub jobs: u64,
    /// Time at which the oldest of these jobs was enqueued.
    pub oldest_job: Option<Timestamp>,
}

/// Waiting events of one sink of a merchant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkQueue {
    /// Next event of each payment, with the due time of its next attempt.
    pub next: Vec<(String, Timestamp)>,
    /// Number of events, those behind the next ones included.
    pub waiting: u64,
}

/// Page of a merchant's events, in the order in which every gateway of the ledger returns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Events after the cursor.
    pub events: Vec<Event>,
    /// Id of the last event of the page, which may be unreadable; `None` for an empty page.
    pub next: Option<String>,
    /// True if no event follows the page now.
    pub is_last: bool,
    /// True if events are withheld until an older transaction has ended. Tollgate's own take milliseconds; one of another
    /// program on the server may take hours.
    pub is_withheld: bool,
    /// True if the event of the cursor is no longer retained. Events after it may have been purged unread.
    pub is_expired: bool,
}

/// Result of a request to deliver an event again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivered {
    /// The event is due now.
    Accepted,
    /// The idempotency key was used before for this event. Nothing was changed.
    Repeated,
    /// No sink of the merchant gets events of this type. Nothing was changed.
    NoSink,
    /// The event was requested too often within a day. Nothing was changed.
    TooOften {
        /// Time after which a further request is accepted, in seconds.
        retry_after: u64,
    },
    /// The merchant has no such event.
    NotFound,
}
