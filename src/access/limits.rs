//! How much each merchant uses now. It is kept by name, beside the configuration, so that a reload forgets nothing.
//!
//! With Redis the rate is counted for all machines, on the nonce's way (`cache::nonces`); requests at the same time are
//! counted on each machine, because a machine that dies could not give back its places.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tollgate_plugins::filter::limit::{Over, Place, Usage};

use super::Counted;
use crate::config::Merchant;

/// The merchants' usage.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<String, Arc<Usage>>>);

impl Limits {
    /// Lets a request in (the place is given back when dropped), or says after how many seconds to come again.
    /// `counted` is what the rate says where it was counted already.
    pub fn enter(&self, merchant: &Merchant, counted: Counted, now: Duration) -> Result<Option<Place>, u64> {
        let Some(allowance) = &merchant.limit else { return Ok(None) };
        let usage = {
            let mut known = self.0.lock();
            match known.get(&merchant.name) {
                Some(usage) => Arc::clone(usage),
                None => Arc::clone(known.entry(merchant.name.clone()).or_default()),
            }
        };
        let place = usage.place(allowance).and_then(|place| {
            let taken = counted.map(|verdict| verdict.map_err(Over::Rate));
            taken.unwrap_or_else(|| usage.token(allowance, now)).map(|()| place)
        });
        match place {
            Ok(place) => Ok(Some(place)),
            Err(Over::Rate(seconds) | Over::InFlight(seconds)) => Err(seconds),
        }
    }
}
