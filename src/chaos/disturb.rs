//! What happens to the gateway and its connections while the payments are made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::sync::watch;

use super::world::World;

/// How often each was done.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// Disturbs until it is told to stop; then the gateway runs, with its configuration whole.
pub(super) async fn run(
    world: Arc<World>,
    mut stop: watch::Receiver<bool>,
    mut random: StdRng,
) -> Result<Counts, String> {
    let mut counts = Counts::new();
    loop {
        let pause = Duration::from_millis(random.random_range(500..2500));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(counts),
        }
        let done = match random.random_range(0..100) {
            0..30 => {
                world.gateway.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                world.gateway.start().await?;
                "kill -9"
            }
            30..45 => {
                world.gateway.terminate().await?;
                world.gateway.start().await?;
                "SIGTERM"
            }
            45..70 => {
                reload(&world, &mut random)?;
                "reload"
            }
            70..80 => {
                broken_file(&world, &mut random).await?;
                "broken file"
            }
            _ => {
                let times = random.random_range(1..8);
                world.fault(json!({"fault": "refuse_connection", "times": times})).await?;
                "refused connections"
            }
        };
        *counts.entry(done).or_default() += 1;
    }
}

/// Another total time limit for a channel: a new generation, with a new connection pool.
fn reload(world: &World, random: &mut StdRng) -> Result<(), String> {
    let files = world.channel_files();
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
async fn broken_file(world: &World, random: &mut StdRng) -> Result<(), String> {
    let files = world.channel_files();
    let file = &files[random.random_range(0..files.len())];
    let whole = std::fs::read(file).map_err(|error| error.to_string())?;
    let part = random.random_range(0..whole.len());
    std::fs::write(file, &whole[..part]).map_err(|error| error.to_string())?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    std::fs::write(file, whole).map_err(|error| error.to_string())
}
