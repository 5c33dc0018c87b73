//! Brokers of the configuration in force. Sinks with equal URLs share connections, because each costs a thread and about
//! 1 MiB; each sink has a channel of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tollgate_config::{AmqpUrl, RabbitMqConfig};

use super::connect;
use super::connection::{SharedConnection, WeakConnection};
use super::{IDLE_TIMEOUT, TIMEOUT};
use crate::delivery::failure::DeliveryError;

/// First and last pause after a failed connection attempt; doubles in between.
const RECONNECT_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Maximum number of brokers that are reconnected at once.
const MAX_CONCURRENT_RECONNECTS: usize = 64;
/// Maximum number of channels on one connection. The broker may stop reading a connection because of one slow queue, which
/// delays every sink on it.
const MAX_CHANNELS: usize = 32;

type HostAndPort = (String, u16);

/// Brokers that open sinks use.
pub(in crate::delivery) struct Brokers {
    brokers: Mutex<HashMap<HostAndPort, Vec<Weak<Broker>>>>,
    reconnects: Arc<Reconnects>,
}

/// State that all reconnections share.
struct Reconnects {
    permits: Semaphore,
    /// Private networks that the configuration in force permits.
    allowed: Mutex<Vec<IpNet>>,
}

/// Broker with a user and a virtual host.
pub(super) struct Broker {
    url: AmqpUrl,
    authorities: Option<Vec<Vec<u8>>>,
    /// Locked while a connection is opened, so that waiting sinks share it.
    connecting: AsyncMutex<()>,
    connections: Mutex<Vec<WeakConnection>>,
    /// Reason of the last failed attempt, while the broker is reconnected in the background.
    fault: Mutex<Option<String>>,
    /// Number of failed reconnections.
    failed: AtomicU64,
    reconnects: Arc<Reconnects>,
}

impl Brokers {
    pub(in crate::delivery) fn new() -> Self {
        let permits = Semaphore::new(MAX_CONCURRENT_RECONNECTS);
        Self { brokers: Mutex::default(), reconnects: Arc::new(Reconnects { permits, allowed: Mutex::default() }) }
    }

    /// Sets the private networks that later reconnections may enter.
    pub(in crate::delivery) fn permit(&self, allowed: &[IpNet]) {
        *self.reconnects.allowed.lock() = allowed.to_vec();
    }

    /// Returns the broker of a sink.
    pub(super) fn of(&self, config: &RabbitMqConfig) -> Arc<Broker> {
        let RabbitMqConfig { url, authorities, .. } = config;
        let mut brokers = self.brokers.lock();
        let same_host = brokers.entry((url.host.clone(), url.port)).or_default();
        same_host.retain(|broker| broker.strong_count() > 0);
        let is_it = |broker: &Arc<Broker>| broker.url == *url && broker.authorities == *authorities;
        if let Some(broker) = same_host.iter().filter_map(Weak::upgrade).find(is_it) {
            return broker;
        }
        let broker = Arc::new(Broker {
            url: url.clone(),
            authorities: authorities.clone(),
            connecting: AsyncMutex::default(),
            connections: Mutex::default(),
            fault: Mutex::default(),
            failed: AtomicU64::new(0),
            reconnects: Arc::clone(&self.reconnects),
        });
        same_host.push(Arc::downgrade(&broker));
        broker
    }
}

impl Broker {
    /// Returns a connection with room for a channel. Fails at once while the broker is reconnected.
    pub(super) async fn connection(self: &Arc<Self>, allowed: &[IpNet]) -> Result<SharedConnection, DeliveryError> {
        if let Some(connection) = self.usable(allowed) {
            return Ok(connection);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(connection) = self.usable(allowed) {
            return Ok(connection);
        }
        if let Some(reason) = self.fault.lock().clone() {
            return Err(DeliveryError::NotConnected(reason));
        }
        self.open(allowed).await.map_err(|reason| {
            self.lost(reason.clone());
            DeliveryError::NotConnected(reason)
        })
    }

    /// Returns whether the broker cannot be reached, or accepts nothing at present.
    pub(super) fn is_paused(&self) -> bool {
        let is_blocked = |it: &WeakConnection| it.upgrade().is_some_and(|connection| connection.is_blocked());
        self.fault.lock().is_some() || self.connections.lock().iter().any(is_blocked)
    }

    /// Returns the number of failed reconnections.
    pub(super) fn failed_reconnections(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Reconnects in the background, unless that has begun.
    pub(super) fn lost(self: &Arc<Self>, reason: String) {
        if self.fault.lock().replace(reason).is_none() {
            tokio::spawn(reconnect(Arc::downgrade(self), Arc::clone(&self.reconnects)));
        }
    }

    fn usable(&self, allowed: &[IpNet]) -> Option<SharedConnection> {
        let mut connections = self.connections.lock();
        connections.retain(|connection| connection.upgrade().is_some());
        let usable = |weak: &WeakConnection| {
            let handles = weak.handles();
            weak.upgrade().filter(|it| handles < room(it.channel_max()) && it.is_permitted(allowed))
        };
        connections.iter().find_map(usable)
    }

    /// Opens a connection. Returns the reason if it fails.
    async fn open(&self, allowed: &[IpNet]) -> Result<SharedConnection, String> {
        let opening = connect::open(&self.url, self.authorities.as_deref(), allowed);
        let opened = tokio::time::timeout(TIMEOUT, opening).await.unwrap_or(Err(DeliveryError::Timeout(TIMEOUT)));
        let connection = opened.map_err(|error| error.to_string())?;
        self.connections.lock().push(connection.downgrade());
        Ok(connection)
    }
}

/// Returns the number of channels to use on a connection that permits `channel_max`.
fn room(channel_max: u16) -> usize {
    // The library does not give out the last number. A connection without room would be followed by another for ever.
    usize::from(channel_max).saturating_sub(1).clamp(1, MAX_CHANNELS)
}

/// Connects again and again until it succeeds, or until no sink uses the broker any more.
async fn reconnect(broker: Weak<Broker>, reconnects: Arc<Reconnects>) {
    let (mut pause, last) = RECONNECT_PAUSES;
    loop {
        tokio::time::sleep(pause).await;
        let Ok(_permit) = reconnects.permits.acquire().await else { return };
        let Some(broker) = broker.upgrade() else { return };
        let allowed = reconnects.allowed.lock().clone();
        let result = broker.open(&allowed).await;
        let mut fault = broker.fault.lock();
        match result {
            Ok(connection) => {
                *fault = None;
                tracing::info!(host = broker.url.host, "the broker can be reached again");
                // The first events need not connect again.
                tokio::spawn(async move {
                    tokio::time::sleep(IDLE_TIMEOUT).await;
                    drop(connection);
                });
                return;
            }
            Err(reason) => {
                *fault = Some(reason);
                broker.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        pause = (pause * 2).min(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_has_as_many_channels_as_the_broker_permits_and_at_most_32() {
        assert_eq!([0, 1, 2, 8, 33, 128, 2047].map(room), [1, 1, 1, 7, 32, 32, 32]);
    }
}
