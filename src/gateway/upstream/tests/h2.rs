//! HTTP/2 against a host that writes its frames by hand, so that each frame is known.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Action of the host after it has read a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// 200, without a body.
    Answer,
    /// RST_STREAM with this code.
    Reset(u32),
    /// RST_STREAM with this code after the header only.
    ResetEarly(u32),
    /// GOAWAY with this last stream (0: none, 1: the first) and code, then close.
    GoAway(u32, u32),
    /// Response header, then RST_STREAM with this code.
    AnswerThenReset(u32),
    /// Response header, then close.
    AnswerThenClose,
    /// 200 with a GOAWAY that includes its stream, then close.
    AnswerThenLeave,
    Close,
    /// No response.
    Hang,
}

struct RawHost {
    port: u16,
    certificate: Vec<u8>,
    acts: Arc<Mutex<VecDeque<Act>>>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl RawHost {
    /// Performs the actions in order over all connections; answers 200 when none are left.
    async fn start(acts: &[Act], alpn: &[&[u8]]) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let certificate = certificate.der().to_vec();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certificate.clone())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acts = Arc::new(Mutex::new(acts.iter().copied().collect::<VecDeque<_>>()));
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let host = Self { port, certificate, acts, connections, requests };
        let (acts, connections, requests) = (host.acts.clone(), host.connections.clone(), host.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, acts, requests) = (acceptor.clone(), acts.clone(), requests.clone());
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        let _ = frames(stream, &acts, &requests).await;
                    } else {
                        let _ = lines(stream, &requests).await;
                    }
                });
            }
        });
        host
    }

    /// Returns an upstream with several hosts, all of them this one.
    fn upstream(&self, hosts: usize) -> Upstream {
        let mut settings = settings("a", b"", b"");
        (settings.ca, settings.identity) = (Some(vec![self.certificate.clone()]), None);
        settings.hosts = vec![Host { name: "127.0.0.1".into(), port: self.port, tls: true }; hosts];
        settings.timeouts.total = Duration::from_secs(60);
        settings.http2 = true;
        Upstream::new(settings).unwrap()
    }

    fn counts(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }
}

