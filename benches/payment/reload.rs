//! What a reload costs with 10,000 channels and 100,000 routes, and whether payments feel it. `-- reload` runs it alone.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tollgate::config::{self, Snapshot};
use tollgate::keygen;

use crate::drive::{self, Load, Prepared};
use crate::stage::{Stage, cpu_time};

const CHANNELS: usize = 10_000;
const ROUTES: usize = 100_000;
const PAYMENTS: usize = 6_000;
const ROUNDS: usize = 3;

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

/// Payments over a gateway that does nothing else, and over the same one while it reloads all the time.
pub async fn felt() {
    let stage = Stage::set().await;
    let text = lay_out(&stage.conf, false);
    let channels = stage.conf.join("channels");
    let [one, other] = ["channels-a", "channels-b"].map(|name| stage.conf.join(name));
    std::fs::rename(&channels, &one).unwrap();
    copy(&one, &other);
    rewrite(&other, &text, false, "rate = 700");
    symlink("channels-a", &channels).unwrap();
    let gateway = stage.start_gateway().await;
    drive::run(stage.gateway, stage.merchant_requests(0, 1000), 201).await;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let requests = |part| stage.merchant_requests((2 * round + part) * PAYMENTS, PAYMENTS);
        let cpu = || cpu_time(gateway.id());
        let calm = drive::measure(Load { requests: requests(0), expected: 201, to: stage.gateway }, cpu).await;
        let busy = Load { requests: requests(1), expected: 201, to: stage.gateway };
        let is_over = Arc::new(AtomicBool::new(false));
        let swapping = tokio::spawn(swap_and_reload(stage.conf.clone(), stage.admin, Arc::clone(&is_over)));
        let busy = drive::measure(busy, cpu).await;
        is_over.store(true, Ordering::Relaxed);
        swapping.await.unwrap();
        rounds.push((calm, busy, reloads(stage.admin).await));
    }
    println!("\npayments while every one of {CHANNELS} channels changes with each reload, one reload after the other");
    for (calm, busy, reloads) in rounds {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "calm p50 {:.1} ms p99 {:.1} ms {:.0}/s   reloading p50 {:.1} ms p99 {:.1} ms {:.0}/s   p99 {:.2} x   ({reloads} reloads so far)",
            milliseconds(calm.p50),
            milliseconds(calm.p99),
            calm.rate,
            milliseconds(busy.p50),
            milliseconds(busy.p99),
            busy.rate,
            busy.p99.as_secs_f64() / calm.p99.as_secs_f64(),
        );
    }
}

async fn swap_and_reload(conf: PathBuf, admin: SocketAddr, is_over: Arc<AtomicBool>) {
    for name in ["channels-b", "channels-a"].into_iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let next = conf.join("next");
        symlink(name, &next).unwrap();
        std::fs::rename(&next, conf.join("channels")).unwrap();
        drive::run(admin, vec![asked("POST", "/reload")], 200).await;
    }
}

async fn reloads(admin: SocketAddr) -> String {
    let answer = drive::one(admin, asked("GET", "/metrics")).await;
    let line = answer.lines().find_map(|line| line.strip_prefix("tollgate_config_reloads_total{result=\"taken\"} "));
    line.unwrap_or("no").to_owned()
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
    let route = |number: usize| {
        let (channel, floor) = (number % CHANNELS, 1_000_000 + number / CHANNELS);
        format!(
            "[[route]]\nmatch = {{ merchant = \"shop\", amount = {{ at_least = {floor} }} }}\nto = [{{ channel = \"c{channel}\" }}]\n"
        )
    };
    let routes = conf.join("routes.toml");
    let first = std::fs::read_to_string(&routes).unwrap_or_default();
    std::fs::write(routes, first + &(0..ROUTES).map(route).collect::<String>()).unwrap();
    text
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
