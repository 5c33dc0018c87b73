//! Posts an event to a merchant's URL, signed according to Standard Webhooks (webhook-id, webhook-timestamp,
//! webhook-signature).

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tollgate_plugins::secret::Secret;

use super::dial;
use crate::clock::unix_now;
use crate::config::{Webhook, special_purpose};
use crate::ledger::{Event, Record};
use crate::view::{payment_view, refund_view};

/// Time limit for the whole delivery.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// Time limit for the TLS handshake; after that the next address is tried.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// Limits for reading the response body, which is discarded. Reading it lets the endpoint finish properly.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_RESPONSE_BODY: usize = 64 * 1024;

/// Posts events. Redirects are not followed, because the signature is meant for one receiver.
#[derive(Clone, Copy)]
pub struct Client;

/// The endpoint's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// The `retry-after` header.
    pub retry_after: Option<String>,
}

impl Client {
    /// Posts an event after `tries` earlier attempts. The error describes why there was no response.
    pub async fn post(&self, target: &Webhook, allowed: &[IpNet], event: &Event, tries: u32) -> Result<Reply, String> {
        let uri: Uri = target.url.parse().map_err(|_| "the webhook's URL is invalid".to_owned())?;
        let request = request(target, &uri, event, unix_now())?;
        tokio::time::timeout(RESPONSE_TIMEOUT, send(&uri, allowed, request, tries))
            .await
            .unwrap_or_else(|_| Err("no answer within 15 s".to_owned()))
    }
}

/// Returns the event's body, with identical bytes in every attempt.
pub fn body(event: &Event) -> Result<Bytes, String> {
    #[derive(Serialize)]
    struct Body<'a, T: Serialize> {
        id: &'a str,
        r#type: &'a str,
        created_at: jiff::Timestamp,
        merchant: &'a str,
        data: T,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Data<P: Serialize, R: Serialize> {
        Payment(P),
        Refund(R),
    }
    let data = match &event.data {
        Record::Payment(payment) => Data::Payment(payment_view(payment)),
        Record::Refund(refund) => Data::Refund(refund_view(refund)),
    };
    let merchant = &event.subject.merchant;
    let body = Body { id: &event.id, r#type: &event.kind, created_at: event.created_at, merchant, data };
    serde_json::to_vec(&body).map(Bytes::from).map_err(|error| format!("the event cannot be serialized: {error}"))
}

fn request(target: &Webhook, uri: &Uri, event: &Event, now: u64) -> Result<Request<Full<Bytes>>, String> {
    let body = body(event)?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", authority)
        .header("content-type", "application/json")
        .header("user-agent", concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &event.id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signatures(&target.secrets, &event.id, now, &body))
        .body(Full::new(body))
        .map_err(|_| "the webhook's URL is not usable in a request".to_owned())
}

/// Returns one `v1,…` signature per secret, so that a receiver can rotate its secret without losing events.
fn signatures(secrets: &[Secret], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut message = format!("{id}.{timestamp}.").into_bytes();
    message.extend_from_slice(body);
    let sign = |secret: &Secret| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), &message);
        format!("v1,{}", BASE64_STANDARD.encode(tag))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

async fn send(uri: &Uri, allowed: &[IpNet], request: Request<Full<Bytes>>, tries: u32) -> Result<Reply, String> {
    let host = uri.host().ok_or("the webhook's URL has no host")?.trim_matches(['[', ']']).to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    // Resolved once and then checked: a second lookup could return other addresses.
    let resolved = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|error| format!("cannot resolve the host: {error}"))?;
    let addresses = dial::sorted(permitted(resolved.collect(), allowed)?, tries);
    let name = match tls {
        true => Some(ServerName::try_from(host).map_err(|_| "the host is not a valid TLS server name".to_owned())?),
        false => None,
    };
    send_to(addresses, name, &PUBLIC_ROOTS, request).await
}

