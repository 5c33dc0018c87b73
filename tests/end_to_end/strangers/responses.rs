//! Responses that nobody takes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::harness::{Wishes, World, send, until};

/// Opens HTTP/2 streams whose responses do not fit into a window of 0 bytes. Ends when the connection does.
async fn without_window(to: SocketAddr, streams: usize) -> JoinHandle<()> {
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
    tokio::spawn(async move {
        let mut held = Vec::new();
        for answer in answers {
            held.push(answer.await);
        }
        drop(driver.await);
        drop((held, sender));
    })
}

#[tokio::test]
async fn http2_responses_without_window_hold_no_permit_and_end_after_write_timeout() {
    let world = World::with(Wishes { server: "in_flight = 16\nwrite_timeout = \"2s\"", ..Wishes::default() }).await;
    let mut attack = Vec::new();
    for _ in 0..4 {
        attack.push(without_window(world.gateway.listen, 90).await);
    }
    until("all streams are answered", || async {
        let metrics = world.metrics().await;
        let line = "operation=\"denied\"} 360";
        // Counted once the response is written or given up; in flight are none before.
        if metrics.contains("tollgate_requests_in_flight 0") || metrics.contains(line) { Ok(()) } else { Err(metrics) }
    })
    .await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    let url = format!("http://{}/notify/main", world.gateway.listen);
    assert_ne!(send("POST", &url, &[], b"{}").await.unwrap().status, 503);
    for connection in attack {
        timeout(PATIENCE, connection).await.expect("the connection stays open").unwrap();
    }
    let metrics = world.metrics().await;
    let closed = "tollgate_connections_closed_total{listener=\"public\",reason=\"write_timeout\"} 4";
    assert!(metrics.contains(closed), "{metrics}");
}

#[tokio::test]
async fn sigterm_does_not_wait_for_responses_that_nobody_takes() {
    let limits = "drain = \"10m\"\nwrite_timeout = \"10m\"";
    let mut world = World::with(Wishes { server: limits, ..Wishes::default() }).await;
    let attack = without_window(world.gateway.listen, 20).await;
    world.until_metric("tollgate_requests_in_flight 0").await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.ended().await, 0, "long before the 10 minutes");
    assert!(world.log().contains("\"unread\":20"), "{}", world.log());
    attack.await.unwrap();
}
