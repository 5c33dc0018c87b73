//! Interface to the ledger's process: the authoritative clock, a receiver of measurements, and the merchants' sinks.

use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use crate::records::SinkName;

/// Clock, metrics and subscriptions of the process. Clones share them.
#[derive(Clone)]
pub struct Environment {
    /// The authoritative clock.
    pub clock: Arc<dyn Clock>,
    /// Receiver of measurements.
    pub metrics: Arc<dyn Metrics>,
    /// Sinks of the merchants.
    pub subscriptions: Arc<dyn Subscriptions>,
}

impl Environment {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.reading().now
    }
}

/// Authoritative clock of a process: PostgreSQL's if the ledger is in PostgreSQL, else the machine's own.
pub trait Clock: Send + Sync {
    /// Reads the clock.
    fn reading(&self) -> Reading;

    /// Records PostgreSQL's time, measured in a round trip from `sent` to `received`.
    fn measured(&self, sent: Instant, received: Instant, time: Timestamp);
}

/// The authoritative time and how long its clock has run without a step.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The authoritative time.
    pub now: Timestamp,
    /// Time that the clock has run without a step, at most since the start of this process.
    pub steady_for: SignedDuration,
}

impl Reading {
    /// Returns the certain age of `since`. A clock step or a restart makes it shorter, never longer. Irreversible
    /// decisions use this age.
    pub fn certain_age(&self, since: Timestamp) -> SignedDuration {
        self.now.duration_since(since).min(self.steady_for)
    }
}

/// Sinks of the merchants, as they are configured at present.
pub trait Subscriptions: Send + Sync {
    /// Returns the sinks that get an event of this type, each once. Called within transactions, so it must not block.
    fn sinks(&self, merchant: &str, event_type: &str) -> Vec<SinkName>;
}

/// Every merchant has a webhook for all events, and no other sink.
pub struct WebhookOnly;

impl Subscriptions for WebhookOnly {
    fn sinks(&self, _: &str, _: &str) -> Vec<SinkName> {
        vec![SinkName::WEBHOOK]
    }
}

/// Receiver of measurements. Called on the ledger's threads, so it must not block.
pub trait Metrics: Send + Sync {
    /// Records one measurement.
    fn record(&self, measurement: Measurement<'_>);
}

/// One measurement of the ledger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measurement<'a> {
    /// Seconds of one commit, its fsync included.
    CommitSeconds(f64),
    /// Number of transactions in one commit.
    BatchSize(usize),
    /// A single payment or refund was read.
    Read,
    /// Expired rows were purged from one key space.
    Purged {
        /// Name of the key space.
        rows: &'static str,
        /// Number of rows.
        count: u64,
    },
    /// Age of the oldest retained row of one kind.
    OldestRow {
        /// Kind of the row.
        kind: &'static str,
        /// Age in seconds; 0 if there is no row.
        seconds: f64,
    },
    /// Money was found on a channel that its payment was moved away from.
    DoublePayment {
        /// That channel.
        channel: &'a str,
    },
    /// Claims were ended because their owner is gone, or because no execution held them.
    ClaimsTakenOver(u64),
}
