//! Encoding of operations as Alipay requests.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method as Verb, Request, Uri};
use serde::Serialize;

use super::super::form::{self, Fields};
use super::super::{Encoded, Signing};
use super::Product;
use super::account::{Account, Protocol};
use super::signature::{china_time, signed};
use super::v3;
use crate::error::Error;
use crate::payment::{Currency, Money, NextAction, Operation, Outcome, Pay, Refund, Status};

/// Alipay's maximum order amount: a hundred million yuan, in fen.
const MAX_FEN: u64 = 10_000_000_000;

pub(super) fn encode(account: &Account, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
    let send = || match account.protocol {
        Protocol::Form => Ok(Encoded::Send(post(&params(account, operation)?))),
        Protocol::V3 => v3::encode(account, operation).map(Encoded::Send),
    };
    let Operation::Pay(pay) = operation else { return send() };
    let order = || signed(account, params(account, operation)?, with).map(|params| form::write(&params));
    let action = match Product::of(pay.order.method)? {
        Product::Page | Product::Wap => NextAction::Redirect { url: format!("{}?{}", account.gateway, order()?) },
        Product::App => NextAction::App { params: [("orderStr".to_owned(), order()?)].into() },
        Product::Qr | Product::Barcode | Product::Jsapi => return send(),
    };
    Ok(Encoded::Answer(Outcome { action: Some(action), ..Outcome::of(Status::Pending) }))
}

/// Returns the name of the interface that serves the operation.
pub(super) fn service(operation: &Operation) -> Result<&'static str, Error> {
    Ok(match operation {
        Operation::Pay(pay) => match Product::of(pay.order.method)? {
            Product::Qr => "alipay.trade.precreate",
            Product::Barcode => "alipay.trade.pay",
            Product::Page => "alipay.trade.page.pay",
            Product::Wap => "alipay.trade.wap.pay",
            Product::App => "alipay.trade.app.pay",
            Product::Jsapi => "alipay.trade.create",
        },
        Operation::Query(_) => "alipay.trade.query",
        // A payment with a scanned code is cancelled, which refunds it if it was paid meanwhile.
        Operation::Close(order) if order.method.is_scanned() => "alipay.trade.cancel",
        Operation::Close(_) => "alipay.trade.close",
        Operation::Refund(_) => "alipay.trade.refund",
        Operation::QueryRefund(_) => "alipay.trade.fastpay.refund.query",
    })
}

/// Returns the parameters of the operation. The common parameters are added by `signed`.
fn params(account: &Account, operation: &Operation) -> Result<Fields, Error> {
    let mut params = Fields::new();
    let mut put = |name: &str, value: &str| drop(params.insert(name.to_owned(), value.to_owned()));
    put("method", service(operation)?);
    if let Operation::Pay(pay) = operation {
        put("notify_url", url("the notification URL", &pay.notify_url)?);
        if let (Product::Page | Product::Wap, Some(back)) = (Product::of(pay.order.method)?, &pay.return_url) {
            put("return_url", url("`return_url`", back)?);
        }
    }
    put_content(account, &content(account, operation)?, &mut params)?;
    Ok(params)
}

/// Adds a content to the parameters of a form.
pub(super) fn put_content(account: &Account, content: &impl Serialize, params: &mut Fields) -> Result<(), Error> {
    params.insert("biz_content".to_owned(), serialize_content(account, content)?);
    if account.sealer.is_some() {
        params.insert("encrypt_type".to_owned(), "AES".to_owned());
    }
    Ok(())
}

/// Serializes a content: JSON, encrypted if the account uses encryption.
pub(super) fn serialize_content(account: &Account, content: &impl Serialize) -> Result<String, Error> {
    let json = serde_json::to_string(content)
        .map_err(|_| Error::NotSent("the request's content could not be written as JSON".to_owned()))?;
    match &account.sealer {
        None => Ok(json),
        Some(sealer) => {
            sealer.seal(&json).ok_or_else(|| Error::NotSent("the content could not be encrypted".to_owned()))
        }
    }
}

pub(super) fn post(params: &Fields) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(form::write(params)));
    *request.method_mut() = Verb::POST;
    *request.uri_mut() = Uri::from_static("/gateway.do");
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded;charset=utf-8");
    request.headers_mut().insert(CONTENT_TYPE, kind);
    let agent = HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(USER_AGENT, agent);
    request
}

/// `biz_content` for every operation, with the fields in the order of Alipay's documentation.
#[derive(Default, Serialize)]
pub(super) struct Content<'a> {
    out_trade_no: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seller_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scene: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_app_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buyer_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buyer_open_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_buyer_open_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_expire: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quit_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out_request_no: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    query_options: &'static [&'static str],
    /// Only in the v3 protocol; a form has this field beside the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) notify_url: Option<&'a str>,
}

pub(super) fn content<'a>(account: &'a Account, operation: &'a Operation) -> Result<Content<'a>, Error> {
    let base = Content { out_trade_no: &operation.order().number, ..Content::default() };
    match operation {
        Operation::Pay(pay) => create(account, pay, base),
        Operation::Query(_) | Operation::Close(_) => Ok(base),
        Operation::Refund(refund) => refund_content(refund, base),
        Operation::QueryRefund(refund) => {
            Ok(Content { out_request_no: Some(&refund.number), query_options: &["gmt_refund_pay"], ..base })
        }
    }
}

