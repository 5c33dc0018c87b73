//! Watching over a WebSocket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Message, Role};
use tungstenite::{Error, WebSocket};

use super::create;
use super::reader::Reader;
use crate::harness::{SHOP, TEST_TIMEOUT, World, signed_headers};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Opens a blocking connection.
pub(super) fn tcp(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream
}

/// Opening handshake. Returns the connection and the head of the response.
fn handshake<S: Read + Write>(mut stream: S, head: &str) -> (S, String) {
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Byte by byte, so that no frame is read.
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    (stream, String::from_utf8(answer).unwrap().to_ascii_lowercase())
}

fn upgrade(to: SocketAddr, target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nhost: {to}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{more}\r\n"
    )
}

fn connect(to: SocketAddr, target: &str, more: &str) -> WebSocket<TcpStream> {
    connect_over(tcp(to), to, target, more)
}

pub(super) fn connect_over<S: Read + Write>(stream: S, to: SocketAddr, target: &str, more: &str) -> WebSocket<S> {
    let (stream, answer) = handshake(stream, &upgrade(to, target, more));
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    // The answer to the key of RFC 6455's example, in lower case.
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    WebSocket::from_raw_socket(stream, Role::Client, None)
}

/// Reads the next text as JSON, or the code of the closing frame.
pub(super) fn next<S: Read + Write>(socket: &mut WebSocket<S>) -> Result<Value, CloseCode> {
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
            Message::Close(frame) => return Err(frame.unwrap().code),
            _ => {}
        }
    }
}

/// Runs blocking work beside the test's runtime.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_carries_the_same_states_and_closes_normally_at_the_end() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let to = world.gateway.listen;
    let target = format!("/v1/payments/o/events?watch={token}");
    let (mut payer, pending) = blocking(move || {
        let mut socket = connect(to, &target, "");
        let pending = next(&mut socket).unwrap();
        (socket, pending)
    })
    .await;
    assert_eq!(pending, json!({"status": "pending", "version": pending["version"]}));
    let signed = signed_headers(&SHOP, "GET", "/v1/payments/o/events", b"");
    let signed: String = signed.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (mut merchant, seen) = blocking(move || {
        let mut socket = connect(to, "/v1/payments/o/events", &signed);
        // A ping is answered, and a message is ignored.
        socket.send(Message::text("hello")).unwrap();
        socket.send(Message::Ping("x".into())).unwrap();
        // The answer may come before the state, which is read from the ledger.
        let (mut seen, mut is_answered) = (None, false);
        while seen.is_none() || !is_answered {
            match socket.read().unwrap() {
                Message::Text(text) => seen = Some(serde_json::from_str::<Value>(&text).unwrap()),
                Message::Pong(_) => is_answered = true,
                Message::Close(frame) => panic!("{frame:?}"),
                _ => {}
            }
        }
        (socket, seen.unwrap())
    })
    .await;
    assert_eq!(seen["order_id"], "o");
    world.until_metric("tollgate_streams{kind=\"websocket\"} 2").await;
    world.pay("o").await;
    let [paid, seen] = blocking(move || {
        [&mut payer, &mut merchant].map(|socket| {
            let state = next(socket).unwrap();
            assert_eq!(next(socket), Err(CloseCode::Normal));
            assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
            state
        })
    })
    .await;
    assert_eq!(paid, json!({"status": "succeeded", "version": paid["version"]}));
    assert_eq!(seen, world.payment("o").await);
    world.until_metric("tollgate_streams{kind=\"websocket\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_above_the_limit_is_closed_with_try_again_later() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let to = world.gateway.listen;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(Reader::with_token(to, "o", &token, None).await);
    }
    let target = format!("/v1/payments/o/events?watch={token}");
    let code = blocking(move || next(&mut connect(to, &target, ""))).await;
    assert_eq!(code, Err(CloseCode::Again));
    world.until_metric("tollgate_streams_total{end=\"too_many\",kind=\"websocket\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_leaves_or_breaks_the_protocol_ends_its_stream() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let to = world.gateway.listen;
    let target = format!("/v1/payments/o/events?watch={token}");
    let (left, broken) = (target.clone(), target.clone());
    blocking(move || drop(connect(to, &left, ""))).await;
    world.until_metric("tollgate_streams_total{end=\"reader_left\",kind=\"websocket\"} 1").await;
    let code = blocking(move || {
        let mut socket = connect(to, &broken, "");
        next(&mut socket).unwrap();
        // A frame that is not masked.
        socket.get_mut().write_all(&[0x81, 1, b'x']).unwrap();
        next(&mut socket)
    })
    .await;
    assert_eq!(code, Err(CloseCode::Protocol));
    let code = blocking(move || {
        let mut socket = connect(to, &target, "");
        next(&mut socket).unwrap();
        socket.send(Message::text("x".repeat(5000))).unwrap();
        next(&mut socket)
    })
    .await;
    assert_eq!(code, Err(CloseCode::Size));
    world.until_metric("tollgate_streams_total{end=\"reader_failed\",kind=\"websocket\"} 2").await;
    world.until_metric("tollgate_streams{kind=\"websocket\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_handshake_is_refused_with_advice() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let to = world.gateway.listen;
    let whole = upgrade(to, &format!("/v1/payments/o/events?watch={token}"), "");
    for (head, status) in [
        (whole.replace("HTTP/1.1", "HTTP/1.0"), "426"),
        (whole.replace("version: 13", "version: 8"), "426"),
        (whole.replace(KEY, "AAAA"), "400"),
        (whole.replace(&token, "x"), "401"),
    ] {
        let answer = blocking(move || handshake(tcp(to), &head).1).await;
        assert!(answer.split(' ').nth(1) == Some(status), "{answer}");
        if status == "426" {
            assert!(answer.contains("upgrade: websocket") && answer.contains("sec-websocket-version: 13"), "{answer}");
        }
    }
}
