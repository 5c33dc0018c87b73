//! Refunds, same-day cancellations and reversals of UnionPay.

use serde_json::Value;

use super::codes::{clearing_day, fen, query_id, text};
use super::reply::{refused, refused_because};
use super::trade::{Done, OrderHandler, Result, done};
use crate::notification::Subject;
use crate::order_machine::NewRefund;
use crate::state::{Id, OrderState, RefundStatus};

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
        if amount > paid.total.saturating_sub(self.state.refunded(&paid.id).1) {
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
        if self.state.refunded(&paid.id).1 > 0 {
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
        let is_given_back = self.state.refunded(&id).1 > 0;
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
        // UnionPay also reverses a trade whose refunds all failed, which the machine's reversal refuses.
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

    /// Records a refund, and finishes it if `at_once` is true.
    fn record_refund(&mut self, operation: &'static str, paid: &Paid, parameters: Value, at_once: bool) -> Result {
        let own = self.id(&parameters, "orderId");
        let refund = NewRefund {
            refund_id: query_id(self.now),
            amount: fen(text(&parameters, "txnAmt")).unwrap_or_default(),
            notify_url: Some(text(&parameters, "backUrl").to_owned()),
            parameters,
        };
        let reply = vec![("queryId", refund.refund_id.clone())];
        self.state.refund(&paid.id, &own, refund, self.now);
        if at_once {
            self.state.finish_refund(&own, RefundStatus::Success, self.now);
        }
        self.state.count_execution(operation, &paid.id);
        Ok(Done { reply, notify: at_once.then_some(Subject::Refund(own)) })
    }
}
