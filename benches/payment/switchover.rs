//! PostgreSQL switchover to its standby while two gateways serve merchants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use tokio_postgres::{Client, NoTls};
use tollgate_harness::merchant::provider_number;

use crate::drive;
use crate::merchants::{Attempt, Merchants, print_load, print_span, repeat};
use crate::server::Server;
use crate::stage::{Stage, signed_request};
use crate::throughput::Redis;

const PAYMENTS_PER_SECOND: u32 = 500;
/// Time of payments before and after the switchover.
const STEADY_TIME: Duration = Duration::from_secs(10);
/// Timeout of one write of the probe.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

pub async fn measure() {
    let (first, redis) = (Server::start(&["--synced"]), Redis::start().await);
    let second = Server::start(&["--standby", &first.url, "--synced"]);
    let client = connect(&first.url).await.unwrap();
    client.batch_execute("CREATE TABLE probe (at timestamptz)").await.unwrap();
    // Each commit is on both servers.
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let [one, other] = [&first, &second].map(|server| server.url.split(['@', '/']).nth(3).unwrap());
    let both = format!("postgres://tollgate@{one},{other}/postgres");
    let stage = Stage::with(2, &redis.stores(&both), &["main"]).await;
    let _processes = stage.start_gateways().await;
    println!(
        "\nswitchover of PostgreSQL under two gateways, {PAYMENTS_PER_SECOND} payments a second wanted, all on this machine"
    );
    print_load();
    let merchants = Merchants::start(&stage.gateways, PAYMENTS_PER_SECOND);
    let began = merchants.began;
    let stop = Arc::new(AtomicBool::new(false));
    let probe = tokio::spawn(write_on(format!("{both}?target_session_attrs=read-write"), began, Arc::clone(&stop)));
    tokio::time::sleep(STEADY_TIME).await;
    let start = began.elapsed();
    let servers = tokio::task::spawn_blocking(move || {
        first.shut();
        second.promote();
        [first, second]
    });
    let _servers = servers.await.unwrap();
    let promoted = began.elapsed();
    tokio::time::sleep(STEADY_TIME).await;
    let (end, attempts) = (began.elapsed(), merchants.stop().await);
    stop.store(true, Ordering::SeqCst);
    let writes = probe.await.unwrap();
    print_load();
    print_span("before the switchover", &attempts, Duration::ZERO..start);
    print_span("from its start to 1 s after", &attempts, start..promoted + Duration::from_secs(1));
    print_span("afterwards", &attempts, promoted + Duration::from_secs(1)..end);
    let took = (promoted - start).as_secs_f64();
    println!("{:<36}{took:.2} s (from {:.2})", "stop and promotion together took", start.as_secs_f64());
    print_outage("the servers took no write for", writes);
    let paid = attempts.iter().filter(|attempt| attempt.status == 201);
    print_outage("the gateways made no payment for", paid.map(|attempt| attempt.at + attempt.took).collect());
    print_refusals(&attempts, start);
    verify(&stage, &attempts).await;
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Writes continuously to the primary. Returns the times of the successful writes.
async fn write_on(url: String, began: Instant, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let (mut writes, mut idle) = (Vec::new(), None);
    while !stop.load(Ordering::SeqCst) {
        let write = async {
            let client = match idle.take() {
                Some(client) => client,
                None => connect(&url).await?,
            };
            client.batch_execute("INSERT INTO probe VALUES (now())").await?;
            Ok::<_, tokio_postgres::Error>(client)
        };
        if let Ok(Ok(client)) = tokio::time::timeout(WRITE_TIMEOUT, write).await {
            idle = Some(client);
            writes.push(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writes
}

/// Prints the longest time between two successes.
fn print_outage(name: &str, mut successes: Vec<Duration>) {
    successes.sort();
    let longest = successes.windows(2).max_by_key(|pair| pair[1] - pair[0]).unwrap();
    let [from, until] = [longest[0], longest[1]].map(|at| at.as_secs_f64());
    println!("{name:<36}{:.2} s ({from:.2} to {until:.2})", until - from);
}

/// Prints the payments that were not answered 201 at first.
fn print_refusals(attempts: &[Attempt], start: Duration) {
    let refused: Vec<_> = attempts.iter().filter(|attempt| attempt.status != 201).collect();
    let mut counts = BTreeMap::<_, usize>::new();
    for attempt in &refused {
        *counts.entry((attempt.status, attempt.problem.join(" "))).or_default() += 1;
    }
    let span = refused.first().zip(refused.last()).map_or(Duration::ZERO, |(first, last)| last.at - first.at);
    println!(
        "not made at once: {} of {}, sent within {:.2} s: {counts:?}",
        refused.len(),
        attempts.len(),
        span.as_secs_f64()
    );
    let before = refused.iter().filter(|attempt| attempt.at + attempt.took < start).count();
    assert_eq!(before, 0, "payments were refused before the switchover");
}

/// Asserts that no payment is lost and none is created twice.
async fn verify(stage: &Stage, attempts: &[Attempt]) {
    let made = stage.executions_by_order().await;
    let times = |made: &BTreeMap<String, u64>, order: &str| made.get(&provider_number(&["shop", order])).copied();
    // A rejected new order was never sent before either.
    for attempt in attempts.iter().filter(|attempt| attempt.status == 503) {
        assert_eq!(times(&made, &attempt.order), None, "{} was refused as not sent", attempt.order);
    }
    let addresses: Vec<SocketAddr> = stage.gateways.clone();
    let refused = attempts.iter().filter(|attempt| attempt.status != 201);
    for (attempt, door) in refused.zip(addresses.iter().cycle()) {
        repeat(*door, &attempt.order).await;
    }
    let asked = |attempt: &Attempt| signed_request(Method::GET, &format!("/v1/payments/{}", attempt.order), b"");
    drive::run(stage.gateway, attempts.iter().map(asked).collect(), 200).await;
    let made = stage.executions_by_order().await;
    for attempt in attempts {
        assert_eq!(times(&made, &attempt.order), Some(1), "{}", attempt.order);
    }
    assert_eq!(made.len(), attempts.len());
    println!("{} payments, each made once and known to the gateways", attempts.len());
}