fn create<'a>(account: &'a Account, pay: &'a Pay, base: Content<'a>) -> Result<Content<'a>, Error> {
    if !(1..=256).contains(&pay.description.chars().count()) {
        return Err(unsupported("`description` must have 1 to 256 characters for Alipay"));
    }
    let common = Content {
        total_amount: Some(yuan(pay.order.amount)?),
        to_subject: Some(to_subject(&pay.description)),
        seller_id: account.seller_id.as_deref(),
        time_expire: pay.order.expires_at.map(china_time),
        ..base
    };
    let with_product = |code| Content { product_code: Some(code), ..common };
    Ok(match Product::of(pay.order.method)? {
        Product::Qr => with_product("FACE_TO_FACE_PAYMENT"),
        Product::Barcode => {
            let auth_code = Some(auth_code(pay)?);
            Content { scene: Some("bar_code"), auth_code, ..with_product("FACE_TO_FACE_PAYMENT") }
        }
        Product::Page => with_product("FAST_INSTANT_TRADE_PAY"),
        Product::Wap => {
            let quit_url = pay.return_url.as_deref();
            Content { quit_url, ..with_product("QUICK_WAP_WAY") }
        }
        Product::App => with_product("QUICK_MSECURITY_PAY"),
        Product::Jsapi => buyer(account, pay, with_product("JSAPI_PAY"))?,
    })
}

/// Adds the payer. An openid identifies the payer in one app: in the mini program, or in ours if they are the same.
fn buyer<'a>(account: &'a Account, pay: &'a Pay, common: Content<'a>) -> Result<Content<'a>, Error> {
    let op_app_id = Some(account.op_app_id.as_deref().unwrap_or(&account.app_id));
    let common = Content { op_app_id, ..common };
    let short = |id: &&str| (1..=128).contains(&id.len());
    let openid = pay.payer.openid.as_deref().filter(short);
    match (pay.payer.buyer_id.as_deref().filter(short), openid, &account.op_app_id) {
        (Some(id), _, _) => Ok(Content { buyer_id: Some(id), ..common }),
        (None, Some(id), None) => Ok(Content { buyer_open_id: Some(id), ..common }),
        (None, Some(id), Some(_)) => Ok(Content { op_buyer_open_id: Some(id), ..common }),
        (None, None, _) => Err(unsupported(
            "`payer.buyer_id` (the payer's 2088… number) or `payer.openid` is needed for `alipay.jsapi`",
        )),
    }
}

fn refund_content<'a>(refund: &'a Refund, base: Content<'a>) -> Result<Content<'a>, Error> {
    let reason = refund.reason.as_deref().filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| reason.chars().count() > 256) {
        return Err(unsupported("`reason` must have at most 256 characters for Alipay"));
    }
    let total = refund.order.amount;
    if refund.amount.value > total.value {
        let sentence = format!("`amount.value` must be at most {}, the amount paid", total.value);
        return Err(Error::Unsupported(sentence));
    }
    Ok(Content {
        refund_amount: Some(yuan(refund.amount)?),
        refund_reason: reason.map(replace_controls),
        out_request_no: Some(&refund.number),
        ..base
    })
}

/// Converts a description to a subject. Alipay forbids `/`, `=` and `&`; their full-width forms look the same to the
/// payer.
fn to_subject(description: &str) -> String {
    let full_width = |letter| match letter {
        '/' => '／',
        '=' => '＝',
        '&' => '＆',
        other => other,
    };
    replace_controls(description).chars().map(full_width).collect()
}

/// Replaces line breaks and other control characters by spaces.
fn replace_controls(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn yuan(amount: Money) -> Result<String, Error> {
    if amount.currency != Currency::CNY {
        return Err(unsupported("`amount.currency` must be \"CNY\": Alipay accepts yuan only"));
    }
    if !(1..=MAX_FEN).contains(&amount.value) {
        return Err(Error::Unsupported(format!("`amount.value` must be from 1 to {MAX_FEN} fen for Alipay")));
    }
    Ok(amount.yuan())
}

/// Returns the scanned payment code: 16 to 24 digits that begin with 25 to 30.
fn auth_code(pay: &Pay) -> Result<&str, Error> {
    let is_code = |code: &&str| {
        let begins = code.get(..2).is_some_and(|start| ("25"..="30").contains(&start));
        begins && (16..=24).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_digit())
    };
    let code = pay.payer.auth_code.as_deref().filter(is_code);
    code.ok_or_else(|| {
        unsupported(
            "`payer.auth_code` (the payer's code: 16 to 24 digits, from 25… to 30…) is needed for `alipay.barcode`",
        )
    })
}

pub(super) fn url<'a>(name: &str, url: &'a str) -> Result<&'a str, Error> {
    if (url.starts_with("https://") || url.starts_with("http://")) && url.len() <= 256 {
        return Ok(url);
    }
    Err(Error::Unsupported(format!(
        "{name} must start with http:// or https:// and have at most 256 characters for Alipay"
    )))
}

fn unsupported(sentence: &str) -> Error {
    Error::Unsupported(sentence.to_owned())
}
