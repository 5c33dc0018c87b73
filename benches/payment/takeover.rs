//! Takeover: one of three gateways is killed with thousands of claims in progress; the survivors resolve them while serving merchants.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tollgate_harness::merchant::provider_number;

use crate::drive::{self, Connection};
use crate::merchants::{Merchants, print_load, print_span};
use crate::server::Server;
use crate::stage::{Stage, create, raise_open_files, read_metric};
use crate::throughput::Redis;

/// Claims of the killed gateway.
const CLAIMS: usize = 4000;
/// New claims per second, low enough that they do not queue.
const CLAIMS_PER_SECOND: u32 = 200;
/// Payments per second over the survivors.
const PAYMENTS_PER_SECOND: u32 = 100;
/// Time of payments before the kill, and after the last claim is resolved.
const STEADY_TIME: Duration = Duration::from_secs(10);
/// Limit of the measurement.
const MEASUREMENT_TIMEOUT: Duration = Duration::from_secs(180);
/// Channel whose provider executes payments at once and responds after the measurement.
const SILENT: &str = "silent";

pub async fn measure() {
    let (server, redis) = (Server::start(&["--synced"]), Redis::start().await);
    let stage = Stage::with(3, &redis.stores(&server.url), &["main", SILENT]).await;
    let mut processes = stage.start_gateways().await;
    let killed = processes.pop().unwrap();
    let (survivors, admins) = (&stage.gateways[..2], &stage.admins[..2]);
    let fault = json!({"operation": "create", "fault": "delay", "delay_ms": 600_000, "times": CLAIMS});
    stage.control(Method::POST, "/faults", fault).await;
    let waiting = send_claims(stage.gateways[2]).await;
    until("all claims are under way", async || executed(&stage).await, |executed| executed >= CLAIMS as u64).await;
    println!("\ntakeover of {CLAIMS} claims under way by two gateways, all on this machine");
    print_load();
    let merchants = Merchants::start(survivors, PAYMENTS_PER_SECOND);
    let began = merchants.began;
    tokio::time::sleep(STEADY_TIME).await;
    let is_one_answered = waiting.iter().any(JoinHandle::is_finished);
    assert!(!is_one_answered, "all claims are under way when the gateway is killed");
    let taken = async || metric(admins, "ledger_claims_taken_over_total").await;
    assert_eq!(taken().await, 0, "no claim is taken over while its gateway lives");
    let kill = began.elapsed();
    drop(killed);
    until("a claim is taken over", taken, |taken| taken > 0).await;
    let noticed = began.elapsed();
    until("all claims are taken over", taken, |taken| taken >= CLAIMS as u64).await;
    let taken_over = began.elapsed();
    let unknown = async || metric(&admins[..1], "unknown_payments").await;
    until("the provider is asked about all", unknown, |unknown| unknown == 0).await;
    let known = began.elapsed();
    tokio::time::sleep(STEADY_TIME).await;
    let (end, attempts) = (began.elapsed(), merchants.stop().await);
    print_load();
    let since = |at: Duration| (at - kill).as_secs_f64();
    println!(
        "after the kill: first claim taken over {:.1} s, last {:.1} s (goal: 20 s), all known {:.1} s",
        since(noticed),
        since(taken_over),
        since(known)
    );
    print_span("survivors before the kill", &attempts, Duration::ZERO..kill);
    print_span("until the first", &attempts, kill..noticed);
    print_span("until the last", &attempts, noticed..taken_over);
    print_span("until all are known", &attempts, taken_over..known);
    print_span("afterwards", &attempts, known..end);
    for answered in waiting {
        assert!(!answered.await.unwrap(), "a claim of the gateway that was killed is answered");
    }
    let refused: Vec<_> = attempts.iter().filter(|attempt| attempt.status != 201).collect();
    let said: Vec<_> = refused.iter().map(|attempt| (attempt.status, &attempt.problem)).collect();
    assert!(refused.is_empty(), "{} payments over the survivors were refused: {said:?}", refused.len());
    // A repeat returns what the provider said and sends nothing.
    let again = (0..CLAIMS).map(|number| create(&claimed(number), Some(SILENT))).collect();
    drive::run(survivors[0], again, 201).await;
    let made = stage.executions_by_order().await;
    let orders = attempts.iter().map(|attempt| attempt.order.clone()).chain((0..CLAIMS).map(claimed));
    let count =
        orders.map(|order| assert_eq!(made.get(&provider_number(&["shop", &order])), Some(&1), "{order}")).count();
    println!("{count} payments, none refused, each made once");
}

fn claimed(number: usize) -> String {
    format!("claimed-{number}")
}

/// Sends the requests of all claims to one gateway. Each task returns whether it got a response.
async fn send_claims(gateway: SocketAddr) -> Vec<JoinHandle<bool>> {
    // Each request has its own connection.
    raise_open_files();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CLAIMS_PER_SECOND);
    let mut waiting = Vec::new();
    for number in 0..CLAIMS {
        ticks.tick().await;
        waiting.push(tokio::spawn(async move {
            let mut connection = Connection::open(gateway).await.unwrap();
            connection.send(create(&claimed(number), Some(SILENT))).await.is_ok()
        }));
    }
    waiting
}

/// Returns the number of payments that the provider executed.
async fn executed(stage: &Stage) -> u64 {
    let stats = stage.control(Method::GET, "/stats", Value::Null).await;
    stats["executions"]["create"].as_u64().unwrap_or_default()
}

/// Returns the sum of a metric over gateways.
async fn metric(admins: &[SocketAddr], name: &str) -> u64 {
    let mut sum = 0;
    for admin in admins {
        sum += read_metric(*admin, name).await.unwrap();
    }
    sum
}

async fn until(what: &str, look: impl AsyncFn() -> u64, is_there: impl Fn(u64) -> bool) {
    let end = Instant::now() + MEASUREMENT_TIMEOUT;
    loop {
        let seen = look().await;
        if is_there(seen) {
            return;
        }
        assert!(Instant::now() < end, "waited in vain until {what}; last seen: {seen}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
