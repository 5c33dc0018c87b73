//! Time and randomness: the only module that reads the machine's clock and random numbers.
//!
//! A process has one authoritative clock (`now`): PostgreSQL's if the ledger is in PostgreSQL, in every gateway,
//! else the machine's own. Durations within one process are measured with [`Instant`], which nobody can set.

mod deciding;
#[cfg(feature = "tools")]
pub mod skew;

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::Instant;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::provider::Stamp;

use self::deciding::{Deciding, Offset, Sample};
pub(crate) use tollgate_ledger::Reading;

/// An offset from PostgreSQL's clock above this is logged as a warning.
const NOTICED_OFFSET: SignedDuration = SignedDuration::from_secs(1);

/// The machine's monotonic clock, counted from its creation.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn random(&self) -> f64 {
        rand::rng().random()
    }
}

/// The clock of this process.
static CLOCK: LazyLock<Mutex<ProcessClock>> = LazyLock::new(|| {
    let deciding = Deciding::new(std::time::Instant::now(), machine());
    Mutex::new(ProcessClock { deciding, limit: SignedDuration::MAX, state: OffsetState::Small })
});

struct ProcessClock {
    deciding: Deciding,
    /// Limit of the offset from PostgreSQL's clock for background work.
    limit: SignedDuration,
    state: OffsetState,
}

/// The offset that was last logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OffsetState {
    Small,
    Noticed,
    Refused,
}

impl OffsetState {
    fn of(offset: Offset, limit: SignedDuration) -> Self {
        match offset {
            offset if offset.exceeds(limit) => Self::Refused,
            offset if offset.exceeds(NOTICED_OFFSET) => Self::Noticed,
            _ => Self::Small,
        }
    }
}

/// Sets the limit of the offset from PostgreSQL's clock for background work.
pub fn allow_offset(limit: Duration) {
    CLOCK.lock().limit = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
}

/// Returns the authoritative time.
pub fn now() -> Timestamp {
    reading().now
}

/// Reads the authoritative clock.
pub(crate) fn reading() -> Reading {
    let clock = &mut CLOCK.lock().deciding;
    let at = std::time::Instant::now();
    let now = clock.now(at, machine());
    let steady_for = SignedDuration::try_from(clock.steady_for(at)).unwrap_or(SignedDuration::MAX);
    Reading { now, steady_for }
}

/// The authoritative clock, as the ledger reads and corrects it.
pub(crate) struct AuthoritativeClock;

impl tollgate_ledger::Clock for AuthoritativeClock {
    fn reading(&self) -> Reading {
        reading()
    }

    fn measured(&self, sent: std::time::Instant, received: std::time::Instant, time: Timestamp) {
        measured(sent, received, time);
    }
}

/// Records PostgreSQL's time, measured in a round trip from `sent` to `received`.
pub(crate) fn measured(sent: std::time::Instant, received: std::time::Instant, time: Timestamp) {
    let mut clock = CLOCK.lock();
    clock.deciding.measured(Sample::of(sent, received, time), machine());
    let Some(offset) = clock.deciding.offset(std::time::Instant::now(), machine()) else { return };
    let state = OffsetState::of(offset, clock.limit);
    let before = std::mem::replace(&mut clock.state, state);
    drop(clock);
    if state == before {
        return;
    }
    let seconds = offset.ahead.as_secs_f64();
    match state {
        OffsetState::Small => tracing::info!(seconds, "this machine's clock agrees with PostgreSQL's again"),
        OffsetState::Noticed => {
            tracing::warn!(
                seconds,
                "this machine's clock differs from PostgreSQL's, which is authoritative; check NTP on both machines"
            );
        }
        OffsetState::Refused => tracing::error!(
            seconds,
            "this machine's clock differs from PostgreSQL's by more than `ledger.max_clock_offset`: this gateway is not ready \
             and does no background work; correct the wrong clock (NTP), after which this gateway resumes by itself"
        ),
    }
}

/// Returns by how many seconds this machine's clock is ahead of PostgreSQL's; 0 without a measurement.
pub fn offset_seconds() -> f64 {
    let offset = CLOCK.lock().deciding.offset(std::time::Instant::now(), machine());
    offset.map_or(0.0, |offset| offset.ahead.as_secs_f64())
}

/// Returns the reason if background work is forbidden: this machine's clock differs too much from PostgreSQL's.
pub fn refusal() -> Option<String> {
    let clock = CLOCK.lock();
    let limit = clock.limit;
    let offset = clock.deciding.offset(std::time::Instant::now(), machine())?;
    offset.exceeds(limit).then(|| {
        let (seconds, limit) = (offset.ahead.as_secs_f64(), limit.as_secs());
        let side = if seconds > 0.0 { "ahead of" } else { "behind" };
        format!(
            "this machine's clock is {:.1} s {side} PostgreSQL's, and `ledger.max_clock_offset` is {limit} s: correct the wrong \
             clock (NTP)",
            seconds.abs()
        )
    })
}

/// Returns whether background work is allowed: this machine's clock does not differ too much from PostgreSQL's.
pub(crate) fn is_trusted() -> bool {
    refusal().is_none()
}

/// Returns the time of this machine's clock.
fn machine() -> Timestamp {
    let now = Timestamp::now();
    #[cfg(feature = "tools")]
    let now = skew::applied_to(now);
    now
}

/// Returns the time and a new nonce for one signature.
pub fn stamp() -> Stamp {
    let nonce = rand::rng().sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect();
    Stamp { unix_time: unix_now(), nonce }
}

/// Returns the authoritative time in Unix seconds.
pub fn unix_now() -> u64 {
    u64::try_from(now().as_second()).unwrap_or(0)
}
