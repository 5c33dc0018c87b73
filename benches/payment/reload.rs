//! Cost of a reload with 10,000 channels and 100,000 routes, and its effect on payments. `-- reload` runs it alone.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tollgate_gateway::snapshot::{self, Snapshot};
use tollgate_sandbox::keygen;

use crate::drive::{self, Load, Prepared};
use crate::stage::{Stage, cpu_time};

const CHANNELS: usize = 10_000;
const ROUTES: usize = 100_000;
const PAYMENTS: usize = 3_000;
const ROUNDS: usize = 7;
/// Payments per second that leave most of two cores idle.
const PAYMENTS_PER_SECOND: u32 = 500;

/// Measures reading and checking in this process, and the share of the keys.
pub fn measure() {
    println!("\nreload of {CHANNELS} channels and {ROUTES} routes, elapsed / CPU   (goal: under 1 s of one core)");
    for (keys, own) in [("one account's keys for all", false), ("keys of its own for each channel", true)] {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path();
        let text = write_configuration(conf, own);
        let channels = conf.join("channels");
        let (first, snapshot) = load(conf, None);
        rewrite(&channels, &text, own, "rate = 700");
        let (all, snapshot) = load(conf, Some(&snapshot));
        save(&channels, 7, &text, own, "rate = 800");
        let (one, snapshot) = load(conf, Some(&snapshot));
        let (none, _) = load(conf, Some(&snapshot));
        println!("{keys:<34} at the start {first}   every channel changed {all}   one {one}   none {none}");
    }
}

/// Measures payments over an idle gateway, beside a busy loop, and during continuous reloads.
pub async fn measure_effect_on_payments() {
    let stage = Stage::start().await;
    let channels = stage.conf.join("channels");
    let text = std::fs::read_to_string(channels.join("main.toml")).unwrap().replace("rate = 1000000", "rate = 600");
    rewrite(&channels, &text, false, "rate = 600");
    write_routes(&stage.conf);
    let [one, other] = ["channels-a", "channels-b"].map(|name| stage.conf.join(name));
    std::fs::rename(&channels, &one).unwrap();
    copy(&one, &other);
    rewrite(&other, &text, false, "rate = 700");
    symlink("channels-a", &channels).unwrap();
    let _gateway = stage.start_gateway().await;
    drive::run(stage.gateway, stage.merchant_requests(0, 1000), 201).await;
    while drive::one(stage.admin, admin_request("GET", "/probes")).await.contains("under way") {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut from = 1000;
    for pace in [Some(PAYMENTS_PER_SECOND), None] {
        match pace {
            Some(pace) => print!("\n{pace} payments a second"),
            None => print!("\nas many payments as there is CPU for"),
        }
        println!("; every one of {CHANNELS} channels changes with each reload, one reload after the other");
        let (before, mut took) = (reloads(stage.admin).await, Duration::ZERO);
        let mut rounds = BACKGROUND_LOADS.map(|_| Vec::new());
        // Interleaved, so that noise falls on all.
        for _ in 0..ROUNDS {
            for (load, rounds) in BACKGROUND_LOADS.iter().zip(&mut rounds) {
                // Background work of the last reload must not count as idle.
                tokio::time::sleep(Duration::from_secs(3)).await;
                let is_over = Arc::new(AtomicBool::new(false));
                let swapping = matches!(load, BackgroundLoad::Reloads)
                    .then(|| tokio::spawn(swap_and_reload(stage.conf.clone(), stage.admin, Arc::clone(&is_over))));
                let spinning = matches!(load, BackgroundLoad::Loop).then(spin);
                let requests = stage.merchant_requests(from, PAYMENTS);
                from += PAYMENTS;
                let load = Load { requests, expected: 201, to: stage.gateway };
                let times = match pace {
                    Some(pace) => drive::run_paced(load, pace).await,
                    None => drive::run(load.to, load.requests, load.expected).await,
                };
                drop(spinning);
                is_over.store(true, Ordering::Relaxed);
                if let Some(swapping) = swapping {
                    took += swapping.await.unwrap();
                }
                rounds.push(drive::percentiles(times).map(|time| time.as_secs_f64() * 1e3));
            }
        }
        let idle = median(&sorted(rounds[0].iter().map(|round| round[1])));
        for (load, rounds) in BACKGROUND_LOADS.iter().zip(rounds) {
            let [p50, p99] = [0, 1].map(|which| sorted(rounds.iter().map(|round| round[which])));
            let (name, times) = (load.name(), median(&p99) / idle);
            println!(
                "{name:<28}p50 {:>5.1} ms   p99 {:>5.1} ms {times:.2} x   (rounds: {:.1?})",
                median(&p50),
                median(&p99),
                p99
            );
        }
        let count = reloads(stage.admin).await - before;
        println!("{count} reloads, {:.1} s each by the clock", took.as_secs_f64() / f64::from(count));
    }
}

/// Load beside the payments.
enum BackgroundLoad {
    Nothing,
    /// A busy loop: the cost of any other work on a machine with shared cores.
    Loop,
    Reloads,
}

const BACKGROUND_LOADS: [BackgroundLoad; 3] = [BackgroundLoad::Nothing, BackgroundLoad::Loop, BackgroundLoad::Reloads];

impl BackgroundLoad {
    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "idle",
            Self::Loop => "beside a loop (SCHED_IDLE)",
            Self::Reloads => "beside reloads",
        }
    }
}

