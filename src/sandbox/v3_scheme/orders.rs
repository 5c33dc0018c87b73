//! Order and refund requests of API v3, and the objects of responses and notifications.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::partner;
use super::reply::{Reply, parameter};
use super::schema::{self, Product};
use crate::account::v3_scheme::Account;
use crate::china_time::china;
use crate::fields::{self, Field};
use crate::keys::{encrypt, random_digits, random_text};
use crate::notification::Subject;
use crate::order_machine::{self, Closing, NewOrder, NewRefund};
use crate::state::{Id, Order, OrderState, Refund, RefundStatus};

/// Executes one request on the sandbox state.
pub(super) type OrderHandler<'a> = order_machine::OrderHandler<'a, Account>;
/// Reply to a request.
pub(super) type Done = order_machine::Done<Reply>;
/// Result of a request; the error is a reply.
pub(super) type Result<T = Done> = std::result::Result<T, Reply>;

/// Maximum number of partial refunds per order.
const MAX_PARTIAL_REFUNDS: usize = 50;

impl OrderHandler<'_> {
    pub(super) fn create(&mut self, product: Product, body: Option<Value>) -> Result {
        let body = checked(body, schema::create(product))?;
        self.check_account(&body)?;
        let text = |field: &str| body[field].as_str().unwrap_or_default();
        let expires = text("time_expire").parse::<Timestamp>().ok();
        if expires.is_some_and(|end| end.as_second() < self.now.as_second() + 60) {
            return Err(parameter("body", "/time_expire", "must be at least 1 minute after now"));
        }
        let id = (self.account.mchid.clone(), text("out_trade_no").to_owned());
        if product == Product::Codepay {
            return self.scan(&id, body);
        }
        if let Some(order) = self.state.order(&id, self.now) {
            match order.state {
                OrderState::Success | OrderState::Refund => return Err(Reply::error(400, "ORDERPAID", "该订单已支付")),
                OrderState::Closed => return Err(Reply::error(400, "ORDER_CLOSED", "订单已关闭")),
                _ if order.product != product.as_str() || order.parameters != body => {
                    let message = "请求重入时，参数与首次请求时不一致";
                    return Err(Reply::error(403, "OUT_TRADE_NO_USED", message).numbered(268_498_688));
                }
                _ => return done(Reply::ok(&self.means(product))),
            }
        }
        self.open(&id, product, expires, body);
        done(Reply::ok(&self.means(product)))
    }

    pub(super) fn check_account(&self, body: &Value) -> Result<()> {
        match body["mchid"] == self.account.mchid.as_str() && body["appid"] == self.account.appid.as_str() {
            true => Ok(()),
            false => Err(Reply::error(400, "APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")),
        }
    }

    /// Records an unpaid order.
    pub(super) fn open(&mut self, id: &Id, product: Product, expires: Option<Timestamp>, body: Value) {
        let order = NewOrder {
            product: product.as_str(),
            transaction_id: format!("42000{}", random_digits(23)),
            total: body["amount"]["total"].as_u64().unwrap_or_default(),
            expires,
            notify_url: body["notify_url"].as_str().map(str::to_owned),
            opened: true,
            parameters: body,
        };
        self.state.create(id, order, self.now);
    }

    /// Returns the data for the payer's device, generated anew for each request of the same order.
    fn means(&self, product: Product) -> Value {
        let prepay_id = format!("wx{}{}", china(self.now, "%d%H%M%S"), random_digits(26));
        match product {
            Product::Native => json!({"code_url": format!("{}{}", self.account.scheme.qr_link, random_text(9))}),
            Product::Jsapi | Product::App => json!({"prepay_id": prepay_id}),
            Product::H5 => {
                let path = self.account.scheme.h5_page;
                json!({"h5_url": format!("{path}?prepay_id={prepay_id}&package={}", random_digits(10))})
            }
            // The order is paid or waits for the password: no data is needed.
            Product::Codepay => json!({}),
        }
    }

    /// Checks that the query string contains exactly the sender's mchid, and for a service provider the
    /// sub-merchant's.
    pub(super) fn check_query(&self, query: Option<&str>) -> Result<()> {
        let (query, whose) = (query.unwrap_or_default(), partner::whose(self.account));
        let names =
            |text: &str| text.split('&').map(|part| part.split('=').next().map(str::to_owned)).collect::<Vec<_>>();
        match query {
            _ if query == whose => Ok(()),
            _ if names(query) == names(&whose) => Err(Reply::error(403, "NO_AUTH", "商户无权限")),
            _ => Err(parameter("query", "mchid", "must be given, and nothing else")),
        }
    }

    pub(super) fn query(&mut self, id: &Id) -> Result {
        if !schema::is_number(&id.1) || !(6..=32).contains(&id.1.len()) {
            return Err(parameter("uri", "out_trade_no", "must be 6 to 32 of the documented characters"));
        }
        match self.state.order(id, self.now) {
            Some(order) => done(Reply::ok(&order_object(self.account, &id.1, order))),
            None => Err(Reply::error(404, "ORDER_NOT_EXIST", "订单不存在")),
        }
    }

    pub(super) fn query_by_id(&mut self, id: &Id) -> Result {
        let number = self.state.transactions.get(id).cloned().unwrap_or_default();
        match self.state.order(&(id.0.clone(), number.clone()), self.now) {
            // The platform's transaction number is valid only after the payment.
            Some(order) if order.payment.is_some() => done(Reply::ok(&order_object(self.account, &number, order))),
            _ => Err(Reply::error(404, "ORDER_NOT_EXIST", "订单不存在")),
        }
    }

    pub(super) fn close(&mut self, id: &Id, body: Option<Value>) -> Result {
        let body = checked(body, schema::CLOSE)?;
        if body["mchid"] != self.account.mchid.as_str() {
            return Err(Reply::error(403, "NO_AUTH", "商户无权限"));
        }
        match self.state.close(id, self.now, |order| order.product != Product::Codepay.as_str()) {
            Closing::NoOrder => Err(Reply::error(404, "ORDER_NOT_EXIST", "订单不存在")),
            Closing::Paid => Err(Reply::error(400, "ORDERPAID", "该订单已支付")),
            Closing::NotClosable => Err(Reply::error(400, "INVALID_REQUEST", "付款码支付的订单不能关闭，请撤销")),
            Closing::Repeated | Closing::Closed => done(Reply::no_content()),
        }
    }

    pub(super) fn refund(&mut self, body: Option<Value>, auto: bool) -> Result {
        let body = checked(self.without_mchid(body)?, schema::REFUND)?;
        let text = |field: &str| body[field].as_str().map(str::to_owned);
        let id = |number: String| (self.account.mchid.clone(), number);
        let order_id = match (text("out_trade_no"), text("transaction_id")) {
            (Some(number), None) => id(number),
            (None, Some(transaction)) => id(self.state.transactions.get(&id(transaction)).cloned().unwrap_or_default()),
            _ => return Err(parameter("body", "/out_trade_no", "give either this or transaction_id")),
        };
        let (refund, total) = (body["amount"]["refund"].as_u64(), body["amount"]["total"].as_u64());
        let (refund, total) = (refund.unwrap_or_default(), total.unwrap_or_default());
        let refund_id = id(text("out_refund_no").unwrap_or_default());
        let order = self.state.order(&order_id, self.now).filter(|order| order.payment.is_some());
        let Some(total_paid) = order.map(|order| order.total) else {
            return Err(Reply::error(404, "RESOURCE_NOT_EXISTS", "订单不存在"));
        };
        if let Some(known) = self.state.refunds.get(&refund_id) {
            if known.order != order_id.1 || known.amount != refund || total != total_paid {
                return Err(parameter(
                    "body",
                    "/amount/refund",
                    "differs from the first request with this out_refund_no",
                ));
            }
            return self.refund_reply(&refund_id);
        }
        if total != total_paid {
            return Err(Reply::error(400, "INVALID_REQUEST", "订单金额或退款金额与之前请求不一致，请核实后再试"));
        }
        let (count, sum) = self.state.refunded(&order_id);
        if count >= MAX_PARTIAL_REFUNDS {
            return Err(Reply::error(400, "INVALID_REQUEST", "部分退款次数超过限制"));
        }
        if refund > total_paid.saturating_sub(sum) {
            return Err(Reply::error(400, "INVALID_REQUEST", "累计退款金额大于支付金额"));
        }
        let made = NewRefund {
            refund_id: format!("50{}", random_digits(27)),
            amount: refund,
            notify_url: text("notify_url"),
            parameters: body,
        };
        self.state.refund(&order_id, &refund_id, made, self.now);
        self.state.count_execution("refund", &order_id);
        // The response reports PROCESSING even if the refund finishes immediately, because a 200 confirms only the
        // acceptance.
        let answer = self.refund_reply(&refund_id)?;
        if auto {
            self.state.finish_refund(&refund_id, RefundStatus::Success, self.now);
            return Ok(Done { notify: Some(Subject::Refund(refund_id)), ..answer });
        }
        Ok(answer)
    }

    /// Removes and checks the `mchid` of a refund, where the scheme requires it.
    pub(super) fn without_mchid(&self, body: Option<Value>) -> Result<Option<Value>> {
        let Account { scheme, merchant_of, mchid, .. } = self.account;
        if !scheme.has_mchid_in_refunds || merchant_of.is_some() {
            return Ok(body);
        }
        let Some(mut body) = body else { return Ok(None) };
        match body.as_object_mut().and_then(|fields| fields.remove("mchid")) {
            Some(given) if given == mchid.as_str() => Ok(Some(body)),
            Some(_) => Err(Reply::error(403, "NO_AUTH", "商户无权限")),
            None => Err(parameter("body", "/mchid", "must be given")),
        }
    }

    pub(super) fn refund_query(&mut self, id: &Id, query: Option<&str>) -> Result {
        let whose = match &self.account.merchant_of {
            Some(merchant) => Some(format!("sub_mchid={}", merchant.mchid)),
            None if self.account.scheme.has_mchid_in_refunds => Some(format!("mchid={}", self.account.mchid)),
            None => None,
        };
        if query.filter(|query| !query.is_empty()) != whose.as_deref() {
            return Err(parameter("query", query.unwrap_or_default(), "must be what is documented, and nothing else"));
        }
        if !schema::is_refund_number(&id.1) || id.1.len() > 64 {
            return Err(parameter("uri", "out_refund_no", "must be at most 64 of the documented characters"));
        }
        self.refund_reply(id)
    }

    fn refund_reply(&self, id: &Id) -> Result {
        let known = self.state.refunds.get(id).and_then(|refund| {
            let order = self.state.orders.get(&(id.0.clone(), refund.order.clone()))?.order.as_ref()?;
            Some(Reply::ok(&refund_object(&id.1, refund, order)))
        });
        known.map_or_else(|| Err(Reply::error(404, "RESOURCE_NOT_EXISTS", "退款单不存在")), done)
    }

    pub(super) fn certificates(&self, query: Option<&str>) -> Result {
        if !matches!(query, None | Some("algorithm_type=RSA" | "algorithm_type=ALL")) {
            return Err(parameter("query", "algorithm_type", "must be RSA or ALL, and nothing else"));
        }
        let Some(platform) = &self.account.platform else {
            return Err(Reply::error(
                404,
                "RESOURCE_NOT_EXISTS",
                "无可用的平台证书，请在商户平台-API安全申请使用微信支付公钥",
            ));
        };
        let certificate = &platform.certificate;
        let sign_now = encrypt(&self.account.api_v3, "certificate", &certificate.pem);
        let (ciphertext, nonce) = sign_now.ok_or_else(|| Reply::error(500, "SYSTEM_ERROR", "系统异常，请稍后重试"))?;
        let time = |second| Timestamp::from_second(second).map(rfc3339).unwrap_or_default();
        done(Reply::ok(&json!({"data": [{
            "serial_no": certificate.serial,
            "effective_time": time(certificate.not_before),
            "expire_time": time(certificate.not_after),
            "encrypt_certificate": {
                "algorithm": "AEAD_AES_256_GCM",
                "nonce": nonce,
                "associated_data": "certificate",
                "ciphertext": ciphertext,
            },
        }]})))
    }
}

