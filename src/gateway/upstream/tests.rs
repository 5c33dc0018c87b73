//! Tests of sending: what is sent, what is provably not sent, and to which address.
#![allow(clippy::unwrap_used)]

mod h2;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tollgate_config::{Identity, MAX_ANSWER_SIZE, Pool};
use tollgate_plugins::secret::Secret;

use super::dns::tests::Scripted;
use super::probe::ProbeError;
use super::*;

fn settings(channel: &str, certificate: &[u8], authority: &[u8]) -> UpstreamSettings {
    let minute = Duration::from_secs(60);
    UpstreamSettings {
        channel: channel.into(),
        hosts: vec![Host { name: "127.0.0.1".into(), port: 1, tls: false }],
        ca: Some(vec![authority.to_vec()]),
        identity: Some(Identity { certificates: vec![certificate.to_vec()], key: Secret::new("k") }),
        timeouts: Timeouts { connect: minute, read: minute, write: minute, total: minute },
        pool: Pool { idle: 1, idle_timeout: minute },
        answer_limit: MAX_ANSWER_SIZE,
        http2: false,
    }
}

#[test]
fn connection_group_keys_differ_by_channel_identity_authority_and_protocols() {
    let base = group_key(&settings("a", b"cert", b"ca"));
    assert_eq!(base, group_key(&settings("a", b"cert", b"ca")));
    assert_ne!(base, group_key(&settings("b", b"cert", b"ca")));
    assert_ne!(base, group_key(&settings("a", b"cert2", b"ca")));
    assert_ne!(base, group_key(&settings("a", b"cert", b"ca2")));
    assert_ne!(base, group_key(&UpstreamSettings { http2: true, ..settings("a", b"cert", b"ca") }));
}

#[tokio::test]
async fn refused_connection_is_not_sent_and_the_next_host_is_tried() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
    });
    let mut settings = settings("a", b"", b"");
    (settings.ca, settings.identity) = (None, None);
    settings.hosts.push(Host { name: "127.0.0.1".into(), port: open, tls: false });
    let upstream = Upstream::new(settings).unwrap();
    let request = Request::get("/x").body(Bytes::new()).unwrap();
    let answer = upstream.send(&request, Duration::from_secs(60)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, b"ok".as_ref()));
}

#[tokio::test]
async fn connection_cut_after_the_request_is_maybe_sent_and_not_retried() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let mut seen = 0;
        while let Ok(Ok((mut stream, _))) = tokio::time::timeout(Duration::from_secs(1), listener.accept()).await {
            let mut buffer = [0; 1024];
            seen += usize::from(stream.read(&mut buffer).await.unwrap() > 0);
        }
        seen
    });
    let mut settings = settings("a", b"", b"");
    (settings.ca, settings.identity) = (None, None);
    settings.hosts = vec![Host { name: "127.0.0.1".into(), port, tls: false }; 2];
    let upstream = Upstream::new(settings).unwrap();
    let request = Request::get("/x").body(Bytes::new()).unwrap();
    let error = upstream.send(&request, Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(error, SendError::MaybeSent(_)), "{error:?}");
    assert_eq!(served.await.unwrap(), 1, "sent once, though two hosts are known");
}

/// Returns an upstream with one host, whose name the script resolves.
fn named(script: &Arc<Scripted>, port: u16) -> Upstream {
    let mut settings = settings("a", b"", b"");
    (settings.ca, settings.identity) = (None, None);
    settings.hosts = vec![Host { name: "provider.test".into(), port, tls: false }];
    Upstream::with_dns(settings, &DnsCache::new(script.clone())).unwrap()
}

/// Like [`named`], with a read timeout of three seconds.
fn named_with_read_timeout(script: &Arc<Scripted>, port: u16) -> Upstream {
    let mut upstream = named(script, port);
    upstream.timeouts.read = Duration::from_secs(3);
    upstream
}

/// Serves `ok` on the same port of each address, and counts the requests per address.
async fn serve(
    addresses: &[&'static str],
) -> (u16, Arc<parking_lot::Mutex<std::collections::BTreeMap<&'static str, usize>>>) {
    let counts = Arc::new(parking_lot::Mutex::new(std::collections::BTreeMap::new()));
    let mut port = 0;
    for &address in addresses {
        let listener = tokio::net::TcpListener::bind((address, port)).await.unwrap();
        port = listener.local_addr().unwrap().port();
        let counts = counts.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counts = counts.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        *counts.lock().entry(address).or_default() += 1;
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                });
            }
        });
    }
    (port, counts)
}

async fn ask(upstream: &Upstream) -> Result<u16, SendError> {
    let request = Request::get("/x").body(Bytes::new()).unwrap();
    Ok(upstream.send(&request, Duration::from_secs(60)).await?.status.as_u16())
}