/// Starts a busy loop with SCHED_IDLE in a process that ends when dropped.
fn spin() -> Spinning {
    let command = ["--idle", "0", "sh", "-c", "while :; do :; done"];
    Spinning(Command::new("chrt").args(command).spawn().unwrap())
}

struct Spinning(Child);

impl Drop for Spinning {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Returns the total time of the reloads.
async fn swap_and_reload(conf: PathBuf, admin: SocketAddr, is_over: Arc<AtomicBool>) -> Duration {
    let (channels, next, started) = (conf.join("channels"), conf.join("next"), Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        let is_first = std::fs::read_link(&channels).unwrap().ends_with("channels-a");
        symlink(if is_first { "channels-b" } else { "channels-a" }, &next).unwrap();
        std::fs::rename(&next, &channels).unwrap();
        drive::run(admin, vec![admin_request("POST", "/reload")], 200).await;
    }
    started.elapsed()
}

async fn reloads(admin: SocketAddr) -> u32 {
    let answer = drive::one(admin, admin_request("GET", "/metrics")).await;
    let line = answer.lines().find_map(|line| line.strip_prefix("tollgate_config_reloads_total{result=\"taken\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

fn admin_request(method: &str, target: &str) -> Prepared {
    Prepared {
        method: method.parse().unwrap(),
        target: target.to_owned(),
        headers: Vec::new(),
        body: bytes::Bytes::new(),
    }
}

/// Writes a complete configuration and returns the text of a channel.
fn write_configuration(conf: &Path, own: bool) -> String {
    std::fs::create_dir_all(conf.join("merchants")).unwrap();
    let channels = conf.join("channels");
    let made = keygen::sandbox_channel(&channels, "c0", "127.0.0.1:8443").unwrap();
    let text = std::fs::read_to_string(&made.channel).unwrap();
    if own {
        // The same key with other bytes counts as a different key.
        for number in 1..CHANNELS {
            let folder = channels.join(format!("c{number}"));
            std::fs::create_dir(&folder).unwrap();
            for file in ["apiclient_key.pem", "apiclient_cert.pem", "pub_key.pem", "ca.pem"] {
                let key = std::fs::read_to_string(channels.join("c0").join(file)).unwrap();
                std::fs::write(folder.join(file), format!("# {number}\n{key}")).unwrap();
            }
        }
    }
    rewrite(&channels, &text, own, "rate = 600");
    if !conf.join("tollgate.toml").exists() {
        std::fs::write(conf.join("tollgate.toml"), "public_url = \"http://127.0.0.1:8080\"\n").unwrap();
        let merchant = "keys = [{ id = \"k\", secret = \"plain:0123456789abcdef\" }]\n";
        std::fs::write(conf.join("merchants/shop.toml"), merchant).unwrap();
    }
    write_routes(conf);
    text
}

/// Appends routes behind the existing ones.
fn write_routes(conf: &Path) {
    let route = |number: usize| {
        let (channel, floor) = (number % CHANNELS, 1_000_000 + number / CHANNELS);
        format!(
            "[[route]]\nmatch = {{ merchant = \"shop\", amount = {{ at_least = {floor} }} }}\nto = [{{ channel = \"c{channel}\" }}]\n"
        )
    };
    let routes = conf.join("routes.toml");
    let first = std::fs::read_to_string(&routes).unwrap_or_default();
    std::fs::write(routes, first + &(0..ROUTES).map(route).collect::<String>()).unwrap();
}

fn rewrite(channels: &Path, text: &str, own: bool, rate: &str) {
    (0..CHANNELS).for_each(|number| save(channels, number, text, own, rate));
}

fn save(channels: &Path, number: usize, text: &str, own: bool, rate: &str) {
    let text = text.replace("rate = 600", rate);
    let text = if own { text.replace("c0/", &format!("c{number}/")) } else { text };
    std::fs::write(channels.join(format!("c{number}.toml")), text).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { drop(std::fs::copy(entry.path(), target)) }
    }
}

fn load(conf: &Path, previous: Option<&Snapshot>) -> (String, Snapshot) {
    let (started, cpu) = (Instant::now(), cpu_time(std::process::id()));
    let snapshot = snapshot::load(conf, previous).unwrap_or_else(|errors| panic!("{}", errors[0]));
    let (elapsed, used) = (started.elapsed(), cpu_time(std::process::id()) - cpu);
    (format!("{:.2} s / {:.2} s", elapsed.as_secs_f64(), used.as_secs_f64()), snapshot)
}
