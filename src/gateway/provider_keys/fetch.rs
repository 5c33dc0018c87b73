//! A fetch of a provider's published keys, and the record of the last fetches.

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
use crate::snapshot::Channel;

/// First and last retry interval after failed fetches; doubles in between, with 20 % jitter.
const KEY_RETRY_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const CHECK_HOSTS: &str = "check that the channel's hosts are reachable: `tollgate check --probe` names the cause";
const CHECK_SIGNING_KEY: &str = "check `keys.sign` of the channel";
const ADD_VERIFY_KEY: &str = "add the provider's key to `keys.verify` of the channel";

/// The fetches of one channel.
#[derive(Default)]
pub(super) struct Fetches {
    running: tokio::sync::Mutex<()>,
    last: Mutex<LastFetches>,
}

/// The last fetch of each kind. Anybody can trigger fetches by id, which must not delay the others.
#[derive(Default)]
struct LastFetches {
    current: Option<Fetch>,
    named: Option<Fetch>,
}

impl LastFetches {
    fn of(&mut self, key_id: Option<&str>) -> &mut Option<Fetch> {
        if key_id.is_some() { &mut self.named } else { &mut self.current }
    }
}

/// A finished fetch.
#[derive(Clone)]
pub(super) struct Fetch {
    fingerprint: String,
    /// The requested key id; `None` for the current keys: the whole list, or the key with which the provider signs.
    pub(super) key_id: Option<String>,
    pub(super) at: Instant,
    /// Number of consecutive failures.
    failures: u32,
    /// Delay before the next fetch after a failure.
    pub(super) pause: Duration,
    pub(super) result: Result<(), Arc<NoKeys>>,
}

impl Fetches {
    /// Waits until no other fetch is running.
    pub(super) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.running.lock().await
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.try_lock().is_err()
    }

    /// Returns the last fetch for the channel's current file: by id if a key is named, else of the current keys.
    pub(super) fn last(&self, channel: &Channel, key_id: Option<&str>) -> Option<Fetch> {
        self.last.lock().of(key_id).clone().filter(|last| last.fingerprint == channel.fingerprint)
    }

    pub(super) fn record(
        &self,
        channel: &Channel,
        key_id: Option<String>,
        previous: Option<&Fetch>,
        result: Result<(), Arc<NoKeys>>,
    ) {
        let failures =
            if result.is_err() { previous.map_or(0, |previous| previous.failures).saturating_add(1) } else { 0 };
        let pause = retry_delay(failures, rand::random());
        let fingerprint = channel.fingerprint.clone();
        let mut last = self.last.lock();
        let slot = last.of(key_id.as_deref());
        *slot = Some(Fetch { fingerprint, key_id, at: Instant::now(), failures, pause, result });
    }
}

/// Returns the delay after `failures` failures; `random` is from 0 to 1.
fn retry_delay(failures: u32, random: f64) -> Duration {
    let (first, last) = KEY_RETRY_INTERVALS;
    let backoff = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(last);
    backoff.mul_f64(0.8 + 0.4 * random)
}

/// Logs changes: each cause once, as an error if the channel has no key.
pub(super) fn log(channel: &Channel, previous: Option<&Fetch>, result: &Result<usize, Arc<NoKeys>>, can_verify: bool) {
    let cause = match result {
        // The current key is known already.
        Ok(0) => return,
        Ok(count) => {
            tracing::info!(channel = channel.name, count, "the provider's keys were fetched");
            return;
        }
        Err(cause) if previous.is_some_and(|previous| previous.result.as_ref().is_err_and(|known| known == cause)) => {
            return;
        }
        Err(cause) => cause,
    };
    let (why, advice) = (&cause.why, cause.advice);
    let code = cause.provider_error.as_ref().map(|error| error.code.as_str());
    if can_verify {
        tracing::warn!(channel = channel.name, why, code, advice, "the provider's keys could not be fetched");
    } else {
        tracing::error!(
            channel = channel.name,
            why,
            code,
            advice,
            "nothing is sent on the channel, because there is no key to verify the provider's response"
        );
    }
}

/// Fetches the current keys of a channel that has none; `None` if no fetch is needed.
pub async fn fetch_now(channel: &Channel) -> Option<Result<usize, NoKeys>> {
    let is_needed = super::are_published(channel) && !super::can_verify(channel);
    if is_needed { Some(fetch(channel, None).await) } else { None }
}

