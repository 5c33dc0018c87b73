//! Work on several threads, and work that gives way to others.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// What a function makes of each, in their order; a thread takes a part that lies together.
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let part = items.len().div_ceil(threads.max(1));
    // A thread costs more than the reading of a few files.
    if threads <= 1 || part < 16 {
        return items.into_iter().map(work).collect();
    }
    let mut items = items.into_iter();
    let parts: Vec<Vec<T>> = std::iter::from_fn(|| {
        let part: Vec<T> = items.by_ref().take(part).collect();
        (!part.is_empty()).then_some(part)
    })
    .collect();
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            parts.into_iter().map(|part| scope.spawn(move || part.into_iter().map(work).collect::<Vec<R>>())).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Runs it on a thread of its own that every other one goes before, and that [rests](give_way): it may take a second, and
/// requests may not feel it. Nothing when it panicked.
pub(super) async fn run_low_priority<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let restful = move || {
        RESTED_AT.set(Some(worked()));
        work()
    };
    run_background(restful).await
}

/// As [`politely`], without rests: what is bad must not stay in force the longer.
pub(super) async fn run_background<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let polite = move || {
        lower_priority();
        // What it makes may want to start tasks.
        let _inside = runtime.enter();
        // Nobody waits any more when the process leaves.
        let _ = done.send(work());
    };
    thread::Builder::new().name("reload".to_owned()).spawn(polite).ok()?;
    result.await.ok()
}

/// On Linux a thread has a priority of its own. It can only be lowered, so the thread is never used for anything else.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        let thread = Some(rustix::thread::gettid());
        if let Err(error) = rustix::process::setpriority_process(thread, 5) {
            tracing::debug!(%error, "reloads cannot be given a lower priority");
        }
    }
}

/// Nobody feels this: within it a thread gives way once.
const SHARE: Duration = Duration::from_micros(50);
/// A polite thread works so long, then rests as long.
const STINT: Duration = Duration::from_micros(300);

thread_local! {
    /// When this thread gave way last.
    static GAVE_WAY_AT: Cell<Option<Instant>> = const { Cell::new(None) };
    /// How much a polite thread had worked when it rested last.
    static RESTED_AT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Whoever waits for this core gets it now, or a moment later. Long work says so with every file: priorities alone let a thread
/// that runs go on for milliseconds, and a payment passes many threads. A polite thread leaves the core alone for half of the time, too: on
/// one that is always busy, others come late however readily it is given up.
pub(super) fn yield_cpu() {
    if GAVE_WAY_AT.get().is_some_and(|before| before.elapsed() < SHARE) {
        return;
    }
    let work = RESTED_AT.get().map(|before| worked().saturating_sub(before)).filter(|work| *work >= STINT);
    match work {
        Some(work) => {
            thread::sleep(work);
            RESTED_AT.set(Some(worked()));
        }
        None => thread::yield_now(),
    }
    GAVE_WAY_AT.set(Some(Instant::now()));
}

/// For how long this thread has had a core.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_is_worked_on_once_and_in_order() {
        for (count, threads) in [(0, 2), (5, 2), (100, 1), (101, 2), (1000, 7), (40, 100)] {
            let expected: Vec<usize> = (0..count).map(|number| number * 2).collect();
            assert_eq!(map((0..count).collect(), threads, |number| number * 2), expected, "{count} {threads}");
        }
    }

    #[tokio::test]
    async fn polite_work_rests_after_a_stint() {
        let work = || {
            let begun = worked();
            while worked() < begun + STINT {
                std::hint::spin_loop();
            }
            [0, 1].map(|_| {
                while GAVE_WAY_AT.get().is_some_and(|before| before.elapsed() < SHARE) {
                    std::hint::spin_loop();
                }
                let (before, since) = (RESTED_AT.get(), Instant::now());
                let is_due = before.is_some_and(|before| worked() >= before + STINT);
                yield_cpu();
                (since.elapsed() >= STINT, before, RESTED_AT.get(), is_due)
            })
        };
        assert!(work().iter().all(|(_, before, after, _)| before.or(*after).is_none()), "whoever starts waits for it");
        assert!(run_background(work).await.unwrap().iter().all(|(_, before, after, _)| before.or(*after).is_none()));
        let [(rested, before, after, _), (_, once, again, is_due)] = run_low_priority(work).await.unwrap();
        assert!(rested && before.is_some() && before < after, "{before:?} {after:?}");
        assert!(
            after == once && (is_due || once == again),
            "no rest before the next stint is over: {once:?} {again:?}"
        );
    }

    #[test]
    fn a_thread_gives_way_once_in_a_moment_and_then_again() {
        let mut looked = 0;
        while looked < 100 {
            let before = GAVE_WAY_AT.get();
            yield_cpu();
            let after = GAVE_WAY_AT.get();
            // A core may be taken from this thread at any time: what came too late says nothing.
            if before.is_some_and(|before| before.elapsed() < SHARE) {
                assert_eq!(before, after);
                looked += 1;
            }
        }
        thread::sleep(SHARE);
        let before = GAVE_WAY_AT.get();
        yield_cpu();
        assert!(before < GAVE_WAY_AT.get());
    }

    #[tokio::test]
    async fn a_panic_is_no_answer() {
        assert_eq!(run_low_priority(|| 5).await, Some(5));
        assert_eq!(run_low_priority(|| -> u8 { panic!("a test") }).await, None);
    }
}
