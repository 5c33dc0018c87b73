//! Configuration of Tollgate: reads a directory of TOML files into a typed [`Config`], or lists every error with file and line.
//!
//! ```text
//! DIR/tollgate.toml ─▶ Process ───────┐
//! DIR/merchants/*   ─▶ Merchant ──────┼─▶ Config, if no file has an error
//! DIR/channels/*    ─▶ ChannelConfig ─┤
//! DIR/routes.toml   ─▶ RouteRules ────┘
//! ```
//!
//! A [`Config`] holds values only. The gateway links them to what lives: connections, ledger, cache, metrics. This crate
//! therefore knows no socket, no async runtime and no ledger. Checks that need a library with sockets are arguments
//! ([`ValueChecks`]). Protocols of providers, filters and signing keys are checked by `tollgate_plugins`.
//!
//! Modules in reading order:
//! - `load`: the directory; `model`: the result; `notes`: its warnings; [`diff`]: what changed since a generation before.
//! - `tollgate_toml`, `merchant`, `channel`, `routes`: one file each. `server`, `webhook`, `sinks`, `sources`, `ledger`, `cache`,
//!   `telemetry`, `upstream`, `keys`, `filters`: their sections.
//! - `toml_file`, `dependencies`, `file_source`, `archive`: access to files; `identity`, `pair`, `key_file`, `key_cache`: keys
//!   and certificates in them.
//! - [`schema`]: JSON Schemas, derived from the readers. [`NamedLedger`]: the ledger of a directory that has errors.

mod address;
mod archive;
mod cache;
mod channel;
mod condition;
mod config_name;
pub mod cpu;
mod dependencies;
mod destination;
mod diagnostics;
pub mod diff;
mod file_content;
mod file_source;
mod filters;
mod identity;
mod key_cache;
mod key_file;
mod keys;
mod ledger;
mod load;
mod merchant;
mod model;
mod named;
mod notes;
mod now;
mod pair;
mod process;
mod routes;
pub mod schema;
mod secret;
mod server;
mod sinks;
mod sources;
pub mod special_purpose;
mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time_windows;
mod token;
mod tollgate_toml;
mod toml_file;
mod upstream;
mod value_checks;
mod webhook;

pub use self::address::Address;
pub use self::archive::Archive;
pub use self::cache::{CacheKind, MAX_STATUS_TTL, RedisUrl, StatusTtl};
pub use self::channel::{BillSettings, ChannelConfig};
pub use self::condition::{Condition, Hours, Question};
pub use self::config_name::is_name;
pub use self::diagnostics::Diagnostic;
pub use self::ledger::{
    DEFAULT_CONNECTIONS, DEFAULT_MAX_CLOCK_OFFSET, DEFAULT_MIN_FREE_DISK, LedgerConfig, MIN_CONNECTIONS, PostgresUrl,
    Retention,
};
pub use self::load::{Loaded, load, load_archived};
pub use self::merchant::Merchant;
pub use self::model::{Config, Sources};
pub use self::named::NamedLedger;
pub use self::notes::warnings;
pub use self::now::Now;
pub use self::pair::{CertificateEnd, Identity};
pub use self::process::{AutoRollback, Process, Queue};
pub use self::routes::{DoublePayment, Refusal, Route, RouteRules};
pub use self::server::{ServerLimits, ServerTls};
pub use self::sinks::{
    AmqpUrl, BrokerAddress, EventFilter, KafkaConfig, OperatorEventType, RabbitMqConfig, RoutingKey, RoutingValues,
    SaslConfig, SaslMechanism, SinkConfig, SinkKind,
};
pub use self::sources::SourceConfig;
pub use self::telemetry::DEFAULT_LOG_BUFFER;
pub use self::token::Token;
pub use self::upstream::{Host, MAX_ANSWER_SIZE, Pool, Timeouts, UpstreamSettings};
pub use self::value_checks::ValueChecks;
pub use self::webhook::Webhook;
