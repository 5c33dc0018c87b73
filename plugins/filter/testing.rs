//! A clock that stands still and an exchange that follows a script, for the filters' tests.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::payment::{Currency, Method, Money, Order, Pay, Payer, Refund};

/// Moves only when told to, or by as much as somebody sleeps.
pub(super) struct FakeClock {
    now: Mutex<Duration>,
    slept: Mutex<Vec<Duration>>,
    chance: f64,
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::with_chance(0.5)
    }
}

impl FakeClock {
    pub(super) fn with_chance(chance: f64) -> Self {
        Self { now: Mutex::new(Duration::from_secs(1000)), slept: Mutex::default(), chance }
    }

    pub(super) fn advance(&self, time: Duration) {
        *self.now.lock() += time;
    }

    pub(super) fn slept(&self) -> Vec<Duration> {
        self.slept.lock().clone()
    }
}

#[async_trait]
impl Clock for FakeClock {
    fn now(&self) -> Duration {
        *self.now.lock()
    }

    async fn sleep(&self, time: Duration) {
        self.slept.lock().push(time);
        self.advance(time);
    }

    fn random(&self) -> f64 {
        self.chance
    }
}

/// Answers in the order of the script; the last answer stays.
pub(super) struct Script {
    answers: Mutex<Vec<Result<Outcome, Error>>>,
    calls: AtomicUsize,
    gate: Option<Arc<tokio::sync::Semaphore>>,
}

impl Script {
    pub(super) fn of(mut answers: Vec<Result<Outcome, Error>>) -> Self {
        answers.reverse();
        Self { answers: Mutex::new(answers), calls: AtomicUsize::new(0), gate: None }
    }

    pub(super) fn always(answer: Result<Outcome, Error>) -> Self {
        Self::of(vec![answer])
    }

    /// Answers only once the semaphore lets it.
    pub(super) fn gated(answer: Result<Outcome, Error>, gate: Arc<tokio::sync::Semaphore>) -> Self {
        Self::always(answer).behind(gate)
    }

    /// The same answers, but only once the semaphore lets them.
    pub(super) fn behind(self, gate: Arc<tokio::sync::Semaphore>) -> Self {
        Self { gate: Some(gate), ..self }
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(super) async fn run(
        &self,
        filters: &[Arc<dyn Filter>],
        operation: &Operation,
        clock: &FakeClock,
        time: Duration,
    ) -> Result<Outcome, Error> {
        self.run_for(filters, operation, clock, time, false).await
    }

    /// The same, for a caller who may wait less long than the channel would.
    pub(super) async fn run_for(
        &self,
        filters: &[Arc<dyn Filter>],
        operation: &Operation,
        clock: &FakeClock,
        time: Duration,
        deadline_is_callers: bool,
    ) -> Result<Outcome, Error> {
        let (deadline, failure_reason) = (clock.now() + time, &FailureReason::default());
        let counter = &LocalOnly;
        let call = Call { channel: "main", operation, clock, counter, deadline, deadline_is_callers, failure_reason };
        Next::new(filters, self).run(&call).await
    }
}

#[async_trait]
impl Exchange for Script {
    async fn run(&self, _: &Call<'_>) -> Result<Outcome, Error> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            let _ = gate.acquire().await;
        }
        let mut answers = self.answers.lock();
        if answers.len() > 1 {
            answers.pop().unwrap_or_else(|| Err(Error::unclear("empty")))
        } else {
            answers[0].clone()
        }
    }
}

/// One operation of each kind.
pub(super) fn kinds() -> Vec<Operation> {
    let Some(method) = Method::parse("wechat.native") else { panic!("the method exists") };
    let amount = Money { value: 1, currency: Currency::CNY };
    let created_at = jiff::Timestamp::UNIX_EPOCH;
    let order = Order { number: "n".into(), method, amount, created_at, expires_at: None, provider_id: None };
    let refund = Refund {
        order: order.clone(),
        number: "r".into(),
        amount,
        created_at: order.created_at,
        reason: None,
        notify_url: "https://pay.example.com/notify/main".into(),
    };
    let pay = Pay {
        order: order.clone(),
        description: "tea".into(),
        payer: Payer::default(),
        return_url: None,
        notify_url: refund.notify_url.clone(),
    };
    vec![
        Operation::Pay(pay),
        Operation::Query(order.clone()),
        Operation::Close(order),
        Operation::Refund(refund.clone()),
        Operation::QueryRefund(refund),
    ]
}

/// Builds a filter from its TOML, as a channel's file would.
pub(super) fn built(name: &str, toml: &str, state: Option<State>) -> Result<Arc<dyn Filter>, Vec<String>> {
    let table = toml::de::DeTable::parse(toml).unwrap_or_else(|error| panic!("{error}"));
    let problems = crate::settings::Problems::default();
    let mut settings = Settings::root(&table, &problems);
    let row = FILTERS.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no filter {name}"));
    let filter = (row.build)(&mut settings, state);
    drop(settings);
    match filter {
        Some(filter) if problems.is_empty() => Ok(filter),
        _ => Err(problems.into_vec().into_iter().map(|problem| problem.message).collect()),
    }
}
