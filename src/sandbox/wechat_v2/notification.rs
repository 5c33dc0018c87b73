//! Notifications: of payments in signed XML; of refunds with what matters hidden, and no signature. Both end with the one
//! acknowledgement that is documented.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::codes::{collected, order_fields, refund_source, refund_state, refund_time};
use super::refund::RECEIVED_BY;
use super::reply::{name_account, sign, spoil_account, spoil_amounts};
use super::secret::{SignType, hide};
use super::xml::{Fields, write};
use crate::sandbox::WECHAT_SCHEDULE;
use crate::sandbox::account::wechat_v2::Account;
use crate::sandbox::notify::{self, News, Sending, Subject, Tamper};
use crate::sandbox::state::{Id, Order, Refund, RefundStatus, SandboxState};

/// To the byte: who adds as much as a line's end is told again.
const ACKNOWLEDGEMENT: &[u8] =
    b"<xml><return_code><![CDATA[SUCCESS]]></return_code><return_msg><![CDATA[OK]]></return_msg></xml>";

/// What the books say of the subject now; or why there is nothing to say.
pub(in crate::sandbox) fn compose(
    books: &SandboxState,
    account: &Account,
    subject: &Subject,
    sending: &Sending,
) -> Result<News, String> {
    if let Some(tamper @ (Tamper::Serial | Tamper::Signtest | Tamper::Stale)) = sending.tamper {
        return Err(format!("APIv2's notifications have nothing for {tamper:?}: they name no key and no time"));
    }
    if sending.key.is_some() {
        return Err("APIv2 signs with one key: leave `key` out".to_owned());
    }
    let order = |id: &Id| books.orders.get(id).and_then(|entry| entry.order.as_ref()).ok_or("there is no such order");
    let (event_type, url, mut fields) = match subject {
        Subject::Payment(id) => {
            let order = order(id)?;
            let fields = payment(account, &id.1, order, sending.tamper)?;
            ("PAYMENT", order.notify_url.clone().ok_or("the order has no notify_url")?, fields)
        }
        Subject::Refund(id) => {
            let refund = books.refunds.get(id).ok_or("there is no such refund")?;
            let fields =
                refunded(account, &id.1, refund, order(&(id.0.clone(), refund.order.clone()))?, sending.tamper)?;
            ("REFUND", refund.notify_url.clone().ok_or("the refund named no notify_url")?, fields)
        }
    };
    if sending.tamper == Some(Tamper::Body) {
        fields.insert("attach".to_owned(), "changed after it was signed".to_owned());
    }
    let id = fields.get("nonce_str").cloned().unwrap_or_default();
    Ok(News { id, event_type, url, letter: Arc::new(Letter(write("xml", &fields).into())) })
}

/// Signed as the order was.
fn payment(account: &Account, number: &str, order: &Order, tamper: Option<Tamper>) -> Result<Fields, String> {
    if order.payment.is_none() {
        return Err("only paid orders are notified of: pay it first".to_owned());
    }
    let mut fields = order_fields(number, order);
    name_account(&mut fields, account);
    fields.extend(collected([("return_code", "SUCCESS"), ("result_code", "SUCCESS")]));
    match tamper {
        Some(Tamper::Amount) => spoil_amounts(&mut fields),
        Some(Tamper::Account) => spoil_account(&mut fields),
        _ => {}
    }
    let how = SignType::named(order.parameters["sign_type"].as_str()).unwrap_or(SignType::Md5);
    let how = if tamper == Some(Tamper::SignType) { how.other() } else { how };
    sign(&mut fields, account, how, tamper == Some(Tamper::Signature));
    Ok(fields)
}

/// Nothing is signed here: only who has the key can have hidden it.
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
    let mut news = collected([
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
        news.insert("success_time".to_owned(), refund_time(at));
    }
    if tamper == Some(Tamper::Amount) {
        spoil_amounts(&mut news);
    }
    let mut fields = collected([("return_code", "SUCCESS")]);
    name_account(&mut fields, account);
    if tamper == Some(Tamper::Account) {
        spoil_account(&mut fields);
    }
    let other = if tamper == Some(Tamper::Signature) { "x" } else { "" };
    let hidden = hide(&write("root", &news), &format!("{}{other}", account.api));
    let mut hidden = hidden.ok_or("the refund could not be hidden")?;
    if tamper == Some(Tamper::Body) {
        // A block that somebody left out.
        hidden.drain(..64);
    }
    fields.insert("req_info".to_owned(), hidden);
    Ok(fields)
}

/// What goes over the wire, the same at each repetition.
struct Letter(Bytes);

impl notify::NotificationBody for Letter {
    fn sealed(&self) -> Option<(HeaderMap, Bytes)> {
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
