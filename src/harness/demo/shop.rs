//! The demo's merchant: sends signed requests and receives webhook events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::sync::watch;

use crate::event_receiver::EventReceiver;
use crate::http_client::json_bytes;
use crate::merchant::MerchantKey;
use crate::process::LOCAL_TIMEOUT;

/// A merchant with one API key.
#[derive(Clone)]
pub(super) struct Shop {
    pub(super) key: MerchantKey,
    gateway: SocketAddr,
    receiver: Arc<EventReceiver>,
    events: watch::Receiver<Vec<Value>>,
}

impl Shop {
    /// Creates a merchant with a new secret and starts its webhook receiver.
    pub(super) async fn open(gateway: SocketAddr) -> Result<Self, String> {
        let (received, events) = watch::channel(Vec::new());
        let receiver = EventReceiver::open(move |delivery| {
            received.send_modify(|events| events.push(delivery.event()));
            std::future::ready(StatusCode::OK)
        });
        let receiver = Arc::new(receiver.await.map_err(|error| error.to_string())?);
        Ok(Self { key: MerchantKey::generate("demo-1"), gateway, receiver, events })
    }

    pub(super) fn url(&self) -> String {
        self.receiver.url()
    }

    /// Sends a signed request. Returns the status and the JSON body.
    pub(super) async fn send(
        &self,
        method: &str,
        target: &str,
        idempotency_key: Option<&str>,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let headers: Vec<_> = idempotency_key.map(|key| ("idempotency-key", key)).into_iter().collect();
        let response = self.key.send(self.gateway, method, target, &headers, &json_bytes(body)).await?;
        Ok((response.status, response.json()))
    }

    pub(super) async fn payment(&self, order: &str) -> Result<Value, String> {
        self.send("GET", &format!("/v1/payments/{order}"), None, &Value::Null).await.map(|(_, body)| body)
    }

    /// Polls the payment until it has this status.
    pub(super) async fn wait_for_status(&self, order: &str, status: &str) -> Result<Value, String> {
        let polling = async {
            loop {
                let payment = self.payment(order).await?;
                if payment["status"] == status {
                    return Ok(payment);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LOCAL_TIMEOUT, polling)
            .await
            .map_err(|_| format!("{order} did not reach the status {status}"))?
    }

    /// Waits for an event of this type.
    pub(super) async fn wait_for_event(&self, kind: &str) -> Result<Value, String> {
        let mut events = self.events.clone();
        let found = events.wait_for(|events| events.iter().any(|event| event["type"] == kind));
        let found =
            tokio::time::timeout(LOCAL_TIMEOUT, found).await.map_err(|_| format!("no event {kind} was received"))?;
        let events = found.map_err(|error| error.to_string())?;
        events.iter().find(|event| event["type"] == kind).cloned().ok_or_else(|| "the event is gone".to_owned())
    }
}
