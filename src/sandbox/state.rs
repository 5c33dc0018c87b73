//! The platform's books: orders, refunds, and a count of everything that reached it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

/// An account's name (its mchid, app_id or merId) and a number of its own.
pub(super) type Id = (String, String);
/// How often, by name; names that never came are missing.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// Everything that a reset forgets.
#[derive(Default)]
pub(super) struct SandboxState {
    pub(super) orders: BTreeMap<Id, OrderEntry>,
    pub(super) refunds: HashMap<Id, Refund>,
    /// Requests about a refund number, whether or not there ever was such a refund.
    pub(super) refund_arrivals: HashMap<Id, Counts>,
    /// Order numbers by the platform's own number.
    pub(super) transactions: HashMap<Id, String>,
    pub(super) notifications: Vec<Notification>,
    /// Files of bills, by what their links are good for.
    pub(super) bills: HashMap<Id, Bytes>,
    /// Payment codes from which an order was made: each is good for one.
    pub(super) used_codes: HashSet<String>,
    pub(super) stats: Stats,
    nonces: Nonces,
    /// Grows with each reset, so that what was under way before it writes nothing into the new books.
    pub(super) epoch: u64,
}

/// What is known of an order number, whether or not there ever was such an order.
#[derive(Default)]
pub(super) struct OrderEntry {
    pub(super) order: Option<Order>,
    /// Requests with a good signature, by operation, cut ones too.
    pub(super) arrivals: Counts,
    /// Requests that changed something, by operation.
    pub(super) executions: Counts,
    /// Places in [`SandboxState::notifications`].
    pub(super) notifications: Vec<usize>,
    /// The numbers of its refunds.
    pub(super) refunds: Vec<String>,
}

/// An order.
pub(super) struct Order {
    /// How it is paid, in a word of the dialect's own.
    pub(super) product: &'static str,
    /// The body of the request that made it.
    pub(super) parameters: Value,
    pub(super) notify_url: Option<String>,
    /// False while nobody but the sandbox knows of it: at Alipay there is no trade before its code was scanned.
    pub(super) opened: bool,
    pub(super) created: Timestamp,
    pub(super) total: u64,
    pub(super) expires: Option<Timestamp>,
    pub(super) state: State,
    pub(super) transaction_id: String,
    pub(super) payment: Option<Payment>,
}

/// How an order was paid.
pub(super) struct Payment {
    pub(super) payer: String,
    /// The order's total, unless a fault wants another.
    pub(super) amount: u64,
    pub(super) at: Timestamp,
}

/// What became of an order, in WeChat's words; each dialect says it in its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    NotPay,
    Success,
    Refund,
    Closed,
    PayError,
}

/// A refund.
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

/// `status` of a refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum RefundStatus {
    Processing,
    Success,
    Closed,
    Abnormal,
}

/// A notification and what became of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Notification {
    pub(super) id: String,
    pub(super) event_type: &'static str,
    pub(super) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tamper: Option<super::notify::Tamper>,
    pub(super) acknowledged: bool,
    pub(super) attempts: Vec<Attempt>,
}

/// One sending of a notification.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attempt {
    pub(super) at: Timestamp,
    /// What the receiver answered.
    pub(super) status: Option<u16>,
    /// Why there is no status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// Counts over all orders.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Stats {
    /// TLS handshakes that were completed.
    pub(super) handshakes: u64,
    /// TLS handshakes that failed, wanted or not.
    pub(super) refused_handshakes: u64,
    /// Connections closed by `refuse_connection`.
    pub(super) refused_connections: u64,
    /// Requests whose head was read.
    pub(super) requests: u64,
    /// Requests that were refused for their signature: absent, malformed, stale, replayed or wrong.
    pub(super) bad_signatures: u64,
    /// Of these, the ones with a good signature and a nonce that was used before.
    pub(super) replayed_nonces: u64,
    /// Requests that came over a connection with another merchant's certificate, or without a required one.
    pub(super) wrong_identities: u64,
    /// Requests with a good signature, by operation.
    pub(super) arrivals: Counts,
    /// Requests that changed something, by operation.
    pub(super) executions: Counts,
    /// Connections closed by `cut_unread`, `cut_before` and `cut_after`.
    pub(super) cuts: u64,
    /// Notifications sent, repetitions too.
    pub(super) notifications_sent: u64,
    /// Notifications that were acknowledged.
    pub(super) notifications_acknowledged: u64,
}

impl SandboxState {
    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        *self = Self { epoch: self.epoch + 1, ..Self::default() };
    }

    /// Counts a request with a good signature.
    pub(super) fn arrived(&mut self, operation: &'static str, order: Option<&Id>, refund: Option<&Id>) {
        *self.stats.arrivals.entry(operation).or_default() += 1;
        if let Some(id) = order {
            *self.orders.entry(id.clone()).or_default().arrivals.entry(operation).or_default() += 1;
        }
        if let Some(id) = refund {
            *self.refund_arrivals.entry(id.clone()).or_default().entry(operation).or_default() += 1;
        }
    }

    /// Counts a request that changed something.
    pub(super) fn executed(&mut self, operation: &'static str, order: &Id) {
        *self.stats.executions.entry(operation).or_default() += 1;
        *self.orders.entry(order.clone()).or_default().executions.entry(operation).or_default() += 1;
    }

    /// The order, closed if its time is over.
    pub(super) fn order(&mut self, id: &Id, now: Timestamp) -> Option<&mut Order> {
        let order = self.orders.get_mut(id)?.order.as_mut()?;
        if order.state == State::NotPay && order.expires.is_some_and(|end| end <= now) {
            order.state = State::Closed;
        }
        Some(order)
    }

    /// The refunds of an order, oldest first, with their numbers.
    pub(super) fn refunds_of(&self, order: &Id) -> impl Iterator<Item = (&String, &Refund)> {
        let numbers = self.orders.get(order).map(|entry| entry.refunds.as_slice()).unwrap_or_default();
        numbers.iter().filter_map(|number| Some((number, self.refunds.get(&(order.0.clone(), number.clone()))?)))
    }

    /// Notes the nonce of a good signature; false when it was used before.
    pub(super) fn is_new_nonce(&mut self, mchid: &str, nonce: &str, now: u64) -> bool {
        self.nonces.is_new((mchid.to_owned(), nonce.to_owned()), now)
    }

    /// Everything about an order number, as the control API tells it.
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

    fn notifications_at(&self, places: &[usize]) -> Vec<&Notification> {
        places.iter().filter_map(|place| self.notifications.get(*place)).collect()
    }
}

/// Remembers nonces for ten minutes, which is as long as a timestamp can stay acceptable.
#[derive(Default)]
struct Nonces {
    seen: HashSet<Id>,
    in_order: VecDeque<(u64, Id)>,
}

impl Nonces {
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

impl State {
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
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "PROCESSING",
            Self::Success => "SUCCESS",
            Self::Closed => "CLOSED",
            Self::Abnormal => "ABNORMAL",
        }
    }
}
