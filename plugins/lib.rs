//! What Tollgate knows about payments, and nothing about machines: no network, disk, clock or async runtime in here.
//!
//! | module | tells |
//! |---|---|
//! | [`payment`] | the words: operation, outcome, money, status, event |
//! | [`error`] | what can go wrong, sorted by "may money have moved?" |
//! | [`provider`] | how a payment company's dialect plugs in, and the table of those that exist |
//! | [`filter`] | what stands around the call to a channel: breaker, retry, limit |
//! | [`signer`] | algorithms with a key in them, and the table of those that exist |
//! | [`settings`] | how a plugin reads its part of a TOML file and says every mistake in it |
//! | [`secret`] | a value that is never printed |

pub mod error;
pub mod filter;
pub mod payment;
pub mod provider;
pub mod secret;
pub mod settings;
pub mod signer;
