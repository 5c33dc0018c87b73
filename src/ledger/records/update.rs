//! What becomes known of payments and refunds, and what merchants are told of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::error::{Error, ProviderError};
use tollgate_plugins::payment::{Money, Outcome, Status};

use super::{Record, RecordId};

/// What is newly known about a payment or refund.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The provider's verified outcome. A `Closed` for a refund never happens.
    Outcome(Outcome),
    /// The provider refused; final, no money moved.
    Declined(ProviderError),
    /// Something was sent and no trustworthy answer came.
    Unknown(Reason),
    /// Known after all: the provider never had it (believed after the settle window, twice).
    NotFoundAtProvider,
    /// A payment's time is surely over and the provider does not know it: nobody has opened it, and nobody can any more.
    Expired,
    /// Provably nothing was sent, and nothing will be: it was given up (failed) or taken back (closed).
    NotSent(Status, Reason),
}

/// Why a record stands as it does: the provider's word where it gave one, else a sentence of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The provider's code and message.
    pub word: Option<ProviderError>,
    /// The gateway's sentence, where the provider gave no word.
    pub sentence: Option<String>,
}

/// The longest sentence of a reason, in characters.
const LONGEST_REASON: usize = 200;

impl Reason {
    /// A sentence of the gateway.
    pub fn sentence(sentence: impl Into<String>) -> Self {
        let mut sentence = sentence.into();
        if let Some((end, _)) = sentence.char_indices().nth(LONGEST_REASON) {
            sentence.truncate(end);
        }
        Self { word: None, sentence: Some(sentence) }
    }
}

impl From<&Error> for Reason {
    fn from(error: &Error) -> Self {
        match error.word() {
            Some(word) => Self { word: Some(word.clone()), sentence: None },
            None => Self::sentence(error.to_string()),
        }
    }
}

/// What [`Ledger::record`](crate::ledger::Ledger::record) did with a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was news and is durable.
    Applied(RecordId),
    /// It had been recorded before, or says nothing new; durable all the same.
    Duplicate,
    /// So much went back to the payer by a refund that was not made here; an event tells the merchant.
    RefundedElsewhere(RecordId, Money),
    /// It is about a refund that was not made here and by which no money has gone back; the timeline has it. With the reason why a
    /// person must look at it, if one must.
    RefundElsewhere(RecordId, Option<&'static str>),
    /// It is about a refund, and the payment's success is not known yet: the provider is asked. Nothing is recorded of the refund,
    /// so the provider must send the notification again.
    TooEarly(RecordId),
    /// No such order here.
    UnknownOrder,
    /// Amount, currency or channel differ from ours; an event `mismatch` is recorded, the payment is unchanged.
    Mismatch(RecordId),
}

/// What the merchant is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `evt_…`, ordered by time.
    pub id: String,
    /// As in `payment.succeeded`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub created_at: Timestamp,
    /// What it is about.
    pub subject: RecordId,
    /// The payment or refund as it was then.
    pub data: Record,
}

/// One event on its way to a merchant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// What is told.
    pub event: Event,
    /// When the next try is due.
    pub due: Timestamp,
    /// Tries so far.
    pub tries: u32,
}

/// How much is waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Deliveries.
    pub deliveries: u64,
    /// Payments and refunds whose end is unknown.
    pub unknown: u64,
    /// Since when the oldest of them is.
    pub oldest_unknown: Option<Timestamp>,
    /// What was accepted to be made later and that nobody has taken.
    pub jobs: u64,
    /// Since when the oldest of it waits.
    pub oldest_job: Option<Timestamp>,
}
