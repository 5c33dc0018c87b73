//! How much each merchant uses now. It is kept by name, beside the configuration, so that a reload forgets nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tollgate_plugins::filter::limit::{Over, Place, Usage};

use crate::config::Merchant;

/// The merchants' usage.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<String, Arc<Usage>>>);

impl Limits {
    /// Lets a request in (the place is given back when dropped), or says after how many seconds to come again.
    pub fn enter(&self, merchant: &Merchant, now: Duration) -> Result<Option<Place>, u64> {
        let Some(allowance) = &merchant.limit else { return Ok(None) };
        let usage = {
            let mut known = self.0.lock();
            match known.get(&merchant.name) {
                Some(usage) => Arc::clone(usage),
                None => Arc::clone(known.entry(merchant.name.clone()).or_default()),
            }
        };
        match usage.enter(allowance, now) {
            Ok(place) => Ok(Some(place)),
            Err(Over::Rate(seconds) | Over::InFlight(seconds)) => Err(seconds),
        }
    }
}
