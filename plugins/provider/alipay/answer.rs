//! Verified answers in our words. What does not agree with the order is never accepted.

use std::borrow::Cow;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::Verified;
use super::super::text::Text;
use super::Product;
use super::account::{Account, Protocol};
use super::codes::Interface;
use super::envelope::Envelope;
use super::errors::{Head, is_written};
use super::readable::readable;
use super::request::service;
use super::signature::at;
use super::v3;
use crate::error::{Error, ProviderError};
use crate::payment::{Money, NextAction, Operation, Order, Outcome, Pay, Refund, Status};

pub(super) fn decode(
    account: &Account,
    operation: &Operation,
    status: StatusCode,
    answer: &Verified,
    now: u64,
) -> Result<Outcome, Error> {
    let outcome = match account.protocol {
        Protocol::Form => in_form(account, operation, status, answer),
        Protocol::V3 => v3::decode(account, operation, status, answer.bytes()),
    };
    match (operation, outcome) {
        (Operation::Query(order), Err(Error::NotFound(_))) if is_over(order, now) => Ok(Outcome::of(Status::Closed)),
        (_, outcome) => outcome,
    }
}

/// Whether nobody can begin to pay the order any more, for certain. A trade that was begun in time is known to Alipay by then.
/// A till's payment is cancelled instead.
fn is_over(order: &Order, now: u64) -> bool {
    /// Bounds how far Alipay's clock and a trade's way into its books may be behind.
    const MARGIN: SignedDuration = SignedDuration::from_mins(10);
    let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok());
    let late = now.zip(order.expires_at).map(|(now, end)| now.duration_since(end));
    !order.method.is_scanned() && late.is_some_and(|late| late > MARGIN)
}

fn in_form(account: &Account, operation: &Operation, status: StatusCode, answer: &Verified) -> Result<Outcome, Error> {
    let (is_ours, content) = taken_apart(account, service(operation)?, answer)?;
    let mut reply = Reply::read(&content)?;
    let head = reply.head()?;
    let is_typing = &*head.code == "10003" && matches!(operation, Operation::Pay(pay) if pay.order.method.is_scanned());
    if &*head.code != "10000" && !is_typing {
        return Err(head.error(Interface::of(operation)));
    }
    if !is_ours || status != StatusCode::OK {
        return Err(Error::unclear(format!("it answered HTTP {} in an unknown form", status.as_u16())));
    }
    outcome(operation, &reply, is_typing, || head.word())
}

/// Whether an answer is the interface's own (or the gateway's, before it), and its content.
pub(super) fn taken_apart<'a>(
    account: &Account,
    service: &str,
    answer: &'a Verified,
) -> Result<(bool, Cow<'a, str>), Error> {
    let (name, text) = Envelope::signed(answer).ok_or_else(unknown_form)?;
    let is_ours = name.strip_suffix("_response").is_some_and(|name| is_written(service, name));
    if !is_ours && name != "error_response" {
        return Err(Error::unclear("its answer is signed but to another question"));
    }
    let content = opened(account, text)?;
    Ok((is_ours, content))
}

/// What a content says that is no error; `word` is what it says to an empty one.
pub(super) fn outcome(
    operation: &Operation,
    reply: &Reply<'_>,
    is_typing: bool,
    word: impl FnOnce() -> ProviderError,
) -> Result<Outcome, Error> {
    match operation {
        Operation::Pay(pay) if is_typing => reply.typing(pay),
        Operation::Pay(pay) => reply.created(pay),
        Operation::Query(order) => reply.queried(order),
        Operation::Close(order) if order.method.is_scanned() => reply.cancelled(order),
        Operation::Close(order) => {
            reply.is_about(order)?;
            Ok(reply.outcome(Status::Closed))
        }
        Operation::Refund(refund) => reply.refunded(refund),
        Operation::QueryRefund(refund) => reply.queried_refund(refund, word),
    }
}

pub(super) fn unknown_form() -> Error {
    Error::unclear("its answer is signed but has an unknown form")
}

/// An object as it stands, or what is in an encrypted text.
fn opened<'a>(account: &Account, value: Cow<'a, str>) -> Result<Cow<'a, str>, Error> {
    if !value.starts_with('"') {
        return Ok(value);
    }
    let sealed: String = serde_json::from_str(&value).map_err(|_| unknown_form())?;
    unsealed(account, &sealed).map(Cow::Owned)
}

