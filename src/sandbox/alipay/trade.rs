//! Trade methods of Alipay.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::codes::{add, china, minutes, parse_china_time, status, trade_object};
use super::reply::Reply;
use super::yuan::{fen, yuan};
use super::{Method, success, trade_number};
use crate::account::alipay::Account;
use crate::keys::{random_digits, random_text};
use crate::notification::Subject;
use crate::order_machine::{self, Closing, NewOrder, Scan};
use crate::state::{Id, OrderState};

/// Executes one request on the sandbox state.
pub(super) type OrderHandler<'a> = order_machine::OrderHandler<'a, Account>;
/// Reply to a request.
pub(super) type Done = order_machine::Done<Reply>;
/// Result of a method; the error is a reply.
pub(super) type Result<T = Done> = std::result::Result<T, Reply>;

/// Owner of every payment code.
const BUYER: &str = "2088102116773037";

impl OrderHandler<'_> {
    /// Creates an unpaid trade.
    pub(super) fn create(&mut self, method: Method, content: Value, notify_url: Option<String>) -> Result {
        let id = self.id(content["out_trade_no"].as_str().unwrap_or_default());
        if !self.adopt(&id, method, &content)? {
            self.open(&id, method, content, notify_url)?;
        }
        self.means(method, &id)
    }

    /// Creates a trade from a payment code, and charges it unless the code's suffix prevents that.
    pub(super) fn pay(&mut self, content: Value, notify_url: Option<String>) -> Result {
        let id = self.id(content["out_trade_no"].as_str().unwrap_or_default());
        let code = content["auth_code"].as_str().unwrap_or_default().to_owned();
        let is_code = (16..=24).contains(&code.len())
            && code.bytes().all(|byte| byte.is_ascii_digit())
            && matches!(code.get(..2), Some("25" | "26" | "27" | "28" | "29" | "30"));
        if self.adopt(&id, Method::Pay, &content)? {
            return waiting(&id);
        }
        if !is_code || self.state.used_codes.contains(&code) {
            return Err(Reply::business(
                "ACQ.PAYMENT_AUTH_CODE_INVALID",
                "支付失败，获取顾客账户信息失败，请顾客刷新付款码后重新收款",
            ));
        }
        if Scan::of(&code) == Scan::NoBalance {
            return Err(Reply::business("ACQ.BUYER_BALANCE_NOT_ENOUGH", "支付失败，顾客余额不足"));
        }
        self.open(&id, Method::Pay, content, notify_url)?;
        if self.state.scan(&id, &code, BUYER, self.now) == Scan::Password {
            return waiting(&id);
        }
        let Some(order) = self.state.order(&id, self.now) else { return Err(not_exist()) };
        let mut object = success();
        add(&mut object, trade_object(&id.1, order));
        object["gmt_payment"] = json!(china(self.now));
        Ok(Done { reply: Reply::method(object), notify: Some(Subject::Payment(id)) })
    }

    /// Returns true if the identical unpaid order exists, and false if the number is new. Returns an error for a
    /// different, paid or closed order with this number.
    fn adopt(&mut self, id: &Id, method: Method, content: &Value) -> Result<bool> {
        let Some(order) = self.state.order(id, self.now) else { return Ok(false) };
        let without_code = |content: &Value| {
            let mut content = content.clone();
            content.as_object_mut().map(|fields| fields.remove("auth_code"));
            content
        };
        match order.state {
            OrderState::Success | OrderState::Refund => Err(Reply::business("ACQ.TRADE_HAS_SUCCESS", "交易已被支付")),
            OrderState::Closed | OrderState::PayError => Err(Reply::business("ACQ.TRADE_HAS_CLOSE", "交易已经关闭")),
            OrderState::NotPay
                if order.product != method.product() || without_code(&order.parameters) != without_code(content) =>
            {
                Err(Reply::business("ACQ.CONTEXT_INCONSISTENT", "交易信息被篡改：与首次请求的参数不一致"))
            }
            OrderState::NotPay => Ok(true),
        }
    }

    fn open(&mut self, id: &Id, method: Method, content: Value, notify_url: Option<String>) -> Result<()> {
        let text = |field: &str| content[field].as_str();
        if text("seller_id").is_some_and(|seller| seller != self.account.seller_id) {
            return Err(Reply::business("ACQ.ACCESS_FORBIDDEN", "无权限使用接口：seller_id不属于该应用"));
        }
        let end = match (text("time_expire"), text("timeout_express").and_then(minutes)) {
            (Some(time), _) => parse_china_time(time),
            (None, lasting) => {
                let seconds = self.now.as_second() + lasting.unwrap_or(15 * 24 * 60) * 60;
                Timestamp::from_second(seconds).ok()
            }
        };
        if end.is_some_and(|end| end <= self.now) {
            return Err(Reply::business("ACQ.NOW_TIME_AFTER_EXPIRE_TIME_ERROR", "当前时间已超过允许支付的时间"));
        }
        let today = china(self.now).get(..10).unwrap_or_default().replace('-', "");
        let order = NewOrder {
            product: method.product(),
            transaction_id: format!("{today}22001{}", random_digits(15)),
            total: text("total_amount").and_then(fen).unwrap_or_default(),
            expires: end,
            notify_url,
            // A precreated trade is unknown at Alipay until its code is scanned.
            opened: method != Method::Precreate,
            parameters: content,
        };
        self.state.create(id, order, self.now);
        Ok(())
    }

    /// Returns the data that the buyer's device needs.
    fn means(&mut self, method: Method, id: &Id) -> Result {
        let Some(order) = self.state.order(id, self.now) else { return Err(not_exist()) };
        let mut object = success();
        object["out_trade_no"] = json!(id.1);
        match method {
            Method::Precreate => {
                object["qr_code"] = json!(format!("https://qr.alipay.com/bax{}", random_text(20).to_lowercase()));
            }
            Method::Page | Method::Wap => {
                let page = format!(
                    "<!DOCTYPE html><meta charset=\"utf-8\"><title>支付宝</title>\
                     <p>out_trade_no <b>{}</b></p><p>total_amount <b>{}</b></p>",
                    id.1,
                    yuan(order.total)
                );
                return done(Reply::page(200, page));
            }
            _ => object["trade_no"] = json!(order.transaction_id),
        }
        if method == Method::App {
            object["app_id"] = json!(self.account.app_id);
            object["seller_id"] = json!(self.account.seller_id);
            object["total_amount"] = json!(yuan(order.total));
            object["charset"] = json!("utf-8");
            object["timestamp"] = json!(china(self.now));
        }
        done(Reply::method(object))
    }

    pub(super) fn query(&mut self, content: &Value) -> Result {
        let id = self.find(content)?;
        let status = status(self.state, &id, self.now);
        let Some(order) = self.state.order(&id, self.now) else { return Err(not_exist()) };
        let mut object = success();
        add(&mut object, trade_object(&id.1, order));
        object["trade_status"] = json!(status);
        for field in ["subject", "body", "passback_params", "store_id", "terminal_id"] {
            if let Some(value) = order.parameters.get(field) {
                object[field] = value.clone();
            }
        }
        if let Some(payment) = &order.payment {
            object["send_pay_date"] = json!(china(payment.at));
        }
        done(Reply::method(object))
    }

    pub(super) fn close(&mut self, content: &Value) -> Result {
        let id = self.find(content)?;
        let Some(order) = self.state.order(&id, self.now) else { return Err(not_exist()) };
        let trade_no = order.transaction_id.clone();
        if self.state.close(&id, self.now, |order| order.state == OrderState::NotPay) != Closing::Closed {
            return Err(Reply::business("ACQ.REASON_TRADE_STATUS_INVALID", "交易状态不合法"));
        }
        let mut object = success();
        add(&mut object, json!({"out_trade_no": id.1, "trade_no": trade_no}));
        done(Reply::method(object))
    }

    /// Closes an unpaid trade or refunds a paid one. Succeeds without `action` for an unknown trade.
    pub(super) fn cancel(&mut self, content: &Value) -> Result {
        let id = self.id(&trade_number(self.state, self.account, content).unwrap_or_default());
        let mut object = success();
        object["retry_flag"] = json!("N");
        object["out_trade_no"] = if id.1.is_empty() { json!("") } else { json!(id.1) };
        let Some(order) = self.state.order(&id, self.now) else { return done(Reply::method(object)) };
        let (opened, state, total) = (order.opened, order.state, order.total);
        let paid_at = order.payment.as_ref().map(|payment| payment.at);
        let trade_no = order.transaction_id.clone();
        if state == OrderState::NotPay {
            // A code that was not scanned is invalid from now on.
            order.state = OrderState::Closed;
            self.state.count_execution("cancel", &id);
        }
        if !opened {
            return done(Reply::method(object));
        }
        object["trade_no"] = json!(trade_no);
        let Some(paid_at) = paid_at else {
            object["action"] = json!("close");
            return done(Reply::method(object));
        };
        object["action"] = json!("refund");
        object["gmt_refund_pay"] = json!(china(self.now));
        let refunded_amount: u64 = self.state.refunds_of(&id).map(|(_, refund)| refund.amount).sum();
        if state == OrderState::Refund && refunded_amount < total {
            return Err(Reply::business("ACQ.CANCEL_NOT_ALLOWED", "不允许撤销：交易已部分退款"));
        }
        if refunded_amount >= total {
            return done(Reply::method(object));
        }
        if self.now.as_second() - paid_at.as_second() > 24 * 60 * 60 {
            return Err(Reply::business("ACQ.TRADE_CANCEL_TIME_OUT", "超过撤销时间范围，请使用退款"));
        }
        let request = (id.0.clone(), id.1.clone());
        self.record_refund(&id, &request, total, json!({}), None, true);
        self.state.count_execution("cancel", &id);
        Ok(Done { reply: Reply::method(object), notify: Some(Subject::Refund(request)) })
    }

    /// Returns the requested trade if the buyer has opened it.
    pub(super) fn find(&mut self, content: &Value) -> Result<Id> {
        let id = self.id(&trade_number(self.state, self.account, content).unwrap_or_default());
        match self.state.order(&id, self.now) {
            Some(order) if order.opened => Ok(id),
            _ => Err(not_exist()),
        }
    }

    pub(super) fn id(&self, number: &str) -> Id {
        (self.account.app_id.clone(), number.to_owned())
    }
}

/// Returns the reply for an order that waits for the buyer's password.
fn waiting(id: &Id) -> Result {
    done(Reply::method(json!({"code": "10003", "msg": "order success pay inprocess", "out_trade_no": id.1})))
}

pub(super) fn not_exist() -> Reply {
    Reply::business("ACQ.TRADE_NOT_EXIST", "交易不存在")
}

pub(super) fn done(reply: Reply) -> Result {
    Ok(Done::silent(reply))
}
