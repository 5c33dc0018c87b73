//! Responses that nobody takes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::harness::{Wishes, World, send};

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
    // Heads of responses need no window.
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
async fn http2_responses_without_window_hold_no_permit_and_end_after_write_timeout() {
    let world = World::with(Wishes {
        server: "in_flight = 16\nwrite_timeout = \"2s\"\nkeepalive_timeout = \"3s\"",
        ..Wishes::default()
    })
    .await;
    let mut attack = Vec::new();
    for _ in 0..4 {
        attack.push(without_window(world.gateway.listen, 90).await);
    }
    world.until_metric("tollgate_requests_in_flight 0").await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    let url = format!("http://{}/notify/main", world.gateway.listen);
    assert_ne!(send("POST", &url, &[], b"{}").await.unwrap().status, 503);
    for connection in attack {
        timeout(PATIENCE, connection).await.expect("the connection stays open").unwrap();
    }
    let metrics = world.metrics().await;
    assert!(metrics.contains("{listener=\"public\",reason=\"write_timeout\"}"), "{metrics}");
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
