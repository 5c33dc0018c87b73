//! WeChat Pay's notifications: an envelope with an encrypted order or refund in it.

use aes_gcm::Aes256Gcm;
use serde::Deserialize;
use serde_json::Value;

use super::super::Described;
use super::Account;
use super::answer::{OrderNews, RefundAmount, at, named, read, refund_status, stuck};
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

/// A refund as notifications tell it: other names and fewer fields than in answers.
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

pub(super) fn decode(account: &Account, key: &Aes256Gcm, body: &[u8]) -> Result<Event, Error> {
    let Envelope { event_type, resource } = read(body)?;
    let plain = || resource.sealed.open(key).map_err(Error::unclear);
    match (resource.original_type.as_str(), event_type.split_once('.')) {
        ("transaction", Some(("TRANSACTION", _))) => payment(account, &event_type, &opened(&event_type, &plain()?)?),
        ("refund", Some(("REFUND", _))) => refund(account, &event_type, &opened(&event_type, &plain()?)?),
        _ => Err(Error::unclear(another_kind(&event_type))),
    }
}

/// Reads what was encrypted. A combined order's notification has the name of an order's, and another form.
fn opened<'a, T: Deserialize<'a>>(event_type: &str, plain: &'a [u8]) -> Result<T, Error> {
    read(plain).map_err(|_| Error::unclear(format!("what its `{event_type}` holds is neither an order nor a refund")))
}

/// Says which kind of notification it is, and why such ones come: an address for all of a merchant's notifications leads here.
fn another_kind(event_type: &str) -> String {
    let name: String = event_type.chars().filter(char::is_ascii_graphic).take(64).collect();
    format!(
        "it is a notification of the kind `{name}`, which is about neither a payment nor a refund: \
         give that product another notification address at WeChat Pay"
    )
}

/// The envelope's own id is not used: the same news may come in two envelopes. What the notification does not say clearly, a query
/// decides.
fn payment(account: &Account, event_type: &str, news: &OrderNews<'_>) -> Result<Event, Error> {
    let outcome = match news.outcome(account) {
        // Only a query can tell whether the payer of a failed payment may have been charged.
        Ok(outcome) => Some(outcome).filter(|_| !news.is_pay_error() && news.transaction_id.is_some()),
        Err(Error::Unclear { .. }) if news.is_ours(account).is_ok() => None,
        Err(error) => return Err(error),
    };
    let number = &*news.out_trade_no;
    let id = news.transaction_id.as_deref().unwrap_or_default();
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
        None => named("mchid", notice.mchid.as_deref(), &account.mchid)?,
        Some(sub_mchid) => {
            named("sp_mchid", notice.sp_mchid.as_deref(), &account.mchid)?;
            named("sub_mchid", notice.sub_mchid.as_deref(), sub_mchid)?;
        }
    }
    let amount = notice.amount.refund()?;
    let word = notice.refund_status.as_str();
    // A query decides about a status that is not known.
    let outcome = refund_status(word).ok().map(|status| Outcome {
        provider_id: Some(notice.refund_id.clone()),
        amount: Some(amount),
        at: at(notice.success_time.as_deref()),
        needs_person: stuck(word),
        ..Outcome::of(status)
    });
    Ok(Event {
        id: format!("{event_type}:{}:{}", notice.out_refund_no, notice.refund_id),
        order_number: notice.out_trade_no.clone(),
        refund_number: Some(notice.out_refund_no.clone()),
        amount: outcome.is_none().then_some(amount),
        outcome,
        refunded: Some(match word {
            "SUCCESS" => Refunded::Part(amount),
            "CLOSED" => Refunded::Failed,
            "ABNORMAL" => Refunded::Abnormal,
            _ => Refunded::Open,
        }),
    })
}

/// Says what a notification is about. Those of other products name no order.
pub(super) fn describe(key: &Aes256Gcm, body: &[u8]) -> Described {
    let Ok(mut envelope) = serde_json::from_slice::<Value>(body) else { return Described::default() };
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let sealed = envelope.get_mut("resource").map(Value::take);
    let plain = sealed.and_then(|sealed| serde_json::from_value::<Sealed>(sealed).ok()?.open(key).ok());
    let plain: Option<Value> = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
    let order_number = plain.and_then(|plain| text(&plain, "out_trade_no"));
    Described { event: text(&envelope, "event_type"), order_number }
}
