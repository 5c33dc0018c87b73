//! Documented fields of `biz_content` per method. The sandbox rejects others. Alipay ignores them, which would hide
//! mistakes.

use serde_json::Value;

use super::Method;
use super::reply::Reply;
use super::yuan::fen;
use crate::fields::FieldType::{Json, Objects, Text, Texts};
use crate::fields::{self, Field, any, optional, required};

/// Validates `biz_content` against the method's fields.
pub(super) fn checked(content: Option<Value>, method: Method) -> Result<Value, Reply> {
    let refused = |message: &str| Reply::business("ACQ.INVALID_PARAMETER", &format!("参数无效：{message}"));
    let content = content.ok_or_else(|| refused("biz_content must be JSON"))?;
    let own = match method {
        Method::Precreate => PRECREATE,
        Method::Pay => PAY,
        Method::Page => REFUNDS_PER_PAGE,
        Method::Wap => WAP,
        Method::App => APP,
        Method::Create => CREATE,
        Method::Query => QUERY,
        Method::Close => CLOSE,
        Method::Cancel => CANCEL,
        Method::Refund => REFUND,
        Method::RefundQuery => REFUND_QUERY,
        Method::BillLink => BILL_LINK,
        Method::CertificateDownload => CERTIFICATE_DOWNLOAD,
    };
    let makes = method.operation() == "create";
    let common = match method {
        Method::BillLink | Method::CertificateDownload => &[],
        _ if makes => ORDER,
        _ => TRADE,
    };
    let fields: Vec<&Field> = own.iter().chain(common).collect();
    fields::check_fields(&content, &fields).map_err(|issue| refused(&format!("{} {}", issue.field, issue.issue)))?;
    if !makes
        && !matches!(method, Method::BillLink | Method::CertificateDownload)
        && content.get("trade_no").is_none()
        && content.get("out_trade_no").is_none()
    {
        return Err(refused("either out_trade_no or trade_no must be given"));
    }
    let buyers = ["buyer_id", "buyer_open_id", "op_buyer_open_id"];
    if method == Method::Create && buyers.iter().all(|buyer| content.get(buyer).is_none()) {
        return Err(refused("buyer_id or buyer_open_id must be given"));
    }
    Ok(content)
}

/// Common fields of methods that create a trade.
const ORDER: &[Field] = &[
    required("out_trade_no", Text(1, 64, is_number)),
    required("total_amount", Text(1, 12, is_amount)),
    required("subject", Text(1, 256, is_subject)),
    optional("body", Text(1, 400, any)),
    optional("seller_id", Text(1, 28, any)),
    optional("timeout_express", Text(2, 6, is_duration)),
    optional("time_expire", Text(19, 19, is_time)),
    optional("goods_detail", Objects(GOODS)),
    optional("extend_params", Json),
    optional("passback_params", Text(1, 512, any)),
    optional("disable_pay_channels", Text(1, 128, any)),
    optional("enable_pay_channels", Text(1, 128, any)),
    optional("store_id", Text(1, 32, any)),
    optional("operator_id", Text(1, 28, any)),
    optional("terminal_id", Text(1, 32, any)),
    optional("query_options", Texts),
    optional("discountable_amount", Text(1, 12, is_amount)),
    optional("settle_info", Json),
    optional("sub_merchant", Json),
    optional("merchant_order_no", Text(1, 32, any)),
];
/// Fields that identify a trade.
const TRADE: &[Field] = &[optional("out_trade_no", Text(1, 64, is_number)), optional("trade_no", Text(1, 64, any))];
const GOODS: &[Field] = &[
    required("goods_id", Text(1, 64, any)),
    required("goods_name", Text(1, 256, any)),
    required("quantity", Json),
    required("price", Text(1, 12, is_amount)),
    optional("goods_category", Text(1, 24, any)),
    optional("categories_tree", Text(1, 128, any)),
    optional("body", Text(1, 1000, any)),
    optional("show_url", Text(1, 400, any)),
];
const PRECREATE: &[Field] = &[
    optional("product_code", Text(1, 64, |code| matches!(code, "FACE_TO_FACE_PAYMENT" | "QR_CODE_OFFLINE"))),
    optional("qr_code_timeout_express", Text(2, 6, is_duration)),
];
const PAY: &[Field] = &[
    optional("product_code", Text(1, 64, |code| code == "FACE_TO_FACE_PAYMENT")),
    required("scene", Text(1, 32, |scene| matches!(scene, "bar_code" | "wave_code" | "security_code"))),
    required("auth_code", Text(1, 64, any)),
];
const REFUNDS_PER_PAGE: &[Field] = &[
    required("product_code", Text(1, 64, |code| code == "FAST_INSTANT_TRADE_PAY")),
    optional("qr_pay_mode", Text(1, 2, any)),
    optional("qrcode_width", Json),
    optional("integration_type", Text(1, 16, any)),
    optional("request_from_url", Text(1, 256, any)),
];
const WAP: &[Field] =
    &[required("product_code", Text(1, 64, |code| code == "QUICK_WAP_WAY")), optional("quit_url", Text(1, 400, any))];
const APP: &[Field] = &[optional("product_code", Text(1, 64, |code| code == "QUICK_MSECURITY_PAY"))];
const CREATE: &[Field] = &[
    optional("product_code", Text(1, 64, |code| matches!(code, "JSAPI_PAY" | "FACE_TO_FACE_PAYMENT"))),
    optional("op_app_id", Text(1, 32, any)),
    optional("buyer_id", Text(16, 28, is_digits)),
    optional("buyer_open_id", Text(1, 128, any)),
    optional("op_buyer_open_id", Text(1, 128, any)),
];
const QUERY: &[Field] = &[optional("org_pid", Text(1, 16, any)), optional("query_options", Texts)];
const CLOSE: &[Field] = &[optional("operator_id", Text(1, 28, any))];
const CANCEL: &[Field] = &[];
const REFUND: &[Field] = &[
    required("refund_amount", Text(1, 12, is_amount)),
    optional("out_request_no", Text(1, 64, any)),
    optional("refund_reason", Text(1, 256, any)),
    optional("refund_royalty_parameters", Json),
    optional("query_options", Texts),
];
const REFUND_QUERY: &[Field] = &[required("out_request_no", Text(1, 64, any)), optional("query_options", Texts)];
const BILL_LINK: &[Field] = &[
    required("bill_type", Text(1, 20, |kind| matches!(kind, "trade" | "signcustomer"))),
    required("bill_date", Text(1, 15, any)),
];
const CERTIFICATE_DOWNLOAD: &[Field] = &[required("alipay_cert_sn", Text(32, 32, any))];

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_amount(text: &str) -> bool {
    fen(text).is_some()
}

fn is_subject(text: &str) -> bool {
    !text.contains(['/', '=', '&'])
}

/// Returns whether the text is a duration such as `90m`, `12h`, `15d` or `1c`.
fn is_duration(text: &str) -> bool {
    text == "1c" || super::codes::minutes(text).is_some()
}

fn is_time(text: &str) -> bool {
    jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text).is_ok()
}
