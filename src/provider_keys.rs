//! Keys that verify providers' answers: those that providers publish are fetched, verified, and put beside the configured
//! ones. While a channel has no key, nothing is sent on it, because no answer could be believed.

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
use crate::config::{Channel, Current, Snapshot};
use crate::telemetry::METRICS;

/// Providers publish a new key days before they use it; twice a day is what WeChat Pay asks for at the least.
const REFRESH_EVERY: Duration = Duration::from_secs(11 * 3600);
/// Time before the end of the last known key in which its successor is looked for.
const RENEWAL_LEAD: Duration = Duration::from_hours(7 * 24);
/// A flood of answers under made-up key ids must not become a flood of fetches.
const LEAST_PAUSE: Duration = Duration::from_secs(10);
/// The longest time that a payment waits for a fetch that is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Notifications under unknown key ids that wait for a channel's fetch at the same time. Anybody can send them.
const MAX_WAITING_NOTIFICATIONS: usize = 8;
const ENDED: &str = "every key or certificate that could verify the provider's answer has ended, or is not valid yet";
const SEE_VERIFY: &str = "see that `keys.verify` holds the provider's present certificate or public key";
const UNDER_WAY: &str = "they are being fetched right now, and it is tried again by itself";

/// Fetches published keys, one fetch at a time for each channel.
#[derive(Default)]
pub struct Keys {
    fetches: Mutex<HashMap<String, Arc<Fetches>>>,
    notifications: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Whether a key is there that could verify an answer of the channel's provider now.
fn can_verify(channel: &Channel) -> bool {
    can_verify_after(channel, Duration::ZERO)
}

/// Whether one of today's keys can still verify an answer after this time.
fn can_verify_after(channel: &Channel, time: Duration) -> bool {
    channel.provider.can_verify(&channel.keys.load(), unix_now().saturating_add(time.as_secs()))
}

/// Whether the provider publishes keys, in any way.
fn are_published(channel: &Channel) -> bool {
    channel.provider.published_keys().is_some()
}

/// Whether the provider publishes keys as a list, which is fetched without a key's name.
fn are_listed(channel: &Channel) -> bool {
    channel.provider.published_keys().is_some_and(|published| published.request(None).is_some())
}

/// Whether the provider hands out its keys one by one, by the name that an answer mentions.
fn are_fetched_by_name(channel: &Channel) -> bool {
    are_published(channel) && !are_listed(channel)
}

/// Where the provider's present key is found, for an operator.
fn remedy(channel: &Channel) -> &'static str {
    let known = ProviderSpec::named(channel.provider_name).map(|row| row.inspection.verify_from);
    known.filter(|advice| !advice.is_empty()).unwrap_or(SEE_VERIFY)
}

