//! Operations in UnionPay's words. An order is known by its number together with `txnTime`, the Beijing time at which the
//! gateway took it on.

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

/// `txnAmt` has at most twelve digits.
const MAX_FEN: u64 = 999_999_999_999;

const BACK: &str = "/gateway/api/backTransReq.do";
const APP: &str = "/gateway/api/appTransReq.do";
const QUERY: &str = "/gateway/api/queryTrans.do";
pub(super) const FRONT: &str = "/gateway/api/frontTransReq.do";

/// The ways to pay, as UnionPay tells them apart.
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
            _ => Err(Error::Unsupported(format!("`{method}` is no way to pay with UnionPay: choose another `method`"))),
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

    /// Orders with QR codes are asked about at the same place where they are made.
    fn query_path(self) -> &'static str {
        match self {
            Self::Page | Self::App => QUERY,
            Self::Qr | Self::Barcode => BACK,
        }
    }
}

/// An operation before it is signed: where it goes and what it says.
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
            let fields = question(account, product, &order.number, order.created_at);
            Ok(Draft { path: product.query_path(), fields })
        }
        Operation::Close(order) if product == Product::Barcode => {
            Ok(Draft { path: BACK, fields: reverse(account, order) })
        }
        Operation::Close(_) => Err(no_close()),
        Operation::Refund(refund) => Ok(Draft { path: BACK, fields: give_back(account, product, refund)? }),
        Operation::QueryRefund(refund) => {
            let fields = question(account, product, &refund.number, refund.created_at);
            Ok(Draft { path: product.query_path(), fields })
        }
    }
}

/// Nothing is sent. The gateway asks how the order stands, and goes on asking until it has ended.
fn no_close() -> Error {
    let message = "UnionPay closes no orders: this one ends unpaid when its payTimeout has passed";
    Error::Conflict(codes::word("NO_CLOSE", message))
}

/// What every request says.
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
        fields.set("riskRateInfo", format!("{{commodityName={}}}", commodity(&pay.description)?));
    }
    if product == Product::Page {
        fields.set("frontUrl", front_url(pay.return_url.as_deref())?);
    }
    if product == Product::Barcode {
        fields.set("qrNo", code(pay)?);
        fields.set("termId", account.term_id.as_deref().unwrap_or_default());
        return Ok(fields);
    }
    // UnionPay gives `reqReserved` back in each answer about the order: so a question knows when its answer is the last.
    let deadline = deadline(account, order).map_err(|_| unfit("the payment's time lies too far in the future"))?;
    let deadline = time(deadline);
    fields.set("payTimeout", &deadline);
    fields.set("reqReserved", &deadline);
    Ok(fields)
}

/// Until when the payer can pay.
pub(super) fn deadline(account: &Account, order: &Order) -> Result<Timestamp, jiff::Error> {
    order.expires_at.map_or_else(|| order.created_at.checked_add(account.pay_timeout), Ok)
}

fn question(account: &Account, product: Product, number: &str, at: Timestamp) -> Fields {
    common(account, ["00", "00"], product.business(), number, at)
}

/// Takes back what may or may not have been paid. (The undo of a consumption, 31, is for one that is known to have
/// succeeded, and has a number of its own; this one names the order itself, so it can be said twice.) The fields are
/// those of UnionPay's own sample for scanned codes (被扫消费冲正), not seen at work.
fn reverse(account: &Account, order: &Order) -> Fields {
    let mut fields = common(account, ["99", "01"], Product::Barcode.business(), &order.number, order.created_at);
    fields.set("channelType", "08");
    fields
}

/// The refund's notification does not name the payment, so its number travels in `reqReserved`, which comes back.
fn give_back(account: &Account, product: Product, refund: &Refund) -> Result<Fields, Error> {
    let (back, total) = (fen(refund.amount)?, fen(refund.order.amount)?);
    if back > total {
        return Err(Error::Unsupported(format!("`amount.value` must be at most {total}, which is what was paid")));
    }
    let original = refund.order.provider_id.as_deref().ok_or_else(|| {
        unfit("UnionPay gives back by its own number of the payment, which it has not told yet: ask for the payment first")
    })?;
    let kind = [back_kind(account, refund), "00"];
    let mut fields = common(account, kind, product.business(), &refund.number, refund.created_at);
    fields.set("channelType", if product == Product::Page { &account.channel_type } else { "08" });
    fields.set("txnAmt", back.to_string());
    fields.set("currencyCode", "156");
    fields.set("backUrl", notify_url(&refund.notify_url)?);
    fields.set("origQryId", original);
    fields.set("reqReserved", &refund.order.number);
    Ok(fields)
}

