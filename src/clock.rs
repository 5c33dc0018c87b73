//! Time and chance: the only place where the machine's clock and random numbers come in.
//!
//! A process has one clock that decides (`now`). With a ledger in PostgreSQL it is PostgreSQL's, in every gateway. What
//! lasts within one process is measured by [`Instant`], which nobody can set.

mod deciding;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::Instant;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::provider::Stamp;

use self::deciding::{Deciding, Offset, Sample};

/// A larger difference to PostgreSQL's clock is logged as a warning.
const NOTICED_OFFSET: SignedDuration = SignedDuration::from_secs(1);
/// The largest difference to PostgreSQL's clock with which background work is done, where nothing else is configured.
pub(crate) const MAX_OFFSET: Duration = Duration::from_secs(5);

/// The machine's own clock, counted from when this was made.
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

/// How many seconds this process's clock is ahead of the machine's: 0, unless `tollgate chaos` wants it wrong.
static CLOCK_SKEW: AtomicI64 = AtomicI64::new(0);

/// The clock of this process.
static CLOCK: LazyLock<Mutex<ProcessClock>> = LazyLock::new(|| {
    let deciding = Deciding::new(std::time::Instant::now(), machine());
    Mutex::new(ProcessClock { deciding, limit: SignedDuration::MAX, state: OffsetState::Small })
});

struct ProcessClock {
    deciding: Deciding,
    /// The largest difference to PostgreSQL's clock with which background work is done.
    limit: SignedDuration,
    state: OffsetState,
}

/// What was last logged of the difference to PostgreSQL's clock.
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

/// The variable with which `tollgate chaos` makes a gateway's clock wrong.
pub(crate) const AHEAD_VARIABLE: &str = "TOLLGATE_CHAOS_CLOCK_AHEAD";

/// Makes this process's clock wrong if the variable is set; refuses where real money is.
pub(crate) fn apply_test_skew(public_url: &str) -> Result<(), String> {
    let Ok(ahead) = std::env::var(AHEAD_VARIABLE) else { return Ok(()) };
    if !public_url.starts_with("http://127.") {
        return Err(format!("{AHEAD_VARIABLE} is for `tollgate chaos` alone: unset it"));
    }
    let ahead = ahead.parse().map_err(|_| format!("{AHEAD_VARIABLE} must be a number of seconds"))?;
    CLOCK_SKEW.store(ahead, Ordering::Relaxed);
    Ok(())
}

/// Sets the largest difference to PostgreSQL's clock with which background work is done.
pub(crate) fn allow_offset(limit: Duration) {
    CLOCK.lock().limit = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
}

/// Returns the time by the clock that decides.
pub(crate) fn now() -> Timestamp {
    reading().now
}

/// Reads the clock that decides.
pub(crate) fn reading() -> Reading {
    let clock = &mut CLOCK.lock().deciding;
    let at = std::time::Instant::now();
    let now = clock.now(at, machine());
    let steady_for = SignedDuration::try_from(clock.steady_for(at)).unwrap_or(SignedDuration::MAX);
    Reading { now, steady_for }
}

/// The time, and for how long it can be trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The time by the clock that decides.
    pub(crate) now: Timestamp,
    /// How long the clock has run without a step, at most since the start of this process.
    pub(crate) steady_for: SignedDuration,
}

impl Reading {
    /// Returns how long ago something was for certain: a step of the clock or a restart makes it shorter, never longer. What
    /// cannot be undone is decided by this.
    pub(crate) fn certain_age(&self, since: Timestamp) -> SignedDuration {
        self.now.duration_since(since).min(self.steady_for)
    }
}

/// Takes in PostgreSQL's time, which was asked for in a round trip that began and ended then.
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
            tracing::warn!(seconds, "this machine's clock differs from PostgreSQL's, which decides; check NTP on both");
        }
        OffsetState::Refused => tracing::error!(
            seconds,
            "this machine's clock differs from PostgreSQL's by more than `ledger.max_clock_offset`: this gateway is not ready \
             and does no background work; set the wrong one of both clocks right (NTP), it then goes on by itself"
        ),
    }
}

/// Returns by how many seconds this machine's clock is ahead of PostgreSQL's; 0 where no PostgreSQL was asked.
pub(crate) fn offset_seconds() -> f64 {
    let offset = CLOCK.lock().deciding.offset(std::time::Instant::now(), machine());
    offset.map_or(0.0, |offset| offset.ahead.as_secs_f64())
}

/// Returns why this gateway must do no background work: its clock differs too much from PostgreSQL's.
pub(crate) fn refusal() -> Option<String> {
    let clock = CLOCK.lock();
    let limit = clock.limit;
    let offset = clock.deciding.offset(std::time::Instant::now(), machine())?;
    offset.exceeds(limit).then(|| {
        let (seconds, limit) = (offset.ahead.as_secs_f64(), limit.as_secs());
        let side = if seconds > 0.0 { "ahead of" } else { "behind" };
        format!(
            "this machine's clock is {:.1} s {side} PostgreSQL's, and `ledger.max_clock_offset` is {limit} s: set the wrong one \
             right (NTP)",
            seconds.abs()
        )
    })
}

/// Whether this gateway may do background work: its clock does not differ too much from PostgreSQL's.
pub(crate) fn is_trusted() -> bool {
    refusal().is_none()
}

/// Returns the time by this machine's clock.
fn machine() -> Timestamp {
    let now = Timestamp::now();
    now.checked_add(SignedDuration::from_secs(CLOCK_SKEW.load(Ordering::Relaxed))).unwrap_or(now)
}

/// The moment and a fresh nonce for one signature.
pub fn stamp() -> Stamp {
    let nonce = rand::rng().sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect();
    Stamp { unix_time: unix_now(), nonce }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    u64::try_from(now().as_second()).unwrap_or(0)
}