/// Sends the request to the first reachable address, over TLS if there is a name. Nothing is written before the
/// handshake succeeds.
async fn send_to(
    mut addresses: Vec<SocketAddr>,
    name: Option<ServerName<'static>>,
    roots: &Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<Reply, String> {
    loop {
        let (stream, address) = dial::connect_first(&addresses).await?;
        let Some(name) = name.clone() else { return exchange(stream, request).await };
        let handshake = TlsConnector::from(Arc::clone(roots)).connect(name, stream);
        let reason = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => return exchange(stream, request).await,
            Ok(Err(error)) => format!("TLS with {address}: {error}"),
            Err(_) => format!("TLS with {address}: no answer within {} s", HANDSHAKE_TIMEOUT.as_secs()),
        };
        // Another address may still work.
        addresses.retain(|other| *other != address);
        if addresses.is_empty() {
            return Err(reason);
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection_error = |error: hyper::Error| format!("the connection failed: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(connection_error)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(connection_error)?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    // The status alone decides: an endless body must not turn a success into a failure.
    let _ = tokio::time::timeout(BODY_TIMEOUT, Limited::new(response.into_body(), MAX_RESPONSE_BODY).collect()).await;
    driver.abort();
    Ok(Reply { status, retry_after })
}

static PUBLIC_ROOTS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    // The crypto provider supports TLS 1.2 and 1.3, so this cannot fail. The fallback trusts no certificate.
    let builder = builder.with_safe_default_protocol_versions();
    builder.map_or_else(
        |_| Arc::new(ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()),
        |builder| Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
    )
});

/// Returns the addresses if all of them are permitted. One private address among public ones rejects the host.
fn permitted(addresses: Vec<SocketAddr>, allowed: &[IpNet]) -> Result<Vec<SocketAddr>, String> {
    for address in &addresses {
        let ip = address.ip().to_canonical();
        if let Some(purpose) = special_purpose::not_global(ip)
            && !allowed.iter().any(|net| net.contains(&ip))
        {
            let advice = "add its network to `delivery.allowed_networks` in tollgate.toml to permit it";
            return Err(format!("{ip} is not a public address: {purpose}; {advice}"));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The example shared by the specification's reference libraries.
    #[test]
    fn signature_matches_standard_webhooks_example() {
        let secret = Secret::new(BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let signed = signatures(
            std::slice::from_ref(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let two_signatures = signatures(&[secret.clone(), Secret::new("other")], "a", 1, b"");
        assert_eq!(two_signatures.split(' ').count(), 2, "one for each secret while they rotate");
    }

    #[test]
    fn private_addresses_are_rejected_unless_allowed() {
        let rejected = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "240.0.0.1",
            "::1",
            "::",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "192.88.99.1",
            "3fff::1",
        ];
        for text in rejected {
            let address = SocketAddr::new(text.parse().unwrap(), 443);
            assert!(permitted(vec![address], &[]).is_err(), "{text}");
        }
        for text in ["1.1.1.1", "93.184.216.34", "2606:4700::1111"] {
            let address = SocketAddr::new(text.parse().unwrap(), 443);
            assert_eq!(permitted(vec![address], &[]), Ok(vec![address]));
            let private = SocketAddr::new("10.0.0.1".parse().unwrap(), 443);
            assert!(permitted(vec![address, private], &[]).is_err(), "one private among public");
        }
        let loopback = SocketAddr::new("127.0.0.1".parse().unwrap(), 80);
        assert_eq!(permitted(vec![loopback], &["127.0.0.0/8".parse().unwrap()]), Ok(vec![loopback]));
    }

    /// Starts an endpoint that answers every request with 204, over TLS if configured. Returns its address.
    async fn receiver(tls: Option<Arc<rustls::ServerConfig>>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let response = async |mut stream: Box<dyn Both>| {
                    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
                    let response = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, response).await;
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
                };
                match &tls {
                    Some(tls) => match tokio_rustls::TlsAcceptor::from(Arc::clone(tls)).accept(stream).await {
                        Ok(stream) => response(Box::new(stream)).await,
                        Err(_) => continue,
                    },
                    None => response(Box::new(stream)).await,
                }
            }
        });
        address
    }

    trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
    impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

    fn a_request() -> Request<Full<Bytes>> {
        Request::post("/").header("host", "a.test").body(Full::new(Bytes::from_static(b"{}"))).unwrap()
    }

    #[tokio::test]
    async fn webhook_falls_back_from_unresponsive_address() {
        let (unresponsive, _listener) = dial::tests::unresponsive("127.0.0.1").await;
        let working = receiver(None).await;
        let reply = send_to(vec![unresponsive, working], None, &PUBLIC_ROOTS, a_request()).await;
        assert_eq!(reply.unwrap().status, 204);
    }

    #[tokio::test]
    async fn webhook_falls_back_from_address_without_tls() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = server.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());

        let working = receiver(Some(Arc::new(server))).await;
        let plain = receiver(None).await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        for before in [plain, silent.local_addr().unwrap()] {
            let reply = send_to(vec![before, working], Some(name.clone()), &client, a_request()).await;
            assert_eq!(reply.unwrap().status, 204, "{before}");
        }
        let reason = send_to(vec![plain], Some(name), &client, a_request()).await.unwrap_err();
        assert!(reason.starts_with(&format!("TLS with {plain}: ")), "{reason}");
    }
}
