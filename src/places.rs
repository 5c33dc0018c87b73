//! What is under way: no more than there are places, and never two at once about the same.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// Who has a place. A slow one keeps its own, and holds up no other.
pub(crate) struct Places {
    limit: usize,
    tasks: JoinSet<()>,
    numbers: HashMap<Id, String>,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, tasks: JoinSet::new(), numbers: HashMap::new() }
    }

    /// How many have no one.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.tasks.len())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Has it done, unless no place is free or the same is being done.
    pub(crate) fn ask(&mut self, number: String, work: impl Future<Output = ()> + Send + 'static) {
        if !self.is_full() && self.numbers.values().all(|under_way| *under_way != number) {
            let task = self.tasks.spawn(work).id();
            self.numbers.insert(task, number);
        }
    }

    /// Until a place becomes free; for ever when all are.
    pub(crate) async fn one_ends(&mut self) {
        let ended = match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            Some(Err(broken)) => broken.id(),
            None => return std::future::pending().await,
        };
        self.numbers.remove(&ended);
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
    async fn a_slow_question_holds_up_no_other_and_is_not_asked_twice() {
        let (asked, mut places) = (Arc::new(AtomicUsize::new(0)), Places::new(16));
        let quick = |asked: &Arc<AtomicUsize>| {
            let asked = Arc::clone(asked);
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        places.ask("slow".into(), async move { answered.await.unwrap() });
        for number in 0..100 {
            places.ask("slow".into(), quick(&asked));
            places.ask(number.to_string(), quick(&asked));
            while places.is_full() {
                places.one_ends().await;
            }
        }
        answer.send(()).unwrap();
        places.all_end().await;
        assert_eq!(asked.load(Ordering::Relaxed), 100);
    }
}
