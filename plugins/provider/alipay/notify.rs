//! Alipay's notifications: a form about a trade, and sometimes about a refund of it.

use super::super::form;
use super::Account;
use super::answer::{at, fen, same, trade_status};
use crate::error::Error;
use crate::payment::{Event, Outcome};

pub(super) fn decode(account: &Account, body: &[u8]) -> Result<Event, Error> {
    let fields = form::decode(body).ok_or_else(|| Error::unclear("it is signed but no form"))?;
    let field = |name: &str| fields.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let needed = |name: &str| field(name).ok_or_else(|| Error::unclear(format!("it names no `{name}`")));
    same("app_id", field("app_id"), &account.app_id)?;
    if let Some(seller) = &account.seller_id {
        same("seller_id", field("seller_id"), seller)?;
    }
    let order_number = needed("out_trade_no")?.to_owned();
    let status = needed("trade_status")?;
    let total = fen("total_amount", needed("total_amount")?)?;
    if field("refund_fee").is_some()
        && let Some(number) = field("out_biz_no")
    {
        // `refund_fee` is what was given back in all, and nothing says whether this refund is done: ask.
        let id = format!("refund:{order_number}:{number}:{}", field("notify_id").unwrap_or_default());
        return Ok(Event { id, order_number, refund_number: Some(number.to_owned()), outcome: None });
    }
    let was_paid = field("gmt_payment").or(field("refund_fee")).or(field("gmt_refund")).is_some();
    let outcome = Outcome {
        amount: Some(total),
        at: field("gmt_payment").and_then(at),
        provider_id: Some(needed("trade_no")?.to_owned()),
        ..Outcome::of(trade_status(status, was_paid)?)
    };
    Ok(Event { id: format!("{status}:{order_number}"), order_number, refund_number: None, outcome: Some(outcome) })
}
