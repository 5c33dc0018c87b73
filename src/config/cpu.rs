//! Parallel mapping, and sharing the CPU with requests while a configuration is read.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// Maps the items on several threads and retains their order. Each thread gets one contiguous part.
pub(crate) fn map<T: Send, R: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let part = items.len().div_ceil(threads.max(1));
    // Starting a thread costs more than reading a few files.
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

/// Minimum time between two yields of a thread. A delay of this length is imperceptible.
const YIELD_INTERVAL: Duration = Duration::from_micros(50);
/// CPU time that a low-priority thread works before it sleeps as long.
const TIME_SLICE: Duration = Duration::from_micros(300);

thread_local! {
    /// Time of this thread's last yield.
    static YIELDED_AT: Cell<Option<Instant>> = const { Cell::new(None) };
    /// CPU time of a low-priority thread when it slept last; `None` on other threads.
    static SLEPT_AT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Yields the CPU. Call once per file in long loops: a low priority alone lets a running thread keep the core for milliseconds. A
/// low-priority thread also sleeps half of the time, because on a core that is always busy yielding alone does not help.
pub fn yield_cpu() {
    if YIELDED_AT.get().is_some_and(|before| before.elapsed() < YIELD_INTERVAL) {
        return;
    }
    let work = SLEPT_AT.get().map(|before| cpu_time().saturating_sub(before)).filter(|work| *work >= TIME_SLICE);
    match work {
        Some(work) => {
            thread::sleep(work);
            SLEPT_AT.set(Some(cpu_time()));
        }
        None => thread::yield_now(),
    }
    YIELDED_AT.set(Some(Instant::now()));
}

/// Makes this thread [sleep regularly](yield_cpu) from now on, so that a second of work does not delay requests.
pub fn sleep_regularly() {
    SLEPT_AT.set(Some(cpu_time()));
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn map_processes_each_item_once_in_order() {
        for (count, threads) in [(0, 2), (5, 2), (100, 1), (101, 2), (1000, 7), (40, 100)] {
            let expected: Vec<usize> = (0..count).map(|number| number * 2).collect();
            assert_eq!(map((0..count).collect(), threads, |number| number * 2), expected, "{count} {threads}");
        }
    }

    #[test]
    fn thread_that_sleeps_regularly_sleeps_after_its_time_slice() {
        let work = || {
            let begun = cpu_time();
            while cpu_time() < begun + TIME_SLICE {
                std::hint::spin_loop();
            }
            [0, 1].map(|_| {
                while YIELDED_AT.get().is_some_and(|before| before.elapsed() < YIELD_INTERVAL) {
                    std::hint::spin_loop();
                }
                let (before, since) = (SLEPT_AT.get(), Instant::now());
                let is_due = before.is_some_and(|before| cpu_time() >= before + TIME_SLICE);
                yield_cpu();
                (since.elapsed() >= TIME_SLICE, before, SLEPT_AT.get(), is_due)
            })
        };
        assert!(work().iter().all(|(_, before, after, _)| before.or(*after).is_none()), "a start waits for this work");
        let sleeping = move || {
            sleep_regularly();
            work()
        };
        let [(slept, before, after, _), (_, once, again, is_due)] = thread::spawn(sleeping).join().unwrap();
        assert!(slept && before.is_some() && before < after, "{before:?} {after:?}");
        assert!(
            after == once && (is_due || once == again),
            "no sleep before the next time slice is over: {once:?} {again:?}"
        );
    }

    #[test]
    fn thread_yields_once_per_interval() {
        let mut looked = 0;
        while looked < 100 {
            let before = YIELDED_AT.get();
            yield_cpu();
            let after = YIELDED_AT.get();
            // The thread may be preempted at any time: a reading that came too late proves nothing.
            if before.is_some_and(|before| before.elapsed() < YIELD_INTERVAL) {
                assert_eq!(before, after);
                looked += 1;
            }
        }
        thread::sleep(YIELD_INTERVAL);
        let before = YIELDED_AT.get();
        yield_cpu();
        assert!(before < YIELDED_AT.get());
    }
}
