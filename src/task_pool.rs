//! Task pool with a total limit and a limit per lane. A key that is running is not started again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

/// Time for which the key of a panicked task stays blocked. Its work is still due and would be repeated at once.
const PANIC_DELAY: Duration = Duration::from_secs(5);

/// Runs tasks by key and lane. A slow task occupies only its own slot.
pub(crate) struct KeyedTaskPool {
    limit: usize,
    /// Limit per lane.
    per_lane: usize,
    tasks: JoinSet<()>,
    /// Key and lane of each running task.
    running: HashMap<Id, (String, String)>,
}

impl KeyedTaskPool {
    /// Creates a pool for `limit` tasks in total and `per_lane` tasks per lane.
    pub(crate) fn new(limit: usize, per_lane: usize) -> Self {
        Self { limit, per_lane, tasks: JoinSet::new(), running: HashMap::new() }
    }

    /// Number of free slots.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.tasks.len())
    }

    /// Returns the lanes that have reached their limit, sorted.
    pub(crate) fn full_lanes(&self) -> Vec<String> {
        let mut lanes: Vec<_> =
            self.lanes().into_iter().filter(|(_, count)| *count >= self.per_lane).map(|(lane, _)| lane).collect();
        lanes.sort();
        lanes
    }

    /// Number of running tasks per lane.
    pub(crate) fn lanes(&self) -> HashMap<String, usize> {
        let mut lanes = HashMap::new();
        for (_, lane) in self.running.values() {
            *lanes.entry(lane.clone()).or_default() += 1;
        }
        lanes
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Starts a task unless its key is running. Returns false if the pool or the lane is full.
    pub(crate) fn start(&mut self, key: &str, lane: &str, work: impl Future<Output = ()> + Send + 'static) -> bool {
        if self.running.values().any(|(other, _)| other == key) {
            return true;
        }
        let lane_count = self.running.values().filter(|(_, other)| other == lane).count();
        let is_started = !self.is_full() && lane_count < self.per_lane;
        if is_started {
            let task = self.tasks.spawn(work).id();
            self.running.insert(task, (key.to_owned(), lane.to_owned()));
        }
        is_started
    }

    /// Waits until one task finishes. Never returns if no task is running.
    pub(crate) async fn one_ends(&mut self) {
        let ended = match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            Some(Err(broken)) => return self.block_key(broken.id()),
            None => return std::future::pending().await,
        };
        self.running.remove(&ended);
    }

    fn block_key(&mut self, panicked: Id) {
        if let Some(entry) = self.running.remove(&panicked) {
            let task = self.tasks.spawn(tokio::time::sleep(PANIC_DELAY)).id();
            self.running.insert(task, entry);
        }
    }

    /// Waits until all tasks have finished.
    pub(crate) async fn all_end(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn lane_is_full_at_its_limit() {
        let mut pool = KeyedTaskPool::new(4, 2);
        let (end, ended) = tokio::sync::watch::channel(false);
        for (key, lane) in [("1", "a"), ("2", "a"), ("3", "b")] {
            let mut ended = ended.clone();
            assert!(pool.start(key, lane, async move { drop(ended.wait_for(|it| *it).await) }));
        }
        assert_eq!(pool.full_lanes(), ["a"]);
        end.send_replace(true);
        pool.one_ends().await;
        pool.one_ends().await;
        pool.one_ends().await;
        assert_eq!(pool.full_lanes(), <[&str; 0]>::default());
    }

    #[tokio::test]
    async fn slow_task_blocks_no_other_and_its_key_is_not_started_twice() {
        let (asked, mut pool) = (Arc::new(AtomicUsize::new(0)), KeyedTaskPool::new(16, 16));
        let quick = |asked: &Arc<AtomicUsize>| {
            let asked = Arc::clone(asked);
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        pool.start("slow", "main", async move { answered.await.unwrap() });
        for key in 0..100 {
            pool.start("slow", "main", quick(&asked));
            while !pool.start(&key.to_string(), "main", quick(&asked)) {
                pool.one_ends().await;
            }
        }
        answer.send(()).unwrap();
        pool.all_end().await;
        assert_eq!(asked.load(Ordering::Relaxed), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn panicked_task_is_not_restarted_immediately() {
        let (done, mut pool) = (Arc::new(AtomicUsize::new(0)), KeyedTaskPool::new(16, 16));
        let begin = tokio::time::Instant::now();
        while begin.elapsed() < 3 * PANIC_DELAY {
            let done = Arc::clone(&done);
            pool.start("o", "main", async move {
                done.fetch_add(1, Ordering::Relaxed);
                panic!("a defect");
            });
            pool.one_ends().await;
        }
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn hanging_lane_leaves_slots_to_other_lanes() {
        let mut pool = KeyedTaskPool::new(32, 16);
        let taken = (0..100).filter(|key| pool.start(&format!("h{key}"), "hung", std::future::pending())).count();
        assert_eq!((taken, pool.free()), (16, 16));
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        assert!(pool.start("o", "other", async move { answer.send(()).unwrap() }));
        answered.await.unwrap();
    }
}
