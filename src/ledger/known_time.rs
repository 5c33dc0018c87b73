//! The ledger's own clock, by which it purges: no single reading of a wall clock deletes anything.
//!
//! The ledger stores the newest known time. It advances with the monotonic clock of its processes and never passes
//! the wall clock. A jump of the wall clock (it was set, or no gateway ran) is accepted after the clock has run
//! steadily for an hour and a witness has agreed. The witness is an accepted request, whose signature must agree with
//! our clock. Without a witness a jump of up to a day is accepted after the clock has run steadily for as long as the
//! jump. A longer one is never accepted. Until then nothing is purged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::engine::Engine;
use super::environment::Reading;
use super::error::LedgerError;
use super::ids::{Id, index, millis, millis_at, time};
use super::lock_scope::LockScope;
use super::retention::KNOWN_TIME_KEY;
use super::transaction::Durability::Durable;
use super::transaction::{Read, Space, Transaction};

/// Largest jump that is accepted without a witness.
const LARGEST_JUMP: SignedDuration = SignedDuration::from_hours(24);
/// Minimum time that the clock must have run steadily before a jump with a witness is accepted. Short enough for a
/// machine that is off every night.
const CONFIRMED_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// Minimum time since the start or the last step of the clock before anything is purged.
const GRACE: SignedDuration = SignedDuration::from_mins(10);

/// Time as of which rows may be purged, or the reason why none may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeTime {
    /// Rows may be purged as of this time.
    Until(Timestamp),
    /// The process started a moment ago, or the clock was set.
    TooEarly,
    /// The wall clock is more than a day ahead of the newest known time, and no witness confirms it.
    Refused {
        /// The newest known time.
        known: Timestamp,
    },
}

/// Time of the last accepted signed request. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness(Arc<Mutex<Option<Instant>>>);

impl Witness {
    /// Records that a merchant's signature agreed with our clock.
    pub(super) fn agreed(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Returns whether that happened within this period.
    fn within(&self, time: SignedDuration) -> bool {
        self.0.lock().is_some_and(|at| SignedDuration::try_from(at.elapsed()).is_ok_and(|ago| ago < time))
    }
}

/// Progress of the ledger's clock in this process.
#[derive(Debug)]
pub struct PurgeGuard {
    counted: Instant,
}

impl Default for PurgeGuard {
    fn default() -> Self {
        Self { counted: Instant::now() }
    }
}

/// Implements [`Ledger::purge_time`](super::Ledger::purge_time).
pub(super) async fn purge_time(
    engine: &Engine,
    witness: &Witness,
    guard: &mut PurgeGuard,
    clock: Reading,
) -> Result<PurgeTime, LedgerError> {
    let counted = Instant::now();
    let newest = engine.newest().await?;
    let facts = Facts {
        passed: counted.saturating_duration_since(guard.counted),
        is_witnessed: witness.within(clock.steady_for),
        clock,
    };
    let work = move |tx: &mut Transaction<'_>| {
        let stored = tx.bytes(Space::Expiry, KNOWN_TIME_KEY)?.map(|value| time(millis_at(&value)));
        let (known, verdict) = decide(stored.or(newest), facts);
        if stored != Some(known) {
            tx.put(Space::Expiry, KNOWN_TIME_KEY, millis(known).to_be_bytes());
        }
        Ok(verdict)
    };
    let verdict = engine.write(Durable, LockScope::Names(vec![name()]), work).await?;
    guard.counted = counted;
    Ok(verdict)
}

/// Returns the lock of the stored time.
fn name() -> Id {
    index("known time", &[])
}

#[derive(Clone, Copy)]
struct Facts {
    /// Time on the monotonic clock since the ledger's clock last advanced.
    passed: Duration,
    is_witnessed: bool,
    clock: Reading,
}

