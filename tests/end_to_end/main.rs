//! Everything together, on real sockets: the gateway as its own process, the sandbox as provider, a merchant with a webhook.
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
mod alipay;
mod bills;
mod breaker;
mod chaos;
mod clocks;
mod cluster;
mod contract;
mod degrade;
mod dialects;
mod documentation;
mod double;
mod full_disk;
mod graceful;
mod harness;
mod hosts;
mod identities;
mod isolation;
mod key_files;
mod keys;
mod ledger_files;
mod load;
mod log;
mod malformed;
mod moving;
mod nonces;
mod notifications;
mod once;
mod paths;
mod payer;
mod payments;
mod queue;
mod receiver;
mod redis;
mod reload;
mod replays;
mod rotation;
mod routing;
mod sdk_conformance;
#[path = "../servers/server.rs"]
mod server;
mod statuses;
mod stores;
mod strangers;
mod timeline;
