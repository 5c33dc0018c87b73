//! Measurement: 1,000 merchants with three sinks each, one of them dead, on an embedded ledger and a real RabbitMQ. Run alone, by
//! `cargo test -p tollgate-gateway --lib delivery::tests::many_merchants -- --ignored --nocapture --test-threads 1`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tollgate_config::testing::{Dir, put};
use tollgate_ledger::{
    Answer, ClaimKey, ClaimResult, Intent, Ledger, Payment, Record, RecordId, TimelineEvent, Update,
};
use tollgate_plugins::payment::{Outcome, Status, provider_number};

use crate::clock;
use crate::open_ledger::environment;
use crate::snapshot::testing::sandbox;
use crate::snapshot::{Current, load, put_in_force};

const MERCHANTS: usize = 1_000;
const PAYMENTS: usize = 6_000;
/// Time between two payments.
const INTERVAL: Duration = Duration::from_millis(10);
/// Queue to which the default exchange routes.
const QUEUE: &str = "many-merchants";

/// RabbitMQ that ends with the test.
struct Broker {
    port: u16,
    process: Child,
}

impl Broker {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers/rabbitmq");
        let mut process = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { port: line.trim().parse().unwrap(), process }
    }

    /// Declares the queue, and takes its messages while the connection lives.
    async fn drain(&self) -> lapin::Connection {
        let url = format!("amqp://guest:guest@127.0.0.1:{}", self.port);
        let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let (options, table) = (lapin::options::QueueDeclareOptions::default(), lapin::types::FieldTable::default());
        channel.queue_declare(QUEUE.into(), options, table.clone()).await.unwrap();
        let options = lapin::options::BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut consumer = channel.basic_consume(QUEUE.into(), "".into(), options, table).await.unwrap();
        tokio::spawn(async move {
            let _channel = channel;
            while futures_util::StreamExt::next(&mut consumer).await.is_some() {}
        });
        connection
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Starts a webhook that accepts every event.
async fn webhook() -> SocketAddr {
    async fn serve(mut stream: TcpStream) {
        let (mut text, mut chunk) = (Vec::new(), vec![0; 8192]);
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            text.extend_from_slice(&chunk[..count]);
            let head = text.windows(4).position(|it| it == b"\r\n\r\n");
            let length = |head: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                line.and_then(|length| length.parse::<usize>().ok()).unwrap_or(0)
            };
            if head.is_some_and(|at| text.len() >= at + 4 + length(&String::from_utf8_lossy(&text[..at]))) {
                text.clear();
                if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    }
    listen(|stream| drop(tokio::spawn(serve(stream)))).await
}

/// Starts a server that accepts connections and never answers.
async fn frozen() -> SocketAddr {
    let mut streams = Vec::new();
    listen(move |stream| streams.push(stream)).await
}

async fn listen(mut accept: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(4096).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            accept(listener.accept().await.unwrap().0);
        }
    });
    address
}

fn name(number: usize) -> String {
    format!("m-{number}")
}

/// Writes a configuration in which `sinks` gives the webhook and the tables of each merchant.
fn configuration(sinks: impl Fn(usize) -> (SocketAddr, String)) -> (Dir, Current) {
    let dir = sandbox();
    put(
        &dir,
        "tollgate.toml",
        "public_url = \"http://127.0.0.1:8080\"\n[delivery]\nallowed_networks = [\"127.0.0.0/8\"]\n",
    );
    for number in 0..MERCHANTS {
        let (webhook, tables) = sinks(number);
        let secret = "plain:whsec_Zm9yIHRyeWluZyBvdXQgb25seSwgbm90IG1vbmV5";
        let text = format!(
            "keys = [{{ id = \"k-{number}\", secret = \"plain:0123456789abcdef\" }}]\n\
             webhook = {{ url = \"http://{webhook}/\", secrets = [\"{secret}\"] }}\n{tables}"
        );
        put(&dir, &format!("merchants/{}.toml", name(number)), &text);
    }
    let current = put_in_force(load(dir.path(), None).unwrap());
    (dir, current)
}

fn rabbitmq(sink: &str, user: &str, port: u16) -> String {
    format!(
        "[[sink]]\nname = \"{sink}\"\nkind = \"rabbitmq\"\nurl = \"plain:amqp://{user}@127.0.0.1:{port}\"\nexchange = \"\"\n\
         routing_key = \"{QUEUE}\"\n"
    )
}

