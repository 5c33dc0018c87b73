//! Operations in Alipay's words: a form whose `biz_content` is JSON.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use jiff::Timestamp;
use serde::Serialize;

use super::super::form::{self, Fields};
use super::super::{Signing, beijing};
use super::{Account, Product};
use crate::error::Error;
use crate::payment::{Currency, Money, Operation, Order, Pay, Refund};

/// The one path of this protocol.
pub(super) const PATH: &str = "/gateway.do";

/// A hundred million yuan: no order is larger.
const MAX_FEN: u64 = 10_000_000_000;

/// The whole form but its signature.
pub(super) fn fields(account: &Account, operation: &Operation, with: Signing<'_>) -> Result<Fields, Error> {
    let product = Product::of(operation.order().method)?;
    let mut more = Fields::new();
    let (method, content) = match operation {
        Operation::Pay(pay) => {
            put(&mut more, "notify_url", &pay.notify_url);
            if let (Product::Page | Product::Wap, Some(url)) = (product, &pay.return_url) {
                put(&mut more, "return_url", url);
            }
            (product.method(), json(&BizPay::of(account, product, pay)?)?)
        }
        Operation::Query(order) => ("alipay.trade.query", json(&Named::of(order))?),
        Operation::Close(order) if order.method.is_scanned() => ("alipay.trade.cancel", json(&Named::of(order))?),
        Operation::Close(order) => ("alipay.trade.close", json(&Named::of(order))?),
        Operation::Refund(refund) => {
            put(&mut more, "notify_url", &refund.notify_url);
            ("alipay.trade.refund", json(&BizRefund::of(refund)?)?)
        }
        Operation::QueryRefund(refund) => {
            let question = BizRefundQuery {
                out_trade_no: &refund.order.number,
                out_request_no: &refund.number,
                query_options: ["gmt_refund_pay"],
            };
            ("alipay.trade.fastpay.refund.query", json(&question)?)
        }
    };
    let now = Timestamp::from_second(with.stamp.unix_time.cast_signed()).unwrap_or_default();
    for (name, value) in [
        ("app_id", account.app_id.as_str()),
        ("method", method),
        ("format", "JSON"),
        ("charset", "utf-8"),
        ("sign_type", "RSA2"),
        ("timestamp", &in_china(now)),
        ("version", "1.0"),
        ("biz_content", &content),
    ] {
        put(&mut more, name, value);
    }
    if let Some(token) = &account.app_auth_token {
        put(&mut more, "app_auth_token", token);
    }
    if let Some((app, root)) = &account.certificates {
        put(&mut more, "app_cert_sn", app);
        put(&mut more, "alipay_root_cert_sn", root);
    }
    Ok(more)
}

/// The request that carries the form.
pub(super) fn post(fields: &Fields) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(form::encode(fields)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(PATH);
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded;charset=utf-8");
    request.headers_mut().insert(CONTENT_TYPE, kind);
    request
}

fn put(fields: &mut Fields, name: &str, value: &str) {
    fields.insert(name.to_owned(), value.to_owned());
}

fn json(content: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(content)
        .map_err(|error| Error::Unfit(format!("the order cannot be written as JSON: {error}")))
}

fn in_china(time: Timestamp) -> String {
    beijing::write(time, beijing::SPACED)
}

/// Yuan with two decimals.
fn yuan(money: Money) -> Result<String, Error> {
    if money.currency != Currency::CNY {
        return Err(Error::Unfit(format!("this channel takes CNY only, not {}", money.currency)));
    }
    match money.value {
        1..=MAX_FEN => Ok(money.decimal()),
        _ => Err(Error::Unfit("Alipay takes from 0.01 to 100,000,000 yuan".to_owned())),
    }
}

#[derive(Serialize)]
struct Named<'a> {
    out_trade_no: &'a str,
}

impl<'a> Named<'a> {
    fn of(order: &'a Order) -> Self {
        Self { out_trade_no: &order.number }
    }
}

#[derive(Default, Serialize)]
struct BizPay<'a> {
    out_trade_no: &'a str,
    total_amount: String,
    subject: &'a str,
    product_code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seller_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_expire: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scene: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buyer_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buyer_open_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_app_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quit_url: Option<&'a str>,
}

impl<'a> BizPay<'a> {
    fn of(account: &'a Account, product: Product, pay: &'a Pay) -> Result<Self, Error> {
        if pay.description.chars().count() > 256 {
            return Err(Error::Unfit("Alipay takes a `description` of at most 256 characters".to_owned()));
        }
        let mut content = Self {
            out_trade_no: &pay.order.number,
            total_amount: yuan(pay.order.amount)?,
            subject: &pay.description,
            product_code: product.code(),
            seller_id: account.seller_id.as_deref(),
            time_expire: pay.expires_at.map(in_china),
            ..Self::default()
        };
        match product {
            Product::Barcode => {
                let code = pay.payer.auth_code.as_deref().filter(|code| is_auth_code(code));
                let unfit = || "alipay.barcode needs `payer.auth_code`: the 16 to 24 digits that the till scanned, beginning with 25 to 30";
                content.auth_code = Some(code.ok_or_else(|| Error::Unfit(unfit().to_owned()))?);
                content.scene = Some("bar_code");
            }
            Product::Jsapi => {
                content.buyer_id = pay.payer.buyer_id.as_deref();
                content.buyer_open_id = pay.payer.openid.as_deref().filter(|_| content.buyer_id.is_none());
                content.op_app_id = Some(&account.app_id);
                if content.buyer_id.or(content.buyer_open_id).is_none() {
                    let unfit =
                        "alipay.jsapi needs `payer.buyer_id` (2088…) or `payer.openid`: who opened the mini program";
                    return Err(Error::Unfit(unfit.to_owned()));
                }
            }
            Product::Wap => content.quit_url = pay.return_url.as_deref(),
            Product::Qr | Product::Page | Product::App => {}
        }
        Ok(content)
    }
}

fn is_auth_code(code: &str) -> bool {
    let is_known_start = code.get(..2).is_some_and(|start| ("25"..="30").contains(&start));
    (16..=24).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_digit()) && is_known_start
}

#[derive(Serialize)]
struct BizRefund<'a> {
    out_trade_no: &'a str,
    refund_amount: String,
    out_request_no: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_reason: Option<&'a str>,
}

impl<'a> BizRefund<'a> {
    fn of(refund: &'a Refund) -> Result<Self, Error> {
        let reason = refund.reason.as_deref();
        if reason.is_some_and(|reason| reason.chars().count() > 256) {
            return Err(Error::Unfit("Alipay takes a `reason` of at most 256 characters".to_owned()));
        }
        Ok(Self {
            out_trade_no: &refund.order.number,
            refund_amount: yuan(refund.amount)?,
            out_request_no: &refund.number,
            refund_reason: reason,
        })
    }
}

#[derive(Serialize)]
struct BizRefundQuery<'a> {
    out_trade_no: &'a str,
    out_request_no: &'a str,
    query_options: [&'static str; 1],
}
