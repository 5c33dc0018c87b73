//! No merchant has all of the gateway: who floods it is turned away while there are places for the others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// How many requests of each merchant are being served.
#[derive(Clone, Default)]
pub struct FairShare(Arc<Mutex<HashMap<String, u32>>>);

/// One of them; given back when dropped.
pub struct FairSharePermit {
    shares: FairShare,
    merchant: String,
}

impl FairShare {
    /// Lets a merchant's request in, unless so many of them are being served.
    pub fn enter(&self, merchant: &str, most: u32) -> Option<FairSharePermit> {
        let mut shares = self.0.lock();
        let inside = shares.entry(merchant.to_owned()).or_default();
        if *inside >= most {
            return None;
        }
        *inside += 1;
        drop(shares);
        Some(FairSharePermit { shares: self.clone(), merchant: merchant.to_owned() })
    }
}

impl Drop for FairSharePermit {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock();
        if let Some(inside) = shares.get_mut(&self.merchant) {
            *inside -= 1;
            if *inside == 0 {
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
    fn who_has_its_share_waits_and_others_do_not() {
        let shares = FairShare::default();
        let (first, second) = (shares.enter("a", 2).unwrap(), shares.enter("a", 2).unwrap());
        assert!(shares.enter("a", 2).is_none());
        let other = shares.enter("b", 2).unwrap();
        drop(first);
        let again = shares.enter("a", 2).unwrap();
        drop((second, other, again));
        assert!(shares.0.lock().is_empty(), "nothing is remembered of who is not there");
    }
}
