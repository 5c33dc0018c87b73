//! Verified answers in our words. What does not agree with the order is never accepted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::super::beijing;
use super::{Product, errors};
use crate::error::Error;
use crate::payment::{Action, Currency, Money, Operation, Order, Outcome, Pay, Refund, Status};

/// Every member of every answer that is read; which of them are there depends on the operation.
#[derive(Deserialize)]
pub(super) struct Answer {
    code: String,
    #[serde(default)]
    msg: String,
    sub_code: Option<String>,
    sub_msg: Option<String>,
    out_trade_no: Option<String>,
    trade_no: Option<String>,
    trade_status: Option<String>,
    total_amount: Option<Yuan>,
    qr_code: Option<String>,
    gmt_payment: Option<String>,
    send_pay_date: Option<String>,
    retry_flag: Option<String>,
    action: Option<String>,
    fund_change: Option<String>,
    gmt_refund_pay: Option<String>,
    out_request_no: Option<String>,
    refund_amount: Option<Yuan>,
    refund_status: Option<String>,
}

/// An amount as text, or as a number by some of Alipay's answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Yuan {
    Text(String),
    Number(serde_json::Number),
}

pub(super) fn decode(operation: &Operation, response: &[u8]) -> Result<Outcome, Error> {
    let answer: Answer = read(response)?;
    let is_typing = answer.code == "10003" && matches!(operation, Operation::Pay(pay) if pay.order.method.is_scanned());
    if answer.code != "10000" && !is_typing {
        return Err(answer.refusal());
    }
    if let Operation::QueryRefund(refund) = operation {
        return answer.refund_found(refund);
    }
    same("out_trade_no", answer.out_trade_no.as_deref(), &operation.order().number)?;
    match operation {
        Operation::Pay(pay) => answer.made(pay, is_typing),
        Operation::Query(order) => answer.found(order),
        Operation::Close(order) if order.method.is_scanned() => answer.cancelled(),
        Operation::Close(_) => Ok(Outcome::of(Status::Closed)),
        Operation::Refund(_) | Operation::QueryRefund(_) => Ok(answer.refunded()),
    }
}

/// What an unsigned answer may be told as: its word, and nothing of the money.
pub(super) fn unsigned(response: Option<&str>) -> Error {
    let answer: Option<Answer> = response.and_then(|response| serde_json::from_str(response).ok());
    match answer.map(|answer| answer.refusal()) {
        Some(Error::Declined(word) | Error::Busy(word) | Error::Conflict(word) | Error::Absent(word)) => {
            Error::Unclear { why: "it answered without a signature".to_owned(), word: Some(word) }
        }
        Some(other) => other,
        None => Error::unclear("it answered without a signature, in an unknown form"),
    }
}

fn read(response: &[u8]) -> Result<Answer, Error> {
    serde_json::from_slice(response).map_err(|_| Error::unclear("its answer is signed but has an unknown form"))
}

impl Answer {
    fn refusal(self) -> Error {
        let message = self.sub_msg.filter(|message| !message.is_empty()).unwrap_or(self.msg);
        errors::refusal(&self.code, self.sub_code.as_deref(), message)
    }

    fn made(self, pay: &Pay, is_typing: bool) -> Result<Outcome, Error> {
        let missing = |name: &str| Error::unclear(format!("its answer is signed but has no `{name}`"));
        match Product::of(pay.order.method)? {
            Product::Barcode if is_typing => Ok(Outcome { provider_id: self.trade_no, ..Outcome::of(Status::Pending) }),
            Product::Barcode => Ok(Outcome {
                amount: Some(amount("total_amount", self.total_amount.as_ref())?),
                at: self.gmt_payment.as_deref().and_then(at),
                provider_id: Some(self.trade_no.ok_or_else(|| missing("trade_no"))?),
                ..Outcome::of(Status::Succeeded)
            }),
            Product::Jsapi => {
                let number = self.trade_no.ok_or_else(|| missing("trade_no"))?;
                let params = BTreeMap::from([("tradeNO".to_owned(), number.clone())]);
                let action = Some(Action::Jsapi { params });
                Ok(Outcome { provider_id: Some(number), action, ..Outcome::of(Status::Pending) })
            }
            Product::Qr => {
                let data = self.qr_code.filter(|code| !code.is_empty()).ok_or_else(|| missing("qr_code"))?;
                Ok(Outcome { action: Some(Action::Qr { data }), ..Outcome::of(Status::Pending) })
            }
            Product::Page | Product::Wap | Product::App => Err(Error::unclear("nothing was asked of it")),
        }
    }

