//! Streams of payments' states (server-sent events): memory of 10,000 open ones, and the time from a change to the last of 1,000
//! watchers. `-- streams` runs it alone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tollgate_harness::merchant::provider_number;

use crate::drive::{self, Connection, percentiles};
use crate::stage::{Stage, cpu_time, create, raise_open_files, signed_request};

/// Open streams, the gateway's maximum.
const STREAMS: usize = 10_000;
/// Streams of one payment, the gateway's maximum.
const STREAMS_PER_PAYMENT: usize = 8;
/// Watchers whose payments change in one round.
const WATCHERS: usize = 1_000;
const ROUNDS: usize = STREAMS / WATCHERS;
const PAYMENTS_PER_ROUND: usize = WATCHERS / STREAMS_PER_PAYMENT;
/// Streams that open at once.
const OPENING: usize = 64;
/// Time of the measurement of idle streams: two comments on each of them.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Files of one process beside its streams.
const OTHER_FILES: u64 = 2_000;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Event that ends a stream: the payment is paid.
const PAID: &[u8] = b"event: payment.succeeded";

pub async fn measure() {
    let files = raise_open_files();
    assert!(files >= STREAMS as u64 + OTHER_FILES, "only {files} files may be open; see `ulimit -Hn`");
    let stage = Stage::start().await;
    let file = stage.conf.join("tollgate.toml");
    let limits = "[server]\nmax_connections = 20000\nmax_connections_per_address = 20000\n";
    let text = std::fs::read_to_string(&file).unwrap().replace("[server]\n", limits);
    std::fs::write(&file, text).unwrap();
    let gateway = stage.start_gateway().await;
    let process = gateway.id().unwrap();
    let tokens = create_payments(stage.gateway).await;
    let memory = resident(process);
    let (began, mut watchers) = (Instant::now(), Vec::new());
    for part in tokens.chunks(OPENING / STREAMS_PER_PAYMENT) {
        let mut opening = JoinSet::new();
        for (number, token) in part {
            for _ in 0..STREAMS_PER_PAYMENT {
                opening.spawn(Watcher::open(stage.gateway, *number, token.clone()));
            }
        }
        watchers.extend(opening.join_all().await);
    }
    let (opened, grown) = (began.elapsed(), resident(process) - memory);
    println!("\n{STREAMS} streams of server-sent events, {STREAMS_PER_PAYMENT} of each payment; all on this machine");
    println!(
        "resident memory {:.1} KiB each, opened in {:.1} s",
        grown as f64 / 1024.0 / STREAMS as f64,
        opened.as_secs_f64()
    );
    watchers.sort_by_key(|watcher: &Watcher| watcher.number);
    let mut running: Vec<_> = watchers.into_iter().map(|watcher| tokio::spawn(watcher.until_paid())).collect();
    let cpu = cpu_time(process);
    tokio::time::sleep(IDLE_TIME).await;
    let busy = (cpu_time(process) - cpu).as_secs_f64() / IDLE_TIME.as_secs_f64();
    println!("CPU while nothing changes: {:.1} % of a core", busy * 100.0);
    let mut arrivals = vec![Vec::new(); tokens.len()];
    for round in 0..ROUNDS {
        pay(&stage, round * PAYMENTS_PER_ROUND..(round + 1) * PAYMENTS_PER_ROUND).await;
        for watcher in running.drain(..WATCHERS) {
            let (number, at) = tokio::time::timeout(TIMEOUT, watcher).await.unwrap().unwrap();
            arrivals[number].push(at);
        }
    }
    print_delays(&stage, &arrivals).await;
}

/// Prints the times from the change of a payment to its watchers.
async fn print_delays(stage: &Stage, arrivals: &[Vec<Timestamp>]) {
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for (round, payments) in arrivals.chunks(PAYMENTS_PER_ROUND).enumerate() {
        let first = all.len();
        for (number, arrived) in (round * PAYMENTS_PER_ROUND..).zip(payments) {
            assert_eq!(arrived.len(), STREAMS_PER_PAYMENT);
            let changed = changed_at(stage.gateway, number).await;
            let delay = |at: &Timestamp| at.duration_since(changed).max(SignedDuration::ZERO).unsigned_abs();
            all.extend(arrived.iter().map(delay));
        }
        last.extend(all[first..].iter().max().copied());
    }
    let milliseconds = |times: Vec<Duration>| percentiles(times).map(|time| time.as_secs_f64() * 1e3);
    let ([all_p50, all_p99], [last_p50, last_p99]) = (milliseconds(all), milliseconds(last));
    println!("from the change of a payment to a watcher: p50 {all_p50:.1} ms, p99 {all_p99:.1} ms");
    println!(
        "to the last of {WATCHERS} watchers of {PAYMENTS_PER_ROUND} payments: p50 {last_p50:.1} ms, p99 {last_p99:.1} ms of {ROUNDS} rounds"
    );
}

/// Creates the payments. Returns their numbers and watch tokens.
async fn create_payments(gateway: SocketAddr) -> Vec<(usize, String)> {
    let mut connection = Connection::open(gateway).await.unwrap();
    let mut tokens = Vec::new();
    for number in 0..STREAMS / STREAMS_PER_PAYMENT {
        let (status, body) = connection.send(create(&order(number), None)).await.unwrap();
        let payment: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 201, "{payment}");
        tokens.push((number, payment["watch"].as_str().unwrap().to_owned()));
    }
    tokens
}

/// Pays as the payers, one after the other. The provider notifies the gateway.
async fn pay(stage: &Stage, payments: std::ops::Range<usize>) {
    let numbers = payments.map(|number| provider_number(&["shop", &order(number)]));
    for number in numbers {
        stage.control(Method::POST, &format!("/orders/{number}/pay"), json!({})).await;
    }
}

/// Returns when the payment changed last.
async fn changed_at(gateway: SocketAddr, number: usize) -> Timestamp {
    let asked = signed_request(Method::GET, &format!("/v1/payments/{}", order(number)), b"");
    let payment: Value = serde_json::from_str(&drive::one(gateway, asked).await).unwrap();
    assert_eq!(payment["status"], "succeeded", "{payment}");
    payment["updated_at"].as_str().unwrap().parse().unwrap()
}

fn order(number: usize) -> String {
    format!("watched-{number}")
}

/// Resident memory of a process in bytes, from `/proc`.
fn resident(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// Payer's browser that watches one payment.
struct Watcher {
    number: usize,
    stream: TcpStream,
}

impl Watcher {
    /// Opens the stream and reads the present state.
    async fn open(gateway: SocketAddr, number: usize, token: String) -> Self {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        let target = format!("/v1/payments/{}/events?watch={token}", order(number));
        let head = format!("GET {target} HTTP/1.1\r\nhost: {gateway}\r\naccept: text/event-stream\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut watcher = Self { number, stream };
        watcher.until(b"event: payment.pending").await;
        watcher
    }

    /// Waits until the payment is paid. Returns its number and the time.
    async fn until_paid(mut self) -> (usize, Timestamp) {
        self.until(PAID).await;
        (self.number, Timestamp::now())
    }

    async fn until(&mut self, event: &[u8]) {
        let mut read = Vec::new();
        while !read.windows(event.len()).any(|part| part == event) {
            let count = self.stream.read_buf(&mut read).await.unwrap();
            assert!(count > 0, "the stream ended: {}", String::from_utf8_lossy(&read));
        }
    }
}
