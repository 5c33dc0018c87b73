//! Tollgate, the machine: what nobody may configure away. Payment knowledge is in the crate `tollgate_plugins`.
#![allow(missing_docs, unused, unreachable_pub)]
pub mod config;
pub mod keygen;
pub mod ledger;
pub mod sandbox;
pub mod telemetry;
pub mod upstream;
