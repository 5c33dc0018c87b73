//! In-memory state of the simulated providers: orders, refunds, notifications, and request counters.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

/// Account name (mchid, app_id or merId), and an order or refund number of the account.
pub(super) type Id = (String, String);
/// Counters by operation. Operations that never occurred are missing.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// Everything that a reset deletes.
#[derive(Default)]
pub(super) struct SandboxState {
    pub(super) orders: BTreeMap<Id, OrderEntry>,
    pub(super) refunds: HashMap<Id, Refund>,
    /// Requests by refund number, including numbers without a refund.
    pub(super) refund_arrivals: HashMap<Id, Counts>,
    /// Order numbers by the provider's transaction number.
    pub(super) transactions: HashMap<Id, String>,
    pub(super) notifications: Vec<Notification>,
    /// Bill files by the token of their download link.
    pub(super) bills: HashMap<Id, Bytes>,
    /// Payment codes that created an order. Each code is valid once.
    pub(super) used_codes: HashSet<String>,
    pub(super) stats: Stats,
    nonces: ReplayCache,
    /// Incremented by each reset, so that a task from before the reset changes nothing.
    pub(super) epoch: u64,
}

/// Record of an order number, including numbers without an order.
#[derive(Default)]
pub(super) struct OrderEntry {
    pub(super) order: Option<Order>,
    /// Requests with a valid signature by operation, including cut ones.
    pub(super) arrivals: Counts,
    /// Requests that changed something, by operation.
    pub(super) executions: Counts,
    /// Indexes in [`SandboxState::notifications`].
    pub(super) notifications: Vec<usize>,
    /// Refund numbers.
    pub(super) refunds: Vec<String>,
}

/// An order at the provider.
pub(super) struct Order {
    /// Payment product, in the protocol's own term.
    pub(super) product: &'static str,
    /// The body of the request that made it.
    pub(super) parameters: Value,
    pub(super) notify_url: Option<String>,
    /// False while only the sandbox knows the order: at Alipay a trade exists only after its code was scanned.
    pub(super) opened: bool,
    pub(super) created: Timestamp,
    pub(super) total: u64,
    pub(super) expires: Option<Timestamp>,
    pub(super) state: OrderState,
    pub(super) transaction_id: String,
    pub(super) payment: Option<Payment>,
}

/// Payment of an order.
pub(super) struct Payment {
    pub(super) payer: String,
    /// Paid amount: the order's total, unless the control API sets another.
    pub(super) amount: u64,
    pub(super) at: Timestamp,
}

/// State of an order in WeChat's terms. Each protocol translates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderState {
    NotPay,
    Success,
    Refund,
    Closed,
    PayError,
}

/// A refund at the provider.
pub(super) struct Refund {
    pub(super) order: String,
    /// The body of the request that made it.
    pub(super) parameters: Value,
    pub(super) notify_url: Option<String>,
    pub(super) refund_id: String,
    pub(super) amount: u64,
    pub(super) status: RefundStatus,
    pub(super) created: Timestamp,
    pub(super) finished: Option<Timestamp>,
    pub(super) notifications: Vec<usize>,
}

/// Refund status in WeChat's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum RefundStatus {
    Processing,
    Success,
    Closed,
    Abnormal,
}

/// A notification with its delivery attempts.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Notification {
    pub(super) id: String,
    pub(super) event_type: &'static str,
    pub(super) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tamper: Option<super::tamper::Tamper>,
    pub(super) acknowledged: bool,
    pub(super) attempts: Vec<Attempt>,
}

/// One delivery attempt of a notification.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attempt {
    pub(super) at: Timestamp,
    /// Status of the receiver's response.
    pub(super) status: Option<u16>,
    /// Error, if there was no response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// Counters over all orders.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Stats {
    /// Completed TLS handshakes.
    pub(super) handshakes: u64,
    /// Failed TLS handshakes, scripted ones included.
    pub(super) refused_handshakes: u64,
    /// Connections closed by `refuse_connection`.
    pub(super) refused_connections: u64,
    /// Requests whose head was read.
    pub(super) requests: u64,
    /// Requests rejected for an absent, malformed, stale, replayed or wrong signature.
    pub(super) bad_signatures: u64,
    /// Rejected requests with a valid signature and a replayed nonce.
    pub(super) replayed_nonces: u64,
    /// Requests over a connection with another merchant's certificate, or without a required one.
    pub(super) wrong_identities: u64,
    /// Requests with a good signature, by operation.
    pub(super) arrivals: Counts,
    /// Requests that changed something, by operation.
    pub(super) executions: Counts,
    /// Connections closed by `cut_unread`, `cut_before` and `cut_after`.
    pub(super) cuts: u64,
    /// Delivery attempts of notifications.
    pub(super) notifications_sent: u64,
    /// Acknowledged notifications.
    pub(super) notifications_acknowledged: u64,
}

impl SandboxState {
    /// Deletes everything and increments the epoch.
    pub(super) fn reset(&mut self) {
        *self = Self { epoch: self.epoch + 1, ..Self::default() };
    }

