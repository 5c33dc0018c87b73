//! Decoding of UnionPay's notifications. UnionPay advises not to rely on them: a notification only triggers a query.

use super::account::Account;
use super::answer::amount;
use super::codes::{self, Trade};
use super::fields::Message;
use crate::error::Error;
use crate::payment::{Event, Refunded};

pub(super) fn decode(account: &Account, fields: &Message<'_>) -> Result<Event, Error> {
    let required =
        |name: &str| fields.get(name).ok_or_else(|| Error::unclear(format!("the notification has no `{name}`")));
    if required("merId")? != account.mer_id {
        return Err(Error::Mismatch("`merId` does not match".to_owned()));
    }
    let (kind, number, time) = (required("txnType")?, required("orderId")?, required("txnTime")?);
    let code = required("respCode")?;
    let (order_number, refund_number) = match kind {
        "01" | "99" => (number, None),
        "04" | "31" => (required("reqReserved")?, Some(number.to_owned())),
        _ => return Err(Error::unclear("unknown notification type")),
    };
    let amount = amount(fields)?;
    // Used only for refunds that were not made through the gateway, which cannot be queried.
    let refunded = refund_number.is_some().then(|| match (codes::trade(code), amount) {
        (Some(Trade::Succeeded | Trade::Review(_)), Some(amount)) => Refunded::Part(amount),
        (Some(Trade::Failed), _) => Refunded::Failed,
        _ => Refunded::Open,
    });
    let query_id = fields.get("queryId").unwrap_or_default();
    Ok(Event {
        id: format!("{kind}:{number}:{time}:{query_id}:{code}"),
        order_number: order_number.to_owned(),
        refund_number,
        outcome: None,
        amount,
        refunded,
    })
}
