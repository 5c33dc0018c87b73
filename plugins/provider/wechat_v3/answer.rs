//! Verified answers in our words. What does not agree with the order is never accepted.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use super::super::Signing;
use super::super::form::escape;
use super::super::text::Text;
use super::{Account, Product};
use crate::error::Error;
use crate::payment::{Currency, Money, NextAction, Operation, Order, Outcome, Pay, Refund, Status};
use crate::signer::Signer;

pub(super) fn decode(
    account: &Account,
    operation: &Operation,
    status: StatusCode,
    body: &[u8],
    with: Signing<'_>,
) -> Result<Outcome, Error> {
    match operation {
        Operation::Pay(pay) => {
            let action = action(account, pay, &read(body)?, with)?;
            Ok(Outcome { action: Some(action), ..Outcome::of(Status::Pending) })
        }
        Operation::Query(order) => queried(account, order, &read(body)?),
        Operation::Close(_) if status == StatusCode::NO_CONTENT => Ok(Outcome::of(Status::Closed)),
        Operation::Close(_) => Err(Error::unclear(format!("it answered HTTP {} to a close", status.as_u16()))),
        Operation::Refund(refund) | Operation::QueryRefund(refund) => refunded(refund, &read(body)?),
    }
}

/// Reads JSON; an error does not repeat what was read.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    let unknown = || Error::unclear("its answer is signed but has an unknown form");
    // Whether it is UTF-8 is looked at once, and not for each text in it.
    let body = std::str::from_utf8(body).map_err(|_| unknown())?;
    serde_json::from_str(body).map_err(|_| unknown())
}

/// Refuses what is about somebody else's account, order or refund.
pub(super) fn same(name: &str, theirs: &str, ours: &str) -> Result<(), Error> {
    if theirs == ours { Ok(()) } else { Err(Error::Mismatch(format!("it names another `{name}`"))) }
}

/// The same where it must be there.
pub(super) fn named(name: &str, theirs: Option<&str>, ours: &str) -> Result<(), Error> {
    same(name, theirs.ok_or_else(|| Error::unclear(format!("it names no `{name}`")))?, ours)
}

#[derive(Deserialize)]
struct Created {
    code_url: Option<String>,
    prepay_id: Option<String>,
    h5_url: Option<String>,
}

fn action(account: &Account, pay: &Pay, created: &Created, with: Signing<'_>) -> Result<NextAction, Error> {
    let Signing { signer, stamp, .. } = with;
    let (appid, nonce, time) = (account.payers_appid(), stamp.nonce.as_str(), stamp.unix_time.to_string());
    match Product::of(pay.order.method).ok_or_else(|| Error::unclear("the order's method is none of WeChat Pay's"))? {
        Product::Native => Ok(NextAction::Qr { data: given("code_url", &created.code_url)?.to_owned() }),
        Product::H5 => {
            Ok(NextAction::Redirect { url: h5_url(given("h5_url", &created.h5_url)?, pay.return_url.as_deref()) })
        }
        Product::Jsapi => {
            let package = format!("prepay_id={}", given("prepay_id", &created.prepay_id)?);
            let sign = signed(signer, [appid, &time, nonce, &package])?;
            Ok(NextAction::Jsapi {
                params: params([
                    ("appId", appid),
                    ("timeStamp", &time),
                    ("nonceStr", nonce),
                    ("package", &package),
                    ("signType", "RSA"),
                    ("paySign", &sign),
                ]),
            })
        }
        Product::App => {
            let prepay_id = given("prepay_id", &created.prepay_id)?;
            let sign = signed(signer, [appid, &time, nonce, prepay_id])?;
            Ok(NextAction::App {
                params: params([
                    ("appid", appid),
                    ("partnerid", account.payee()),
                    ("prepayid", prepay_id),
                    ("package", "Sign=WXPay"),
                    ("noncestr", nonce),
                    ("timestamp", &time),
                    ("sign", &sign),
                ]),
            })
        }
    }
}

fn given<'a>(name: &str, value: &'a Option<String>) -> Result<&'a str, Error> {
    let value = value.as_deref().filter(|value| !value.is_empty());
    value.ok_or_else(|| Error::unclear(format!("its answer is signed but has no `{name}`")))
}

fn h5_url(url: &str, return_url: Option<&str>) -> String {
    let Some(back) = return_url else { return url.to_owned() };
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}redirect_url={}", escape(back))
}

/// What the payer's device hands to WeChat: four lines, signed by the merchant. By now the order exists, so a signer
/// that fails must not be taken for a request that was not sent.
fn signed(signer: &dyn Signer, lines: [&str; 4]) -> Result<String, Error> {
    let text = lines.map(|line| format!("{line}\n")).concat();
    let signature = signer.sign(text.as_bytes());
    signature
        .map(|signature| STANDARD.encode(signature))
        .map_err(|_| Error::unclear("the order was made, but the payer's parameters could not be signed"))
}

fn params<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// An order as answers and notifications tell it.
#[derive(Deserialize)]
pub(super) struct OrderNews<'a> {
    #[serde(borrow)]
    appid: Option<Text<'a>>,
    #[serde(borrow)]
    mchid: Option<Text<'a>>,
    #[serde(borrow)]
    sp_appid: Option<Text<'a>>,
    #[serde(borrow)]
    sp_mchid: Option<Text<'a>>,
    #[serde(borrow)]
    sub_appid: Option<Text<'a>>,
    #[serde(borrow)]
    sub_mchid: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) out_trade_no: Text<'a>,
    #[serde(borrow)]
    pub(super) transaction_id: Option<Text<'a>>,
    #[serde(borrow)]
    trade_state: Text<'a>,
    #[serde(borrow)]
    success_time: Option<Text<'a>>,
    #[serde(borrow)]
    amount: Option<OrderAmount<'a>>,
}

