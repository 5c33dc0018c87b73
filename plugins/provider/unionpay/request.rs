//! Operations in UnionPay's words.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Uri};

use super::super::form::{self, Fields};
use super::super::{Signing, beijing};
use super::{Account, Product};
use crate::error::Error;
use crate::payment::{Currency, Money, Operation, Order, Pay, Refund};

/// Ten billion yuan: no order is larger.
const MAX_FEN: u64 = 1_000_000_000_000;

const BACK: &str = "/gateway/api/backTransReq.do";
const QUERY: &str = "/gateway/api/queryTrans.do";
const APP: &str = "/gateway/api/appTransReq.do";

/// Where the form of a browser goes; below the channel's `gateway`.
pub(super) const FRONT: &str = "/gateway/api/frontTransReq.do";

/// Path and fields, not yet signed.
pub(super) fn fields(
    account: &Account,
    operation: &Operation,
    _: Signing<'_>,
) -> Result<(&'static str, Fields), Error> {
    let order = operation.order();
    let product = Product::of(order.method)?;
    let mut fields = common(account, product);
    let path = match operation {
        Operation::Pay(pay) => create(&mut fields, account, product, pay)?,
        Operation::Query(order) => {
            put(&mut fields, [("txnType", "00"), ("txnSubType", "00")]);
            number(&mut fields, &order.number, order);
            query_path(product)
        }
        Operation::Close(_) => {
            // There is no such request. Undoing what was paid is a refund, and the caller asks for that by its name.
            return Err(unfit(
                "UnionPay closes no orders: an unpaid one ends at its `expires_at`, a paid one can be refunded",
            ));
        }
        Operation::Refund(refund) => {
            give_back(&mut fields, refund)?;
            BACK
        }
        Operation::QueryRefund(refund) => {
            put(&mut fields, [("txnType", "00"), ("txnSubType", "00")]);
            refund_number(&mut fields, refund);
            query_path(product)
        }
    };
    Ok((path, fields))
}

/// The request that carries the fields.
pub(super) fn post(path: &'static str, fields: &Fields) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(form::write(fields)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded;charset=UTF-8");
    request.headers_mut().insert(CONTENT_TYPE, kind);
    request
}

fn common(account: &Account, product: Product) -> Fields {
    let mut fields = Fields::new();
    put(
        &mut fields,
        [
            ("version", "5.1.0"),
            ("encoding", "UTF-8"),
            ("signMethod", account.method.number()),
            ("bizType", product.business()),
            ("channelType", product.channel()),
            ("accessType", "0"),
            ("merId", &account.mer_id),
        ],
    );
    fields
}

fn create(fields: &mut Fields, account: &Account, product: Product, pay: &Pay) -> Result<&'static str, Error> {
    let amount = fen(pay.order.amount)?;
    number(fields, &pay.order.number, &pay.order);
    put(
        fields,
        [
            ("txnType", "01"),
            ("txnSubType", product.sub_type()),
            ("txnAmt", &amount),
            ("currencyCode", "156"),
            ("backUrl", &pay.notify_url),
        ],
    );
    if let Some(end) = pay.expires_at {
        put(fields, [("payTimeout", beijing::write(end, beijing::COMPACT).as_str())]);
    }
    // Braces, `&` and `=` divide fields, so they cannot stand in this one.
    if pay.description.contains(['{', '}', '[', ']', '&', '=']) {
        return Err(unfit("UnionPay takes a `description` without { } [ ] & ="));
    }
    put(fields, [("riskRateInfo", format!("{{commodityName={}}}", pay.description).as_str())]);
    match product {
        Product::Page => {
            let needed = "unionpay.page needs `return_url`: where the payer's browser comes back to";
            put(fields, [("frontUrl", pay.return_url.as_deref().ok_or_else(|| unfit(needed))?)]);
            Ok(FRONT)
        }
        Product::App => Ok(APP),
        Product::Qr => Ok(BACK),
        Product::Barcode => {
            let code = pay.payer.auth_code.as_deref();
            let code =
                code.filter(|code| (10..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_digit()));
            let needed = "unionpay.barcode needs `payer.auth_code`: the digits that the till scanned";
            put(fields, [("qrNo", code.ok_or_else(|| unfit(needed))?)]);
            if let Some(terminal) = &account.term_id {
                put(fields, [("termId", terminal.as_str())]);
            }
            Ok(BACK)
        }
    }
}

/// The order's number goes along, because the notification of a refund does not name the order that it is of.
fn give_back(fields: &mut Fields, refund: &Refund) -> Result<(), Error> {
    let paid = refund.order.provider_id.as_deref();
    let paid =
        paid.ok_or_else(|| unfit("UnionPay's own number of the payment is not known yet: ask for the payment first"))?;
    let amount = fen(refund.amount)?;
    refund_number(fields, refund);
    put(
        fields,
        [
            ("txnType", "04"),
            ("txnSubType", "00"),
            ("origQryId", paid),
            ("txnAmt", &amount),
            ("currencyCode", "156"),
            ("backUrl", &refund.notify_url),
            ("reqReserved", &refund.order.number),
        ],
    );
    Ok(())
}

/// An order is known by its number and its time together.
fn number(fields: &mut Fields, number: &str, order: &Order) {
    put(fields, [("orderId", number), ("txnTime", &beijing::write(order.created_at, beijing::COMPACT))]);
}

fn refund_number(fields: &mut Fields, refund: &Refund) {
    put(
        fields,
        [("orderId", refund.number.as_str()), ("txnTime", &beijing::write(refund.created_at, beijing::COMPACT))],
    );
}

fn query_path(product: Product) -> &'static str {
    match product {
        Product::Page | Product::App => QUERY,
        Product::Qr | Product::Barcode => BACK,
    }
}

fn fen(money: Money) -> Result<String, Error> {
    if money.currency != Currency::CNY {
        return Err(Error::Unfit(format!("this channel takes CNY only, not {}", money.currency)));
    }
    match money.value {
        1..=MAX_FEN => Ok(money.value.to_string()),
        _ => Err(unfit("UnionPay takes from 1 fen to ten billion yuan")),
    }
}

fn put<const N: usize>(fields: &mut Fields, pairs: [(&str, &str); N]) {
    fields.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

fn unfit(why: &str) -> Error {
    Error::Unfit(why.to_owned())
}
