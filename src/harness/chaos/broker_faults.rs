//! Faults of the broker: crash, long absence, memory alarm, unbound queue, freeze.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::broker::Broker;
use super::counts::FaultCounts;
use super::environment::ChaosEnvironment;

/// Raises the memory alarm: every publisher is blocked.
const RAISE_ALARM: &str = "set_vm_memory_high_watermark 0.0000001";
/// Clears the memory alarm.
const CLEAR_ALARM: &str = "set_vm_memory_high_watermark 0.9";

/// Maximum time until a fault meets a gateway that publishes. A gateway reconnects after at most 30 s.
const MAX_WAIT: Duration = Duration::from_secs(35);

/// Faults with their names in the report and their relative weights.
const FAULTS: [(Fault, &str, u32); 5] = [
    (Fault::Crash, "kill -9", 25),
    (Fault::Absence, "long absence", 10),
    (Fault::MemoryAlarm, "memory alarm", 25),
    (Fault::Unbound, "unbound queue", 30),
    (Fault::Freeze, "freeze", 10),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Crash,
    /// Killed, and started again after up to a minute.
    Absence,
    MemoryAlarm,
    Unbound,
    /// The broker answers nothing, but its connections stay open.
    Freeze,
}

/// Injects faults into the broker until `stop` is true. Afterwards it runs without an alarm, and its queue is bound.
pub(super) async fn run(
    environment: Arc<ChaosEnvironment>,
    mut stop: watch::Receiver<bool>,
    mut random: StdRng,
) -> Result<FaultCounts, String> {
    let mut counts = FaultCounts::new();
    let Some(broker) = &environment.broker else { return Ok(counts) };
    loop {
        let pause = Duration::from_millis(random.random_range(1000..6000));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(counts),
        }
        let (fault, name) = draw(&mut random, broker.process.is_some());
        let time = Duration::from_millis(random.random_range(fault.milliseconds()));
        // Without a connection the gateways would never notice that the queue is unbound.
        let pause = (fault == Fault::Unbound).then(|| environment.pause_network_faults());
        until_event(broker, &mut stop).await;
        inject(fault, broker, time, &mut stop).await?;
        drop(pause);
        *counts.entry(name).or_default() += 1;
    }
}

/// Draws a fault by weight. A broker that was given by its URL can only lose its binding.
fn draw(random: &mut StdRng, has_process: bool) -> (Fault, &'static str) {
    let possible = || FAULTS.iter().filter(|(fault, ..)| has_process || *fault == Fault::Unbound);
    let mut rest = random.random_range(0..possible().map(|(.., weight)| weight).sum());
    for (fault, name, weight) in possible() {
        match rest.checked_sub(*weight) {
            Some(remaining) => rest = remaining,
            None => return (*fault, name),
        }
    }
    (Fault::Unbound, "unbound queue")
}

impl Fault {
    /// Range of the fault's duration.
    fn milliseconds(self) -> std::ops::Range<u64> {
        match self {
            Self::Crash => 0..2000,
            Self::Absence => 5000..60_000,
            Self::MemoryAlarm => 200..8000,
            Self::Unbound => 1000..10_000,
            // The gateway waits 10 s for a confirmation.
            Self::Freeze => 200..15_000,
        }
    }

    /// Commands to the broker's program that begin and end the fault.
    fn commands(self) -> (&'static str, &'static str) {
        match self {
            Self::Crash | Self::Absence => ("stop", "start"),
            Self::MemoryAlarm => (RAISE_ALARM, CLEAR_ALARM),
            Self::Freeze => ("freeze", "thaw"),
            Self::Unbound => ("", ""),
        }
    }
}

/// Waits until the consumer receives an event, because a fault should meet a gateway that publishes. Returns after
/// [`MAX_WAIT`] or when `stop` is true in any case.
async fn until_event(broker: &Broker, stop: &mut watch::Receiver<bool>) {
    let received = || broker.record.lock().accepted().len();
    let (before, deadline) = (received(), Instant::now() + MAX_WAIT);
    while received() == before && Instant::now() < deadline && !*stop.borrow() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Begins the fault, waits for its time or until `stop` is true, and ends it.
async fn inject(fault: Fault, broker: &Broker, time: Duration, stop: &mut watch::Receiver<bool>) -> Result<(), String> {
    let process = broker.process.as_ref().filter(|_| fault != Fault::Unbound);
    let (begin, end) = fault.commands();
    match process {
        Some(process) => process.execute(begin).await?,
        None => broker.queue.unbind().await?,
    }
    let _ = tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await;
    match process {
        Some(process) => process.execute(end).await,
        None => broker.queue.bind().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn broker_of_its_own_gets_every_fault_and_a_given_one_loses_only_its_binding() {
        let mut random = StdRng::seed_from_u64(1);
        let mut drawn =
            |has_process| -> BTreeSet<&str> { (0..500).map(|_| draw(&mut random, has_process).1).collect() };
        assert_eq!(drawn(true), FAULTS.iter().map(|(_, name, _)| *name).collect());
        assert_eq!(drawn(false), BTreeSet::from(["unbound queue"]));
    }
}
