//! Test doubles for filters: a manual clock and a scripted exchange.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::payment::{Currency, Method, Money, Order, Pay, Payer, Refund};

/// Clock that moves only by `advance` and `sleep`.
pub(super) struct FakeClock {
    now: Mutex<Duration>,
    slept: Mutex<Vec<Duration>>,
    random: f64,
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::with_random(0.5)
    }
}

impl FakeClock {
    pub(super) fn with_random(random: f64) -> Self {
        Self { now: Mutex::new(Duration::from_secs(1000)), slept: Mutex::default(), random }
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
        self.random
    }
}

/// Exchange that returns scripted results in order. The last result repeats.
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

    /// Always returns `answer`, each time after acquiring a permit of the semaphore.
    pub(super) fn gated(answer: Result<Outcome, Error>, gate: Arc<tokio::sync::Semaphore>) -> Self {
        Self::always(answer).behind(gate)
    }

    /// Delays each result until a permit of the semaphore is acquired.
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

    /// Like [`run`](Self::run), with a deadline that may be the caller's own.
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

/// Returns one operation of each kind.
pub(super) fn kinds() -> Vec<Operation> {
    let Some(method) = Method::parse("wechat.native") else { panic!("the method exists") };
    let amount = Money { value: 1, currency: Currency::CNY };
    let created_at = jiff::Timestamp::UNIX_EPOCH;
    let order = Order { number: "n".into(), method, amount, created_at, expires_at: None, provider_id: None };
    let refund = Refund {
        order: order.clone(),
        number: "r".into(),
        amount,
        made_elsewhere: false,
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

/// Builds a filter from the TOML of its table. Returns the messages of all errors.
pub(super) fn built(name: &str, toml: &str, state: Option<State>) -> Result<Arc<dyn Filter>, Vec<String>> {
    let table = toml::de::DeTable::parse(toml).unwrap_or_else(|error| panic!("{error}"));
    let problems = crate::settings::Problems::default();
    let mut settings = Settings::root(&table, &problems);
    let spec =
        crate::registry::FILTERS.iter().find(|spec| spec.name == name).unwrap_or_else(|| panic!("no filter {name}"));
    let filter = (spec.build)(&mut settings, state);
    drop(settings);
    match filter {
        Some(filter) if problems.is_empty() => Ok(filter),
        _ => Err(problems.into_vec().into_iter().map(|problem| problem.message).collect()),
    }
}
