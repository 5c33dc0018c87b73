//! How Alipay says what the books know.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use serde_json::{Value, json};

use super::yuan::yuan;
use crate::sandbox::state::{Id, Order, RefundStatus, SandboxState, State};

/// `trade_status` of a trade; one of which everything was given back is closed.
pub(super) fn status(books: &mut SandboxState, id: &Id, now: Timestamp) -> &'static str {
    let given_back: u64 = finished(books, id);
    match books.order(id, now) {
        Some(order) => match order.state {
            State::NotPay => "WAIT_BUYER_PAY",
            State::Success => "TRADE_SUCCESS",
            State::Refund if given_back < order.total => "TRADE_SUCCESS",
            State::Refund | State::Closed | State::PayError => "TRADE_CLOSED",
        },
        None => "",
    }
}

/// How much of a trade was given back.
pub(super) fn finished(books: &SandboxState, id: &Id) -> u64 {
    let refunds = books.refunds_of(id).filter(|(_, refund)| refund.status == RefundStatus::Success);
    refunds.map(|(_, refund)| refund.amount).sum()
}

/// A trade, as pay, query and notifications tell it.
pub(super) fn trade_object(number: &str, order: &Order) -> Value {
    let mut object = json!({
        "out_trade_no": number,
        "trade_no": order.transaction_id,
        "total_amount": yuan(order.total),
    });
    if let Some(payment) = &order.payment {
        let amount = yuan(payment.amount);
        let paid = json!({
            "buyer_logon_id": "159****5620",
            "buyer_user_id": payment.payer,
            "total_amount": amount,
            "receipt_amount": amount,
            "buyer_pay_amount": amount,
            "invoice_amount": amount,
            "point_amount": "0.00",
            "fund_bill_list": [{"amount": amount, "fund_channel": "ALIPAYACCOUNT"}],
        });
        add(&mut object, paid);
    }
    object
}

/// Adds fields.
pub(super) fn add(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// A time as Alipay writes it.
pub(super) fn china(time: Timestamp) -> String {
    time.to_zoned(TimeZone::fixed(Offset::constant(8))).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Reads such a time.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime("%Y-%m-%d %H:%M:%S", text).ok()?;
    Some(time.to_zoned(TimeZone::fixed(Offset::constant(8))).ok()?.timestamp())
}

/// Reads `90m`, `12h` or `15d`: one minute to fifteen days.
pub(super) fn minutes(text: &str) -> Option<i64> {
    let (number, each) = [('m', 1), ('h', 60), ('d', 24 * 60)]
        .into_iter()
        .find_map(|(unit, each)| Some((text.strip_suffix(unit)?, each)))?;
    let minutes = number.parse::<u16>().ok().filter(|_| !number.starts_with('+'))?;
    Some(i64::from(minutes) * each).filter(|minutes| (1..=15 * 24 * 60).contains(minutes))
}
