//! `tollgate chaos`: makes payments under random faults. Afterwards three records must agree: the responses to
//! clients, the executions at the providers, and the delivered events. Every sink must have every event, in order.
//!
//! The payments use every provider of the sandbox. Meanwhile gateways are killed, stopped, frozen and reloaded. The
//! connections to providers, PostgreSQL, Redis and RabbitMQ are cut at random points. The broker is killed, blocked by a
//! memory alarm, frozen, and loses its binding. Provider responses are late, unsigned,
//! forged or missing. Clients retry, abort and change gateways, and the merchant's webhook receiver fails. A seed
//! decides the faults of each payment. The interleaving of threads depends on the machine.

mod backing_services;
mod broker;
mod broker_faults;
mod client;
mod client_log;
mod counts;
mod environment;
mod event_audit;
mod event_books;
mod judge;
mod network_faults;
mod pay_methods;
mod process_faults;
mod provider_faults;
mod pull_reader;
mod receiver;
mod reconcile;
mod scan;
mod server_url;
mod session;
mod sink_record;
mod tcp_proxy;
mod till;

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::backing_services::BackingServices;
use self::broker::Broker;
use self::client_log::ClientLog;
use self::counts::FaultCounts;
use self::environment::ChaosEnvironment;
use self::pull_reader::PullReader;
use self::reconcile::Report;
use crate::Printer;

/// Arguments of `tollgate chaos`.
#[derive(Args, Clone, Debug)]
pub struct ChaosArgs {
    /// Number of payments
    #[arg(long, default_value_t = 1000)]
    payments: u64,
    /// Number of concurrent clients
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Seed of the random faults; default: a new one, printed for a repetition
    #[arg(long)]
    seed: Option<u64>,
    /// Inject no faults into gateways and connections; only providers, clients and the webhook receiver fail
    #[arg(long)]
    no_infrastructure_faults: bool,
    /// Number of gateways; several need --postgres and --redis, a single one has an embedded ledger without them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    gateways: u8,
    /// PostgreSQL server for the ledger, as in postgres://tollgate@127.0.0.1:5432/postgres; a new database is created
    /// there
    #[arg(long, value_name = "URL", requires = "redis")]
    postgres: Option<String>,
    /// Redis server for the cache, as in redis://127.0.0.1:6379
    #[arg(long, value_name = "URL", requires = "postgres")]
    redis: Option<String>,
    /// RabbitMQ broker for a second sink beside the webhook: its URL, as in amqp://guest:guest@127.0.0.1:5672, or a
    /// program that runs a broker, as in tests/servers/rabbitmq. Only a program's broker is killed, frozen and blocked
    #[arg(long, value_name = "URL|PROGRAM")]
    rabbitmq: Option<String>,
}

/// Makes the payments, reconciles the records and prints the report. Returns an error if the records do not agree.
pub fn run(arguments: &ChaosArgs, print: Printer) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(run_async(arguments, print))
}

async fn run_async(arguments: &ChaosArgs, print: Printer) -> Result<(), String> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let ChaosArgs { payments, clients, gateways, .. } = *arguments;
    let services = match (&arguments.postgres, &arguments.redis) {
        (Some(postgres), Some(redis)) => Some(BackingServices::open(postgres, redis).await?),
        _ if gateways > 1 => return Err("several gateways need a shared ledger: add --postgres and --redis".to_owned()),
        _ => None,
    };
    let broker = match &arguments.rabbitmq {
        Some(argument) => Some(Broker::open(argument).await?),
        None => None,
    };
    let shared = services.as_ref().map_or(String::new(), |_| format!(" --gateways {gateways} --postgres … --redis …"));
    let broker_option = broker.as_ref().map_or("", |_| " --rabbitmq …");
    print(format_args!(
        "seed {seed}; repeat with: tollgate chaos --seed {seed} --payments {payments} --clients {clients}{shared}{broker_option}"
    ));
    let environment = Arc::new(ChaosEnvironment::start(seed, usize::from(gateways), services, broker).await?);
    let (stop, stopped) = watch::channel(false);
    let reader = tokio::spawn(PullReader::default().read_until(Arc::clone(&environment), stopped.clone()));
    let injectors = if arguments.no_infrastructure_faults {
        Vec::new()
    } else {
        start_fault_injectors(&environment, &stopped, seed)
    };
    let start = Instant::now();
    let logs = run_clients(&environment, arguments, seed).await;
    let duration = start.elapsed();
    stop.send_replace(true);
    let mut injected = Vec::new();
    for (name, task) in injectors {
        injected.push((name, task.await.map_err(|error| error.to_string())??));
    }
    let proxies = environment.proxies().into_iter();
    let proxies = proxies.map(|(name, proxy)| (format!("connections to {name}"), proxy.counts()));
    injected.extend(proxies);
    let reader = reader.await.map_err(|error| error.to_string())?;
    let report = Report::reconcile(&environment, logs, reader).await;
    report.print(duration, &injected, print);
    if !report.agrees() {
        return Err(format!("the records do not agree; see the gateways' logs in {}", environment.directory.display()));
    }
    match Arc::into_inner(environment) {
        Some(environment) => environment.shut_down().await,
        None => Ok(()),
    }
}

type FaultInjector = (String, JoinHandle<Result<FaultCounts, String>>);

/// Starts one fault injector per gateway, one for the connections, and one for the broker if there is any.
fn start_fault_injectors(
    environment: &Arc<ChaosEnvironment>,
    stop: &watch::Receiver<bool>,
    seed: u64,
) -> Vec<FaultInjector> {
    let generator = |number: usize| random(seed, u64::MAX - number as u64);
    let network = tokio::spawn(network_faults::run(Arc::clone(environment), stop.clone(), generator(0)));
    let gateways = (0..environment.gateways.len()).map(|index| {
        let run = process_faults::run(Arc::clone(environment), index, stop.clone(), generator(index + 1));
        (format!("gateway {}", index + 1), tokio::spawn(run))
    });
    let broker = environment.broker.iter().map(|_| {
        let random = generator(environment.gateways.len() + 1);
        let run = broker_faults::run(Arc::clone(environment), stop.clone(), random);
        ("RabbitMQ".to_owned(), tokio::spawn(run))
    });
    gateways.chain(broker).chain([("new connections to providers".to_owned(), network)]).collect()
}

/// Runs the client of every payment, a limited number concurrently. Returns their logs.
async fn run_clients(environment: &Arc<ChaosEnvironment>, arguments: &ChaosArgs, seed: u64) -> Vec<ClientLog> {
    let permits = Arc::new(Semaphore::new(arguments.clients.max(1)));
    let mut tasks = JoinSet::new();
    let mut logs = Vec::new();
    for number in 0..arguments.payments {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let environment = Arc::clone(environment);
        let random = random(seed, number);
        tasks.spawn(async move {
            let log = client::run(&environment, number, random).await;
            drop(permit);
            log
        });
        while let Some(log) = tasks.try_join_next() {
            logs.extend(log);
        }
    }
    while let Some(log) = tasks.join_next().await {
        logs.extend(log);
    }
    logs
}

/// Returns a random generator that depends only on seed and number.
fn random(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number)
}
