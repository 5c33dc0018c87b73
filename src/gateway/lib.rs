//! The running gateway. Payment knowledge (providers, filters, signers) is in the crate `tollgate_plugins`, durable state in
//! `tollgate_ledger`, the TOML files in `tollgate_config`. The binary `tollgate` starts and stops what is here.
//!
//! # Request path
//! ```text
//! merchant ─HTTP─▶ proxy          head and body, bounded; admission by the head   400 401 404 405 408 413 417 503
//!    gateway       snapshot       one configuration generation for the whole request
//!                  authenticate   signature → merchant                     401
//!                  rate limit · fair share · nonce · client deadline        429, 401, 503, 400
//!                  parse          → operation                              400
//!                  route          → channels, best first                   503 no_route, maintenance; 400 unknown_channel
//!                  claim          durable: replay · 409 in progress · 422 key reused
//!                  filters        limit ▶ retry ▶ breaker ▶ adaptive ▶ (those that the channel configures)
//!                  provider call  encode ▶ sign ▶ upstream ═mTLS═▶ provider; decode ◀ verify ◀═
//!                  settle         recorded before anyone sees it
//! proxy ─HTTP─▶ merchant
//! ```
//! Down to the client deadline this is `Gateway::serve` for every operation. The rest is `create_payment`. A refund and
//! a close use the payment's channel instead of a route. A queued payment is claimed in the same way; after it is
//! dequeued, it is routed again and goes on at the filters, in `execute_payment`.
//!
//! # Notification path
//! ```text
//! provider ─HTTP─▶ proxy ─▶ notifications: verify ▶ decode ▶ ledger.record (dedupe + outbox, one transaction) ▶ acknowledge
//!                           delivery: due ▶ sign ▶ send ▶ delivered | retry
//! ```
//!
//! The `resolver` determines unknown outcomes by querying providers. An asynchronous request (`prefer:
//! respond-async`) is claimed and enqueued; the `job_worker` of any gateway executes it. A `source` takes such requests from a
//! merchant's message queue.

pub mod access;
pub mod cache;
pub mod change_hub;
pub mod clock;
pub mod delivery;
pub mod job_worker;
pub mod listener;
pub mod open_ledger;
pub mod operations;
pub mod operator_events;
pub mod probe;
pub mod problem;
pub mod provider_client;
pub mod provider_keys;
pub mod proxy;
pub mod purge_worker;
pub mod reload;
pub mod resolver;
pub mod routing;
pub mod snapshot;
pub mod source;
mod task_pool;
pub mod telemetry;
pub mod upstream;
pub mod view;
pub mod workers;
