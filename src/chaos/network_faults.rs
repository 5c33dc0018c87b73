//! What happens to the connections: the gateways' to the providers, to PostgreSQL and to Redis.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::sync::watch;

use super::environment::World;
use super::process_faults::Counts;
use super::tcp_proxy::Relay;

/// Disturbs until it is told to stop; then everything can be reached.
pub(super) async fn run(
    world: Arc<World>,
    mut stop: watch::Receiver<bool>,
    mut random: StdRng,
) -> Result<Counts, String> {
    let mut counts = Counts::new();
    loop {
        let pause = Duration::from_millis(random.random_range(200..1200));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        if world.is_at_peace() {
            continue;
        }
        let relays = world.relays();
        let relay = relays[random.random_range(0..relays.len())].1;
        match random.random_range(0..100) {
            0..65 => (0..random.random_range(1..6)).for_each(|_| relay.cut_next(&mut random)),
            65..85 => relay.sever(outage(&mut random)).await,
            _ => {
                let times = random.random_range(1..8);
                world.fault(json!({"fault": "refuse_connection", "times": times})).await?;
                *counts.entry("refused connections").or_default() += 1;
            }
        }
    }
    world.relays().into_iter().for_each(|(_, relay)| Relay::pause_faults(relay));
    Ok(counts)
}

/// Mostly as long as a quick restart, now and then long enough that patience ends.
fn outage(random: &mut StdRng) -> Duration {
    let most = if random.random_bool(0.2) { 6000 } else { 1000 };
    Duration::from_millis(random.random_range(50..most))
}
