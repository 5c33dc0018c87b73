use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Behaviour of an endpoint after its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    KeepOpen,
    Close,
}

/// An endpoint that answers every request with 204.
struct Receiver {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Receiver {
    async fn start(tls: Option<Arc<rustls::ServerConfig>>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                match tls.clone() {
                    None => drop(tokio::spawn(serve(stream, then))),
                    Some(tls) => drop(tokio::spawn(async move {
                        if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                            serve(stream, then).await;
                        }
                    })),
                }
            }
        });
        Self { address, accepted }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::of(&format!("http://{}/", self.address).parse().unwrap()).unwrap()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, then: Then) {
    let mut received = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut received).await {
        if received.ends_with(b"{}") {
            received.clear();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            if then == Then::Close {
                let _ = stream.shutdown().await;
                return;
            }
        }
    }
}

fn a_request() -> Request<Full<Bytes>> {
    Request::post("/").header("host", "a.test").body(Full::new(Bytes::from_static(b"{}"))).unwrap()
}

fn loopback_network() -> IpNet {
    "127.0.0.0/8".parse().unwrap()
}

async fn post(connections: &Connections, receiver: &Receiver, tries: u32) -> Result<u16, DeliveryError> {
    let sent = connections.send(&receiver.endpoint(), &[loopback_network()], a_request(), tries).await;
    sent.map(|reply| reply.status)
}

