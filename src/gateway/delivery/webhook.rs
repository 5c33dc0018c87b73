//! Posts an event to a URL of a merchant or of the operator, signed according to Standard Webhooks (webhook-id, webhook-timestamp,
//! webhook-signature).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use ipnet::IpNet;
use tollgate_config::Webhook;
use tollgate_plugins::secret::Secret;

use super::connections::{Connections, Endpoint, Reply};
use super::failure::DeliveryError;
use super::message::OutgoingEvent;
use super::sink::{Attempt, Sink};
use crate::clock::unix_now;

/// Time limit for the whole delivery.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// A webhook. Redirects are not followed, because the signature is meant for one receiver.
pub(super) struct WebhookSink {
    connections: Arc<Connections>,
    target: Arc<Webhook>,
}

impl WebhookSink {
    /// Returns a webhook that shares these connections with others.
    pub(super) fn new(connections: Arc<Connections>, target: Arc<Webhook>) -> Self {
        Self { connections, target }
    }

    fn uri(&self) -> Result<Uri, DeliveryError> {
        self.target.url.parse().map_err(|_| DeliveryError::InvalidUrl)
    }
}

#[async_trait]
impl Sink for WebhookSink {
    async fn send(&self, attempt: &Attempt<'_>) -> Result<(), DeliveryError> {
        let uri = self.uri()?;
        let request = request(&self.target, &uri, attempt.event, unix_now())?;
        let endpoint = Endpoint::of(&uri)?;
        let sending = self.connections.send(&endpoint, attempt.allowed, request, attempt.tries);
        let reply = tokio::time::timeout(RESPONSE_TIMEOUT, sending).await;
        accepted(reply.unwrap_or(Err(DeliveryError::Timeout(RESPONSE_TIMEOUT)))?)
    }

    fn is_paused(&self) -> bool {
        false
    }

    async fn connect(&self, allowed: &[IpNet]) -> Result<(), DeliveryError> {
        let endpoint = Endpoint::of(&self.uri()?)?;
        let connecting = self.connections.connect(&endpoint, allowed);
        tokio::time::timeout(RESPONSE_TIMEOUT, connecting)
            .await
            .unwrap_or(Err(DeliveryError::Timeout(RESPONSE_TIMEOUT)))
    }
}

/// Returns whether the reply accepts the event: only 2xx does.
fn accepted(Reply { status, retry_after }: Reply) -> Result<(), DeliveryError> {
    match status {
        200..300 => Ok(()),
        410 => Err(DeliveryError::Gone),
        _ => Err(DeliveryError::Status { status, retry_after }),
    }
}

fn request(
    target: &Webhook,
    uri: &Uri,
    event: &OutgoingEvent,
    now: u64,
) -> Result<Request<Full<Bytes>>, DeliveryError> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", authority)
        .header("content-type", "application/json")
        .header("user-agent", concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &event.id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signatures(&target.secrets, &event.id, now, &event.body))
        .body(Full::new(event.body.clone()))
        .map_err(|_| DeliveryError::UnusableUrl)
}

/// Returns one `v1,…` signature per secret, so that a receiver can rotate its secret without losing events.
fn signatures(secrets: &[Secret], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut message = format!("{id}.{timestamp}.").into_bytes();
    message.extend_from_slice(body);
    let sign = |secret: &Secret| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), &message);
        format!("v1,{}", BASE64_STANDARD.encode(tag))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_counts_as_delivered() {
        let result = |status| accepted(Reply { status, retry_after: None });
        for status in [200, 202, 204, 299] {
            assert!(result(status).is_ok(), "{status}");
        }
        for status in [199, 301, 302, 307, 400, 404, 429, 500, 503] {
            assert!(matches!(result(status), Err(DeliveryError::Status { .. })), "{status}");
        }
        assert!(matches!(result(410), Err(DeliveryError::Gone)));
    }

    /// The example shared by the specification's reference libraries.
    #[test]
    fn signature_matches_standard_webhooks_example() {
        let secret = Secret::new(BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let signed = signatures(
            std::slice::from_ref(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let two_signatures = signatures(&[secret.clone(), Secret::new("other")], "a", 1, b"");
        assert_eq!(two_signatures.split(' ').count(), 2, "one for each secret while they rotate");
    }
}
