//! A plain HTTP/1.1 client for servers on this machine. Each request uses a connection of its own.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Sends one request over a new connection. Returns the status and the body: JSON, or a JSON string if the body is
/// another text.
pub(crate) async fn send_request(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&'static str, String)],
    body: String,
) -> Result<(u16, Value), String> {
    let stream = TcpStream::connect(to).await.map_err(|error| format!("cannot reach {to}: {error}"))?;
    exchange(stream, to, method, target, headers, body).await
}

/// Sends one request over an established connection, as [`send_request`] does.
pub(crate) async fn exchange<S>(
    stream: S,
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&'static str, String)],
    body: String,
) -> Result<(u16, Value), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| format!("the connection to {to} broke: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target).header("host", to.to_string());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    let text = || Value::from(String::from_utf8_lossy(&body).into_owned());
    Ok((status, serde_json::from_slice(&body).unwrap_or_else(|_| text())))
}
