//! Payment knowledge of Tollgate: providers, filters and signers. It uses no network, disk, clock or async runtime.
//!
//! | module | content |
//! |---|---|
//! | [`payment`] | vocabulary: operation, outcome, money, status, event |
//! | [`error`] | errors of an operation, sorted by "may money have moved?" |
//! | [`provider`] | trait that a payment company's protocol implements |
//! | [`filter`] | wrappers of a provider call: breaker, retry, limit, adaptive |
//! | [`signer`] | signature algorithms and readers of key files |
//! | [`registry`] | tables of all providers, filters and algorithms |
//! | [`settings`] | reader of a plugin's TOML table that reports every error |
//! | [`secret`] | byte string that is never printed |

pub mod error;
pub mod filter;
pub mod payment;
pub mod provider;
pub mod registry;
pub mod secret;
pub mod settings;
pub mod signer;
#[cfg(test)]
mod tests;
