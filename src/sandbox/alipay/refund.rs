//! Refund methods of Alipay.

use serde_json::{Value, json};

use super::codes::{add, china, finished};
use super::reply::Reply;
use super::success;
use super::trade::{Done, OrderHandler, Result, done, not_exist};
use super::yuan::{fen, yuan};
use crate::keys::random_digits;
use crate::notification::Subject;
use crate::order_machine::NewRefund;
use crate::state::{Id, RefundStatus};

impl OrderHandler<'_> {
    pub(super) fn refund(&mut self, content: Value, notify_url: Option<String>, auto: bool) -> Result {
        let id = self.find(&content)?;
        let amount = content["refund_amount"].as_str().and_then(fen).unwrap_or_default();
        let Some(order) = self.state.order(&id, self.now) else { return Err(not_exist()) };
        if order.payment.is_none() {
            return Err(Reply::business("ACQ.TRADE_STATUS_ERROR", "交易状态不合法：交易未支付"));
        }
        let total = order.total;
        let request = match content["out_request_no"].as_str() {
            Some(number) => self.id(number),
            None if amount == total => id.clone(),
            None => return Err(Reply::business("ACQ.INVALID_PARAMETER", "参数无效：部分退款必须传out_request_no")),
        };
        if let Some(known) = self.state.refunds.get(&request) {
            if known.order != id.1 || known.amount != amount {
                return Err(Reply::business("ACQ.DISCORDANT_REPEAT_REQUEST", "请求信息不一致"));
            }
            return done(self.refunded(&id, "N"));
        }
        if amount > total.saturating_sub(self.state.refunded(&id).1) {
            return Err(Reply::business("ACQ.REASON_TRADE_REFUND_FEE_ERR", "退款金额无效：超过可退金额"));
        }
        self.record_refund(&id, &request, amount, content, notify_url, auto);
        self.state.count_execution("refund", &id);
        let reply = self.refunded(&id, if auto { "Y" } else { "N" });
        Ok(Done { reply, notify: auto.then_some(Subject::Refund(request)) })
    }

    pub(super) fn refund_query(&mut self, content: &Value) -> Result {
        let id = self.find(content)?;
        let request = self.id(content["out_request_no"].as_str().unwrap_or_default());
        let mut object = success();
        let refund = self.state.refunds.get(&request).filter(|refund| refund.order == id.1);
        let order = self.state.orders.get(&id).and_then(|entry| entry.order.as_ref());
        let (Some(refund), Some(order)) = (refund, order) else {
            // Alipay responds like this to a query for an unknown refund request.
            return done(Reply::method(object));
        };
        let found = json!({
            "out_trade_no": id.1,
            "trade_no": order.transaction_id,
            "out_request_no": request.1,
            "refund_amount": yuan(refund.amount),
            "total_amount": yuan(order.total),
        });
        add(&mut object, found);
        if let Some(reason) = refund.parameters.get("refund_reason") {
            object["refund_reason"] = reason.clone();
        }
        if let (RefundStatus::Success, Some(at)) = (refund.status, refund.finished) {
            object["refund_status"] = json!("REFUND_SUCCESS");
            let options = content["query_options"].as_array();
            if options.is_some_and(|options| options.contains(&json!("gmt_refund_pay"))) {
                object["gmt_refund_pay"] = json!(china(at));
            }
        }
        done(Reply::method(object))
    }

    /// Records a refund, and finishes it if `at_once` is true.
    pub(super) fn record_refund(
        &mut self,
        id: &Id,
        request: &Id,
        amount: u64,
        parameters: Value,
        notify_url: Option<String>,
        at_once: bool,
    ) {
        let order = self.state.orders.get(id).and_then(|entry| entry.order.as_ref());
        // Without its own URL, the refund is notified at the payment's URL.
        let notify_url = notify_url.or_else(|| order?.notify_url.clone());
        let refund = NewRefund { refund_id: random_digits(28), amount, notify_url, parameters };
        self.state.refund(id, request, refund, self.now);
        if at_once {
            self.state.finish_refund(request, RefundStatus::Success, self.now);
        }
    }

    fn refunded(&self, id: &Id, fund_change: &str) -> Reply {
        let Some(order) = self.state.orders.get(id).and_then(|entry| entry.order.as_ref()) else { return not_exist() };
        let refunded_amount = yuan(finished(self.state, id));
        let mut object = success();
        let refunded = json!({
            "out_trade_no": id.1,
            "trade_no": order.transaction_id,
            "buyer_logon_id": "159****5620",
            "buyer_user_id": order.payment.as_ref().map(|payment| &payment.payer),
            "fund_change": fund_change,
            "refund_fee": refunded_amount,
            "send_back_fee": refunded_amount,
            "gmt_refund_pay": china(self.now),
        });
        add(&mut object, refunded);
        Reply::method(object)
    }
}
