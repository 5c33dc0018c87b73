//! Translation of the sandbox state into UnionPay's times, numbers and codes.

use jiff::Timestamp;
use serde_json::Value;

use crate::china_time;
use crate::keys::random_digits;
use crate::order_machine::Scan;
use crate::state::{Order, OrderState, Refund, RefundStatus};

/// Fields of a message: name and value.
pub(super) type Fields = Vec<(&'static str, String)>;

/// Formats a time as UnionPay does: fourteen digits in UTC+8.
pub(super) fn china(time: Timestamp) -> String {
    china_time::china(time, "%Y%m%d%H%M%S")
}

/// Returns the clearing day, which ends at 23:00 UTC+8.
pub(super) fn clearing_day(time: Timestamp) -> jiff::civil::Date {
    china_time::zoned(time.saturating_add(jiff::SignedDuration::from_hours(1)).unwrap_or(time)).date()
}

pub(super) fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses fen: at most twelve digits, greater than zero.
pub(super) fn fen(text: &str) -> Option<u64> {
    let is_amount = (1..=12).contains(&text.len()) && is_digits(text) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_amount)
}

/// Returns a new UnionPay transaction number: the time and seven digits.
pub(super) fn query_id(now: Timestamp) -> String {
    china(now) + &random_digits(7)
}

/// Result of a transaction: `respCode` of its notification, `origRespCode` of its query.
pub(super) type Outcome = &'static str;

/// Returns the result of an order; `None` before any action of the payer that UnionPay could know.
pub(super) fn outcome(order: &Order) -> Option<Outcome> {
    match order.state {
        OrderState::Success | OrderState::Refund => Some("00"),
        _ if !order.opened => None,
        OrderState::NotPay => Some("05"),
        OrderState::PayError if Scan::of(text(&order.parameters, "qrNo")) == Scan::NoBalance => Some("64"),
        OrderState::PayError | OrderState::Closed => Some("01"),
    }
}

/// Returns the result of a refund.
pub(super) fn refund_outcome(refund: &Refund) -> Outcome {
    match refund.status {
        RefundStatus::Processing => "05",
        RefundStatus::Success => "00",
        RefundStatus::Closed => "01",
        // The result is unknown: the merchant must contact UnionPay.
        RefundStatus::Abnormal => "04",
    }
}

/// Returns the `respMsg` of a code, with a number in brackets as at UnionPay.
pub(super) fn message(code: &str) -> String {
    let text = match code {
        "00" => "成功",
        "05" => "交易已受理，请稍后查询交易结果",
        "04" => "交易状态未明，请查询对账结果",
        "06" => "系统繁忙，请稍后再试",
        "11" => "验证签名失败",
        "12" => "重复交易",
        "34" => "查无此交易",
        "35" => "原交易不存在或状态不正确",
        "36" => "与原交易信息不符",
        "64" => "卡上的余额不足",
        _ => "交易失败，请联系发卡行",
    };
    format!("{text}[{code}00000]")
}

/// Returns a parameter of the recorded request.
pub(super) fn text<'a>(parameters: &'a Value, name: &str) -> &'a str {
    parameters[name].as_str().unwrap_or_default()
}

/// Returns the fields of a settled transaction, as in queries and notifications.
pub(super) fn settled(amount: u64, query_id: &str, at: Timestamp, payer: Option<&str>) -> Fields {
    let digits = query_id.get(query_id.len().saturating_sub(6)..).unwrap_or_default();
    let mut fields = vec![
        ("queryId", query_id.to_owned()),
        ("traceNo", digits.to_owned()),
        ("traceTime", china(at).split_off(4)),
        ("settleDate", clearing_day(at).strftime("%m%d").to_string()),
        ("settleAmt", amount.to_string()),
        ("settleCurrencyCode", "156".to_owned()),
        ("txnAmt", amount.to_string()),
        ("currencyCode", "156".to_owned()),
        ("payCardType", "01".to_owned()),
    ];
    fields.extend(payer.map(|payer| ("accNo", payer.to_owned())));
    fields
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::china_time::parse_digits;

    #[test]
    fn times_use_china_time_and_clearing_day_ends_at_23_00() {
        let late: Timestamp = "2025-01-01T14:59:59Z".parse().unwrap();
        assert_eq!((china(late).as_str(), parse_digits("20250101225959")), ("20250101225959", Some(late)));
        for (text, day) in [("20250101225959", "0101"), ("20250101230000", "0102"), ("20251231233000", "0101")] {
            assert_eq!(clearing_day(parse_digits(text).unwrap()).strftime("%m%d").to_string(), day, "{text}");
        }
        for text in ["", "2025010122595", "20250101225960 ", "20251301000000", "+2025010122595"] {
            assert_eq!(parse_digits(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_parsed_as_whole_fen_only() {
        assert_eq!((fen("1"), fen("999999999999")), (Some(1), Some(999_999_999_999)));
        for text in ["", "0", "01", "1.00", "-1", "+1", "1000000000000", "１"] {
            assert_eq!(fen(text), None, "{text}");
        }
    }
}
