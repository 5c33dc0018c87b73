//! Puts a changed configuration in force while requests run: watch, wait until it is quiet, read everything, swap once.
//!
//! A mistake anywhere changes nothing. Requests in flight finish on the snapshot that they began with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, mpsc, watch};

use self::probation::{Counts, Probation};
use self::reclaim::retire;
pub use self::report::Report;
use self::report::{same, tell, tell_certificates, tell_cost, tell_in_force};
use super::background::{run_background, run_low_priority};
use super::diagnostics::Diagnostic;
use super::file::{self, Attempt};
use super::file_source::Origin;
use super::generations::{Generations, StoredGeneration};
use super::in_use;
use super::named::{self, Named};
use super::watch::{Watch, quiet};
use super::{Channel, Current, LedgerConfig, Snapshot, diff, process};
use crate::telemetry::{LABELS, METRICS};

/// Certificates come nearer to their end although nothing is reloaded.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3600);

/// How often a generation that has yet to prove itself is looked at.
const TRIALS_EVERY: Duration = Duration::from_millis(250);
/// How long a list of generations waits for a reload to be over.
const LISTED_AFTER: Duration = Duration::from_secs(3);
/// How far back what is usual reaches, at the least.
const USUAL_EVERY: Duration = Duration::from_secs(60);

/// Reads the configuration that the process starts with, and puts it in force.
///
/// With mistakes in it, or when it was taken back before, the last generation that was in force and can be read goes on,
/// loudly; but never over a change of `[ledger]`, because the payments of one ledger are unknown in another.
pub fn load_first(dir: &Path) -> Result<Current, Vec<Diagnostic>> {
    let generations = Generations::of(dir);
    let last = generations.last();
    let is_taken_back = |read: &Snapshot| last.is_some() && generations.is_rolled_back(&read.hash);
    let first = file::load(dir, None);
    let has_mistakes = first.is_err();
    let (snapshot, kept) = match first {
        Ok(read) if is_taken_back(&read) => match last_kept(&generations, dir, Vec::new()) {
            Ok((snapshot, kept)) => (snapshot, Some(kept)),
            Err(mistakes) => {
                mistakes.iter().for_each(|mistake| tracing::error!("{mistake}"));
                tracing::error!(
                    "the configuration was taken back, and comes into force again: no other one can be read"
                );
                (read, None)
            }
        },
        Ok(read) => (read, None),
        Err(mistakes) => last_kept(&generations, dir, mistakes).map(|(snapshot, kept)| (snapshot, Some(kept)))?,
    };
    let is_same = |last: &&StoredGeneration| snapshot.hash.starts_with(&last.hash);
    let generation = last.as_ref().map_or(1, |last| last.number + u64::from(!is_same(&last)));
    let snapshot = Snapshot { generation, ..snapshot };
    if let Err(why) = generations.keep(&snapshot, kept.as_ref(), None) {
        tracing::error!("{why}");
    }
    LABELS.register(&snapshot);
    tell_in_force(&snapshot, &[]);
    METRICS.config_last_reload_success.set(i64::from(!has_mistakes));
    Ok(Arc::new(ArcSwap::from_pointee(snapshot)))
}

/// The newest generation that can be read, in the place of what is not in force for these mistakes, or was taken back.
fn last_kept(
    generations: &Generations,
    dir: &Path,
    mut mistakes: Vec<Diagnostic>,
) -> Result<(Snapshot, StoredGeneration), Vec<Diagnostic>> {
    let why = if mistakes.is_empty() { "the configuration was taken back" } else { "the configuration has mistakes" };
    let named = Named::read(dir);
    let in_use = generations.in_use().read();
    for kept in generations.list().into_iter().rev() {
        let loaded = generations.load(&kept, None).and_then(with_its_ledger);
        match loaded.and_then(|snapshot| on_same_ledger(snapshot, &kept, dir, &named, &in_use)) {
            Ok(snapshot) => {
                start_loudly(why, &mistakes, &kept);
                return Ok((snapshot, kept));
            }
            Err(why) => mistakes.extend(why),
        }
    }
    Err(mistakes)
}

