//! The merchant's receiver, which fails now and then, and writes down what it took.

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

/// What was taken, by order.
#[derive(Clone, Debug, Default)]
pub(super) struct ReceivedEvents {
    /// The types of the events, each id once, in the order in which they came.
    pub(super) kinds: Vec<String>,
    ids: HashSet<String>,
}

#[derive(Default)]
struct State {
    heard: HashMap<String, ReceivedEvents>,
    /// Events that were refused once: the second time they are taken.
    refused: HashSet<String>,
    repeated: u64,
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

    pub(super) fn heard(&self, order: &str) -> ReceivedEvents {
        self.state.lock().heard.get(order).cloned().unwrap_or_default()
    }

    /// How many events came and were refused at first; how many came again although they had been taken.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.refused.len(), state.repeated)
    }
}

async fn receive(listener: TcpListener, state: Arc<Mutex<State>>, seed: u64) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| take(Arc::clone(&state), request, seed));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn take(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
    seed: u64,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    let id = event["id"].as_str().unwrap_or_default().to_owned();
    let mut response = Response::new(Full::new(Bytes::new()));
    // One event in sixteen is refused when it comes first, one in sixteen is taken late.
    let chance = id.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 16;
    if chance == 0 && state.lock().refused.insert(id.clone()) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    if chance == 1 {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let data = &event["data"];
    let record = if data["payment"].is_null() { &data["refund"] } else { &data["payment"] };
    let order = record["order_id"].as_str().unwrap_or_default().to_owned();
    let mut state = state.lock();
    let heard = state.heard.entry(order).or_default();
    if heard.ids.insert(id) {
        heard.kinds.push(event["type"].as_str().unwrap_or_default().to_owned());
    } else {
        state.repeated += 1;
    }
    Ok(response)
}