/// Sets the state PAYERROR and removes the fields of the payment.
pub(super) fn fail_payment(order: &mut Value) {
    for paid in ["transaction_id", "trade_type", "bank_type", "success_time", "payer", "amount", "promotion_detail"] {
        order.as_object_mut().map(|order| order.remove(paid));
    }
    order["trade_state"] = json!("PAYERROR");
    order["trade_state_desc"] = json!("支付失败，请撤销订单");
}

/// Returns an order as in queries and notifications.
pub(super) fn order_object(account: &Account, number: &str, order: &Order) -> Value {
    let (state, description) = state(order);
    let mut object = json!({
        "appid": account.appid,
        "mchid": account.mchid,
        "out_trade_no": number,
        "trade_state": state,
        "trade_state_desc": description,
    });
    if let Some(attach) = order.parameters.get("attach") {
        object["attach"] = attach.clone();
    }
    if let Some(payment) = &order.payment {
        object["transaction_id"] = json!(order.transaction_id);
        object["trade_type"] = json!(Product::named(order.product).map(Product::trade_type));
        object["bank_type"] = json!("OTHERS");
        object["success_time"] = json!(rfc3339(payment.at));
        object["payer"] = json!({"openid": payment.payer});
        object["amount"] = json!({
            "total": payment.amount, "payer_total": payment.amount, "currency": "CNY", "payer_currency": "CNY",
        });
    }
    partner::outward(account, object)
}

