//! Cost of a payment, interleaved in one run: the gateway, a bare Pingora proxy, the signatures alone, the ledger alone.
//!
//! `cargo bench --bench payment`, or with `-- ledger`, `-- throughput`, `-- reload`, `-- status`, `-- deliveries` or `-- streams` that alone; `TOLLGATE_BENCH_PAYMENTS` sets how many payments are measured (default 10000). Machines
//! differ and are noisy: the ratios count, not the numbers.
//!
//! Two parts run only by name, each about a minute: `-- takeover` kills one of three gateways with 4,000 claims under way,
//! `-- switchover` replaces PostgreSQL under 500 payments a second. Both fail if a payment is lost or executed twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic, missing_docs, unreachable_pub)]

mod bare;
mod deliveries;
mod drive;
mod ledger;
mod merchants;
mod reload;
#[path = "../../tests/servers/server.rs"]
mod server;
mod stage;
mod status;
mod streams;
mod switchover;
mod takeover;
mod throughput;

use std::time::{Duration, Instant};

use tollgate_plugins::registry::ALGORITHMS;

use self::drive::{Load, Measured};
use self::stage::{Stage, cpu_time};

/// Allocator of the `tollgate` binary, so that the ledger and the reload cost here what they cost there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == bare::ARGUMENT) {
        bare::serve(&arguments[at + 1..]);
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let payments = std::env::var("TOLLGATE_BENCH_PAYMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if arguments.iter().any(|argument| argument == "ledger") {
        return runtime.block_on(ledger::measure());
    }
    if arguments.iter().any(|argument| argument == "throughput") {
        return runtime.block_on(throughput::measure(payments));
    }
    if arguments.iter().any(|argument| argument == "deliveries") {
        return runtime.block_on(deliveries::measure(payments));
    }
    if arguments.iter().any(|argument| argument == "streams") {
        return runtime.block_on(streams::measure());
    }
    if arguments.iter().any(|argument| argument == "reload") {
        reload::measure();
        return runtime.block_on(reload::measure_effect_on_payments());
    }
    if arguments.iter().any(|argument| argument == "status") {
        return runtime.block_on(status::measure());
    }
    if arguments.iter().any(|argument| argument == "takeover") {
        return runtime.block_on(takeover::measure());
    }
    if arguments.iter().any(|argument| argument == "switchover") {
        return runtime.block_on(switchover::measure());
    }
    runtime.block_on(async {
        let stage = Stage::start().await;
        let (bare, gateway) = (bare::start(&stage).await, stage.start_gateway().await);
        drive::run(stage.bare, stage.provider_requests(0, payments / 8), 200).await;
        drive::run(stage.gateway, stage.merchant_requests(0, payments / 8), 201).await;
        let mut rounds = Vec::new();
        // Interleaved, so that noise falls on all; the round with the median ratio is printed.
        for number in 1..=ROUNDS {
            let from = number * payments;
            let (sign, verify) = signatures(&stage);
            let load =
                Load { requests: stage.provider_requests(from, payments / ROUNDS), expected: 200, to: stage.bare };
            let bare = drive::measure(load, || cpu_time(bare.id())).await;
            let requests = stage.merchant_requests(from, payments / ROUNDS);
            let load = Load { requests, expected: 201, to: stage.gateway };
            let gateway = drive::measure(load, || cpu_time(gateway.id().unwrap())).await;
            let base = sign + verify + bare.cpu_each;
            rounds.push((gateway.cpu_each.as_secs_f64() / base.as_secs_f64(), sign, verify, bare, gateway));
        }
        rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let ratios: Vec<String> = rounds.iter().map(|round| format!("{:.2}", round.0)).collect();
        let (ratio, sign, verify, bare, gateway) = rounds.swap_remove(ROUNDS / 2);
        println!("\n{payments} signed wechat.native creates over {CONNECTIONS} connections, sandbox behind mutual TLS");
        row("signature alone (RSA-2048)", sign, None);
        row("verification alone", verify, None);
        row("bare Pingora proxy", bare.cpu_each, Some(&bare));
        row("gateway", gateway.cpu_each, Some(&gateway));
        println!(
            "gateway / (signature + verification + bare proxy) = {ratio:.2}   (goal: at most 1.30; rounds: {})",
            ratios.join(" ")
        );
    });
    runtime.block_on(status::measure());
    runtime.block_on(throughput::measure(payments));
    runtime.block_on(ledger::measure());
    runtime.block_on(deliveries::measure(payments));
    runtime.block_on(streams::measure());
    reload::measure();
    runtime.block_on(reload::measure_effect_on_payments());
}

/// CPU of one signature and one verification of a message of usual size.
fn signatures(stage: &Stage) -> (Duration, Duration) {
    let rsa = &ALGORITHMS[0];
    let read = |file: &str| std::fs::read(stage.account.join(file)).unwrap();
    let signer = (rsa.signer)("bench", &read("platform_key.pem")).unwrap();
    let verifier = (rsa.verifier)(&read("pub_key.pem")).unwrap();
    let message = vec![b'x'; 400];
    let signature = signer.sign(&message).unwrap();
    assert!(verifier.verify(&message, &signature));
    let each = |work: &dyn Fn()| {
        let (count, started) = (2000, Instant::now());
        (0..count).for_each(|_| work());
        started.elapsed() / count
    };
    let sign = each(&|| {
        let _ = std::hint::black_box(signer.sign(&message));
    });
    let verify = each(&|| {
        let _ = std::hint::black_box(verifier.verify(&message, &signature));
    });
    (sign, verify)
}

pub fn row(name: &str, cpu: Duration, measured: Option<&Measured>) {
    let more = measured.map_or(String::new(), |measured| {
        let Measured { rate, p50, p99, .. } = measured;
        format!("   {rate:>6.0}/s   p50 {:>6.2} ms   p99 {:>6.2} ms", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3)
    });
    println!("{name:<28}{:>8.1} µs CPU{more}", cpu.as_secs_f64() * 1e6);
}