#[derive(Deserialize)]
struct OrderAmount<'a> {
    total: Option<u64>,
    #[serde(borrow)]
    currency: Option<Text<'a>>,
}

impl OrderNews<'_> {
    /// Refuses what is another account's. A service provider's orders name both sides.
    pub(super) fn is_ours(&self, account: &Account) -> Result<(), Error> {
        let Some(sub_mchid) = &account.sub_mchid else {
            named("mchid", self.mchid.as_deref(), &account.mchid)?;
            return named("appid", self.appid.as_deref(), &account.appid);
        };
        named("sp_mchid", self.sp_mchid.as_deref(), &account.mchid)?;
        named("sp_appid", self.sp_appid.as_deref(), &account.appid)?;
        named("sub_mchid", self.sub_mchid.as_deref(), sub_mchid)?;
        match (&account.sub_appid, &self.sub_appid) {
            (Some(ours), Some(theirs)) => same("sub_appid", theirs, ours),
            _ => Ok(()),
        }
    }

    /// Whether the payment failed in WeChat Pay's word. The payer of a scanned code may have been charged all the same.
    pub(super) fn is_pay_error(&self) -> bool {
        &*self.trade_state == "PAYERROR"
    }

    /// What became of it. `REFUND` means that it was paid and that some refund was asked for since.
    pub(super) fn outcome(&self, account: &Account) -> Result<Outcome, Error> {
        self.is_ours(account)?;
        let status = match &*self.trade_state {
            "SUCCESS" | "REFUND" => Status::Succeeded,
            "NOTPAY" | "USERPAYING" | "ACCEPT" => Status::Pending,
            "CLOSED" | "REVOKED" => Status::Closed,
            "PAYERROR" => Status::Failed,
            _ => return Err(Error::unclear("its `trade_state` is none that is known")),
        };
        let named = self.amount.as_ref().and_then(|amount| Some((amount.total?, amount.currency.as_deref())));
        let amount = named.map(|(total, currency)| money(total, currency)).transpose()?;
        if status == Status::Succeeded && amount.is_none() {
            return Err(Error::unclear("it says that the order is paid but not how much"));
        }
        Ok(Outcome {
            provider_id: self.transaction_id.as_deref().map(str::to_owned),
            amount,
            at: at(self.success_time.as_deref()),
            ..Outcome::of(status)
        })
    }
}

pub(super) fn queried(account: &Account, order: &Order, news: &OrderNews<'_>) -> Result<Outcome, Error> {
    let outcome = news.outcome(account)?;
    same("out_trade_no", &news.out_trade_no, &order.number)?;
    if let Some(amount) = outcome.amount {
        equal("amount.total", amount, order.amount)?;
    }
    if news.is_pay_error() && order.method.is_scanned() {
        return Ok(Outcome { status: Status::Pending, needs_reversal: true, ..outcome });
    }
    Ok(outcome)
}

#[derive(Deserialize)]
struct RefundNews {
    refund_id: Option<String>,
    out_refund_no: String,
    out_trade_no: String,
    status: String,
    success_time: Option<String>,
    amount: RefundAmount,
}

#[derive(Deserialize)]
pub(super) struct RefundAmount {
    refund: u64,
    total: u64,
    currency: Option<String>,
}

impl RefundAmount {
    pub(super) fn refund(&self) -> Result<Money, Error> {
        money(self.refund, self.currency.as_deref())
    }
}

fn refunded(refund: &Refund, news: &RefundNews) -> Result<Outcome, Error> {
    same("out_refund_no", &news.out_refund_no, &refund.number)?;
    same("out_trade_no", &news.out_trade_no, &refund.order.number)?;
    equal("amount.total", money(news.amount.total, news.amount.currency.as_deref())?, refund.order.amount)?;
    let amount = news.amount.refund()?;
    equal("amount.refund", amount, refund.amount)?;
    Ok(Outcome {
        provider_id: news.refund_id.clone(),
        amount: Some(amount),
        at: at(news.success_time.as_deref()),
        needs_person: stuck(&news.status),
        ..Outcome::of(refund_status(&news.status)?)
    })
}

/// `ABNORMAL` is not final: the payer's card did not take the money, and a person must say where it goes instead.
pub(super) fn refund_status(status: &str) -> Result<Status, Error> {
    match status {
        "PROCESSING" | "ABNORMAL" => Ok(Status::Pending),
        "SUCCESS" => Ok(Status::Succeeded),
        "CLOSED" => Ok(Status::Failed),
        _ => Err(Error::unclear("the refund's status is none that is known")),
    }
}

/// What a person must do about a refund in this status.
pub(super) fn stuck(status: &str) -> Option<String> {
    let advice =
        "the payer's card did not take the refund (ABNORMAL); say in the merchant console where it goes instead";
    (status == "ABNORMAL").then(|| advice.to_owned())
}

/// Where no currency is named it is the yuan, the only one that direct merchants are paid in.
fn money(value: u64, currency: Option<&str>) -> Result<Money, Error> {
    let currency = currency.map_or(Some(Currency::CNY), Currency::parse);
    currency
        .map(|currency| Money { value, currency })
        .ok_or_else(|| Error::Mismatch("it names no known currency".to_owned()))
}

fn equal(name: &str, theirs: Money, ours: Money) -> Result<(), Error> {
    if theirs == ours { Ok(()) } else { Err(Error::Mismatch(format!("`{name}` is {theirs}, the order says {ours}"))) }
}

/// A time that cannot be read is left out: it does not change what became of the money.
pub(super) fn at(time: Option<&str>) -> Option<Timestamp> {
    time?.parse().ok()
}