/// Returns a refund as in responses.
pub(super) fn refund_object(number: &str, refund: &Refund, order: &Order) -> Value {
    let mut object = json!({
        "refund_id": refund.refund_id,
        "out_refund_no": number,
        "transaction_id": order.transaction_id,
        "out_trade_no": refund.order,
        "channel": "ORIGINAL",
        "user_received_account": "支付用户零钱",
        "create_time": rfc3339(refund.created),
        "status": refund.status.as_str(),
        "funds_account": refund.parameters.get("funds_account").cloned().unwrap_or(json!("AVAILABLE")),
        "amount": {
            "total": order.total, "refund": refund.amount,
            "payer_total": order.total, "payer_refund": refund.amount,
            "settlement_refund": refund.amount, "settlement_total": order.total,
            "discount_refund": 0, "currency": "CNY", "from": [],
        },
        "promotion_detail": [],
    });
    if let (Some(at), RefundStatus::Success) = (refund.finished, refund.status) {
        object["success_time"] = json!(rfc3339(at));
    }
    object
}

/// Formats a time as WeChat Pay does.
pub(super) fn rfc3339(time: Timestamp) -> String {
    china(time, "%Y-%m-%dT%H:%M:%S%:z")
}

/// Returns `trade_state` and its description. Orders of scanned codes wait for the payer and are revoked instead of
/// closed.
fn state(order: &Order) -> (&'static str, &'static str) {
    let is_scanned = order.product == Product::Codepay.as_str();
    match order.state {
        OrderState::NotPay if is_scanned => ("USERPAYING", "需要用户输入支付密码"),
        OrderState::Closed if is_scanned => ("REVOKED", "订单已撤销"),
        OrderState::NotPay => ("NOTPAY", "订单未支付"),
        OrderState::Success => ("SUCCESS", "支付成功"),
        OrderState::Refund => ("REFUND", "订单发生过退款"),
        OrderState::Closed => ("CLOSED", "订单已关闭"),
        OrderState::PayError => ("PAYERROR", "支付失败"),
    }
}

pub(super) fn checked(body: Option<Value>, fields: &[Field]) -> Result<Value> {
    let body = body.ok_or_else(|| parameter("body", "", "must be JSON"))?;
    fields::check(&body, fields).map_err(|issue| {
        let reply = parameter("body", &issue.field, &issue.issue);
        if issue.undocumented { reply.numbered(270_924_358) } else { reply }
    })?;
    Ok(body)
}

pub(super) fn done(reply: Reply) -> Result {
    Ok(Done::silent(reply))
}
