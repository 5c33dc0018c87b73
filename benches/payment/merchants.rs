//! Merchants that pay at a steady rate, whatever they are answered.

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

/// Requests under way at the same time. When all wait for an answer the rate drops, and is not caught up.
const WORKERS: usize = 64;
/// Time for a payment that was refused to be accepted when it is sent again.
const REPEATED: Duration = Duration::from_secs(60);

/// One payment's first request.
pub struct Attempt {
    pub order: String,
    /// When it was sent, since the merchants began.
    pub at: Duration,
    pub took: Duration,
    /// HTTP status; 0 where the connection broke.
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
    /// Pays over these gateways in turn, a new order each time.
    pub fn start(doors: &[SocketAddr], each_second: u32) -> Self {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / each_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ticks, stop, began) = (Arc::new(Mutex::new((ticks, 0))), Arc::new(AtomicBool::new(false)), Instant::now());
        let worker = |door: &SocketAddr| tokio::spawn(pay(*door, began, Arc::clone(&ticks), Arc::clone(&stop)));
        let workers = doors.iter().cycle().take(WORKERS).map(worker).collect();
        Self { began, stop, workers }
    }

    /// Returns all attempts when the last is answered.
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
    door: SocketAddr,
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
        let (status, body) = send(&mut connection, door, &order).await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let problem = ["code", "money_state"].map(|key| problem[key].as_str().unwrap_or_default().to_owned());
        attempts.push(Attempt { order, at, took: began.elapsed() - at, status, problem });
    }
}

async fn send(
    kept: &mut Option<Connection>,
    door: SocketAddr,
    order: &str,
) -> Result<(u16, Bytes), Box<dyn Error + Send + Sync>> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(door).await?,
    };
    let answer = connection.send(create(order, None)).await?;
    *kept = Some(connection);
    Ok(answer)
}

/// Sends an order's request again, with its key, until the payment is made.
pub async fn repeat(door: SocketAddr, order: &str) {
    let (end, mut connection) = (Instant::now() + REPEATED, None);
    loop {
        let (status, body) = send(&mut connection, door, order).await.unwrap_or_default();
        if status == 201 {
            return;
        }
        assert!(Instant::now() < end, "{order} is not made: {status} {}", String::from_utf8_lossy(&body));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Prints the payments of a span: how many a second, and how long they took.
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

/// Prints what else the machine does.
pub fn print_load() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average of the machine: {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}
