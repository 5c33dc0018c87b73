//! Webhook receiver of a merchant.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::until;

/// Records deliveries and answers them with a configurable status.
pub struct Receiver {
    address: SocketAddr,
    pub events: Arc<Mutex<Vec<Received>>>,
    status: Arc<AtomicU16>,
}

#[derive(Clone, Debug)]
pub struct Received {
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    pub body: Bytes,
    pub answered: u16,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let events: Arc<Mutex<Vec<Received>>> = Arc::default();
        let status = Arc::new(AtomicU16::new(204));
        let (kept, answer) = (Arc::clone(&events), Arc::clone(&status));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                        let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                        async move {
                            let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
                            let (id, timestamp, signature) =
                                (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
                            let body = request.into_body().collect().await?.to_bytes();
                            let answered = answer.load(Ordering::SeqCst);
                            kept.lock().push(Received { id, timestamp, signature, body, answered });
                            let mut response = Response::new(Full::new(Bytes::new()));
                            *response.status_mut() = StatusCode::from_u16(answered).unwrap();
                            Ok::<_, hyper::Error>(response)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, events, status }
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Returns the received events of an order, in order of arrival.
    pub fn events_of(&self, order: &str) -> Vec<Received> {
        let about = |event: &Received| {
            let body = event.json();
            body["data"]["payment"]["order_id"] == order || body["data"]["refund"]["order_id"] == order
        };
        self.events.lock().iter().filter(|event| about(event)).cloned().collect()
    }

    pub async fn until(&self, order: &str, kind: &str) -> Received {
        until(&format!("event {kind} of {order}"), || async {
            let events = self.events_of(order);
            let found = events.iter().find(|event| event.json()["type"] == kind).cloned();
            found.ok_or_else(|| events.iter().map(|event| event.json()).collect::<Value>())
        })
        .await
    }
}
