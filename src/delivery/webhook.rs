//! One event to one merchant's URL, signed as Standard Webhooks says (webhook-id, webhook-timestamp, webhook-signature).

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

/// Within this time an endpoint must have answered.
const LIMIT: Duration = Duration::from_secs(15);
/// Within this part of it the TLS handshake must be done, or the next address is tried.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// So long and so much of an answer is read, to let the other side finish; it is not looked at.
const BODY_LIMIT: Duration = Duration::from_secs(1);
const ANSWER_LIMIT: usize = 64 * 1024;

/// Posts events. Redirects are not followed: the signature is for one receiver.
#[derive(Clone, Copy)]
pub struct Client;

/// What the endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The header `retry-after`.
    pub retry_after: Option<String>,
}

impl Client {
    /// Sends one event, after so many tries; the error says in words why there was no reply.
    pub async fn post(&self, target: &Webhook, allowed: &[IpNet], event: &Event, tries: u32) -> Result<Reply, String> {
        let uri: Uri = target.url.parse().map_err(|_| "the webhook's URL cannot be read".to_owned())?;
        let request = request(target, &uri, event, unix_now())?;
        tokio::time::timeout(LIMIT, send(&uri, allowed, request, tries))
            .await
            .unwrap_or_else(|_| Err("no answer within 15 s".to_owned()))
    }
}

/// The event's body; the same bytes at every try.
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
    serde_json::to_vec(&body).map(Bytes::from).map_err(|error| format!("the event cannot be written: {error}"))
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
        .map_err(|_| "the webhook's URL cannot be put into a request".to_owned())
}

/// One `v1,…` for each secret, so that a receiver can change to a new one without losing an event.
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
    // Looked up once, checked, and connected to: a second look-up could say something else.
    let found = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|error| format!("cannot look up the host: {error}"))?;
    let addresses = dial::sorted(permitted(found.collect(), allowed)?, tries);
    let name = match tls {
        true => Some(ServerName::try_from(host).map_err(|_| "the host is no TLS name".to_owned())?),
        false => None,
    };
    send_to(addresses, name, &PUBLIC_ROOTS, request).await
}

/// Sends to the first address that can be reached; with a name, over TLS. Nothing of the request is written before that.
async fn send_to(
    mut addresses: Vec<SocketAddr>,
    name: Option<ServerName<'static>>,
    roots: &Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<Reply, String> {
    loop {
        let (stream, address) = dial::first(&addresses).await?;
        let Some(name) = name.clone() else { return exchange(stream, request).await };
        let handshake = TlsConnector::from(Arc::clone(roots)).connect(name, stream);
        let why = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => return exchange(stream, request).await,
            Ok(Err(error)) => format!("TLS with {address}: {error}"),
            Err(_) => format!("TLS with {address}: no answer within {} s", HANDSHAKE_TIMEOUT.as_secs()),
        };
        // What is behind another address may be well.
        addresses.retain(|other| *other != address);
        if addresses.is_empty() {
            return Err(why);
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    // The status decides; a body that never ends must not turn a success into a failure.
    let _ = tokio::time::timeout(BODY_LIMIT, Limited::new(answer.into_body(), ANSWER_LIMIT).collect()).await;
    driver.abort();
    Ok(Reply { status, retry_after })
}

static PUBLIC_ROOTS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    // The provider has what TLS 1.2 and 1.3 need, so this cannot fail; if it did, no webhook would be believed.
    let builder = builder.with_safe_default_protocol_versions();
    builder.map_or_else(
        |_| Arc::new(ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()),
        |builder| Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
    )
});

/// The addresses, if all of them may be reached: a name with one private address among public ones is refused too.
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

    /// The example that the specification's reference libraries share.
    #[test]
    fn signs_as_the_specification_says() {
        let secret = Secret::new(BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let signed = signatures(
            std::slice::from_ref(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = signatures(&[secret.clone(), Secret::new("other")], "a", 1, b"");
        assert_eq!(both.split(' ').count(), 2, "one for each secret while they rotate");
    }

    #[test]
    fn private_addresses_are_refused_unless_allowed() {
        let refused = [
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
        for text in refused {
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

    /// Answers every request with 204, over TLS if there is a configuration for it; where it listens.
    async fn receiver(tls: Option<Arc<rustls::ServerConfig>>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = async |mut stream: Box<dyn Both>| {
                    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
                    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
                };
                match &tls {
                    Some(tls) => match tokio_rustls::TlsAcceptor::from(Arc::clone(tls)).accept(stream).await {
                        Ok(stream) => answer(Box::new(stream)).await,
                        Err(_) => continue,
                    },
                    None => answer(Box::new(stream)).await,
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
    async fn webhook_whose_first_address_takes_no_connection_is_delivered_by_the_next_one() {
        let (mute, _kept) = dial::tests::mute("127.0.0.1").await;
        let good = receiver(None).await;
        let reply = send_to(vec![mute, good], None, &PUBLIC_ROOTS, a_request()).await;
        assert_eq!(reply.unwrap().status, 204);
    }

    #[tokio::test]
    async fn webhook_whose_first_address_speaks_no_tls_is_delivered_by_the_next_one() {
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

        let good = receiver(Some(Arc::new(server))).await;
        let plain = receiver(None).await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        for before in [plain, silent.local_addr().unwrap()] {
            let reply = send_to(vec![before, good], Some(name.clone()), &client, a_request()).await;
            assert_eq!(reply.unwrap().status, 204, "{before}");
        }
        let why = send_to(vec![plain], Some(name), &client, a_request()).await.unwrap_err();
        assert!(why.starts_with(&format!("TLS with {plain}: ")), "{why}");
    }
}