/// Fetches the key with this id, or the current ones, and adds the result to the configured keys. Returns their
/// number.
pub(super) async fn fetch(channel: &Channel, key_id: Option<&str>) -> Result<usize, NoKeys> {
    match key_id {
        None if super::are_fetched_by_name(channel) => fetch_present(channel).await,
        _ => {
            let (published, request) = build_request(channel, key_id)?;
            let response = exchange(channel, request).await?;
            let keys = published.read(&response, &channel.keys.load(), unix_now())?;
            let count = keys.len();
            store(channel, keys, key_id);
            Ok(count)
        }
    }
}

/// Fetches the key with which the provider signs now, if keys are published by id only. Each response names its key,
/// so requesting a known key reveals the current one. Returns 0 if that one is known.
async fn fetch_present(channel: &Channel) -> Result<usize, NoKeys> {
    let known = channel.keys.load();
    let newest = known.iter().filter(|key| build_request(channel, Some(&key.id)).is_ok()).last();
    let (published, request) = build_request(channel, newest.map(|key| key.id.as_str()))?;
    let response = exchange(channel, request).await?;
    let (headers, body) = (response.headers(), response.body().clone());
    match channel.provider.verify(Source::Answer, headers, body, &known, unix_now()) {
        Ok(_) => Ok(0),
        Err(BadSignature::UnknownKey(id)) => Box::pin(fetch(channel, Some(&id))).await,
        // An unsigned refusal contains the reason.
        Err(signature_error) => Err(published.read(&response, &known, unix_now()).err().unwrap_or_else(|| {
            let why = format!(
                "the response that should name the provider's current key failed verification: {signature_error}"
            );
            NoKeys { why, provider_error: None, advice: super::remedy(channel) }
        })),
    }
}

/// Returns the request for the list, or for the key with this id.
fn build_request<'a>(
    channel: &'a Channel,
    key_id: Option<&str>,
) -> Result<(&'a dyn PublishedKeys, Request<Bytes>), NoKeys> {
    let published = channel.provider.published_keys();
    let request = published.and_then(|published| Some((published, published.request(key_id)?)));
    let why = || "the provider publishes no keys, or none with this id".to_owned();
    request.ok_or_else(|| NoKeys { why: why(), provider_error: None, advice: ADD_VERIFY_KEY })
}

/// Signs and sends a request for keys.
async fn exchange(channel: &Channel, mut request: Request<Bytes>) -> Result<Response<Bytes>, NoKeys> {
    let no_keys = |why: String, advice| NoKeys { why, provider_error: None, advice };
    // Signed without our known keys, so that the provider signs the list with a key that the list contains.
    let signing = Signing { signer: channel.signer.as_ref(), keys: &Keyring::default(), stamp: &stamp() };
    let unsigned =
        |error: Error| no_keys(format!("the request for the keys cannot be signed: {error}"), CHECK_SIGNING_KEY);
    channel.provider.sign(&mut request, signing).map_err(unsigned)?;
    let answer = channel.upstream.send(&request, channel.upstream.timeouts().total).await;
    let answer = answer.map_err(|error| {
        no_keys(format!("the provider's keys could not be requested: {}", error.lost().why), CHECK_HOSTS)
    })?;
    let mut response = Response::new(answer.body);
    (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
    Ok(response)
}

/// Adds fetched keys to the configured ones. A list replaces the previous list; a single key is added to the known
/// ones.
fn store(channel: &Channel, fetched: Vec<Key>, key_id: Option<&str>) {
    channel.keys.rcu(|known| {
        let existing: Vec<Key> = match key_id {
            None => channel.configured_keys.iter().cloned().collect(),
            Some(_) => known.iter().cloned().collect(),
        };
        let new = fetched.iter().filter(|key| existing.iter().all(|known| known.id != key.id)).cloned();
        Keyring::new(existing.iter().cloned().chain(new).collect())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delay_doubles_up_to_maximum() {
        for (failures, seconds) in [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (u32::MAX, 300.0)]
        {
            assert_eq!(retry_delay(failures, 0.5).as_secs_f64(), seconds, "{failures}");
        }
        assert_eq!(retry_delay(1, 0.0), Duration::from_millis(800));
    }
}
