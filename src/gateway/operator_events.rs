//! Events for the operator: what happened in the gateway itself, and what to do about it.
//!
//! ```text
//! call site ─emit─▶ queue ─▶ suppression, bound per minute ─▶ the operator's sinks (`delivery::operator`)
//! breakers, certificates (watched) ─▶─┘
//! ```
//! - Emitting never waits. Events that do not fit into the queue are dropped and counted.
//! - Events are kept in memory only. Metrics and log are the complete record.

mod breakers;
mod certificates;
mod event;
mod manual_review;
mod queue;
mod suppression;

pub(crate) use self::breakers::BreakerWatch;
pub(crate) use self::certificates::CertificateWatch;
pub(crate) use self::event::{Details, OperatorEvent};
pub(crate) use self::manual_review::{REFUNDED_ELSEWHERE, manual_review};
pub use self::queue::in_progress;
pub(crate) use self::queue::{Emitted, InProgress, emit, receiver};
pub(crate) use self::suppression::Suppressor;