/// Refuses a generation unless its ledger is certainly the one that the files name and that the last start used.
fn on_same_ledger(
    snapshot: Snapshot,
    kept: &StoredGeneration,
    dir: &Path,
    named: &Named,
    in_use: &Result<Option<in_use::Known>, String>,
) -> Result<Snapshot, Vec<Diagnostic>> {
    let place = &snapshot.process.ledger;
    let why = match (in_use, named) {
        (Err(why), _) => why.clone(),
        (Ok(Some(known)), _) if !known.is_named_by(place) => format!("{known} is in use"),
        (Ok(_), named) if named.is_that_of(&snapshot) => return Ok(snapshot),
        (Ok(_), Named::Place(other)) => format!("`[ledger]` of the files names {}", named::told(other)),
        (Ok(_), Named::Lines(_) | Named::Nothing) => {
            "`[ledger]` of the files is not the same or cannot be read".to_owned()
        }
    };
    let (number, hash, place) = (kept.number, &kept.hash, named::told(place));
    let message =
        format!("generation {number} ({hash}) names {place}, but {why}: a start on it could make payments twice");
    let advice = "correct the mistakes in the files; nothing starts until then";
    Err(vec![Diagnostic::in_file(dir.join("tollgate.toml"), message, Some(advice))])
}

/// What was in force has written a ledger. Where that is gone, with a disk that is not mounted or a link that leads elsewhere,
/// an empty one in its place would know of no payment.
fn with_its_ledger(snapshot: Snapshot) -> Result<Snapshot, Vec<Diagnostic>> {
    match &snapshot.process.ledger {
        LedgerConfig::Embedded(path) if !path.is_dir() => {
            let advice = "bring it back, or mend the files: an empty one would know of no payment";
            Err(vec![Diagnostic::in_file(path, "the ledger of what was in force is not there", Some(advice))])
        }
        _ => Ok(snapshot),
    }
}

fn start_loudly(why: &str, mistakes: &[Diagnostic], last: &StoredGeneration) {
    for mistake in mistakes {
        tracing::error!("{mistake}");
    }
    tracing::error!("{why}: generation {} ({}), the last that was in force, goes on", last.number, last.hash);
}

/// Keeps the configuration in force equal to the one in the directory.
pub struct Reloader {
    handle: ReloadHandle,
}

/// Reloads on demand, for SIGHUP and the admin port. One reload runs at a time, whoever asks.
#[derive(Clone)]
pub struct ReloadHandle(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    generations: Generations,
    current: Current,
    one_at_a_time: Mutex<()>,
    /// The generation that has yet to prove itself.
    trial: parking_lot::Mutex<Option<Probation>>,
    /// What was counted before, and before that: what is usual.
    usual: parking_lot::Mutex<[Counts; 2]>,
    /// What the last attempt looked at, taken or refused.
    files: watch::Sender<Arc<[PathBuf]>>,
}

impl Reloader {
    /// For the configuration in `dir`, of which `current` is what was read first.
    pub fn new(dir: PathBuf, current: Current) -> Self {
        let (files, _) = watch::channel(Arc::clone(&current.load().sources.files));
        let generations = Generations::of(&dir);
        let one_at_a_time = Mutex::new(());
        let (trial, usual) = Default::default();
        Self {
            handle: ReloadHandle(Arc::new(Shared { dir, generations, current, one_at_a_time, trial, usual, files })),
        }
    }

    /// To reload without waiting for a change of the files.
    pub fn handle(&self) -> ReloadHandle {
        self.handle.clone()
    }

    /// Watches until told to stop.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let (events, mut arrivals) = mpsc::channel(1);
        let mut files = self.handle.0.files.subscribe();
        let mut watch = Watch::new(events);
        let mut certificates = tokio::time::interval(CERTIFICATES_EVERY);
        let mut trials = tokio::time::interval(TRIALS_EVERY);
        let mut usual = tokio::time::interval(USUAL_EVERY);
        files.mark_changed();
        loop {
            tokio::select! {
                () = stopped(&mut shutdown) => return,
                Some(()) = arrivals.recv() => {
                    quiet(&mut arrivals).await;
                    self.handle.reload_quietly().await;
                    // The same directories may be others now.
                    files.mark_changed();
                }
                Ok(()) = files.changed() => {
                    let wanted = Arc::clone(&files.borrow_and_update());
                    if watch.follow(&wanted) {
                        // What happened before it was watched was missed.
                        self.handle.reload_quietly().await;
                    }
                }
                _ = trials.tick() => self.handle.try_out().await,
                _ = usual.tick() => {
                    let mut usual = self.handle.0.usual.lock();
                    usual.rotate_left(1);
                    usual[0] = std::mem::replace(&mut usual[1], Counts::now());
                }
                _ = certificates.tick() => tell_certificates(&self.handle.0.current.load()),
            }
        }
    }
}

/// Also when nobody is left who could say stop. Lets go of the lock that the answer comes with.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|stop| *stop).await);
}