/// An answer of the v3 protocol, which is an object or an encrypted text.
pub(super) fn plain<'a>(account: &Account, body: &'a [u8]) -> Result<Cow<'a, str>, Error> {
    let body = readable(body);
    match body.trim_ascii_start().starts_with('{') {
        true => Ok(body),
        false => unsealed(account, &body).map(Cow::Owned),
    }
}

fn unsealed(account: &Account, sealed: &str) -> Result<String, Error> {
    let sealer = account.sealer.as_ref();
    let sealer =
        sealer.ok_or_else(|| Error::unclear("its answer is encrypted, but `[keys]` has no `aes` to open it"))?;
    let opened = sealer.open(sealed).map(|opened| readable(&opened).into_owned());
    opened.ok_or_else(|| Error::unclear("its answer cannot be decrypted: is `aes` right?"))
}

/// The contents of all answers; amounts stay as they are written, so that no fen is lost on the way.
#[derive(Deserialize)]
pub(super) struct Reply<'a> {
    #[serde(borrow)]
    code: Option<Text<'a>>,
    #[serde(borrow)]
    msg: Option<Text<'a>>,
    #[serde(borrow)]
    sub_code: Option<Text<'a>>,
    #[serde(borrow)]
    sub_msg: Option<Text<'a>>,
    #[serde(borrow)]
    out_trade_no: Option<Text<'a>>,
    #[serde(borrow)]
    trade_no: Option<Text<'a>>,
    #[serde(borrow)]
    trade_status: Option<Text<'a>>,
    #[serde(borrow)]
    total_amount: Option<&'a RawValue>,
    #[serde(borrow)]
    send_pay_date: Option<Text<'a>>,
    #[serde(borrow)]
    gmt_payment: Option<Text<'a>>,
    #[serde(borrow)]
    qr_code: Option<Text<'a>>,
    #[serde(borrow)]
    retry_flag: Option<Text<'a>>,
    #[serde(borrow)]
    action: Option<Text<'a>>,
    #[serde(borrow)]
    fund_change: Option<Text<'a>>,
    #[serde(borrow)]
    refund_fee: Option<&'a RawValue>,
    #[serde(borrow)]
    out_request_no: Option<Text<'a>>,
    #[serde(borrow)]
    refund_amount: Option<&'a RawValue>,
    #[serde(borrow)]
    refund_status: Option<Text<'a>>,
    #[serde(borrow)]
    gmt_refund_pay: Option<Text<'a>>,
}

impl<'a> Reply<'a> {
    pub(super) fn read(content: &'a str) -> Result<Self, Error> {
        serde_json::from_str(content).map_err(|_| unknown_form())
    }

