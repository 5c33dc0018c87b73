//! Encoding of operations as UnionPay requests. UnionPay identifies an order by its number together with `txnTime`, the
//! China time at which the gateway accepted it.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method as Verb, Request, Uri};
use jiff::{SignedDuration, Timestamp};

use super::super::china_time::{self, COMPACT};
use super::account::Account;
use super::codes;
use super::fields::{Codec, Fields};
use crate::error::Error;
use crate::payment::{Currency, Method, Money, Operation, Order, Pay, Refund};

/// Maximum of `txnAmt`: twelve digits.
const MAX_FEN: u64 = 999_999_999_999;

const BACK: &str = "/gateway/api/backTransReq.do";
const APP: &str = "/gateway/api/appTransReq.do";
const QUERY: &str = "/gateway/api/queryTrans.do";
pub(super) const FRONT: &str = "/gateway/api/frontTransReq.do";

/// Payment products that UnionPay distinguishes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    Page,
    App,
    Qr,
    Barcode,
}

impl Product {
    pub(super) fn of(method: Method) -> Result<Self, Error> {
        match method.as_str() {
            "unionpay.page" => Ok(Self::Page),
            "unionpay.app" => Ok(Self::App),
            "unionpay.qr" => Ok(Self::Qr),
            "unionpay.barcode" => Ok(Self::Barcode),
            _ => Err(Error::Unsupported(format!(
                "`{method}` is not a payment method of UnionPay: choose another `method`"
            ))),
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Page => FRONT,
            Self::App => APP,
            Self::Qr | Self::Barcode => BACK,
        }
    }

    fn sub_type(self) -> &'static str {
        match self {
            Self::Page | Self::App => "01",
            Self::Qr => "07",
            Self::Barcode => "06",
        }
    }

    fn business(self) -> &'static str {
        match self {
            Self::Page | Self::App => "000201",
            Self::Qr | Self::Barcode => "000000",
        }
    }

    /// Returns the path of queries. Orders with QR codes are queried at the path where they are created.
    fn query_path(self) -> &'static str {
        match self {
            Self::Page | Self::App => QUERY,
            Self::Qr | Self::Barcode => BACK,
        }
    }
}

/// Unsigned operation: path and fields.
pub(super) struct Draft {
    pub(super) path: &'static str,
    pub(super) fields: Fields,
}

impl Draft {
    pub(super) fn request(&self, codec: Codec) -> Result<Request<Bytes>, Error> {
        request(Uri::from_static(self.path), codec, &self.fields)
    }
}

pub(super) fn draft(account: &Account, operation: &Operation) -> Result<Draft, Error> {
    let product = Product::of(operation.order().method)?;
    match operation {
        Operation::Pay(pay) => Ok(Draft { path: product.path(), fields: create(account, product, pay)? }),
        Operation::Query(order) => {
            let fields = query(account, product, &order.number, order.created_at);
            Ok(Draft { path: product.query_path(), fields })
        }
        Operation::Close(order) if product == Product::Barcode => {
            Ok(Draft { path: BACK, fields: reversal(account, order) })
        }
        Operation::Close(_) => Err(close_error()),
        Operation::Refund(refund) => Ok(Draft { path: BACK, fields: refund_fields(account, product, refund)? }),
        Operation::QueryRefund(refund) => {
            let fields = query(account, product, &refund.number, refund.created_at);
            Ok(Draft { path: product.query_path(), fields })
        }
    }
}

/// Returns the error for a close request, for which nothing is sent. The gateway queries the order until it has ended.
fn close_error() -> Error {
    let message = "UnionPay cannot close orders: an unpaid order ends when its payTimeout has passed";
    Error::Conflict(codes::provider_error("NO_CLOSE", message))
}

/// Returns the fields that every request contains.
fn common(account: &Account, kind: [&str; 2], business: &str, number: &str, at: Timestamp) -> Fields {
    let mut fields = Fields::default();
    fields.set("version", "5.1.0");
    fields.set("encoding", "UTF-8");
    fields.set("signMethod", account.method.code());
    fields.set("txnType", kind[0]);
    fields.set("txnSubType", kind[1]);
    fields.set("bizType", business);
    fields.set("merId", &account.mer_id);
    fields.set("orderId", number);
    fields.set("txnTime", time(at));
    fields.set("accessType", if account.sub_merchant.is_some() { "2" } else { "0" });
    if let Some(merchant) = &account.sub_merchant {
        fields.set("subMerId", &merchant.id);
        fields.set("subMerName", &merchant.name);
        fields.set("subMerAbbr", &merchant.abbreviation);
    }
    fields
}

