//! A merchant's webhook endpoint on this machine.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One received delivery attempt.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Headers of the request.
    pub headers: HeaderMap,
    /// Body of the request.
    pub body: Bytes,
}

impl Delivery {
    /// Returns a header's text; empty if the header is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns the event. Null if the body is not JSON.
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Returns the order of an event about a payment or a refund; empty for other events.
pub fn order_of(event: &Value) -> &str {
    let data = &event["data"];
    let subject = if data["payment"].is_null() { &data["refund"] } else { &data["payment"] };
    subject["order_id"].as_str().unwrap_or_default()
}

/// A running endpoint. Dropping it closes the listener.
#[derive(Debug)]
pub struct EventReceiver {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl EventReceiver {
    /// Opens an endpoint on a free port. `answer` gets every delivery and decides the status of the response.
    pub async fn open<A, F>(answer: A) -> io::Result<Self>
    where
        A: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = StatusCode> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, Arc::new(answer)));
        Ok(Self { address, task })
    }

    /// URL of the endpoint, for a merchant's file.
    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<A, F>(listener: TcpListener, answer: Arc<A>)
where
    A: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = StatusCode> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let service = service_fn(move |request| receive(Arc::clone(&answer), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn receive<A, F>(answer: Arc<A>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible>
where
    A: Fn(Delivery) -> F,
    F: Future<Output = StatusCode>,
{
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = answer(Delivery { headers: parts.headers, body }).await;
    Ok(response)
}
