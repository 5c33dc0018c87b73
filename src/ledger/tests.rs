//! The ledger as its users see it, on a real disk and on a real PostgreSQL. Here what the tests share; each file below has
//! one matter.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::duplicate_mod, reason = "one suite over each engine")]

/// What every engine must do, whatever it is made of.
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
        #[path = "crashes.rs"]
        mod crashes;
        #[path = "deliveries.rs"]
        mod deliveries;
        #[path = "elsewhere.rs"]
        mod elsewhere;
        #[path = "jobs.rs"]
        mod jobs;
        #[path = "model_based.rs"]
        mod model_based;
        #[path = "retention.rs"]
        mod retention;
        #[path = "timelines.rs"]
        mod timelines;
    };
}

mod backends;
mod checkpoint;
mod damage;
mod durability;
mod failover;
mod feed;
mod full_disk;
mod many_refunds;
mod migration;
mod model;
mod multi_process;
mod on_disk;
mod on_postgres;
mod on_tables;
mod postgres_outage;
mod protection;
mod relay;
#[path = "../../tests/servers/server.rs"]
mod server;
mod takeover;

use jiff::{Timestamp, ToSpan};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::{Currency, Event as ProviderEvent, Method, Money, Outcome, Status, provider_number};

use self::backends::{Backend, Directory, Schema};
use super::*;

/// A ledger in a place that goes with it.
struct Fixture<P> {
    ledger: Ledger,
    place: P,
}

impl<P: Backend> Fixture<P> {
    fn new() -> Self {
        let place = P::new();
        Self { ledger: place.open(), place }
    }

    /// What a crash leaves: everything as it is at this moment, opened again.
    fn crash(&self) -> Self {
        let place = self.place.copy();
        Self { ledger: place.open(), place }
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

    /// A payment of 1000 that is paid.
    async fn paid(&self, order: &str) {
        let permit = self.run(&format!("pay {order}"), pay(order)).await;
        self.settle(permit, outcome(Status::Succeeded)).await;
    }

    async fn payment(&self, order: &str) -> Payment {
        self.ledger.payment("shop", order).await.unwrap().unwrap()
    }

    async fn refund(&self, order: &str, refund: &str) -> Refund {
        self.ledger.refund("shop", order, refund).await.unwrap().unwrap()
    }

    /// Takes every event out of the queues, as a merchant who accepts all.
    async fn hear_all(&self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let due = self.deliveries(at(1_000_000_000), 10).await;
            if due.is_empty() {
                return events;
            }
            for delivery in due {
                self.ledger.delivered(&delivery.event.id, at(2)).await.unwrap();
                events.push(delivery.event);
            }
            assert!(events.len() < 1000, "they never end");
        }
    }

    async fn kinds(&self) -> Vec<String> {
        self.hear_all().await.into_iter().map(|event| event.kind).collect()
    }

    /// What is asked about soon, without what only waits for its notification.
    async fn due(&self) -> Vec<Record> {
        let mut due = self.ledger.due_searches(at(1_000_000_000), 100, &[]).await;
        due.retain(|record| {
            let search = match record {
                Record::Payment(payment) => payment.search.clone().unwrap(),
                Record::Refund(refund) => refund.search.clone().unwrap(),
            };
            search.closing || search.due.duration_since(search.since) < jiff::SignedDuration::from_secs(240)
        });
        due
    }

    async fn deliveries(&self, now: Timestamp, limit: usize) -> Vec<Delivery> {
        self.ledger.due_deliveries(now, limit, |_| usize::MAX, |_, _| false).await
    }
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000).unwrap() + seconds.seconds()
}

fn claim_key(key: &str, body: &str) -> ClaimKey {
    let mut fingerprint = [0; 32];
    for (place, byte) in provider_number(&[body]).bytes().take(32).enumerate() {
        fingerprint[place] = byte;
    }
    ClaimKey { merchant: "shop".into(), method: "POST".into(), path: "/".into(), key: key.into(), fingerprint }
}

pub(super) fn cny(value: u64) -> Money {
    Money { value, currency: Currency::CNY }
}

pub(crate) fn a_payment(order: &str) -> Payment {
    Payment {
        merchant: "shop".into(),
        order_id: order.into(),
        provider_order_no: provider_number(&["shop", order]),
        content: "content".into(),
        status: Status::Pending,
        money_state: MoneyState::NotSent,
        amount: cny(1000),
        refunded: 0,
        refunded_elsewhere: 0,
        method: Method::all().next().unwrap(),
        channel: "wechat".into(),
        account: "wechat-v3:1900000109".into(),
        provider_payment_id: None,
        action: None,
        provider_error: None,
        status_reason: None,
        create_request: None,
        version: 1,
        created_at: at(0),
        sent_at: None,
        updated_at: at(0),
        expires_at: None,
        paid_at: None,
        metadata: None,
        search: None,
    }
}

fn destination(channel: &str, account: &str) -> Destination {
    Destination { channel: channel.into(), account: account.into(), expires_at: None, public_url: String::new() }
}

pub(crate) fn a_refund(order: &str, refund: &str, value: u64) -> Refund {
    Refund {
        merchant: "shop".into(),
        order_id: order.into(),
        refund_id: refund.into(),
        provider_refund_no: provider_number(&["shop", order, refund]),
        content: format!("{value}"),
        status: Status::Pending,
        money_state: MoneyState::NotSent,
        amount: cny(value),
        reason: None,
        channel: String::new(),
        provider_refund_id: None,
        provider_error: None,
        status_reason: None,
        version: 1,
        created_at: at(0),
        sent_at: None,
        updated_at: at(0),
        refunded_at: None,
        search: None,
    }
}

fn pay(order: &str) -> Intent {
    Intent::Pay(a_payment(order))
}

fn give_back(order: &str, refund: &str, value: u64) -> Intent {
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

pub(super) fn word() -> ProviderError {
    ProviderError { code: "NOT_ENOUGH".into(), message: "余额不足".into() }
}

fn answer(record: &Record) -> Answer {
    let body = match record {
        Record::Payment(payment) => format!("{} {}", payment.order_id, payment.status.as_str()),
        Record::Refund(refund) => format!("{} {}", refund.refund_id, refund.status.as_str()),
    };
    Answer { status: 201, content_type: "text/plain".into(), body }
}

fn told(id: &str, order: &str, refund: Option<&str>, outcome: Outcome) -> ProviderEvent {
    ProviderEvent {
        id: id.into(),
        order_number: provider_number(&["shop", order]),
        refund_number: refund.map(|refund| provider_number(&["shop", order, refund])),
        outcome: Some(outcome),
        amount: None,
        refunded: None,
    }
}
