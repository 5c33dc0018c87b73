//! Sends prepared requests over 32 kept-alive connections and measures the time of each.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::CONNECTIONS;

/// Time for all connections of a paced run to open.
const CONNECTED: Duration = Duration::from_millis(200);

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
    /// CPU of the process under test per request.
    pub cpu_each: Duration,
    /// Requests per second.
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
}

pub async fn measure(load: Load, cpu: impl Fn() -> Duration) -> Measured {
    measure_over(&[load.to], load.requests, load.expected, cpu).await
}

/// Sends at a fixed rate, whether or not the responses keep up. The latency of a request starts when it is due, not when a
/// connection is free. Each must get the expected status.
pub async fn run_paced(load: Load, per_second: u32) -> Vec<Duration> {
    run_with(&[load.to], load.requests, load.expected, Some(Duration::from_secs(1) / per_second)).await
}

/// As [`measure`], with the connections distributed over several gateways.
pub async fn measure_over(
    to: &[SocketAddr],
    requests: Vec<Prepared>,
    expected: u16,
    cpu: impl Fn() -> Duration,
) -> Measured {
    let (before, started) = (cpu(), Instant::now());
    let times = run_with(to, requests, expected, None).await;
    let (elapsed, used) = (started.elapsed(), cpu() - before);
    let (count, [p50, p99]) = (times.len(), percentiles(times));
    Measured { cpu_each: used / count as u32, rate: count as f64 / elapsed.as_secs_f64(), p50, p99 }
}

/// Returns the median and the 99th percentile.
pub fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort();
    [50, 99].map(|part| times[(times.len() * part / 100).min(times.len() - 1)])
}

/// Sends all requests; each must get the expected status.
pub async fn run(to: SocketAddr, requests: Vec<Prepared>, expected: u16) -> Vec<Duration> {
    run_with(&[to], requests, expected, None).await
}

/// Splits the requests over the connections. With a pace, the connections send in rotation.
async fn run_with(to: &[SocketAddr], requests: Vec<Prepared>, expected: u16, pace: Option<Duration>) -> Vec<Duration> {
    let share = requests.len().div_ceil(CONNECTIONS).max(1);
    // All connections are open when the first request is due.
    let started = Instant::now() + CONNECTED;
    let tasks: Vec<_> = requests
        .chunks(share)
        .zip(to.iter().cycle())
        .zip(0..)
        .map(|((part, to), number)| {
            let (part, to) = (part.to_vec(), *to);
            let schedule = pace.map(|pace| (started + pace * number, pace * CONNECTIONS as u32));
            tokio::spawn(async move { connection(to, part, expected, schedule).await })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times
}

/// Sends one request on its own connection and returns the response body.
pub async fn one(to: SocketAddr, prepared: Prepared) -> String {
    let (_, body) = Connection::open(to).await.unwrap().send(prepared).await.unwrap();
    String::from_utf8_lossy(&body).into_owned()
}

/// Kept-alive connection to a gateway.
pub struct Connection {
    to: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { to, sender })
    }

    /// Returns status and body of the response.
    pub async fn send(&mut self, prepared: Prepared) -> Result<(u16, Bytes), hyper::Error> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request(self.to, prepared)).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

/// `schedule`: when the first request is due, and the interval to the next.
async fn connection(
    to: SocketAddr,
    requests: Vec<Prepared>,
    expected: u16,
    schedule: Option<(Instant, Duration)>,
) -> Vec<Duration> {
    let mut connection = Connection::open(to).await.unwrap();
    let mut times = Vec::with_capacity(requests.len());
    for (number, prepared) in (0..).zip(requests) {
        let due = schedule.map(|(first, step)| first + step * number);
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        let started = due.unwrap_or_else(Instant::now);
        let (status, body) = connection.send(prepared).await.unwrap();
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
