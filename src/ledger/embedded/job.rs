//! One transaction on its way to the writing thread, and back to who waits for it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::Durability;
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::Transaction;

/// Tells whoever waits.
pub(super) type Answer = Box<dyn FnOnce() + Send>;
pub(super) type Work = Box<dyn FnOnce(&mut Transaction<'_>) -> (Verdict, Answer) + Send>;

/// What becomes of a transaction's writes.
pub(super) enum Verdict {
    Keep,
    Forget,
    Panicked(String),
}

/// Whoever waited may be gone; what a claim holds is given back then.
pub(super) fn reply_to<T>(waiter: oneshot::Sender<Result<T, LedgerError>>) -> impl FnOnce(Result<T, LedgerError>) {
    move |result| drop(waiter.send(result))
}

/// One transaction on its way: what becomes of its writes, and whom to tell once they are safe.
pub(super) struct Job {
    pub(super) durability: Durability,
    pub(super) work: Work,
}

impl Job {
    pub(super) fn new<T: Send + 'static>(
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
        tell: impl FnOnce(Result<T, LedgerError>) + Send + 'static,
    ) -> Self {
        let work = move |transaction: &mut Transaction<'_>| {
            let (verdict, result) = match catch_unwind(AssertUnwindSafe(|| work(transaction))) {
                Ok(Ok(value)) => (Verdict::Keep, Ok(value)),
                Ok(Err(error)) => (Verdict::Forget, Err(error)),
                Err(panic) => {
                    let why = words(panic.as_ref());
                    (Verdict::Panicked(why.clone()), Err(LedgerError(format!("a transaction panicked: {why}"))))
                }
            };
            let answer: Answer = Box::new(move || tell(result));
            (verdict, answer)
        };
        Self { durability, work: Box::new(work) }
    }
}

/// What a panic said.
pub(super) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".into())
}
