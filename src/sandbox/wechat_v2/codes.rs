//! Translation of the sandbox state into APIv2's fields and codes.

use jiff::Timestamp;

use super::xml::Fields;
use crate::china_time::china;
use crate::state::{Order, OrderState, Refund, RefundStatus};

/// Payment product of a scanned code.
pub(super) const CODE: &str = "code";

/// `trade_type` and the sandbox's product name.
const PRODUCTS: [(&str, &str); 5] =
    [("NATIVE", "native"), ("JSAPI", "jsapi"), ("MWEB", "h5"), ("APP", "app"), ("MICROPAY", CODE)];

pub(super) fn product(trade_type: &str) -> &'static str {
    PRODUCTS.iter().find(|(name, _)| *name == trade_type).map_or("", |(_, product)| product)
}

fn trade_type(product: &str) -> &'static str {
    PRODUCTS.iter().find(|(_, name)| *name == product).map_or("", |(trade_type, _)| trade_type)
}

/// Returns `trade_state` and its description. Orders of scanned codes have states of their own.
pub(super) fn state(order: &Order) -> (&'static str, &'static str) {
    match order.state {
        OrderState::NotPay if order.product == CODE => ("USERPAYING", "需要用户输入支付密码"),
        OrderState::Closed if order.product == CODE => ("REVOKED", "订单已撤销"),
        OrderState::NotPay => ("NOTPAY", "订单未支付"),
        OrderState::Success => ("SUCCESS", "支付成功"),
        OrderState::Refund => ("REFUND", "订单发生过退款"),
        OrderState::Closed => ("CLOSED", "订单已关闭"),
        OrderState::PayError => ("PAYERROR", "支付失败(其他原因，如银行返回失败)"),
    }
}

/// Returns the fields of a payment for queries, notifications and the scan response; only the order number for an
/// unpaid order.
pub(super) fn order_fields(number: &str, order: &Order) -> Fields {
    let mut fields = collected([("out_trade_no", number)]);
    for name in ["attach", "device_info"] {
        if let Some(value) = order.parameters[name].as_str() {
            fields.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some(payment) = &order.payment {
        let amount = payment.amount.to_string();
        fields.extend(collected([
            ("openid", payment.payer.as_str()),
            ("is_subscribe", "N"),
            ("trade_type", trade_type(order.product)),
            ("bank_type", "OTHERS"),
            ("total_fee", &amount),
            ("fee_type", "CNY"),
            ("cash_fee", &amount),
            ("cash_fee_type", "CNY"),
            ("transaction_id", &order.transaction_id),
            ("time_end", &time(payment.at)),
        ]));
    }
    fields
}

/// Returns the `refund_status`.
pub(super) fn refund_state(status: RefundStatus) -> &'static str {
    match status {
        RefundStatus::Processing => "PROCESSING",
        RefundStatus::Success => "SUCCESS",
        RefundStatus::Closed => "REFUNDCLOSE",
        RefundStatus::Abnormal => "CHANGE",
    }
}

/// Returns the account from which a refund is paid.
pub(super) fn refund_source(refund: &Refund) -> &str {
    refund.parameters["refund_account"].as_str().unwrap_or("REFUND_SOURCE_UNSETTLED_FUNDS")
}

pub(super) fn collected<const N: usize>(fields: [(&str, &str); N]) -> Fields {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Formats a time as `20231115061325`.
pub(super) fn time(at: Timestamp) -> String {
    china(at, "%Y%m%d%H%M%S")
}

/// Formats a time as `2023-11-15 06:13:25`, the format of a refund's success time.
pub(super) fn refund_time(at: Timestamp) -> String {
    china(at, "%Y-%m-%d %H:%M:%S")
}
