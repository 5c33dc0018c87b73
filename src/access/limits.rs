//! How much each merchant uses now. It is kept by name, beside the configuration, so that a reload forgets nothing.
//!
//! With Redis the rate is counted for all machines, on the nonce's way (`cache::nonces`); requests at the same time are
//! counted on each machine, because a machine that dies could not give back its places.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tollgate_plugins::filter::limit::{LimitExceeded, Limiter, Permit};

use crate::config::Merchant;

/// The merchants' usage.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<String, Arc<Limiter>>>);

impl Limits {
    /// Lets a request in (the place is given back when dropped), or says after how many seconds to come again.
    pub fn place(&self, merchant: &Merchant) -> Result<Option<Permit>, u64> {
        let Some(allowance) = &merchant.limit else { return Ok(None) };
        self.usage(merchant).acquire(allowance).map(Some).map_err(seconds)
    }

    /// Takes a token of the merchant's rate, or says after how many seconds there is one.
    pub fn token(&self, merchant: &Merchant, now: Duration) -> Result<(), u64> {
        let Some(allowance) = &merchant.limit else { return Ok(()) };
        self.usage(merchant).take_token(allowance, now).map_err(seconds)
    }

    fn usage(&self, merchant: &Merchant) -> Arc<Limiter> {
        let mut known = self.0.lock();
        match known.get(&merchant.name) {
            Some(usage) => Arc::clone(usage),
            None => Arc::clone(known.entry(merchant.name.clone()).or_default()),
        }
    }
}

fn seconds(over: LimitExceeded) -> u64 {
    let (LimitExceeded::Rate(seconds) | LimitExceeded::InFlight(seconds)) = over;
    seconds
}
