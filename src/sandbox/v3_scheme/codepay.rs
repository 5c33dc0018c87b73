//! Scanned codes: paid at once, after a password, or declined. There are no notifications, and orders are reversed
//! instead of closed.

use serde_json::Value;

use super::orders::{OrderHandler, Result, checked, done};
use super::reply::Reply;
use super::reply::parameter;
use super::schema::{self, Product};
use crate::order_machine::{Reversal, Scan};
use crate::state::{Id, Order, OrderState};

/// Owner of every payment code.
const PAYER: &str = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o";
/// Maximum age of a payment that can be reversed.
const REVERSIBLE_SECONDS: i64 = 7 * 24 * 60 * 60;

impl OrderHandler<'_> {
    /// Creates an order from a payment code, and charges it unless the code's suffix prevents that.
    pub(super) fn scan(&mut self, id: &Id, body: Value) -> Result {
        let known = self.state.order(id, self.now).map(|order| (order.state, order.parameters == body));
        match known {
            None => {}
            Some((OrderState::Success | OrderState::Refund, _)) => {
                return Err(Reply::error(400, "ORDERPAID", "该订单已支付"));
            }
            Some((OrderState::Closed, _)) => return Err(Reply::error(400, "ORDER_CLOSED", "订单已撤销")),
            Some((OrderState::NotPay, true)) => return Err(asks_for_password()),
            Some(_) => return Err(Reply::error(403, "OUT_TRADE_NO_USED", "商户订单号重复")),
        }
        let store = &body["scene_info"]["store_info"];
        if store.get("id").is_none() && store.get("out_id").is_none() {
            return Err(parameter("body", "/scene_info/store_info", "must have id or out_id"));
        }
        let code = body["payer"]["auth_code"].as_str().unwrap_or_default().to_owned();
        if self.state.used_codes.contains(&code) {
            return Err(Reply::error(400, "INVALID_REQUEST", "付款码已使用，请用户在微信上刷新后再试"));
        }
        self.open(id, Product::Codepay, None, body);
        match self.state.scan(id, &code, PAYER, self.now) {
            Scan::Password => Err(asks_for_password()),
            Scan::NoBalance => Err(Reply::error(403, "NOT_ENOUGH", "用户账户余额不足")),
            Scan::Paid => self.query(id),
        }
    }

    /// Reverses the order of a scanned code and refunds a payment.
    pub(super) fn reverse(&mut self, id: &Id, body: Option<Value>) -> Result {
        let body = checked(body, schema::REVERSE)?;
        self.check_account(&body)?;
        let is_scanned = |order: &Order| order.product == Product::Codepay.as_str();
        match self.state.reverse(id, self.now, REVERSIBLE_SECONDS, is_scanned) {
            Reversal::NoOrder => Err(not_exist()),
            Reversal::NotReversible => Err(Reply::error(400, "INVALID_REQUEST", "只有付款码支付的订单可以撤销")),
            Reversal::Refunded => Err(Reply::error(400, "TRADE_ERROR", "订单已发生退款，不能撤销")),
            Reversal::TooOld => Err(Reply::error(400, "TRADE_ERROR", "订单超过7天，无法撤销")),
            Reversal::Repeated | Reversal::Reversed => done(Reply::no_content()),
        }
    }
}

fn asks_for_password() -> Reply {
    Reply::error(202, "USERPAYING", "需要用户输入支付密码")
}

fn not_exist() -> Reply {
    Reply::error(404, "ORDER_NOT_EXIST", "订单不存在")
}
