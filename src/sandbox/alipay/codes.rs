//! Translation of the sandbox state into Alipay's fields and codes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::yuan::yuan;
use crate::china_time;
use crate::state::{Id, Order, OrderState, RefundStatus, SandboxState};

/// Returns the `trade_status`. A completely refunded trade is closed.
pub(super) fn status(state: &mut SandboxState, id: &Id, now: Timestamp) -> &'static str {
    let refunded_amount: u64 = finished(state, id);
    match state.order(id, now) {
        Some(order) => match order.state {
            OrderState::NotPay => "WAIT_BUYER_PAY",
            OrderState::Success => "TRADE_SUCCESS",
            OrderState::Refund if refunded_amount < order.total => "TRADE_SUCCESS",
            OrderState::Refund | OrderState::Closed | OrderState::PayError => "TRADE_CLOSED",
        },
        None => "",
    }
}

/// Returns the refunded amount of a trade in fen.
pub(super) fn finished(state: &SandboxState, id: &Id) -> u64 {
    let refunds = state.refunds_of(id).filter(|(_, refund)| refund.status == RefundStatus::Success);
    refunds.map(|(_, refund)| refund.amount).sum()
}

/// Returns a trade as in pay and query responses and in notifications.
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

/// Format of Alipay's times.
const FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// Formats a time as Alipay does.
pub(super) fn china(time: Timestamp) -> String {
    china_time::china(time, FORMAT)
}

/// Parses a time in that format.
pub(super) fn parse_china_time(text: &str) -> Option<Timestamp> {
    china_time::parse_china_time(FORMAT, text)
}

/// Parses a duration such as `90m`, `12h` or `15d`, from one minute to fifteen days.
pub(super) fn minutes(text: &str) -> Option<i64> {
    let (number, each) = [('m', 1), ('h', 60), ('d', 24 * 60)]
        .into_iter()
        .find_map(|(unit, each)| Some((text.strip_suffix(unit)?, each)))?;
    let minutes = number.parse::<u16>().ok().filter(|_| !number.starts_with('+'))?;
    Some(i64::from(minutes) * each).filter(|minutes| (1..=15 * 24 * 60).contains(minutes))
}
