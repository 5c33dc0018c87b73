//! Hot reload: watches the files, waits until they are quiet, reads all of them, and swaps the snapshot once.
//!
//! Any error leaves the snapshot unchanged. Requests in flight finish on the snapshot with which they began.
//!
//! `start` chooses the first generation, `swap` puts a later one in force, `probation` watches it, `generations` archives it.
//! `check` reads a configuration as a start would. `effects` describes what a change does.

mod announcement;
mod background;
pub mod check;
pub mod effects;
mod file_watch;
pub mod generations;
mod in_use;
mod probation;
mod reclaim;
pub(crate) mod report;
mod start;
mod swap;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, watch};
use tollgate_config::Diagnostic;

use self::announcement::{announce, announce_failed_rollback, announce_rollback};
use self::background::{run_background, run_low_priority};
use self::file_watch::{Watch, wait_until_quiet};
use self::generations::{Generations, StoredGeneration};
use self::probation::{Counts, Probation, ProbationState};
use self::reclaim::reclaim;
pub use self::report::Report;
use self::report::{export_certificates, export_cost, log_result};
pub use self::start::load_first;
use self::swap::put_in_force;
use crate::snapshot::{self, Attempt, Current, Snapshot};
use crate::telemetry::METRICS;

/// Interval of the certificate expiry metric, which changes without a reload.
const CERTIFICATE_METRIC_INTERVAL: Duration = Duration::from_secs(3600);

/// Interval at which a generation on probation is checked.
const PROBATION_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum wait of a list of generations for a running reload.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);
/// Minimum period over which the baseline error rate is measured.
const BASELINE_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the snapshot in force equal to the files in the directory.
pub struct Reloader {
    handle: ReloadHandle,
}

/// Reloads on demand, for SIGHUP and the admin port. Only one reload runs at a time.
#[derive(Clone)]
pub struct ReloadHandle(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    generations: Generations,
    current: Current,
    reload_lock: Mutex<()>,
    /// Generation on probation.
    probation: parking_lot::Mutex<Option<Probation>>,
    /// Call counts at the last two ticks; the older one is the start of the baseline period.
    baseline: parking_lot::Mutex<[Counts; 2]>,
    /// Files that the last load read, whether it succeeded or not.
    files: watch::Sender<Arc<[PathBuf]>>,
}

impl Reloader {
    /// Returns a reloader of `dir`; `current` holds the snapshot that was read first.
    pub fn new(dir: PathBuf, current: Current) -> Self {
        let (files, _) = watch::channel(Arc::clone(&current.load().config.sources.files));
        let generations = Generations::of(&dir);
        let reload_lock = Mutex::new(());
        let (probation, baseline) = Default::default();
        Self {
            handle: ReloadHandle(Arc::new(Shared {
                dir,
                generations,
                current,
                reload_lock,
                probation,
                baseline,
                files,
            })),
        }
    }

    /// Returns a handle that reloads without a file change.
    pub fn handle(&self) -> ReloadHandle {
        self.handle.clone()
    }

    /// Watches the files until shutdown.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let (events, mut arrivals) = mpsc::channel(1);
        let mut files = self.handle.0.files.subscribe();
        let mut watch = Watch::new(events);
        let mut certificates = tokio::time::interval(CERTIFICATE_METRIC_INTERVAL);
        let mut probation_ticks = tokio::time::interval(PROBATION_INTERVAL);
        let mut baseline = tokio::time::interval(BASELINE_INTERVAL);
        files.mark_changed();
        loop {
            tokio::select! {
                () = shutdown_requested(&mut shutdown) => return,
                Some(()) = arrivals.recv() => {
                    wait_until_quiet(&mut arrivals).await;
                    self.handle.reload_and_log().await;
                    // The same paths may be other directories now.
                    files.mark_changed();
                }
                Ok(()) = files.changed() => {
                    let wanted = Arc::clone(&files.borrow_and_update());
                    if watch.follow(&wanted) {
                        // Changes that happened before the watch began were missed.
                        self.handle.reload_and_log().await;
                    }
                }
                _ = probation_ticks.tick() => self.handle.check_probation().await,
                _ = baseline.tick() => {
                    let mut baseline = self.handle.0.baseline.lock();
                    baseline.rotate_left(1);
                    baseline[0] = std::mem::replace(&mut baseline[1], Counts::now());
                }
                _ = certificates.tick() => export_certificates(&self.handle.0.current.load()),
            }
        }
    }
}

/// Waits for shutdown; a dropped sender counts as shutdown. Drops the guard that `wait_for` returns.
async fn shutdown_requested(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|stop| *stop).await);
}

