//! Liveness of the background workers and of the threads that serve requests.
//!
//! Each worker sends a heartbeat every second from its own runtime. A worker that panicked, or a runtime whose
//! threads are all blocked, sends none, and the process is no longer ready.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::{BackgroundService, GenBackgroundService};
use tokio::time::{Instant, interval};

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A worker without a heartbeat for this long counts as blocked.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);

/// All workers of the process.
#[derive(Clone, Default)]
pub struct Workers(Arc<Mutex<Vec<Arc<Worker>>>>);

/// One worker.
pub struct Worker {
    name: &'static str,
    state: Mutex<State>,
}

struct State {
    last_heartbeat: Instant,
    has_panicked: bool,
}

impl Workers {
    /// Adds a worker that sends its heartbeats itself.
    pub fn add(&self, name: &'static str) -> Arc<Worker> {
        let state = Mutex::new(State { last_heartbeat: Instant::now(), has_panicked: false });
        let worker = Arc::new(Worker { name, state });
        self.0.lock().push(Arc::clone(&worker));
        worker
    }

    /// Creates a monitored background service.
    pub fn background<F>(&self, name: &'static str, start: F) -> GenBackgroundService<Task<F>> {
        let task = Task { start: Mutex::new(Some(start)), worker: self.add(name) };
        GenBackgroundService::new(format!("BG {name}"), Arc::new(task))
    }

    /// Describes the first worker that panicked or is blocked.
    pub fn stalled(&self) -> Option<String> {
        self.0.lock().iter().find_map(|worker| worker.stalled())
    }
}

impl Worker {
    pub(crate) fn heartbeat(&self) {
        self.state.lock().last_heartbeat = Instant::now();
    }

    /// Sends heartbeats as long as the current runtime runs tasks.
    pub async fn send_heartbeats(self: Arc<Self>) {
        let mut interval = interval(HEARTBEAT_INTERVAL);
        loop {
            interval.tick().await;
            self.heartbeat();
        }
    }

    fn stalled(&self) -> Option<String> {
        let State { last_heartbeat, has_panicked } = *self.state.lock();
        let name = self.name;
        if has_panicked {
            return Some(format!("the worker `{name}` has panicked; see the log, and restart the process"));
        }
        let elapsed = last_heartbeat.elapsed();
        let seconds = elapsed.as_secs();
        (elapsed > STALL_TIMEOUT).then(|| {
            format!(
                "the worker `{name}` has been blocked for {seconds} s; check whether a disk or the machine is too slow"
            )
        })
    }
}

/// A background task in the form that Pingora expects.
pub struct Task<F> {
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
        // Heartbeats continue after the worker ends: a finished worker is not blocked.
        tokio::spawn(Arc::clone(&self.worker).send_heartbeats());
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
    async fn panicked_worker_is_reported_and_ended_worker_is_not() {
        let workers = Workers::default();
        let (_stop, stopped) = watch::channel(false);
        workers.background("ended", |_| async {}).task().start(stopped.clone()).await;
        assert_eq!(workers.stalled(), None);
        workers.background("broken", |_| async { panic!("a defect") }).task().start(stopped).await;
        let reason = workers.stalled().unwrap_or_default();
        assert!(reason.contains("`broken` has panicked"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn blocked_worker_is_reported_until_it_resumes() {
        let workers = Workers::default();
        let worker = workers.add("serving");
        let heartbeats = tokio::spawn(Arc::clone(&worker).send_heartbeats());
        tokio::time::sleep(2 * STALL_TIMEOUT).await;
        assert_eq!(workers.stalled(), None, "it sends heartbeats");
        heartbeats.abort();
        tokio::time::sleep(2 * STALL_TIMEOUT).await;
        let reason = workers.stalled().unwrap_or_default();
        assert!(reason.contains("`serving` has been blocked for "), "{reason}");
        worker.heartbeat();
        assert_eq!(workers.stalled(), None, "it has resumed");
    }

    #[test]
    fn blocked_runtime_sends_no_heartbeats() {
        let workers = Workers::default();
        let (_stop, stopped) = watch::channel(false);
        let (started, has_started) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let service = workers.background("blocked", move |_| async move {
            let _ = started.send(());
            let _ = released.recv();
        });
        assert_eq!(service.threads(), Some(1), "one thread, so that a blocked worker blocks its heartbeats");
        let Ok(runtime) = Builder::new_multi_thread().worker_threads(1).enable_all().build() else {
            panic!("a runtime")
        };
        let task = service.task();
        runtime.spawn(async move { task.start(stopped).await });
        assert_eq!(has_started.recv(), Ok(()));
        let before = workers.0.lock()[0].state.lock().last_heartbeat;
        std::thread::sleep(2 * HEARTBEAT_INTERVAL);
        assert_eq!(workers.0.lock()[0].state.lock().last_heartbeat, before);
        drop(release);
    }
}
