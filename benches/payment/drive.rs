//! Sends prepared requests over 32 kept connections and takes the time of each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::CONNECTIONS;

#[derive(Clone)]
pub struct Prepared {
    pub method: Method,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

pub struct Load {
    pub requests: Vec<Prepared>,
    pub expected: u16,
    pub to: SocketAddr,
}

pub struct Measured {
    /// Of the process under test, for one request.
    pub cpu_each: Duration,
    /// Requests a second.
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
}

pub async fn measure(load: Load, cpu: impl Fn() -> Duration) -> Measured {
    measure_over(&[load.to], load.requests, load.expected, cpu).await
}

/// The connections take turns among several doors.
pub async fn measure_over(
    to: &[SocketAddr],
    requests: Vec<Prepared>,
    expected: u16,
    cpu: impl Fn() -> Duration,
) -> Measured {
    let count = requests.len();
    let (before, started) = (cpu(), Instant::now());
    let mut times = run_over(to, requests, expected).await;
    let (elapsed, used) = (started.elapsed(), cpu() - before);
    times.sort();
    let at = |part: usize| times[(count * part / 100).min(count - 1)];
    Measured { cpu_each: used / count as u32, rate: count as f64 / elapsed.as_secs_f64(), p50: at(50), p99: at(99) }
}

/// Sends them all; each must be answered with the expected status.
pub async fn run(to: SocketAddr, requests: Vec<Prepared>, expected: u16) -> Vec<Duration> {
    run_over(&[to], requests, expected).await
}

async fn run_over(to: &[SocketAddr], requests: Vec<Prepared>, expected: u16) -> Vec<Duration> {
    let share = requests.len().div_ceil(CONNECTIONS).max(1);
    let tasks: Vec<_> = requests
        .chunks(share)
        .zip(to.iter().cycle())
        .map(|(part, to)| {
            let (part, to) = (part.to_vec(), *to);
            tokio::spawn(async move { connection(to, part, expected).await })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times
}

/// One request on a connection of its own; gives the body of its answer.
pub async fn one(to: SocketAddr, prepared: Prepared) -> String {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request(to, prepared)).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

async fn connection(to: SocketAddr, requests: Vec<Prepared>, expected: u16) -> Vec<Duration> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut times = Vec::with_capacity(requests.len());
    for prepared in requests {
        let request = request(to, prepared);
        let started = Instant::now();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        times.push(started.elapsed());
        assert_eq!(status, expected, "{}", String::from_utf8_lossy(&body));
    }
    times
}

fn request(to: SocketAddr, prepared: Prepared) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(prepared.method).uri(prepared.target).header("host", to.to_string());
    for (name, value) in prepared.headers {
        request = request.header(name, value);
    }
    request.body(Full::new(prepared.body)).unwrap()
}
