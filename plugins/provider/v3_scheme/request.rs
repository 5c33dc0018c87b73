//! Encoding of operations as requests. Only documented fields are sent, because the providers reject any other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method as Verb, Request, Uri};
use jiff::Timestamp;
use serde::Serialize;

use super::super::china_time::CHINA;
use super::super::form::escape;
use super::super::merchant_account::{Account, openid, transmittable};
use super::{Product, V3Account, V3Scheme};
use crate::error::Error;
use crate::payment::{Currency, Money, Operation, Pay, Refund};

/// Maximum order amount: ten billion yuan, in fen. JSON parsers represent it exactly.
const MAX_FEN: u64 = 1_000_000_000_000;

impl V3Account {
    /// Encodes the operation.
    pub(in super::super) fn encode_operation(&self, operation: &Operation) -> Result<Request<Bytes>, Error> {
        match operation {
            Operation::Pay(pay) => self.create(pay),
            Operation::Query(order) => self.query_uri(&order.number).map(get),
            Operation::Close(order) => {
                let path = format!("{}/out-trade-no/{}/close", self.base_path(), escape(&order.number));
                post(uri(path)?, &Close { account_ids: MerchantIds::of(&self.ids) })
            }
            Operation::Refund(refund) => self.refund(refund),
            Operation::QueryRefund(refund) => {
                let account_ids = self.refund_ids().map(|(name, id)| format!("?{name}={}", escape(id)));
                let (path, number) = (self.scheme.paths.refunds, escape(&refund.number));
                uri(format!("{path}/{number}{}", account_ids.unwrap_or_default())).map(get)
            }
        }
    }

    fn query_uri(&self, number: &str) -> Result<Uri, Error> {
        let (mchid, number) = (escape(&self.ids.mchid), escape(number));
        let account_ids = match &self.ids.sub_mchid {
            Some(sub) => format!("sp_mchid={mchid}&sub_mchid={}", escape(sub)),
            None => format!("mchid={mchid}"),
        };
        uri(format!("{}/out-trade-no/{number}?{account_ids}", self.base_path()))
    }

