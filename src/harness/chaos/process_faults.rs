//! Faults of one gateway process: kill, SIGTERM, wrong clock, freeze, reload, broken configuration file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::counts::FaultCounts;
use super::environment::ChaosEnvironment;
use crate::process::GatewayProcess;

/// Maximum number of start attempts. A start fails while the ledger is unreachable.
const MAX_START_ATTEMPTS: u32 = 20;
/// Number of failed starts after which the network faults are paused.
const MAX_STARTS_UNDER_FAULTS: u32 = 3;

/// Maximum clock offset of a gateway, in seconds. It exceeds the channels' `not_found_grace` of 10 s.
const MAX_CLOCK_OFFSET: i64 = 20;

/// Injects faults into one gateway until `stop` is true. Afterwards the gateway runs with a complete configuration.
pub(super) async fn run(
    environment: Arc<ChaosEnvironment>,
    index: usize,
    mut stop: watch::Receiver<bool>,
    mut random: StdRng,
) -> Result<FaultCounts, String> {
    let mut counts = FaultCounts::new();
    let gateway = &environment.gateways[index];
    // The total number of faults does not depend on the number of gateways.
    let gateway_count = environment.gateways.len() as u64;
    loop {
        let pause = Duration::from_millis(gateway_count * random.random_range(500..2500));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(counts),
        }
        let fault = match random.random_range(0..100) {
            0..30 => {
                gateway.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                start(&environment, gateway).await?;
                "kill -9"
            }
            30..44 => {
                gateway.terminate().await?;
                start(&environment, gateway).await?;
                "SIGTERM"
            }
            44..52 => {
                gateway.kill();
                gateway.set_clock_offset(random.random_range(-MAX_CLOCK_OFFSET..=MAX_CLOCK_OFFSET));
                start(&environment, gateway).await?;
                "kill -9 and clock step"
            }
            52..64 => {
                freeze(gateway, &mut stop, &mut random).await?;
                "freeze"
            }
            64..90 => {
                reload(environment.channel_files(index), &mut random)?;
                "reload"
            }
            _ => {
                break_config_file(environment.channel_files(index), &mut random).await?;
                "broken file"
            }
        };
        *counts.entry(fault).or_default() += 1;
    }
}

/// Starts the gateway under network faults. After three failed attempts the network faults are paused, so that the
/// gateway can start.
async fn start(environment: &ChaosEnvironment, gateway: &GatewayProcess) -> Result<(), String> {
    let mut pause = None;
    for attempt in 1..MAX_START_ATTEMPTS {
        if gateway.start().await.is_ok() {
            return Ok(());
        }
        if attempt == MAX_STARTS_UNDER_FAULTS {
            pause = Some(environment.pause_network_faults());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let started = gateway.start().await;
    drop(pause);
    started
}

/// Stops the process with SIGSTOP for a random time, like a machine that swaps or migrates. Some stops outlast the
/// lease, so that other gateways take over.
async fn freeze(gateway: &GatewayProcess, stop: &mut watch::Receiver<bool>, random: &mut StdRng) -> Result<(), String> {
    let max_ms = if random.random_bool(0.3) { 20_000 } else { 2000 };
    let time = Duration::from_millis(random.random_range(50..max_ms));
    gateway.signal("STOP")?;
    let _ = tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await;
    gateway.signal("CONT")
}

/// Changes the total timeout of one channel. The reload creates a new generation and a new connection pool.
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

/// Truncates a configuration file for 700 ms. The gateway must keep its current configuration.
async fn break_config_file(files: Vec<PathBuf>, random: &mut StdRng) -> Result<(), String> {
    let file = &files[random.random_range(0..files.len())];
    let whole = std::fs::read(file).map_err(|error| error.to_string())?;
    let part = random.random_range(0..whole.len());
    std::fs::write(file, &whole[..part]).map_err(|error| error.to_string())?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    std::fs::write(file, whole).map_err(|error| error.to_string())
}
