//! One fetch of the keys that a provider publishes, and what is remembered of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tollgate_plugins::error::Error;
use tollgate_plugins::provider::{BadSignature, NoKeys, PublishedKeys, Signing, Source};
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
    last: Mutex<Last>,
}

/// The last fetch of each kind. Strangers can have keys fetched by name, and must not put off the others.
#[derive(Default)]
struct Last {
    present: Option<Fetch>,
    named: Option<Fetch>,
}

impl Last {
    fn of(&mut self, key_id: Option<&str>) -> &mut Option<Fetch> {
        if key_id.is_some() { &mut self.named } else { &mut self.present }
    }
}

/// A fetch that has ended.
#[derive(Clone)]
pub(super) struct Fetch {
    fingerprint: String,
    /// The key that was asked for; `None` for those of the present: the whole list, or the key with which the provider signs.
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

    /// The last one with the channel's present file: by name where a key is named, else of the present keys.
    pub(super) fn last(&self, channel: &Channel, key_id: Option<&str>) -> Option<Fetch> {
        self.last.lock().of(key_id).clone().filter(|last| last.fingerprint == channel.fingerprint)
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
        let mut last = self.last.lock();
        let place = last.of(key_id.as_deref());
        *place = Some(Fetch { fingerprint, key_id, at: Instant::now(), failures, pause, result });
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
        // A known key is still in use.
        Ok(0) => return,
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

/// Fetches the present keys for a channel that has none of its own; `None` where that is not needed.
pub async fn fetch_now(channel: &Channel) -> Option<Result<usize, NoKeys>> {
    let is_needed = super::are_published(channel) && !super::can_verify(channel);
    if is_needed { Some(fetch(channel, None).await) } else { None }
}

/// Fetches the key of this name, or the present ones, and puts what came beside the configured keys. Returns their number.
pub(super) async fn fetch(channel: &Channel, key_id: Option<&str>) -> Result<usize, NoKeys> {
    match key_id {
        None if super::are_fetched_by_name(channel) => fetch_present(channel).await,
        _ => {
            let (published, request) = question(channel, key_id)?;
            let response = exchange(channel, request).await?;
            let keys = published.read(&response, &channel.keys.load(), unix_now())?;
            let count = keys.len();
            store(channel, keys, key_id);
            Ok(count)
        }
    }
}

/// Fetches the key with which the provider signs at present, where keys are handed out by name alone. Each answer names its key, so
/// a known key is asked for, and the answer to that names the next one. Returns 0 when a known key signs it.
async fn fetch_present(channel: &Channel) -> Result<usize, NoKeys> {
    let known = channel.keys.load();
    let newest = known.iter().filter(|key| question(channel, Some(&key.id)).is_ok()).last();
    let (published, request) = question(channel, newest.map(|key| key.id.as_str()))?;
    let response = exchange(channel, request).await?;
    let (headers, body) = (response.headers(), response.body().clone());
    match channel.provider.verify(Source::Answer, headers, body, &known, unix_now()) {
        Ok(_) => Ok(0),
        Err(BadSignature::UnknownKey(id)) => Box::pin(fetch(channel, Some(&id))).await,
        // A refusal without a signature says why.
        Err(bad) => Err(published.read(&response, &known, unix_now()).err().unwrap_or_else(|| {
            let why = format!("the answer that should name the provider's present key is not believed: {bad}");
            NoKeys { why, word: None, advice: super::remedy(channel) }
        })),
    }
}

/// Returns the request for the list, or for the key of this name.
fn question<'a>(channel: &'a Channel, key_id: Option<&str>) -> Result<(&'a dyn PublishedKeys, Request<Bytes>), NoKeys> {
    let published = channel.provider.published_keys();
    let question = published.and_then(|published| Some((published, published.request(key_id)?)));
    let why = || "the provider publishes no keys, or none of this name".to_owned();
    question.ok_or_else(|| NoKeys { why: why(), word: None, advice: SEE_VERIFY })
}

/// Signs and sends a request for keys.
async fn exchange(channel: &Channel, mut request: Request<Bytes>) -> Result<Response<Bytes>, NoKeys> {
    let no_keys = |why: String, advice| NoKeys { why, word: None, advice };
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
    Ok(response)
}

/// Puts fetched keys beside the configured ones. A list replaces the list before; a single key joins those that are known.
fn store(channel: &Channel, fetched: Vec<Key>, key_id: Option<&str>) {
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
