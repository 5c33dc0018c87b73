//! What each filter costs a request by itself, next to a call without any.
//!
//! `cargo bench -p tollgate-plugins --bench filters`. The exchange at the end answers at once, so that nothing but the filters is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic, missing_docs, unreachable_pub)]

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::{Call, Clock, Exchange, FailureReason, Filter, LocalOnly, Next};
use tollgate_plugins::payment::{Currency, Method, Money, Operation, Order, Outcome, Status};
use tollgate_plugins::registry::FILTERS;
use tollgate_plugins::settings::{Problems, Settings};

/// Short rounds, so that most of them are not interrupted by what else the machine does.
const CALLS: u32 = 1_000;
const ROUNDS: usize = 2_000;

/// Filters with the numbers of the example configuration; none of them turns anything away here.
const CHAINS: &[(&str, &[(&str, &str)])] = &[
    ("a bare call", &[]),
    ("limit", &[("limit", "rate = 1e9\nin_flight = 1000")]),
    ("retry", &[("retry", "")]),
    ("breaker", &[("breaker", "slow_call = { duration = \"3s\" }")]),
    ("adaptive", &[("adaptive", "")]),
    (
        "all of them",
        &[
            ("limit", "rate = 1e9\nin_flight = 1000"),
            ("retry", ""),
            ("breaker", "slow_call = { duration = \"3s\" }"),
            ("adaptive", ""),
        ],
    ),
];

fn main() {
    let mut bare = None;
    for (name, chain) in CHAINS {
        let filters: Vec<_> = chain.iter().map(|(name, toml)| built(name, toml)).collect();
        let each = measured(&filters);
        let base = *bare.get_or_insert(each);
        println!(
            "{name:<12} {:>6} ns a request, its own {:>6} ns",
            each.as_nanos(),
            each.saturating_sub(base).as_nanos()
        );
    }
}

fn built(name: &str, toml: &str) -> Arc<dyn Filter> {
    let table = toml::de::DeTable::parse(toml).unwrap();
    let problems = Problems::default();
    let mut settings = Settings::root(&table, &problems);
    let row = FILTERS.iter().find(|row| row.name == name).unwrap();
    (row.build)(&mut settings, None).unwrap()
}

/// The clock of the gateway, without a runtime.
struct SinceStart(Instant);

#[async_trait]
impl Clock for SinceStart {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
    async fn sleep(&self, _: Duration) {}
    fn random(&self) -> f64 {
        0.5
    }
}

struct AtOnce;

#[async_trait]
impl Exchange for AtOnce {
    async fn run(&self, _: &Call<'_>) -> Result<Outcome, Error> {
        Ok(Outcome::of(Status::Pending))
    }
}

fn measured(filters: &[Arc<dyn Filter>]) -> Duration {
    let order = Order {
        number: "0123456789abcdef0123456789abcdef".into(),
        method: Method::parse("wechat.native").unwrap(),
        amount: Money { value: 888, currency: Currency::CNY },
        created_at: jiff::Timestamp::UNIX_EPOCH,
        expires_at: None,
        provider_id: None,
    };
    let (operation, clock) = (Operation::Query(order), SinceStart(Instant::now()));
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                let (failure_reason, deadline) = (FailureReason::default(), clock.now() + Duration::from_secs(5));
                let (operation, clock, counter, failure_reason) = (&operation, &clock, &LocalOnly, &failure_reason);
                let call = Call {
                    channel: "main",
                    operation,
                    clock,
                    counter,
                    deadline,
                    deadline_is_callers: false,
                    failure_reason,
                };
                let ends = pin!(Next::new(filters, &AtOnce).run(&call));
                match ends.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(outcome) => drop(black_box(outcome.unwrap())),
                    Poll::Pending => panic!("nothing waits here"),
                }
            }
            start.elapsed() / CALLS
        })
        .collect();
    rounds.sort();
    rounds[rounds.len() / 10]
}
