//! One event to one merchant's URL, signed as Standard Webhooks says (webhook-id, webhook-timestamp, webhook-signature).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tollgate_plugins::secret::Secret;

use crate::clock::unix_now;
use crate::config::Webhook;
use crate::ledger::{Event, Record};
use crate::view::{payment_view, refund_view};

/// Within this time an endpoint must have answered.
const LIMIT: Duration = Duration::from_secs(15);
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
    /// Sends one event; the error says in words why there was no reply.
    pub async fn post(&self, target: &Webhook, allowed: &[IpNet], event: &Event) -> Result<Reply, String> {
        let uri: Uri = target.url.parse().map_err(|_| "the webhook's URL cannot be read".to_owned())?;
        let request = request(target, &uri, event, unix_now())?;
        tokio::time::timeout(LIMIT, send(&uri, allowed, request))
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

async fn send(uri: &Uri, allowed: &[IpNet], request: Request<Full<Bytes>>) -> Result<Reply, String> {
    let host = uri.host().ok_or("the webhook's URL has no host")?.trim_matches(['[', ']']).to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    // Looked up once, checked, and connected to: a second look-up could say something else.
    let found = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|error| format!("cannot look up the host: {error}"))?;
    let addresses = permitted(found.collect(), allowed)?;
    let stream = TcpStream::connect(&*addresses).await.map_err(|error| format!("cannot connect: {error}"))?;
    if tls {
        let name = ServerName::try_from(host).map_err(|_| "the host is no TLS name".to_owned())?;
        let connector = TlsConnector::from(Arc::clone(&PUBLIC_ROOTS));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
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
    let refused = |address: &&SocketAddr| {
        let ip = address.ip().to_canonical();
        !is_public(ip) && !allowed.iter().any(|net| net.contains(&ip))
    };
    match addresses.iter().find(refused) {
        None => Ok(addresses),
        Some(address) => Err(format!(
            "{} is a private address; add its network to `delivery.allow` in tollgate.toml to permit it",
            address.ip()
        )),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
        || (a == 192 && b == 0 && c == 0))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Only global unicast is public, and of it not what carries IPv4 inside (6to4, Teredo) nor documentation.
    (first & 0xe000) == 0x2000 && first != 0x2002 && !(first == 0x2001 && (second == 0 || second == 0xdb8))
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
}
