//! Fixtures for the tests and benches of other crates: records, and a process without metrics.
#![allow(clippy::expect_used, reason = "only tests use it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::{Currency, Method, Money, provider_number};

use crate::Ledger;
use crate::environment::{Clock, Environment, Measurement, Metrics, Reading, WebhookOnly};
use crate::error::LedgerError;
use crate::postgres::Address;
use crate::records::{Payment, RecordState, Refund};

/// The machine's clock. Measurements of PostgreSQL's clock are ignored.
struct MachineClock(Instant);

impl Clock for MachineClock {
    fn reading(&self) -> Reading {
        let steady_for = SignedDuration::try_from(self.0.elapsed()).unwrap_or(SignedDuration::MAX);
        Reading { now: Timestamp::now(), steady_for }
    }

    fn measured(&self, _: Instant, _: Instant, _: Timestamp) {}
}

/// Discards measurements.
struct NoMetrics;

impl Metrics for NoMetrics {
    fn record(&self, _: Measurement<'_>) {}
}

/// Returns an environment with the machine's clock, without metrics, and with a webhook for every merchant.
pub fn environment() -> Environment {
    Environment {
        clock: Arc::new(MachineClock(Instant::now())),
        metrics: Arc::new(NoMetrics),
        subscriptions: Arc::new(WebhookOnly),
    }
}

impl Ledger {
    /// Opens the ledger in a directory with [`environment`] and the default reserve.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_with(path, crate::RESERVE, environment())
    }

    /// Connects to a ledger in PostgreSQL with [`environment`] and the default number of connections.
    pub fn connect(address: Address) -> Result<Self, LedgerError> {
        Self::connect_with(address, crate::CONNECTIONS, environment())
    }
}

/// Time of the fixtures: this many seconds after an arbitrary start.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000 + seconds).unwrap_or(Timestamp::MAX)
}

/// Returns a payment of merchant `shop` over 10 yuan of which nothing was sent.
pub fn a_payment(order: &str) -> Payment {
    Payment {
        merchant: "shop".into(),
        order_id: order.into(),
        provider_order_no: provider_number(&["shop", order]),
        content: "content".into(),
        amount: cny(1000),
        refunded: 0,
        refunded_elsewhere: 0,
        method: Method::all().next().expect("the registry has methods"),
        channel: "wechat".into(),
        account: "wechat-v3:1900000109".into(),
        provider_payment_id: None,
        action: None,
        create_request: None,
        expires_at: None,
        paid_at: None,
        metadata: None,
        state: RecordState::new(at(0)),
    }
}

/// Returns a refund of merchant `shop` of which nothing was sent. `value` is the amount in fen.
pub fn a_refund(order: &str, refund: &str, value: u64) -> Refund {
    Refund {
        merchant: "shop".into(),
        order_id: order.into(),
        refund_id: refund.into(),
        provider_refund_no: provider_number(&["shop", order, refund]),
        content: format!("{value}"),
        amount: cny(value),
        reason: None,
        channel: String::new(),
        provider_refund_id: None,
        refunded_at: None,
        state: RecordState::new(at(0)),
    }
}

pub(crate) fn cny(value: u64) -> Money {
    Money { value, currency: Currency::CNY }
}