/// Returns the new known time and the purge verdict. An empty ledger starts with the wall clock.
fn decide(known: Option<Timestamp>, facts: Facts) -> (Timestamp, PurgeTime) {
    let Facts { passed, is_witnessed, clock: Reading { now, steady_for } } = facts;
    // Keys contain milliseconds.
    let now = time(millis(now));
    let known = known.unwrap_or(now);
    let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
    let counted_on = known.max(known.saturating_add(passed).unwrap_or(Timestamp::MAX).min(now));
    let jump = now.duration_since(counted_on).abs();
    let is_confirmed = match is_witnessed {
        true => steady_for >= jump.min(CONFIRMED_AFTER),
        false => jump <= LARGEST_JUMP && steady_for >= jump,
    };
    let known = if is_confirmed { now } else { counted_on };
    let verdict = match now.duration_since(known) {
        ahead if ahead > LARGEST_JUMP => PurgeTime::Refused { known },
        _ if steady_for < GRACE => PurgeTime::TooEarly,
        _ => PurgeTime::Until(now.min(known)),
    };
    (known, verdict)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_750_000_000 + seconds).unwrap()
    }

    fn facts(now: i64, steady_for: i64, passed: u64) -> Facts {
        let clock = Reading { now: at(now), steady_for: SignedDuration::from_secs(steady_for) };
        Facts { passed: Duration::from_secs(passed), is_witnessed: false, clock }
    }

    #[test]
    fn known_time_advances_monotonically_and_never_passes_the_wall_clock() {
        assert_eq!(decide(None, facts(0, 0, 0)), (at(0), PurgeTime::TooEarly), "an empty ledger");
        assert_eq!(decide(Some(at(0)), facts(60, 3600, 60)), (at(60), PurgeTime::Until(at(60))));
        assert_eq!(decide(Some(at(0)), facts(60, 3600, 500)), (at(60), PurgeTime::Until(at(60))));
        assert_eq!(decide(Some(at(0)), facts(61, 599, 60)), (at(61), PurgeTime::TooEarly), "a second is soon believed");
    }

    #[test]
    fn wall_clock_wrong_for_seconds_shifts_known_time_by_seconds_only() {
        for ahead in [25 * HOUR, 401 * DAY] {
            let (known, verdict) = decide(Some(at(0)), facts(ahead, 5, 5));
            assert_eq!((known, verdict), (at(5), PurgeTime::Refused { known: at(5) }), "{ahead}");
        }
        // A smaller jump is not refused, but purges nothing that a right clock would not.
        for ahead in [HOUR, 23 * HOUR] {
            let (known, verdict) = decide(Some(at(0)), facts(ahead, 5, 5));
            assert_eq!((known, verdict), (at(5), PurgeTime::TooEarly), "{ahead}");
            let (known, verdict) = decide(Some(at(5)), facts(ahead, 700, 60));
            assert_eq!((known, verdict), (at(65), PurgeTime::Until(at(65))), "{ahead}");
        }
    }

    #[test]
    fn clock_jump_is_accepted_after_steady_running_and_a_witness() {
        let (known, _) = decide(Some(at(0)), facts(HOUR + 60, HOUR, 60));
        assert_eq!(known, at(HOUR + 60), "an hour after an hour");
        let three_weeks = 21 * DAY;
        let waits = facts(three_weeks, HOUR - 1, 60);
        assert!(matches!(decide(Some(at(0)), Facts { is_witnessed: true, ..waits }).1, PurgeTime::Refused { .. }));
        let ran = facts(three_weeks, 10 * DAY, 60);
        assert!(matches!(decide(Some(at(0)), ran).1, PurgeTime::Refused { .. }), "nobody agreed with the clock");
        let ran = facts(three_weeks, HOUR, 60);
        let witnessed = decide(Some(at(0)), Facts { is_witnessed: true, ..ran });
        assert_eq!(witnessed, (at(three_weeks), PurgeTime::Until(at(three_weeks))));
    }

    #[test]
    fn machine_off_every_night_still_purges_every_day_with_payments() {
        let mut known = at(0);
        for day in 1..=30 {
            let (mut is_purging, mut refused) = (false, 0);
            // The machine runs for ten hours and is off for fourteen; the clock is checked every minute.
            for minute in 0..600 {
                let ran = facts(day * DAY + minute * 60, minute * 60, if minute == 0 { 0 } else { 60 });
                let (next, verdict) = decide(Some(known), Facts { is_witnessed: minute >= 5, ..ran });
                known = next;
                is_purging = matches!(verdict, PurgeTime::Until(until) if until == ran.clock.now);
                refused += i32::from(matches!(verdict, PurgeTime::Refused { .. }));
            }
            assert!(is_purging && refused == 0, "day {day}: {known}, refused {refused} times");
        }
        // A machine that returns after a month is accepted within its first hours.
        let back = facts(60 * DAY, HOUR - 1, 60);
        assert!(matches!(decide(Some(known), Facts { is_witnessed: true, ..back }).1, PurgeTime::Refused { .. }));
        let back = Facts { is_witnessed: true, ..facts(60 * DAY, HOUR, 60) };
        assert_eq!(decide(Some(known), back).1, PurgeTime::Until(at(60 * DAY)));
    }

    #[test]
    fn clock_set_back_still_purges_and_future_known_time_is_corrected() {
        let future = 400 * DAY;
        assert_eq!(decide(Some(at(future)), facts(0, HOUR, 60)), (at(future), PurgeTime::Until(at(0))));
        let healed = decide(Some(at(future)), Facts { is_witnessed: true, ..facts(0, HOUR, 60) });
        assert_eq!(healed, (at(0), PurgeTime::Until(at(0))));
    }
}
