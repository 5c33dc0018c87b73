//! Order in which the messages of one source are processed: messages about different orders at the same time, those about one
//! order one after the other. A close that follows its payment in the queue is thus not refused because it came first.

use std::collections::VecDeque;

use crate::task_pool::{EndedTask, KeyedTaskPool};

/// Messages that wait or are processed. The broker limits their number (`prefetch`).
pub(super) struct Schedule<T> {
    waiting: VecDeque<(String, T)>,
    tasks: KeyedTaskPool,
    count: u64,
}

impl<T> Schedule<T> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), tasks: KeyedTaskPool::new(usize::MAX, usize::MAX), count: 0 }
    }

    /// Adds a message about an order. One without an order waits for no other.
    pub(super) fn push(&mut self, order: Option<String>, message: T) {
        self.count += 1;
        // No order has such a name.
        let key = order.unwrap_or_else(|| format!(" {}", self.count));
        self.waiting.push_back((key, message));
    }

    /// Starts the tasks of the messages whose order has no running task.
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(&mut self, mut process: impl FnMut(T) -> F) {
        for (key, message) in std::mem::take(&mut self.waiting) {
            if self.tasks.is_running(&key) {
                self.waiting.push_back((key, message));
            } else {
                self.tasks.start(&key, "", process(message));
            }
        }
    }

    /// Waits until a task ends. Returns false if it panicked. Never returns if no task is running.
    pub(super) async fn ended(&mut self) -> bool {
        let EndedTask { result, .. } = self.tasks.join_next().await;
        result.is_some()
    }

    /// Drops the messages that wait, and waits until all tasks have ended.
    pub(super) async fn finish(self) {
        drop(self.waiting);
        self.tasks.join_all().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn messages_of_one_order_are_processed_in_order_and_others_at_the_same_time() {
        let (mut schedule, gate) = (Schedule::new(), Arc::new(Semaphore::new(0)));
        for (order, message) in [(Some("a"), 1), (Some("a"), 2), (Some("b"), 3), (None, 4), (None, 5), (Some("a"), 6)] {
            schedule.push(order.map(str::to_owned), message);
        }
        let started = Arc::new(Mutex::new(Vec::new()));
        let process = |message: u32| {
            started.lock().push(message);
            let gate = Arc::clone(&gate);
            async move { gate.acquire().await.map_or((), |permit| permit.forget()) }
        };
        schedule.start(process);
        assert_eq!(*started.lock(), [1, 3, 4, 5]);
        gate.add_permits(4);
        for _ in 0..4 {
            assert!(schedule.ended().await);
        }
        schedule.start(process);
        assert_eq!(*started.lock(), [1, 3, 4, 5, 2]);
        gate.add_permits(2);
        assert!(schedule.ended().await);
        schedule.start(process);
        assert_eq!(*started.lock(), [1, 3, 4, 5, 2, 6]);
        schedule.finish().await;
    }

    #[tokio::test]
    async fn panicked_task_is_reported() {
        let mut schedule = Schedule::new();
        schedule.push(None, ());
        schedule.start(|()| async { panic!("a defect") });
        assert!(!schedule.ended().await);
    }
}
