//! Merchants that pay at a constant rate.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

use crate::drive::{Connection, percentiles};
use crate::stage::create;

/// Maximum concurrent requests. When all wait for a response, the rate drops and is not caught up.
const WORKERS: usize = 64;
/// Time within which a retry of a rejected payment must succeed.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// First request of one payment.
pub struct Attempt {
    pub order: String,
    /// Send time, measured from the start of the merchants.
    pub at: Duration,
    pub took: Duration,
    /// HTTP status; 0 if the connection failed.
    pub status: u16,
    /// `code` and `money_state` of a problem.
    pub problem: [String; 2],
}

pub struct Merchants {
    pub began: Instant,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Merchants {
    /// Starts paying over these gateways in rotation, with a new order each time.
    pub fn start(addresses: &[SocketAddr], per_second: u32) -> Self {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ticks, stop, began) = (Arc::new(Mutex::new((ticks, 0))), Arc::new(AtomicBool::new(false)), Instant::now());
        let worker = |gateway: &SocketAddr| tokio::spawn(pay(*gateway, began, Arc::clone(&ticks), Arc::clone(&stop)));
        let workers = addresses.iter().cycle().take(WORKERS).map(worker).collect();
        Self { began, stop, workers }
    }

    /// Stops and returns all attempts after the last response.
    pub async fn stop(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::SeqCst);
        let mut attempts = Vec::new();
        for worker in self.workers {
            attempts.extend(worker.await.unwrap());
        }
        attempts.sort_by_key(|attempt| attempt.at);
        attempts
    }
}

async fn pay(
    gateway: SocketAddr,
    began: Instant,
    ticks: Arc<Mutex<(Interval, usize)>>,
    stop: Arc<AtomicBool>,
) -> Vec<Attempt> {
    let (mut attempts, mut connection) = (Vec::new(), None);
    loop {
        let number = {
            let (interval, number) = &mut *ticks.lock().await;
            interval.tick().await;
            *number += 1;
            *number
        };
        if stop.load(Ordering::SeqCst) {
            return attempts;
        }
        let (order, at) = (format!("paid-{number}"), began.elapsed());
        let (status, body) = send(&mut connection, gateway, &order).await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let problem = ["code", "money_state"].map(|key| problem[key].as_str().unwrap_or_default().to_owned());
        attempts.push(Attempt { order, at, took: began.elapsed() - at, status, problem });
    }
}

async fn send(
    idle: &mut Option<Connection>,
    gateway: SocketAddr,
    order: &str,
) -> Result<(u16, Bytes), Box<dyn Error + Send + Sync>> {
    let mut connection = match idle.take() {
        Some(connection) => connection,
        None => Connection::open(gateway).await?,
    };
    let answer = connection.send(create(order, None)).await?;
    *idle = Some(connection);
    Ok(answer)
}

/// Retries an order's request with its key until the payment is created.
pub async fn repeat(gateway: SocketAddr, order: &str) {
    let (end, mut connection) = (Instant::now() + RETRY_TIMEOUT, None);
    loop {
        let (status, body) = send(&mut connection, gateway, order).await.unwrap_or_default();
        if status == 201 {
            return;
        }
        assert!(Instant::now() < end, "{order} is not made: {status} {}", String::from_utf8_lossy(&body));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Prints rate and latency of the payments in a time span.
pub fn print_span(name: &str, attempts: &[Attempt], span: Range<Duration>) {
    let within: Vec<_> =
        attempts.iter().filter(|attempt| span.contains(&attempt.at) && attempt.status == 201).collect();
    let rate = within.len() as f64 / (span.end - span.start).as_secs_f64();
    if within.is_empty() {
        return println!("{name:<28}no payment");
    }
    let [p50, p99] = percentiles(within.iter().map(|attempt| attempt.took).collect());
    let longest = within.iter().map(|attempt| attempt.took).max().unwrap_or_default();
    println!("{name:<28}{rate:>6.0}/s   p50 {p50:>8.1?}   p99 {p99:>8.1?}   longest {longest:>8.1?}");
}

/// Prints the load average of the machine.
pub fn print_load() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average of the machine: {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}
