//! Public keys of providers: fetches and verifies published keys and adds them to the configured ones. While a
//! channel has no valid key, nothing is sent on it, because no response could be verified.

mod fetch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tollgate_plugins::provider::{NoKeys, ProviderSpec};

pub use self::fetch::fetch_now;
use self::fetch::{Fetch, Fetches, fetch};
use crate::clock::unix_now;
use crate::snapshot::{Channel, Current, Snapshot};
use crate::telemetry::METRICS;

/// Interval between fetches. WeChat Pay recommends at least two a day; a new key is published days before its first
/// use.
const REFRESH_INTERVAL: Duration = Duration::from_secs(11 * 3600);
/// Time before the expiry of the last known key at which its successor is fetched.
const RENEWAL_LEAD: Duration = Duration::from_hours(7 * 24);
/// Minimum time between fetches, so that responses with invented key ids cannot cause a flood of fetches.
const MIN_REFETCH_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum time that a payment waits for a running fetch.
const MAX_PAYMENT_WAIT: Duration = Duration::from_secs(5);
/// Maximum notifications with unknown key ids that wait for a channel's fetch. Anybody can send such notifications.
const MAX_WAITING_NOTIFICATIONS: usize = 8;
const ALL_KEYS_EXPIRED: &str =
    "every key or certificate that could verify the provider's response has expired or is not valid yet";
const CHECK_VERIFY_KEYS: &str = "check that `keys.verify` contains the provider's current certificate or public key";
const FETCH_IN_PROGRESS: &str = "the keys are being fetched; failed fetches are retried automatically";

/// Fetches published keys, with single flight per channel.
#[derive(Default)]
pub struct Keys {
    fetches: Mutex<HashMap<String, Arc<Fetches>>>,
    notifications: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Returns whether a key could verify a response now.
fn can_verify(channel: &Channel) -> bool {
    can_verify_after(channel, Duration::ZERO)
}

/// Returns whether one of today's keys will still be valid after `time`.
fn can_verify_after(channel: &Channel, time: Duration) -> bool {
    channel.provider.can_verify(&channel.keys.load(), unix_now().saturating_add(time.as_secs()))
}

/// Returns whether the provider publishes keys in any form.
fn are_published(channel: &Channel) -> bool {
    channel.provider.published_keys().is_some()
}

/// Returns whether the provider publishes keys as a list, which is fetched without a key id.
fn are_listed(channel: &Channel) -> bool {
    channel.provider.published_keys().is_some_and(|published| published.request(None).is_some())
}

/// Returns whether the provider publishes keys one by one, by the id that a response names.
fn are_fetched_by_name(channel: &Channel) -> bool {
    are_published(channel) && !are_listed(channel)
}

/// Tells an operator where to find the provider's current key.
fn remedy(channel: &Channel) -> &'static str {
    let advice_of_provider = ProviderSpec::named(channel.provider_name).map(|row| row.inspection.verify_from);
    advice_of_provider.filter(|advice| !advice.is_empty()).unwrap_or(CHECK_VERIFY_KEYS)
}

