//! Tollgate, the machine: what nobody may configure away. Payment knowledge is in the crate `tollgate_plugins`.
#![allow(missing_docs, unused, unreachable_pub)]
pub mod config;
pub mod ledger;
pub mod telemetry;
pub mod upstream;