#[tokio::test]
async fn all_addresses_are_tried_and_responding_ones_share_the_traffic() {
    let script = Arc::new(Scripted::default());
    script.says(&["127.0.0.7", "127.0.0.8", "127.0.0.9", "127.0.0.10"], 3600);
    let (port, counts) = serve(&["127.0.0.8", "127.0.0.10"]).await;
    let upstream = named(&script, port);
    for _ in 0..20 {
        assert_eq!(ask(&upstream).await, Ok(200), "the others refuse the connection, which is not sent");
    }
    let counts = counts.lock().clone();
    assert_eq!(counts.values().sum::<usize>(), 20);
    assert!(counts.values().all(|count| *count >= 8), "{counts:?}");
    assert_eq!(upstream.addresses().collect::<Vec<_>>(), [(format!("provider.test:{port}"), 4, 2)]);
}

#[tokio::test]
async fn address_that_times_out_is_ejected() {
    let script = Arc::new(Scripted::default());
    script.says(&["127.0.0.7", "127.0.0.8"], 3600);
    let (port, counts) = serve(&["127.0.0.8"]).await;
    let mute = tokio::net::TcpListener::bind(("127.0.0.7", port)).await.unwrap();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = mute.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            held.push(stream);
        }
    });
    let upstream = named_with_read_timeout(&script, port);
    let mut unclear = 0;
    for _ in 0..10 {
        unclear += usize::from(matches!(ask(&upstream).await, Err(SendError::MaybeSent(_))));
    }
    let reached = connections.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((unclear, reached, counts.lock()["127.0.0.8"]), (1, 1, 9), "one hung, and none was sent again");
}

#[tokio::test]
async fn address_removed_from_dns_is_not_used_despite_an_open_connection() {
    let script = Arc::new(Scripted::default());
    script.says(&["127.0.0.7"], 0);
    script.says(&["127.0.0.8"], 3600);
    let (port, counts) = serve(&["127.0.0.7", "127.0.0.8"]).await;
    let upstream = named(&script, port);
    assert_eq!(ask(&upstream).await, Ok(200));
    upstream.refresh();
    while counts.lock().get("127.0.0.8").is_none() {
        assert_eq!(ask(&upstream).await, Ok(200));
    }
    let before = counts.lock()["127.0.0.7"];
    for _ in 0..10 {
        assert_eq!(ask(&upstream).await, Ok(200));
    }
    assert_eq!(counts.lock()["127.0.0.7"], before);
}

#[tokio::test]
async fn probe_reports_reachable_refused_and_slow_hosts() {
    let script = Arc::new(Scripted::default());
    script.says(&["127.0.0.7", "127.0.0.8"], 3600);
    let (port, _) = serve(&["127.0.0.8"]).await;
    let (label, result) = named(&script, port).probe().await.remove(0);
    assert_eq!(label, format!("provider.test:{port}"));
    let reached = result.unwrap();
    assert_eq!((reached.address.ip().to_string(), reached.status, reached.tls), ("127.0.0.8".into(), 200, None));

    let free = tokio::net::TcpListener::bind(("127.0.0.7", 0)).await.unwrap().local_addr().unwrap().port();
    let refused = named(&script, free).probe().await.remove(0).1;
    assert!(matches!(refused, Err(ProbeError::Refused(_))), "{refused:?}");

    let nowhere = Arc::new(Scripted::default());
    nowhere.says(&[], 1);
    let error = named(&nowhere, port).probe().await.remove(0).1.unwrap_err();
    assert_eq!(error.to_string(), "name not found: the name has no address");

    let mute = tokio::net::TcpListener::bind(("127.0.0.7", 0)).await.unwrap();
    let slow = named_with_read_timeout(&script, mute.local_addr().unwrap().port()).probe().await.remove(0).1;
    assert!(matches!(slow, Err(ProbeError::Refused(_) | ProbeError::TooSlow(_))), "{slow:?}");
}

/// The server responds as nginx does if client certificates are optional in TLS.
#[tokio::test]
async fn probe_detects_a_required_certificate_in_the_response() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let page =
                "<center><h1>400 Bad Request</h1></center>\r\n<center>No required SSL certificate was sent</center>";
            let head = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{page}", page.len());
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(head.as_bytes()).await;
        }
    });
    let mut settings = settings("a", b"", b"");
    (settings.ca, settings.identity) = (None, None);
    settings.hosts = vec![Host { name: "127.0.0.1".into(), port, tls: false }];
    let error = Upstream::new(settings).unwrap().probe().await.remove(0).1.unwrap_err();
    assert!(matches!(error, ProbeError::IdentityWanted(_)), "{error}");
}
