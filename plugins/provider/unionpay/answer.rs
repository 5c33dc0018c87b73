//! Verified answers in our words. What does not agree with the order is never accepted.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::super::china_time;
use super::account::Account;
use super::codes::{self, Request, Trade};
use super::fields::Message;
use super::request::{Product, back_kind, deadline, is_past, read_time, time};
use crate::error::Error;
use crate::payment::{Currency, Money, NextAction, Operation, Order, Outcome, Pay, Refund, Status};

/// After this time a pending refund needs manual review.
const SILENT_REFUND: SignedDuration = SignedDuration::from_hours(7 * 24);
const SILENT: &str = "UnionPay has not said for a week what became of the refund: look for it in its statement";

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
    let is_over = is_over(account, operation, fields, now);
    // Done before: the order was reversed. (UnionPay knows the reversal by the order's own number.)
    let is_reversed = matches!(operation, Operation::Close(_)) && code == codes::REVERSED;
    match codes::refusal(code, Request::of(operation), word) {
        // Nobody has ever opened it.
        Some(Error::NotFound(_)) if is_over && unnamed.is_none() => return Ok(Outcome::of(Status::Closed)),
        Some(error) if !is_reversed => return Err(error),
        _ => {}
    }
    // A refused request may not be repeated in full; good news must say what it is about.
    if let Some(name) = unnamed {
        return Err(missing(name));
    }
    match operation {
        Operation::Pay(pay) => taken(pay, fields),
        Operation::Close(_) if is_reversed => Ok(Outcome::of(Status::Closed)),
        // It is only accepted: the order is queried.
        Operation::Close(_) => Err(Error::Conflict(word())),
        Operation::Refund(_) => Ok(Outcome { provider_id: own_id(fields), ..Outcome::of(Status::Pending) }),
        Operation::Query(order) => traded(&subject, fields, Age { is_over, may_retry: !order.method.is_scanned() }),
        Operation::QueryRefund(refund) => {
            if let Some(original) = &refund.order.provider_id {
                same("origQryId", fields, original)?;
            }
            // The payer was debited, which says nothing of the refund.
            if let Some(code @ ("42" | "74" | "75")) = fields.get("origRespCode") {
                return Err(Error::Conflict(codes::word(code, fields.get("origRespMsg").unwrap_or_default())));
            }
            let outcome = traded(&subject, fields, Age { is_over: false, may_retry: false })?;
            let is_silent = outcome.status == Status::Pending && is_older(refund.created_at, now, SILENT_REFUND);
            Ok(Outcome {
                needs_person: is_silent.then(|| SILENT.to_owned()).or(outcome.needs_person.clone()),
                ..outcome
            })
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
        Product::Qr => Some(NextAction::Qr { data: given(fields, "qrCode")?.to_owned() }),
        Product::App => {
            let tn = given(fields, "tn")?.to_owned();
            Some(NextAction::App { params: BTreeMap::from([("tn".to_owned(), tn)]) })
        }
        // The till waits; whether it was paid is told later.
        Product::Barcode => None,
        Product::Page => return Err(Error::unclear("a page is not answered")),
    };
    Ok(Outcome { action, provider_id: own_id(fields), ..Outcome::of(Status::Pending) })
}

/// How far a trade's time has come.
#[derive(Clone, Copy)]
struct Age {
    /// The payer's time has surely passed.
    is_over: bool,
    /// Before that the payer may try another card, so a failure is not the end.
    may_retry: bool,
}

/// What became of the trade that was queried. UnionPay's rule for an order with a payTimeout: once that has passed, whatever
/// is not a success has failed. What nobody went on with is closed then.
fn traded(subject: &Subject<'_>, fields: &Message<'_>, age: Age) -> Result<Outcome, Error> {
    let code = given(fields, "origRespCode")?;
    let word = || codes::word(code, fields.get("origRespMsg").unwrap_or_default());
    let (status, needs_person) = match codes::trade(code) {
        Some(Trade::Succeeded) => (Status::Succeeded, None),
        Some(Trade::Review(why)) => (Status::Succeeded, Some(why.to_owned())),
        Some(Trade::Waiting | Trade::Absent) if age.is_over => return Ok(Outcome::of(Status::Closed)),
        Some(Trade::Absent) => return Err(Error::NotFound(word())),
        _ if age.is_over => (Status::Failed, None),
        Some(Trade::Failed) if !age.may_retry => (Status::Failed, None),
        Some(Trade::Waiting | Trade::Open | Trade::Failed) => (Status::Pending, None),
        None => return Err(Error::UnlistedRefusal(word())),
    };
    let amount = amount(fields)?;
    if status == Status::Succeeded && amount.is_none() {
        return Err(Error::unclear("it says that money moved but not how much"));
    }
    Ok(Outcome {
        provider_id: own_id(fields),
        amount,
        at: at(fields, subject.at),
        needs_person,
        reason: (status == Status::Failed).then(word),
        ..Outcome::of(status)
    })
}

/// Whether a query is about an order whose payTimeout has surely passed. The time comes back in `reqReserved`, where we wrote
/// it; else it is the one that the order was made with. A till's payment has none: it is reversed instead.
fn is_over(account: &Account, operation: &Operation, fields: &Message<'_>, now: u64) -> bool {
    let Operation::Query(order) = operation else { return false };
    let told = fields.get("reqReserved").and_then(read_time);
    let end = told.or_else(|| deadline(account, order).ok());
    !order.method.is_scanned() && end.is_some_and(|end| is_past(end, now))
}

fn is_older(moment: Timestamp, now: u64, than: SignedDuration) -> bool {
    let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok());
    now.is_some_and(|now| now.duration_since(moment) > than)
}

/// `traceTime` has no year: it is the first such day from the order's own on.
fn at(fields: &Message<'_>, ordered: Timestamp) -> Option<Timestamp> {
    let moved = fields.get("traceTime")?;
    let earliest = ordered.checked_sub(SignedDuration::from_hours(24)).ok()?;
    let year = china_time::day(earliest).year();
    let is_time = moved.bytes().all(|byte| byte.is_ascii_digit());
    let in_year = |year| china_time::read_in_year(year, moved, "MMddHHmmss").filter(|at| is_time && *at >= earliest);
    in_year(year).or_else(|| in_year(year.checked_add(1)?))
}
