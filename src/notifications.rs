//! The notification's way: verify → decode → record → acknowledge. It is acknowledged only once it is durable, and never
//! waits for the merchant.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tollgate_plugins::error::Error;
use tollgate_plugins::provider::{BadSignature, Described, Provider, Source};

use crate::clock::{self, unix_now};
use crate::config::{Channel, Snapshot};
use crate::gateway::{AccessLabels, Gateway, Incoming};
use crate::ledger::{BodyDigest, Notification, Recorded};
use crate::problem::Problem;
use crate::telemetry::METRICS;

/// `POST /notify/{channel}`.
pub(crate) async fn handle(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    channel: &str,
    incoming: Incoming,
) -> Response<Bytes> {
    let mut served = AccessLabels { merchant: None, channel: None, operation: "notification" };
    let found = snapshot.channels.get(channel).filter(|_| incoming.method == http::Method::POST);
    let mut response = match found {
        None => Problem::not_found("There is no such channel.").response(&incoming.request_id),
        Some(channel) => {
            served.channel = Some(channel.name.clone());
            let verdict = process(gateway, channel, &incoming).await;
            METRICS.notifications_total.with_label_values(&[channel.name.as_str(), verdict.as_str()]).inc();
            channel.provider.acknowledge(verdict.is_taken())
        }
    };
    response.extensions_mut().insert(served);
    response
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotificationResult {
    /// News, and durable.
    Recorded,
    /// Recorded before, or nothing new.
    Duplicate,
    /// The provider's own test, signed wrongly on purpose.
    Probe,
    /// Not believed.
    BadSignature,
    /// Verified, but not readable or for another account.
    Unreadable,
    /// About a refund of a payment whose success is not known yet.
    TooEarly,
    /// About an order that is not ours.
    UnknownOrder,
    /// Amount, currency or channel differ from ours.
    Mismatch,
    /// It could not be made durable.
    NotRecorded,
}

impl NotificationResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Duplicate => "duplicate",
            Self::Probe => "probe",
            Self::BadSignature => "bad_signature",
            Self::Unreadable => "unreadable",
            Self::TooEarly => "too_early",
            Self::UnknownOrder => "unknown_order",
            Self::Mismatch => "mismatch",
            Self::NotRecorded => "not_recorded",
        }
    }

    fn is_taken(self) -> bool {
        matches!(self, Self::Recorded | Self::Duplicate)
    }
}

async fn process(gateway: &Gateway, channel: &Arc<Channel>, incoming: &Incoming) -> NotificationResult {
    let provider: &dyn Provider = channel.provider.as_ref();
    let verify = || {
        let (body, keys) = (incoming.body.clone(), channel.keys.load());
        provider.verify(Source::Notification, &incoming.headers, body, &keys, unix_now())
    };
    let mut checked = verify();
    if let Err(BadSignature::UnknownKey(id)) = &checked
        && gateway.exchanger.keys().refresh_for_notification(channel, id).await
    {
        checked = verify();
    }
    let verified = match checked {
        Ok(verified) => verified,
        Err(BadSignature::Probe) => {
            tracing::info!(channel = channel.name, "the provider probed whether signatures are checked; refused");
            return NotificationResult::Probe;
        }
        Err(bad) => {
            tracing::warn!(channel = channel.name, reason = %bad, "a notification was refused");
            return NotificationResult::BadSignature;
        }
    };
    let seen = BodyDigest { key_id: Some(verified.key_id().to_owned()), ..BodyDigest::of(&incoming.body) };
    let event = match provider.decode_notification(verified) {
        Ok(event) => event,
        Err(error) => {
            tell_unusable(channel, verify().map(|verified| provider.describe(&verified)).unwrap_or_default(), &error);
            return if matches!(error, Error::Mismatch(_)) {
                NotificationResult::Mismatch
            } else {
                NotificationResult::Unreadable
            };
        }
    };
    let order_number = event.order_number.clone();
    let needs_person = event.outcome.as_ref().and_then(|outcome| outcome.needs_person.clone());
    match gateway.ledger.record(&channel.name, Notification { event, seen: Some(seen) }, clock::now()).await {
        Ok(Recorded::Applied(subject)) => {
            tracing::info!(channel = channel.name, order_id = subject.order_id, "notification recorded");
            if let Some(why) = needs_person {
                tracing::error!(channel = channel.name, order_id = subject.order_id, why, "a person must look at it");
                METRICS.manual_review_total.with_label_values(&[channel.name.as_str()]).inc();
            }
            NotificationResult::Recorded
        }
        Ok(Recorded::Duplicate) => NotificationResult::Duplicate,
        Ok(Recorded::RefundedElsewhere(subject, amount)) => {
            tracing::error!(
                channel = channel.name,
                order_id = subject.order_id,
                %amount,
                "money went back to the payer by a refund that was not made here: a person must compare it with what was sold"
            );
            METRICS.manual_review_total.with_label_values(&[channel.name.as_str()]).inc();
            NotificationResult::Recorded
        }
        Ok(Recorded::RefundElsewhere(subject, None)) => {
            tracing::warn!(
                channel = channel.name,
                order_id = subject.order_id,
                "a refund that was not made here moved no money so far; see the payment's timeline"
            );
            NotificationResult::Recorded
        }
        Ok(Recorded::RefundElsewhere(subject, Some(why))) => {
            tracing::error!(channel = channel.name, order_id = subject.order_id, why, "a person must look at it");
            METRICS.manual_review_total.with_label_values(&[channel.name.as_str()]).inc();
            NotificationResult::Recorded
        }
        Ok(Recorded::TooEarly(subject)) => {
            tracing::warn!(
                channel = channel.name,
                order_id = subject.order_id,
                "a notification is about a refund of a payment that is not known to be paid; the provider is asked and sends it again"
            );
            NotificationResult::TooEarly
        }
        Ok(Recorded::UnknownOrder) => {
            tracing::warn!(
                channel = channel.name,
                order_number,
                "a notification is about an order or refund that is not ours"
            );
            NotificationResult::UnknownOrder
        }
        Ok(Recorded::Mismatch(subject)) => {
            tracing::error!(
                channel = channel.name,
                order_id = subject.order_id,
                "a notification does not agree with the order"
            );
            NotificationResult::Mismatch
        }
        Err(error) => {
            tracing::error!(channel = channel.name, %error, "a notification could not be recorded; the provider sends it again");
            NotificationResult::NotRecorded
        }
    }
}

/// Logs and counts a verified notification that cannot be used. The provider sends it again, so each line is an error once more.
fn tell_unusable(channel: &Channel, described: Described, error: &Error) {
    let Described { event, order_number } = described;
    let label = METRICS.few.label("event", &channel.name, event.as_deref().unwrap_or("unnamed")).0;
    METRICS.notifications_unusable_total.with_label_values(&[channel.name.as_str(), &label]).inc();
    tracing::error!(
        channel = channel.name,
        event,
        order_number,
        why = %error,
        "a verified notification cannot be used: see which setting at the provider sends it here"
    );
}
