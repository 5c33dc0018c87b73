//! Encoding of operations as APIv3 requests. Only documented fields are sent, because WeChat Pay rejects any other.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method as Verb, Request, Uri};
use jiff::Timestamp;
use serde::Serialize;

use super::super::china_time::CHINA;
use super::super::form::escape;
use super::super::wechat_account::{openid, transmittable};
use super::{Account, Product};
use crate::error::Error;
use crate::payment::{Currency, Money, Operation, Pay, Refund};

/// WeChat Pay's maximum order amount: ten billion yuan, in fen. JSON parsers represent it exactly.
const MAX_FEN: u64 = 1_000_000_000_000;

pub(super) fn encode(account: &Account, operation: &Operation) -> Result<Request<Bytes>, Error> {
    match operation {
        Operation::Pay(pay) => create(account, pay),
        Operation::Query(order) => query_uri(account, &order.number).map(get),
        Operation::Close(order) => {
            let path = format!("{}/out-trade-no/{}/close", base_path(account), escape(&order.number));
            post(uri(path)?, &Close { account_ids: MerchantIds::of(account) })
        }
        Operation::Refund(refund) => refund_request(account, refund),
        Operation::QueryRefund(refund) => {
            let account_ids = account.sub_mchid.as_ref().map(|sub| format!("?sub_mchid={}", escape(sub)));
            let number = escape(&refund.number);
            uri(format!("/v3/refund/domestic/refunds/{number}{}", account_ids.unwrap_or_default())).map(get)
        }
    }
}

pub(super) fn query_uri(account: &Account, number: &str) -> Result<Uri, Error> {
    let (mchid, number) = (escape(&account.mchid), escape(number));
    let account_ids = match &account.sub_mchid {
        Some(sub) => format!("sp_mchid={mchid}&sub_mchid={}", escape(sub)),
        None => format!("mchid={mchid}"),
    };
    uri(format!("{}/out-trade-no/{number}?{account_ids}", base_path(account)))
}

/// Returns the base path of orders. Service providers have their own.
pub(super) fn base_path(account: &Account) -> &'static str {
    match account.sub_mchid {
        Some(_) => "/v3/pay/partner/transactions",
        None => "/v3/pay/transactions",
    }
}

/// Builds a request without a body.
pub(super) fn get(uri: Uri) -> Request<Bytes> {
    with_headers(Verb::GET, uri, Bytes::new())
}

fn create(account: &Account, pay: &Pay) -> Result<Request<Bytes>, Error> {
    let order = &pay.order;
    let product = Product::of(order.method).ok_or_else(|| {
        Error::Unsupported(format!("`{}` is not a payment method of WeChat Pay: choose another `method`", order.method))
    })?;
    let body = Create {
        account_ids: Identity::of(account),
        description: description(pay)?,
        out_trade_no: &order.number,
        time_expire: pay.order.expires_at.map(time),
        notify_url: notify_url(&pay.notify_url)?,
        amount: Total { total: fen(order.amount)?, currency: order.amount.currency },
        payer: match product {
            Product::Jsapi => Some(Payer::of(account, openid(pay)?)),
            _ => None,
        },
        scene_info: match product {
            Product::H5 => Some(Scene { payer_client_ip: client_ip(pay)?, h5_info: H5 { kind: "Wap" } }),
            _ => None,
        },
    };
    let product = match product {
        Product::Native => "native",
        Product::Jsapi => "jsapi",
        Product::H5 => "h5",
        Product::App => "app",
    };
    post(uri(format!("{}/{product}", base_path(account)))?, &body)
}

fn refund_request(account: &Account, refund: &Refund) -> Result<Request<Bytes>, Error> {
    let reason = refund.reason.as_deref().filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| reason.chars().count() > 80) {
        return Err(unsupported("`reason` must have at most 80 characters for WeChat Pay"));
    }
    reason.map(|reason| transmittable("reason", reason)).transpose()?;
    let (amount, total) = (fen(refund.amount)?, fen(refund.order.amount)?);
    if amount > total {
        return Err(Error::Unsupported(format!("`amount.value` must be at most {total}, the amount paid")));
    }
    let body = RefundBody {
        sub_mchid: account.sub_mchid.as_deref(),
        out_trade_no: &refund.order.number,
        out_refund_no: &refund.number,
        reason,
        notify_url: notify_url(&refund.notify_url)?,
        amount: RefundTotal { refund: amount, total, currency: refund.amount.currency },
    };
    post(Uri::from_static("/v3/refund/domestic/refunds"), &body)
}

pub(super) fn description(pay: &Pay) -> Result<&str, Error> {
    match pay.description.chars().count() {
        1..=127 => transmittable("description", &pay.description),
        _ => Err(unsupported("`description` must have 1 to 127 characters for WeChat Pay")),
    }
}

