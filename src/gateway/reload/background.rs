//! Background threads with low priority, so that reading a configuration does not delay requests.

use std::thread;

use tollgate_config::cpu::sleep_regularly;

/// Runs `work` on a low-priority thread of its own that [sleeps regularly](sleep_regularly), so that a second of work does not delay
/// requests. Returns `None` if it panicked.
pub(super) async fn run_low_priority<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let sleeping = move || {
        sleep_regularly();
        work()
    };
    run_background(sleeping).await
}

/// Runs `work` like [`run_low_priority`], but without sleeping: a rollback must not be delayed.
pub(super) async fn run_background<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        lower_priority();
        // `work` may drop or create values that spawn tasks.
        let _inside = runtime.enter();
        // At shutdown the receiver may be gone.
        let _ = done.send(work());
    };
    thread::Builder::new().name("reload".to_owned()).spawn(run).ok()?;
    result.await.ok()
}

/// Lowers the priority of this thread. It cannot be raised again, so the thread is not reused.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        let thread = Some(rustix::thread::gettid());
        if let Err(error) = rustix::process::setpriority_process(thread, 5) {
            tracing::debug!(%error, "cannot lower the priority of a reload thread");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_returns_none() {
        assert_eq!(run_low_priority(|| 5).await, Some(5));
        assert_eq!(run_background(|| 5).await, Some(5));
        assert_eq!(run_low_priority(|| -> u8 { panic!("a test") }).await, None);
    }
}
