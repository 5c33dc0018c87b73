//! What happens to one gateway while the payments are made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::environment::World;
use crate::stage::Gateway;

/// How often each was done.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// How often a start is tried: its ledger may be out of reach just then.
const STARTS: u32 = 20;
/// And how often while its connections are cut.
const TROUBLED_STARTS: u32 = 3;

/// How wrong a gateway's clock is at most, in seconds: more than the settle window.
const WRONG_CLOCK: i64 = 20;

/// Disturbs until it is told to stop; then the gateway runs, with its configuration whole.
pub(super) async fn run(
    world: Arc<World>,
    place: usize,
    mut stop: watch::Receiver<bool>,
    mut random: StdRng,
) -> Result<Counts, String> {
    let mut counts = Counts::new();
    let gateway = &world.gateways[place];
    // Together they are disturbed as often as one alone.
    let slowness = world.gateways.len() as u64;
    loop {
        let pause = Duration::from_millis(slowness * random.random_range(500..2500));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(counts),
        }
        let done = match random.random_range(0..100) {
            0..30 => {
                gateway.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                start(&world, gateway).await?;
                "kill -9"
            }
            30..44 => {
                gateway.terminate().await?;
                start(&world, gateway).await?;
                "SIGTERM"
            }
            44..52 => {
                gateway.kill();
                gateway.set_ahead(random.random_range(-WRONG_CLOCK..=WRONG_CLOCK));
                start(&world, gateway).await?;
                "kill -9 and clock step"
            }
            52..64 => {
                freeze(gateway, &mut stop, &mut random).await?;
                "freeze"
            }
            64..90 => {
                reload(world.channel_files(place), &mut random)?;
                "reload"
            }
            _ => {
                broken_file(world.channel_files(place), &mut random).await?;
                "broken file"
            }
        };
        *counts.entry(done).or_default() += 1;
    }
}

/// A start meets whatever the connections meet; one that found no way a few times is then left in peace, or no gateway might be there
/// any more.
async fn start(world: &World, gateway: &Gateway) -> Result<(), String> {
    let mut peace = None;
    for attempt in 1..STARTS {
        if gateway.start().await.is_ok() {
            return Ok(());
        }
        if attempt == TROUBLED_STARTS {
            peace = Some(world.pause_faults());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let started = gateway.start().await;
    drop(peace);
    started
}

/// It stands still, as a machine does that swaps or is moved; now and then so long that others hold it for dead.
async fn freeze(gateway: &Gateway, stop: &mut watch::Receiver<bool>, random: &mut StdRng) -> Result<(), String> {
    let most = if random.random_bool(0.3) { 20_000 } else { 2000 };
    let time = Duration::from_millis(random.random_range(50..most));
    gateway.signal("STOP")?;
    let _ = tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await;
    gateway.signal("CONT")
}

/// Another total time limit for a channel: a new generation, with a new connection pool.
fn reload(files: Vec<PathBuf>, random: &mut StdRng) -> Result<(), String> {
    let file = &files[random.random_range(0..files.len())];
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let total = format!("total = \"{}ms\"", random.random_range(4000..6000));
    let changed: Vec<String> = text
        .lines()
        .map(|line| match (line.starts_with("timeouts"), line.rsplit_once("total = ")) {
            (true, Some((before, _))) => format!("{before}{total} }}"),
            _ => line.to_owned(),
        })
        .collect();
    std::fs::write(file, changed.join("\n") + "\n").map_err(|error| error.to_string())
}

/// A file that is broken for a while: nothing may change.
async fn broken_file(files: Vec<PathBuf>, random: &mut StdRng) -> Result<(), String> {
    let file = &files[random.random_range(0..files.len())];
    let whole = std::fs::read(file).map_err(|error| error.to_string())?;
    let part = random.random_range(0..whole.len());
    std::fs::write(file, &whole[..part]).map_err(|error| error.to_string())?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    std::fs::write(file, whole).map_err(|error| error.to_string())
}
