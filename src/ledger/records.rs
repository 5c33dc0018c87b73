//! Types of the ledger's records.

mod elsewhere;
mod inquiry;
pub(crate) mod money_state;
mod payment;
mod record;
mod refund;
mod request;
pub(crate) mod sink_name;
mod state;
mod update;

pub use self::elsewhere::ELSEWHERE_PREFIX;
pub(crate) use self::elsewhere::ElsewhereState;
pub use self::inquiry::Inquiry;
pub use self::money_state::MoneyState;
pub use self::payment::{CreateRequest, MAX_REPEATED_CREATES, Payment, merchants_order_id};
pub use self::record::{Record, RecordId};
pub use self::refund::Refund;
pub use self::request::{Answer, ClaimKey, ClaimResult, Destination, ExecutionPermit, Intent, Job};
pub use self::sink_name::SinkName;
pub use self::state::RecordState;
pub use self::update::{Backlog, Delivery, Event, EventPage, Reason, Recorded, Redelivered, SinkQueue, Update};