pub(super) fn fen(amount: Money) -> Result<u64, Error> {
    if amount.currency != Currency::CNY {
        return Err(unsupported("`amount.currency` must be \"CNY\": WeChat Pay accepts yuan only"));
    }
    if !(1..=MAX_FEN).contains(&amount.value) {
        return Err(Error::Unsupported(format!("`amount.value` must be from 1 to {MAX_FEN} fen for WeChat Pay")));
    }
    Ok(amount.value)
}

fn notify_url(url: &str) -> Result<&str, Error> {
    if !(url.starts_with("https://") || url.starts_with("http://")) || url.contains(['?', '#']) || url.len() > 255 {
        return Err(unsupported(
            "the notification URL must start with http:// or https://, have no `?` or `#` and at most 255 characters, \
             as WeChat Pay requires: change `public_url`",
        ));
    }
    Ok(url)
}

fn client_ip(pay: &Pay) -> Result<&str, Error> {
    let ip = pay.payer.client_ip.as_deref().filter(|ip| ip.parse::<IpAddr>().is_ok());
    ip.ok_or_else(|| unsupported("`payer.client_ip` (the payer's IPv4 or IPv6 address) is needed for `wechat.h5`"))
}

/// Formats a time as RFC 3339 in China time with whole seconds, as in WeChat Pay's own examples.
fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).display_with_offset(CHINA).to_string()
}

fn unsupported(sentence: &str) -> Error {
    Error::Unsupported(sentence.to_owned())
}

pub(super) fn uri(text: String) -> Result<Uri, Error> {
    let path = PathAndQuery::try_from(text);
    path.map(Uri::from).map_err(|_| Error::NotSent("the request's path could not be written".to_owned()))
}

pub(super) fn post(uri: Uri, body: &impl Serialize) -> Result<Request<Bytes>, Error> {
    let body = serde_json::to_vec(body)
        .map_err(|_| Error::NotSent("the request's body could not be written as JSON".to_owned()))?;
    Ok(with_headers(Verb::POST, uri, body.into()))
}

fn with_headers(verb: Verb, uri: Uri, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = verb;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
    request
}

#[derive(Serialize)]
struct Create<'a> {
    #[serde(flatten)]
    account_ids: Identity<'a>,
    description: &'a str,
    out_trade_no: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_expire: Option<String>,
    notify_url: &'a str,
    amount: Total,
    #[serde(skip_serializing_if = "Option::is_none")]
    payer: Option<Payer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scene_info: Option<Scene<'a>>,
}

#[derive(Serialize)]
pub(super) struct Total {
    pub(super) total: u64,
    pub(super) currency: Currency,
}

/// Ids of the account, with the field names of the base path.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Identity<'a> {
    Merchant {
        appid: &'a str,
        mchid: &'a str,
    },
    Partner {
        sp_appid: &'a str,
        sp_mchid: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        sub_appid: Option<&'a str>,
        sub_mchid: &'a str,
    },
}

impl<'a> Identity<'a> {
    pub(super) fn of(account: &'a Account) -> Self {
        match &account.sub_mchid {
            None => Self::Merchant { appid: &account.appid, mchid: &account.mchid },
            Some(sub_mchid) => Self::Partner {
                sp_appid: &account.appid,
                sp_mchid: &account.mchid,
                sub_appid: account.sub_appid.as_deref(),
                sub_mchid,
            },
        }
    }
}

/// Ids of the account without the apps.
#[derive(Serialize)]
#[serde(untagged)]
enum MerchantIds<'a> {
    Merchant { mchid: &'a str },
    Partner { sp_mchid: &'a str, sub_mchid: &'a str },
}

impl<'a> MerchantIds<'a> {
    fn of(account: &'a Account) -> Self {
        match &account.sub_mchid {
            None => Self::Merchant { mchid: &account.mchid },
            Some(sub_mchid) => Self::Partner { sp_mchid: &account.mchid, sub_mchid },
        }
    }
}

/// Payer's openid, with the field name for the app that it belongs to.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Payer<'a> {
    Openid(&'a str),
    SpOpenid(&'a str),
    SubOpenid(&'a str),
}

impl<'a> Payer<'a> {
    fn of(account: &Account, openid: &'a str) -> Self {
        match (&account.sub_mchid, &account.sub_appid) {
            (None, _) => Self::Openid(openid),
            (Some(_), None) => Self::SpOpenid(openid),
            (Some(_), Some(_)) => Self::SubOpenid(openid),
        }
    }
}

#[derive(Serialize)]
struct Scene<'a> {
    payer_client_ip: &'a str,
    h5_info: H5,
}

#[derive(Serialize)]
struct H5 {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Close<'a> {
    #[serde(flatten)]
    account_ids: MerchantIds<'a>,
}

#[derive(Serialize)]
struct RefundBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_mchid: Option<&'a str>,
    out_trade_no: &'a str,
    out_refund_no: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    notify_url: &'a str,
    amount: RefundTotal,
}

#[derive(Serialize)]
struct RefundTotal {
    refund: u64,
    total: u64,
    currency: Currency,
}
