//! Documented fields per request. The sandbox rejects others. WeChat Pay ignores them, which would hide mistakes.

use std::net::IpAddr;

use serde_json::Value;

use super::Call;
use super::reply::Reply;
use super::xml::Fields;
use crate::china_time::parse_digits;
use crate::fields::FieldType::Text;
use crate::fields::{self, Field, any, optional, required};

/// Validates the fields against the request and returns them for the record.
pub(super) fn checked(fields: &Fields, call: Call) -> Result<Value, Reply> {
    let own = match call {
        Call::UnifiedOrder => UNIFIED_ORDER,
        Call::Micropay => MICROPAY,
        Call::OrderQuery | Call::Reverse => &[],
        Call::CloseOrder => CLOSE_ORDER,
        Call::Refund => REFUND,
        Call::RefundQuery => REFUND_QUERY,
        Call::DownloadBill => DOWNLOAD_BILL,
        Call::DownloadFundFlow => DOWNLOAD_FUND_FLOW,
    };
    let about = match call {
        Call::UnifiedOrder | Call::Micropay => ORDER,
        Call::OrderQuery | Call::Reverse | Call::Refund | Call::RefundQuery => EITHER,
        Call::CloseOrder | Call::DownloadBill | Call::DownloadFundFlow => &[],
    };
    let table: Vec<&Field> = own.iter().chain(about).chain(COMMON).collect();
    let mut content: Value = fields.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    fields::check_fields(&content, &table).map_err(|issue| {
        Reply::error("PARAM_ERROR", &format!("参数错误：{} {}", issue.field.trim_start_matches('/'), issue.issue))
    })?;
    check_trade_type(&content, call)?;
    let names: &[&str] = match call {
        Call::OrderQuery | Call::Reverse | Call::Refund => &["transaction_id", "out_trade_no"],
        Call::RefundQuery => &["refund_id", "out_refund_no", "transaction_id", "out_trade_no"],
        _ => &[],
    };
    if !names.is_empty() && names.iter().all(|name| content.get(name).is_none()) {
        return Err(lacking(&names.join("或")));
    }
    // Fields that differ for each attempt are not part of the order.
    if let Some(content) = content.as_object_mut() {
        content.retain(|name, _| name != "nonce_str" && name != "sign");
    }
    Ok(content)
}

/// Checks the fields that only one payment method requires.
fn check_trade_type(content: &Value, call: Call) -> Result<(), Reply> {
    let has = |name: &str| content.get(name).is_some();
    if call != Call::UnifiedOrder {
        return Ok(());
    }
    match content["trade_type"].as_str().unwrap_or_default() {
        "JSAPI" if has("openid") || (has("sub_openid") && has("sub_appid")) => Ok(()),
        "JSAPI" => Err(lacking("openid")),
        "NATIVE" if !has("product_id") => Err(lacking("product_id")),
        "MWEB" if !content["scene_info"].as_str().is_some_and(is_mobile_scene) => Err(lacking("scene_info.h5_info")),
        _ => Ok(()),
    }
}

fn lacking(name: &str) -> Reply {
    Reply::error("LACK_PARAMS", &format!("缺少参数{name}"))
}

