//! Tracks requests that wait for their caller, for the rest of a body or for a response to be read. If there are too
//! many, the oldest is given up: a normal caller needs milliseconds, so during a flood the oldest is not one.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The requests that wait for their callers.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next: u64,
    all: BTreeMap<u64, Arc<Notify>>,
}

impl Queue {
    fn give_up_oldest(&mut self) {
        if let Some((_, oldest)) = self.all.pop_first() {
            oldest.notify_one();
        }
    }
}

/// A waiting request, until dropped.
pub(super) struct Waiter {
    waiting: Arc<Waiting>,
    number: u64,
    is_given_up: Arc<Notify>,
}

impl Waiting {
    /// Adds a waiter. If `maximum` are waiting already, the oldest is given up.
    pub(super) fn enter(self: &Arc<Self>, maximum: usize) -> Waiter {
        let mut queue = self.0.lock();
        if queue.all.len() >= maximum {
            queue.give_up_oldest();
        }
        let number = queue.next;
        queue.next += 1;
        let is_given_up = Arc::new(Notify::new());
        queue.all.insert(number, Arc::clone(&is_given_up));
        Waiter { waiting: Arc::clone(self), number, is_given_up }
    }

    /// Gives up the oldest waiter unless it is the only one.
    pub(super) fn give_up_oldest(&self) {
        let mut queue = self.0.lock();
        if queue.all.len() > 1 {
            queue.give_up_oldest();
        }
    }
}

impl Waiter {
    /// Waits until this waiter is given up.
    pub(super) async fn given_up(&self) {
        self.is_given_up.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiting.0.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn oldest_waiter_is_given_up_when_limit_is_reached() {
        let waiting = Arc::new(Waiting::default());
        let (first, second) = (waiting.enter(2), waiting.enter(2));
        let third = waiting.enter(2);
        first.given_up().await;
        waiting.give_up_oldest();
        second.given_up().await;
        waiting.give_up_oldest();
        assert_eq!(waiting.0.lock().all.len(), 1, "the only waiter stays");
        drop(third);
        assert!(waiting.0.lock().all.is_empty());
    }
}
