//! Network faults: connections from the gateways to providers, PostgreSQL and Redis are cut or refused.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::sync::watch;

use super::counts::FaultCounts;
use super::environment::ChaosEnvironment;

/// Injects network faults until `stop` is true. Afterwards every connection works again.
pub(super) async fn run(
    environment: Arc<ChaosEnvironment>,
    mut stop: watch::Receiver<bool>,
    mut random: StdRng,
) -> Result<FaultCounts, String> {
    let mut counts = FaultCounts::new();
    loop {
        let pause = Duration::from_millis(random.random_range(200..1200));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        if environment.are_network_faults_paused() {
            continue;
        }
        let proxies = environment.proxies();
        let proxy = proxies[random.random_range(0..proxies.len())].1;
        match random.random_range(0..100) {
            0..65 => (0..random.random_range(1..6)).for_each(|_| proxy.cut_next(&mut random)),
            65..85 => proxy.sever(outage_duration(&mut random)).await,
            _ => {
                let times = random.random_range(1..8);
                environment.add_fault(json!({"fault": "refuse_connection", "times": times})).await?;
                *counts.entry("refused connections").or_default() += 1;
            }
        }
    }
    environment.proxies().into_iter().for_each(|(_, proxy)| proxy.clear_pending_cuts());
    Ok(counts)
}

/// Returns mostly the duration of a quick restart, sometimes one that exceeds the gateway's timeouts.
fn outage_duration(random: &mut StdRng) -> Duration {
    let max_ms = if random.random_bool(0.2) { 6000 } else { 1000 };
    Duration::from_millis(random.random_range(50..max_ms))
}
