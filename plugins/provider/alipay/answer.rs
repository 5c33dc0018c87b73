//! Decoding of verified answers. An answer that does not match the order is rejected.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::Verified;
use super::super::text::{Text, given};
use super::account::Account;
use super::codes::Interface;
use super::envelope::Envelope;
use super::errors::{Head, is_member_of};
use super::product::Product;
use super::readable::readable;
use super::request::service;
use super::signature::at;
use crate::error::{Error, ProviderError};
use crate::payment::{Money, NextAction, Operation, Order, Outcome, Pay, Refund, Status};

/// Decodes an answer of the form protocol.
pub(super) fn decode_form(
    account: &Account,
    operation: &Operation,
    status: StatusCode,
    answer: &Verified,
) -> Result<Outcome, Error> {
    let (is_from_interface, content) = split(account, service(operation)?, answer)?;
    let mut reply = Reply::read(&content)?;
    let head = reply.head()?;
    let awaits_password =
        &*head.code == "10003" && matches!(operation, Operation::Pay(pay) if pay.order.method.is_scanned());
    if &*head.code != "10000" && !awaits_password {
        return Err(head.error(Interface::of(operation)));
    }
    if !is_from_interface || status != StatusCode::OK {
        return Err(Error::unclear(format!("HTTP {} answer in an unknown format", status.as_u16())));
    }
    outcome(operation, &reply, awaits_password, || head.provider_error())
}

/// Returns whether the answer comes from the called interface (not from the gateway before it), and its content.
pub(super) fn split<'a>(account: &Account, service: &str, answer: &'a Verified) -> Result<(bool, Cow<'a, str>), Error> {
    let (name, text) = Envelope::signed(answer).ok_or_else(unknown_form)?;
    let is_from_interface = name.strip_suffix("_response").is_some_and(|name| is_member_of(service, name));
    if !is_from_interface && name != "error_response" {
        return Err(Error::unclear("the signed answer belongs to another request"));
    }
    let content = open_content(account, text)?;
    Ok((is_from_interface, content))
}

/// Converts the content of a successful answer to an outcome. `provider_error` builds the error message for an answer without
/// data.
pub(super) fn outcome(
    operation: &Operation,
    reply: &Reply<'_>,
    awaits_password: bool,
    provider_error: impl FnOnce() -> ProviderError,
) -> Result<Outcome, Error> {
    match operation {
        Operation::Pay(pay) if awaits_password => reply.awaiting_password(pay),
        Operation::Pay(pay) => reply.created(pay),
        Operation::Query(order) => reply.queried(order),
        Operation::Close(order) if order.method.is_scanned() => reply.cancelled(order),
        Operation::Close(order) => {
            reply.check_order(order)?;
            Ok(reply.outcome(Status::Closed))
        }
        Operation::Refund(refund) => reply.refunded(refund),
        Operation::QueryRefund(refund) => reply.queried_refund(refund, provider_error),
    }
}

pub(super) fn unknown_form() -> Error {
    Error::unclear("the signed answer has an unknown format")
}

/// Returns an object unchanged, or decrypts an encrypted string.
fn open_content<'a>(account: &Account, value: Cow<'a, str>) -> Result<Cow<'a, str>, Error> {
    if !value.starts_with('"') {
        return Ok(value);
    }
    let sealed: String = serde_json::from_str(&value).map_err(|_| unknown_form())?;
    decrypt(account, &sealed).map(Cow::Owned)
}

/// Returns the content of a v3 answer, which is an object or an encrypted text.
pub(super) fn plain<'a>(account: &Account, body: &'a [u8]) -> Result<Cow<'a, str>, Error> {
    let body = readable(body);
    match body.trim_ascii_start().starts_with('{') {
        true => Ok(body),
        false => decrypt(account, &body).map(Cow::Owned),
    }
}

fn decrypt(account: &Account, sealed: &str) -> Result<String, Error> {
    let sealer = account.sealer.as_ref();
    let sealer =
        sealer.ok_or_else(|| Error::unclear("the answer is encrypted, but `[keys]` has no `aes` to decrypt it"))?;
    let opened = sealer.open(sealed).map(|opened| readable(&opened).into_owned());
    opened.ok_or_else(|| Error::unclear("the answer cannot be decrypted: check `aes`"))
}

