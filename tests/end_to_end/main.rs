//! End-to-end tests on real sockets: the gateway as a process, the sandbox as provider, a merchant with a webhook.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod access;
mod admin;
mod alerts;
mod alipay;
mod bills;
mod breaker;
mod browser;
mod chaos;
mod clocks;
mod cluster;
mod contract;
mod dashboard;
mod degrade;
mod delivery_outages;
mod documentation;
mod duplicate_payment;
mod events_pull;
mod full_disk;
mod harness;
mod hosts;
mod idempotency;
mod identities;
mod isolation;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_broker;
mod key_files;
mod key_rotation;
mod keys;
mod ledger_files;
mod load;
mod log;
mod malformed;
mod migration;
mod nonces;
mod notifications;
mod operator_events;
mod paths;
mod payer;
mod payments;
mod providers;
mod queue;
mod rabbitmq;
mod receiver;
mod redelivery;
mod redis;
mod reload;
mod replays;
mod routing;
mod sdk_conformance;
#[path = "../servers/server.rs"]
mod server;
mod shutdown;
mod sinks;
mod source;
mod status_cache;
mod stores;
mod timeline;
mod untrusted_clients;
mod wait;
mod watch;
