//! Webhook receiver of a merchant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;
use tollgate_harness::event_receiver::{EventReceiver, order_of};

use crate::wait::until;

/// Records deliveries and answers them with a configurable status.
pub struct Receiver {
    endpoint: EventReceiver,
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
        let events: Arc<Mutex<Vec<Received>>> = Arc::default();
        let status = Arc::new(AtomicU16::new(204));
        let (received, status_to_send) = (Arc::clone(&events), Arc::clone(&status));
        let endpoint = EventReceiver::open(move |delivery| {
            let answered = status_to_send.load(Ordering::SeqCst);
            let [id, timestamp, signature] = ["webhook-id", "webhook-timestamp", "webhook-signature"]
                .map(|name| delivery.headers[name].to_str().unwrap().to_owned());
            received.lock().push(Received { id, timestamp, signature, body: delivery.body, answered });
            std::future::ready(StatusCode::from_u16(answered).unwrap())
        });
        Self { endpoint: endpoint.await.unwrap(), events, status }
    }

    pub fn url(&self) -> String {
        self.endpoint.url()
    }

    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Returns the received events of an order, in order of arrival.
    pub fn events_of(&self, order: &str) -> Vec<Received> {
        self.events.lock().iter().filter(|event| order_of(&event.json()) == order).cloned().collect()
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
