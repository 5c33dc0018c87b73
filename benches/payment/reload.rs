//! What a reload costs with 10,000 channels and 100,000 routes, and whether payments feel it. `-- reload` runs it alone.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tollgate::config::{self, Snapshot};
use tollgate::keygen;

use crate::drive::{self, Load, Prepared};
use crate::stage::{Stage, cpu_time};

const CHANNELS: usize = 10_000;
const ROUTES: usize = 100_000;
const PAYMENTS: usize = 3_000;
const TURNS: usize = 7;
/// Payments a second that leave most of two cores free.
const PACE: u32 = 500;

/// In this process: reading and checking alone, and how much of it is the keys.
pub fn measure() {
    println!("\nreload of {CHANNELS} channels and {ROUTES} routes, elapsed / CPU   (goal: under 1 s of one core)");
    for (keys, own) in [("one account's keys for all", false), ("keys of its own for each channel", true)] {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path();
        let text = lay_out(conf, own);
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

/// Payments over a gateway that does nothing else, over the same one beside a loop, and while it reloads all the time.
pub async fn felt() {
    let stage = Stage::set().await;
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
    while drive::one(stage.admin, asked("GET", "/probes")).await.contains("under way") {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut from = 1000;
    for pace in [Some(PACE), None] {
        match pace {
            Some(pace) => print!("\n{pace} payments a second"),
            None => print!("\nas many payments as there is CPU for"),
        }
        println!("; every one of {CHANNELS} channels changes with each reload, one reload after the other");
        let (before, mut took) = (reloads(stage.admin).await, Duration::ZERO);
        let mut turns = BESIDE.map(|_| Vec::new());
        // In turns, so that a neighbour's noise falls on all.
        for _ in 0..TURNS {
            for (beside, turns) in BESIDE.iter().zip(&mut turns) {
                // What the last reload leaves to do is not the calm.
                tokio::time::sleep(Duration::from_secs(3)).await;
                let is_over = Arc::new(AtomicBool::new(false));
                let swapping = matches!(beside, Beside::Reloads)
                    .then(|| tokio::spawn(swap_and_reload(stage.conf.clone(), stage.admin, Arc::clone(&is_over))));
                let spinning = matches!(beside, Beside::Loop).then(spin);
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
                turns.push(drive::percentiles(times).map(|time| time.as_secs_f64() * 1e3));
            }
        }
        let calm = middle(&sorted(turns[0].iter().map(|turn| turn[1])));
        for (beside, turns) in BESIDE.iter().zip(turns) {
            let [p50, p99] = [0, 1].map(|which| sorted(turns.iter().map(|turn| turn[which])));
            let (name, times) = (beside.name(), middle(&p99) / calm);
            println!(
                "{name:<28}p50 {:>5.1} ms   p99 {:>5.1} ms {times:.2} x   (turns: {:.1?})",
                middle(&p50),
                middle(&p99),
                p99
            );
        }
        let count = reloads(stage.admin).await - before;
        println!("{count} reloads, {:.1} s each by the clock", took.as_secs_f64() / f64::from(count));
    }
}

/// What goes on while payments are made.
enum Beside {
    Nothing,
    /// What any work on a core costs them, on a machine that shares its own.
    Loop,
    Reloads,
}

const BESIDE: [Beside; 3] = [Beside::Nothing, Beside::Loop, Beside::Reloads];

impl Beside {
    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "calm",
            Self::Loop => "beside a loop (SCHED_IDLE)",
            Self::Reloads => "beside reloads",
        }
    }
}

/// A process that counts on a core that nobody else wants, until this is dropped.
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

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// How long it took altogether.
async fn swap_and_reload(conf: PathBuf, admin: SocketAddr, is_over: Arc<AtomicBool>) -> Duration {
    let (channels, next, started) = (conf.join("channels"), conf.join("next"), Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        let is_first = std::fs::read_link(&channels).unwrap().ends_with("channels-a");
        symlink(if is_first { "channels-b" } else { "channels-a" }, &next).unwrap();
        std::fs::rename(&next, &channels).unwrap();
        drive::run(admin, vec![asked("POST", "/reload")], 200).await;
    }
    started.elapsed()
}

async fn reloads(admin: SocketAddr) -> u32 {
    let answer = drive::one(admin, asked("GET", "/metrics")).await;
    let line = answer.lines().find_map(|line| line.strip_prefix("tollgate_config_reloads_total{result=\"taken\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

fn asked(method: &str, target: &str) -> Prepared {
    Prepared {
        method: method.parse().unwrap(),
        target: target.to_owned(),
        headers: Vec::new(),
        body: bytes::Bytes::new(),
    }
}

/// Files for a whole configuration beside what is there; gives the text of a channel.
fn lay_out(conf: &Path, own: bool) -> String {
    std::fs::create_dir_all(conf.join("merchants")).unwrap();
    let channels = conf.join("channels");
    let made = keygen::sandbox_channel(&channels, "c0", "127.0.0.1:8443").unwrap();
    let text = std::fs::read_to_string(&made.channel).unwrap();
    if own {
        // The same key in other bytes is a key of its own for whoever does not read it.
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

/// Behind those that are there.
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
    let snapshot = config::file::load(conf, previous).unwrap_or_else(|mistakes| panic!("{}", mistakes[0]));
    let (elapsed, used) = (started.elapsed(), cpu_time(std::process::id()) - cpu);
    (format!("{:.2} s / {:.2} s", elapsed.as_secs_f64(), used.as_secs_f64()), snapshot)
}
