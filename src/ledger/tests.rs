//! Tests of the ledger through its public interface, on a real disk and on a real PostgreSQL. This file holds what
//! the tests share; each file below has one subject.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::duplicate_mod, reason = "one suite over each engine")]

/// Tests that every engine must pass.
macro_rules! suite {
    () => {
        #[path = "attempts.rs"]
        mod attempts;
        #[path = "changes.rs"]
        mod changes;
        #[path = "claims.rs"]
        mod claims;
        #[path = "clocks.rs"]
        mod clocks;
        #[path = "closes.rs"]
        mod closes;
        #[path = "crashes.rs"]
        mod crashes;
        #[path = "deliveries.rs"]
        mod deliveries;
        #[path = "elsewhere.rs"]
        mod elsewhere;
        #[path = "elsewhere_unpaid.rs"]
        mod elsewhere_unpaid;
        #[path = "events.rs"]
        mod events;
        #[path = "jobs.rs"]
        mod jobs;
        #[path = "model_based.rs"]
        mod model_based;
        #[path = "redelivery.rs"]
        mod redelivery;
        #[path = "retention.rs"]
        mod retention;
        #[path = "sinks.rs"]
        mod sinks;
        #[path = "timelines.rs"]
        mod timelines;
    };
}

mod backends;
mod checkpoint;
mod damage;
mod durability;
mod event_order;
mod failover;
mod feed;
mod full_disk;
mod many_refunds;
mod migration;
mod model;
mod multi_process;
mod multi_process_workers;
mod on_disk;
mod on_postgres;
mod on_tables;
mod postgres_outage;
mod protection;
mod relay;
#[path = "../../tests/servers/server.rs"]
mod server;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use proptest::test_runner::{Config as ProptestConfig, FileFailurePersistence};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::{Currency, Event as ProviderEvent, Money, Outcome, Status, provider_number};

use self::backends::{Backend, Directory, Schema};
use super::claim_guard::ClaimGuard;
use super::claims::Request;
use super::engine::Engine;
use super::lock_scope::LockScope;
use super::testing::{a_payment, a_refund, at, cny};
use super::transaction::Durability::Durable;
use super::*;

/// Number of reported duplicate payments, by channel.
static DOUBLE_PAYMENTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Counts duplicate payments and discards all other measurements.
struct Recorder;

impl Metrics for Recorder {
    fn record(&self, measurement: Measurement<'_>) {
        if let Measurement::DoublePayment { channel } = measurement {
            *DOUBLE_PAYMENTS.lock().entry(channel.to_owned()).or_default() += 1;
        }
    }
}

/// Merchants `narrow-…` whose sink `mq` gets `payment.failed` by now.
static WIDENED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Returns the name of a merchant whose sink `mq` gets no `payment.failed` yet.
fn narrow_merchant() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("narrow-{}", MADE.fetch_add(1, Ordering::SeqCst))
}

/// Sinks of the merchants in tests. All have a webhook, except `none`.
struct TestSinks;

impl Subscriptions for TestSinks {
    fn sinks(&self, merchant: &str, event_type: &str) -> Vec<SinkName> {
        let mut sinks = vec![SinkName::WEBHOOK];
        match merchant {
            "none" => sinks.clear(),
            "many" => sinks.push("mq".into()),
            // Stands for a sink that is added between two events of a payment.
            "late" if event_type == "payment.succeeded" => sinks.push("mq".into()),
            narrow
                if narrow.starts_with("narrow-")
                    && (event_type != "payment.failed" || WIDENED.lock().contains(narrow)) =>
            {
                sinks.push("mq".into());
            }
            _ => {}
        }
        if merchant == "many" && event_type.starts_with("refund.") {
            sinks.push("refunds".into());
        }
        sinks
    }
}

fn environment() -> Environment {
    Environment { metrics: Arc::new(Recorder), subscriptions: Arc::new(TestSinks), ..testing::environment() }
}

/// Returns a configuration with this many cases. Failing seeds are stored beside the source file.
pub(super) fn proptest_config(cases: u32) -> ProptestConfig {
    let regressions = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(regressions)), ..ProptestConfig::default() }
}

/// Migrates as `tollgate migrate` does.
fn migrate(from: &Path, to: Address) -> Result<Moved, LedgerError> {
    super::migrate(from, to, environment())
}

/// A ledger with its backend, which is deleted with it.
struct Fixture<P> {
    ledger: Ledger,
    backend: P,
}

impl<P: Backend> Fixture<P> {
    fn new() -> Self {
        let backend = P::new();
        Self { ledger: backend.open(), backend }
    }

    /// Reopens a copy of the present state on disk, as after a crash.
    fn crash(&self) -> Self {
        let backend = self.backend.copy();
        Self { ledger: backend.open(), backend }
    }

    async fn claim(&self, key: &str, intent: Intent) -> ClaimResult {
        let body = format!("{intent:?}");
        self.ledger.claim(claim_key(key, &body), intent, at(0)).await.unwrap()
    }

