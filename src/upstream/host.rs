//! One host of a provider and where it is: looked up in the background, the last good addresses kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::config::Host;

/// How old a looked-up address may be before it is looked up again.
const ADDRESS_AGE: Duration = Duration::from_secs(30);

/// One host, with what is known of where it is.
pub(super) struct KnownHost {
    pub(super) host: Host,
    literal: Option<SocketAddr>,
    known: ArcSwapOption<Known>,
    looking: AtomicBool,
    /// Milliseconds since the upstream was made, 0 for never.
    pub(super) failed_at: AtomicU64,
}

struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
    next: AtomicU64,
}

impl KnownHost {
    pub(super) fn new(host: Host) -> Self {
        let literal = host.name.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, host.port));
        Self {
            host,
            literal,
            known: ArcSwapOption::empty(),
            looking: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
        }
    }

    /// An address to connect to. Only the first look-up is waited for; later ones happen in the background while the
    /// last good addresses are used, so that a name server's trouble is not the payments' trouble.
    pub(super) async fn address(self: &Arc<Self>, limit: Duration) -> Result<SocketAddr, String> {
        if let Some(address) = self.literal {
            return Ok(address);
        }
        if let Some(known) = self.known.load_full() {
            if known.at.elapsed() > ADDRESS_AGE && !self.looking.swap(true, Ordering::AcqRel) {
                let host = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(why) = host.look_up(limit).await {
                        tracing::warn!(
                            host = host.host.name,
                            why,
                            "cannot refresh the address; the last good one stays"
                        );
                    }
                    host.looking.store(false, Ordering::Release);
                });
            }
            return Ok(known.pick());
        }
        self.look_up(limit).await.map(|known| known.pick())
    }

    async fn look_up(&self, limit: Duration) -> Result<Arc<Known>, String> {
        let found = tokio::time::timeout(limit, tokio::net::lookup_host((self.host.name.as_str(), self.host.port)))
            .await
            .map_err(|_| "the name server did not answer in time".to_owned())?
            .map_err(|error| format!("the name cannot be looked up: {error}"))?;
        let addresses: Vec<_> = found.collect();
        if addresses.is_empty() {
            return Err("the name has no address".to_owned());
        }
        let known = Arc::new(Known { addresses, at: Instant::now(), next: AtomicU64::new(0) });
        self.known.store(Some(Arc::clone(&known)));
        Ok(known)
    }

    /// After a failed connection the next address of the host is the first to be tried.
    pub(super) fn forget_address(&self) {
        if let Some(known) = self.known.load().as_ref() {
            known.next.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Known {
    fn pick(&self) -> SocketAddr {
        self.addresses[self.next.load(Ordering::Relaxed) as usize % self.addresses.len()]
    }
}
