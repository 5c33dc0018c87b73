//! The merchant's webhook receiver: sometimes rejects or delays an event, and records every accepted one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;

use super::sink_record::SinkRecord;
use crate::event_receiver::{Delivery, EventReceiver, order_of};

#[derive(Default)]
struct State {
    /// Types of accepted events by order id, in order of arrival, each event once.
    types: HashMap<String, Vec<String>>,
    /// Ids of events that were rejected once. The next delivery is accepted.
    rejected: HashSet<String>,
    record: SinkRecord,
}

pub(super) struct Receiver {
    endpoint: EventReceiver,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    pub(super) async fn open(seed: u64) -> Result<Self, String> {
        let state = Arc::new(Mutex::new(State::default()));
        let accepted = Arc::clone(&state);
        let endpoint = EventReceiver::open(move |delivery| {
            let state = Arc::clone(&accepted);
            async move { accept(&state, seed, delivery).await }
        });
        Ok(Self { endpoint: endpoint.await.map_err(|error| error.to_string())?, state })
    }

    pub(super) fn url(&self) -> String {
        self.endpoint.url()
    }

    /// Returns the types of the order's accepted events, in order of arrival, each event once.
    pub(super) fn types_of(&self, order: &str) -> Vec<String> {
        self.state.lock().types.get(order).cloned().unwrap_or_default()
    }

    /// Calls `read` with everything that was received.
    pub(super) fn with_record<T>(&self, read: impl FnOnce(&SinkRecord) -> T) -> T {
        read(&self.state.lock().record)
    }

    /// Returns the number of events that were rejected once, and the number of duplicate deliveries.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.rejected.len(), state.record.repetitions())
    }
}

async fn accept(state: &Mutex<State>, seed: u64, delivery: Delivery) -> StatusCode {
    let event = delivery.event();
    let id = delivery.header("webhook-id").to_owned();
    state.lock().record.attempt(&id, &delivery.body);
    // One event in sixteen is rejected at its first delivery, and one in sixteen is accepted after 300 ms.
    let slot = id.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 16;
    if slot == 0 && state.lock().rejected.insert(id.clone()) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    if slot == 1 {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut state = state.lock();
    if state.record.accept(&event) {
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        state.types.entry(order_of(&event).to_owned()).or_default().push(kind);
    }
    StatusCode::OK
}