impl ReloadHandle {
    /// Reads the configuration now; puts it in force, or says why not. What it finds is logged and counted too.
    /// What was taken back comes into force again by it.
    pub async fn reload(&self) -> Result<Report, Vec<Diagnostic>> {
        self.0.generations.mark_rolled_back(None);
        self.read_and_swap().await
    }

    /// Goes back to a generation that was in force: the one before, or that of this number. The files stay as they are, and
    /// are not read again until they change.
    pub async fn roll_back(&self, number: Option<u64>) -> Result<Report, Vec<Diagnostic>> {
        let shared = &self.0;
        let _turn = shared.one_at_a_time.lock().await;
        *shared.trial.lock() = None;
        let running = shared.current.load_full();
        let none = |message: &str| {
            let kept: Vec<String> = shared.generations.list().iter().map(|kept| kept.number.to_string()).collect();
            let advice = format!("kept are {}", kept.join(", "));
            vec![Diagnostic::in_file(&shared.dir, message, Some(&advice))]
        };
        let mut kept = shared.generations.list();
        kept.retain(|kept| number.map_or(!running.hash.starts_with(&kept.hash), |number| kept.number == number));
        let Some(kept) = kept.pop() else { return Err(none("there is no such generation")) };
        let (generations, previous, from) = (shared.generations.clone(), Arc::clone(&running), kept.clone());
        let read = run_background(move || generations.load(&from, Some(&previous))).await;
        let mut read = read.ok_or_else(|| none("the generation could not be read"))??;
        if !named::is_same(&running.process.ledger, &read.process.ledger) {
            let (number, place) = (kept.number, named::told(&read.process.ledger));
            let used = named::told(&running.process.ledger);
            return Err(none(&format!(
                "generation {number} names the ledger {place}, but this process uses {used}: no rollback crosses a change of `[ledger]`"
            )));
        }
        // What is watched are the files, not their copies.
        read.sources.files = Arc::clone(&shared.files.borrow());
        let disk = (shared.dir.clone(), Arc::clone(&running));
        let disk = run_background(move || file::load(&disk.0, Some(&disk.1))).await;
        shared.generations.mark_rolled_back(disk.and_then(Result::ok).map(|disk| disk.hash).as_deref());
        let result = shared.put_in_force(&running, read).await;
        self.keep(Some(kept), result.as_ref().ok().cloned()).await;
        tell(&running, &result);
        shared.retire(running);
        result
    }

    /// Keeps what is in force.
    async fn keep(&self, from: Option<StoredGeneration>, report: Option<Report>) {
        let (generations, current) = (self.0.generations.clone(), self.0.current.load_full());
        let kept = run_low_priority(move || generations.keep(&current, from.as_ref(), report.as_ref())).await;
        if let Some(Err(why)) = kept {
            tracing::warn!("{why}");
        }
    }

    async fn read_and_swap(&self) -> Result<Report, Vec<Diagnostic>> {
        let shared = &self.0;
        let _turn = shared.one_at_a_time.lock().await;
        let running = shared.current.load_full();
        let (dir, previous) = (shared.dir.clone(), Arc::clone(&running));
        let started = Instant::now();
        let attempt = run_low_priority(move || file::attempt(&dir, Origin::default(), Some(&previous))).await;
        let Attempt { result, files } = attempt.unwrap_or_else(|| Attempt {
            result: Err(vec![Diagnostic::in_file(&shared.dir, "reading the configuration failed", None)]),
            files: Arc::clone(&running.sources.files),
        });
        shared.files.send_if_modified(|known| {
            *known != files && {
                *known = files;
                true
            }
        });
        if let Ok(read) = &result
            && shared.generations.is_rolled_back(&read.hash)
        {
            let (generation, hash) = (running.generation, running.hash.clone());
            let kept = running.merchants.len() + running.channels.len();
            let unchanged = Ok(Report { generation, hash, kept, ..Report::default() });
            tell(&running, &unchanged);
            return unchanged;
        }
        // Before the swap: what fails from the first moment on must count against the new one.
        let trial = result.as_ref().ok().and_then(|read| Probation::begin(&running, read, &shared.usual.lock()[1]));
        let trial = trial.map(|trial| trial.after(shared.trial.lock().as_ref()));
        let result = match result {
            Ok(read) => shared.put_in_force(&running, read).await,
            Err(mistakes) => Err(mistakes),
        };
        let took = started.elapsed();
        let changed = result.as_ref().ok().filter(|report| !report.changed.is_empty()).cloned();
        let is_changed = changed.is_some();
        if is_changed {
            shared.generations.mark_rolled_back(None);
        }
        if result.is_ok() {
            // What could not be kept before can be now.
            self.keep(None, changed).await;
        }
        if is_changed {
            *shared.trial.lock() = trial;
        }
        tell(&running, &result);
        tell_cost(took, &result);
        shared.retire(running);
        result
    }

