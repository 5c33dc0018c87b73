//! Finds out by itself how many calls a channel bears at the same time: when answers take longer than they usually do, more
//! calls only wait in a queue over there, so fewer are let through and the others are turned away early.
//!
//! The limit follows a gradient, as Envoy's adaptive concurrency and Netflix's concurrency-limits do it: at the end of each
//! window, limit × (tolerance × usual latency ÷ latency of the window, from ½ to 1) + √limit, between floor and ceiling. What is
//! usual is a long-term minimum: it follows a shorter latency at once and a longer one by a small part a window, so that a
//! channel which became slower for good is not strangled for ever.
//!
//! Each kind of operation is measured and limited on its own: a refund may take longer than a query, and a crowd of payments
//! must not keep anybody from asking what became of them.

mod gradient;

use std::collections::BTreeMap;

use parking_lot::Mutex;

use self::gradient::Gradient;
use super::*;

/// All that can be tuned.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// The limit is never less,
    floor: u32,
    /// nor more,
    ceiling: u32,
    /// and this at first.
    start: u32,
    /// So many times the usual latency is no sign of a queue.
    tolerance: f64,
    /// How long latencies are gathered before the limit moves.
    window: Duration,
}

struct Adaptive {
    numbers: Numbers,
    memory: Arc<Memory>,
}

/// What outlives a reload.
type Memory = Mutex<BTreeMap<Kind, Lane>>;

/// What is known of one kind of operation.
struct Lane {
    gradient: Gradient,
    inside: u32,
    shed: u64,
}

pub(super) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let numbers = Numbers::read(settings)?;
    let memory = state.and_then(|state| state.downcast::<Memory>().ok()).unwrap_or_default();
    Some(Arc::new(Adaptive { numbers, memory }))
}

impl Numbers {
    fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let before = settings.problems().len();
        let floor = settings.or("floor", 4u32);
        let ceiling = settings.or("ceiling", 500u32);
        let start = settings.or("start", 50u32.clamp(floor.min(ceiling), ceiling));
        let tolerance = settings.or("tolerance", 1.5);
        let window = settings.or("window", Duration::from_secs(1));
        if floor == 0 {
            settings.problem(
                "floor",
                "`floor` must be at least 1, or a slow channel could never be found well again",
                None,
            );
        }
        if floor > ceiling {
            settings.problem("ceiling", "`ceiling` must be at least `floor`", None);
        }
        if settings.has("start") && !(floor..=ceiling.max(floor)).contains(&start) {
            settings.problem("start", "`start` must be from `floor` to `ceiling`", None);
        }
        if !(1.0..=10.0).contains(&tolerance) {
            let message =
                "`tolerance` must be from 1 to 10 times the usual latency: with less every latency would be too long";
            settings.problem("tolerance", message, None);
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&window) {
            settings.problem("window", "`window` must be from 100ms to 60s", None);
        }
        let numbers = Self { floor, ceiling, start, tolerance, window };
        (settings.problems().len() == before).then_some(numbers)
    }
}

#[async_trait]
impl Filter for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let kind = call.operation.kind();
        let start = call.clock.now();
        self.enter(call, kind, start)?;
        // Gives the place back if this call is dropped before it ends.
        let place = Place { memory: &self.memory, kind };
        let result = next.run(call).await;
        let now = call.clock.now();
        let mut memory = self.memory.lock();
        if let Some(lane) = memory.get_mut(&kind) {
            let inside = lane.inside;
            match sample(&result) {
                Sample::Latency => lane.gradient.add(&self.numbers, now, now.saturating_sub(start), inside),
                Sample::AtLeast => lane.gradient.add_if_longer(&self.numbers, now, now.saturating_sub(start), inside),
                Sample::None => {}
            }
        }
        drop(memory);
        drop(place);
        result
    }

    fn state(&self) -> State {
        Arc::clone(&self.memory) as State
    }

    fn samples(&self, _: Duration) -> Vec<FilterSample> {
        let memory = self.memory.lock();
        let tell = |(kind, lane): (&Kind, &Lane)| {
            [
                FilterSample::of("adaptive_limit", *kind, f64::from(lane.gradient.limit(&self.numbers))),
                FilterSample::of("adaptive_in_flight", *kind, f64::from(lane.inside)),
                FilterSample::of("adaptive_baseline_seconds", *kind, lane.gradient.usual()),
                FilterSample::of("adaptive_shed_total", *kind, lane.shed as f64),
            ]
        };
        memory.iter().flat_map(tell).collect()
    }
}

impl Adaptive {
    fn enter(&self, call: &Call<'_>, kind: Kind, now: Duration) -> Result<(), Error> {
        let mut memory = self.memory.lock();
        let lane = memory.entry(kind).or_insert_with(|| Lane {
            gradient: Gradient::new(&self.numbers, now),
            inside: 0,
            shed: 0,
        });
        let limit = lane.gradient.limit(&self.numbers);
        if lane.inside < limit {
            lane.inside += 1;
            return Ok(());
        }
        lane.shed += 1;
        let why = format!(
            "the channel `{}` bears {limit} calls for {} at the same time now, and has them",
            call.channel,
            kind.as_str()
        );
        // By then the limit may have moved.
        Err(Error::Rejected { why, retry_after: (self.numbers.window.as_secs_f64().ceil() as u64).max(1) })
    }
}

/// What a call's end tells of the channel's latency.
enum Sample {
    /// It took this long.
    Latency,
    /// It would have taken longer than this; when it broke off early it tells nothing.
    AtLeast,
    /// Nothing reached the provider.
    None,
}

fn sample(result: &Result<Outcome, Error>) -> Sample {
    match result {
        Err(Error::Unsupported(_) | Error::NotSent(_) | Error::Rejected { .. } | Error::Unverifiable { .. }) => {
            Sample::None
        }
        Err(Error::Unclear { .. }) => Sample::AtLeast,
        _ => Sample::Latency,
    }
}

struct Place<'a> {
    memory: &'a Memory,
    kind: Kind,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.memory.lock().get_mut(&self.kind) {
            lane.inside = lane.inside.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
