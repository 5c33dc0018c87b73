//! Tollgate, the machine: what nobody may configure away. Payment knowledge is in the crate `tollgate_plugins`.
//!
//! # The request's way
//! ```text
//! merchant ─HTTP─▶ proxy      reads head and body, both bounded
//!    gateway      one configuration snapshot for the whole request
//!    access       → merchant            401 before anything else is looked at
//!    form         → what is asked       400 when it cannot be understood
//!    ledger       claim, durable ─▶ done before: the old answer · busy: 409 · other body: 422
//!    routing      → channels, best first
//!    filters      limit ▶ retry ▶ breaker ▶
//!    exchange     encode ▶ sign ▶ upstream ═mTLS═▶ provider
//!                 decode ◀ verify ◀═══════════════
//!    ledger       settle: recorded before anyone hears it
//! proxy ─HTTP─▶ merchant
//! ```
//!
//! # The notification's way
//! ```text
//! provider ─HTTP─▶ proxy ─▶ notify: verify (else refuse) ▶ decode ▶ ledger.record (dedupe + outbox, one transaction)
//!          ◀────────────── acknowledge, only once it is durable
//! and later  delivery: due ▶ sign ▶ send ▶ delivered | again
//! ```
//!
//! What ended unclear is found out by `resolve`, which asks providers until it knows. What nobody waits for (`prefer:
//! respond-async`) is claimed as accepted, and `queue` goes the same way from the routing on, on any machine.

pub mod access;
pub mod admin;
pub mod cache;
pub mod chaos;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod demo;
pub mod exchange;
pub mod explain;
pub mod gateway;
mod harness;
mod idempotency;
mod job_worker;
pub mod keygen;
pub mod ledger;
mod listener;
mod notifications;
mod output;
mod pem;
pub mod probe;
pub mod problem;
pub mod provider_keys;
pub mod proxy;
pub mod purge_worker;
pub mod resolver;
pub mod routing;
pub mod sandbox;
pub mod server;
pub mod sign;
mod task_pool;
pub mod telemetry;
pub mod upstream;
pub mod view;

/// The C library's makes threads wait for each other where one frees what another made, as the ledger's do: a sixth of a claim.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
