//! Notifications: signed XML for payments; for refunds unsigned XML with encrypted content. Only the documented
//! acknowledgement ends the repetitions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::codes::{collected, order_fields, refund_source, refund_state, refund_time};
use super::refund::RECEIVED_BY;
use super::reply::{name_account, sign, tamper_account, tamper_amounts};
use super::secret::{SignType, encrypt};
use super::xml::{Fields, write};
use crate::account::wechat_v2::Account;
use crate::notification::{self, ComposedNotification, SendOptions, Subject};
use crate::schedules::WECHAT_SCHEDULE;
use crate::state::{Id, Order, Refund, RefundStatus, SandboxState};
use crate::tamper::Tamper;

/// Acknowledgement, byte for byte: an added line end causes a repetition.
const ACKNOWLEDGEMENT: &[u8] =
    b"<xml><return_code><![CDATA[SUCCESS]]></return_code><return_msg><![CDATA[OK]]></return_msg></xml>";

/// Composes a notification of the subject's current state, or returns why there is none.
pub(crate) fn compose(
    state: &SandboxState,
    account: &Account,
    subject: &Subject,
    sending: &SendOptions,
) -> Result<ComposedNotification, String> {
    if let Some(tamper @ (Tamper::Serial | Tamper::Signtest | Tamper::Stale)) = sending.tamper {
        return Err(format!("APIv2's notifications have nothing for {tamper:?}: they name no key and no time"));
    }
    if sending.key.is_some() {
        return Err("APIv2 signs with one key: leave `key` out".to_owned());
    }
    let order = |id: &Id| state.orders.get(id).and_then(|entry| entry.order.as_ref()).ok_or("there is no such order");
    let (event_type, url, mut fields) = match subject {
        Subject::Payment(id) => {
            let order = order(id)?;
            let fields = payment(account, &id.1, order, sending.tamper)?;
            ("PAYMENT", order.notify_url.clone().ok_or("the order has no notify_url")?, fields)
        }
        Subject::Refund(id) => {
            let refund = state.refunds.get(id).ok_or("there is no such refund")?;
            let fields =
                refunded(account, &id.1, refund, order(&(id.0.clone(), refund.order.clone()))?, sending.tamper)?;
            ("REFUND", refund.notify_url.clone().ok_or("the refund named no notify_url")?, fields)
        }
    };
    if sending.tamper == Some(Tamper::Body) {
        fields.insert("attach".to_owned(), "changed after it was signed".to_owned());
    }
    let id = fields.get("nonce_str").cloned().unwrap_or_default();
    Ok(ComposedNotification { id, event_type, url, body: Arc::new(XmlBody(write("xml", &fields).into())) })
}

/// Composes a payment notification with the order's sign type.
fn payment(account: &Account, number: &str, order: &Order, tamper: Option<Tamper>) -> Result<Fields, String> {
    if order.payment.is_none() {
        return Err("only paid orders are notified of: pay it first".to_owned());
    }
    let mut fields = order_fields(number, order);
    name_account(&mut fields, account);
    fields.extend(collected([("return_code", "SUCCESS"), ("result_code", "SUCCESS")]));
    match tamper {
        Some(Tamper::Amount) => tamper_amounts(&mut fields),
        Some(Tamper::Account) => tamper_account(&mut fields),
        _ => {}
    }
    let how = SignType::named(order.parameters["sign_type"].as_str()).unwrap_or(SignType::Md5);
    let how = if tamper == Some(Tamper::SignType) { how.other() } else { how };
    sign(&mut fields, account, how, tamper == Some(Tamper::Signature));
    Ok(fields)
}

/// Composes a refund notification. It is unsigned; the encryption proves the sender's key.
fn refunded(
    account: &Account,
    number: &str,
    refund: &Refund,
    order: &Order,
    tamper: Option<Tamper>,
) -> Result<Fields, String> {
    if refund.status == RefundStatus::Processing {
        return Err("the refund is still open: finish it first".to_owned());
    }
    let (amount, total) = (refund.amount.to_string(), order.total.to_string());
    let mut refund_fields = collected([
        ("out_refund_no", number),
        ("out_trade_no", &refund.order),
        ("refund_id", &refund.refund_id),
        ("transaction_id", &order.transaction_id),
        ("refund_fee", &amount),
        ("settlement_refund_fee", &amount),
        ("total_fee", &total),
        ("settlement_total_fee", &total),
        ("refund_status", refund_state(refund.status)),
        ("refund_recv_accout", RECEIVED_BY),
        ("refund_account", refund_source(refund)),
        ("refund_request_source", "API"),
    ]);
    if let (RefundStatus::Success, Some(at)) = (refund.status, refund.finished) {
        refund_fields.insert("success_time".to_owned(), refund_time(at));
    }
    if tamper == Some(Tamper::Amount) {
        tamper_amounts(&mut refund_fields);
    }
    let mut fields = collected([("return_code", "SUCCESS")]);
    name_account(&mut fields, account);
    if tamper == Some(Tamper::Account) {
        tamper_account(&mut fields);
    }
    let other = if tamper == Some(Tamper::Signature) { "x" } else { "" };
    let encrypted = encrypt(&write("root", &refund_fields), &format!("{}{other}", account.api));
    let mut encrypted = encrypted.ok_or("cannot encrypt the refund")?;
    if tamper == Some(Tamper::Body) {
        // Removes one block.
        encrypted.drain(..64);
    }
    fields.insert("req_info".to_owned(), encrypted);
    Ok(fields)
}

/// Body of a notification, the same for each attempt.
struct XmlBody(Bytes);

impl notification::NotificationBody for XmlBody {
    fn sign_now(&self) -> Option<(HeaderMap, Bytes)> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/xml"));
        Some((headers, self.0.clone()))
    }

    fn is_acknowledged(&self, status: u16, body: &[u8]) -> bool {
        status == 200 && body == ACKNOWLEDGEMENT
    }

    fn schedule(&self) -> &'static [Duration] {
        &WECHAT_SCHEDULE
    }
}
