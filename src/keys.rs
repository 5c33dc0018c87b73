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
use tollgate_plugins::provider::NoKeys;
use tollgate_plugins::signer::Key;

pub use self::fetch::fetch_now;
use self::fetch::{Fetch, Fetches, fetch};
use crate::clock::unix_now;
use crate::config::{Channel, Current, Snapshot};
use crate::telemetry::METRICS;

/// Providers publish a new key days before they use it; twice a day is what WeChat Pay asks for at the least.
const REFRESH_EVERY: Duration = Duration::from_secs(11 * 3600);
/// A flood of answers under made-up key ids must not become a flood of fetches.
const LEAST_PAUSE: Duration = Duration::from_secs(10);
/// The longest time that a payment waits for a fetch that is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Notifications under unknown key ids that wait for a channel's fetch at the same time. Anybody can send them.
const MAX_WAITING_NOTIFICATIONS: usize = 8;
const ENDED: &str = "see that `keys.verify` holds the provider's present certificate or public key";
const UNDER_WAY: &str = "they are being fetched right now, and it is tried again by itself";

/// Fetches published keys, one fetch at a time for each channel.
#[derive(Default)]
pub struct Keys {
    fetches: Mutex<HashMap<String, Arc<Fetches>>>,
    notifications: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// The last whole lists, by channel and account: a reload of a channel's file must not lose them.
    lists: Mutex<HashMap<(String, String), Vec<Key>>>,
}

/// Whether a key is there that could verify an answer of the channel's provider now.
fn can_verify(channel: &Channel) -> bool {
    channel.provider.can_verify(&channel.keys.load(), unix_now())
}

/// Whether the provider publishes keys as a list, which is fetched without a key's name.
fn are_listed(channel: &Channel) -> bool {
    channel.provider.published_keys().is_some_and(|published| published.request(None).is_some())
}

/// Whether the provider hands out its keys one by one, by the name that an answer mentions.
pub fn are_fetched_by_name(channel: &Channel) -> bool {
    channel.provider.published_keys().is_some() && !are_listed(channel)
}

impl Keys {
    /// Waits until a key is there that could verify an answer, for `limit` at most. Fails with the reason when there is none. A
    /// fetch that failed is not repeated by each payment, but after a pause in the background.
    pub async fn ensure(self: &Arc<Self>, channel: &Arc<Channel>, limit: Duration) -> Result<(), Arc<NoKeys>> {
        if can_verify(channel) || self.adopt(channel) {
            return Ok(());
        }
        if !are_listed(channel) {
            let why = "all keys that are known of the provider have ended".to_owned();
            return Err(Arc::new(NoKeys { why, word: None, advice: ENDED }));
        }
        let fetches = self.fetches(&channel.name);
        if !fetches.is_running()
            && let Some(Fetch { result: Err(cause), .. }) = fetches.last(channel)
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
    /// whether they were fetched since the caller asked.
    pub async fn refresh(self: &Arc<Self>, channel: &Arc<Channel>, key_id: &str) -> bool {
        let wanted = are_fetched_by_name(channel).then(|| key_id.to_owned());
        let last = self.fetches(&channel.name).last(channel);
        // Answers come from the provider's own host, so they name no end of keys.
        if last
            .is_some_and(|last| last.key_id == wanted && last.at.elapsed() < LEAST_PAUSE && !self.is_running(channel))
        {
            return false;
        }
        channel.provider.published_keys().is_some() && self.run_fetch(channel, wanted).await.is_ok()
    }

    /// Does the same for a notification. When many wait already, it is refused at once, so that they do not hold the permits of
    /// those whose keys are known; the provider sends it again.
    pub async fn refresh_for_notification(self: &Arc<Self>, channel: &Arc<Channel>, key_id: &str) -> bool {
        let new = || Arc::new(Semaphore::new(MAX_WAITING_NOTIFICATIONS));
        let places = Arc::clone(self.notifications.lock().entry(channel.name.clone()).or_insert_with(new));
        let Ok(_place) = places.try_acquire() else { return false };
        let last = self.fetches(&channel.name).last(channel);
        // Anybody may make up names: whichever key it is, there is no second fetch soon.
        if last.is_some_and(|last| last.at.elapsed() < LEAST_PAUSE) && !self.is_running(channel) {
            return false;
        }
        self.refresh(channel, key_id).await
    }

    /// Keeps the listed keys of all channels fresh that have none of their own in the configuration, or only ended ones.
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
        let is_enough = !channel.configured_keys.is_empty() && can_verify(channel);
        if is_enough || !are_listed(channel) || self.is_running(channel) {
            return false;
        }
        self.fetches(&channel.name).last(channel).is_none_or(|last| match last.result {
            Ok(()) => last.at.elapsed() >= REFRESH_EVERY || !can_verify(channel) && last.at.elapsed() >= LEAST_PAUSE,
            Err(_) => last.at.elapsed() >= last.pause,
        })
    }

    /// Returns why nothing is sent on the channel, and what to do about it.
    pub fn missing(&self, channel: &Channel) -> Option<String> {
        if can_verify(channel) {
            return None;
        }
        let last = self.fetches(&channel.name).last(channel);
        let cause = last.and_then(|last| last.result.err());
        Some(match cause {
            Some(cause) => format!("{cause}; {}", cause.advice),
            None if are_listed(channel) => UNDER_WAY.to_owned(),
            None => format!("all that are known have ended; {ENDED}"),
        })
    }

    /// Brings the gauge of usable keys up to date, for the channels whose provider names its keys.
    pub fn show(&self, snapshot: &Snapshot) {
        METRICS.channel_usable_keys.reset();
        let now = unix_now();
        for channel in snapshot.channels.values() {
            if channel.provider.published_keys().is_some() || !channel.configured_keys.is_empty() {
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
        let before = fetches.last(channel);
        if let Some(done) = before.as_ref().filter(|done| done.at >= asked && done.key_id == key_id) {
            return done.result.clone();
        }
        // What was fetched before a reload stays when this fetch fails.
        if !can_verify(channel) {
            self.adopt(channel);
        }
        let result = fetch(channel, key_id.as_deref()).await.map_err(Arc::new);
        match &result {
            Ok(list) if key_id.is_none() => {
                self.lists.lock().insert((channel.name.clone(), channel.account()), list.clone());
            }
            _ => {}
        }
        let result = result.map(|list| list.len());
        fetch::log(channel, before.as_ref(), &result, can_verify(channel));
        let result = result.map(drop);
        fetches.put(channel, key_id, before.as_ref(), result.clone());
        result
    }

    /// Takes over what was fetched before a reload for the same account; says whether that is enough. The worker fetches the
    /// list again all the same.
    fn adopt(&self, channel: &Channel) -> bool {
        let list = self.lists.lock().get(&(channel.name.clone(), channel.account())).cloned();
        let Some(list) = list.filter(|_| are_listed(channel)) else { return false };
        fetch::store(channel, list, None);
        can_verify(channel)
    }

    fn fetches(&self, channel: &str) -> Arc<Fetches> {
        Arc::clone(self.fetches.lock().entry(channel.to_owned()).or_default())
    }

    fn is_running(&self, channel: &Channel) -> bool {
        self.fetches(&channel.name).is_running()
    }
}