impl ReloadHandle {
    /// Reads the configuration now, and puts it in force or returns the errors. The result is also logged and counted. A
    /// configuration that was rolled back comes into force again.
    pub async fn reload(&self) -> Result<Report, Vec<Diagnostic>> {
        let guard = self.0.reload_lock.lock().await;
        self.0.generations.mark_rolled_back(None);
        self.read_and_swap(&guard).await
    }

    /// Rolls back to the previous generation or to generation `number`. The files stay unchanged, and are not read again until they
    /// change.
    pub async fn roll_back(&self, number: Option<u64>) -> Result<Report, Vec<Diagnostic>> {
        let guard = self.0.reload_lock.lock().await;
        let disk = (self.0.dir.clone(), self.0.current.load_full());
        let from = disk.1.generation;
        let disk = run_background(move || snapshot::load(&disk.0, Some(&disk.1))).await;
        let refused = disk.and_then(Result::ok).map(|disk| disk.config.hash.clone());
        let result = self.roll_back_locked(number, refused, &guard).await;
        result.iter().for_each(|report| announce_rollback(from, report, "an operator asked for it"));
        result
    }

    /// Rolls back while the caller holds the lock of reloads.
    async fn roll_back_locked(
        &self,
        number: Option<u64>,
        refused: Option<String>,
        _: &tokio::sync::MutexGuard<'_, ()>,
    ) -> Result<Report, Vec<Diagnostic>> {
        let shared = &self.0;
        let running = shared.current.load_full();
        let none = |message: &str| {
            let kept: Vec<String> = shared.generations.list().iter().map(|kept| kept.number.to_string()).collect();
            let advice = format!("archived generations: {}", kept.join(", "));
            vec![Diagnostic::in_file(&shared.dir, message, Some(&advice))]
        };
        let mut kept = shared.generations.list();
        kept.retain(|kept| number.map_or(!running.config.hash.starts_with(&kept.hash), |number| kept.number == number));
        let Some(kept) = kept.pop() else { return Err(none("there is no such generation")) };
        let (generations, previous, from) = (shared.generations.clone(), Arc::clone(&running), kept.clone());
        let read = run_background(move || generations.load(&from, Some(&previous))).await;
        let mut read = read.ok_or_else(|| none("the generation could not be read"))??;
        if !running.process.ledger.is_same(&read.process.ledger) {
            let (number, place, used) = (kept.number, &read.process.ledger, &running.process.ledger);
            return Err(none(&format!(
                "generation {number} names the ledger {place}, but this process uses {used}: no rollback crosses a change of `[ledger]`"
            )));
        }
        // The original files are watched, not the copies in the archive.
        read.config.sources.files = Arc::clone(&shared.files.borrow());
        shared.generations.mark_rolled_back(refused.as_deref());
        let result = shared.put_in_force(&running, read).await;
        if result.is_ok() {
            *shared.probation.lock() = None;
        }
        self.archive(Some(kept), result.as_ref().ok().cloned()).await;
        log_result(&running, &result);
        shared.reclaim(running);
        result
    }

    /// Archives the generation in force.
    async fn archive(&self, from: Option<StoredGeneration>, report: Option<Report>) {
        let (generations, current) = (self.0.generations.clone(), self.0.current.load_full());
        let kept = run_low_priority(move || generations.archive(&current, from.as_ref(), report.as_ref())).await;
        if let Some(Err(why)) = kept {
            tracing::warn!("{why}");
        }
    }

    async fn read_and_swap(&self, _: &tokio::sync::MutexGuard<'_, ()>) -> Result<Report, Vec<Diagnostic>> {
        let shared = &self.0;
        let running = shared.current.load_full();
        let (dir, previous) = (shared.dir.clone(), Arc::clone(&running));
        let started = Instant::now();
        let attempt = run_low_priority(move || snapshot::attempt(&dir, Some(&previous))).await;
        let Attempt { result, files } = attempt.unwrap_or_else(|| Attempt {
            result: Err(vec![Diagnostic::in_file(&shared.dir, "reading the configuration failed", None)]),
            files: Arc::clone(&running.config.sources.files),
        });
        shared.files.send_if_modified(|known| {
            *known != files && {
                *known = files;
                true
            }
        });
        if let Ok(read) = &result
            && shared.generations.is_rolled_back(&read.config.hash)
        {
            let (generation, hash) = (running.generation, running.config.hash.clone());
            let kept = running.config.merchants.len() + running.channels.len();
            let unchanged = Ok(Report { generation, hash, kept, ..Report::default() });
            log_result(&running, &unchanged);
            return unchanged;
        }
        // Taken before the swap, so that errors from the first moment on count against the new generation.
        let probation =
            result.as_ref().ok().and_then(|read| Probation::begin(&running, read, &shared.baseline.lock()[1]));
        let probation = probation.map(|probation| probation.after(shared.probation.lock().as_ref()));
        let result = match result {
            Ok(read) => shared.put_in_force(&running, read).await,
            Err(diagnostics) => Err(diagnostics),
        };
        let took = started.elapsed();
        let changed = result.as_ref().ok().filter(|report| !report.changed.is_empty()).cloned();
        let is_changed = changed.is_some();
        if is_changed {
            shared.generations.mark_rolled_back(None);
        }
        if result.is_ok() {
            // A generation that could not be archived before is archived now.
            self.archive(None, changed).await;
        }
        if is_changed {
            let mut current = shared.probation.lock();
            let earlier = current.take();
            // A reload that changes no channel proves nothing about the channels that are watched.
            let continued = || earlier.and_then(|earlier| earlier.continued(&running, &shared.current.load()));
            *current = probation.or_else(continued);
        }
        log_result(&running, &result);
        announce(running.generation, &result);
        export_cost(took, &result);
        shared.reclaim(running);
        result
    }

