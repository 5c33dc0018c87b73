//! APIv2 bills: the answer is the file itself. A bill is not signed, so its origin is proven only by the host's TLS
//! identity. Refusals come as XML, which is seldom signed either.

use bytes::Bytes;
use http::{Request, StatusCode};

use super::super::answer_codes::{self as table, Class, Interface};
use super::super::bill::{Answer, BillEndpoint, BillFile, BillReply, BillRequest, Bills, FUNDS, Form, Proof, TRADE};
use super::super::{BadSignature, Signing};
use super::request::{post, put, put_common};
use super::signature::SignType;
use super::xml::{self, Fields};
use super::{WechatV2, errors};
use crate::error::{Error, ProviderError};

const TRADES: &str = "/pay/downloadbill";
/// Requires mutual TLS.
const FUND_FLOW: &str = "/pay/downloadfundflow";

/// Kinds of bill with their interface, parameter and value.
const INTERFACES: &[(&str, &str, &str, &str)] = &[
    (TRADE, TRADES, "bill_type", "ALL"),
    ("trade_success", TRADES, "bill_type", "SUCCESS"),
    ("trade_refund", TRADES, "bill_type", "REFUND"),
    ("trade_recharge_refund", TRADES, "bill_type", "RECHARGE_REFUND"),
    (FUNDS, FUND_FLOW, "account_type", "Basic"),
    ("funds_operation", FUND_FLOW, "account_type", "Operation"),
    ("funds_fees", FUND_FLOW, "account_type", "Fees"),
];
const KINDS: &[&str] =
    &[TRADE, "trade_success", "trade_refund", "trade_recharge_refund", FUNDS, "funds_operation", "funds_fees"];
/// Kinds of bill for a service provider. Bills of funds cover the service provider's own funds and cannot be requested
/// for one merchant.
const KINDS_OF_ONE_MERCHANT: &[&str] = &[TRADE, "trade_success", "trade_refund", "trade_recharge_refund"];

/// Start of the heading of the totals, in a bill of payments and in one of funds.
const TOTALS: &[&str] = &["总交易单数", "资金流水总笔数"];

impl Bills for WechatV2 {
    fn kinds(&self) -> &'static [&'static str] {
        match self.account.sub_mchid {
            None => KINDS,
            Some(_) => KINDS_OF_ONE_MERCHANT,
        }
    }

    /// The files come from the API hosts.
    fn hosts(&self) -> &'static [&'static str] {
        &[]
    }

    fn endpoint(&self) -> BillEndpoint {
        BillEndpoint::Payments
    }

    fn bill_request(&self, bill: &BillRequest, with: Signing<'_>) -> Result<Request<Bytes>, Error> {
        let interface = INTERFACES.iter().find(|(kind, ..)| *kind == bill.kind && self.kinds().contains(kind));
        let (_, path, name, choice) = interface.ok_or_else(|| {
            Error::Unsupported(format!("WeChat Pay provides no bill of the kind `{}` for this account", bill.kind))
        })?;
        // Bills of funds require HMAC-SHA256, whatever the account's `sign_type`.
        let sign_type = if *path == FUND_FLOW { SignType::HmacSha256 } else { self.account.key.sign_type };
        let mut fields = Fields::new();
        put(&mut fields, "bill_date", &bill.day.strftime("%Y%m%d").to_string());
        put(&mut fields, name, choice);
        put_common(&mut fields, &self.account, sign_type, with);
        Ok(post(path, &fields))
    }

    fn decode_bill(&self, _: &BillRequest, answer: Answer) -> Result<BillReply, Error> {
        match answer.checked {
            Err(BadSignature::Missing) | Ok(_) => {}
            Err(bad) => return Err(Error::unclear(format!("the signature of the answer is invalid: {bad}"))),
        }
        if let Some(fields) = xml::read("xml", &answer.body) {
            return Err(refusal(&fields));
        }
        if answer.status != StatusCode::OK || !is_bill(&answer.body) {
            return Err(Error::unclear(format!("HTTP {} answer that is not a bill", answer.status.as_u16())));
        }
        Ok(BillReply::File(BillFile { content: answer.body, form: Form::Csv, proof: Proof::Host }))
    }
}

/// Returns whether the content is a complete bill.
///
/// There is neither a signature nor a hash, so only the format shows it. A bill ends with the heading of the totals and
/// a line of as many values. Each value is prefixed with a backtick.
///
/// The first value is the number of trades. Whether it includes refunds is undocumented, so a bill may have more rows
/// than this number. A bill with fewer rows is truncated.
fn is_bill(content: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(content) else { return false };
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let [rows @ .., heading, values] = lines.as_slice() else { return false };
    let values: Vec<&str> = values.split(',').collect();
    let row_count = rows.iter().filter(|row| row.starts_with('`')).count();
    let trade_count = values.first().and_then(|value| whole_number(value.strip_prefix('`')?.trim()));
    TOTALS.iter().any(|totals| heading.starts_with(totals))
        && values.len() == heading.split(',').count()
        && values.iter().all(|value| value.len() > 1 && value.starts_with('`'))
        && trade_count.is_some_and(|trade_count| trade_count <= row_count)
}

/// Parses a number of rows. Bills of funds write it as `20.0`.
fn whole_number(text: &str) -> Option<usize> {
    let (number, fraction) = text.split_once('.').unwrap_or((text, ""));
    number.parse().ok().filter(|_| fraction.bytes().all(|digit| digit == b'0'))
}

/// Returns the error for a refused bill. Protocol errors use `return_msg` and `error_code`, business errors use
/// `err_code`. A listed `err_code` decides. Otherwise the message is tried first, because one `error_code` has several
/// meanings.
fn refusal(fields: &Fields) -> Error {
    let text = |name: &str| fields.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let code = text("err_code").or_else(|| text("error_code")).or_else(|| text("return_code")).unwrap_or_default();
    let message = text("err_code_des").or_else(|| text("return_msg")).unwrap_or_default();
    let provider_error = ProviderError { code: code.to_owned(), message: message.to_owned() };
    let class = |code_text: &str| table::class(errors::CODES, code_text, Interface::Bill);
    let is_refused = text("return_code") != Some("SUCCESS") || text("result_code") == Some("FAIL");
    let listed = text("err_code").filter(|code| !table::has_several_causes(code)).and_then(class);
    let class_of_message = errors::class_of_message(message)
        .filter(|class| matches!(class, Class::Credentials | Class::Query | Class::Later));
    let class = match listed.or(class_of_message).or_else(|| class(message)).or_else(|| class(code)) {
        // An unknown code is a refusal too: no money depends on it.
        None if is_refused => Some(Class::Final),
        class => class,
    };
    table::error(class, Interface::Bill, false, provider_error, "error answer".to_owned())
}