fn create(account: &Account, product: Product, pay: &Pay) -> Result<Fields, Error> {
    let order = &pay.order;
    let kind = ["01", product.sub_type()];
    let mut fields = common(account, kind, product.business(), &order.number, order.created_at);
    fields.set("channelType", if product == Product::Page { &account.channel_type } else { "08" });
    fields.set("txnAmt", fen(order.amount)?.to_string());
    fields.set("currencyCode", "156");
    fields.set("backUrl", notify_url(&pay.notify_url)?);
    if let Product::Page | Product::App = product {
        fields.set("riskRateInfo", format!("{{commodityName={}}}", commodity_name(&pay.description)?));
    }
    if product == Product::Page {
        fields.set("frontUrl", front_url(pay.return_url.as_deref())?);
    }
    if product == Product::Barcode {
        fields.set("qrNo", scanned_code(pay)?);
        fields.set("termId", account.term_id.as_deref().unwrap_or_default());
        return Ok(fields);
    }
    // UnionPay returns `reqReserved` in each answer about the order, so the answer to a query contains the deadline.
    let deadline =
        deadline(account, order).map_err(|_| unsupported("the payment's expiry is too far in the future"))?;
    let deadline = time(deadline);
    fields.set("payTimeout", &deadline);
    fields.set("reqReserved", &deadline);
    Ok(fields)
}

/// Returns the time until which the payer can pay.
pub(super) fn deadline(account: &Account, order: &Order) -> Result<Timestamp, jiff::Error> {
    order.expires_at.map_or_else(|| order.created_at.checked_add(account.pay_timeout), Ok)
}

fn query(account: &Account, product: Product, number: &str, at: Timestamp) -> Fields {
    common(account, ["00", "00"], product.business(), number, at)
}

/// Builds the reversal of a payment that may or may not have been paid.
///
/// The undo of a consumption (31) requires a payment that is known to have succeeded, and has its own number. The
/// reversal (99) refers to the order's number, so it can be repeated. The fields are those of UnionPay's own sample for
/// scanned codes (被扫消费冲正), never tested against UnionPay.
fn reversal(account: &Account, order: &Order) -> Fields {
    let mut fields = common(account, ["99", "01"], Product::Barcode.business(), &order.number, order.created_at);
    fields.set("channelType", "08");
    fields
}

/// Builds a refund. The refund's notification does not contain the payment's number, so the number is sent in
/// `reqReserved`, which UnionPay returns.
fn refund_fields(account: &Account, product: Product, refund: &Refund) -> Result<Fields, Error> {
    let (amount, total) = (fen(refund.amount)?, fen(refund.order.amount)?);
    if amount > total {
        return Err(Error::Unsupported(format!("`amount.value` must be at most {total}, the amount paid")));
    }
    let original = refund.order.provider_id.as_deref().ok_or_else(|| {
        unsupported(
            "UnionPay refunds by its own number of the payment, which is not known yet: query the payment first",
        )
    })?;
    let kind = [refund_type(account, refund), "00"];
    let mut fields = common(account, kind, product.business(), &refund.number, refund.created_at);
    fields.set("channelType", if product == Product::Page { &account.channel_type } else { "08" });
    fields.set("txnAmt", amount.to_string());
    fields.set("currencyCode", "156");
    fields.set("backUrl", notify_url(&refund.notify_url)?);
    fields.set("origQryId", original);
    fields.set("reqReserved", &refund.order.number);
    Ok(fields)
}

/// Returns the type of a refund. 31 undoes a full payment on its clearing day, if the account is configured so; every
/// other refund is 04.
///
/// A clearing day ends at 23:00 China time. The result is always the same for the same refund.
pub(super) fn refund_type(account: &Account, refund: &Refund) -> &'static str {
    const TO_MIDNIGHT: SignedDuration = SignedDuration::from_hours(1);
    let day = |at: Timestamp| china_time::day(at.saturating_add(TO_MIDNIGHT).unwrap_or(at));
    let is_whole = refund.amount == refund.order.amount;
    let is_same_day = day(refund.created_at) == day(refund.order.created_at);
    if account.undo && is_whole && is_same_day { "31" } else { "04" }
}

