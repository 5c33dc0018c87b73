//! Idle and slow connections.

use super::*;
use crate::harness::{World, WorldOptions, until};

const FIRST_REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// HEADERS of stream 1 without END_HEADERS: an incomplete header block.
const HALF_HEADERS: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];

#[tokio::test]
async fn idle_connection_is_closed_after_timeout_of_each_phase() {
    let limits = "header_timeout = \"400ms\"\nkeepalive_timeout = \"400ms\"";
    let world = World::with(WorldOptions { server: limits, ..WorldOptions::default() }).await;
    let listen = world.gateway.listen;
    let half_of_a_second = [FIRST_REQUEST, b"GET /x HT"].map(<[u8]>::to_vec);
    let http2 = [PREFACE, EMPTY_SETTINGS].concat();
    for (what, parts, answers) in [
        ("nothing", vec![vec![]], [].as_slice()),
        ("a part of HTTP/2's preface", vec![PREFACE[..20].to_vec()], &["408"]),
        ("half of a head", vec![b"GET /x HTTP/1.1\r\nhos".to_vec()], &["408"]),
        ("one request", vec![FIRST_REQUEST.to_vec()], &["401"]),
        ("one request and half of a head", half_of_a_second.to_vec(), &["401", "408"]),
        ("HTTP/2 without a request", vec![http2.clone()], &[]),
        ("HTTP/2 with half of a header block", vec![[http2, HALF_HEADERS.to_vec()].concat()], &[]),
    ] {
        let mut stream = sends(listen, &parts[0]).await;
        let mut read = String::new();
        for part in &parts[1..] {
            read.push_str(&response(&mut stream).await);
            stream.write_all(part).await.unwrap();
        }
        read.push_str(&until_closed(&mut stream).await);
        let statuses: Vec<_> = read.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect();
        assert_eq!(statuses, answers, "{what}: {read:?}");
    }
}

#[tokio::test]
async fn slow_request_head_is_closed_after_header_timeout() {
    let world = World::with(WorldOptions { server: "header_timeout = \"500ms\"", ..WorldOptions::default() }).await;
    let (mut reader, mut writer) = sends(world.gateway.listen, b"GET /x HTTP/1.1\r\n").await.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"x-a: b\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut read = Vec::new();
    drop(timeout(TEST_TIMEOUT, reader.read_to_end(&mut read)).await.expect("the connection stays open"));
    timeout(TEST_TIMEOUT, trickle).await.expect("the connection stays open").unwrap();
    assert!(read.is_empty() || read.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&read));
}

#[tokio::test]
async fn oversized_request_head_is_rejected() {
    let world = World::new().await;
    let mut stream = sends(world.gateway.listen, b"GET /x HTTP/1.1\r\nhost: a\r\nx-a: ").await;
    let mut sent = 0;
    while sent < 1 << 20 && stream.write_all(&[b'a'; 4096]).await.is_ok() {
        sent += 4096;
    }
    assert!(sent < 1 << 20 || !until_closed(&mut stream).await.contains("HTTP/1.1 2"));
    world.until_metric("tollgate_connections_closed_total{listener=\"public\",reason=\"invalid_request\"} 1").await;
}

#[tokio::test]
async fn idle_connections_are_evicted_at_connection_limit() {
    let limits = "max_connections = 16\nheader_timeout = \"10m\"\nkeepalive_timeout = \"10m\"\nbody_timeout = \"10m\"\nmin_body_rate = \"0B\"";
    let world = World::with(WorldOptions { server: limits, ..WorldOptions::default() }).await;
    let known = plausible("shop-1", 9);
    let notification = "POST /notify/main HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n";
    let kinds = [FIRST_REQUEST, b"", b"GET /x HTTP/1.1\r\n", PREFACE, known.as_bytes(), notification.as_bytes()];
    let mut idle = Vec::new();
    for number in 0..96 {
        idle.push(sends(world.gateway.listen, kinds[number % kinds.len()]).await);
        if number % 24 == 23 {
            assert_eq!(world.create(&format!("o-{number}"), &format!("k-{number}")).await.status, 201);
        }
    }
    let ready = world.admin_request("GET", "/readyz", &[]).await;
    assert_eq!(ready.status, 200, "unauthenticated connections do not affect readiness");
    until("idle connections are evicted", || async {
        let metrics = world.metrics().await;
        let open = metrics.lines().find_map(|line| line.strip_prefix("tollgate_connections{listener=\"public\"} "));
        let open: usize = open.unwrap().parse().unwrap();
        if open <= 16 && metrics.contains("reason=\"evicted\"") { Ok(()) } else { Err(metrics) }
    })
    .await;
    until_closed(&mut idle[0]).await;
}

#[tokio::test]
async fn requests_shorter_than_http2_preface_are_answered() {
    let world = World::new().await;
    for request in ["GET / HTTP/1.0\r\n\r\n", "OPTIONS / HTTP/1.0\r\n\r\n", "G / HTTP/1.0\r\n\r\n"] {
        let mut stream = sends(world.gateway.listen, request.as_bytes()).await;
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{request:?}: {answer}");
    }
}
