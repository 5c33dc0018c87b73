//! `tollgate chaos`: everything goes wrong at once, and afterwards three books must agree: what clients were told, what the
//! providers executed, and what events were delivered.
//!
//! Payments are made over every provider that the sandbox speaks while the gateway is killed, stopped and reloaded, the
//! providers' connections are cut at every place, their answers are late, unsigned, forged or missing, clients repeat and hang
//! up, and the merchant's receiver fails. A seed decides what happens to each payment; how the threads interleave is up to
//! the machine.

mod books;
mod client;
mod disturb;
mod faults;
mod receiver;
mod world;

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::books::Report;
use self::client::Story;
use self::world::World;

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
    /// Leave the gateway alone: no kill, stop or reload
    #[arg(long)]
    calm: bool,
}

/// Makes the payments, reconciles the books, prints them; an error when they do not agree.
pub fn run(arguments: &ChaosArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(play(arguments))
}

async fn play(arguments: &ChaosArgs) -> Result<(), String> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let ChaosArgs { payments, clients, .. } = *arguments;
    println!("seed {seed}: `tollgate chaos --seed {seed} --payments {payments} --clients {clients}` repeats it");
    let world = Arc::new(World::set(seed).await?);
    let (stop, stopped) = watch::channel(false);
    let disturber =
        (!arguments.calm).then(|| tokio::spawn(disturb::run(Arc::clone(&world), stopped, random(seed, u64::MAX))));
    let start = Instant::now();
    let stories = tell(&world, arguments, seed).await;
    let took = start.elapsed();
    stop.send_replace(true);
    let disturbed = match disturber {
        Some(task) => task.await.map_err(|error| error.to_string())??,
        None => disturb::Counts::new(),
    };
    let report = Report::reconcile(&world, stories).await;
    report.print(took, &disturbed);
    let log = world.gateway.log();
    match report.is_right() {
        true => {
            if let Some(world) = Arc::into_inner(world) {
                world.clear();
            }
            Ok(())
        }
        false => Err(format!("the books do not agree; the gateway's log is {}", log.display())),
    }
}

/// Every payment's story, some at once.
async fn tell(world: &Arc<World>, arguments: &ChaosArgs, seed: u64) -> Vec<Story> {
    let places = Arc::new(Semaphore::new(arguments.clients.max(1)));
    let mut tasks = JoinSet::new();
    let mut stories = Vec::new();
    for number in 0..arguments.payments {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let world = Arc::clone(world);
        let random = random(seed, number);
        tasks.spawn(async move {
            let story = client::live(&world, number, random).await;
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