/// Content of an answer, with the fields of all interfaces. Amounts stay raw text, so that parsing loses no fen.
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

    /// Removes the head of a form answer. The v3 protocol has none.
    fn head(&mut self) -> Result<Head<'a>, Error> {
        let code = self.code.take().ok_or_else(unknown_form)?;
        Ok(Head { code, msg: self.msg.take(), sub_code: self.sub_code.take(), sub_msg: self.sub_msg.take() })
    }

    /// Returns whether the answer contains a payment time.
    pub(super) fn has_payment_time(&self) -> bool {
        given(&self.gmt_payment).is_some()
    }

    /// Rejects an answer about another order, or without an order number.
    fn check_order(&self, order: &Order) -> Result<(), Error> {
        same("out_trade_no", required("out_trade_no", &self.out_trade_no)?, &order.number)
    }

    fn outcome(&self, status: Status) -> Outcome {
        Outcome { provider_id: given(&self.trade_no).map(str::to_owned), ..Outcome::of(status) }
    }

    fn created(&self, pay: &Pay) -> Result<Outcome, Error> {
        self.check_order(&pay.order)?;
        let action = match Product::of(pay.order.method)? {
            Product::Barcode => return self.paid(pay),
            Product::Qr => NextAction::Qr { data: required("qr_code", &self.qr_code)?.to_owned() },
            Product::Jsapi => trade_to_pay(required("trade_no", &self.trade_no)?),
            Product::Page | Product::Wap | Product::App => {
                return Err(Error::unclear("answer to a create that is never sent to Alipay (page, wap, app)"));
            }
        };
        Ok(Outcome { action: Some(action), ..self.outcome(Status::Pending) })
    }

    fn paid(&self, pay: &Pay) -> Result<Outcome, Error> {
        required("trade_no", &self.trade_no)?;
        let amount = yuan("total_amount", self.total_amount)?.ok_or_else(no_amount)?;
        equal("total_amount", amount, pay.order.amount)?;
        let at = given(&self.gmt_payment).and_then(at);
        Ok(Outcome { amount: Some(amount), at, ..self.outcome(Status::Succeeded) })
    }

    /// Decodes the answer of a scanned payment that waits for the payer's password.
    fn awaiting_password(&self, pay: &Pay) -> Result<Outcome, Error> {
        if given(&self.out_trade_no).is_some() {
            self.check_order(&pay.order)?;
        }
        if let Some(amount) = yuan("total_amount", self.total_amount)? {
            equal("total_amount", amount, pay.order.amount)?;
        }
        Ok(self.outcome(Status::Pending))
    }

    fn queried(&self, order: &Order) -> Result<Outcome, Error> {
        self.check_order(order)?;
        let amount = yuan("total_amount", self.total_amount)?;
        if let Some(amount) = amount {
            equal("total_amount", amount, order.amount)?;
        }
        let paid = given(&self.send_pay_date);
        let status = trade_status(required("trade_status", &self.trade_status)?, paid.is_some(), order)?;
        if status == Status::Succeeded && amount.is_none() {
            return Err(no_amount());
        }
        // The answer to the creation may be lost, but the trade number is all that the payer's device needs.
        let can_be_paid = status == Status::Pending && Product::of(order.method)? == Product::Jsapi;
        let action = given(&self.trade_no).filter(|_| can_be_paid).map(trade_to_pay);
        Ok(Outcome { amount, action, at: paid.and_then(at), ..self.outcome(status) })
    }

    /// Decodes a cancellation. It ends an unpaid trade and refunds a paid one. In both cases the merchant has no money.
    fn cancelled(&self, order: &Order) -> Result<Outcome, Error> {
        self.check_order(order)?;
        match (given(&self.retry_flag), given(&self.action)) {
            (Some("N"), Some("close" | "refund")) => Ok(self.outcome(Status::Closed)),
            // Alipay answers so if there is no trade.
            (Some("N"), None) => Err(Error::NotFound(ProviderError {
                code: "NO_TRADE".to_owned(),
                message: "there is no trade to cancel".to_owned(),
            })),
            // Alipay requests that the cancellation be sent again.
            (Some("Y"), _) => Ok(Outcome { needs_reversal: true, ..self.outcome(Status::Pending) }),
            _ => Err(Error::unclear("the answer does not contain the result of the cancellation")),
        }
    }

    /// Decodes the answer to a refund.
    ///
    /// `refund_fee` is the sum of all refunds of the order, so at least this refund's amount. `fund_change=N` means
    /// that this call moved no money. An earlier call with the same number may have, which only a query shows. The
    /// channel is healthy.
    fn refunded(&self, refund: &Refund) -> Result<Outcome, Error> {
        self.check_order(&refund.order)?;
        if let Some(sum) = yuan("refund_fee", self.refund_fee)? {
            let is_possible = (refund.amount.value..=refund.order.amount.value).contains(&sum.value);
            if !is_possible && given(&self.fund_change) == Some("Y") {
                return Err(Error::Mismatch(format!("`refund_fee` is {sum}, the refund amount is {}", refund.amount)));
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
            _ => {
                return Err(Error::unclear("the answer does not contain whether the refund moved money (fund_change)"));
            }
        };
        Ok(Outcome { at: given(&self.gmt_refund_pay).and_then(at), ..Outcome::of(status) })
    }

    /// Decodes a refund query. For an unknown refund the answer contains no refund fields.
    fn queried_refund(
        &self,
        refund: &Refund,
        provider_error: impl FnOnce() -> ProviderError,
    ) -> Result<Outcome, Error> {
        if given(&self.out_trade_no).is_some() {
            self.check_order(&refund.order)?;
        }
        if let Some(total) = yuan("total_amount", self.total_amount)? {
            equal("total_amount", total, refund.order.amount)?;
        }
        let amount = yuan("refund_amount", self.refund_amount)?;
        let number = given(&self.out_request_no);
        let (None, None, None) = (number, amount, given(&self.refund_status)) else {
            same("out_request_no", number.ok_or_else(|| missing("out_request_no"))?, &refund.number)?;
            return self.known_refund(refund, amount, provider_error);
        };
        Err(Error::NotFound(provider_error()))
    }

    /// Decodes a refund that Alipay returned data for.
    ///
    /// Alipay documents a missing `refund_status` as: the request was not received, or the refund failed. In both cases
    /// there is no refund, so the result is [`Error::NotFound`].
    fn known_refund(
        &self,
        refund: &Refund,
        amount: Option<Money>,
        provider_error: impl FnOnce() -> ProviderError,
    ) -> Result<Outcome, Error> {
        if let Some(amount) = amount.filter(|amount| !refund.may_have(*amount)) {
            equal("refund_amount", amount, refund.amount)?;
        }
        let status = match given(&self.refund_status) {
            Some("REFUND_SUCCESS") => Status::Succeeded,
            // Asynchronous refunds.
            Some("REFUND_PROCESSING") => Status::Pending,
            Some("REFUND_FAIL") => Status::Failed,
            None if given(&self.gmt_refund_pay).is_some() => {
                return Err(Error::unclear("the answer contains the time of the refund but no `refund_status`"));
            }
            None => return Err(Error::NotFound(provider_error())),
            Some(_) => return Err(Error::unclear("unknown `refund_status`")),
        };
        if status == Status::Succeeded {
            self.check_order(&refund.order)?;
            amount.ok_or_else(no_amount)?;
        }
        Ok(Outcome { amount, at: given(&self.gmt_refund_pay).and_then(at), ..Outcome::of(status) })
    }
}

