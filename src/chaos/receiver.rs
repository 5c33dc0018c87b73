//! The merchant's webhook receiver: sometimes rejects or delays an event, and records every accepted one.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

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
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    pub(super) async fn open(seed: u64) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let state = Arc::new(Mutex::new(State::default()));
        tokio::spawn(receive(listener, Arc::clone(&state), seed));
        Ok(Self { address, state })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/events", self.address)
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

async fn receive(listener: TcpListener, state: Arc<Mutex<State>>, seed: u64) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| handle(Arc::clone(&state), request, seed));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
    seed: u64,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    let id = event["id"].as_str().unwrap_or_default().to_owned();
    let mut response = Response::new(Full::new(Bytes::new()));
    // One event in sixteen is rejected at its first delivery, and one in sixteen is accepted after 300 ms.
    let slot = id.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 16;
    if slot == 0 && state.lock().rejected.insert(id.clone()) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    if slot == 1 {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let data = &event["data"];
    let record = if data["payment"].is_null() { &data["refund"] } else { &data["payment"] };
    let order = record["order_id"].as_str().unwrap_or_default().to_owned();
    let mut state = state.lock();
    let events = state.events.entry(order).or_default();
    if events.ids.insert(id) {
        events.types.push(event["type"].as_str().unwrap_or_default().to_owned());
    } else {
        state.duplicates += 1;
    }
    Ok(response)
}
