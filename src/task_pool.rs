//! What is under way: no more than there are places, and never two at once about the same.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

/// How long a task that panicked keeps its key. What it was about is due still, and would be done again at once.
pub(crate) const PANIC_PAUSE: Duration = Duration::from_secs(5);

/// Who has a place. A slow one keeps its own, and holds up no other.
pub(crate) struct KeyedTaskPool {
    limit: usize,
    /// Of one lane.
    each: usize,
    tasks: JoinSet<()>,
    /// Number and lane of each.
    under_way: HashMap<Id, (String, String)>,
}

impl KeyedTaskPool {
    /// So many in all, and so many of one lane, so that none has all.
    pub(crate) fn new(limit: usize, each: usize) -> Self {
        Self { limit, each, tasks: JoinSet::new(), under_way: HashMap::new() }
    }

    /// How many have no one.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.tasks.len())
    }

    /// Returns the lanes that have all of their permits.
    pub(crate) fn full_lanes(&self) -> Vec<String> {
        let mut lanes: Vec<_> =
            self.lanes().into_iter().filter(|(_, count)| *count >= self.each).map(|(lane, _)| lane).collect();
        lanes.sort();
        lanes
    }

    /// How many are under way in each lane.
    pub(crate) fn lanes(&self) -> HashMap<String, usize> {
        let mut lanes = HashMap::new();
        for (_, lane) in self.under_way.values() {
            *lanes.entry(lane.clone()).or_default() += 1;
        }
        lanes
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Has it done, unless the same is being done; says whether there was a place for it.
    pub(crate) fn start(&mut self, number: &str, lane: &str, work: impl Future<Output = ()> + Send + 'static) -> bool {
        if self.under_way.values().any(|(known, _)| known == number) {
            return true;
        }
        let of_lane = self.under_way.values().filter(|(_, known)| known == lane).count();
        let has_place = !self.is_full() && of_lane < self.each;
        if has_place {
            let task = self.tasks.spawn(work).id();
            self.under_way.insert(task, (number.to_owned(), lane.to_owned()));
        }
        has_place
    }

    /// Until a place becomes free; for ever when all are.
    pub(crate) async fn one_ends(&mut self) {
        let ended = match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            Some(Err(broken)) => return self.rest(broken.id()),
            None => return std::future::pending().await,
        };
        self.under_way.remove(&ended);
    }

    fn rest(&mut self, panicked: Id) {
        if let Some(place) = self.under_way.remove(&panicked) {
            let task = self.tasks.spawn(tokio::time::sleep(PANIC_PAUSE)).id();
            self.under_way.insert(task, place);
        }
    }

    /// Until everything is done.
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
    async fn lane_is_full_while_all_of_its_permits_are_used() {
        let mut places = KeyedTaskPool::new(4, 2);
        let (end, ended) = tokio::sync::watch::channel(false);
        for (number, lane) in [("1", "a"), ("2", "a"), ("3", "b")] {
            let mut ended = ended.clone();
            assert!(places.start(number, lane, async move { drop(ended.wait_for(|it| *it).await) }));
        }
        assert_eq!(places.full_lanes(), ["a"]);
        end.send_replace(true);
        places.one_ends().await;
        places.one_ends().await;
        places.one_ends().await;
        assert_eq!(places.full_lanes(), <[&str; 0]>::default());
    }

    #[tokio::test]
    async fn a_slow_question_holds_up_no_other_and_is_not_asked_twice() {
        let (asked, mut places) = (Arc::new(AtomicUsize::new(0)), KeyedTaskPool::new(16, 16));
        let quick = |asked: &Arc<AtomicUsize>| {
            let asked = Arc::clone(asked);
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        places.start("slow", "main", async move { answered.await.unwrap() });
        for number in 0..100 {
            places.start("slow", "main", quick(&asked));
            while !places.start(&number.to_string(), "main", quick(&asked)) {
                places.one_ends().await;
            }
        }
        answer.send(()).unwrap();
        places.all_end().await;
        assert_eq!(asked.load(Ordering::Relaxed), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_panicked_is_not_done_again_at_once() {
        let (done, mut places) = (Arc::new(AtomicUsize::new(0)), KeyedTaskPool::new(16, 16));
        let begin = tokio::time::Instant::now();
        while begin.elapsed() < 3 * PANIC_PAUSE {
            let done = Arc::clone(&done);
            places.start("o", "main", async move {
                done.fetch_add(1, Ordering::Relaxed);
                panic!("a defect");
            });
            places.one_ends().await;
        }
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_lane_that_hangs_leaves_places_to_the_others() {
        let mut places = KeyedTaskPool::new(32, 16);
        let taken =
            (0..100).filter(|number| places.start(&format!("h{number}"), "hung", std::future::pending())).count();
        assert_eq!((taken, places.free()), (16, 16));
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        assert!(places.start("o", "other", async move { answer.send(()).unwrap() }));
        answered.await.unwrap();
    }
}