/// Fields of every request.
const COMMON: &[Field] = &[
    required("appid", Text(1, 32, any)),
    required("mch_id", Text(1, 32, any)),
    optional("sub_appid", Text(1, 32, any)),
    optional("sub_mch_id", Text(1, 32, any)),
    required("nonce_str", Text(1, 32, any)),
    required("sign", Text(32, 64, any)),
    optional("sign_type", Text(1, 32, any)),
];
/// Common fields of requests that create an order.
const ORDER: &[Field] = &[
    optional("device_info", Text(1, 32, any)),
    required("body", Text(1, 128, any)),
    optional("detail", Text(1, 6000, is_json)),
    optional("attach", Text(1, 127, any)),
    required("out_trade_no", Text(1, 32, is_number)),
    required("total_fee", Text(1, 10, is_amount)),
    optional("fee_type", Text(3, 3, is_yuan)),
    required("spbill_create_ip", Text(1, 64, is_address)),
    optional("goods_tag", Text(1, 32, any)),
    optional("limit_pay", Text(1, 32, |how| how == "no_credit")),
    optional("time_start", Text(14, 14, is_time)),
    optional("time_expire", Text(14, 14, is_time)),
    optional("receipt", Text(1, 8, is_choice)),
    optional("profit_sharing", Text(1, 16, is_choice)),
    optional("scene_info", Text(1, 256, is_json)),
];
const UNIFIED_ORDER: &[Field] = &[
    required("notify_url", Text(1, 256, is_url)),
    required("trade_type", Text(1, 16, |kind| matches!(kind, "JSAPI" | "NATIVE" | "APP" | "MWEB"))),
    optional("openid", Text(1, 128, any)),
    optional("sub_openid", Text(1, 128, any)),
    optional("product_id", Text(1, 32, any)),
];
const MICROPAY: &[Field] = &[required("auth_code", Text(1, 128, any))];
/// Fields that identify an order.
const EITHER: &[Field] =
    &[optional("transaction_id", Text(1, 32, any)), optional("out_trade_no", Text(1, 32, is_number))];
const CLOSE_ORDER: &[Field] = &[required("out_trade_no", Text(1, 32, is_number))];
const REFUND: &[Field] = &[
    required("out_refund_no", Text(1, 64, is_number)),
    required("total_fee", Text(1, 10, is_amount)),
    required("refund_fee", Text(1, 10, is_amount)),
    optional("refund_fee_type", Text(3, 3, is_yuan)),
    optional("refund_desc", Text(1, 80, any)),
    optional("refund_account", Text(1, 30, is_source)),
    optional("notify_url", Text(1, 256, is_url)),
];
const REFUND_QUERY: &[Field] = &[
    optional("refund_id", Text(1, 32, any)),
    optional("out_refund_no", Text(1, 64, is_number)),
    optional("offset", Text(1, 4, is_digits)),
];
const DOWNLOAD_BILL: &[Field] = &[
    required("bill_date", Text(8, 8, is_digits)),
    optional("bill_type", Text(1, 32, |kind| matches!(kind, "ALL" | "SUCCESS" | "REFUND" | "RECHARGE_REFUND"))),
];

/// Fields of the fund-flow bill, which requires HMAC-SHA256 and the merchant's own account.
const DOWNLOAD_FUND_FLOW: &[Field] = &[
    required("bill_date", Text(8, 8, is_digits)),
    required("account_type", Text(1, 16, |kind| matches!(kind, "Basic" | "Operation" | "Fees"))),
    required("sign_type", Text(1, 32, |kind| kind == "HMAC-SHA256")),
    optional("sub_mch_id", Text(1, 32, |_| false)),
];

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-|*@".contains(&byte))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_amount(text: &str) -> bool {
    is_digits(text) && !text.starts_with('0')
}

fn is_yuan(text: &str) -> bool {
    text == "CNY"
}

fn is_choice(text: &str) -> bool {
    matches!(text, "Y" | "N")
}

fn is_source(text: &str) -> bool {
    matches!(text, "REFUND_SOURCE_UNSETTLED_FUNDS" | "REFUND_SOURCE_RECHARGE_FUNDS")
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_time(text: &str) -> bool {
    parse_digits(text).is_some()
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
}

fn is_mobile_scene(text: &str) -> bool {
    let scene: Value = serde_json::from_str(text).unwrap_or_default();
    matches!(scene["h5_info"]["type"].as_str(), Some("Wap" | "IOS" | "Android"))
}

/// Returns whether the text is an absolute URL without a query string.
fn is_url(text: &str) -> bool {
    let uri = text.parse::<http::Uri>();
    uri.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}