/// Creates a pending payment of a merchant.
async fn pending(ledger: &Ledger, number: usize) -> RecordId {
    let (merchant, order) = (name(number % MERCHANTS), format!("o-{number}"));
    let provider_order_no = provider_number(&[&merchant, &order]);
    let payment =
        Payment { merchant: merchant.clone(), provider_order_no, ..tollgate_ledger::testing::a_payment(&order) };
    let (method, path) = ("POST".into(), "/".into());
    let key = ClaimKey { merchant: merchant.clone(), method, path, key: order.clone(), fingerprint: [0; 32] };
    let claimed = ledger.claim(key, Intent::Pay(payment), clock::now()).await.unwrap();
    let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
    let answer = |_: &Record| Answer { status: 201, content_type: String::new(), body: String::new() };
    ledger.settle(permit, Update::Outcome(Outcome::of(Status::Pending)), clock::now(), answer).await.unwrap();
    RecordId { merchant, order_id: order, refund_id: None }
}

/// Pays orders at a steady rate and prints the lag of each sink, from the settlement to the confirmed delivery.
async fn measure(what: &str, dead: Option<&str>, current: Current) {
    let data = tempfile::tempdir().unwrap();
    let ledger = Ledger::open_with(data.path(), 0, environment(&current)).unwrap();
    let (stop, stopped) = watch::channel(false);
    let worker = tokio::spawn(super::run(Arc::clone(&current), ledger.clone(), stopped));
    let mut orders = Vec::new();
    for number in 0..PAYMENTS {
        orders.push(pending(&ledger, number).await);
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut tick = tokio::time::interval(INTERVAL);
    for order in &orders {
        tick.tick().await;
        ledger.apply(order, Update::Outcome(Outcome::of(Status::Succeeded)), clock::now()).await.unwrap();
    }
    let used = usage();
    // The dead ones keep their events.
    let expected = if dead.is_some() { PAYMENTS as u64 } else { 0 };
    for _ in 0..600 {
        let waiting = ledger.waiting().await.unwrap();
        let others = waiting.deliveries_by_sink.iter().filter(|(sink, _)| Some(sink.as_str()) != dead);
        if waiting.deliveries <= expected && others.map(|(_, count)| count).sum::<u64>() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut lags = BTreeMap::<String, Vec<i128>>::new();
    for order in &orders {
        let (_, timeline) = ledger.timeline(&order.merchant, &order.order_id).await.unwrap().unwrap();
        let is_paid =
            |what: &TimelineEvent| matches!(what, TimelineEvent::Event { kind, .. } if kind == "payment.succeeded");
        let published = timeline.entries.iter().find(|entry| is_paid(&entry.what)).unwrap();
        let TimelineEvent::Event { id: paid, .. } = &published.what else { continue };
        for entry in &timeline.entries {
            if let TimelineEvent::Delivered { id, sink } = &entry.what
                && id == paid
            {
                lags.entry(sink.to_string()).or_default().push(entry.at.duration_since(published.at).as_millis());
            }
        }
    }
    println!("{what}: {used}");
    for (sink, mut lags) in lags {
        lags.sort_unstable();
        let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
        println!("  {sink}: {} delivered, p50 {} ms, p99 {} ms, max {} ms", lags.len(), at(0.5), at(0.99), at(1.0));
    }
    stop.send_replace(true);
    worker.await.unwrap();
}

/// Returns memory and threads of this process.
fn usage() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let wanted = |line: &&str| line.starts_with("VmRSS") || line.starts_with("Threads");
    status
        .lines()
        .filter(wanted)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes"]
async fn dead_sinks_of_1000_merchants() {
    let (broker, webhook, frozen) = (Broker::start(), webhook().await, frozen().await);
    let _consumer = broker.drain().await;
    let mq = |sink: &str| rabbitmq(sink, "guest:guest", broker.port);
    let (_dir, healthy) = configuration(|_| (webhook, mq("mq") + &mq("other")));
    measure("no sink is dead", None, healthy).await;
    let (_dir, dead_broker) = configuration(|number| {
        let dead = rabbitmq("dead", &format!("u{number}:p"), frozen.port());
        (webhook, mq("mq") + &dead)
    });
    measure("one broker of each merchant is frozen", Some("dead"), dead_broker).await;
    let (_dir, dead_webhook) = configuration(|_| (frozen, mq("mq") + &mq("other")));
    measure("the webhook of each merchant is frozen", Some("webhook"), dead_webhook).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes"]
async fn sinks_of_1000_merchants_on_one_broker() {
    let (broker, webhook) = (Broker::start(), webhook().await);
    let _consumer = broker.drain().await;
    let (_dir, current) = configuration(|_| (webhook, rabbitmq("mq", "guest:guest", broker.port)));
    let data = tempfile::tempdir().unwrap();
    let ledger = Ledger::open_with(data.path(), 0, environment(&current)).unwrap();
    println!("before the sinks connect: {}", usage());
    let (stop, stopped) = watch::channel(false);
    let worker = tokio::spawn(super::run(Arc::clone(&current), ledger.clone(), stopped));
    for seconds in [10, 30, 75] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        println!("{seconds} s later: {}", usage());
    }
    stop.send_replace(true);
    worker.await.unwrap();
}
