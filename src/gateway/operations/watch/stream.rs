//! Stream of a payment's states: the present one, then each change, until a final state.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use tollgate_ledger::{Ledger, LedgerError, Payment, RecordKey};

use crate::change_hub::{ChangeHub, Subscription};
use crate::view;

/// Maximum duration of a stream.
pub(super) const MAX_DURATION: Duration = Duration::from_mins(15);
/// Interval of reads in case the notice of a change was lost.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a failed read of the ledger.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Data that the reader of a stream may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The whole payment: its merchant reads it.
    Payment,
    /// Status and version: its payer reads it.
    Status,
}

/// One state of a payment, for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateEvent {
    /// Version of the payment.
    pub(crate) version: u64,
    /// Type, as in `payment.succeeded`.
    pub(crate) kind: String,
    /// One line of JSON.
    pub(crate) data: String,
}

/// Stream of one payment's states.
pub(crate) struct PaymentStream {
    pub(super) ledger: Ledger,
    pub(super) hub: Arc<ChangeHub>,
    pub(super) key: RecordKey,
    pub(super) subscription: Subscription<RecordKey>,
    pub(super) scope: Scope,
    /// Version that the reader has.
    pub(super) version: Option<u64>,
    /// Time of the next read at the latest. The payment is read at once if it is over.
    pub(super) read_at: Instant,
    pub(super) is_over: bool,
    pub(super) ends_at: Instant,
}

impl PaymentStream {
    /// Returns the next state; `None` at the end. A call that is cancelled loses nothing.
    pub(crate) async fn next(&mut self) -> Option<StateEvent> {
        let (hub, ends_at) = (Arc::clone(&self.hub), self.ends_at);
        loop {
            if self.is_over || Instant::now() >= ends_at {
                return None;
            }
            if Instant::now() < self.read_at {
                tokio::select! {
                    biased;
                    () = hub.draining() => self.is_over = true,
                    () = self.subscription.changed() => self.read_at = Instant::now(),
                    () = sleep_until(self.read_at.min(ends_at)) => {}
                }
                continue;
            }
            let read = tokio::select! {
                biased;
                read = self.read() => read,
                // A read may take long while the ledger fails.
                () = hub.draining() => return None,
                () = sleep_until(ends_at) => return None,
            };
            match read {
                Ok(Some(payment)) => {
                    self.read_at = Instant::now() + RECHECK_INTERVAL;
                    if let Some(event) = self.advance(&payment) {
                        return Some(event);
                    }
                }
                Ok(None) => self.is_over = true,
                Err(error) => {
                    tracing::warn!(%error, "a watched payment cannot be read; it is read again");
                    self.read_at = Instant::now() + RETRY_INTERVAL;
                }
            }
        }
    }

    async fn read(&self) -> Result<Option<Payment>, LedgerError> {
        // An error means that the semaphore was closed, which never happens.
        let _permit = self.hub.reads.acquire().await.ok();
        self.ledger.payment_by_key(self.key).await
    }

