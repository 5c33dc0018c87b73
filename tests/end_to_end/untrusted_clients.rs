//! Unauthenticated clients and the resources they can occupy: connections, streams, bodies. Attacks and limits are small.

mod admission;
mod certificates;
mod connections;
mod responses;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::TEST_TIMEOUT;

/// Opens a connection and sends these bytes.
async fn open_and_send(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the gateway closes the connection.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let closed = timeout(TEST_TIMEOUT, stream.read_to_end(&mut read)).await;
    assert!(closed.is_ok(), "the connection stays open; received {:?}", String::from_utf8_lossy(&read));
    String::from_utf8_lossy(&read).into_owned()
}

/// Reads the head of a response and a body of the announced length.
async fn response(stream: &mut TcpStream) -> String {
    let read = async {
        let mut read = String::new();
        let mut byte = [0];
        loop {
            let body = read.split_once("\r\n\r\n").map(|(head, body)| (length(head), body.len()));
            if body.is_some_and(|(announced, here)| here >= announced) || stream.read(&mut byte).await.unwrap() == 0 {
                return read;
            }
            read.push(byte[0].into());
        }
    };
    timeout(TEST_TIMEOUT, read).await.expect("no answer")
}

fn length(head: &str) -> usize {
    let line =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    line.map_or(0, |length| length.trim().parse().unwrap())
}

/// Head of a POST with a well-formed but wrong signature and a body of this length.
fn badly_signed_head(key_id: &str, length: usize) -> String {
    format!(
        "POST /v1/payments HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nx-tollgate-key: {key_id}\r\nx-tollgate-timestamp: {}\r\n\
         x-tollgate-nonce: {}\r\nx-tollgate-signature: {}\r\n\r\n",
        tollgate_harness::merchant::unix_now(),
        tollgate_harness::merchant::new_nonce(),
        "00".repeat(32),
    )
}