    /// Takes the head off; the v3 protocol has none.
    fn head(&mut self) -> Result<Head<'a>, Error> {
        let code = self.code.take().ok_or_else(unknown_form)?;
        Ok(Head { code, msg: self.msg.take(), sub_code: self.sub_code.take(), sub_msg: self.sub_msg.take() })
    }

    /// Whether it says when it was paid.
    pub(super) fn has_payment_time(&self) -> bool {
        given(&self.gmt_payment).is_some()
    }

    /// Refuses what is about another order, or about none.
    fn is_about(&self, order: &Order) -> Result<(), Error> {
        same("out_trade_no", needed("out_trade_no", &self.out_trade_no)?, &order.number)
    }

    fn outcome(&self, status: Status) -> Outcome {
        Outcome { provider_id: given(&self.trade_no).map(str::to_owned), ..Outcome::of(status) }
    }

    fn created(&self, pay: &Pay) -> Result<Outcome, Error> {
        self.is_about(&pay.order)?;
        let action = match Product::of(pay.order.method)? {
            Product::Barcode => return self.paid_at_once(pay),
            Product::Qr => NextAction::Qr { data: needed("qr_code", &self.qr_code)?.to_owned() },
            Product::Jsapi => trade_to_pay(needed("trade_no", &self.trade_no)?),
            Product::Page | Product::Wap | Product::App => {
                return Err(Error::unclear("it answered a create that is never sent to it (page, wap, app)"));
            }
        };
        Ok(Outcome { action: Some(action), ..self.outcome(Status::Pending) })
    }

    fn paid_at_once(&self, pay: &Pay) -> Result<Outcome, Error> {
        needed("trade_no", &self.trade_no)?;
        let amount = yuan("total_amount", self.total_amount)?.ok_or_else(no_amount)?;
        equal("total_amount", amount, pay.order.amount)?;
        let at = given(&self.gmt_payment).and_then(at);
        Ok(Outcome { amount: Some(amount), at, ..self.outcome(Status::Succeeded) })
    }

    /// The payer's password is waited for.
    fn typing(&self, pay: &Pay) -> Result<Outcome, Error> {
        if given(&self.out_trade_no).is_some() {
            self.is_about(&pay.order)?;
        }
        if let Some(amount) = yuan("total_amount", self.total_amount)? {
            equal("total_amount", amount, pay.order.amount)?;
        }
        Ok(self.outcome(Status::Pending))
    }

    fn queried(&self, order: &Order) -> Result<Outcome, Error> {
        self.is_about(order)?;
        let amount = yuan("total_amount", self.total_amount)?;
        if let Some(amount) = amount {
            equal("total_amount", amount, order.amount)?;
        }
        let paid = given(&self.send_pay_date);
        let status = trade_status(needed("trade_status", &self.trade_status)?, paid.is_some(), order)?;
        if status == Status::Succeeded && amount.is_none() {
            return Err(no_amount());
        }
        // The answer to the creation may be lost, but the trade's number is all that the payer's device needs.
        let can_be_paid = status == Status::Pending && Product::of(order.method)? == Product::Jsapi;
        let action = given(&self.trade_no).filter(|_| can_be_paid).map(trade_to_pay);
        Ok(Outcome { amount, action, at: paid.and_then(at), ..self.outcome(status) })
    }

    /// A cancellation ends what is unpaid, and gives back what was paid meanwhile: in both the merchant has no money.
    fn cancelled(&self, order: &Order) -> Result<Outcome, Error> {
        self.is_about(order)?;
        match (given(&self.retry_flag), given(&self.action)) {
            (Some("N"), Some("close" | "refund")) => Ok(self.outcome(Status::Closed)),
            // So Alipay answers where there is no trade.
            (Some("N"), None) => Err(Error::NotFound(ProviderError {
                code: "NO_TRADE".to_owned(),
                message: "there is no trade to cancel".to_owned(),
            })),
            // It wants the cancellation again.
            (Some("Y"), _) => Ok(Outcome { needs_reversal: true, ..self.outcome(Status::Pending) }),
            _ => Err(Error::unclear("it does not say what its cancellation did")),
        }
    }

    /// `refund_fee` is the sum of all refunds of the order, so it is at least this one's amount. Without a change of funds
    /// this call moved nothing: an earlier one of the same number may have, which only a query tells. The channel works.
    fn refunded(&self, refund: &Refund) -> Result<Outcome, Error> {
        self.is_about(&refund.order)?;
        if let Some(sum) = yuan("refund_fee", self.refund_fee)? {
            let is_possible = (refund.amount.value..=refund.order.amount.value).contains(&sum.value);
            if !is_possible && given(&self.fund_change) == Some("Y") {
                return Err(Error::Mismatch(format!("`refund_fee` is {sum}, the refund says {}", refund.amount)));
            }
        }
        let status = match given(&self.fund_change) {
            Some("Y") => Status::Succeeded,
            Some("N") => {
                return Err(Error::Conflict(ProviderError {
                    code: "fund_change=N".to_owned(),
                    message: "this call moved no money".to_owned(),
                }));
            }
            _ => return Err(Error::unclear("it does not say whether its refund moved money (fund_change)")),
        };
        Ok(Outcome { at: given(&self.gmt_refund_pay).and_then(at), ..Outcome::of(status) })
    }

    /// Of a refund that it does not know it says nothing at all.
    fn queried_refund(&self, refund: &Refund, word: impl FnOnce() -> ProviderError) -> Result<Outcome, Error> {
        if given(&self.out_trade_no).is_some() {
            self.is_about(&refund.order)?;
        }
        if let Some(total) = yuan("total_amount", self.total_amount)? {
            equal("total_amount", total, refund.order.amount)?;
        }
        let amount = yuan("refund_amount", self.refund_amount)?;
        let number = given(&self.out_request_no);
        let (None, None, None) = (number, amount, given(&self.refund_status)) else {
            same("out_request_no", number.ok_or_else(|| lacks("out_request_no"))?, &refund.number)?;
            return self.known_refund(refund, amount, word);
        };
        Err(Error::NotFound(word()))
    }

    /// Alipay's word for a missing `refund_status`: the request was not received, or the refund failed. Both are no refund, so it
    /// is as good as absent.
    fn known_refund(
        &self,
        refund: &Refund,
        amount: Option<Money>,
        word: impl FnOnce() -> ProviderError,
    ) -> Result<Outcome, Error> {
        if let Some(amount) = amount {
            equal("refund_amount", amount, refund.amount)?;
        }
        let status = match given(&self.refund_status) {
            Some("REFUND_SUCCESS") => Status::Succeeded,
            // Refunds that Alipay makes later.
            Some("REFUND_PROCESSING") => Status::Pending,
            Some("REFUND_FAIL") => Status::Failed,
            None if given(&self.gmt_refund_pay).is_some() => {
                return Err(Error::unclear("it names the time of the refund but no `refund_status`"));
            }
            None => return Err(Error::NotFound(word())),
            Some(_) => return Err(Error::unclear("the refund's status is none that is known")),
        };
        if status == Status::Succeeded {
            self.is_about(&refund.order)?;
            amount.ok_or_else(no_amount)?;
        }
        Ok(Outcome { amount, at: given(&self.gmt_refund_pay).and_then(at), ..Outcome::of(status) })
    }
}

