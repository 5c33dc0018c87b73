//! Decoding of verified answers. An answer that does not match the order is rejected.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use super::super::Signing;
use super::super::form::escape;
use super::super::merchant_account::Account;
use super::super::text::Text;
use super::{Product, V3Account};
use crate::error::Error;
use crate::payment::{Currency, Money, NextAction, Operation, Order, Outcome, Pay, Refund, Status};
use crate::signer::Signer;

impl V3Account {
    /// Decodes a verified answer with a 2xx status.
    pub(in super::super) fn decode_answer(
        &self,
        operation: &Operation,
        status: StatusCode,
        body: &[u8],
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        match operation {
            Operation::Pay(pay) => {
                let action = self.action(pay, &read(body)?, with)?;
                Ok(Outcome { action: Some(action), ..Outcome::of(Status::Pending) })
            }
            Operation::Query(order) => queried(&self.ids, order, &read(body)?),
            Operation::Close(_) if status == StatusCode::NO_CONTENT => Ok(Outcome::of(Status::Closed)),
            Operation::Close(_) => Err(Error::unclear(format!("HTTP {} answer to a close", status.as_u16()))),
            Operation::Refund(refund) | Operation::QueryRefund(refund) => refunded(refund, &read(body)?),
        }
    }

    fn action(&self, pay: &Pay, created: &Created, with: Signing<'_>) -> Result<NextAction, Error> {
        let Signing { signer, stamp, .. } = with;
        let (appid, nonce, time) = (self.ids.payers_appid(), stamp.nonce.as_str(), stamp.unix_time.to_string());
        let foreign = || Error::unclear(format!("the order's method is not a method of {}", self.scheme.company));
        match self.scheme.product(pay.order.method).ok_or_else(foreign)? {
            Product::Native => Ok(NextAction::Qr { data: required("code_url", &created.code_url)?.to_owned() }),
            Product::H5 => Ok(NextAction::Redirect {
                url: h5_url(required("h5_url", &created.h5_url)?, pay.return_url.as_deref()),
            }),
            Product::Jsapi => {
                let package = format!("prepay_id={}", required("prepay_id", &created.prepay_id)?);
                let sign = sign_lines(signer, [appid, &time, nonce, &package])?;
                Ok(NextAction::Jsapi {
                    params: params([
                        ("appId", appid),
                        ("timeStamp", &time),
                        ("nonceStr", nonce),
                        ("package", &package),
                        ("signType", self.scheme.jsapi_sign_type),
                        ("paySign", &sign),
                    ]),
                })
            }
            Product::App => {
                let prepay_id = required("prepay_id", &created.prepay_id)?;
                let sign = sign_lines(signer, [appid, &time, nonce, prepay_id])?;
                Ok(NextAction::App {
                    params: params([
                        ("appid", appid),
                        ("partnerid", self.ids.payee()),
                        ("prepayid", prepay_id),
                        ("package", self.scheme.app_package),
                        ("noncestr", nonce),
                        ("timestamp", &time),
                        ("sign", &sign),
                    ]),
                })
            }
        }
    }
}

/// Parses JSON. Errors do not repeat the content.
pub(in super::super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    let unknown = || Error::unclear("the signed answer has an unknown format");
    // UTF-8 is validated once here instead of for each string.
    let body = std::str::from_utf8(body).map_err(|_| unknown())?;
    serde_json::from_str(body).map_err(|_| unknown())
}

/// Rejects a message about another account, order or refund.
pub(super) fn same(name: &str, theirs: &str, ours: &str) -> Result<(), Error> {
    if theirs == ours { Ok(()) } else { Err(Error::Mismatch(format!("`{name}` does not match"))) }
}

/// Rejects a different or missing value.
pub(super) fn required_same(name: &str, theirs: Option<&str>, ours: &str) -> Result<(), Error> {
    same(name, theirs.ok_or_else(|| Error::unclear(format!("`{name}` is missing")))?, ours)
}

#[derive(Deserialize)]
struct Created {
    code_url: Option<String>,
    prepay_id: Option<String>,
    h5_url: Option<String>,
}

fn required<'a>(name: &str, value: &'a Option<String>) -> Result<&'a str, Error> {
    let value = value.as_deref().filter(|value| !value.is_empty());
    value.ok_or_else(|| Error::unclear(format!("the signed answer has no `{name}`")))
}

fn h5_url(url: &str, return_url: Option<&str>) -> String {
    let Some(back) = return_url else { return url.to_owned() };
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}redirect_url={}", escape(back))
}

/// Signs the parameters that the payer's device passes to the provider: four lines.
///
/// The order exists at this point. So a failing signer is [`Error::Unclear`], not a request that was not sent.
fn sign_lines(signer: &dyn Signer, lines: [&str; 4]) -> Result<String, Error> {
    let text = lines.map(|line| format!("{line}\n")).concat();
    let signature = signer.sign(text.as_bytes());
    signature
        .map(|signature| STANDARD.encode(signature))
        .map_err(|_| Error::unclear("the order was created, but the payer's parameters could not be signed"))
}

fn params<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// State of an order, as in answers and notifications.
#[derive(Deserialize)]
pub(in super::super) struct OrderState<'a> {
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

