//! Consumes signed requests of merchants from their message queues. Each does what `Prefer: respond-async` does over HTTP.
//!
//! ```text
//! queue ─▶ link: at most `prefetch` unacknowledged ─▶ schedule: one after the other for each order
//!       ─▶ Gateway::accept_message: authenticate ▶ limits ▶ parse ▶ route ▶ claim and enqueue
//!       ─▶ durable: acknowledged │ refused for good: dead-lettered │ temporary: held and tried again
//! ```
//! A message is acknowledged only after its claim is durable. The broker delivers an unacknowledged message again, to this
//! gateway or to another one that consumes the same queue. Its claim then makes it a repetition, so nothing is executed twice.
//!
//! A message that cannot be accepted at present (429, full queue, ledger unavailable) is held and retried, with a pause that
//! doubles. Held messages count against `prefetch`, so the broker sends no more. They are not requeued at each try, because a
//! quorum queue drops a message that was redelivered often. Only a gateway whose ledger does not work requeues its
//! messages, once, and consumes again when the ledger works.

mod consumer;
mod dead_letters;
mod link;
mod message;
mod probe;
mod processing;
mod schedule;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tollgate_config::SourceConfig;

use self::consumer::Consumer;
pub use self::probe::{SourceProbe, probe_sources};
use crate::operations::Gateway;
use crate::proxy::InFlight;
use crate::snapshot::Snapshot;

/// Maximum number of messages of all sources that are processed at the same time.
const MAX_CONCURRENT_MESSAGES: usize = 256;
/// Interval at which the configuration in force is followed.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Pause before a source whose task panicked starts again.
const PANIC_PAUSE: Duration = Duration::from_secs(30);

/// Consumes every configured source until shutdown, then waits until the messages in progress are finished.
pub async fn run(gateway: Arc<Gateway>, in_flight: InFlight, mut shutdown: watch::Receiver<bool>) {
    let mut sources = Sources {
        gateway,
        in_flight,
        slots: Arc::new(Semaphore::new(MAX_CONCURRENT_MESSAGES)),
        running: HashMap::new(),
        panicked: HashMap::new(),
        stopping: Vec::new(),
    };
    loop {
        sources.follow();
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    sources.stop().await;
}

/// Merchant and name of a source.
type SourceKey = (String, String);

struct Sources {
    gateway: Arc<Gateway>,
    in_flight: InFlight,
    slots: Arc<Semaphore>,
    running: HashMap<SourceKey, Running>,
    /// Times at which tasks panicked, for [`PANIC_PAUSE`].
    panicked: HashMap<SourceKey, Instant>,
    /// Tasks that are stopping.
    stopping: Vec<JoinHandle<()>>,
}

struct Running {
    config: Arc<SourceConfig>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Sources {
    /// Starts the sources that were added, and stops those that were removed. A changed one is both. A source whose task
    /// panicked starts again after a pause.
    fn follow(&mut self) {
        let configured = configured(&self.gateway.current.load());
        let is_current = |key: &SourceKey, running: &Running| {
            configured.get(key) == Some(&running.config) && !running.task.is_finished()
        };
        let outdated = self.running.extract_if(|key, running| !is_current(key, running));
        for (key, Running { stop, task, .. }) in outdated {
            // A task ends by itself only if it panics.
            let has_panicked = task.is_finished();
            stop.cancel();
            self.stopping.push(task);
            if !configured.contains_key(&key) {
                consumer::remove_connected(&key.0, &key.1);
            } else if has_panicked {
                consumer::set_connected(&key.0, &key.1, false);
                self.panicked.insert(key, Instant::now());
            }
        }
        self.stopping.retain(|task| !task.is_finished());
        self.panicked.retain(|_, time| time.elapsed() < PANIC_PAUSE);
        for (key, config) in configured {
            if self.running.contains_key(&key) || self.panicked.contains_key(&key) {
                continue;
            }
            let (gateway, in_flight, slots) =
                (Arc::clone(&self.gateway), self.in_flight.clone(), Arc::clone(&self.slots));
            let consumer = Consumer::new(gateway, in_flight, slots, key.0.clone(), Arc::clone(&config));
            let stop = CancellationToken::new();
            let task = tokio::spawn(Arc::new(consumer).run(stop.clone()));
            self.running.insert(key, Running { config, stop, task });
        }
    }

    async fn stop(mut self) {
        for (_, Running { stop, task, .. }) in self.running.drain() {
            stop.cancel();
            self.stopping.push(task);
        }
        for task in self.stopping {
            // A panic was logged.
            drop(task.await);
        }
    }
}

fn configured(snapshot: &Snapshot) -> HashMap<SourceKey, Arc<SourceConfig>> {
    let merchants = snapshot.config.merchants.values();
    let sources = merchants.flat_map(|merchant| merchant.sources.iter().map(|source| (&merchant.name, source)));
    sources.map(|(merchant, source)| ((merchant.clone(), source.name.clone()), Arc::clone(source))).collect()
}