    /// Takes the generation back that does not prove itself.
    async fn try_out(&self) {
        let Some(mut trial) = self.0.trial.lock().take() else { return };
        match trial.look(&self.0.current.load()) {
            probation::Verdict::Over => {}
            probation::Verdict::Open => *self.0.trial.lock() = Some(trial),
            probation::Verdict::Bad(why) => {
                let (generation, back) = (trial.generation, self.best_of(&trial));
                tracing::error!(generation, back, why, "the new generation is taken back by itself");
                match self.roll_back(Some(back)).await {
                    Ok(_) => METRICS.config_rollbacks_total.inc(),
                    Err(mistakes) => mistakes.iter().for_each(|mistake| {
                        tracing::error!(generation, back, "it stays, see `tollgate rollback --to`: {mistake}");
                    }),
                }
            }
        }
    }

    /// The one before, or where that was in force too shortly to be kept, the one that would have come back for it.
    fn best_of(&self, trial: &Probation) -> u64 {
        let (kept, running) = (self.0.generations.list(), self.0.current.load());
        let is_other = |kept: &&StoredGeneration| !running.hash.starts_with(&kept.hash);
        let is_there = |number: &u64| kept.iter().filter(is_other).any(|kept| kept.number == *number);
        // None is there: who goes back to the first is told so.
        trial.candidates().find(is_there).or(trial.candidates().next()).unwrap_or_default()
    }

    /// The generations that were in force, each with what its reload did, where that is known; and the number of the one
    /// that is.
    pub async fn generations(&self) -> (Vec<(StoredGeneration, Option<Report>)>, u64) {
        // One that came into force a moment ago may not be kept yet. Who asks while a reload hangs is told what there is.
        let _turn = tokio::time::timeout(LISTED_AFTER, self.0.one_at_a_time.lock()).await;
        let generations = self.0.generations.clone();
        let list = move || {
            let kept = generations.list().into_iter();
            kept.map(|kept| (kept.clone(), generations.report(&kept))).collect()
        };
        (tokio::task::spawn_blocking(list).await.unwrap_or_default(), self.0.current.load().generation)
    }

    /// For callers that have nobody to tell beyond the log.
    async fn reload_quietly(&self) {
        drop(self.read_and_swap().await);
    }
}

impl Shared {
    /// Telling what changed takes its time too.
    async fn put_in_force(&self, running: &Arc<Snapshot>, read: Snapshot) -> Result<Report, Vec<Diagnostic>> {
        let (current, before) = (Arc::clone(&self.current), Arc::clone(running));
        let report = run_low_priority(move || put_in_force(&current, &before, read)).await;
        if let Some(report) = &report {
            METRICS.config_needs_restart.set(i64::try_from(report.needs_restart.len()).unwrap_or(i64::MAX));
        }
        report.ok_or_else(|| {
            let advice = "the log says why: reload again";
            vec![Diagnostic::in_file(&self.dir, "putting the configuration in force failed", Some(advice))]
        })
    }

    /// One that was replaced is let go of, once: of two who wait until nobody else has it, neither would ever be alone.
    fn retire(&self, old: Arc<Snapshot>) {
        if !Arc::ptr_eq(&self.current.load(), &old) {
            tokio::spawn(retire(old));
        }
    }
}

fn put_in_force(current: &Current, running: &Snapshot, mut read: Snapshot) -> Report {
    let needs_restart = process::needs_restart(&running.process, &read.process);
    let (changed, effects) = (diff::changes(running, &read), diff::effects(running, &read));
    let kept = same(&running.merchants, &read.merchants) + same(&running.channels, &read.channels);
    if running.hash == read.hash {
        let (generation, hash) = (running.generation, running.hash.clone());
        return Report { generation, hash, kept, needs_restart, ..Report::default() };
    }
    process::keep_served_certificates(running, &mut read);
    read.process = Arc::new(process::in_force(&running.process, &read.process));
    let report = Report { generation: read.generation, hash: read.hash.clone(), changed, kept, effects, needs_restart };
    // Before the first request that bears a new name; the rest is told when it is so.
    LABELS.register(&read);
    let read = Arc::new(read);
    current.store(Arc::clone(&read));
    tell_in_force(&read, &running.sources.certificates);
    report
}

mod probation;
mod reclaim;
mod report;

#[cfg(test)]
mod tests;
