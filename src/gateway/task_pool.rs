//! Keyed worker pool with a total limit and a limit per group. A key that is running is not started again.
//!
//! The resolver (group: channel), the job queue and the deliveries (group: merchant) run their tasks here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

/// Time for which the key of a panicked task stays blocked. Its work is still due and would be repeated at once.
const PANIC_DELAY: Duration = Duration::from_secs(5);

/// Runs tasks by key and group. A slow task occupies only its own slot.
pub(crate) struct KeyedTaskPool<T = ()> {
    limit: usize,
    /// Limit per group.
    per_group: usize,
    tasks: JoinSet<Option<T>>,
    running: HashMap<Id, RunningTask>,
    keys: HashSet<String>,
    groups: HashMap<String, usize>,
}

struct RunningTask {
    key: String,
    group: String,
}

/// A task that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndedTask<T> {
    /// Group of the task.
    pub(crate) group: String,
    /// Result of the task; `None` if it panicked. Its key then stays blocked for a while.
    pub(crate) result: Option<T>,
}

impl<T: Send + 'static> KeyedTaskPool<T> {
    /// Creates a pool for `limit` tasks in total and `per_group` tasks per group.
    pub(crate) fn new(limit: usize, per_group: usize) -> Self {
        Self {
            limit,
            per_group,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            keys: HashSet::new(),
            groups: HashMap::new(),
        }
    }

    /// Number of free slots.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.tasks.len())
    }

    /// Returns the groups that have reached their limit, sorted.
    pub(crate) fn full_groups(&self) -> Vec<String> {
        let full = self.groups.iter().filter(|(_, count)| **count >= self.per_group);
        let mut groups: Vec<_> = full.map(|(group, _)| group.clone()).collect();
        groups.sort();
        groups
    }

    /// Number of running tasks per group.
    pub(crate) fn counts(&self) -> &HashMap<String, usize> {
        &self.groups
    }

    /// Number of running tasks of a group.
    pub(crate) fn count(&self, group: &str) -> usize {
        self.groups.get(group).copied().unwrap_or_default()
    }

    /// Returns whether a task with this key is running.
    pub(crate) fn is_running(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Starts a task unless its key is running. Returns false if the pool or the group is full.
    pub(crate) fn start(&mut self, key: &str, group: &str, work: impl Future<Output = T> + Send + 'static) -> bool {
        if self.is_running(key) {
            return true;
        }
        let is_started = !self.is_full() && self.count(group) < self.per_group;
        if is_started {
            let task = self.tasks.spawn(async { Some(work.await) }).id();
            self.enter(task, RunningTask { key: key.to_owned(), group: group.to_owned() });
        }
        is_started
    }

    /// Waits until one task ends. Never returns if no task is running.
    pub(crate) async fn join_next(&mut self) -> EndedTask<T> {
        loop {
            let Some(joined) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
            if let Some(ended) = self.ended(joined) {
                return ended;
            }
        }
    }

    /// Returns a task that has ended already, if there is one.
    pub(crate) fn try_join_next(&mut self) -> Option<EndedTask<T>> {
        loop {
            let joined = self.tasks.try_join_next_with_id()?;
            if let Some(ended) = self.ended(joined) {
                return Some(ended);
            }
        }
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn join_all(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    fn ended(&mut self, joined: Result<(Id, Option<T>), JoinError>) -> Option<EndedTask<T>> {
        let (task, result) = match joined {
            Ok((task, result)) => (self.leave(task)?, result),
            Err(panicked) => {
                let task = self.leave(panicked.id())?;
                let blocker = self.tasks.spawn(async {
                    tokio::time::sleep(PANIC_DELAY).await;
                    None
                });
                self.enter(blocker.id(), RunningTask { key: task.key.clone(), group: task.group.clone() });
                (task, None)
            }
        };
        Some(EndedTask { group: task.group, result })
    }

    fn enter(&mut self, id: Id, task: RunningTask) {
        self.keys.insert(task.key.clone());
        *self.groups.entry(task.group.clone()).or_default() += 1;
        self.running.insert(id, task);
    }

    fn leave(&mut self, id: Id) -> Option<RunningTask> {
        let task = self.running.remove(&id)?;
        self.keys.remove(&task.key);
        if let Some(count) = self.groups.get_mut(&task.group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&task.group);
            }
        }
        Some(task)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn group_is_full_at_its_limit() {
        let mut pool = KeyedTaskPool::new(4, 2);
        let (end, ended) = tokio::sync::watch::channel(false);
        for (key, group) in [("1", "a"), ("2", "a"), ("3", "b")] {
            let mut ended = ended.clone();
            assert!(pool.start(key, group, async move { drop(ended.wait_for(|it| *it).await) }));
        }
        assert_eq!(pool.full_groups(), ["a"]);
        assert_eq!((pool.count("a"), pool.count("b"), pool.count("c")), (2, 1, 0));
        assert!(pool.is_running("1") && !pool.is_running("4"));
        end.send_replace(true);
        let groups = [pool.join_next().await.group, pool.join_next().await.group, pool.join_next().await.group];
        assert_eq!(groups.iter().filter(|group| *group == "a").count(), 2);
        assert_eq!(pool.full_groups(), <[&str; 0]>::default());
        assert!(pool.counts().is_empty() && !pool.is_running("1"), "an idle group uses no memory");
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
                pool.join_next().await;
            }
        }
        answer.send(()).unwrap();
        pool.join_all().await;
        assert_eq!(asked.load(Ordering::Relaxed), 100);
    }

    #[tokio::test]
    async fn result_of_a_task_is_returned_with_its_group() {
        let mut pool = KeyedTaskPool::new(4, 4);
        assert_eq!(pool.try_join_next(), None);
        pool.start("o", "shop", async { 7 });
        assert_eq!(pool.join_next().await, EndedTask { group: "shop".to_owned(), result: Some(7) });
        assert_eq!((pool.free(), pool.try_join_next()), (4, None));
    }

    #[tokio::test(start_paused = true)]
    async fn panicked_task_is_not_restarted_immediately() {
        let (done, mut pool) = (Arc::new(AtomicUsize::new(0)), KeyedTaskPool::<()>::new(16, 16));
        let begin = tokio::time::Instant::now();
        while begin.elapsed() < 3 * PANIC_DELAY {
            let done = Arc::clone(&done);
            pool.start("o", "main", async move {
                done.fetch_add(1, Ordering::Relaxed);
                panic!("a defect");
            });
            assert_eq!(pool.join_next().await.result, None);
        }
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn hanging_group_leaves_slots_to_other_groups() {
        let mut pool = KeyedTaskPool::new(32, 16);
        let taken = (0..100).filter(|key| pool.start(&format!("h{key}"), "hung", std::future::pending())).count();
        assert_eq!((taken, pool.free()), (16, 16));
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        assert!(pool.start("o", "other", async move { answer.send(()).unwrap() }));
        answered.await.unwrap();
    }
}
