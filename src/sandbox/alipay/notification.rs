//! Notifications: forms signed without `sign` and `sign_type`. Only the body `success` acknowledges them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::codes::{add, china, finished, trade_object};
use super::gbk;
use super::reply::tamper_amounts;
use super::yuan::yuan;
use crate::account::alipay::Account;
use crate::form::Form;
use crate::keys::random_digits;
use crate::notification::{self, ComposedNotification, SendOptions, Subject};
use crate::schedules::ALIPAY_SCHEDULE;
use crate::state::{Id, RefundStatus, SandboxState};
use crate::tamper::{ONE_SIGN_TYPE, Tamper};

/// Composes a notification of the subject's current state, or returns why there is none.
pub(crate) fn compose(
    state: &SandboxState,
    account: &Arc<Account>,
    subject: &Subject,
    sending: &SendOptions,
) -> Result<ComposedNotification, String> {
    if sending.tamper == Some(Tamper::SignType) {
        return Err(ONE_SIGN_TYPE.to_owned());
    }
    if let Some(tamper @ (Tamper::Serial | Tamper::Signtest)) = sending.tamper {
        return Err(format!("Alipay's notifications have nothing for {tamper:?}: they name no key and send no probes"));
    }
    if sending.key.is_some() {
        return Err("Alipay signs with one key: leave `key` out".to_owned());
    }
    let now = Timestamp::now();
    let id = format!("{}00222{}", china(now).get(..10).unwrap_or_default().replace('-', ""), random_digits(21));
    let (event_type, url, mut fields) = fields(state, account, subject)?;
    match sending.tamper {
        Some(Tamper::Amount) => tamper_amounts(&mut fields),
        Some(Tamper::Account) => {
            fields["app_id"] = json!("2021000000000000");
            fields["auth_app_id"] = json!("2021000000000000");
            fields["seller_id"] = json!("2088000000000000");
        }
        _ => {}
    }
    let mut form = Form::default();
    for (name, value) in fields.as_object().into_iter().flatten() {
        form.set(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    form.set("notify_id", &id);
    if sending.gbk {
        form.set("charset", "GBK");
        form.set("subject", "誠");
    }
    let body = SignedForm { account: account.clone(), form, tamper: sending.tamper, gbk: sending.gbk };
    Ok(ComposedNotification { id, event_type, url, body: Arc::new(body) })
}

fn fields(state: &SandboxState, account: &Account, subject: &Subject) -> Result<(&'static str, String, Value), String> {
    let order_of =
        |id: &Id| state.orders.get(id).and_then(|entry| entry.order.as_ref()).ok_or("there is no such order");
    let (order_id, refund) = match subject {
        Subject::Payment(id) => (id.clone(), None),
        Subject::Refund(id) => {
            let refund = state.refunds.get(id).ok_or("there is no such refund")?;
            ((id.0.clone(), refund.order.clone()), Some((&id.1, refund)))
        }
    };
    let order = order_of(&order_id)?;
    let payment = order.payment.as_ref().ok_or("only paid orders are notified of: pay it first")?;
    let mut fields = trade_object(&order_id.1, order);
    let more = json!({
        "notify_type": "trade_status_sync",
        "app_id": account.app_id,
        "auth_app_id": account.app_id,
        "charset": "utf-8",
        "version": "1.0",
        "seller_id": account.seller_id,
        "seller_email": "seller@example.com",
        "buyer_id": payment.payer,
        "trade_status": "TRADE_SUCCESS",
        "subject": order.parameters["subject"],
        "gmt_create": china(order.created),
        "gmt_payment": china(payment.at),
        "fund_bill_list": json!([{"amount": yuan(payment.amount), "fundChannel": "ALIPAYACCOUNT"}]).to_string(),
    });
    add(&mut fields, more);
    if let Some(object) = fields.as_object_mut() {
        object.remove("buyer_user_id");
    }
    for field in ["body", "passback_params"] {
        if let Some(value) = order.parameters.get(field) {
            fields[field] = value.clone();
        }
    }
    let Some((number, refund)) = refund else {
        return Ok(("TRADE_SUCCESS", order.notify_url.clone().ok_or("the order has no notify_url")?, fields));
    };
    let at = refund.finished.filter(|_| refund.status == RefundStatus::Success);
    let at = at.ok_or("Alipay notifies only of succeeded refunds")?;
    let refunded_amount = finished(state, &order_id);
    let status = if refunded_amount >= order.total { "TRADE_CLOSED" } else { "TRADE_SUCCESS" };
    let more = json!({
        "trade_status": status,
        "out_biz_no": number,
        "refund_fee": yuan(refunded_amount),
        "send_back_fee": yuan(refunded_amount),
        "gmt_refund": format!("{}.000", china(at)),
    });
    add(&mut fields, more);
    if status == "TRADE_CLOSED" {
        fields["gmt_close"] = json!(china(at));
    }
    Ok(("REFUND", refund.notify_url.clone().ok_or("the refund has no notify_url")?, fields))
}

/// A form that is signed at each attempt.
struct SignedForm {
    account: Arc<Account>,
    form: Form,
    tamper: Option<Tamper>,
    gbk: bool,
}

impl notification::NotificationBody for SignedForm {
    fn sign_now(&self) -> Option<(HeaderMap, Bytes)> {
        let mut form = self.form.clone();
        let age = SignedDuration::from_mins(if self.tamper == Some(Tamper::Stale) { 10 } else { 0 });
        form.set("notify_time", china(Timestamp::now().checked_sub(age).ok()?));
        form.set("sign_type", "RSA2");
        let salt = if self.tamper == Some(Tamper::Signature) { "\n" } else { "" };
        let text = form.signed_text(&["sign", "sign_type"]) + salt;
        let bytes = if self.gbk { gbk::encoded(&text) } else { text.into_bytes() };
        form.set("sign", self.account.alipay.sign(&bytes)?);
        if self.tamper == Some(Tamper::Body) {
            form.set("body", "changed after it was signed");
        }
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
        headers.insert("content-type", kind);
        let body = if self.gbk { form.encoded_with(gbk::encoded) } else { form.encoded() };
        Some((headers, body.into()))
    }

    fn is_acknowledged(&self, status: u16, body: &[u8]) -> bool {
        status == 200 && body == b"success"
    }

    fn schedule(&self) -> &'static [Duration] {
        &ALIPAY_SCHEDULE
    }
}
