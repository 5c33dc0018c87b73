//! One bill: ask → sign → send → verify → find, and where the answer is a link: (sign) → fetch → check.
//!
//! A bill passes none of the channel's filters: it moves no money, so it shall neither use up what payments may do nor, when
//! the provider's files are out of reach, open the breaker that payments go through. It has connections and a limit of
//! its own instead.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use tokio::runtime::Handle;
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::provider::Signing;
use tollgate_plugins::provider::bill::{self, BillFile, BillReply, BillRequest, Bills, Link};

use super::{ProviderClient, signing, unanswered, verified};
use crate::clock::stamp;
use crate::config::Channel;
use crate::provider_keys::Keys;
use crate::telemetry::METRICS;
use crate::upstream::{Answer, BillHosts};

/// What bills are called in metrics, where operations have their names.
const NAME: &str = "bill";

impl ProviderClient {
    /// Has the bill from the channel's provider.
    pub async fn bill(&self, channel: &Arc<Channel>, wanted: BillRequest) -> Result<BillFile, Error> {
        let started = self.clock.now();
        let result = self.have(channel, wanted).await;
        let code = result.as_ref().map_or_else(|error| error.code(), |_| "ok");
        METRICS.provider_requests_total.with_label_values(&[channel.name.as_str(), NAME, code]).inc();
        let seconds = self.clock.now().saturating_sub(started).as_secs_f64();
        METRICS.provider_request_duration_seconds.with_label_values(&[channel.name.as_str(), NAME]).observe(seconds);
        if let Err(error) = &result {
            tracing::info!(channel = channel.name, operation = NAME, %error, "exchange");
        }
        result
    }

    async fn have(&self, channel: &Arc<Channel>, wanted: BillRequest) -> Result<BillFile, Error> {
        let hosts = channel.bills.as_ref().ok_or_else(none)?;
        let _turn = hosts.turn().ok_or_else(|| Error::Rejected {
            why: "other bills of this channel are being fetched".to_owned(),
            retry_after: 5,
        })?;
        let request = signed(channel, move |bills, with| bills.bill_request(&wanted, with)).await?;
        let answer = hosts.ask(&request).await.map_err(unanswered)?;
        let answer = checked(channel, &self.keys, answer).await?;
        match beside(channel, move |bills, _| bills.decode_bill(&wanted, answer)).await? {
            BillReply::File(file) => Ok(file),
            BillReply::Link(link) => follow(channel, hosts, link).await,
        }
    }
}

/// Checks the answer's signature, beside the threads that serve payments as well: the bill itself may be in it.
async fn checked(channel: &Arc<Channel>, keys: &Arc<Keys>, answer: Answer) -> Result<bill::Answer, Error> {
    let (channel, keys, runtime) = (Arc::clone(channel), Arc::clone(keys), Handle::current());
    let done = tokio::task::spawn_blocking(move || {
        let checked = runtime.block_on(verified(&channel, &keys, &answer));
        bill::Answer { status: answer.status, body: answer.body, checked }
    });
    done.await.map_err(|_| broke_off())
}

/// Fetches what a link names, at once: some are good for half a minute only.
async fn follow(channel: &Arc<Channel>, hosts: &BillHosts, link: Link) -> Result<BillFile, Error> {
    let place = hosts.place(&link.url).map_err(|wrong| {
        tracing::error!(channel = channel.name, wrong, "the link to a bill is not followed");
        Error::Mismatch(format!("its link {wrong}; if it should be followed, name its host in `bill_hosts`"))
    })?;
    let request = link.request(place.target.clone());
    let request = match link.is_signed {
        true => signed(channel, move |_, _| Ok(request)).await?,
        false => request,
    };
    let answer = hosts.fetch(&place, &request).await.map_err(unanswered)?;
    beside(channel, move |_, _| link.read(answer.status, answer.body)).await
}

async fn signed(
    channel: &Arc<Channel>,
    make: impl FnOnce(&dyn Bills, Signing<'_>) -> Result<Request<Bytes>, Error> + Send + 'static,
) -> Result<Request<Bytes>, Error> {
    let signer = Arc::clone(channel);
    beside(channel, move |bills, with| {
        let mut request = make(bills, with)?;
        signer.provider.sign(&mut request, with)?;
        Ok(request)
    })
    .await
}

/// Works beside the threads that serve payments: a bill can be long, and it can wait.
async fn beside<T: Send + 'static>(
    channel: &Arc<Channel>,
    work: impl FnOnce(&dyn Bills, Signing<'_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let channel = Arc::clone(channel);
    let done = tokio::task::spawn_blocking(move || {
        let stamp = stamp();
        work(channel.provider.bills().ok_or_else(none)?, signing(&channel, &stamp))
    });
    done.await.unwrap_or_else(|_| Err(broke_off()))
}

fn broke_off() -> Error {
    Error::NotSent("the work on the bill broke off".to_owned())
}

fn none() -> Error {
    Error::Unsupported("this channel's provider hands out no bills".to_owned())
}
