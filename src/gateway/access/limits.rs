//! Rate and concurrency limits of merchants. Usage is stored by merchant name outside the configuration, so a reload
//! keeps it.
//!
//! With Redis the rate is counted for all gateways together with the nonce (`cache::nonces`). Concurrency is counted
//! per gateway, because a crashed gateway could not release its permits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tollgate_config::Merchant;
use tollgate_plugins::filter::limit::{LimitExceeded, Limiter, Permit};

/// Current usage of each merchant.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<String, Arc<Limiter>>>);

impl Limits {
    /// Takes a concurrency permit, until dropped. The error is the number of seconds until a retry.
    pub fn acquire(&self, merchant: &Merchant) -> Result<Option<Permit>, u64> {
        let Some(allowance) = &merchant.limit else { return Ok(None) };
        self.usage(merchant).acquire(allowance).map(Some).map_err(seconds)
    }

    /// Takes a token of the merchant's rate. The error is the number of seconds until the next token.
    pub fn take_token(&self, merchant: &Merchant, now: Duration) -> Result<(), u64> {
        let Some(allowance) = &merchant.limit else { return Ok(()) };
        self.usage(merchant).take_token(allowance, now).map_err(seconds)
    }

    fn usage(&self, merchant: &Merchant) -> Arc<Limiter> {
        let mut limiters = self.0.lock();
        match limiters.get(&merchant.name) {
            Some(usage) => Arc::clone(usage),
            None => Arc::clone(limiters.entry(merchant.name.clone()).or_default()),
        }
    }
}

fn seconds(over: LimitExceeded) -> u64 {
    let (LimitExceeded::Rate(seconds) | LimitExceeded::InFlight(seconds)) = over;
    seconds
}