/// 31 undoes the whole of a payment before its clearing day is over, if the account wants that; all else is a refund, 04.
/// A clearing day ends at 23:00 in Beijing. The same for the same refund, however often it is asked.
pub(super) fn back_kind(account: &Account, refund: &Refund) -> &'static str {
    const TO_MIDNIGHT: SignedDuration = SignedDuration::from_hours(1);
    let day = |at: Timestamp| china_time::day(at.saturating_add(TO_MIDNIGHT).unwrap_or(at));
    let is_whole = refund.amount == refund.order.amount;
    let is_same_day = day(refund.created_at) == day(refund.order.created_at);
    if account.undo && is_whole && is_same_day { "31" } else { "04" }
}

fn fen(amount: Money) -> Result<u64, Error> {
    if amount.currency != Currency::CNY {
        return Err(unfit("`amount.currency` must be \"CNY\": this UnionPay account takes yuan only"));
    }
    if !(1..=MAX_FEN).contains(&amount.value) {
        return Err(Error::Unsupported(format!("`amount.value` must be from 1 to {MAX_FEN} fen for UnionPay")));
    }
    Ok(amount.value)
}

/// UnionPay takes characters of its own grammar for grammar, and advises to write their wide forms instead.
fn commodity(description: &str) -> Result<String, Error> {
    if !(1..=256).contains(&description.trim().chars().count()) {
        return Err(unfit("`description` must have 1 to 256 characters for UnionPay"));
    }
    let wide = |character| match character {
        '&' => '＆',
        '=' => '＝',
        '{' => '｛',
        '}' => '｝',
        '[' => '【',
        ']' => '】',
        control if control.is_control() => ' ',
        other => other,
    };
    Ok(description.trim().chars().map(wide).collect())
}

/// UnionPay signs its notification without what stands after a `?`, but sends both.
fn notify_url(url: &str) -> Result<&str, Error> {
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if !is_web || url.contains(['?', '#', '&', '{', '[']) || url.len() > 256 {
        return Err(unfit(
            "the notification URL must start with http:// or https://, have no `?` or `#` and at most 256 characters for \
             UnionPay: change `public_url`",
        ));
    }
    Ok(url)
}

/// Every transaction that begins in the payer's browser has one.
fn front_url(url: Option<&str>) -> Result<&str, Error> {
    let url = url.ok_or_else(|| {
        unfit("`return_url` is needed for `unionpay.page`: UnionPay sends the payer's browser there after the payment")
    })?;
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    let fits = is_web
        && url.len() <= 256
        && url.bytes().all(|byte| byte.is_ascii_graphic())
        && !url.contains(['{', '}', '[', ']']);
    fits.then_some(url).ok_or_else(|| {
        unfit(
            "`return_url` must start with http:// or https:// and have at most 256 visible characters, none of them one of \
             { } [ ], for UnionPay",
        )
    })
}

fn code(pay: &Pay) -> Result<&str, Error> {
    let code = pay.payer.auth_code.as_deref();
    let fits = |code: &&str| (10..=128).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    code.filter(fits).ok_or_else(|| {
        unfit("`payer.auth_code` (the code that the till scanned, letters and digits) is needed for `unionpay.barcode`")
    })
}

pub(super) fn time(at: Timestamp) -> String {
    china_time::write(at, COMPACT)
}

/// Reads `yyyyMMddHHmmss`, Beijing time.
pub(super) fn read_time(text: &str) -> Option<Timestamp> {
    let is_time = text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_time.then(|| china_time::read(text, COMPACT))?
}

/// Whether the moment is past, and the provider's clock has surely seen it too.
pub(super) fn is_past(moment: Timestamp, now: u64) -> bool {
    const MARGIN: SignedDuration = SignedDuration::from_mins(10);
    let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok());
    now.is_some_and(|now| now.duration_since(moment) > MARGIN)
}

fn unfit(sentence: &str) -> Error {
    Error::Unsupported(sentence.to_owned())
}

/// The request with these fields as its body.
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
