//! Processes provider notifications: verify → decode → record → acknowledge. A notification is acknowledged only
//! after it is durable, and never waits for the merchant.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tollgate_ledger::{BodyDigest, Notification, Recorded};
use tollgate_plugins::error::Error;
use tollgate_plugins::provider::{BadSignature, Described, Provider, Source};

use super::{AccessLabels, Gateway, Incoming};
use crate::clock::{self, unix_now};
use crate::operator_events::{REFUNDED_ELSEWHERE, manual_review};
use crate::problem::Problem;
use crate::snapshot::{Channel, Snapshot};
use crate::telemetry::METRICS;

/// `POST /notify/{channel}`.
pub(super) async fn handle(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    channel: &str,
    incoming: Incoming,
) -> Response<Bytes> {
    let mut labels = AccessLabels { merchant: None, channel: None, operation: "notification" };
    let configured = snapshot.channels.get(channel).filter(|_| incoming.method == http::Method::POST);
    let mut response = match configured {
        None => Problem::not_found("There is no such channel.").response(&incoming.request_id),
        Some(channel) => {
            labels.channel = Some(channel.name.clone());
            let result = process(gateway, channel, &incoming).await;
            METRICS.notifications_total.with_label_values(&[channel.name.as_str(), result.as_str()]).inc();
            channel.provider.acknowledge(result.is_acknowledged())
        }
    };
    response.extensions_mut().insert(labels);
    response
}

/// Result of a notification, as a metrics label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotificationResult {
    /// New and durable.
    Recorded,
    /// Recorded before, or without a change.
    Duplicate,
    /// The provider's self-test with a deliberately wrong signature.
    Probe,
    /// The signature is invalid.
    BadSignature,
    /// Verified, but undecodable or for another account.
    Unreadable,
    /// About an unknown order.
    UnknownOrder,
    /// Amount, currency or channel differ from the ledger.
    Mismatch,
    /// The ledger could not store it.
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
            Self::UnknownOrder => "unknown_order",
            Self::Mismatch => "mismatch",
            Self::NotRecorded => "not_recorded",
        }
    }

    fn is_acknowledged(self) -> bool {
        matches!(self, Self::Recorded | Self::Duplicate)
    }
}

async fn process(gateway: &Gateway, channel: &Arc<Channel>, incoming: &Incoming) -> NotificationResult {
    let provider: &dyn Provider = channel.provider.as_ref();
    let verify = || {
        let (body, keys) = (incoming.body.clone(), channel.keys.load());
        provider.verify(Source::Notification, &incoming.headers, body, &keys, unix_now())
    };
    let mut verified_body = verify();
    if let Err(BadSignature::UnknownKey(id)) = &verified_body
        && gateway.provider_client.keys().refresh_for_notification(channel, id).await
    {
        verified_body = verify();
    }
    let verified = match verified_body {
        Ok(verified) => verified,
        Err(BadSignature::Probe) => {
            tracing::info!(
                channel = channel.name,
                "the provider tested whether signatures are verified; the test notification was rejected as it should be"
            );
            return NotificationResult::Probe;
        }
        Err(reason) => {
            tracing::warn!(channel = channel.name, reason = %reason, "a notification was rejected: its signature is invalid");
            return NotificationResult::BadSignature;
        }
    };
    let digest = BodyDigest { key_id: Some(verified.key_id().to_owned()), ..BodyDigest::of(&incoming.body) };
    let notification = match provider.decode_notification(verified) {
        Ok(notification) => notification,
        Err(error) => {
            report_unusable(channel, verify().map(|verified| provider.describe(&verified)).unwrap_or_default(), &error);
            return if matches!(error, Error::Mismatch(_)) {
                NotificationResult::Mismatch
            } else {
                NotificationResult::Unreadable
            };
        }
    };
    let order_number = notification.order_number.clone();
    let needs_review = notification.outcome.as_ref().and_then(|outcome| outcome.needs_review.clone());
    match gateway
        .ledger
        .record(&channel.name, Notification { event: notification, seen: Some(digest) }, clock::now())
        .await
    {
        Ok(Recorded::Applied(subject)) => {
            tracing::info!(channel = channel.name, order_id = subject.order_id, "notification recorded");
            if let Some(why) = needs_review {
                tracing::error!(channel = channel.name, order_id = subject.order_id, why, "manual review needed");
                manual_review(&subject, &channel.name, &why);
            }
            NotificationResult::Recorded
        }
        Ok(Recorded::Duplicate) => NotificationResult::Duplicate,
        Ok(Recorded::RefundedElsewhere(subject, amount)) => {
            tracing::error!(
                channel = channel.name,
                order_id = subject.order_id,
                %amount,
                "{REFUNDED_ELSEWHERE}"
            );
            manual_review(&subject, &channel.name, REFUNDED_ELSEWHERE);
            NotificationResult::Recorded
        }
        Ok(Recorded::RefundElsewhere(subject, None)) => {
            tracing::warn!(
                channel = channel.name,
                order_id = subject.order_id,
                "a refund that was not made through this gateway is recorded; as far as known it has moved no money; an open result is queried"
            );
            NotificationResult::Recorded
        }
        Ok(Recorded::RefundElsewhere(subject, Some(why))) => {
            tracing::error!(channel = channel.name, order_id = subject.order_id, why, "manual review needed");
            manual_review(&subject, &channel.name, why);
            NotificationResult::Recorded
        }
        Ok(Recorded::UnknownOrder) => {
            tracing::warn!(
                channel = channel.name,
                order_number,
                "a notification names an order or refund that this gateway does not know"
            );
            NotificationResult::UnknownOrder
        }
        Ok(Recorded::Mismatch(subject)) => {
            tracing::error!(
                channel = channel.name,
                order_id = subject.order_id,
                "a notification contradicts the order's amount, currency or channel; review the order manually"
            );
            NotificationResult::Mismatch
        }
        Err(error) => {
            tracing::error!(channel = channel.name, %error, "a notification could not be recorded; the provider will repeat it");
            NotificationResult::NotRecorded
        }
    }
}

/// Logs and counts a verified notification that cannot be used. The provider repeats it, and each repetition is
/// logged.
fn report_unusable(channel: &Channel, description: Described, error: &Error) {
    let Described { event, order_number } = description;
    let label = METRICS.few.label("event", &channel.name, event.as_deref().unwrap_or("unnamed")).0;
    METRICS.notifications_unusable_total.with_label_values(&[channel.name.as_str(), &label]).inc();
    tracing::error!(
        channel = channel.name,
        event,
        order_number,
        why = %error,
        "a verified notification cannot be used: check which setting at the provider sends it to this channel"
    );
}
