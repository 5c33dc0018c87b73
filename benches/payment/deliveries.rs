//! Delivery of a backlog of events: events a second, and the gateway's CPU per event, by kind of sink. `-- deliveries` runs it
//! alone.
//!
//! The backlog is written into the ledger before the gateway starts, so that nothing but the delivery is measured.

use std::any::Any;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use tollgate_harness::event_receiver::EventReceiver;
use tollgate_harness::rabbitmq::{BrokerProcess, BrokerQueue};
use tollgate_ledger::{
    Answer, ClaimResult, Environment, Intent, Ledger, RESERVE, Record, SinkName, Subscriptions, Update, testing,
};
use tollgate_merchant::webhook_secret;
use tollgate_plugins::payment::{Outcome, Status};

use crate::ledger::{claim_key, payment};
use crate::stage::{Stage, cpu_time, read_metric};

/// Tasks that write the backlog.
const WRITERS: usize = 64;
const ROUNDS: usize = 3;
/// Interval between two readings of the number of delivered events.
const READ_INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(300);

/// Kind of sink.
struct Kind {
    name: &'static str,
    /// Name of the sink in the merchant's file.
    sink: &'static str,
    open: fn() -> Pin<Box<dyn Future<Output = Destination>>>,
}

/// Destination of the events.
struct Destination {
    /// Lines of the merchant's file.
    config: String,
    /// Runs until it is dropped.
    _running: Box<dyn Any>,
}

/// The kinds that are measured. A further kind needs a row here, and nothing else.
const KINDS: [Kind; 2] = [
    Kind { name: "webhook (keep-alive)", sink: "webhook", open: || Box::pin(webhook()) },
    Kind { name: "RabbitMQ", sink: "mq", open: || Box::pin(rabbitmq()) },
];

async fn webhook() -> Destination {
    let receiver = EventReceiver::open(|_| async { StatusCode::OK }).await.unwrap();
    let (url, secret) = (receiver.url(), webhook_secret());
    let config = format!("webhook = {{ url = \"{url}\", secrets = [\"plain:{secret}\"] }}\n");
    Destination { config, _running: Box::new(receiver) }
}

async fn rabbitmq() -> Destination {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/rabbitmq");
    let broker = BrokerProcess::start(script.to_str().unwrap()).await.unwrap();
    let url = broker.url();
    // Nobody empties the queue, so that no consumer uses the machine.
    BrokerQueue::declare(url.clone(), "bench".to_owned()).await.unwrap();
    let config = format!("[[sink]]\nname = \"mq\"\nkind = \"rabbitmq\"\nurl = \"plain:{url}\"\nexchange = \"bench\"\n");
    Destination { config, _running: Box::new(broker) }
}

pub async fn measure(events: usize) {
    println!("\ndelivery of {events} events that wait, one merchant; all on this machine");
    let mut rounds = KINDS.map(|_| Vec::new());
    // Interleaved, so that noise falls on all; the round with the median rate is printed.
    for _ in 0..ROUNDS {
        for (kind, rounds) in KINDS.iter().zip(&mut rounds) {
            rounds.push(measure_once(kind, events).await);
        }
    }
    for (kind, mut rounds) in KINDS.iter().zip(rounds) {
        rounds.sort_by(|(one, _), (another, _)| one.total_cmp(another));
        let all: Vec<String> =
            rounds.iter().map(|(rate, cpu)| format!("{rate:.0}/s {:.0} µs", cpu.as_secs_f64() * 1e6)).collect();
        let (rate, cpu) = rounds[ROUNDS / 2];
        let cpu = cpu.as_secs_f64() * 1e6;
        println!("{:<28}{cpu:>8.1} µs CPU   {rate:>6.0}/s   (rounds: {})", kind.name, all.join(", "));
    }
}

/// Returns the events a second and the CPU of each, from a tenth of the events to nine tenths.
async fn measure_once(kind: &Kind, events: usize) -> (f64, Duration) {
    let stores = "[ledger]\npath = \"../data\"\n[delivery]\nallowed_networks = [\"127.0.0.0/8\"]\n";
    let stage = Stage::with(1, stores, &["main"]).await;
    let destination = (kind.open)().await;
    let merchant = stage.conf.join("merchants/shop.toml");
    let keys = std::fs::read_to_string(&merchant).unwrap();
    std::fs::write(&merchant, keys + &destination.config).unwrap();
    write_backlog(&stage.conf.join("../data"), kind.sink, events).await;
    let gateway = stage.start_gateway().await;
    let metric = format!("deliveries_total{{merchant=\"shop\",result=\"delivered\",sink=\"{}\"}}", kind.sink);
    let (began, events) = (Instant::now(), events as u64);
    let mut first = None;
    loop {
        let delivered = read_metric(stage.admin, &metric).await.unwrap_or(0);
        let reading = (delivered, Instant::now(), cpu_time(gateway.id().unwrap()));
        match first {
            None if delivered * 10 >= events => first = Some(reading),
            Some((delivered_before, time_before, cpu_before)) if delivered * 10 >= events * 9 => {
                let (_, time, cpu) = reading;
                let count = delivered - delivered_before;
                return (count as f64 / (time - time_before).as_secs_f64(), (cpu - cpu_before) / count as u32);
            }
            _ => {}
        }
        assert!(began.elapsed() < TIMEOUT, "{}: only {delivered} events are delivered", kind.name);
        tokio::time::sleep(READ_INTERVAL).await;
    }
}

/// Every event goes to one sink.
struct OneSink(SinkName);

impl Subscriptions for OneSink {
    fn sinks(&self, _: &str, _: &str) -> Vec<SinkName> {
        vec![self.0.clone()]
    }
}

/// Writes payments that succeeded into a new ledger, each with one event that waits for the sink.
async fn write_backlog(path: &Path, sink: &str, events: usize) {
    let subscriptions = Arc::new(OneSink(SinkName::from(sink)));
    let environment = Environment { subscriptions, ..testing::environment() };
    let ledger = Ledger::open_with(path, RESERVE, environment).unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for number in (writer..events).step_by(WRITERS) {
                    write_paid(&ledger, &format!("o-{number}")).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let waiting = ledger.waiting().await.unwrap();
    assert_eq!(waiting.deliveries, events as u64, "every event waits");
}

async fn write_paid(ledger: &Ledger, order: &str) {
    let claimed = ledger.claim(claim_key(order), Intent::Pay(payment(order)), Timestamp::now()).await.unwrap();
    let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
    let paid = Update::Outcome(Outcome::of(Status::Succeeded));
    let answer = |_: &Record| Answer { status: 201, content_type: "application/json".into(), body: String::new() };
    ledger.settle(permit, paid, Timestamp::now(), answer).await.unwrap();
}
