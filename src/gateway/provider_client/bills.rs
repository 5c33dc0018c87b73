//! Fetches a bill: request → sign → send → verify → locate; if the answer is a link: (sign) → download → check.
//!
//! Bills bypass the channel's filters. They move no money, so they must not use up the limits of payments, and an
//! unreachable file server must not open the payments' breaker. They have connections and a limit of their own.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use tokio::runtime::Handle;
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::provider::Signing;
use tollgate_plugins::provider::bill::{self, BillFile, BillReply, BillRequest, Bills, Link};

use super::{ProviderClient, send_error, signing, verified};
use crate::clock::stamp;
use crate::provider_keys::Keys;
use crate::snapshot::Channel;
use crate::telemetry::METRICS;
use crate::upstream::{Answer, BillHosts};

/// Value of the `operation` label in metrics.
const OPERATION_LABEL: &str = "bill";

impl ProviderClient {
    /// Fetches a bill from the channel's provider.
    pub async fn bill(&self, channel: &Arc<Channel>, requested: BillRequest) -> Result<BillFile, Error> {
        let started = self.clock.now();
        let result = self.fetch(channel, requested).await;
        let code = result.as_ref().map_or_else(|error| error.code(), |_| "ok");
        METRICS.provider_requests_total.with_label_values(&[channel.name.as_str(), OPERATION_LABEL, code]).inc();
        let seconds = self.clock.now().saturating_sub(started).as_secs_f64();
        METRICS
            .provider_request_duration_seconds
            .with_label_values(&[channel.name.as_str(), OPERATION_LABEL])
            .observe(seconds);
        if let Err(error) = &result {
            tracing::info!(channel = channel.name, operation = OPERATION_LABEL, %error, "the bill could not be fetched");
        }
        result
    }

    async fn fetch(&self, channel: &Arc<Channel>, requested: BillRequest) -> Result<BillFile, Error> {
        let hosts = channel.bills.as_ref().ok_or_else(no_bills)?;
        let _permit = hosts.turn().ok_or_else(|| Error::Rejected {
            why: "other bills of this channel are being fetched".to_owned(),
            retry_after: 5,
        })?;
        let request = signed(channel, move |bills, with| bills.bill_request(&requested, with)).await?;
        let answer = hosts.ask(&request).await.map_err(send_error)?;
        let answer = verified_answer(channel, &self.keys, answer).await?;
        match run_blocking(channel, move |bills, _| bills.decode_bill(&requested, answer)).await? {
            BillReply::File(file) => Ok(file),
            BillReply::Link(link) => follow_link(channel, hosts, link).await,
        }
    }
}

/// Verifies the response on a blocking thread, because it may contain the whole bill.
async fn verified_answer(channel: &Arc<Channel>, keys: &Arc<Keys>, answer: Answer) -> Result<bill::Answer, Error> {
    let (channel, keys, runtime) = (Arc::clone(channel), Arc::clone(keys), Handle::current());
    let done = tokio::task::spawn_blocking(move || {
        let checked = runtime.block_on(verified(&channel, &keys, &answer));
        bill::Answer { status: answer.status, body: answer.body, checked }
    });
    done.await.map_err(|_| task_failed())
}

/// Downloads the file of a link at once, because some links expire after 30 seconds.
async fn follow_link(channel: &Arc<Channel>, hosts: &BillHosts, link: Link) -> Result<BillFile, Error> {
    let location = hosts.place(&link.url).map_err(|wrong| {
        tracing::error!(
            channel = channel.name,
            wrong,
            "the bill's link is not followed: add its host to `bill_hosts` if it is right"
        );
        Error::Mismatch(format!("its link {wrong}; if the link is right, add its host to `bill_hosts`"))
    })?;
    let request = link.request(location.target.clone());
    let request = match link.is_signed {
        true => signed(channel, move |_, _| Ok(request)).await?,
        false => request,
    };
    let answer = hosts.fetch(&location, &request).await.map_err(send_error)?;
    run_blocking(channel, move |_, _| link.read(answer.status, answer.body)).await
}

async fn signed(
    channel: &Arc<Channel>,
    build: impl FnOnce(&dyn Bills, Signing<'_>) -> Result<Request<Bytes>, Error> + Send + 'static,
) -> Result<Request<Bytes>, Error> {
    let signer = Arc::clone(channel);
    run_blocking(channel, move |bills, with| {
        let mut request = build(bills, with)?;
        signer.provider.sign(&mut request, with)?;
        Ok(request)
    })
    .await
}

/// Runs CPU-bound work on a blocking thread, so that payments are not delayed.
async fn run_blocking<T: Send + 'static>(
    channel: &Arc<Channel>,
    work: impl FnOnce(&dyn Bills, Signing<'_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let channel = Arc::clone(channel);
    let done = tokio::task::spawn_blocking(move || {
        let stamp = stamp();
        work(channel.provider.bills().ok_or_else(no_bills)?, signing(&channel, &stamp))
    });
    done.await.unwrap_or_else(|_| Err(task_failed()))
}

fn task_failed() -> Error {
    Error::NotSent("the task that processes the bill failed".to_owned())
}

fn no_bills() -> Error {
    Error::Unsupported("this channel's provider has no bills".to_owned())
}