/// `TRADE_CLOSED` is said of what was never paid and of what was given back in full. A payment that was paid stays one; but
/// at a till it is given back when it is cancelled, and then the goods must not go out.
fn trade_status(word: &str, paid: bool, order: &Order) -> Result<Status, Error> {
    match word {
        "WAIT_BUYER_PAY" => Ok(Status::Pending),
        "TRADE_SUCCESS" | "TRADE_FINISHED" => Ok(Status::Succeeded),
        "TRADE_CLOSED" if paid && !order.method.is_scanned() => Ok(Status::Succeeded),
        "TRADE_CLOSED" => Ok(Status::Closed),
        _ => Err(Error::unclear("its `trade_status` is none that is known")),
    }
}

/// What a mini program needs to let its user pay a trade.
fn trade_to_pay(trade_no: &str) -> NextAction {
    NextAction::Jsapi { params: [("tradeNO".to_owned(), trade_no.to_owned())].into() }
}

/// What is there and not empty.
pub(super) fn given<'a>(value: &'a Option<Text<'_>>) -> Option<&'a str> {
    value.as_deref().filter(|value| !value.is_empty())
}

fn needed<'a>(name: &str, value: &'a Option<Text<'_>>) -> Result<&'a str, Error> {
    given(value).ok_or_else(|| lacks(name))
}

fn lacks(name: &str) -> Error {
    Error::unclear(format!("its answer is signed but has no `{name}`"))
}

fn no_amount() -> Error {
    Error::unclear("it says that money moved but not how much")
}

/// Refuses what is about somebody else's account, order or refund.
pub(super) fn same(name: &str, theirs: &str, ours: &str) -> Result<(), Error> {
    if theirs == ours { Ok(()) } else { Err(Error::Mismatch(format!("it names another `{name}`"))) }
}

/// Alipay writes yuan as a text, and in places as a number.
fn yuan(name: &str, value: Option<&RawValue>) -> Result<Option<Money>, Error> {
    let Some(text) = value.map(|raw| raw.get().trim_matches('"')).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let amount = Money::of_yuan(text).ok_or_else(|| Error::unclear(format!("its `{name}` is no amount in yuan")));
    amount.map(Some)
}

fn equal(name: &str, theirs: Money, ours: Money) -> Result<(), Error> {
    if theirs == ours { Ok(()) } else { Err(Error::Mismatch(format!("`{name}` is {theirs}, the order says {ours}"))) }
}
