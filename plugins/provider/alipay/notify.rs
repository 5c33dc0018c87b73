//! Decoding of Alipay's notifications. One format reports every change of a trade.

use super::super::Described;
use super::super::form::{self, Fields};
use super::account::Account;
use super::answer::same;
use super::readable;
use super::signature::at;
use crate::error::Error;
use crate::payment::{Event, Money, Outcome, Refunded, Status};

/// Decodes a notification. Errors contain the order number, so that an operator can find the order.
///
/// Return links are signed in the same way. Their parameters have no `trade_status`, so a return link is rejected.
pub(super) fn decode(account: &Account, body: &[u8]) -> Result<Event, Error> {
    let params = readable::form(body).ok_or_else(|| Error::unclear("the notification is not a form"))?;
    let is_number = |number: &&String| number.len() <= 64 && number.bytes().all(|byte| byte.is_ascii_graphic());
    let number = params.get("out_trade_no").filter(is_number).map_or("unknown", String::as_str);
    read(account, &params).map_err(|error| match error {
        Error::Unclear { why, provider_error } => {
            Error::Unclear { why: format!("{why} (order number {number})"), provider_error }
        }
        Error::Mismatch(why) => Error::Mismatch(format!("{why} (order number {number})")),
        other => other,
    })
}

fn read(account: &Account, params: &Fields) -> Result<Event, Error> {
    let given = |name: &str| params.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let required = |name: &str| given(name).ok_or_else(|| Error::unclear(format!("the notification has no `{name}`")));
    same("app_id", required("app_id")?, &account.app_id)?;
    if let Some(seller) = &account.seller_id {
        same("seller_id", required("seller_id")?, seller)?;
    }
    if required("notify_type")? != "trade_status_sync" {
        return Err(Error::unclear("unknown notification type"));
    }
    let (number, trade_no, trade_status) =
        (required("out_trade_no")?, required("trade_no")?, required("trade_status")?);
    let amount = Money::of_yuan(required("total_amount")?);
    let amount = amount.ok_or_else(|| Error::unclear("`total_amount` is not an amount in yuan"))?;
    let event_for = |id: String, refund_number: Option<&str>, outcome| Event {
        id,
        order_number: number.to_owned(),
        refund_number: refund_number.map(str::to_owned),
        outcome,
        amount: None,
        refunded: None,
    };
    let is_nonzero_or_unreadable = |text| Money::of_yuan(text).is_none_or(|sum| sum.value > 0);
    let is_refund = given("refund_fee").is_some_and(is_nonzero_or_unreadable) || given("gmt_refund").is_some();
    if is_refund {
        // The notification contains the sum of all refunds, not the amount of this one, so Alipay is queried.
        let refund = given("out_biz_no");
        let (name, sum) = (refund.unwrap_or_default(), given("refund_fee").unwrap_or_default());
        let event = event_for(format!("refund:{number}:{trade_no}:{name}:{sum}:{trade_status}"), refund, None);
        return Ok(Event { refunded: Money::of_yuan(sum).map(Refunded::Total), ..event });
    }
    let paid = given("gmt_payment");
    let status = match trade_status {
        "WAIT_BUYER_PAY" => Status::Pending,
        "TRADE_SUCCESS" | "TRADE_FINISHED" => Status::Succeeded,
        // Fully refunded, not closed.
        "TRADE_CLOSED" if paid.is_some() => {
            let event = event_for(format!("{trade_status}:{number}:{trade_no}"), None, None);
            return Ok(Event { refunded: Some(Refunded::Total(amount)), ..event });
        }
        "TRADE_CLOSED" => Status::Closed,
        // An unknown status is settled by a query.
        _ => return Ok(event_for(format!("{trade_status}:{number}:{trade_no}"), None, None)),
    };
    let outcome = Outcome {
        provider_id: Some(trade_no.to_owned()),
        amount: Some(amount),
        at: paid.and_then(at),
        ..Outcome::of(status)
    };
    Ok(event_for(format!("{trade_status}:{number}:{trade_no}"), None, Some(outcome)))
}

/// Describes a notification for log lines.
pub(super) fn describe(body: &[u8]) -> Described {
    let mut params = Fields::new();
    let is_read = form::read_into(body, &mut params).is_some();
    let given = |name: &str| params.get(name).filter(|value| is_read && !value.is_empty()).cloned();
    let kind = given("notify_type").or_else(|| given("msg_method"));
    let event = match (kind, given("trade_status")) {
        (Some(kind), Some(status)) => Some(format!("{kind}.{status}")),
        (kind, status) => kind.or(status),
    };
    Described { event, order_number: given("out_trade_no") }
}