/// Reads frames and performs the next action for each request.
async fn frames<S>(mut stream: S, acts: &Mutex<VecDeque<Act>>, requests: &AtomicUsize) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    write(&mut stream, SETTINGS, 0, 0, &[]).await?;
    let mut refused = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags, id) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        if kind == SETTINGS && flags & ACK == 0 {
            write(&mut stream, SETTINGS, ACK, 0, &[]).await?;
        }
        if kind == HEADERS && matches!(acts.lock().front(), Some(Act::ResetEarly(_))) {
            let Some(Act::ResetEarly(code)) = acts.lock().pop_front() else { unreachable!() };
            requests.fetch_add(1, Ordering::SeqCst);
            refused.push(id);
            write(&mut stream, RST_STREAM, 0, id, &code.to_be_bytes()).await?;
            continue;
        }
        if !(kind == HEADERS || kind == DATA) || flags & END_STREAM == 0 || refused.contains(&id) {
            continue;
        }
        requests.fetch_add(1, Ordering::SeqCst);
        // `:status: 200` is the eighth entry of the static table.
        let ok = [0x88];
        let act = acts.lock().pop_front().unwrap_or(Act::Answer);
        match act {
            Act::Answer => write(&mut stream, HEADERS, END_HEADERS | END_STREAM, id, &ok).await?,
            Act::Reset(code) | Act::ResetEarly(code) => {
                write(&mut stream, RST_STREAM, 0, id, &code.to_be_bytes()).await?;
            }
            Act::GoAway(last, code) => {
                write(&mut stream, GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await?;
                return stream.shutdown().await;
            }
            Act::AnswerThenReset(code) => {
                write(&mut stream, HEADERS, END_HEADERS, id, &ok).await?;
                write(&mut stream, RST_STREAM, 0, id, &code.to_be_bytes()).await?;
            }
            Act::AnswerThenClose => {
                write(&mut stream, HEADERS, END_HEADERS, id, &ok).await?;
                return stream.shutdown().await;
            }
            Act::AnswerThenLeave => {
                write(&mut stream, HEADERS, END_HEADERS | END_STREAM, id, &ok).await?;
                write(&mut stream, GOAWAY, 0, 0, &[id.to_be_bytes(), NO_ERROR.to_be_bytes()].concat()).await?;
                return stream.shutdown().await;
            }
            Act::Close => return stream.shutdown().await,
            Act::Hang => {}
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> std::io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Serves HTTP/1.1, for a host without HTTP/2.
async fn lines<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, requests: &AtomicUsize) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {
        requests.fetch_add(1, Ordering::SeqCst);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
    Ok(())
}

async fn pay(upstream: &Upstream) -> Result<u16, SendError> {
    let request = Request::post("/pay").body(Bytes::from_static(b"{\"amount\":1}")).unwrap();
    Ok(upstream.send(&request, Duration::from_secs(60)).await?.status.as_u16())
}

/// Error codes of RFC 9113, section 7.
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const HTTP_1_1_REQUIRED: u32 = 13;

#[tokio::test]
async fn provably_unprocessed_request_is_retried_on_the_next_host() {
    for refusal in [
        Act::Reset(REFUSED_STREAM),
        Act::ResetEarly(REFUSED_STREAM),
        Act::GoAway(0, NO_ERROR),
        Act::GoAway(0, INTERNAL_ERROR),
    ] {
        let host = RawHost::start(&[refusal], &[b"h2"]).await;
        assert_eq!(pay(&host.upstream(2)).await, Ok(200), "{refusal:?}");
        assert_eq!(host.counts().1, 2, "{refusal:?}: once refused, once done");

        let host = RawHost::start(&[refusal], &[b"h2"]).await;
        let error = pay(&host.upstream(1)).await.unwrap_err();
        assert!(matches!(error, SendError::NotSent(_)), "{refusal:?}: {error:?}");
    }
}

#[tokio::test]
async fn every_other_http2_error_is_maybe_sent_and_never_resent() {
    for end in [
        Act::Close,
        Act::Reset(CANCEL),
        Act::Reset(INTERNAL_ERROR),
        Act::Reset(HTTP_1_1_REQUIRED),
        Act::ResetEarly(CANCEL),
        // The GOAWAY includes this very stream: it may have been processed.
        Act::GoAway(1, NO_ERROR),
        Act::GoAway(1, INTERNAL_ERROR),
        Act::GoAway(0x7fff_ffff, NO_ERROR),
        Act::AnswerThenReset(REFUSED_STREAM),
        Act::AnswerThenReset(CANCEL),
        Act::AnswerThenClose,
        Act::Hang,
    ] {
        let host = RawHost::start(&[end], &[b"h2"]).await;
        let error = pay(&host.upstream(2)).await.unwrap_err();
        assert!(matches!(error, SendError::MaybeSent(_)), "{end:?}: {error:?}");
        assert_eq!(host.counts().1, 1, "{end:?}");
    }
}

#[tokio::test]
async fn http2_connection_is_shared_and_abandoned_after_an_unclear_error() {
    let host = RawHost::start(&[], &[b"h2", b"http/1.1"]).await;
    let upstream = Arc::new(host.upstream(1));
    for _ in 0..5 {
        assert_eq!(pay(&upstream).await, Ok(200));
    }
    assert_eq!(host.counts(), (1, 5));
    let mut payments = tokio::task::JoinSet::new();
    for _ in 0..3 * MAX_STREAMS_PER_CONNECTION {
        let upstream = upstream.clone();
        payments.spawn(async move { pay(&upstream).await });
    }
    assert!(payments.join_all().await.iter().all(|answer| *answer == Ok(200)));
    assert_eq!(host.counts().1, 5 + 3 * MAX_STREAMS_PER_CONNECTION);

    let host = RawHost::start(&[Act::Answer, Act::Hang], &[b"h2"]).await;
    let upstream = host.upstream(1);
    assert_eq!(pay(&upstream).await, Ok(200));
    assert!(matches!(pay(&upstream).await, Err(SendError::MaybeSent(_))));
    assert_eq!(host.counts(), (1, 2));
    assert_eq!(pay(&upstream).await, Ok(200));
    assert_eq!(host.counts(), (2, 3), "nobody begins on a connection that may be dead");
}

/// A host that shuts down gracefully, as at each of its restarts.
#[tokio::test]
async fn graceful_shutdown_of_a_host_fails_no_payment() {
    let host = RawHost::start(&[Act::AnswerThenLeave; 20], &[b"h2"]).await;
    let upstream = host.upstream(1);
    for round in 0..20 {
        assert_eq!(pay(&upstream).await, Ok(200), "round {round}");
    }
    assert_eq!(host.counts(), (20, 20));
}

#[tokio::test]
async fn host_without_http2_is_served_over_http1() {
    let host = RawHost::start(&[], &[b"http/1.1"]).await;
    let upstream = host.upstream(1);
    for _ in 0..3 {
        assert_eq!(pay(&upstream).await, Ok(200));
    }
    assert_eq!(host.counts(), (1, 3));
    let reached = upstream.probe().await.remove(0).1.unwrap();
    assert_eq!((reached.protocol, reached.tls.is_some()), ("http/1.1", true));

    let host = RawHost::start(&[], &[b"h2", b"http/1.1"]).await;
    let reached = host.upstream(1).probe().await.remove(0).1.unwrap();
    assert_eq!((reached.protocol, reached.status), ("h2", 200));
    assert!(reached.to_string().starts_with("ok: TLS 1.3, h2, 127.0.0.1:"), "{reached}");
}
