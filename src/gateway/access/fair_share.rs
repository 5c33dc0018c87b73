//! Limits concurrent requests per merchant, so that one merchant cannot occupy the whole gateway.
//!
//! Counters instead of a `tokio` semaphore per merchant: the limit changes with a reload, and a semaphore cannot be lowered while its
//! permits are in use. Nobody waits here, so no queue is needed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Number of concurrent requests per merchant.
#[derive(Clone, Default)]
pub struct FairShare(Arc<Mutex<HashMap<String, u32>>>);

/// One concurrent request of a merchant, until dropped.
pub struct FairSharePermit {
    owner: FairShare,
    merchant: String,
}

impl FairShare {
    /// Admits a request; `None` if `maximum` requests of the merchant are in progress.
    pub fn enter(&self, merchant: &str, maximum: u32) -> Option<FairSharePermit> {
        let mut shares = self.0.lock();
        let count = shares.entry(merchant.to_owned()).or_default();
        if *count >= maximum {
            return None;
        }
        *count += 1;
        drop(shares);
        Some(FairSharePermit { owner: self.clone(), merchant: merchant.to_owned() })
    }
}

impl Drop for FairSharePermit {
    fn drop(&mut self) {
        let mut shares = self.owner.0.lock();
        if let Some(count) = shares.get_mut(&self.merchant) {
            *count -= 1;
            if *count == 0 {
                shares.remove(&self.merchant);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn merchant_over_share_is_rejected_others_admitted() {
        let shares = FairShare::default();
        let (first, second) = (shares.enter("a", 2).unwrap(), shares.enter("a", 2).unwrap());
        assert!(shares.enter("a", 2).is_none());
        let other = shares.enter("b", 2).unwrap();
        drop(first);
        let again = shares.enter("a", 2).unwrap();
        drop((second, other, again));
        assert!(shares.0.lock().is_empty(), "a merchant without requests uses no memory");
    }
}