    /// Counts a request with a valid signature.
    pub(super) fn count_arrival(&mut self, operation: &'static str, order: Option<&Id>, refund: Option<&Id>) {
        *self.stats.arrivals.entry(operation).or_default() += 1;
        if let Some(id) = order {
            *self.orders.entry(id.clone()).or_default().arrivals.entry(operation).or_default() += 1;
        }
        if let Some(id) = refund {
            *self.refund_arrivals.entry(id.clone()).or_default().entry(operation).or_default() += 1;
        }
    }

    /// Counts a request that changed something.
    pub(super) fn count_execution(&mut self, operation: &'static str, order: &Id) {
        *self.stats.executions.entry(operation).or_default() += 1;
        *self.orders.entry(order.clone()).or_default().executions.entry(operation).or_default() += 1;
    }

    /// Returns the order. Closes an unpaid order after its expiry.
    pub(super) fn order(&mut self, id: &Id, now: Timestamp) -> Option<&mut Order> {
        let order = self.orders.get_mut(id)?.order.as_mut()?;
        if order.state == OrderState::NotPay && order.expires.is_some_and(|end| end <= now) {
            order.state = OrderState::Closed;
        }
        Some(order)
    }

    /// Returns the refunds of an order with their numbers, oldest first.
    pub(super) fn refunds_of(&self, order: &Id) -> impl Iterator<Item = (&String, &Refund)> {
        let numbers = self.orders.get(order).map(|entry| entry.refunds.as_slice()).unwrap_or_default();
        numbers.iter().filter_map(|number| Some((number, self.refunds.get(&(order.0.clone(), number.clone()))?)))
    }

    /// Records the nonce of a valid signature. Returns false for a replayed nonce.
    pub(super) fn is_new_nonce(&mut self, mchid: &str, nonce: &str, now: u64) -> bool {
        self.nonces.is_new((mchid.to_owned(), nonce.to_owned()), now)
    }

    /// Returns the control API's view of an order number.
    pub(super) fn view(&mut self, id: &Id, now: Timestamp) -> Option<Value> {
        self.order(id, now);
        let entry = self.orders.get(id)?;
        let order = entry.order.as_ref();
        let mut arrivals = json!(entry.arrivals);
        arrivals["total"] = json!(entry.arrivals.values().sum::<u64>());
        let refunds: serde_json::Map<_, _> = self
            .refunds_of(id)
            .map(|(number, refund)| (number.clone(), self.refund_view(&id.0, number, refund)))
            .collect();
        Some(json!({
            "number": id.1,
            "mchid": id.0,
            "product": order.map(|order| order.product),
            "state": order.map_or("NONE", |order| order.state.as_str()),
            "amount": order.map(|order| order.total),
            "paid": order.and_then(|order| order.payment.as_ref()).map(|payment| payment.amount),
            "transaction_id": order.map(|order| &order.transaction_id),
            "arrivals": arrivals,
            "created": entry.executions.get("create").copied().unwrap_or(0),
            "executions": entry.executions,
            "notifications": self.notifications_at(&entry.notifications),
            "refunds": refunds,
        }))
    }

    fn refund_view(&self, mchid: &str, number: &str, refund: &Refund) -> Value {
        let arrivals = self.refund_arrivals.get(&(mchid.to_owned(), number.to_owned()));
        json!({
            "status": refund.status.as_str(),
            "amount": refund.amount,
            "refund_id": refund.refund_id,
            "arrivals": arrivals,
            "notifications": self.notifications_at(&refund.notifications),
        })
    }

    fn notifications_at(&self, indexes: &[usize]) -> Vec<&Notification> {
        indexes.iter().filter_map(|index| self.notifications.get(*index)).collect()
    }
}

/// Replay cache: stores nonces for ten minutes, the maximum age of an acceptable timestamp.
#[derive(Default)]
struct ReplayCache {
    seen: HashSet<Id>,
    in_order: VecDeque<(u64, Id)>,
}

impl ReplayCache {
    fn is_new(&mut self, nonce: Id, now: u64) -> bool {
        while self.in_order.front().is_some_and(|(at, _)| *at + 600 < now) {
            if let Some((_, old)) = self.in_order.pop_front() {
                self.seen.remove(&old);
            }
        }
        if !self.seen.insert(nonce.clone()) {
            return false;
        }
        self.in_order.push_back((now, nonce));
        true
    }
}

impl OrderState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotPay => "NOTPAY",
            Self::Success => "SUCCESS",
            Self::Refund => "REFUND",
            Self::Closed => "CLOSED",
            Self::PayError => "PAYERROR",
        }
    }
}

impl RefundStatus {
    /// Statuses in which a refund ends.
    pub(super) const FINAL: &'static [Self] = &[Self::Success, Self::Closed, Self::Abnormal];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "PROCESSING",
            Self::Success => "SUCCESS",
            Self::Closed => "CLOSED",
            Self::Abnormal => "ABNORMAL",
        }
    }
}
