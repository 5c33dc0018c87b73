//! Health of the server, as last observed.

use parking_lot::Mutex;

/// Observer of the server's health.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// Worker threads.
    Pool,
    /// Thread that renews the lease.
    Keeper,
}

/// Reasons why the server is unusable, by observer.
#[derive(Default)]
pub(super) struct Health(Mutex<[Option<String>; 2]>);

impl Health {
    #[cfg(test)]
    pub(super) fn is_good(&self) -> bool {
        self.why().is_none()
    }

    pub(super) fn why(&self) -> Option<String> {
        self.0.lock().iter().flatten().next().cloned()
    }

    pub(super) fn good(&self, part: Part) {
        let mut reasons = self.0.lock();
        let was_bad = reasons.iter().any(Option::is_some);
        reasons[part as usize] = None;
        if was_bad && reasons.iter().all(Option::is_none) {
            tracing::info!("the ledger is reachable again");
        }
    }

    pub(super) fn bad(&self, part: Part, why: &str) {
        let mut reasons = self.0.lock();
        let was_good = reasons.iter().all(Option::is_none);
        reasons[part as usize] = Some(why.to_owned());
        if was_good {
            tracing::error!(why, "the ledger cannot be reached: nothing is sent until it is back");
        }
    }
}
