//! Decoding of notifications: an envelope with an encrypted order or refund.

use aes_gcm::Aes256Gcm;
use serde::Deserialize;
use serde_json::Value;

use super::super::Described;
use super::super::merchant_account::Account;
use super::V3Scheme;
use super::answer::{OrderState, RefundAmount, at, read, refund_status, required_same, review_advice};
use super::sealed::Sealed;
use crate::error::Error;
use crate::payment::{Event, Outcome, Refunded};

#[derive(Deserialize)]
struct Envelope {
    event_type: String,
    resource: Resource,
}

#[derive(Deserialize)]
struct Resource {
    original_type: String,
    #[serde(flatten)]
    sealed: Sealed,
}

/// State of a refund in notifications, which have other names and fewer fields than answers.
#[derive(Deserialize)]
struct RefundNotice {
    mchid: Option<String>,
    sp_mchid: Option<String>,
    sub_mchid: Option<String>,
    out_trade_no: String,
    refund_id: String,
    out_refund_no: String,
    refund_status: String,
    success_time: Option<String>,
    amount: RefundAmount,
}

pub(super) fn decode(scheme: &V3Scheme, account: &Account, key: &Aes256Gcm, body: &[u8]) -> Result<Event, Error> {
    let Envelope { event_type, resource } = read(body)?;
    let plain = || resource.sealed.open(key).map_err(Error::unclear);
    match (resource.original_type.as_str(), event_type.split_once('.')) {
        ("transaction", Some(("TRANSACTION", _))) => {
            payment(account, &event_type, &parse_content(&event_type, &plain()?)?)
        }
        ("refund", Some(("REFUND", _))) => refund(account, &event_type, &parse_content(&event_type, &plain()?)?),
        _ => Err(Error::unclear(unsupported_kind(scheme.company, &event_type))),
    }
}

/// Decodes the decrypted content. The notification of a combined order has the same name as that of an order, but
/// another format.
fn parse_content<'a, T: Deserialize<'a>>(event_type: &str, plain: &'a [u8]) -> Result<T, Error> {
    read(plain).map_err(|_| Error::unclear(format!("the content of `{event_type}` is neither an order nor a refund")))
}

/// Returns the message for a notification of another product, which arrives here if the merchant uses one address for
/// all products.
fn unsupported_kind(company: &str, event_type: &str) -> String {
    let name: String = event_type.chars().filter(char::is_ascii_graphic).take(64).collect();
    format!(
        "`{name}` is a notification of neither a payment nor a refund: \
         configure another notification address for that product at {company}"
    )
}

/// Decodes a payment's notification. The envelope's id is not used, because the same state may come in two envelopes.
/// Unclear content is settled by a query.
fn payment(account: &Account, event_type: &str, order: &OrderState<'_>) -> Result<Event, Error> {
    let outcome = match order.outcome(account) {
        // Only a query shows whether the payer of a failed payment may have been charged.
        Ok(outcome) => Some(outcome).filter(|_| !order.is_pay_error() && order.transaction_id.is_some()),
        Err(Error::Unclear { .. }) if order.check_account(account).is_ok() => None,
        Err(error) => return Err(error),
    };
    let number = &*order.out_trade_no;
    let id = order.transaction_id.as_deref().unwrap_or_default();
    Ok(Event {
        id: format!("{event_type}:{number}:{id}"),
        order_number: number.to_owned(),
        refund_number: None,
        outcome,
        amount: None,
        refunded: None,
    })
}

fn refund(account: &Account, event_type: &str, notice: &RefundNotice) -> Result<Event, Error> {
    match &account.sub_mchid {
        None => required_same("mchid", notice.mchid.as_deref(), &account.mchid)?,
        Some(sub_mchid) => {
            required_same("sp_mchid", notice.sp_mchid.as_deref(), &account.mchid)?;
            required_same("sub_mchid", notice.sub_mchid.as_deref(), sub_mchid)?;
        }
    }
    let amount = notice.amount.refund()?;
    let name = notice.refund_status.as_str();
    // An unknown status is settled by a query.
    let outcome = refund_status(name).ok().map(|status| Outcome {
        provider_id: Some(notice.refund_id.clone()),
        amount: Some(amount),
        at: at(notice.success_time.as_deref()),
        needs_review: review_advice(name),
        ..Outcome::of(status)
    });
    Ok(Event {
        id: format!("{event_type}:{}:{}", notice.out_refund_no, notice.refund_id),
        order_number: notice.out_trade_no.clone(),
        refund_number: Some(notice.out_refund_no.clone()),
        amount: outcome.is_none().then_some(amount),
        outcome,
        refunded: Some(match name {
            "SUCCESS" => Refunded::Part(amount),
            "CLOSED" => Refunded::Failed,
            "ABNORMAL" => Refunded::Abnormal,
            _ => Refunded::Open,
        }),
    })
}

/// Describes a notification for log lines. Notifications of other products contain no order number.
pub(super) fn describe(key: &Aes256Gcm, body: &[u8]) -> Described {
    let Ok(mut envelope) = serde_json::from_slice::<Value>(body) else { return Described::default() };
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let sealed = envelope.get_mut("resource").map(Value::take);
    let plain = sealed.and_then(|sealed| serde_json::from_value::<Sealed>(sealed).ok()?.open(key).ok());
    let plain: Option<Value> = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
    let order_number = plain.and_then(|plain| text(&plain, "out_trade_no"));
    Described { event: text(&envelope, "event_type"), order_number }
}