/// Converts a `trade_status`.
///
/// `TRADE_CLOSED` is reported for orders that were never paid and for fully refunded ones. A paid order stays
/// succeeded. An order with a scanned code was refunded by its cancellation, so it is closed and the goods must not be
/// handed out.
fn trade_status(status: &str, paid: bool, order: &Order) -> Result<Status, Error> {
    match status {
        "WAIT_BUYER_PAY" => Ok(Status::Pending),
        "TRADE_SUCCESS" | "TRADE_FINISHED" => Ok(Status::Succeeded),
        "TRADE_CLOSED" if paid && !order.method.is_scanned() => Ok(Status::Succeeded),
        "TRADE_CLOSED" => Ok(Status::Closed),
        _ => Err(Error::unclear("unknown `trade_status`")),
    }
}

/// Returns the parameters with which a mini program starts the payment of a trade.
fn trade_to_pay(trade_no: &str) -> NextAction {
    NextAction::Jsapi { params: [("tradeNO".to_owned(), trade_no.to_owned())].into() }
}

fn required<'a>(name: &str, value: &'a Option<Text<'_>>) -> Result<&'a str, Error> {
    given(value).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    Error::unclear(format!("the signed answer has no `{name}`"))
}

fn no_amount() -> Error {
    Error::unclear("the answer says that money moved, but has no amount")
}

/// Rejects a message about another account, order or refund.
pub(super) fn same(name: &str, theirs: &str, ours: &str) -> Result<(), Error> {
    if theirs == ours { Ok(()) } else { Err(Error::Mismatch(format!("`{name}` does not match"))) }
}

/// Parses an amount in yuan. Alipay writes it as a string, in some answers as a number.
fn yuan(name: &str, value: Option<&RawValue>) -> Result<Option<Money>, Error> {
    let Some(text) = value.map(|raw| raw.get().trim_matches('"')).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let amount = Money::of_yuan(text).ok_or_else(|| Error::unclear(format!("`{name}` is not an amount in yuan")));
    amount.map(Some)
}

fn equal(name: &str, theirs: Money, ours: Money) -> Result<(), Error> {
    if theirs == ours {
        Ok(())
    } else {
        Err(Error::Mismatch(format!("`{name}` is {theirs}, the order amount is {ours}")))
    }
}
