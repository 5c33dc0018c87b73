//! A plain HTTP/1.1 client for servers on this machine. Each request uses a connection of its own.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A complete response.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl HttpResponse {
    /// Returns the body as JSON, or as a JSON string if it is another text.
    pub fn json(&self) -> Value {
        let text = || Value::from(String::from_utf8_lossy(&self.body).into_owned());
        serde_json::from_slice(&self.body).unwrap_or_else(|_| text())
    }

    /// Returns whether the gateway replayed the stored response of an earlier request with the same idempotency key.
    pub fn is_replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }
}

/// Sends one request over a new connection. The URL has the scheme `http`. A `host` among the headers replaces the URL's.
pub async fn send(
    method: &str,
    url: &str,
    headers: &[(&'static str, String)],
    body: &[u8],
) -> Result<HttpResponse, String> {
    let url: Uri = url.parse().map_err(|error| format!("`{url}` is not a URL: {error}"))?;
    let to = url.authority().ok_or_else(|| format!("`{url}` names no host"))?.as_str();
    let stream = TcpStream::connect(to).await.map_err(|error| format!("cannot reach {to}: {error}"))?;
    exchange(stream, to, method, &url, headers, body).await
}

/// Sends one request over an established connection to the host `to`, as [`send`] does.
pub async fn exchange<S>(
    stream: S,
    to: &str,
    method: &str,
    url: &Uri,
    headers: &[(&'static str, String)],
    body: &[u8],
) -> Result<HttpResponse, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| format!("the connection to {to} broke: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::builder().method(method).uri(target);
    if headers.iter().all(|(name, _)| *name != HOST.as_str()) {
        request = request.header(HOST, to);
    }
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).map_err(|error| error.to_string())?;
    let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = body.collect().await.map_err(broken)?.to_bytes();
    Ok(HttpResponse { status: parts.status.as_u16(), headers: parts.headers, body })
}

/// Sends a request whose body is JSON; null is an empty body. Returns the status and the JSON of the response.
pub async fn send_json(method: &str, url: &str, body: &Value) -> Result<(u16, Value), String> {
    let response = send(method, url, &[], &json_bytes(body)).await?;
    Ok((response.status, response.json()))
}

/// Encodes a request body. Null is an empty body.
pub fn json_bytes(body: &Value) -> Vec<u8> {
    if body.is_null() { Vec::new() } else { body.to_string().into_bytes() }
}