    /// Returns the event of a state that the reader does not have.
    pub(super) fn advance(&mut self, payment: &Payment) -> Option<StateEvent> {
        self.is_over |= payment.status.is_final();
        if self.version.replace(payment.version) == Some(payment.version) {
            return None;
        }
        let data = match self.scope {
            Scope::Payment => json(&view::payment_view(payment)),
            Scope::Status => json(&view::status_view(payment)),
        };
        let kind = format!("payment.{}", payment.status.as_str());
        Some(StateEvent { version: payment.version, kind, data })
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use futures_util::FutureExt;
    use tollgate_ledger::testing::a_payment;
    use tollgate_ledger::{ClaimKey, ClaimResult, ExecutionPermit, Intent, RecordId, Update};
    use tollgate_plugins::payment::{Outcome, Status};

    use super::*;
    use crate::clock;

    struct Fixture {
        ledger: Ledger,
        hub: Arc<ChangeHub>,
        _directory: tempfile::TempDir,
    }

    impl Fixture {
        /// Returns a ledger with one payment that is being made.
        async fn new() -> (Self, ExecutionPermit) {
            let directory = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(directory.path()).unwrap();
            let hub = Arc::new(ChangeHub::default());
            ledger.listen(Arc::clone(&hub) as _).unwrap();
            let [merchant, method, path, key] = ["shop", "POST", "/", "k"].map(str::to_owned);
            let key = ClaimKey { merchant, method, path, key, fingerprint: [0; 32] };
            let claimed = ledger.claim(key, Intent::Pay(a_payment("o")), clock::now()).await.unwrap();
            let ClaimResult::Run(permit) = claimed else { panic!("it runs") };
            (Self { ledger, hub, _directory: directory }, permit)
        }

        fn stream(&self, scope: Scope, version: Option<u64>) -> PaymentStream {
            let subject = RecordId { merchant: "shop".into(), order_id: "o".into(), refund_id: None };
            let key = RecordKey::of(&subject);
            PaymentStream {
                ledger: self.ledger.clone(),
                hub: Arc::clone(&self.hub),
                key,
                subscription: self.hub.payments.subscribe(key, 8, 8).unwrap(),
                scope,
                version,
                read_at: Instant::now(),
                is_over: false,
                ends_at: Instant::now() + MAX_DURATION,
            }
        }

        async fn settle(&self, permit: ExecutionPermit, status: Status) {
            let update = Update::Outcome(Outcome::of(status));
            let answer =
                |_: &_| tollgate_ledger::Answer { status: 201, content_type: String::new(), body: String::new() };
            self.ledger.settle(permit, update, clock::now(), answer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn states_follow_changes_until_a_final_one_and_a_known_version_is_not_repeated() {
        let (fixture, permit) = Fixture::new().await;
        let mut stream = fixture.stream(Scope::Status, None);
        let first = stream.next().await.unwrap();
        assert_eq!((first.version, first.kind.as_str()), (1, "payment.pending"));
        assert_eq!(first.data, r#"{"status":"pending","version":1}"#);
        assert_eq!(stream.next().now_or_never(), None, "nothing has changed");
        let mut resumed = fixture.stream(Scope::Payment, Some(1));
        assert_eq!(resumed.next().now_or_never(), None);
        fixture.settle(permit, Status::Succeeded).await;
        let last = stream.next().await.unwrap();
        assert_eq!((last.version, last.kind.as_str()), (2, "payment.succeeded"));
        assert!(resumed.next().await.unwrap().data.contains("\"order_id\":\"o\""));
        assert_eq!((stream.next().await, resumed.next().await), (None, None));
        assert_eq!(fixture.stream(Scope::Status, Some(2)).next().await, None);
    }

    #[tokio::test]
    async fn cancelled_read_is_repeated_by_the_next_call() {
        let (fixture, permit) = Fixture::new().await;
        let mut stream = fixture.stream(Scope::Status, Some(1));
        assert_eq!(stream.next().now_or_never(), None);
        fixture.settle(permit, Status::Succeeded).await;
        let reads = u32::try_from(fixture.hub.reads.available_permits()).unwrap();
        let all = fixture.hub.reads.acquire_many(reads).await.unwrap();
        assert_eq!(stream.next().now_or_never(), None, "it waits for its read");
        drop(all);
        let state = stream.next().now_or_never().flatten();
        assert_eq!(state.map(|state| state.version), Some(2));
    }

    #[tokio::test]
    async fn stream_ends_at_its_time_limit_and_at_a_shutdown() {
        let (fixture, permit) = Fixture::new().await;
        tokio::time::pause();
        let mut stream = fixture.stream(Scope::Status, Some(1));
        let before = Instant::now();
        assert_eq!(stream.next().await, None);
        assert_eq!(before.elapsed().as_secs(), MAX_DURATION.as_secs());
        let mut stream = fixture.stream(Scope::Status, Some(1));
        let (stop, stopping) = tokio::sync::watch::channel(false);
        stop.send_replace(true);
        Arc::clone(&fixture.hub).run(stopping).await;
        let before = Instant::now();
        assert_eq!((stream.next().await, before.elapsed().as_secs()), (None, 0));
        drop(permit);
    }

    #[tokio::test]
    async fn stream_that_waits_for_its_read_ends_at_a_shutdown_and_at_its_time_limit() {
        let (fixture, _permit) = Fixture::new().await;
        tokio::time::pause();
        let reads = u32::try_from(fixture.hub.reads.available_permits()).unwrap();
        let _all = fixture.hub.reads.acquire_many(reads).await.unwrap();
        let before = Instant::now();
        assert_eq!(fixture.stream(Scope::Status, None).next().await, None);
        assert_eq!(before.elapsed().as_secs(), MAX_DURATION.as_secs());
        let mut stream = fixture.stream(Scope::Status, None);
        assert_eq!(stream.next().now_or_never(), None, "it waits");
        let (_stop, stopping) = tokio::sync::watch::channel(true);
        Arc::clone(&fixture.hub).run(stopping).await;
        let before = Instant::now();
        assert_eq!((stream.next().await, before.elapsed().as_secs()), (None, 0));
    }

    #[tokio::test]
    async fn change_without_a_notice_is_seen_by_the_next_regular_read() {
        let (fixture, permit) = Fixture::new().await;
        let mut stream = fixture.stream(Scope::Status, Some(1));
        assert_eq!(stream.next().now_or_never(), None);
        fixture.settle(permit, Status::Succeeded).await;
        // The notice is lost.
        stream.subscription.changed().await;
        assert_eq!(stream.next().now_or_never(), None);
        tokio::time::pause();
        let before = Instant::now();
        assert_eq!(stream.next().await.map(|state| state.version), Some(2));
        assert!(before.elapsed() <= RECHECK_INTERVAL);
    }
}
