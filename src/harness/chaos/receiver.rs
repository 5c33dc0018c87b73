//! The merchant's webhook receiver: sometimes rejects or delays an event, and records every accepted one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;

use crate::event_receiver::{Delivery, EventReceiver, order_of};

/// Accepted events of one order.
#[derive(Clone, Debug, Default)]
pub(super) struct ReceivedEvents {
    /// Event types in order of arrival, each event id once.
    pub(super) types: Vec<String>,
    ids: HashSet<String>,
}

#[derive(Default)]
struct State {
    /// Accepted events by order id.
    events: HashMap<String, ReceivedEvents>,
    /// Ids of events that were rejected once. The next delivery is accepted.
    rejected: HashSet<String>,
    /// Number of deliveries of events that were already accepted.
    duplicates: u64,
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

    pub(super) fn events_of(&self, order: &str) -> ReceivedEvents {
        self.state.lock().events.get(order).cloned().unwrap_or_default()
    }

    /// Returns the number of events that were rejected once, and the number of duplicate deliveries.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.rejected.len(), state.duplicates)
    }
}

async fn accept(state: &Mutex<State>, seed: u64, delivery: Delivery) -> StatusCode {
    let event = delivery.event();
    let id = event["id"].as_str().unwrap_or_default().to_owned();
    // One event in sixteen is rejected at its first delivery, and one in sixteen is accepted after 300 ms.
    let slot = id.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 16;
    if slot == 0 && state.lock().rejected.insert(id.clone()) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    if slot == 1 {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut state = state.lock();
    let events = state.events.entry(order_of(&event).to_owned()).or_default();
    if events.ids.insert(id) {
        events.types.push(event["type"].as_str().unwrap_or_default().to_owned());
    } else {
        state.duplicates += 1;
    }
    StatusCode::OK
}
