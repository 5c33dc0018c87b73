//! Refunds, same-day cancellations and reversals of UnionPay.

use serde_json::Value;

use super::codes::{clearing_day, fen, query_id, text};
use super::reply::{refused, refused_because};
use super::trade::{Done, OrderHandler, Result, done};
use crate::notification::Subject;
use crate::state::{Id, OrderEntry, OrderState, Refund, RefundStatus};

/// A paid trade that can be refunded.
struct Paid {
    id: Id,
    total: u64,
    at: jiff::Timestamp,
}

impl OrderHandler<'_> {
    /// Refunds some or all. The response only confirms acceptance.
    pub(super) fn refund(&mut self, parameters: Value, auto: bool) -> Result {
        let paid = self.paid(&parameters)?;
        let amount = fen(text(&parameters, "txnAmt")).unwrap_or_default();
        if amount > paid.total.saturating_sub(self.refunded_amount(&paid.id)) {
            return Err(refused_because("36", "与原交易信息不符：退款金额超过可退金额"));
        }
        self.record_refund("refund", &paid, parameters, auto)
    }

    /// Cancels a payment completely on the day of the payment.
    pub(super) fn undo(&mut self, parameters: Value, auto: bool) -> Result {
        let paid = self.paid(&parameters)?;
        if fen(text(&parameters, "txnAmt")) != Some(paid.total) {
            return Err(refused_because("36", "与原交易信息不符：撤销金额必须等于原交易金额"));
        }
        if self.refunded_amount(&paid.id) > 0 {
            return Err(refused_because("45", "原交易已被成功退货或已被成功撤销"));
        }
        if clearing_day(paid.at) != clearing_day(self.now) {
            return Err(refused_because("35", "原交易状态不正确：只能撤销同一清算日的交易"));
        }
        self.record_refund("cancel", &paid, parameters, auto)
    }

    /// Reverses a trade whose response was lost, regardless of its result.
    pub(super) fn reverse(&mut self, parameters: &Value) -> Result {
        let (number, time) = match parameters.get("origOrderId") {
            Some(_) => ("origOrderId", "origTxnTime"),
            None => ("orderId", "txnTime"),
        };
        let id = self.id(parameters, number);
        let is_given_back = self.refunded_amount(&id) > 0;
        let order = self.state.order(&id, self.now).filter(|order| order.parameters["txnTime"] == parameters[time]);
        // Only trades of scanned codes can be reversed.
        let order = order.filter(|order| order.product == "barcode" && order.state != OrderState::PayError);
        let order = order.ok_or_else(|| refused("35"))?;
        if text(&order.parameters, "bizType") != text(parameters, "bizType") {
            return Err(refused("36"));
        }
        if is_given_back {
            return Err(refused_because("45", "原交易已被成功退货或已被成功撤销"));
        }
        if order.state == OrderState::Closed {
            return Err(refused_because("46", "交易已被冲正"));
        }
        order.state = OrderState::Closed;
        self.state.count_execution("cancel", &id);
        done(Vec::new())
    }

    fn paid(&mut self, parameters: &Value) -> Result<Paid> {
        self.is_new(&self.id(parameters, "orderId"))?;
        let query = self.id(parameters, "origQryId");
        let number = self.state.transactions.get(&query).ok_or_else(|| refused("35"))?.clone();
        let id = (query.0, number);
        let order = self.state.order(&id, self.now);
        let order = order.filter(|order| matches!(order.state, OrderState::Success | OrderState::Refund));
        let order = order.ok_or_else(|| refused("35"))?;
        let payment = order.payment.as_ref().ok_or_else(|| refused("35"))?;
        if text(&order.parameters, "bizType") != text(parameters, "bizType") {
            return Err(refused_because("36", "与原交易信息不符：bizType"));
        }
        Ok(Paid { id, total: order.total, at: payment.at })
    }

    /// Returns the refunded amount of a trade in fen, pending refunds included.
    fn refunded_amount(&self, id: &Id) -> u64 {
        let refunds = self.state.refunds_of(id).filter(|(_, refund)| refund.status != RefundStatus::Closed);
        refunds.map(|(_, refund)| refund.amount).sum()
    }

    /// Records a refund, and finishes it if `at_once` is true.
    fn record_refund(&mut self, operation: &'static str, paid: &Paid, parameters: Value, at_once: bool) -> Result {
        let own = self.id(&parameters, "orderId");
        let Some(OrderEntry { order: Some(order), refunds, .. }) = self.state.orders.get_mut(&paid.id) else {
            return Err(refused("35"));
        };
        order.state = OrderState::Refund;
        refunds.push(own.1.clone());
        let refund = Refund {
            order: paid.id.1.clone(),
            notify_url: Some(text(&parameters, "backUrl").to_owned()),
            refund_id: query_id(self.now),
            amount: fen(text(&parameters, "txnAmt")).unwrap_or_default(),
            status: if at_once { RefundStatus::Success } else { RefundStatus::Processing },
            created: self.now,
            finished: at_once.then_some(self.now),
            notifications: Vec::new(),
            parameters,
        };
        let fields = vec![("queryId", refund.refund_id.clone())];
        self.state.refunds.insert(own.clone(), refund);
        self.state.count_execution(operation, &paid.id);
        Ok(Done { fields, notify: at_once.then_some(Subject::Refund(own)) })
    }
}