    /// Returns the base path of orders. Service providers have their own.
    pub(in super::super) fn base_path(&self) -> &'static str {
        match self.ids.sub_mchid {
            Some(_) => self.scheme.paths.partner_transactions,
            None => self.scheme.paths.transactions,
        }
    }

    /// Returns the id that requests about refunds contain, with the name of its field.
    fn refund_ids(&self) -> Option<(&'static str, &str)> {
        match &self.ids.sub_mchid {
            Some(sub) => Some(("sub_mchid", sub)),
            None => self.scheme.has_mchid_in_refunds.then_some(("mchid", &self.ids.mchid)),
        }
    }

    fn create(&self, pay: &Pay) -> Result<Request<Bytes>, Error> {
        let (order, scheme) = (&pay.order, self.scheme);
        let product = scheme.product(order.method).ok_or_else(|| {
            let (method, company) = (order.method, scheme.company);
            Error::Unsupported(format!("`{method}` is not a payment method of {company}: choose another `method`"))
        })?;
        let body = Create {
            account_ids: Identity::of(&self.ids),
            description: scheme.description(pay)?,
            out_trade_no: &order.number,
            time_expire: pay.order.expires_at.map(time),
            notify_url: scheme.notify_url(&pay.notify_url)?,
            amount: Total { total: scheme.fen(order.amount)?, currency: order.amount.currency },
            payer: match product {
                Product::Jsapi => Some(Payer::of(&self.ids, openid(pay)?)),
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
        post(uri(format!("{}/{product}", self.base_path()))?, &body)
    }

    fn refund(&self, refund: &Refund) -> Result<Request<Bytes>, Error> {
        let scheme = self.scheme;
        let reason = refund.reason.as_deref().filter(|reason| !reason.is_empty());
        if reason.is_some_and(|reason| reason.chars().count() > 80) {
            return Err(unsupported(format!("`reason` must have at most 80 characters for {}", scheme.company)));
        }
        reason.map(|reason| transmittable(scheme.company, "reason", reason)).transpose()?;
        let (amount, total) = (scheme.fen(refund.amount)?, scheme.fen(refund.order.amount)?);
        if amount > total {
            return Err(unsupported(format!("`amount.value` must be at most {total}, the amount paid")));
        }
        let body = RefundBody {
            account_id: self.refund_ids().into_iter().collect(),
            out_trade_no: &refund.order.number,
            out_refund_no: &refund.number,
            reason,
            notify_url: scheme.notify_url(&refund.notify_url)?,
            amount: RefundTotal { refund: amount, total, currency: refund.amount.currency },
        };
        post(Uri::from_static(scheme.paths.refunds), &body)
    }
}

impl V3Scheme {
    /// Returns the description if the provider accepts it.
    pub(in super::super) fn description<'a>(&self, pay: &'a Pay) -> Result<&'a str, Error> {
        match pay.description.chars().count() {
            1..=127 => transmittable(self.company, "description", &pay.description),
            _ => Err(unsupported(format!("`description` must have 1 to 127 characters for {}", self.company))),
        }
    }

    /// Returns the amount in fen if the provider accepts it.
    pub(in super::super) fn fen(&self, amount: Money) -> Result<u64, Error> {
        let company = self.company;
        if amount.currency != Currency::CNY {
            return Err(unsupported(format!("`amount.currency` must be \"CNY\": {company} accepts yuan only")));
        }
        if !(1..=MAX_FEN).contains(&amount.value) {
            return Err(unsupported(format!("`amount.value` must be from 1 to {MAX_FEN} fen for {company}")));
        }
        Ok(amount.value)
    }

    fn notify_url<'a>(&self, url: &'a str) -> Result<&'a str, Error> {
        if !(url.starts_with("https://") || url.starts_with("http://")) || url.contains(['?', '#']) || url.len() > 255 {
            return Err(unsupported(format!(
                "the notification URL must start with http:// or https://, have no `?` or `#` and at most 255 characters, \
                 as {} requires: change `public_url`",
                self.company
            )));
        }
        Ok(url)
    }
}

fn client_ip(pay: &Pay) -> Result<&str, Error> {
    let ip = pay.payer.client_ip.as_deref().filter(|ip| ip.parse::<IpAddr>().is_ok());
    ip.ok_or_else(|| {
        let method = pay.order.method;
        unsupported(format!("`payer.client_ip` (the payer's IPv4 or IPv6 address) is needed for `{method}`"))
    })
}

/// Formats a time as RFC 3339 in China time with whole seconds, as in WeChat Pay's own examples.
fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).display_with_offset(CHINA).to_string()
}

fn unsupported(sentence: String) -> Error {
    Error::Unsupported(sentence)
}

/// Builds a request without a body.
pub(in super::super) fn get(uri: Uri) -> Request<Bytes> {
    with_headers(Verb::GET, uri, Bytes::new())
}

pub(in super::super) fn uri(text: String) -> Result<Uri, Error> {
    let path = PathAndQuery::try_from(text);
    path.map(Uri::from).map_err(|_| Error::NotSent("the request's path could not be written".to_owned()))
}

pub(in super::super) fn post(uri: Uri, body: &impl Serialize) -> Result<Request<Bytes>, Error> {
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
pub(in super::super) struct Total {
    pub(in super::super) total: u64,
    pub(in super::super) currency: Currency,
}

/// Ids of the account, with the field names of the base path.
#[derive(Serialize)]
#[serde(untagged)]
pub(in super::super) enum Identity<'a> {
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
    pub(in super::super) fn of(account: &'a Account) -> Self {
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
    #[serde(flatten)]
    account_id: BTreeMap<&'static str, &'a str>,
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
