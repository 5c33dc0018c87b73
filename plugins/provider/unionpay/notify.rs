//! UnionPay's notifications. By its own advice they are not booked: each makes the gateway ask.

use super::account::Account;
use super::answer::amount;
use super::codes::{self, Trade};
use super::fields::Message;
use crate::error::Error;
use crate::payment::{Event, Refunded};

pub(super) fn decode(account: &Account, fields: &Message<'_>) -> Result<Event, Error> {
    let given = |name: &str| fields.get(name).ok_or_else(|| Error::unclear(format!("it has no `{name}`")));
    if given("merId")? != account.mer_id {
        return Err(Error::Mismatch("it names another `merId`".to_owned()));
    }
    let (kind, number, time) = (given("txnType")?, given("orderId")?, given("txnTime")?);
    let code = given("respCode")?;
    let (order_number, refund_number) = match kind {
        "01" | "99" => (number, None),
        "04" | "31" => (given("reqReserved")?, Some(number.to_owned())),
        _ => return Err(Error::unclear("it is a notification of an unknown kind")),
    };
    let amount = amount(fields)?;
    // It counts only where the refund was not made here: nothing could be asked about that one.
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