fn fen(amount: Money) -> Result<u64, Error> {
    if amount.currency != Currency::CNY {
        return Err(unsupported("`amount.currency` must be \"CNY\": this UnionPay account accepts yuan only"));
    }
    if !(1..=MAX_FEN).contains(&amount.value) {
        return Err(Error::Unsupported(format!("`amount.value` must be from 1 to {MAX_FEN} fen for UnionPay")));
    }
    Ok(amount.value)
}

/// Converts a description. UnionPay reserves some characters for its own syntax, and recommends their full-width forms
/// instead.
fn commodity_name(description: &str) -> Result<String, Error> {
    if !(1..=256).contains(&description.trim().chars().count()) {
        return Err(unsupported("`description` must have 1 to 256 characters for UnionPay"));
    }
    let full_width = |character| match character {
        '&' => '＆',
        '=' => '＝',
        '{' => '｛',
        '}' => '｝',
        '[' => '【',
        ']' => '】',
        control if control.is_control() => ' ',
        other => other,
    };
    Ok(description.trim().chars().map(full_width).collect())
}

/// Checks a notification URL. UnionPay signs its notification without the part after `?`, but sends it.
fn notify_url(url: &str) -> Result<&str, Error> {
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if !is_web || url.contains(['?', '#', '&', '{', '[']) || url.len() > 256 {
        return Err(unsupported(
            "the notification URL must start with http:// or https://, have no `?` or `#` and at most 256 characters for \
             UnionPay: change `public_url`",
        ));
    }
    Ok(url)
}

/// Checks the return URL, which every transaction in the payer's browser needs.
fn front_url(url: Option<&str>) -> Result<&str, Error> {
    let url = url.ok_or_else(|| {
        unsupported(
            "`return_url` is needed for `unionpay.page`: UnionPay sends the payer's browser there after the payment",
        )
    })?;
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    let fits = is_web
        && url.len() <= 256
        && url.bytes().all(|byte| byte.is_ascii_graphic())
        && !url.contains(['{', '}', '[', ']']);
    fits.then_some(url).ok_or_else(|| {
        unsupported(
            "`return_url` must start with http:// or https:// and have at most 256 visible characters, without \
             { } [ ], for UnionPay",
        )
    })
}

fn scanned_code(pay: &Pay) -> Result<&str, Error> {
    let scanned_code = pay.payer.auth_code.as_deref();
    let fits = |scanned_code: &&str| {
        (10..=128).contains(&scanned_code.len()) && scanned_code.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    scanned_code.filter(fits).ok_or_else(|| {
        unsupported("`payer.auth_code` (the scanned code, letters and digits) is needed for `unionpay.barcode`")
    })
}

pub(super) fn time(at: Timestamp) -> String {
    china_time::write(at, COMPACT)
}

/// Parses `yyyyMMddHHmmss` in China time.
pub(super) fn read_time(text: &str) -> Option<Timestamp> {
    let is_time = text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_time.then(|| china_time::read(text, COMPACT))?
}

/// Returns whether the time has passed, including a margin for the provider's clock.
pub(super) fn is_past(moment: Timestamp, now: u64) -> bool {
    const MARGIN: SignedDuration = SignedDuration::from_mins(10);
    let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok());
    now.is_some_and(|now| now.duration_since(moment) > MARGIN)
}

fn unsupported(sentence: &str) -> Error {
    Error::Unsupported(sentence.to_owned())
}

/// Builds a request with these fields as its body.
pub(super) fn request(uri: Uri, codec: Codec, fields: &Fields) -> Result<Request<Bytes>, Error> {
    let body = fields.write(codec);
    let body = body.ok_or_else(|| Error::NotSent("the request's body could not be written".to_owned()))?;
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = Verb::POST;
    *request.uri_mut() = uri;
    let kind = match codec {
        Codec::Form => "application/x-www-form-urlencoded;charset=UTF-8",
        Codec::Json => "application/json;charset=UTF-8",
    };
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let agent = concat!("tollgate/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
    Ok(request)
}
