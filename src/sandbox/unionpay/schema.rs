//! Documented fields per transaction. The sandbox rejects others. UnionPay ignores them, which would hide mistakes.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Transaction;
use super::codes::{fen, is_digits};
use super::reply::{Refusal, refused_because};
use crate::china_time::parse_digits;
use crate::fields::FieldType::Text;
use crate::fields::{self, Field, any, optional, required};
use crate::form::Form;

/// Maximum difference between a new transaction's time and now, in seconds.
const MAX_CLOCK_SKEW_SECONDS: u64 = 10 * 60;

/// Validates the fields against the transaction and returns them as an object.
pub(super) fn checked(form: &Form, transaction: Transaction, now: Timestamp) -> Result<Value, Refusal> {
    let fields: Map<String, Value> = form
        .pairs()
        .filter(|(name, value)| *name != "signature" && !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let fields = Value::from(fields);
    let (own, more): (&[Field], &[Field]) = match transaction {
        Transaction::Page => (REFUNDS_PER_PAGE, ORDER),
        Transaction::App => (APP, ORDER),
        Transaction::Qr => (QR, ORDER),
        Transaction::Barcode => (BARCODE, ORDER),
        Transaction::Query => (QUERY, NUMBER),
        Transaction::Refund | Transaction::Undo => (REFUND, NUMBER),
        Transaction::Reverse => (REVERSE, NUMBER),
        Transaction::File => (FILE, &[]),
    };
    let table: Vec<&Field> = COMMON.iter().chain(own).chain(more).collect();
    fields::check_fields(&fields, &table).map_err(|issue| {
        let name = issue.field.trim_start_matches('/');
        match fields.get(name) {
            None => refused_because("13", &format!("报文交易要素缺失：{name}")),
            Some(_) => refused_because("10", &format!("报文格式错误：{name} {}", issue.issue)),
        }
    })?;
    let is_new = match transaction {
        Transaction::Query => false,
        Transaction::Reverse => fields.get("origOrderId").is_some(),
        _ => true,
    };
    let at = fields["txnTime"].as_str().and_then(parse_digits);
    if is_new && at.is_none_or(|at| at.as_second().abs_diff(now.as_second()) > MAX_CLOCK_SKEW_SECONDS) {
        return Err(refused_because("10", "报文格式错误：txnTime与服务器的北京时间相差超过10分钟"));
    }
    if fields["payTimeout"].as_str().and_then(parse_digits).is_some_and(|end| end <= now) {
        return Err(refused_because("10", "报文格式错误：payTimeout已过"));
    }
    Ok(fields)
}

/// Fields of every transaction.
const COMMON: &[Field] = &[
    required("version", Text(5, 5, any)),
    required("encoding", Text(1, 20, any)),
    required("signMethod", Text(2, 2, any)),
    optional("certId", Text(1, 128, is_digits)),
    required("txnType", Text(2, 2, is_digits)),
    required("txnSubType", Text(2, 2, is_digits)),
    required("accessType", Text(1, 1, |kind| kind == "0")),
    required("merId", Text(15, 15, is_alphanumeric)),
    required("txnTime", Text(14, 14, is_time)),
    optional("reqReserved", Text(1, 1024, any)),
    optional("reserved", Text(1, 2048, any)),
];
/// Fields that identify a trade.
const NUMBER: &[Field] = &[ORDER_ID];
const ORDER_ID: Field = required("orderId", Text(8, 40, is_alphanumeric));
/// Common fields of transactions that create a trade.
const ORDER: &[Field] = &[
    ORDER_ID,
    required("txnAmt", Text(1, 12, is_amount)),
    required("currencyCode", Text(3, 3, is_yuan)),
    required("backUrl", Text(1, 256, is_url)),
    optional("payTimeout", Text(14, 14, is_time)),
    optional("riskRateInfo", Text(2, 2048, any)),
    optional("orderDesc", Text(1, 32, any)),
    optional("customerIp", Text(1, 40, any)),
];
const REFUNDS_PER_PAGE: &[Field] = &[
    required("bizType", Text(6, 6, |kind| matches!(kind, "000201" | "000202"))),
    required("channelType", Text(2, 2, |channel| matches!(channel, "07" | "08"))),
    required("frontUrl", Text(1, 256, is_url)),
    optional("frontFailUrl", Text(1, 256, is_url)),
];
const APP: &[Field] = &[
    required("bizType", Text(6, 6, |kind| kind == "000201")),
    required("channelType", Text(2, 2, is_mobile)),
    optional("frontUrl", Text(1, 256, is_url)),
];
const QR: &[Field] = &[
    required("bizType", Text(6, 6, is_qr)),
    required("channelType", Text(2, 2, is_mobile)),
    optional("termId", Text(8, 8, is_alphanumeric)),
];
const BARCODE: &[Field] = &[
    required("bizType", Text(6, 6, is_qr)),
    required("channelType", Text(2, 2, is_mobile)),
    required("qrNo", Text(1, 20, any)),
    optional("termId", Text(8, 8, is_alphanumeric)),
];
const QUERY: &[Field] = &[required("bizType", Text(6, 6, is_digits)), optional("channelType", Text(2, 2, is_digits))];
const REFUND: &[Field] = &[
    required("bizType", Text(6, 6, is_digits)),
    required("channelType", Text(2, 2, |channel| matches!(channel, "07" | "08"))),
    required("origQryId", Text(21, 21, is_digits)),
    required("txnAmt", Text(1, 12, is_amount)),
    optional("currencyCode", Text(3, 3, is_yuan)),
    required("backUrl", Text(1, 256, is_url)),
    optional("termId", Text(8, 8, is_alphanumeric)),
];
/// The documentation has two pairs of names for the reversed trade. Both are accepted.
const REVERSE: &[Field] = &[
    required("bizType", Text(6, 6, is_digits)),
    optional("channelType", Text(2, 2, is_digits)),
    optional("origOrderId", Text(8, 40, is_alphanumeric)),
    optional("origTxnTime", Text(14, 14, is_time)),
    optional("txnAmt", Text(1, 12, is_amount)),
    optional("currencyCode", Text(3, 3, is_yuan)),
    optional("backUrl", Text(1, 256, is_url)),
    optional("termId", Text(8, 8, is_alphanumeric)),
];
/// Fields of a file download, which refers to a day.
const FILE: &[Field] = &[
    required("bizType", Text(6, 6, |kind| kind == "000000")),
    required("fileType", Text(2, 2, |kind| kind == "00")),
    required("settleDate", Text(4, 4, is_digits)),
];

fn is_alphanumeric(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_amount(text: &str) -> bool {
    fen(text).is_some()
}

fn is_yuan(text: &str) -> bool {
    text == "156"
}

fn is_mobile(channel: &str) -> bool {
    channel == "08"
}

fn is_qr(kind: &str) -> bool {
    kind == "000000"
}

fn is_time(text: &str) -> bool {
    parse_digits(text).is_some()
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty())
        && text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}