impl OrderState<'_> {
    /// Rejects an order of another account. A service provider's orders contain the ids of both sides.
    pub(super) fn check_account(&self, account: &Account) -> Result<(), Error> {
        let Some(sub_mchid) = &account.sub_mchid else {
            required_same("mchid", self.mchid.as_deref(), &account.mchid)?;
            return required_same("appid", self.appid.as_deref(), &account.appid);
        };
        required_same("sp_mchid", self.sp_mchid.as_deref(), &account.mchid)?;
        required_same("sp_appid", self.sp_appid.as_deref(), &account.appid)?;
        required_same("sub_mchid", self.sub_mchid.as_deref(), sub_mchid)?;
        match (&account.sub_appid, &self.sub_appid) {
            (Some(ours), Some(theirs)) => same("sub_appid", theirs, ours),
            _ => Ok(()),
        }
    }

    /// Returns whether the provider reports that the payment failed. The payer of a scanned code may have been charged
    /// nevertheless.
    pub(super) fn is_pay_error(&self) -> bool {
        &*self.trade_state == "PAYERROR"
    }

    /// Returns the outcome of the order. `REFUND` means that the order was paid and that a refund was requested since.
    pub(super) fn outcome(&self, account: &Account) -> Result<Outcome, Error> {
        self.check_account(account)?;
        let status = match &*self.trade_state {
            "SUCCESS" | "REFUND" => Status::Succeeded,
            "NOTPAY" | "USERPAYING" | "ACCEPT" => Status::Pending,
            "CLOSED" | "REVOKED" => Status::Closed,
            "PAYERROR" => Status::Failed,
            _ => return Err(Error::unclear("unknown `trade_state`")),
        };
        let required_same = self.amount.as_ref().and_then(|amount| Some((amount.total?, amount.currency.as_deref())));
        let amount = required_same.map(|(total, currency)| money(total, currency)).transpose()?;
        if status == Status::Succeeded && amount.is_none() {
            return Err(Error::unclear("the answer says that the order is paid, but has no amount"));
        }
        Ok(Outcome {
            provider_id: self.transaction_id.as_deref().map(str::to_owned),
            amount,
            at: at(self.success_time.as_deref()),
            ..Outcome::of(status)
        })
    }
}

pub(in super::super) fn queried(account: &Account, order: &Order, state: &OrderState<'_>) -> Result<Outcome, Error> {
    let outcome = state.outcome(account)?;
    same("out_trade_no", &state.out_trade_no, &order.number)?;
    if let Some(amount) = outcome.amount {
        equal("amount.total", amount, order.amount)?;
    }
    if state.is_pay_error() && order.method.is_scanned() {
        return Ok(Outcome { status: Status::Pending, needs_reversal: true, ..outcome });
    }
    Ok(outcome)
}

#[derive(Deserialize)]
struct RefundState {
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

fn refunded(refund: &Refund, state: &RefundState) -> Result<Outcome, Error> {
    same("out_refund_no", &state.out_refund_no, &refund.number)?;
    same("out_trade_no", &state.out_trade_no, &refund.order.number)?;
    equal("amount.total", money(state.amount.total, state.amount.currency.as_deref())?, refund.order.amount)?;
    let amount = state.amount.refund()?;
    if !refund.may_have(amount) {
        equal("amount.refund", amount, refund.amount)?;
    }
    Ok(Outcome {
        provider_id: state.refund_id.clone(),
        amount: Some(amount),
        at: at(state.success_time.as_deref()),
        needs_review: review_advice(&state.status),
        ..Outcome::of(refund_status(&state.status)?)
    })
}

/// Converts the status of a refund. `ABNORMAL` is not final: the payer's card did not accept the money, and an operator
/// must redirect it.
pub(super) fn refund_status(status: &str) -> Result<Status, Error> {
    match status {
        "PROCESSING" | "ABNORMAL" => Ok(Status::Pending),
        "SUCCESS" => Ok(Status::Succeeded),
        "CLOSED" => Ok(Status::Failed),
        _ => Err(Error::unclear("unknown refund status")),
    }
}

/// Returns what an operator must do about a refund in this status.
pub(super) fn review_advice(status: &str) -> Option<String> {
    let advice = "the payer's card did not accept the refund (ABNORMAL); redirect it in the merchant console";
    (status == "ABNORMAL").then(|| advice.to_owned())
}

/// Converts an amount. Without a currency it is in yuan, the only currency of direct merchants.
fn money(value: u64, currency: Option<&str>) -> Result<Money, Error> {
    let currency = currency.map_or(Some(Currency::CNY), Currency::parse);
    currency.map(|currency| Money { value, currency }).ok_or_else(|| Error::Mismatch("unknown currency".to_owned()))
}

fn equal(name: &str, theirs: Money, ours: Money) -> Result<(), Error> {
    if theirs == ours {
        Ok(())
    } else {
        Err(Error::Mismatch(format!("`{name}` is {theirs}, the order amount is {ours}")))
    }
}

/// Parses a time; `None` if it is malformed. Times are optional because they do not decide about the money.
pub(super) fn at(time: Option<&str>) -> Option<Timestamp> {
    time?.parse().ok()
}
