//! One write transaction on its way to the writer thread, with the reply to its caller.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::LedgerError;
use crate::transaction::{Durability, Transaction};

/// Callback that replies to the caller.
pub(super) type Reply = Box<dyn FnOnce() + Send>;
pub(super) type Work = Box<dyn FnOnce(&mut Transaction<'_>) -> (TransactionEnd, Reply) + Send>;

/// Replies that wait for one sync, each with the runtime of its caller.
#[derive(Default)]
pub(super) struct PendingReplies(Vec<(Option<Handle>, Reply)>);

impl PendingReplies {
    pub(super) fn push(&mut self, runtime: Option<Handle>, reply: Reply) {
        self.0.push((runtime, reply));
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends all replies. Several replies to one runtime are sent from a task in it, where each woken task is queued:
    /// woken from this thread, they would take its core one after another. No runtime sends the replies of another,
    /// which may be busier.
    pub(super) fn send_all(self) {
        let mut batches = Vec::<(Option<Handle>, ReplyBatch)>::new();
        for (runtime, reply) in self.0 {
            let id = runtime.as_ref().map(Handle::id);
            match batches.iter_mut().find(|(of, _)| of.as_ref().map(Handle::id) == id) {
                Some((_, batches)) => batches.0.push(reply),
                None => batches.push((runtime, ReplyBatch(vec![reply]))),
            }
        }
        for (runtime, batches) in batches {
            if let Some(runtime) = runtime.filter(|_| batches.0.len() > 1) {
                runtime.spawn(async move { drop(batches) });
            }
        }
    }
}

/// Replies of one runtime, sent when dropped. They are therefore sent even if the runtime ends first.
struct ReplyBatch(Vec<Reply>);

impl Drop for ReplyBatch {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|reply| reply());
    }
}

/// End of a transaction.
pub(super) enum TransactionEnd {
    Commit,
    Rollback,
    Panicked(String),
}

/// Returns a callback for a caller that may be gone. The value is then dropped, which ends its claim.
pub(super) fn reply_to<T>(waiter: oneshot::Sender<Result<T, LedgerError>>) -> impl FnOnce(Result<T, LedgerError>) {
    move |result| drop(waiter.send(result))
}

/// One write transaction: its work, and the reply once its writes are safe.
pub(super) struct WriteRequest {
    pub(super) durability: Durability,
    /// Runtime of the caller.
    pub(super) runtime: Option<Handle>,
    pub(super) work: Work,
}

impl WriteRequest {
    pub(super) fn new<T: Send + 'static>(
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
        reply_with: impl FnOnce(Result<T, LedgerError>) + Send + 'static,
    ) -> Self {
        let work = move |transaction: &mut Transaction<'_>| {
            let (end, result) = match catch_unwind(AssertUnwindSafe(|| work(transaction))) {
                Ok(Ok(value)) => (TransactionEnd::Commit, Ok(value)),
                Ok(Err(error)) => (TransactionEnd::Rollback, Err(error)),
                Err(panic) => {
                    let why = panic_message(panic.as_ref());
                    (
                        TransactionEnd::Panicked(why.clone()),
                        Err(LedgerError::Internal(format!("a transaction panicked: {why}"))),
                    )
                }
            };
            let reply: Reply = Box::new(move || reply_with(result));
            (end, reply)
        };
        Self { durability, runtime: None, work: Box::new(work) }
    }
}

/// Returns the message of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
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

    /// Returns numbered replies and the channel on which their numbers arrive.
    fn waiting(in_runtime: impl IntoIterator<Item = Option<Handle>>) -> (PendingReplies, Receiver<usize>) {
        let (batches, received) = channel();
        let mut replies = PendingReplies::default();
        for (number, runtime) in in_runtime.into_iter().enumerate() {
            let batches = batches.clone();
            replies.push(runtime, Box::new(move || batches.send(number).unwrap()));
        }
        (replies, received)
    }

    #[test]
    fn every_reply_is_sent_once_to_running_ended_and_no_runtime() {
        let running = runtime();
        let ended = runtime();
        let handle = ended.handle().clone();
        ended.shutdown_background();
        for handle in [Some(running.handle()), Some(&handle), None] {
            for count in [1, 2, 40] {
                let (replies, received) = waiting(vec![handle.cloned(); count]);
                replies.send_all();
                assert_eq!(received.into_iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn busy_runtime_does_not_delay_replies_to_another_runtime() {
        let (busy, free) = (runtime(), runtime());
        let (release, held) = channel::<()>();
        busy.spawn(async move {
            let _ = held.recv();
        });
        let (replies, received) = waiting([&busy, &free, &busy, &free].map(|of| Some(of.handle().clone())));
        replies.send_all();
        let soon = Duration::from_secs(30);
        assert_eq!([received.recv_timeout(soon), received.recv_timeout(soon)], [Ok(1), Ok(3)]);
        drop(release);
        assert_eq!([received.recv(), received.recv(), received.recv()], [Ok(0), Ok(2), Err(RecvError)]);
    }
}