/// Waits until the kept connection can be used again, or was found closed.
async fn until_idle_is(connections: &Connections, is_ready: bool) {
    while connections.idle.lock().iter().any(|idle| idle.connection.sender.is_ready() != is_ready) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_events_use_one_connection() {
    let receiver = Receiver::start(None, Then::KeepOpen).await;
    let connections = Connections::new();
    for _ in 0..5 {
        assert_eq!(post(&connections, &receiver, 0).await.unwrap(), 204);
        until_idle_is(&connections, true).await;
    }
    assert_eq!((receiver.accepted(), connections.idle.lock().len()), (1, 1));
}

#[tokio::test]
async fn retry_opens_a_new_connection_and_closes_the_idle_ones() {
    let receiver = Receiver::start(None, Then::KeepOpen).await;
    let connections = Connections::new();
    for tries in 0..3 {
        assert_eq!(post(&connections, &receiver, tries).await.unwrap(), 204);
        until_idle_is(&connections, true).await;
    }
    assert_eq!((receiver.accepted(), connections.idle.lock().len()), (3, 1));
}

#[tokio::test]
async fn idle_connection_that_the_endpoint_closed_is_replaced() {
    let receiver = Receiver::start(None, Then::Close).await;
    let connections = Connections::new();
    for _ in 0..3 {
        assert_eq!(post(&connections, &receiver, 0).await.unwrap(), 204);
        until_idle_is(&connections, false).await;
    }
    assert_eq!(receiver.accepted(), 3);
}

/// The connection looks usable when it is taken, and is closed before anything of the request is written.
#[tokio::test]
async fn request_that_was_not_written_is_sent_on_a_new_connection() {
    let receiver = Receiver::start(None, Then::KeepOpen).await;
    let connections = Connections::new();
    assert_eq!(post(&connections, &receiver, 0).await.unwrap(), 204);
    until_idle_is(&connections, true).await;
    connections.idle.lock()[0].connection.driver.abort();
    assert!(connections.idle.lock()[0].connection.sender.is_ready(), "nothing shows yet that it is closed");
    assert_eq!(post(&connections, &receiver, 0).await.unwrap(), 204);
    assert_eq!(receiver.accepted(), 2);
}

#[tokio::test]
async fn address_is_checked_on_reconnect_and_on_reuse() {
    for then in [Then::Close, Then::KeepOpen] {
        let receiver = Receiver::start(None, then).await;
        let connections = Connections::new();
        assert_eq!(post(&connections, &receiver, 0).await.unwrap(), 204);
        until_idle_is(&connections, then == Then::KeepOpen).await;
        // The operator has withdrawn the network meanwhile.
        let refused = connections.send(&receiver.endpoint(), &[], a_request(), 0).await;
        assert!(matches!(refused, Err(DeliveryError::NotPublic { .. })), "{refused:?}");
        assert_eq!((receiver.accepted(), connections.idle.lock().len()), (1, 0));
    }
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_time() {
    let receiver = Receiver::start(None, Then::KeepOpen).await;
    let (connections, now) = (Connections::new(), Instant::now());
    let endpoint = |port| Endpoint { host: "a.test".to_owned(), port, tls_name: None };
    let open = async || connections.open(&receiver.endpoint(), vec![receiver.address]).await.unwrap();
    for _ in 0..MAX_IDLE_PER_ENDPOINT + 1 {
        connections.keep(&endpoint(0), open().await, now);
    }
    assert_eq!(connections.idle.lock().len(), MAX_IDLE_PER_ENDPOINT);
    for port in 1..=u16::try_from(MAX_IDLE).unwrap() {
        connections.keep(&endpoint(port), open().await, now);
    }
    let kept: Vec<u16> = connections.idle.lock().iter().map(|idle| idle.endpoint.port).collect();
    assert_eq!((kept.len(), kept[0]), (MAX_IDLE, 1), "the longest idle ones were evicted");
    let allowed = [loopback_network()];
    assert!(connections.take(&endpoint(1), &allowed, now + IDLE_TIMEOUT).is_none(), "idle for too long");
    assert!(connections.take(&endpoint(2), &allowed, now).is_some());
    connections.close_expired(now + IDLE_TIMEOUT);
    assert!(connections.idle.lock().is_empty());
    connections.keep(&endpoint(0), open().await, Instant::now() + MAX_CONNECTION_AGE);
    assert!(connections.idle.lock().is_empty(), "too old to be kept");
}

async fn answer_from(
    connections: &Connections,
    endpoint: &Endpoint,
    addresses: Vec<SocketAddr>,
) -> Result<u16, DeliveryError> {
    let connection = connections.open(endpoint, addresses).await?;
    match connections.exchange(endpoint, connection, a_request()).await? {
        Exchange::Answered(reply) => Ok(reply.status),
        Exchange::NotSent(_, error) => Err(DeliveryError::Connection(error)),
    }
}

#[tokio::test]
async fn webhook_falls_back_from_unresponsive_address() {
    let (unresponsive, _listener) = dial::tests::unresponsive("127.0.0.1").await;
    let working = Receiver::start(None, Then::KeepOpen).await;
    let addresses = vec![unresponsive, working.address];
    assert_eq!(answer_from(&Connections::new(), &working.endpoint(), addresses).await.unwrap(), 204);
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
    let connections = Connections { idle: Mutex::default(), roots: client };
    let endpoint = Endpoint::of(&"https://a.test/".parse().unwrap()).unwrap();

    let working = Receiver::start(Some(Arc::new(server)), Then::KeepOpen).await.address;
    let plain = Receiver::start(None, Then::Close).await.address;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for before in [plain, silent.local_addr().unwrap()] {
        assert_eq!(answer_from(&connections, &endpoint, vec![before, working]).await.unwrap(), 204, "{before}");
    }
    let error = answer_from(&connections, &endpoint, vec![silent.local_addr().unwrap()]).await.unwrap_err();
    assert!(matches!(error, DeliveryError::TlsTimeout(..)), "{error}");
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
        assert_eq!(permitted(vec![address], &[]).unwrap(), [address]);
        let private = SocketAddr::new("10.0.0.1".parse().unwrap(), 443);
        assert!(permitted(vec![address, private], &[]).is_err(), "one private among public");
    }
    let loopback = SocketAddr::new("127.0.0.1".parse().unwrap(), 80);
    assert_eq!(permitted(vec![loopback], &[loopback_network()]).unwrap(), [loopback]);
}