impl Keys {
    /// Waits until a key is there that could verify an answer, for `limit` at most. Fails with the reason when there is none. A
    /// fetch that failed is not repeated by each payment, but after a pause in the background.
    pub async fn ensure(self: &Arc<Self>, channel: &Arc<Channel>, limit: Duration) -> Result<(), Arc<NoKeys>> {
        if can_verify(channel) {
            return Ok(());
        }
        if !are_published(channel) {
            return Err(Arc::new(NoKeys { why: ENDED.to_owned(), word: None, advice: remedy(channel) }));
        }
        let fetches = self.fetches(&channel.name);
        if !fetches.is_running()
            && let Some(Fetch { result: Err(cause), .. }) = fetches.last(channel, None)
        {
            return Err(cause);
        }
        let (keys, asked) = (Arc::clone(self), Arc::clone(channel));
        // A task of its own: a caller who stops waiting must not stop it for the others.
        let running = tokio::spawn(async move { keys.run_fetch(&asked, None).await });
        match timeout(limit.min(LONGEST_WAIT), running).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => {
                let why = "the provider's keys did not come in time".to_owned();
                Err(Arc::new(NoKeys { why, word: None, advice: UNDER_WAY }))
            }
        }
    }

    /// Fetches the channel's keys because an answer is signed with an unknown one, unless that has just been done. Returns
    /// whether a fetch of them succeeded, so that the answer is worth another look.
    pub async fn refresh(self: &Arc<Self>, channel: &Arc<Channel>, key_id: &str) -> bool {
        let wanted = are_fetched_by_name(channel).then(|| key_id.to_owned());
        let last = self.fetches(&channel.name).last(channel, wanted.as_deref());
        // Answers come from the provider's own host, so they name no end of keys.
        if let Some(last) = last.filter(|last| last.key_id == wanted && last.at.elapsed() < LEAST_PAUSE)
            && !self.is_running(channel)
        {
            // It may have succeeded after the answer was looked at.
            return last.result.is_ok();
        }
        are_published(channel) && self.run_fetch(channel, wanted).await.is_ok()
    }

    /// Does the same for a notification. When many wait already, it is refused at once, so that they do not hold the permits of
    /// those whose keys are known; the provider sends it again.
    pub async fn refresh_for_notification(self: &Arc<Self>, channel: &Arc<Channel>, key_id: &str) -> bool {
        let new = || Arc::new(Semaphore::new(MAX_WAITING_NOTIFICATIONS));
        let places = Arc::clone(self.notifications.lock().entry(channel.name.clone()).or_insert_with(new));
        let Ok(_place) = places.try_acquire() else { return false };
        let wanted = are_fetched_by_name(channel).then_some(key_id);
        let last = self.fetches(&channel.name).last(channel, wanted);
        // Anybody may make up names: whichever key it is, there is no second fetch soon.
        if let Some(last) = last.filter(|last| last.at.elapsed() < LEAST_PAUSE)
            && !self.is_running(channel)
        {
            return last.result.is_ok();
        }
        self.refresh(channel, key_id).await
    }

    /// Keeps the keys of all channels fresh that have none of their own in the configuration, or only such as have ended or end
    /// soon. A fetch by name is lost in a restart, and without a key no payment is sent whose answer could name the next one.
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
        let is_enough = !channel.configured_keys.is_empty() && can_verify_after(channel, RENEWAL_LEAD);
        if is_enough || !are_published(channel) || self.is_running(channel) {
            return false;
        }
        self.fetches(&channel.name).last(channel, None).is_none_or(|last| match last.result {
            Ok(()) => last.at.elapsed() >= REFRESH_EVERY || !can_verify(channel) && last.at.elapsed() >= LEAST_PAUSE,
            Err(_) => last.at.elapsed() >= last.pause,
        })
    }

    /// Returns why nothing is sent on the channel, and what to do about it.
    pub fn missing(&self, channel: &Channel) -> Option<String> {
        if can_verify(channel) {
            return None;
        }
        let last = self.fetches(&channel.name).last(channel, None);
        let cause = last.and_then(|last| last.result.err());
        Some(match cause {
            Some(cause) => format!("{cause}; {}", cause.advice),
            None if are_published(channel) => UNDER_WAY.to_owned(),
            None => format!("{ENDED}; {}", remedy(channel)),
        })
    }

    /// Brings the gauge of usable keys up to date, for the channels whose provider names its keys.
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

    /// Runs one fetch, or waits for the one that is under way about the same.
    async fn run_fetch(&self, channel: &Arc<Channel>, key_id: Option<String>) -> Result<(), Arc<NoKeys>> {
        let asked = Instant::now();
        let fetches = self.fetches(&channel.name);
        let _turn = fetches.turn().await;
        let before = fetches.last(channel, key_id.as_deref());
        if let Some(done) = before.as_ref().filter(|done| done.at >= asked && done.key_id == key_id) {
            return done.result.clone();
        }
        let result = fetch(channel, key_id.as_deref()).await.map_err(Arc::new);
        fetch::log(channel, before.as_ref(), &result, can_verify(channel));
        let result = result.map(drop);
        fetches.put(channel, key_id, before.as_ref(), result.clone());
        result
    }

    fn fetches(&self, channel: &str) -> Arc<Fetches> {
        Arc::clone(self.fetches.lock().entry(channel.to_owned()).or_default())
    }

    fn is_running(&self, channel: &Channel) -> bool {
        self.fetches(&channel.name).is_running()
    }
}
