//! Verified answers in our words. What does not agree with the order is never accepted.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::super::beijing;
use super::account::Account;
use super::codes::{self, Trade};
use super::fields::Message;
use super::request::{Product, back_kind, deadline, is_past, read_time, time};
use crate::error::Error;
use crate::payment::{Action, Currency, Money, Operation, Order, Outcome, Pay, Refund, Status};

pub(super) fn decode(
    account: &Account,
    operation: &Operation,
    fields: &Message<'_>,
    now: u64,
) -> Result<Outcome, Error> {
    let subject = Subject::of(account, operation);
    let unnamed = subject.agrees(account, fields)?;
    let code = given(fields, "respCode")?;
    let word = || codes::word(code, fields.get("respMsg").unwrap_or_default());
    let error = match operation {
        // Nobody has ever opened it.
        Operation::Query(order) if code == "34" && unnamed.is_none() && is_over(account, order, now) => {
            return Ok(Outcome::of(Status::Closed));
        }
        Operation::Query(_) | Operation::QueryRefund(_) => codes::unanswered(code, word),
        Operation::Refund(_) if codes::is_accepted(code) => None,
        Operation::Pay(pay) if codes::is_accepted(code) && pay.order.method.is_scanned() => None,
        // Said before: the order was reversed. (UnionPay knows the reversal by the order's own number.)
        Operation::Close(_) if code == "46" => None,
        _ => codes::refusal(code, word),
    };
    if let Some(error) = error {
        return Err(error);
    }
    // A refused request may not be repeated in full; good news must say what it is about.
    if let Some(name) = unnamed {
        return Err(missing(name));
    }
    match operation {
        Operation::Pay(pay) => taken(pay, fields),
        // Said before, it is done; else it is only taken on, and the order is asked about.
        Operation::Close(_) if code == "46" => Ok(Outcome::of(Status::Closed)),
        Operation::Close(_) => Err(Error::Conflict(word())),
        // The word is only that it was accepted.
        Operation::Refund(_) => Ok(Outcome { provider_id: own_id(fields), ..Outcome::of(Status::Pending) }),
        Operation::Query(order) => {
            if order.method.is_scanned() {
                return traded(&subject, fields, |status| status);
            }
            let is_over = is_over(account, order, now);
            if is_over && matches!(fields.get("origRespCode"), Some("34" | "05" | "70")) {
                return Ok(Outcome::of(Status::Closed));
            }
            traded(&subject, fields, |status| match status {
                Status::Failed if !is_last_word(fields, now) => Status::Pending,
                status => status,
            })
        }
        Operation::QueryRefund(refund) => {
            if let Some(original) = &refund.order.provider_id {
                same("origQryId", fields, original)?;
            }
            if matches!(fields.get("origRespCode"), Some("42" | "74" | "75")) {
                return Err(Error::unclear("it says that the payer was debited, which says nothing of the refund"));
            }
            traded(&subject, fields, |status| status)
        }
    }
}

/// What an answer must be about.
struct Subject<'a> {
    kind: &'static str,
    number: &'a str,
    at: Timestamp,
    amount: Money,
}

impl<'a> Subject<'a> {
    fn of(account: &Account, operation: &'a Operation) -> Self {
        let of_order =
            |kind, order: &'a Order| Self { kind, number: &order.number, at: order.created_at, amount: order.amount };
        let of_refund = |refund: &'a Refund| Self {
            kind: back_kind(account, refund),
            number: &refund.number,
            at: refund.created_at,
            amount: refund.amount,
        };
        match operation {
            Operation::Pay(pay) => of_order("01", &pay.order),
            Operation::Query(order) => of_order("01", order),
            Operation::Close(order) => of_order("99", order),
            Operation::Refund(refund) | Operation::QueryRefund(refund) => of_refund(refund),
        }
    }

    /// Refuses what names somebody else's account, order or amount; says what it does not name though it should.
    fn agrees(&self, account: &Account, fields: &Message<'_>) -> Result<Option<&'static str>, Error> {
        let mut unnamed = None;
        for (name, ours) in [("merId", &*account.mer_id), ("orderId", self.number), ("txnTime", &time(self.at))] {
            if !same(name, fields, ours)? {
                unnamed.get_or_insert(name);
            }
        }
        if let Some(merchant) = &account.sub_merchant {
            same("subMerId", fields, &merchant.id)?;
        }
        same("currencyCode", fields, "156")?;
        // The answer to a question may name the question's kind or the trade's.
        if fields.get("txnType").is_some_and(|kind| kind != self.kind && kind != "00") {
            return Err(Error::Mismatch("it names another `txnType`".to_owned()));
        }
        match amount(fields)? {
            Some(amount) if amount != self.amount => {
                Err(Error::Mismatch(format!("`txnAmt` is {amount}, the order says {}", self.amount)))
            }
            _ => Ok(unnamed),
        }
    }
}

