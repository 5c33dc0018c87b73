//! `tollgate chaos`: everything goes wrong at once, and afterwards three books must agree: what clients were told, what the
//! providers executed, and what events were delivered.
//!
//! Payments are made over every provider that the sandbox speaks while gateways are killed, stopped, frozen and reloaded, the
//! connections to providers, PostgreSQL and Redis are cut at every place, answers are late, unsigned, forged or missing,
//! clients repeat, hang up and go to another gateway, and the merchant's receiver fails. A seed decides what happens to each
//! payment; how the threads interleave is up to the machine.

mod backing_services;
mod client;
mod environment;
mod judge;
mod network_faults;
mod process_faults;
mod provider_faults;
mod receiver;
mod reconcile;
mod tcp_proxy;
mod till;
mod ways;

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::backing_services::Stores;
use self::client::ClientLog;
use self::environment::World;
use self::process_faults::Counts;
use self::reconcile::Report;
use crate::output::say;

/// What `tollgate chaos` is told.
#[derive(Args, Clone, Debug)]
pub struct ChaosArgs {
    /// How many payments are made
    #[arg(long, default_value_t = 1000)]
    payments: u64,
    /// How many clients make them at once
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// What happens to which payment; a new one each time unless it is given
    #[arg(long)]
    seed: Option<u64>,
    /// Leave gateways and connections alone: only providers, clients and the merchant's receiver fail
    #[arg(long)]
    calm: bool,
    /// How many gateways share the PostgreSQL and the Redis; one alone has its ledger in itself unless they are given
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    gateways: u8,
    /// Where the ledger is, as in postgres://tollgate@127.0.0.1:5432/postgres; the database for it is made there
    #[arg(long, value_name = "URL", requires = "redis")]
    postgres: Option<String>,
    /// Where the cache is, as in redis://127.0.0.1:6379
    #[arg(long, value_name = "URL", requires = "postgres")]
    redis: Option<String>,
}

/// Makes the payments, reconciles the books, prints them; an error when they do not agree.
pub fn run(arguments: &ChaosArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(play(arguments))
}

async fn play(arguments: &ChaosArgs) -> Result<(), String> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let ChaosArgs { payments, clients, gateways, .. } = *arguments;
    let stores = match (&arguments.postgres, &arguments.redis) {
        (Some(postgres), Some(redis)) => Some(Stores::open(postgres, redis).await?),
        _ if gateways > 1 => return Err("several gateways share a ledger: give --postgres and --redis".to_owned()),
        _ => None,
    };
    let shared = stores.as_ref().map_or(String::new(), |_| format!(" --gateways {gateways} --postgres … --redis …"));
    say!("seed {seed}: `tollgate chaos --seed {seed} --payments {payments} --clients {clients}{shared}` repeats it");
    let world = Arc::new(World::start(seed, usize::from(gateways), stores).await?);
    let (stop, stopped) = watch::channel(false);
    let disturbers = if arguments.calm { Vec::new() } else { disturbers(&world, &stopped, seed) };
    let start = Instant::now();
    let stories = tell(&world, arguments, seed).await;
    let took = start.elapsed();
    stop.send_replace(true);
    let mut disturbed = Vec::new();
    for (whom, task) in disturbers {
        disturbed.push((whom, task.await.map_err(|error| error.to_string())??));
    }
    let relays = world.relays().into_iter().map(|(whom, relay)| (format!("connections to {whom}"), relay.counts()));
    disturbed.extend(relays);
    let report = Report::reconcile(&world, stories).await;
    report.print(took, &disturbed);
    if !report.is_right() {
        return Err(format!("the books do not agree; the gateways' logs are in {}", world.directory.display()));
    }
    match Arc::into_inner(world) {
        Some(world) => world.clear().await,
        None => Ok(()),
    }
}

type Disturber = (String, JoinHandle<Result<Counts, String>>);

/// One for each gateway, one for the connections.
fn disturbers(world: &Arc<World>, stop: &watch::Receiver<bool>, seed: u64) -> Vec<Disturber> {
    let chance = |number: usize| random(seed, u64::MAX - number as u64);
    let outages = tokio::spawn(network_faults::run(Arc::clone(world), stop.clone(), chance(0)));
    let gateways = (0..world.gateways.len()).map(|place| {
        let run = process_faults::run(Arc::clone(world), place, stop.clone(), chance(place + 1));
        (format!("gateway {}", place + 1), tokio::spawn(run))
    });
    gateways.chain([("new connections to providers".to_owned(), outages)]).collect()
}

/// Every payment's story, some at once.
async fn tell(world: &Arc<World>, arguments: &ChaosArgs, seed: u64) -> Vec<ClientLog> {
    let places = Arc::new(Semaphore::new(arguments.clients.max(1)));
    let mut tasks = JoinSet::new();
    let mut stories = Vec::new();
    for number in 0..arguments.payments {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let world = Arc::clone(world);
        let random = random(seed, number);
        tasks.spawn(async move {
            let story = client::run(&world, number, random).await;
            drop(place);
            story
        });
        while let Some(story) = tasks.try_join_next() {
            stories.extend(story);
        }
    }
    while let Some(story) = tasks.join_next().await {
        stories.extend(story);
    }
    stories
}

/// The same for the same seed and number.
fn random(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number)
}
