//! Notifications: forms signed with the method of the original request. Status 200 acknowledges them, regardless of
//! the body.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use super::codes::{Fields, Outcome, message, outcome, refund_outcome, settled, text};
use super::reply::tamper_amounts;
use super::signature::{SignMethod, sign};
use crate::account::unionpay::Account;
use crate::form::Form;
use crate::notification::{self, ComposedNotification, SendOptions, Subject};
use crate::schedules::UNIONPAY_SCHEDULE;
use crate::state::SandboxState;
use crate::tamper::{ONE_SIGN_TYPE, Tamper};

/// Fields that a notification copies from the original request.
const COPIED_FIELDS: [&str; 10] = [
    "version",
    "encoding",
    "txnType",
    "txnSubType",
    "bizType",
    "accessType",
    "merId",
    "orderId",
    "txnTime",
    "reqReserved",
];

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
    if let Some(tamper @ (Tamper::Serial | Tamper::Signtest | Tamper::Stale)) = sending.tamper {
        return Err(format!("UnionPay's notifications have nothing for {tamper:?}: no key's name, no probes, no time"));
    }
    if sending.key.is_some() {
        return Err("UnionPay signs with one key: leave `key` out".to_owned());
    }
    let Event { original, url, outcome, fields, kind } = event(state, subject)?;
    let mut form = Form::default();
    for name in COPIED_FIELDS {
        if !text(original, name).is_empty() {
            form.set(name, text(original, name));
        }
    }
    fields.into_iter().for_each(|(name, value)| form.set(name, value));
    form.set("respCode", outcome);
    form.set("respMsg", message(outcome));
    match sending.tamper {
        Some(Tamper::Amount) => tamper_amounts(&mut form),
        Some(Tamper::Account) => form.set("merId", "777290000000000"),
        _ => {}
    }
    let method = SignMethod::named(text(original, "signMethod")).ok_or("the request named no signMethod")?;
    let id = form.get("queryId").unwrap_or_default().to_owned();
    let body = SignedForm { account: account.clone(), method, form, tamper: sending.tamper };
    Ok(ComposedNotification { id, event_type: kind, url, body: Arc::new(body) })
}

struct Event<'a> {
    /// Parameters of the original request.
    original: &'a Value,
    url: String,
    outcome: Outcome,
    fields: Fields,
    kind: &'static str,
}

fn event<'a>(state: &'a SandboxState, subject: &Subject) -> Result<Event<'a>, String> {
    match subject {
        Subject::Payment(id) => {
            let order = state.orders.get(id).and_then(|entry| entry.order.as_ref()).ok_or("there is no such order")?;
            let outcome = outcome(order).filter(|outcome| *outcome != "05");
            let outcome = outcome.ok_or("only what has ended is notified of: pay the order first")?;
            let (payer, at, amount) = match &order.payment {
                Some(payment) => (Some(payment.payer.as_str()), payment.at, payment.amount),
                None if order.product == "barcode" => (None, order.created, order.total),
                None => {
                    return Err(
                        "UnionPay notifies only of success for trades that the payer makes on a page".to_owned()
                    );
                }
            };
            Ok(Event {
                original: &order.parameters,
                url: order.notify_url.clone().ok_or("the order has no backUrl")?,
                outcome,
                fields: settled(amount, &order.transaction_id, at, payer),
                kind: "PAYMENT",
            })
        }
        Subject::Refund(id) => {
            let refund = state.refunds.get(id).ok_or("there is no such refund")?;
            let at = refund.finished.ok_or("only what has ended is notified of: finish the refund first")?;
            Ok(Event {
                original: &refund.parameters,
                url: refund.notify_url.clone().ok_or("the refund has no backUrl")?,
                outcome: refund_outcome(refund),
                fields: settled(refund.amount, &refund.refund_id, at, None),
                kind: "REFUND",
            })
        }
    }
}

/// A form that is signed at each attempt.
struct SignedForm {
    account: Arc<Account>,
    method: SignMethod,
    form: Form,
    tamper: Option<Tamper>,
}

impl notification::NotificationBody for SignedForm {
    fn sign_now(&self) -> Option<(HeaderMap, Bytes)> {
        let mut form = self.form.clone();
        let salt = if self.tamper == Some(Tamper::Signature) { "\n" } else { "" };
        sign(&self.account, self.method, &mut form, salt);
        if self.tamper == Some(Tamper::Body) {
            form.set("respMsg", "changed after it was signed");
        }
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded;charset=UTF-8");
        headers.insert("content-type", kind);
        Some((headers, form.encoded().into()))
    }

    /// A redirect also acknowledges the notification.
    fn is_acknowledged(&self, status: u16, _: &[u8]) -> bool {
        status == 200 || (300..400).contains(&status)
    }

    fn schedule(&self) -> &'static [Duration] {
        &UNIONPAY_SCHEDULE
    }
}
