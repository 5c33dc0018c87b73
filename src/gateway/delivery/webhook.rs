//! Posts an event to a merchant's URL, signed according to Standard Webhooks (webhook-id, webhook-timestamp,
//! webhook-signature).

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use ipnet::IpNet;
use serde::Serialize;
use tollgate_config::Webhook;
use tollgate_ledger::{Event, Record};
use tollgate_plugins::secret::Secret;

use super::connections::{Connections, Endpoint, Reply};
use super::failure::DeliveryError;
use crate::clock::unix_now;
use crate::view::{payment_view, refund_view};

/// Time limit for the whole delivery.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Posts events. Redirects are not followed, because the signature is meant for one receiver.
pub(super) struct Client {
    connections: Connections,
}

impl Client {
    pub(super) fn new() -> Self {
        Self { connections: Connections::new() }
    }

    /// Posts an event after `tries` failed attempts.
    pub(super) async fn post(
        &self,
        target: &Webhook,
        allowed: &[IpNet],
        event: &Event,
        tries: u32,
    ) -> Result<Reply, DeliveryError> {
        let uri: Uri = target.url.parse().map_err(|_| DeliveryError::InvalidUrl)?;
        let request = request(target, &uri, event, unix_now())?;
        let endpoint = Endpoint::of(&uri)?;
        tokio::time::timeout(RESPONSE_TIMEOUT, self.connections.send(&endpoint, allowed, request, tries))
            .await
            .unwrap_or(Err(DeliveryError::Timeout(RESPONSE_TIMEOUT)))
    }

    /// Closes connections that were idle for too long.
    pub(super) fn close_expired(&self) {
        self.connections.close_expired(Instant::now());
    }
}

/// Returns the event's body, with identical bytes in every attempt.
fn body(event: &Event) -> Result<Bytes, DeliveryError> {
    #[derive(Serialize)]
    struct Body<'a, T: Serialize> {
        id: &'a str,
        r#type: &'a str,
        created_at: jiff::Timestamp,
        merchant: &'a str,
        data: T,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Data<P: Serialize, R: Serialize> {
        Payment(P),
        Refund(R),
    }
    let data = match &event.data {
        Record::Payment(payment) => Data::Payment(payment_view(payment)),
        Record::Refund(refund) => Data::Refund(refund_view(refund)),
    };
    let merchant = &event.subject.merchant;
    let body = Body { id: &event.id, r#type: &event.kind, created_at: event.created_at, merchant, data };
    serde_json::to_vec(&body).map(Bytes::from).map_err(DeliveryError::Serialize)
}

fn request(target: &Webhook, uri: &Uri, event: &Event, now: u64) -> Result<Request<Full<Bytes>>, DeliveryError> {
    let body = body(event)?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", authority)
        .header("content-type", "application/json")
        .header("user-agent", concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &event.id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signatures(&target.secrets, &event.id, now, &body))
        .body(Full::new(body))
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
