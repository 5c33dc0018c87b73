//! Responses that the client does not read.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::harness::{SHOP, World, WorldOptions, payment_body, send, signed_headers, until};

/// Opens HTTP/2 streams with a window of 0 bytes, so that no response body fits. Ends when the connection ends.
async fn open_streams_without_window(to: SocketAddr, streams: usize) -> JoinHandle<()> {
    let stream = TcpStream::connect(to).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder.initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
    let driver = tokio::spawn(async move { drop(connection.await) });
    let mut sender = sender.ready().await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..streams {
        let request = Request::get(format!("http://{to}/x")).body(()).unwrap();
        sender = sender.ready().await.unwrap();
        answers.push(sender.send_request(request, true).unwrap().0);
    }
    // Response headers need no window.
    let mut held = Vec::new();
    for answer in answers {
        held.push(answer.await);
    }
    tokio::spawn(async move {
        drop(driver.await);
        drop((held, sender));
    })
}

#[tokio::test]
async fn http2_responses_without_window_occupy_no_permit_and_end_after_write_timeout() {
    let world = World::with(WorldOptions {
        server: "max_in_flight = 16\nwrite_timeout = \"2s\"\nkeepalive_timeout = \"3s\"",
        ..WorldOptions::default()
    })
    .await;
    let mut attack = Vec::new();
    for _ in 0..4 {
        attack.push(open_streams_without_window(world.gateway.listen, 90).await);
    }
    world.until_metric("tollgate_requests_in_flight 0").await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    let url = format!("http://{}/notify/main", world.gateway.listen);
    assert_ne!(send("POST", &url, &[], b"{}").await.unwrap().status, 503);
    for connection in attack {
        timeout(TEST_TIMEOUT, connection).await.expect("the connection stays open").unwrap();
    }
    let metrics = world.metrics().await;
    assert!(metrics.contains("{listener=\"public\",reason=\"write_timeout\"}"), "{metrics}");
}

#[tokio::test]
async fn sigterm_does_not_wait_for_unread_responses() {
    let limits = "shutdown_timeout = \"10m\"\nwrite_timeout = \"10m\"";
    let mut world = World::with(WorldOptions { server: limits, ..WorldOptions::default() }).await;
    let attack = open_streams_without_window(world.gateway.listen, 20).await;
    world.until_metric("tollgate_requests_in_flight 0").await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0, "exited before the timeout");
    world.until_logged("\"responses_left\":20").await;
    attack.await.unwrap();
}

#[tokio::test]
async fn sigterm_does_not_wait_for_incomplete_bodies() {
    let limits = "shutdown_timeout = \"10m\"\nwrite_timeout = \"1s\"\nbody_timeout = \"10m\"\nmin_body_rate = \"0B\"";
    let mut world = World::with(WorldOptions { server: limits, ..WorldOptions::default() }).await;
    let mut held = Vec::new();
    for key in ["shop-1", "junk"] {
        let head = badly_signed_head(key, 1000) + "0123456789";
        held.push(open_and_send(world.gateway.listen, head.as_bytes()).await);
    }
    world.until_metric("tollgate_buffered_bytes 20").await;
    assert!(world.metrics().await.contains("tollgate_requests_in_flight 0"));
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0, "exited before the timeout");
    world.until_logged("\"unsent\":2").await;
}

#[tokio::test]
async fn cancelled_http2_stream_does_not_affect_other_streams() {
    let world = World::with(WorldOptions { server: "write_timeout = \"1s\"", ..WorldOptions::default() }).await;
    let listen = world.gateway.listen;
    let stream = TcpStream::connect(listen).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let mut post = |body: Vec<u8>, whole: Vec<u8>, is_end: bool| {
        let mut request = Request::post(format!("http://{listen}/v1/payments")).header("idempotency-key", "k-1");
        for (name, value) in signed_headers(&SHOP, "POST", "/v1/payments", &whole) {
            request = request.header(name, value);
        }
        let (answer, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(body.into(), is_end).unwrap();
        (answer, stream)
    };
    // Idle for longer than the write timeout, without a request.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 2000})).await;
    let order = serde_json::to_vec(&payment_body("o-1")).unwrap();
    let (answer, _stream) = post(order.clone(), order.clone(), true);
    until("the sandbox has the order", || async {
        let seen = world.provider_order("o-1").await;
        (seen["executions"]["create"] == 1).then_some(()).ok_or(seen)
    })
    .await;
    let (_, mut cancelled) = post(b"{".to_vec(), b"{}".to_vec(), false);
    world.until_metric(&format!("tollgate_buffered_bytes {}", order.len() + 1)).await;
    cancelled.send_reset(h2::Reason::CANCEL);
    let answer = timeout(TEST_TIMEOUT, answer).await.expect("no answer").expect("the connection was closed");
    assert_eq!(answer.status(), 201);
}

#[tokio::test]
async fn rejected_uploads_do_not_close_http2_connection() {
    let world = World::new().await;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let start =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(8, 0, 0, &[0, 255, 255, 255])]
            .concat();
    let mut connection = open_and_send(world.gateway.listen, &start).await;
    // POST http://a/ without a signature.
    let upload = [0x83, 0x86, 0x84, 0x41, 1, b'a'];
    for number in 0..300 {
        let stream = 2 * number + 1;
        connection.write_all(&frame(1, 4, stream, &upload)).await.unwrap();
        until_headers(&mut connection, stream).await;
        connection.write_all(&frame(0, 1, stream, b"late")).await.unwrap();
    }
    connection.write_all(&frame(1, 5, 601, &upload)).await.unwrap();
    until_headers(&mut connection, 601).await;
}

/// Reads frames up to the response headers of this stream.
async fn until_headers(connection: &mut TcpStream, stream: u32) {
    let read = async {
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            connection.read_exact(&mut payload).await.unwrap();
            assert_ne!(head[3], 7, "the connection was closed: {payload:?}");
            if head[3] == 1 && head[5..] == stream.to_be_bytes() {
                return;
            }
        }
    };
    timeout(TEST_TIMEOUT, read).await.expect("no answer");
}
