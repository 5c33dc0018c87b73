//! One fetch of the keys that a provider publishes, and what is remembered of it.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tollgate_plugins::error::Error;
use tollgate_plugins::provider::{NoKeys, Signing};
use tollgate_plugins::signer::{Key, Keyring};

use crate::clock::{stamp, unix_now};
use crate::config::Channel;

/// The pauses after fetches that failed: doubled from the first to the last, 20 % up or down.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const SEE_HOSTS: &str = "see that the channel's hosts can be reached: `tollgate check --probe` says why not";
const SEE_SIGNER: &str = "see `keys.sign` of the channel";
const SEE_VERIFY: &str = "put the provider's key in `keys.verify` of the channel";

/// The fetches of one channel's keys.
#[derive(Default)]
pub(super) struct Fetches {
    running: tokio::sync::Mutex<()>,
    last: Mutex<Option<Fetch>>,
}

/// A fetch that has ended.
#[derive(Clone)]
pub(super) struct Fetch {
    fingerprint: String,
    /// The key that was asked for; `None` for the whole list.
    pub(super) key_id: Option<String>,
    pub(super) at: Instant,
    /// Those that failed in a row.
    failures: u32,
    /// The time until the next one, after a failure.
    pub(super) pause: Duration,
    pub(super) result: Result<(), Arc<NoKeys>>,
}

impl Fetches {
    /// Waits until no other fetch is under way.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.running.lock().await
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.try_lock().is_err()
    }

    /// The last one with the channel's present file.
    pub(super) fn last(&self, channel: &Channel) -> Option<Fetch> {
        self.last.lock().clone().filter(|last| last.fingerprint == channel.fingerprint)
    }

    pub(super) fn put(
        &self,
        channel: &Channel,
        key_id: Option<String>,
        before: Option<&Fetch>,
        result: Result<(), Arc<NoKeys>>,
    ) {
        let failures = if result.is_err() { before.map_or(0, |before| before.failures).saturating_add(1) } else { 0 };
        let pause = pause_after(failures, rand::random());
        let fingerprint = channel.fingerprint.clone();
        *self.last.lock() = Some(Fetch { fingerprint, key_id, at: Instant::now(), failures, pause, result });
    }
}

/// The pause after so many failures; `random` is from 0 to 1.
fn pause_after(failures: u32, random: f64) -> Duration {
    let (first, last) = PAUSES;
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(last);
    doubled.mul_f64(0.8 + 0.4 * random)
}

/// Logs what is new: each cause once, as an error when the channel is without a key.
pub(super) fn log(channel: &Channel, before: Option<&Fetch>, result: &Result<usize, Arc<NoKeys>>, can_verify: bool) {
    let cause = match result {
        Ok(count) => {
            tracing::info!(channel = channel.name, count, "the provider's keys were fetched");
            return;
        }
        Err(cause) if before.is_some_and(|before| before.result.as_ref().is_err_and(|known| known == cause)) => return,
        Err(cause) => cause,
    };
    let (why, advice) = (&cause.why, cause.advice);
    let code = cause.word.as_ref().map(|word| word.code.as_str());
    if can_verify {
        tracing::warn!(channel = channel.name, why, code, advice, "the provider's keys could not be fetched");
    } else {
        tracing::error!(
            channel = channel.name,
            why,
            code,
            advice,
            "nothing is sent on the channel, because no key could verify the provider's answer"
        );
    }
}

/// Fetches the list of keys for a channel that has none of its own; `None` where that is not needed.
pub async fn fetch_now(channel: &Channel) -> Option<Result<usize, NoKeys>> {
    let is_needed = super::are_listed(channel) && !super::can_verify(channel);
    if is_needed { Some(fetch(channel, None).await.map(|list| list.len())) } else { None }
}

/// Fetches the list, or the key of this name, and puts what came beside the configured keys.
pub(super) async fn fetch(channel: &Channel, key_id: Option<&str>) -> Result<Vec<Key>, NoKeys> {
    let no_keys = |why: String, advice| NoKeys { why, word: None, advice };
    let published = channel.provider.published_keys();
    let request = published.and_then(|published| Some((published, published.request(key_id)?)));
    let Some((published, mut request)) = request else {
        return Err(no_keys("the provider publishes no keys".to_owned(), SEE_VERIFY));
    };
    // Without our keys, so that the list is signed with one that is in it.
    let with = Signing { signer: channel.signer.as_ref(), keys: &Keyring::default(), stamp: &stamp() };
    let unsigned = |error: Error| no_keys(format!("the request for the keys cannot be signed: {error}"), SEE_SIGNER);
    channel.provider.sign(&mut request, with).map_err(unsigned)?;
    let answer = channel.upstream.send(&request, channel.upstream.timeouts().total).await;
    let answer = answer.map_err(|error| {
        no_keys(format!("the provider's keys could not be asked for: {}", error.lost().why), SEE_HOSTS)
    })?;
    let mut response = Response::new(answer.body);
    (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
    let keys = published.read(&response, &channel.keys.load(), unix_now())?;
    store(channel, keys.clone(), key_id);
    Ok(keys)
}

/// Puts fetched keys beside the configured ones. A list replaces the list before; a single key joins those that are known.
pub(super) fn store(channel: &Channel, fetched: Vec<Key>, key_id: Option<&str>) {
    channel.keys.rcu(|known| {
        let kept: Vec<Key> = match key_id {
            None => channel.configured_keys.iter().cloned().collect(),
            Some(_) => known.iter().cloned().collect(),
        };
        let new = fetched.iter().filter(|key| kept.iter().all(|known| known.id != key.id)).cloned();
        Keyring::new(kept.iter().cloned().chain(new).collect())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_between_fetches_doubles_up_to_its_longest() {
        for (failures, seconds) in [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (u32::MAX, 300.0)]
        {
            assert_eq!(pause_after(failures, 0.5).as_secs_f64(), seconds, "{failures}");
        }
        assert_eq!(pause_after(1, 0.0), Duration::from_millis(800));
    }
}
