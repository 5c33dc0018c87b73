//! The order machine: transitions of orders and refunds that all providers share.
//!
//! A simulator reads its protocol's requests, asks the machine for a transition, and answers the result in its own words.
//!
//! ```text
//! create ─▶ NotPay ─ pay ──────────────▶ Success ─ refund ─▶ Refund
//!             ├─ fail ─────▶ PayError ─┐    │ reverse
//!             └─ close, reverse, expiry ┴───┴─────▶ Closed
//! refund:   Processing ─ finish ─▶ Success | Closed | Abnormal
//! ```

use jiff::Timestamp;
use serde_json::Value;

use super::notification::Subject;
use super::state::{Id, Order, OrderEntry, OrderState, Payment, Refund, RefundStatus, SandboxState};

/// Handler of one request: the state, the account of the sender, and the time. Each simulator adds its requests.
pub(crate) struct OrderHandler<'a, A> {
    pub(crate) state: &'a mut SandboxState,
    pub(crate) account: &'a A,
    pub(crate) now: Timestamp,
}

/// Reply to a request, and the subject of a notification if one is due.
pub(crate) struct Done<R> {
    pub(crate) reply: R,
    pub(crate) notify: Option<Subject>,
}

impl<R> Done<R> {
    /// Returns a reply without a notification.
    pub(crate) fn silent(reply: R) -> Self {
        Self { reply, notify: None }
    }
}

/// Terms of a new order.
pub(crate) struct NewOrder {
    /// Payment product, in the protocol's own term.
    pub(crate) product: &'static str,
    /// The provider's number.
    pub(crate) transaction_id: String,
    /// Amount in fen.
    pub(crate) total: u64,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) notify_url: Option<String>,
    /// True if the provider knows the order before its payer acts.
    pub(crate) opened: bool,
    /// The body of the request.
    pub(crate) parameters: Value,
}

/// Terms of a new refund.
pub(crate) struct NewRefund {
    /// The provider's number.
    pub(crate) refund_id: String,
    /// Amount in fen.
    pub(crate) amount: u64,
    pub(crate) notify_url: Option<String>,
    /// The body of the request.
    pub(crate) parameters: Value,
}

/// Effect of a scanned payment code, which its last digits decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The order is paid.
    Paid,
    /// The order waits for the payer's password.
    Password,
    /// The payer has too little money.
    NoBalance,
}

impl Scan {
    /// Returns the effect of a code: `…0001` asks for a password, `…0002` has no balance, any other is paid at once.
    pub(crate) fn of(code: &str) -> Self {
        match code {
            _ if code.ends_with("0001") => Self::Password,
            _ if code.ends_with("0002") => Self::NoBalance,
            _ => Self::Paid,
        }
    }
}

/// Result of a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    NoOrder,
    /// The order is paid, or was paid and refunded.
    Paid,
    /// The provider does not close such orders.
    NotClosable,
    /// The order was closed before.
    Repeated,
    Closed,
}

/// Result of a reversal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reversal {
    NoOrder,
    /// The provider does not reverse such orders.
    NotReversible,
    Refunded,
    /// The payment is older than the provider allows.
    TooOld,
    /// The order was closed or reversed before.
    Repeated,
    Reversed,
}

impl SandboxState {
    /// Creates an unpaid order.
    pub(crate) fn create(&mut self, id: &Id, new: NewOrder, now: Timestamp) {
        let NewOrder { product, transaction_id, total, expires, notify_url, opened, parameters } = new;
        self.transactions.insert((id.0.clone(), transaction_id.clone()), id.1.clone());
        let order = Order {
            product,
            parameters,
            notify_url,
            opened,
            created: now,
            total,
            expires,
            state: OrderState::NotPay,
            transaction_id,
            payment: None,
        };
        self.orders.entry(id.clone()).or_default().order = Some(order);
        self.count_execution("create", id);
    }

    /// Uses up a payment code and applies its effect to the order.
    pub(crate) fn scan(&mut self, id: &Id, code: &str, payer: &str, now: Timestamp) -> Scan {
        self.used_codes.insert(code.to_owned());
        let effect = Scan::of(code);
        if let Some(order) = self.order(id, now) {
            match effect {
                Scan::Paid => order.pay(payer.to_owned(), None, now),
                Scan::NoBalance => order.state = OrderState::PayError,
                Scan::Password => {}
            }
        }
        effect
    }

    /// Closes an unpaid order if the provider closes orders like this.
    pub(crate) fn close(&mut self, id: &Id, now: Timestamp, is_closable: impl Fn(&Order) -> bool) -> Closing {
        let Some(order) = self.order(id, now) else { return Closing::NoOrder };
        match order.state {
            OrderState::Success | OrderState::Refund => return Closing::Paid,
            _ if !is_closable(order) => return Closing::NotClosable,
            OrderState::Closed => return Closing::Repeated,
            OrderState::NotPay | OrderState::PayError => order.state = OrderState::Closed,
        }
        self.count_execution("close", id);
        Closing::Closed
    }