/// Refuses another value; whether there is one.
fn same(name: &str, fields: &Message<'_>, ours: &str) -> Result<bool, Error> {
    match fields.get(name) {
        Some(theirs) if theirs != ours => Err(Error::Mismatch(format!("it names another `{name}`"))),
        theirs => Ok(theirs.is_some()),
    }
}

fn given<'a>(fields: &'a Message<'_>, name: &str) -> Result<&'a str, Error> {
    fields.get(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    Error::unclear(format!("its answer is signed but has no `{name}`"))
}

pub(super) fn amount(fields: &Message<'_>) -> Result<Option<Money>, Error> {
    let Some(text) = fields.get("txnAmt") else { return Ok(None) };
    let value =
        Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok());
    let value = value.ok_or_else(|| Error::Mismatch("`txnAmt` is no amount".to_owned()))?;
    Ok(Some(Money { value, currency: Currency::CNY }))
}

fn own_id(fields: &Message<'_>) -> Option<String> {
    fields.get("queryId").map(str::to_owned)
}

fn taken(pay: &Pay, fields: &Message<'_>) -> Result<Outcome, Error> {
    let action = match Product::of(pay.order.method)? {
        Product::Qr => Some(Action::Qr { data: given(fields, "qrCode")?.to_owned() }),
        Product::App => {
            let tn = given(fields, "tn")?.to_owned();
            Some(Action::App { params: BTreeMap::from([("tn".to_owned(), tn)]) })
        }
        // The till waits; whether it was paid is told later.
        Product::Barcode => None,
        Product::Page => return Err(Error::unclear("a page is not answered")),
    };
    Ok(Outcome { action, provider_id: own_id(fields), ..Outcome::of(Status::Pending) })
}

/// What became of the trade that was asked about; `adjust` has the last word on its status.
fn traded(
    subject: &Subject<'_>,
    fields: &Message<'_>,
    adjust: impl FnOnce(Status) -> Status,
) -> Result<Outcome, Error> {
    let code = given(fields, "origRespCode")?;
    let trade = codes::trade(code);
    let Some((status, needs_person)) = trade.status() else {
        let word = codes::word(code, fields.get("origRespMsg").unwrap_or_default());
        return Err(if trade == Trade::Absent { Error::Absent(word) } else { codes::unclear(word) });
    };
    let amount = amount(fields)?;
    if status == Status::Succeeded && amount.is_none() {
        return Err(Error::unclear("it says that money moved but not how much"));
    }
    let status = adjust(status);
    let reason = || codes::word(code, fields.get("origRespMsg").unwrap_or_default());
    Ok(Outcome {
        provider_id: own_id(fields),
        amount,
        at: at(fields, subject.at),
        needs_person,
        reason: (status == Status::Failed).then(reason),
        ..Outcome::of(status)
    })
}

/// A payer may try again until the order's time has passed, so a failure before that is not the end. The time comes back
/// in `reqReserved`, where we wrote it; without it no failure is believed.
fn is_last_word(fields: &Message<'_>, now: u64) -> bool {
    let deadline = fields.get("reqReserved").and_then(read_time);
    deadline.is_some_and(|deadline| is_past(deadline, now))
}

/// Whether the payer's time has surely passed: then UnionPay says of what was never begun or never went on that it is
/// unknown (34), accepted (05) or waiting for the payer (70), and stays with it. A till's payment is reversed instead.
fn is_over(account: &Account, order: &Order, now: u64) -> bool {
    !order.method.is_scanned() && deadline(account, order).is_ok_and(|deadline| is_past(deadline, now))
}

/// `traceTime` has no year: it is the first such day from the order's own on.
fn at(fields: &Message<'_>, ordered: Timestamp) -> Option<Timestamp> {
    let moved = fields.get("traceTime")?;
    let earliest = ordered.checked_sub(SignedDuration::from_hours(24)).ok()?;
    let year = beijing::day(earliest).year();
    let is_time = moved.bytes().all(|byte| byte.is_ascii_digit());
    let in_year = |year| beijing::read_in_year(year, moved, "MMddHHmmss").filter(|at| is_time && *at >= earliest);
    in_year(year).or_else(|| in_year(year.checked_add(1)?))
}
