//! Refund requests of APIv2.

use serde_json::Value;

use super::codes::{collected, refund_source, refund_state, refund_time};
use super::orders::{Done, OrderHandler, Result, done};
use super::reply::Reply;
use super::xml::Fields;
use crate::account::wechat_v2::Account;
use crate::keys::random_digits;
use crate::notification::Subject;
use crate::order_machine::NewRefund;
use crate::state::{Id, OrderState, Refund, RefundStatus, SandboxState};

/// Maximum number of partial refunds per order.
const MAX_PARTIAL_REFUNDS: usize = 50;
/// Maximum number of refunds per response.
const REFUNDS_PER_PAGE: usize = 10;
/// Destination of refunds.
pub(super) const RECEIVED_BY: &str = "支付用户零钱";

/// Returns the refund with this platform number.
pub(super) fn by_id(state: &SandboxState, account: &Account, refund_id: &str) -> Option<Id> {
    let mut own = state.refunds.iter().filter(|((mchid, _), _)| *mchid == account.mchid);
    own.find(|(_, refund)| refund.refund_id == refund_id).map(|(id, _)| id.clone())
}

impl OrderHandler<'_> {
    /// Accepts a refund. The response confirms only the acceptance, even if the refund succeeds immediately.
    pub(super) fn refund(&mut self, content: Value, auto: bool) -> Result {
        let id = self.find(&content)?;
        let fen = |field: &str| content[field].as_str().and_then(|fen| fen.parse().ok()).unwrap_or(0u64);
        let (amount, total) = (fen("refund_fee"), fen("total_fee"));
        let refund_id = self.id(content["out_refund_no"].as_str());
        let order = self.state.order(&id, self.now).filter(|order| {
            let is_paid = matches!(order.state, OrderState::Success | OrderState::Refund);
            is_paid && order.payment.is_some()
        });
        let Some(total_paid) = order.map(|order| order.total) else {
            return Err(Reply::error("TRADE_STATE_ERROR", "订单状态错误：订单未支付或已撤销"));
        };
        let known = self.state.refunds.get(&refund_id);
        if total != total_paid || known.is_some_and(|known| known.order != id.1 || known.amount != amount) {
            return Err(Reply::error("INVALID_REQUEST", "订单金额或退款金额与之前请求不一致，请核实后再试"));
        }
        if known.is_some() {
            return done(self.accepted(&refund_id));
        }
        let (count, sum) = self.state.refunded(&id);
        if count >= MAX_PARTIAL_REFUNDS {
            return Err(Reply::error("INVALID_REQUEST", "部分退款次数超过限制"));
        }
        if amount > total_paid.saturating_sub(sum) {
            return Err(Reply::error("ERROR", "累计退款金额大于支付金额"));
        }
        let made = NewRefund {
            refund_id: format!("50{}", random_digits(27)),
            amount,
            notify_url: content["notify_url"].as_str().map(str::to_owned),
            parameters: content,
        };
        self.state.refund(&id, &refund_id, made, self.now);
        if auto {
            self.state.finish_refund(&refund_id, RefundStatus::Success, self.now);
        }
        self.state.count_execution("refund", &id);
        let reply = self.accepted(&refund_id);
        Ok(Done { reply, notify: auto.then_some(Subject::Refund(refund_id)) })
    }

    fn accepted(&self, id: &Id) -> Reply {
        let Some(refund) = self.state.refunds.get(id) else { return not_exist() };
        let order = self.state.orders.get(&(id.0.clone(), refund.order.clone()));
        let Some(order) = order.and_then(|entry| entry.order.as_ref()) else { return not_exist() };
        let (amount, total) = (refund.amount.to_string(), order.total.to_string());
        Reply::success(collected([
            ("transaction_id", order.transaction_id.as_str()),
            ("out_trade_no", &refund.order),
            ("out_refund_no", &id.1),
            ("refund_id", &refund.refund_id),
            ("refund_fee", &amount),
            ("settlement_refund_fee", &amount),
            ("total_fee", &total),
            ("cash_fee", &total),
            ("cash_refund_fee", &amount),
            ("fee_type", "CNY"),
        ]))
    }

    /// Returns one refund, or a page of the order's refunds. The most specific id in the request is used.
    pub(super) fn refund_query(&mut self, content: &Value) -> Result {
        let text = |field: &str| content[field].as_str();
        let one = match (text("refund_id"), text("out_refund_no")) {
            (Some(refund_id), _) => Some(by_id(self.state, self.account, refund_id).ok_or_else(not_exist)?),
            (None, Some(number)) => Some(self.id(Some(number))),
            (None, None) => None,
        };
        let order_id = match &one {
            Some(refund) => self.id(self.state.refunds.get(refund).map(|refund| refund.order.as_str())),
            None => self.find(content)?,
        };
        let Some(order) = self.state.orders.get(&order_id).and_then(|entry| entry.order.as_ref()) else {
            return Err(not_exist());
        };
        let all: Vec<_> = self.state.refunds_of(&order_id).collect();
        let wanted = all.iter().filter(|(number, _)| one.as_ref().is_none_or(|one| one.1 == **number));
        let offset = text("offset").and_then(|offset| offset.parse().ok()).unwrap_or(0);
        let page: Vec<_> = wanted.skip(offset).take(REFUNDS_PER_PAGE).collect();
        if page.is_empty() {
            return Err(not_exist());
        }
        let total = order.total.to_string();
        let mut results = collected([
            ("transaction_id", order.transaction_id.as_str()),
            ("out_trade_no", &order_id.1),
            ("total_fee", &total),
            ("cash_fee", &total),
            ("fee_type", "CNY"),
            ("refund_count", &page.len().to_string()),
            ("total_refund_count", &all.len().to_string()),
        ]);
        for (index, (number, refund)) in page.into_iter().enumerate() {
            results.extend(numbered(index, number, refund));
        }
        done(Reply::success(results))
    }
}

/// Returns the fields of one refund in a list, with the index appended to each name. The misspelling `accout` is the
/// platform's.
fn numbered(index: usize, number: &str, refund: &Refund) -> impl Iterator<Item = (String, String)> {
    let amount = refund.amount.to_string();
    let mut fields: Fields = collected([
        ("out_refund_no", number),
        ("refund_id", &refund.refund_id),
        ("refund_channel", "ORIGINAL"),
        ("refund_fee", &amount),
        ("settlement_refund_fee", &amount),
        ("refund_status", refund_state(refund.status)),
        ("refund_account", refund_source(refund)),
        ("refund_recv_accout", RECEIVED_BY),
    ]);
    if let (RefundStatus::Success, Some(at)) = (refund.status, refund.finished) {
        fields.insert("refund_success_time".to_owned(), refund_time(at));
    }
    fields.into_iter().map(move |(name, value)| (format!("{name}_{index}"), value))
}

fn not_exist() -> Reply {
    Reply::error("REFUNDNOTEXIST", "退款订单查询失败：退款单不存在")
}
