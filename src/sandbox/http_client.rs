//! HTTP client for notifications. Each notification uses a new connection, as the providers' many machines do.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Maximum wait for an acknowledgement.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum body size of an acknowledgement.
const MAX_RESPONSE_BYTES: usize = 1 << 16;

/// Posts the body. Returns the status and the body of the response.
pub(super) async fn post(url: &Uri, headers: HeaderMap, body: Bytes) -> io::Result<(u16, Bytes)> {
    let response = tokio::time::timeout(ACKNOWLEDGEMENT_TIMEOUT, exchange(url, headers, body)).await;
    response.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no response within 5 seconds")))
}

async fn exchange(url: &Uri, headers: HeaderMap, body: Bytes) -> io::Result<(u16, Bytes)> {
    let authority = url.authority().ok_or_else(|| io::Error::other("the URL has no host"))?;
    let tls = url.scheme_str() == Some("https");
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(if tls { 443 } else { 80 }))).await?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse().map_err(io::Error::other)?;
    *request.headers_mut() = headers;
    let host_header = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
    request.headers_mut().insert("host", host_header);
    request.headers_mut().insert("accept", HeaderValue::from_static("*/*"));
    request.headers_mut().insert("user-agent", HeaderValue::from_static("Mozilla/4.0"));
    if !tls {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let config = ROOTS.as_ref().map_err(|error| io::Error::other(error.clone()))?;
    send(TlsConnector::from(config.clone()).connect(name, stream).await?, request).await
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> io::Result<(u16, Bytes)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await.map_err(io::Error::other)?;
    Ok((parts.status.as_u16(), body.to_bytes()))
}

static ROOTS: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
});