    /// Closes an order and returns its payment, if it is at most `max_age` seconds old.
    pub(crate) fn reverse(
        &mut self,
        id: &Id,
        now: Timestamp,
        max_age: i64,
        is_reversible: impl Fn(&Order) -> bool,
    ) -> Reversal {
        let Some(order) = self.order(id, now) else { return Reversal::NoOrder };
        if !is_reversible(order) {
            return Reversal::NotReversible;
        }
        let age = order.payment.as_ref().map_or(0, |payment| now.as_second() - payment.at.as_second());
        match order.state {
            OrderState::Refund => return Reversal::Refunded,
            OrderState::Success if age > max_age => return Reversal::TooOld,
            OrderState::Closed => return Reversal::Repeated,
            OrderState::Success | OrderState::NotPay | OrderState::PayError => order.state = OrderState::Closed,
        }
        self.count_execution("cancel", id);
        Reversal::Reversed
    }

    /// Returns number and sum in fen of the order's refunds. Closed refunds do not count.
    pub(crate) fn refunded(&self, order: &Id) -> (usize, u64) {
        let alive = self.refunds_of(order).filter(|(_, refund)| refund.status != RefundStatus::Closed);
        alive.fold((0, 0), |(count, sum), (_, refund)| (count + 1, sum + refund.amount))
    }

    /// Adds a pending refund to an order. Does nothing for an unknown order.
    pub(crate) fn refund(&mut self, order: &Id, id: &Id, new: NewRefund, now: Timestamp) {
        let Some(OrderEntry { order: Some(refunded), refunds, .. }) = self.orders.get_mut(order) else { return };
        refunded.state = OrderState::Refund;
        refunds.push(id.1.clone());
        let NewRefund { refund_id, amount, notify_url, parameters } = new;
        let refund = Refund {
            order: order.1.clone(),
            parameters,
            notify_url,
            refund_id,
            amount,
            status: RefundStatus::Processing,
            created: now,
            finished: None,
            notifications: Vec::new(),
        };
        self.refunds.insert(id.clone(), refund);
    }

    /// Finishes a refund. Does nothing for an unknown refund.
    pub(crate) fn finish_refund(&mut self, id: &Id, status: RefundStatus, now: Timestamp) {
        if let Some(refund) = self.refunds.get_mut(id) {
            (refund.status, refund.finished) = (status, Some(now));
        }
    }
}

impl Order {
    /// Records the payment; the default amount is the order's total.
    pub(crate) fn pay(&mut self, payer: String, amount: Option<u64>, now: Timestamp) {
        self.state = OrderState::Success;
        self.payment = Some(Payment { payer, amount: amount.unwrap_or(self.total), at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: &str) -> Id {
        ("m".to_owned(), number.to_owned())
    }

    fn state_with_order() -> SandboxState {
        let mut state = SandboxState::default();
        let new = NewOrder {
            product: "qr",
            transaction_id: "t-1".to_owned(),
            total: 100,
            expires: None,
            notify_url: None,
            opened: true,
            parameters: Value::Null,
        };
        state.create(&id("o-1"), new, Timestamp::UNIX_EPOCH);
        state
    }

    #[test]
    fn paid_order_is_not_closed_and_closed_order_is_closed_once() {
        let now = Timestamp::UNIX_EPOCH;
        let mut state = state_with_order();
        assert_eq!(state.close(&id("o-2"), now, |_| true), Closing::NoOrder);
        assert_eq!(state.close(&id("o-1"), now, |_| false), Closing::NotClosable);
        assert_eq!(state.close(&id("o-1"), now, |_| true), Closing::Closed);
        assert_eq!(state.close(&id("o-1"), now, |_| true), Closing::Repeated);
        assert_eq!(state.stats.executions.get("close"), Some(&1));
        let mut state = state_with_order();
        assert_eq!(state.scan(&id("o-1"), "13000000", "payer", now), Scan::Paid);
        assert_eq!(state.close(&id("o-1"), now, |_| true), Closing::Paid);
    }

    #[test]
    fn payment_is_reversed_once_and_neither_after_its_maximum_age_nor_after_a_refund() {
        let (now, later) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(8));
        let mut state = state_with_order();
        assert_eq!(state.scan(&id("o-1"), "13000000", "payer", now), Scan::Paid);
        assert_eq!(state.reverse(&id("o-1"), later, 7, |_| true), Reversal::TooOld);
        assert_eq!(state.reverse(&id("o-1"), later, 8, |_| true), Reversal::Reversed);
        assert_eq!(state.reverse(&id("o-1"), later, 8, |_| true), Reversal::Repeated);
        let mut state = state_with_order();
        assert_eq!(state.scan(&id("o-1"), "13000000", "payer", now), Scan::Paid);
        let refund = NewRefund { refund_id: "r".to_owned(), amount: 30, notify_url: None, parameters: Value::Null };
        state.refund(&id("o-1"), &id("r-1"), refund, now);
        assert_eq!(state.reverse(&id("o-1"), now, 8, |_| true), Reversal::Refunded);
        assert_eq!(state.refunded(&id("o-1")), (1, 30));
        state.finish_refund(&id("r-1"), RefundStatus::Closed, now);
        assert_eq!(state.refunded(&id("o-1")), (0, 0));
    }

    #[test]
    fn last_digits_of_a_payment_code_decide_its_effect() {
        for (code, effect) in
            [("130000000000000001", Scan::Password), ("130000000000000002", Scan::NoBalance), ("13", Scan::Paid)]
        {
            assert_eq!(Scan::of(code), effect, "{code}");
        }
    }
}
