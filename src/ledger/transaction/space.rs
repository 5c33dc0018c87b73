//! Key spaces of the rows.

/// Key spaces. Records are keyed by time, because sorted writes are cheap; small hash indexes lead to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Space {
    /// Id → payment.
    Payments,
    /// Id → refund.
    Refunds,
    /// Id → claim.
    Claims,
    /// Ids of running claims, for recovery after a crash.
    Running,
    /// Hash of an idempotency key → claim's id and the request's fingerprint.
    Keys,
    /// Hash of a number → id of the payment or refund.
    Index,
    /// Id → event.
    Events,
    /// Due time, id of the event, sink → attempts, id of the payment, subscription. Contains only the heads of the
    /// payments' queues, one for each sink.
    Outbox,
    /// Due time, tag, id: pending inquiries.
    Inquiries,
    /// Time, tag, id: records with an unknown result.
    Unknown,
    /// Hash of channel and notification → what was done with it.
    Notifications,
    /// Id of the payment → its timeline.
    Timeline,
    /// List, time, hash: keys and notifications by age, and the ledger's own clock.
    Expiry,
    /// Due time, claim: queued jobs.
    Jobs,
    /// Hash of the merchant, id of the event: the events of a merchant in the order in which it reads them.
    MerchantEvents,
}

impl Space {
    /// All spaces in the order of declaration. The position is the number in the embedded ledger's log, so new ones
    /// are appended.
    pub(crate) const ALL: [Self; 15] = [
        Self::Payments,
        Self::Refunds,
        Self::Claims,
        Self::Running,
        Self::Keys,
        Self::Index,
        Self::Events,
        Self::Outbox,
        Self::Inquiries,
        Self::Unknown,
        Self::Notifications,
        Self::Timeline,
        Self::Expiry,
        Self::Jobs,
        Self::MerchantEvents,
    ];

    /// Returns whether the keys are unordered hashes.
    pub(crate) fn is_hashed(self) -> bool {
        matches!(self, Self::Keys | Self::Index | Self::Notifications)
    }

    /// Returns the name on disk.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Payments => "payments",
            Self::Refunds => "refunds",
            Self::Claims => "claims",
            Self::Running => "running",
            Self::Keys => "keys",
            Self::Index => "index",
            Self::Events => "events",
            Self::Outbox => "outbox",
            Self::Inquiries => "inquiries",
            Self::Unknown => "unknown",
            Self::Notifications => "seen",
            Self::Timeline => "timeline",
            Self::Expiry => "ages",
            Self::Jobs => "jobs",
            Self::MerchantEvents => "merchant_events",
        }
    }
}