    /// Checks the generation on probation, and rolls it back if it failed. The lock keeps a reload from putting another
    /// generation in force between the check and the rollback.
    async fn check_probation(&self) {
        // During a reload the next check, in 250 ms, decides.
        let Ok(guard) = self.0.reload_lock.try_lock() else { return };
        let Some(mut probation) = self.0.probation.lock().take() else { return };
        match probation.check(&self.0.current.load()) {
            ProbationState::Over => {}
            ProbationState::Running => *self.0.probation.lock() = Some(probation),
            ProbationState::Failed(why) => {
                let (generation, back) = (probation.generation, self.rollback_target(&probation));
                tracing::error!(generation, back, why, "the new generation is rolled back automatically");
                // The files may be fixed already, so the generation that failed is refused, not the files.
                let refused = Some(self.0.current.load().config.hash.clone());
                match self.roll_back_locked(Some(back), refused, &guard).await {
                    Ok(report) => {
                        METRICS.config_rollbacks_total.inc();
                        announce_rollback(generation, &report, &why);
                    }
                    Err(diagnostics) => {
                        for diagnostic in &diagnostics {
                            tracing::error!(
                                generation,
                                back,
                                "the rollback failed and the new generation stays in force; see `tollgate rollback --to`: {diagnostic}"
                            );
                        }
                        announce_failed_rollback(generation, &diagnostics);
                    }
                }
            }
        }
    }

    /// Returns the previous generation, or, if that one was never archived, the generation that would have replaced it.
    fn rollback_target(&self, probation: &Probation) -> u64 {
        let (kept, running) = (self.0.generations.list(), self.0.current.load());
        let is_other = |kept: &&StoredGeneration| !running.config.hash.starts_with(&kept.hash);
        let is_there = |number: &u64| kept.iter().filter(is_other).any(|kept| kept.number == *number);
        // If none is archived, the rollback to the first candidate reports that.
        probation.candidates().find(is_there).or(probation.candidates().next()).unwrap_or_default()
    }

    /// Returns the archived generations with their reload reports, where known, and the number of the generation in force.
    pub async fn generations(&self) -> (Vec<(StoredGeneration, Option<Report>)>, u64) {
        // A generation that came into force a moment ago may not be archived yet. The timeout answers even if a reload hangs.
        let _guard = tokio::time::timeout(LIST_TIMEOUT, self.0.reload_lock.lock()).await;
        let generations = self.0.generations.clone();
        let list = move || {
            let kept = generations.list().into_iter();
            kept.map(|kept| (kept.clone(), generations.report(&kept))).collect()
        };
        (tokio::task::spawn_blocking(list).await.unwrap_or_default(), self.0.current.load().generation)
    }

    /// Reloads for callers that need no result beyond the log.
    async fn reload_and_log(&self) {
        let guard = self.0.reload_lock.lock().await;
        drop(self.read_and_swap(&guard).await);
    }
}

impl Shared {
    /// Swaps the snapshot on a background thread, because describing the changes takes time.
    async fn put_in_force(&self, running: &Arc<Snapshot>, read: Snapshot) -> Result<Report, Vec<Diagnostic>> {
        let (current, before) = (Arc::clone(&self.current), Arc::clone(running));
        let report = run_low_priority(move || put_in_force(&current, &before, read)).await;
        if let Some(report) = &report {
            METRICS.config_needs_restart.set(i64::try_from(report.needs_restart.len()).unwrap_or(i64::MAX));
        }
        report.ok_or_else(|| {
            let advice = "see the log, then reload again";
            vec![Diagnostic::in_file(&self.dir, "putting the configuration in force failed", Some(advice))]
        })
    }

    /// Frees a replaced snapshot in the background. At most one task may do so per snapshot: two would each hold a reference and
    /// wait for each other.
    fn reclaim(&self, old: Arc<Snapshot>) {
        if !Arc::ptr_eq(&self.current.load(), &old) {
            tokio::spawn(reclaim(old));
        }
    }
}
