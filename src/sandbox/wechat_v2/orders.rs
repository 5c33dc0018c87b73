//! Order requests of APIv2.

use serde_json::Value;

use super::codes::{CODE, collected, order_fields, product, state};
use super::reply::Reply;
use super::xml::Fields;
use crate::account::wechat_v2::Account;
use crate::china_time::{china, parse_digits};
use crate::keys::{random_digits, random_text};
use crate::order_machine::{self, Closing, NewOrder, Reversal, Scan};
use crate::state::{Id, OrderState};

/// Executes one request on the sandbox state.
pub(super) type OrderHandler<'a> = order_machine::OrderHandler<'a, Account>;
/// Reply to a request.
pub(super) type Done = order_machine::Done<Reply>;
/// Result of a request; the error is a reply.
pub(super) type Result<T = Done> = std::result::Result<T, Reply>;

/// Owner of every payment code.
const PAYER: &str = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o";
/// Maximum age of a payment that can be reversed.
const REVERSIBLE_SECONDS: i64 = 7 * 24 * 60 * 60;

impl OrderHandler<'_> {
    /// Creates an unpaid order.
    pub(super) fn create(&mut self, content: Value) -> Result {
        let id = self.id(content["out_trade_no"].as_str());
        let trade_type = content["trade_type"].as_str().unwrap_or_default().to_owned();
        let known = self.state.order(&id, self.now).map(|order| (order.state, order.parameters == content));
        match known {
            None => self.open(&id, product(&trade_type), content)?,
            Some((OrderState::Success | OrderState::Refund, _)) => return Err(paid()),
            Some((OrderState::Closed, _)) => return Err(Reply::error("ORDERCLOSED", "订单已关闭")),
            Some((_, false)) => return Err(used()),
            Some((_, true)) => {}
        }
        let mut results = collected([
            ("trade_type", trade_type.as_str()),
            ("prepay_id", &format!("wx{}{}", china(self.now, "%d%H%M%S"), random_digits(26))),
        ]);
        let means = match trade_type.as_str() {
            "NATIVE" => Some(("code_url", format!("weixin://wxpay/bizpayurl?pr={}", random_text(9)))),
            "MWEB" => {
                let prepay_id = results.get("prepay_id").map_or("", String::as_str);
                let path = "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb";
                Some(("mweb_url", format!("{path}?prepay_id={prepay_id}&package={}", random_digits(10))))
            }
            _ => None,
        };
        results.extend(means.map(|(name, value)| (name.to_owned(), value)));
        done(Reply::success(results))
    }

    /// Creates an order from a payment code, and charges it unless the code's suffix prevents that. There is no
    /// notification.
    pub(super) fn scan(&mut self, content: Value) -> Result {
        let id = self.id(content["out_trade_no"].as_str());
        let known = self.state.order(&id, self.now).map(|order| (order.state, order.parameters == content));
        match known {
            None => {}
            Some((OrderState::Success | OrderState::Refund, _)) => return Err(paid()),
            Some((OrderState::Closed, _)) => return Err(Reply::error("ORDERREVERSED", "订单已撤销")),
            Some((OrderState::NotPay, true)) => return Err(asks_for_password()),
            Some(_) => return Err(used()),
        }
        let code = content["auth_code"].as_str().unwrap_or_default().to_owned();
        let is_code = code.len() == 18
            && code.bytes().all(|byte| byte.is_ascii_digit())
            && matches!(code.get(..2), Some("10" | "11" | "12" | "13" | "14" | "15"));
        if !is_code {
            return Err(Reply::error("AUTH_CODE_INVALID", "请扫描微信支付被扫条码/二维码"));
        }
        if self.state.used_codes.contains(&code) {
            return Err(Reply::error("AUTHCODEEXPIRE", "二维码已过期，请用户在微信上刷新后再试"));
        }
        self.open(&id, CODE, content)?;
        match self.state.scan(&id, &code, PAYER, self.now) {
            Scan::Password => return Err(asks_for_password()),
            Scan::NoBalance => return Err(Reply::error("NOTENOUGH", "用户帐号余额不足")),
            Scan::Paid => {}
        }
        let Some(order) = self.state.order(&id, self.now) else { return Err(not_exist()) };
        done(Reply::success(order_fields(&id.1, order)))
    }

    fn open(&mut self, id: &Id, product: &'static str, content: Value) -> Result<()> {
        let text = |field: &str| content[field].as_str();
        let expires = text("time_expire").and_then(parse_digits);
        if expires.is_some_and(|end| end.as_second() < self.now.as_second() + 60) {
            return Err(Reply::error("PARAM_ERROR", "time_expire时间过短，至少在1分钟之后"));
        }
        let order = NewOrder {
            product,
            transaction_id: format!("42000{}", random_digits(23)),
            total: text("total_fee").and_then(|fen| fen.parse().ok()).unwrap_or_default(),
            expires,
            notify_url: text("notify_url").map(str::to_owned),
            opened: true,
            parameters: content,
        };
        self.state.create(id, order, self.now);
        Ok(())
    }

    pub(super) fn query(&mut self, content: &Value) -> Result {
        let id = self.find(content)?;
        let Some(order) = self.state.order(&id, self.now) else { return Err(not_exist()) };
        let (state, description) = state(order);
        let reply = Reply::success(order_fields(&id.1, order));
        done(reply.with("trade_state", state).with("trade_state_desc", description))
    }

    /// Closes an unpaid order. A repeated close succeeds and changes nothing.
    pub(super) fn close(&mut self, content: &Value) -> Result {
        let id = self.find(content)?;
        match self.state.close(&id, self.now, |order| order.product != CODE) {
            Closing::NoOrder => Err(not_exist()),
            Closing::Paid => Err(paid()),
            Closing::NotClosable => Err(Reply::error("INVALID_REQUEST", "付款码支付的订单不能关闭，请撤销")),
            Closing::Repeated | Closing::Closed => done(Reply::success(Fields::new())),
        }
    }

    /// Reverses the order of a scanned code and refunds a payment.
    pub(super) fn reverse(&mut self, content: &Value) -> Result {
        let stays = |code: &str, message: &str| Err(Reply::error(code, message).with("recall", "N"));
        let id = self.find(content).map_err(|reply| reply.with("recall", "N"))?;
        match self.state.reverse(&id, self.now, REVERSIBLE_SECONDS, |order| order.product == CODE) {
            Reversal::NoOrder => Err(not_exist()),
            Reversal::NotReversible => stays("INVALID_REQUEST", "只有付款码支付的订单可以撤销"),
            Reversal::Refunded => stays("TRADE_STATE_ERROR", "订单已发生退款，不能撤销"),
            Reversal::TooOld => stays("REVERSE_EXPIRE", "订单超过7天，无法撤销"),
            Reversal::Repeated | Reversal::Reversed => done(Reply::success(Fields::new()).with("recall", "N")),
        }
    }

    /// Returns the requested order. The platform's number takes precedence and is valid only after the payment.
    pub(super) fn find(&mut self, content: &Value) -> Result<Id> {
        let by_transaction = content["transaction_id"].as_str().map(|transaction| self.id(Some(transaction)));
        let id = match &by_transaction {
            Some(transaction) => self.id(self.state.transactions.get(transaction).map(String::as_str)),
            None => self.id(content["out_trade_no"].as_str()),
        };
        match self.state.order(&id, self.now) {
            Some(order) if by_transaction.is_none() || order.payment.is_some() => Ok(id),
            _ => Err(not_exist()),
        }
    }

    pub(super) fn id(&self, number: Option<&str>) -> Id {
        (self.account.mchid.clone(), number.unwrap_or_default().to_owned())
    }
}

fn paid() -> Reply {
    Reply::error("ORDERPAID", "该订单已支付")
}

fn used() -> Reply {
    Reply::error("OUT_TRADE_NO_USED", "商户订单号重复：与首次请求的参数不一致")
}

fn asks_for_password() -> Reply {
    Reply::error("USERPAYING", "需要用户输入支付密码")
}

fn not_exist() -> Reply {
    Reply::error("ORDERNOTEXIST", "订单不存在")
}

pub(super) fn done(reply: Reply) -> Result {
    Ok(Done::silent(reply))
}
