//! Durable state of the gateway: claims, payments, refunds, events and their timelines.
//!
//! ```text
//! claim_key ─▶ claim ─▶ (reroute) ─▶ settle | release            executed once
//! notify ──────▶ record          resolver ─▶ due_inquiries, apply, save_inquiry
//!                   └─▶ event ─▶ outbox ─▶ delivery: due_deliveries, delivered | postpone
//! ```
//! [`Ledger`] is the handle; each of its methods is one transaction. A method returns after its writes are durable,
//! except where its documentation says otherwise. The crate knows no configuration, no HTTP and no metrics library:
//! [`Environment`] brings the process's clock, takes measurements, and names the sinks that get an event.
//!
//! Modules, in reading order:
//!
//! | modules | purpose |
//! |---|---|
//! | `ledger`, `error`, `environment`, `limits` | the interface |
//! | `records`, `timeline`, `record_key` | what is stored and reported |
//! | `rules` | state machine of a record: pure functions |
//! | `claims`, `claim_guard` | who may execute a request, and how often |
//! | `apply`, `effects`, `notifications`, `elsewhere`, `abandoned_attempts`, `double_payment` | updates from providers |
//! | `outbox`, `event_reads`, `inquiries`, `schedule`, `due_index` | events, queries and jobs that become due |
//! | `retention`, `purge`, `known_time` | what is deleted, and when |
//! | `shared_secret`, `rows`, `refunds`, `histories`, `names`, `ids`, `transaction`, `lock_scope`, `change_feed` | rows, their keys and transactions |
//! | `engine`, `embedded`, `postgres` | what makes the bytes durable: one machine, or several |
//! | `migrate`, `moved` | from the first engine to the second |

mod abandoned_attempts;
mod apply;
mod change_feed;
mod claim_guard;
mod claims;
mod double_payment;
mod due_index;
mod effects;
mod elsewhere;
mod embedded;
mod engine;
mod environment;
mod error;
mod event_reads;
mod histories;
mod ids;
mod inquiries;
mod known_time;
mod ledger;
mod limits;
mod lock_scope;
mod migrate;
mod moved;
mod names;
mod notifications;
mod outbox;
mod postgres;
mod purge;
mod record_key;
mod records;
mod refunds;
mod retention;
mod rows;
mod rules;
mod schedule;
mod shared_secret;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod timeline;
mod transaction;

pub use self::change_feed::{ChangeListener, Changes};
pub use self::claim_guard::ExecutionId;
pub use self::environment::{Clock, Environment, Measurement, Metrics, Reading, Subscriptions, WebhookOnly};
pub use self::error::{Cause, Corruption, LedgerError};
pub use self::event_reads::EventCursor;
pub use self::histories::PaymentHistory;
pub use self::ids::Id as ClaimId;
pub use self::known_time::{PurgeGuard, PurgeTime};
pub use self::ledger::Ledger;
pub use self::limits::{DueLimit, QueueFull, QueueLimit};
pub use self::migrate::{Moved, migrate};
pub use self::moved::{MARK, Mark, refuse_moved};
pub use self::postgres::{Address, CONNECTIONS, FEWEST_CONNECTIONS};
pub use self::purge::Purge;
pub use self::record_key::{MerchantKey, RecordKey, Version};
pub use self::records::{
    Answer, Backlog, ClaimKey, ClaimResult, CreateRequest, Delivery, Destination, ELSEWHERE_PREFIX, Event, EventPage,
    ExecutionPermit, Inquiry, Intent, Job, MAX_REPEATED_CREATES, MoneyState, Payment, Reason, Record, RecordId,
    RecordState, Recorded, Redelivered, Refund, SinkName, SinkQueue, Update, merchants_order_id,
};
pub use self::retention::RetentionPolicy;
pub use self::timeline::{
    BodyDigest, BytesSent, Entry, IntentKind, LossCause, Notification, NotificationVerdict, Origin, ProviderCall,
    Timeline, TimelineEvent, UpdateWithEvidence,
};

/// Default reserve in bytes: disk space kept free so that claims in progress can still be completed.
pub const RESERVE: u64 = 256 << 20;
