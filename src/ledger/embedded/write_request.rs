//! One transaction on its way to the writing thread, and back to who waits for it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Durability;
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::Transaction;

/// Tells whoever waits.
pub(super) type Answer = Box<dyn FnOnce() + Send>;
pub(super) type Work = Box<dyn FnOnce(&mut Transaction<'_>) -> (TransactionEnd, Answer) + Send>;

/// Those who wait for one sync, each with the runtime in which it waits.
#[derive(Default)]
pub(super) struct Answers(Vec<(Option<Handle>, Answer)>);

impl Answers {
    pub(super) fn push(&mut self, runtime: Option<Handle>, answer: Answer) {
        self.0.push((runtime, answer));
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells all. Many of one runtime are told from within it, where each that wakes goes to a queue: woken from here, one
    /// after another would take this thread's core from it. No runtime tells those of another, which may be busier.
    pub(super) fn tell(self) {
        let mut told = Vec::<(Option<Handle>, ReplyBatch)>::new();
        for (runtime, answer) in self.0 {
            let id = runtime.as_ref().map(Handle::id);
            match told.iter_mut().find(|(of, _)| of.as_ref().map(Handle::id) == id) {
                Some((_, told)) => told.0.push(answer),
                None => told.push((runtime, ReplyBatch(vec![answer]))),
            }
        }
        for (runtime, told) in told {
            if let Some(runtime) = runtime.filter(|_| told.0.len() > 1) {
                runtime.spawn(async move { drop(told) });
            }
        }
    }
}

/// They are told, even by a runtime that ends before.
struct ReplyBatch(Vec<Answer>);

impl Drop for ReplyBatch {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|answer| answer());
    }
}

/// What becomes of a transaction's writes.
pub(super) enum TransactionEnd {
    Commit,
    Rollback,
    Panicked(String),
}

/// Whoever waited may be gone; what a claim holds is given back then.
pub(super) fn reply_to<T>(waiter: oneshot::Sender<Result<T, LedgerError>>) -> impl FnOnce(Result<T, LedgerError>) {
    move |result| drop(waiter.send(result))
}

/// One transaction on its way: what becomes of its writes, and whom to tell once they are safe.
pub(super) struct WriteRequest {
    pub(super) durability: Durability,
    /// Where somebody waits for it.
    pub(super) runtime: Option<Handle>,
    pub(super) work: Work,
}

impl WriteRequest {
    pub(super) fn new<T: Send + 'static>(
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
        tell: impl FnOnce(Result<T, LedgerError>) + Send + 'static,
    ) -> Self {
        let work = move |transaction: &mut Transaction<'_>| {
            let (verdict, result) = match catch_unwind(AssertUnwindSafe(|| work(transaction))) {
                Ok(Ok(value)) => (TransactionEnd::Commit, Ok(value)),
                Ok(Err(error)) => (TransactionEnd::Rollback, Err(error)),
                Err(panic) => {
                    let why = words(panic.as_ref());
                    (TransactionEnd::Panicked(why.clone()), Err(LedgerError(format!("a transaction panicked: {why}"))))
                }
            };
            let answer: Answer = Box::new(move || tell(result));
            (verdict, answer)
        };
        Self { durability, runtime: None, work: Box::new(work) }
    }
}

/// What a panic said.
pub(super) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::{Receiver, RecvError, channel};
    use std::time::Duration;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    /// Those who wait, by their numbers, and where one hears who was told.
    fn waiting(in_runtime: impl IntoIterator<Item = Option<Handle>>) -> (Answers, Receiver<usize>) {
        let (told, heard) = channel();
        let mut answers = Answers::default();
        for (number, runtime) in in_runtime.into_iter().enumerate() {
            let told = told.clone();
            answers.push(runtime, Box::new(move || told.send(number).unwrap()));
        }
        (answers, heard)
    }

    #[test]
    fn all_are_told_once_from_a_runtime_from_one_that_has_ended_and_from_none() {
        let running = runtime();
        let ended = runtime();
        let handle = ended.handle().clone();
        ended.shutdown_background();
        for handle in [Some(running.handle()), Some(&handle), None] {
            for count in [1, 2, 40] {
                let (answers, heard) = waiting(vec![handle.cloned(); count]);
                answers.tell();
                assert_eq!(heard.into_iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_runtime_that_is_busy_keeps_nobody_of_another_waiting() {
        let (busy, free) = (runtime(), runtime());
        let (release, held) = channel::<()>();
        busy.spawn(async move {
            let _ = held.recv();
        });
        let (answers, heard) = waiting([&busy, &free, &busy, &free].map(|of| Some(of.handle().clone())));
        answers.tell();
        let soon = Duration::from_secs(30);
        assert_eq!([heard.recv_timeout(soon), heard.recv_timeout(soon)], [Ok(1), Ok(3)]);
        drop(release);
        assert_eq!([heard.recv(), heard.recv(), heard.recv()], [Ok(0), Ok(2), Err(RecvError)]);
    }
}
