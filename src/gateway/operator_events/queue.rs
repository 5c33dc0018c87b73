//! Queue of emitted events. One per process, like the metrics and the log.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::event::OperatorEvent;
use crate::telemetry::METRICS;

/// Maximum number of events that wait for the worker.
const MAX_QUEUED: usize = 1024;

static QUEUE: LazyLock<Queue> = LazyLock::new(|| Queue::new(MAX_QUEUED));

struct Queue {
    sender: mpsc::Sender<Emitted>,
    receiver: Mutex<Option<mpsc::Receiver<Emitted>>>,
    in_progress: Arc<AtomicUsize>,
}

/// Event that was emitted.
pub(crate) struct Emitted {
    pub(crate) event: OperatorEvent,
    pub(crate) in_progress: InProgress,
}

/// Marks an event as not yet suppressed, dropped or tried. A graceful shutdown waits for it.
pub(crate) struct InProgress(Arc<AtomicUsize>);

impl InProgress {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Clone for InProgress {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queue {
    fn new(limit: usize) -> Self {
        let (sender, receiver) = mpsc::channel(limit);
        Self { sender, receiver: Mutex::new(Some(receiver)), in_progress: Arc::default() }
    }

    fn emit(&self, event: OperatorEvent) {
        let name = event.event_type.name();
        let emitted = Emitted { event, in_progress: InProgress::new(Arc::clone(&self.in_progress)) };
        if self.sender.try_send(emitted).is_err() {
            METRICS.operator_events_total.with_label_values(&[name, "queue_full"]).inc();
        }
    }
}

/// Emits events. Never waits: events that do not fit into the queue are dropped and counted.
pub(crate) fn emit(events: impl IntoIterator<Item = OperatorEvent>) {
    events.into_iter().for_each(|event| QUEUE.emit(event));
}

/// Returns the receiving end; `None` if it was taken before.
pub(crate) fn receiver() -> Option<mpsc::Receiver<Emitted>> {
    QUEUE.receiver.lock().take()
}

/// Returns the number of events, counted once per sink, that no attempt was made for yet.
pub fn in_progress() -> usize {
    QUEUE.in_progress.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use tollgate_config::OperatorEventType;

    use super::*;
    use crate::operator_events::Details;

    #[test]
    fn full_queue_drops_and_counts_events_without_waiting() {
        let queue = Queue::new(2);
        let dropped = || METRICS.operator_events_total.with_label_values(&["config.rolled_back", "queue_full"]).get();
        for _ in 0..5 {
            queue.emit(OperatorEvent::new(OperatorEventType::ConfigRolledBack, Details::default()));
        }
        assert_eq!((dropped(), queue.in_progress.load(Ordering::Relaxed)), (3, 2));
        let mut receiver = queue.receiver.lock().take();
        let first = receiver.as_mut().and_then(|receiver| receiver.try_recv().ok());
        assert!(first.is_some());
        drop(first);
        assert_eq!(queue.in_progress.load(Ordering::Relaxed), 1);
    }
}
