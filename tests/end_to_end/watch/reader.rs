//! Reader of server-sent events, written from the specification.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{SHOP, TEST_TIMEOUT, signed_headers};

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SseEvent {
    pub(super) id: u64,
    pub(super) kind: String,
    pub(super) data: Value,
}

/// An open stream.
pub(super) struct Reader {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Incoming,
    buffer: String,
    /// Everything received.
    pub(super) raw: String,
}

impl Reader {
    /// Connects as a browser with a token.
    pub(super) async fn with_token(to: SocketAddr, order: &str, token: &str, last: Option<&str>) -> Self {
        let headers: Vec<_> = last.map(|last| ("last-event-id", last.to_owned())).into_iter().collect();
        Self::open(to, &format!("/v1/payments/{order}/events?watch={token}"), &headers).await
    }

    /// Connects as the merchant `shop`.
    pub(super) async fn signed(to: SocketAddr, order: &str) -> Self {
        let target = format!("/v1/payments/{order}/events");
        Self::open(to, &target, &signed_headers(&SHOP, "GET", &target, b"")).await
    }

    pub(super) async fn open(to: SocketAddr, target: &str, headers: &[(&'static str, String)]) -> Self {
        Self::try_open(to, target, headers).await.unwrap()
    }

    pub(super) async fn try_open(
        to: SocketAddr,
        target: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(to).await.map_err(|error| text(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request(&to.to_string(), target, headers)).await;
        Ok(Self::of(response.map_err(|error| text(&error))?))
    }

    /// Connects over an established TLS stream with HTTP/2.
    pub(super) async fn over_http2<S>(stream: S, target: &str, headers: &[(&'static str, String)]) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.unwrap();
        tokio::spawn(connection);
        Self::of(sender.send_request(request("", &format!("https://localhost{target}"), headers)).await.unwrap())
    }

    /// Connects over an established TLS stream with HTTP/1.1.
    pub(super) async fn over_http1<S>(stream: S, target: &str, headers: &[(&'static str, String)]) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::of(sender.send_request(request("localhost", target, headers)).await.unwrap())
    }

    fn of(response: http::Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let (buffer, raw) = (String::new(), String::new());
        Self { status: parts.status.as_u16(), headers: parts.headers, body, buffer, raw }
    }

    /// Returns the next event; `None` at a clean end of the stream.
    pub(super) async fn next(&mut self) -> Option<SseEvent> {
        self.try_next().await.expect("the stream ends cleanly")
    }

    pub(super) async fn try_next(&mut self) -> Result<Option<SseEvent>, String> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let event = parse(block);
                self.buffer = rest.to_owned();
                if event.is_some() {
                    return Ok(event);
                }
                continue;
            }
            if !self.try_receive().await? {
                return Ok(None);
            }
        }
    }

    /// Receives some bytes, whatever they mean.
    pub(super) async fn receive(&mut self) {
        assert_eq!(self.try_receive().await, Ok(true));
    }

    /// Returns false at a clean end.
    async fn try_receive(&mut self) -> Result<bool, String> {
        let frame = timeout(TEST_TIMEOUT, self.body.frame()).await.map_err(|_| "nothing arrives".to_owned())?;
        let Some(frame) = frame else { return Ok(false) };
        let data = frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default();
        let text = std::str::from_utf8(&data).unwrap();
        self.buffer += text;
        self.raw += text;
        Ok(true)
    }

    /// Returns the body of a response that is no stream.
    pub(super) async fn json(self) -> Value {
        let body = self.body.collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap_or_default()
    }
}

fn request(host: &str, target: &str, headers: &[(&'static str, String)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get(target);
    if !host.is_empty() {
        request = request.header("host", host);
    }
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(Empty::new()).unwrap()
}

/// Parses the lines of one event; `None` for comments and settings.
fn parse(block: &str) -> Option<SseEvent> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = field("data")?;
    Some(SseEvent {
        id: field("id")?.parse().unwrap(),
        kind: field("event")?.to_owned(),
        data: serde_json::from_str(data).unwrap(),
    })
}
