//! Whether the process does its work: background workers and the threads that serve requests.
//!
//! Each gives a sign of life every second from the runtime that it runs on. A worker that panicked, or a runtime whose threads
//! are all blocked, gives none, and the process is no longer ready.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService};
use tokio::time::{Instant, interval};

const SIGN_INTERVAL: Duration = Duration::from_secs(1);
/// A worker that gave no sign of life for so long is blocked.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Every worker of the process.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<Vec<Arc<Worker>>>>);

/// One worker.
pub(crate) struct Worker {
    name: &'static str,
    state: Mutex<State>,
}

struct State {
    last_sign: Instant,
    has_panicked: bool,
}

impl Workers {
    /// Adds a worker that gives its signs itself.
    pub(super) fn add(&self, name: &'static str) -> Arc<Worker> {
        let state = Mutex::new(State { last_sign: Instant::now(), has_panicked: false });
        let worker = Arc::new(Worker { name, state });
        self.0.lock().push(Arc::clone(&worker));
        worker
    }

    /// Makes a background service that is watched.
    pub(super) fn background<F>(&self, name: &'static str, start: F) -> GenBackgroundService<Task<F>> {
        let task = Task { start: Mutex::new(Some(start)), worker: self.add(name) };
        GenBackgroundService::new(format!("BG {name}"), Arc::new(task))
    }

    /// Returns which worker does nothing, and why.
    pub(crate) fn not_working(&self) -> Option<String> {
        self.0.lock().iter().find_map(|worker| worker.not_working())
    }
}

impl Worker {
    pub(super) fn give_sign(&self) {
        self.state.lock().last_sign = Instant::now();
    }

    /// Gives signs for as long as the current runtime runs tasks.
    pub(crate) async fn give_signs(self: Arc<Self>) {
        let mut interval = interval(SIGN_INTERVAL);
        loop {
            interval.tick().await;
            self.give_sign();
        }
    }

    fn not_working(&self) -> Option<String> {
        let State { last_sign, has_panicked } = *self.state.lock();
        let name = self.name;
        if has_panicked {
            return Some(format!("the worker `{name}` has panicked; see the log, and restart the process"));
        }
        let silence = last_sign.elapsed();
        let seconds = silence.as_secs();
        (silence > STALL_TIMEOUT).then(|| {
            format!("the worker `{name}` has been blocked for {seconds} s; is a disk or the machine too slow?")
        })
    }
}

/// A background task as Pingora wants it.
pub(super) struct Task<F> {
    start: Mutex<Option<F>>,
    worker: Arc<Worker>,
}

#[async_trait]
impl<F, T> BackgroundService for Task<F>
where
    F: FnOnce(ShutdownWatch) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    async fn start(&self, shutdown: ShutdownWatch) {
        let Some(start) = self.start.lock().take() else { return };
        // They go on when the worker ends: one that has nothing more to do is not blocked.
        tokio::spawn(Arc::clone(&self.worker).give_signs());
        if tokio::spawn(start(shutdown)).await.is_err_and(|error| error.is_panic()) {
            self.worker.state.lock().has_panicked = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use pingora::services::ServiceWithDependents;
    use tokio::runtime::Builder;
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn worker_that_panicked_is_named_and_one_that_ended_is_not() {
        let workers = Workers::default();
        let (_stop, stopped) = watch::channel(false);
        workers.background("ended", |_| async {}).task().start(stopped.clone()).await;
        assert_eq!(workers.not_working(), None);
        workers.background("broken", |_| async { panic!("a defect") }).task().start(stopped).await;
        let why = workers.not_working().unwrap_or_default();
        assert!(why.contains("`broken` has panicked"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn worker_whose_thread_is_blocked_is_named_until_it_goes_on() {
        let workers = Workers::default();
        let worker = workers.add("serving");
        let signs = tokio::spawn(Arc::clone(&worker).give_signs());
        tokio::time::sleep(2 * STALL_TIMEOUT).await;
        assert_eq!(workers.not_working(), None, "it gives signs");
        signs.abort();
        tokio::time::sleep(2 * STALL_TIMEOUT).await;
        let why = workers.not_working().unwrap_or_default();
        assert!(why.contains("`serving` has been blocked for "), "{why}");
        worker.give_sign();
        assert_eq!(workers.not_working(), None, "it goes on");
    }

    #[test]
    fn blocked_runtime_gives_no_signs() {
        let workers = Workers::default();
        let (_stop, stopped) = watch::channel(false);
        let (begun, has_begun) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let service = workers.background("blocked", move |_| async move {
            let _ = begun.send(());
            let _ = goes_on.recv();
        });
        assert_eq!(service.threads(), Some(1), "one thread, so that a blocked worker blocks its signs");
        let Ok(runtime) = Builder::new_multi_thread().worker_threads(1).enable_all().build() else {
            panic!("a runtime")
        };
        let task = service.task();
        runtime.spawn(async move { task.start(stopped).await });
        assert_eq!(has_begun.recv(), Ok(()));
        let before = workers.0.lock()[0].state.lock().last_sign;
        std::thread::sleep(2 * SIGN_INTERVAL);
        assert_eq!(workers.0.lock()[0].state.lock().last_sign, before);
        drop(go_on);
    }
}