    fn found(self, _: &Order) -> Result<Outcome, Error> {
        let status = self.trade_status.as_deref().unwrap_or_default();
        Ok(Outcome {
            amount: Some(amount("total_amount", self.total_amount.as_ref())?),
            at: self.send_pay_date.as_deref().and_then(at),
            provider_id: self.trade_no.filter(|number| !number.is_empty()),
            ..Outcome::of(trade_status(status, self.send_pay_date.is_some())?)
        })
    }

    fn cancelled(self) -> Result<Outcome, Error> {
        match (self.retry_flag.as_deref(), self.action.as_deref()) {
            // `refund`: it had been paid, and the money goes back by itself. No action: there was nothing to cancel.
            (Some("N"), Some("close" | "refund" | "") | None) => Ok(Outcome::of(Status::Closed)),
            (Some("Y"), _) => Err(Error::unclear("the cancel is not done yet and wants to be sent again")),
            _ => Err(Error::unclear("its answer to the cancel has an unknown form")),
        }
    }

    /// `refund_fee` is what was given back of the payment in all, so it says nothing about this refund.
    fn refunded(self) -> Outcome {
        match self.fund_change.as_deref() {
            Some("Y") => Outcome { at: self.gmt_refund_pay.as_deref().and_then(at), ..Outcome::of(Status::Succeeded) },
            // No money moved now: a repetition, or still under way. The refund's query tells.
            _ => Outcome::of(Status::Pending),
        }
    }

    /// An empty answer means that there is no such refund, or that it failed.
    fn refund_found(self, refund: &Refund) -> Result<Outcome, Error> {
        if self.out_request_no.is_none() {
            return Err(Error::Absent(crate::error::Word {
                code: "10000".to_owned(),
                message: "no refund".to_owned(),
            }));
        }
        same("out_request_no", self.out_request_no.as_deref(), &refund.number)?;
        same("out_trade_no", self.out_trade_no.as_deref(), &refund.order.number)?;
        let amount = match &self.refund_amount {
            Some(yuan) => Some(amount("refund_amount", Some(yuan))?),
            None => None,
        };
        let at = self.gmt_refund_pay.as_deref().and_then(at);
        match self.refund_status.as_deref() {
            Some("REFUND_SUCCESS") if amount.is_some() => Ok(Outcome { amount, at, ..Outcome::of(Status::Succeeded) }),
            Some("REFUND_SUCCESS") => Err(Error::unclear("its answer is signed but has no `refund_amount`")),
            _ => Ok(Outcome { amount, ..Outcome::of(Status::Pending) }),
        }
    }
}

/// A trade that ended is one that was paid and given back, or one that was never paid.
pub(super) fn trade_status(status: &str, was_paid: bool) -> Result<Status, Error> {
    match status {
        "WAIT_BUYER_PAY" => Ok(Status::Pending),
        "TRADE_SUCCESS" | "TRADE_FINISHED" => Ok(Status::Succeeded),
        "TRADE_CLOSED" if was_paid => Ok(Status::Succeeded),
        "TRADE_CLOSED" => Ok(Status::Closed),
        _ => Err(Error::unclear("it names an unknown `trade_status`")),
    }
}

/// Refuses what is about somebody else's account, order or refund.
pub(super) fn same(name: &str, theirs: Option<&str>, ours: &str) -> Result<(), Error> {
    if theirs == Some(ours) { Ok(()) } else { Err(Error::Mismatch(format!("it names another `{name}`"))) }
}

fn amount(name: &str, yuan: Option<&Yuan>) -> Result<Money, Error> {
    match yuan {
        None => Err(Error::unclear(format!("its answer is signed but has no `{name}`"))),
        Some(Yuan::Text(text)) => fen(name, text),
        // As it was written: `serde_json` keeps the digits of what fits.
        Some(Yuan::Number(number)) => fen(name, &number.to_string()),
    }
}

pub(super) fn fen(name: &str, yuan: &str) -> Result<Money, Error> {
    let money = Money::from_decimal(yuan, Currency::CNY);
    money.ok_or_else(|| Error::Mismatch(format!("its `{name}` is no amount of yuan")))
}

/// When it says that it was.
pub(super) fn at(text: &str) -> Option<Timestamp> {
    beijing::read(text, beijing::SPACED)
}
