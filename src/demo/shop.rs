//! The demo's merchant: sends signed requests and receives webhook events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::stamp;
use crate::harness::http_client::send_request;
use crate::harness::process::LOCAL_TIMEOUT;
use crate::sign::{Credentials, plain};

/// A merchant with one API key.
#[derive(Clone)]
pub(super) struct Shop {
    pub(super) key_id: &'static str,
    pub(super) secret: String,
    gateway: SocketAddr,
    address: SocketAddr,
    events: watch::Receiver<Vec<Value>>,
}

impl Shop {
    /// Creates a merchant with a new secret and starts its webhook receiver.
    pub(super) async fn open(gateway: SocketAddr) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (received, events) = watch::channel(Vec::new());
        tokio::spawn(receive(listener, Arc::new(received)));
        Ok(Self { key_id: "demo-1", secret: crate::keygen::merchant_secret(), gateway, address, events })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Sends a signed request. Returns the status and the JSON body.
    pub(super) async fn send(
        &self,
        method: &str,
        target: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let stamp = stamp();
        let secret = self.secret.as_bytes();
        let with = Credentials { key_id: self.key_id, secret, created: stamp.unix_time, nonce: &stamp.nonce };
        let mut headers = plain(&with, method, target, body.as_bytes());
        headers.extend(key.map(|key| ("idempotency-key", key.to_owned())));
        send_request(self.gateway, method, target, &headers, body).await
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

async fn receive(listener: TcpListener, received: Arc<watch::Sender<Vec<Value>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let received = Arc::clone(&received);
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    if let Ok(event) = serde_json::from_slice(&body) {
                        received.send_modify(|events| events.push(event));
                    }
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::new())))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