impl Keys {
    /// Waits up to `limit` until a key can verify responses. Returns the reason if there is none. A failed fetch is
    /// retried in the background after a delay, not by each payment.
    pub async fn ensure(self: &Arc<Self>, channel: &Arc<Channel>, limit: Duration) -> Result<(), Arc<NoKeys>> {
        if can_verify(channel) {
            return Ok(());
        }
        if !are_published(channel) {
            return Err(Arc::new(NoKeys {
                why: ALL_KEYS_EXPIRED.to_owned(),
                provider_error: None,
                advice: remedy(channel),
            }));
        }
        let fetches = self.fetches(&channel.name);
        if !fetches.is_running()
            && let Some(Fetch { result: Err(cause), .. }) = fetches.last(channel, None)
        {
            return Err(cause);
        }
        let (keys, requested_at) = (Arc::clone(self), Arc::clone(channel));
        // Runs in a task of its own, so that a caller who stops waiting does not cancel the fetch for others.
        let running = tokio::spawn(async move { keys.run_fetch(&requested_at, None).await });
        match timeout(limit.min(MAX_PAYMENT_WAIT), running).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => {
                let why = "the provider's keys did not arrive in time".to_owned();
                Err(Arc::new(NoKeys { why, provider_error: None, advice: FETCH_IN_PROGRESS }))
            }
        }
    }

    /// Fetches the channel's keys after a response with an unknown key id, unless this was just done. Returns true if
    /// a fetch succeeded, so that the response can be verified again.
    pub async fn refresh(self: &Arc<Self>, channel: &Arc<Channel>, key_id: &str) -> bool {
        let fetched_id = are_fetched_by_name(channel).then(|| key_id.to_owned());
        let last = self.fetches(&channel.name).last(channel, fetched_id.as_deref());
        // Responses come from the provider's own host, so the number of different ids is limited.
        if let Some(last) = last.filter(|last| last.key_id == fetched_id && last.at.elapsed() < MIN_REFETCH_INTERVAL)
            && !self.is_running(channel)
        {
            // That fetch may have succeeded after the response was verified.
            return last.result.is_ok();
        }
        are_published(channel) && self.run_fetch(channel, fetched_id).await.is_ok()
    }

    /// Like [`refresh`](Self::refresh), for a notification. If many are waiting, the notification is rejected at
    /// once, so that it occupies no permits of verifiable ones. The provider repeats it.
    pub async fn refresh_for_notification(self: &Arc<Self>, channel: &Arc<Channel>, key_id: &str) -> bool {
        let new = || Arc::new(Semaphore::new(MAX_WAITING_NOTIFICATIONS));
        let permits = Arc::clone(self.notifications.lock().entry(channel.name.clone()).or_insert_with(new));
        let Ok(_permit) = permits.try_acquire() else { return false };
        let fetched_id = are_fetched_by_name(channel).then_some(key_id);
        let last = self.fetches(&channel.name).last(channel, fetched_id);
        // Anybody may invent ids, so no id triggers another fetch soon.
        if let Some(last) = last.filter(|last| last.at.elapsed() < MIN_REFETCH_INTERVAL)
            && !self.is_running(channel)
        {
            return last.result.is_ok();
        }
        self.refresh(channel, key_id).await
    }

    /// Refreshes the keys of every channel whose configured keys are missing, expired or about to expire. Keys
    /// fetched by id are lost in a restart, and without any key no payment is sent whose response could name the next
    /// key.
    pub async fn run(self: Arc<Self>, current: Current, mut shutdown: watch::Receiver<bool>) {
        let mut running = JoinSet::new();
        loop {
            let snapshot = current.load_full();
            for channel in snapshot.channels.values().filter(|channel| self.is_due(channel)) {
                let (keys, channel) = (Arc::clone(&self), Arc::clone(channel));
                running.spawn(async move { drop(keys.run_fetch(&channel, None).await) });
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            while running.try_join_next().is_some() {}
        }
    }

    fn is_due(&self, channel: &Arc<Channel>) -> bool {
        let is_sufficient = !channel.configured_keys.is_empty() && can_verify_after(channel, RENEWAL_LEAD);
        if is_sufficient || !are_published(channel) || self.is_running(channel) {
            return false;
        }
        self.fetches(&channel.name).last(channel, None).is_none_or(|last| match last.result {
            Ok(()) => {
                last.at.elapsed() >= REFRESH_INTERVAL
                    || !can_verify(channel) && last.at.elapsed() >= MIN_REFETCH_INTERVAL
            }
            Err(_) => last.at.elapsed() >= last.pause,
        })
    }

    /// Returns why nothing is sent on the channel, with advice; `None` if a key is available.
    pub fn missing(&self, channel: &Channel) -> Option<String> {
        if can_verify(channel) {
            return None;
        }
        let last = self.fetches(&channel.name).last(channel, None);
        let cause = last.and_then(|last| last.result.err());
        Some(match cause {
            Some(cause) => format!("{cause}; {}", cause.advice),
            None if are_published(channel) => FETCH_IN_PROGRESS.to_owned(),
            None => format!("{ALL_KEYS_EXPIRED}; {}", remedy(channel)),
        })
    }

    /// Updates the gauge of usable keys.
    pub fn show(&self, snapshot: &Snapshot) {
        METRICS.channel_usable_keys.reset();
        let now = unix_now();
        for channel in snapshot.channels.values() {
            if are_published(channel) || !channel.configured_keys.is_empty() {
                let count = channel.keys.load().iter().filter(|key| key.is_valid(now)).count();
                let gauge = METRICS.channel_usable_keys.with_label_values(&[channel.name.as_str()]);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// Runs a fetch, or waits for the running one if it fetches the same key.
    async fn run_fetch(&self, channel: &Arc<Channel>, key_id: Option<String>) -> Result<(), Arc<NoKeys>> {
        let requested_at = Instant::now();
        let fetches = self.fetches(&channel.name);
        let _permit = fetches.lock().await;
        let previous = fetches.last(channel, key_id.as_deref());
        if let Some(latest) = previous.as_ref().filter(|latest| latest.at >= requested_at && latest.key_id == key_id) {
            return latest.result.clone();
        }
        let result = fetch(channel, key_id.as_deref()).await.map_err(Arc::new);
        fetch::log(channel, previous.as_ref(), &result, can_verify(channel));
        let result = result.map(drop);
        fetches.record(channel, key_id, previous.as_ref(), result.clone());
        result
    }

    fn fetches(&self, channel: &str) -> Arc<Fetches> {
        Arc::clone(self.fetches.lock().entry(channel.to_owned()).or_default())
    }

    fn is_running(&self, channel: &Channel) -> bool {
        self.fetches(&channel.name).is_running()
    }
}
