//! Keys that providers publish: fetched, verified, and put beside the configured ones in the background.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tollgate_plugins::provider::{PublishedKeys, Signing};
use tollgate_plugins::signer::Keyring;

use crate::clock::{stamp, unix_now};
use crate::config::{Channel, Current};

/// Providers publish a new key days before they use it; twice a day is what WeChat Pay asks for at the least.
const REFRESH_EVERY: Duration = Duration::from_secs(11 * 3600);
/// How soon a failed refresh is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(30);
/// A flood of answers under made-up key ids must not become a flood of refreshes.
const LEAST_PAUSE: Duration = Duration::from_secs(10);
/// Notifications under unknown key ids that wait for a channel's refresh at the same time. Anybody can send them.
const MAX_WAITING_NOTIFICATIONS: usize = 8;

/// Refreshes published keys, one flight a channel.
#[derive(Default)]
pub struct Keys {
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Flight>>>>>,
    notifications: Mutex<HashMap<String, Arc<Semaphore>>>,
}

struct Flight {
    fingerprint: String,
    at: Instant,
    worked: bool,
}

impl Keys {
    /// Fetches the channel's keys, unless that has just been done; waits for a refresh that is under way. Gives whether
    /// the keys were refreshed since the caller asked.
    pub async fn refresh(&self, channel: &Channel) -> bool {
        let Some(published) = channel.provider.published_keys() else { return false };
        let asked = Instant::now();
        let flight = Arc::clone(self.flights.lock().entry(channel.name.clone()).or_default());
        let mut last = flight.lock().await;
        if let Some(done) = last.as_ref().filter(|done| done.fingerprint == channel.fingerprint) {
            if done.at >= asked {
                return done.worked;
            }
            if done.at.elapsed() < LEAST_PAUSE {
                return false;
            }
        }
        let result = fetch(channel, published).await;
        match &result {
            Ok(count) => tracing::info!(channel = channel.name, count, "the provider's keys were refreshed"),
            Err(why) => tracing::warn!(channel = channel.name, why, "the provider's keys cannot be refreshed"),
        }
        *last = Some(Flight { fingerprint: channel.fingerprint.clone(), at: Instant::now(), worked: result.is_ok() });
        result.is_ok()
    }

    /// Does the same for a notification. When many wait already, it is refused at once, so that they do not hold the permits of
    /// those whose keys are known; the provider sends it again.
    pub async fn refresh_for_notification(&self, channel: &Channel) -> bool {
        let new = || Arc::new(Semaphore::new(MAX_WAITING_NOTIFICATIONS));
        let places = Arc::clone(self.notifications.lock().entry(channel.name.clone()).or_insert_with(new));
        match places.try_acquire() {
            Ok(_place) => self.refresh(channel).await,
            Err(_) => false,
        }
    }

    /// Keeps the keys of all channels fresh that have none of their own in the configuration.
    pub async fn run(&self, current: Current, mut shutdown: watch::Receiver<bool>) {
        let mut due: HashMap<(String, String), Instant> = HashMap::new();
        loop {
            let snapshot = current.load_full();
            let mut wanted = HashMap::new();
            for channel in snapshot.channels.values().filter(|channel| channel.configured_keys.is_empty()) {
                let name = (channel.name.clone(), channel.fingerprint.clone());
                let mut next = due.get(&name).copied().unwrap_or_else(Instant::now);
                if next <= Instant::now() {
                    let worked = self.refresh(channel).await;
                    next = Instant::now() + if worked { REFRESH_EVERY } else { RETRY_EVERY };
                }
                wanted.insert(name, next);
            }
            due = wanted;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }
}

async fn fetch(channel: &Channel, published: &dyn PublishedKeys) -> Result<usize, String> {
    let mut request = published.request();
    // Without our keys, so that the list is signed with one that is in it.
    let with = Signing { signer: channel.signer.as_ref(), keys: &Keyring::default(), stamp: &stamp() };
    channel.provider.sign(&mut request, with).map_err(|error| error.to_string())?;
    let answer = channel
        .upstream
        .send(&request, channel.upstream.timeouts().total)
        .await
        .map_err(|error| format!("{error:?}"))?;
    if !answer.status.is_success() {
        return Err(format!("the provider answered {}", answer.status));
    }
    let keys = published.read(&answer.headers, &answer.body, unix_now()).map_err(|error| error.to_string())?;
    let count = keys.len();
    let all = channel.configured_keys.iter().cloned().chain(keys).collect();
    channel.keys.store(Arc::new(Keyring::new(all)));
    Ok(count)
}