    async fn run(&self, key: &str, intent: Intent) -> ExecutionPermit {
        match self.claim(key, intent).await {
            ClaimResult::Run(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, permit: ExecutionPermit, update: Update) -> Record {
        self.ledger.settle(permit, update, at(1), answer).await.unwrap().0
    }

    /// Creates a successful payment of 1000.
    /// Creates a payment that is not paid yet.
    async fn pending(&self, order: &str) {
        let permit = self.run("k", pay(order)).await;
        self.settle(permit, outcome(Status::Pending)).await;
    }

    async fn paid(&self, order: &str) {
        let permit = self.run(&format!("pay {order}"), pay(order)).await;
        self.settle(permit, outcome(Status::Succeeded)).await;
    }

    async fn payment(&self, order: &str) -> Payment {
        self.ledger.payment("shop", order).await.unwrap().unwrap()
    }

    /// Saves an inquiry as if the present one had been loaded.
    async fn save_inquiry(&self, subject: &RecordId, next: Option<Inquiry>) -> bool {
        let loaded = match &subject.refund_id {
            Some(refund) => self.refund(&subject.order_id, refund).await.state.inquiry,
            None => self.payment(&subject.order_id).await.state.inquiry,
        };
        let loaded = loaded.unwrap_or_else(|| Inquiry::new(at(0)));
        self.ledger.save_inquiry(subject, &loaded, next).await.unwrap()
    }

    async fn refund(&self, order: &str, refund: &str) -> Refund {
        self.ledger.refund("shop", order, refund).await.unwrap().unwrap()
    }

    /// Delivers every event, as for a merchant that accepts all.
    async fn deliver_all(&self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let due = self.deliveries(at(1_000_000_000), 10).await;
            if due.is_empty() {
                return events;
            }
            for delivery in due {
                self.ledger.delivered(&delivery, at(2)).await.unwrap();
                events.push(delivery.event);
            }
            assert!(events.len() < 1000, "they never end");
        }
    }

    async fn kinds(&self) -> Vec<String> {
        self.deliver_all().await.into_iter().map(|event| event.kind).collect()
    }

    /// Returns records with a due inquiry, without those that only wait for a notification.
    async fn due(&self) -> Vec<Record> {
        let mut due = self.ledger.due_inquiries(at(1_000_000_000), 100, &[]).await;
        due.retain(|record| {
            let inquiry = match record {
                Record::Payment(payment) => payment.inquiry.clone().unwrap(),
                Record::Refund(refund) => refund.inquiry.clone().unwrap(),
            };
            inquiry.closing || inquiry.due.duration_since(inquiry.since) < jiff::SignedDuration::from_secs(240)
        });
        due
    }

    /// Returns a delivery of an event to a sink, whether it is due or not.
    async fn delivery(&self, event_id: &str, sink: &SinkName) -> Delivery {
        let mut any = self.deliveries(at(1_000_000_000), 1).await.remove(0);
        any.event.id = event_id.to_owned();
        Delivery { sink: sink.clone(), ..any }
    }

    async fn deliveries(&self, now: Timestamp, limit: usize) -> Vec<Delivery> {
        self.ledger.due_deliveries(now, limit, |_| usize::MAX, |_, _| false).await
    }
}

fn claim_key(key: &str, body: &str) -> ClaimKey {
    let mut fingerprint = [0; 32];
    for (index, byte) in provider_number(&[body]).bytes().take(32).enumerate() {
        fingerprint[index] = byte;
    }
    ClaimKey { merchant: "shop".into(), method: "POST".into(), path: "/".into(), key: key.into(), fingerprint }
}

fn destination(channel: &str, account: &str) -> Destination {
    Destination { channel: channel.into(), account: account.into(), expires_at: None, public_url: String::new() }
}

fn pay(order: &str) -> Intent {
    Intent::Pay(a_payment(order))
}

fn refund_intent(order: &str, refund: &str, value: u64) -> Intent {
    Intent::Refund(a_refund(order, refund, value))
}

fn close(order: &str) -> Intent {
    Intent::Close(of(order))
}

fn of(order: &str) -> RecordId {
    RecordId { merchant: "shop".into(), order_id: order.into(), refund_id: None }
}

fn of_refund(order: &str, refund: &str) -> RecordId {
    RecordId { refund_id: Some(refund.into()), ..of(order) }
}

pub(super) fn outcome(status: Status) -> Update {
    Update::Outcome(Outcome::of(status))
}

pub(super) fn provider_error() -> ProviderError {
    ProviderError { code: "NOT_ENOUGH".into(), message: "余额不足".into() }
}

fn answer(record: &Record) -> Answer {
    let body = match record {
        Record::Payment(payment) => format!("{} {}", payment.order_id, payment.status.as_str()),
        Record::Refund(refund) => format!("{} {}", refund.refund_id, refund.status.as_str()),
    };
    Answer { status: 201, content_type: "text/plain".into(), body }
}

fn notification(id: &str, order: &str, refund: Option<&str>, outcome: Outcome) -> ProviderEvent {
    ProviderEvent {
        id: id.into(),
        order_number: provider_number(&["shop", order]),
        refund_number: refund.map(|refund| provider_number(&["shop", order, refund])),
        outcome: Some(outcome),
        amount: None,
        refunded: None,
    }
}
