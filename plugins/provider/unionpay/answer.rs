//! Decoding of verified answers. An answer that does not match the order is rejected.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::super::china_time;
use super::account::Account;
use super::codes::{self, Request, Trade};
use super::fields::Message;
use super::request::{Product, deadline, is_past, read_time, refund_type, time};
use crate::error::Error;
use crate::payment::{Currency, Money, NextAction, Operation, Order, Outcome, Pay, Refund, Status};

/// Age after which a pending refund needs manual review.
const REFUND_REVIEW_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);
const OVERDUE_REFUND: &str =
    "UnionPay has not reported the result of the refund for a week: look for the refund in UnionPay's statement";

pub(super) fn decode(
    account: &Account,
    operation: &Operation,
    fields: &Message<'_>,
    now: u64,
) -> Result<Outcome, Error> {
    let subject = Subject::of(account, operation);
    let missing_field = subject.check(account, fields)?;
    let code = required(fields, "respCode")?;
    let provider_error = || codes::provider_error(code, fields.get("respMsg").unwrap_or_default());
    let is_past_timeout = is_past_timeout(account, operation, fields, now);
    // The order was reversed before. UnionPay identifies the reversal by the order's own number.
    let is_reversed = matches!(operation, Operation::Close(_)) && code == codes::REVERSED;
    match codes::refusal(code, Request::of(operation), provider_error) {
        // Nobody has ever opened the order.
        Some(Error::NotFound(_)) if is_past_timeout && missing_field.is_none() => {
            return Ok(Outcome::of(Status::Closed));
        }
        Some(error) if !is_reversed => return Err(error),
        _ => {}
    }
    // A refusal need not repeat the request's fields. A success must contain them.
    if let Some(name) = missing_field {
        return Err(missing(name));
    }
    match operation {
        Operation::Pay(pay) => accepted(pay, fields),
        Operation::Close(_) if is_reversed => Ok(Outcome::of(Status::Closed)),
        // UnionPay only accepted the reversal: its result comes from a query.
        Operation::Close(_) => Err(Error::Conflict(provider_error())),
        Operation::Refund(_) => Ok(Outcome { provider_id: own_id(fields), ..Outcome::of(Status::Pending) }),
        Operation::Query(order) => {
            trade_outcome(&subject, fields, Progress { is_past_timeout, may_retry: !order.method.is_scanned() })
        }
        Operation::QueryRefund(refund) => {
            if let Some(original) = &refund.order.provider_id {
                same("origQryId", fields, original)?;
            }
            // These codes report that the payer was debited, which does not describe the refund.
            if let Some(code @ ("42" | "74" | "75")) = fields.get("origRespCode") {
                return Err(Error::Conflict(codes::provider_error(
                    code,
                    fields.get("origRespMsg").unwrap_or_default(),
                )));
            }
            let outcome = trade_outcome(&subject, fields, Progress { is_past_timeout: false, may_retry: false })?;
            let is_overdue = outcome.status == Status::Pending && is_older(refund.created_at, now, REFUND_REVIEW_AFTER);
            Ok(Outcome {
                needs_review: is_overdue.then(|| OVERDUE_REFUND.to_owned()).or(outcome.needs_review.clone()),
                ..outcome
            })
        }
    }
}

/// Expected fields of an answer.
struct Subject<'a> {
    kind: &'static str,
    number: &'a str,
    at: Timestamp,
    amount: Money,
    /// True if `amount` is only the upper limit.
    is_limit: bool,
}

impl<'a> Subject<'a> {
    fn of(account: &Account, operation: &'a Operation) -> Self {
        let of_order = |kind, order: &'a Order| Self {
            kind,
            number: &order.number,
            at: order.created_at,
            amount: order.amount,
            is_limit: false,
        };
        let of_refund = |refund: &'a Refund| Self {
            kind: refund_type(account, refund),
            number: &refund.number,
            at: refund.created_at,
            amount: refund.amount,
            is_limit: refund.made_elsewhere,
        };
        match operation {
            Operation::Pay(pay) => of_order("01", &pay.order),
            Operation::Query(order) => of_order("01", order),
            Operation::Close(order) => of_order("99", order),
            Operation::Refund(refund) | Operation::QueryRefund(refund) => of_refund(refund),
        }
    }

    /// Rejects an answer about another account, order or amount. Returns the name of an identifying field that is
    /// missing.
    fn check(&self, account: &Account, fields: &Message<'_>) -> Result<Option<&'static str>, Error> {
        let mut missing_field = None;
        for (name, ours) in [("merId", &*account.mer_id), ("orderId", self.number), ("txnTime", &time(self.at))] {
            if !same(name, fields, ours)? {
                missing_field.get_or_insert(name);
            }
        }
        if let Some(merchant) = &account.sub_merchant {
            same("subMerId", fields, &merchant.id)?;
        }
        same("currencyCode", fields, "156")?;
        // The answer to a query may contain the query's type or the trade's.
        if fields.get("txnType").is_some_and(|kind| kind != self.kind && kind != "00") {
            return Err(Error::Mismatch("`txnType` does not match".to_owned()));
        }
        match amount(fields)? {
            Some(amount) if amount != self.amount && !(self.is_limit && amount.value <= self.amount.value) => {
                Err(Error::Mismatch(format!("`txnAmt` is {amount}, the order amount is {}", self.amount)))
            }
            _ => Ok(missing_field),
        }
    }
}

/// Rejects a different value. Returns whether the field is present.
fn same(name: &str, fields: &Message<'_>, ours: &str) -> Result<bool, Error> {
    match fields.get(name) {
        Some(theirs) if theirs != ours => Err(Error::Mismatch(format!("`{name}` does not match"))),
        theirs => Ok(theirs.is_some()),
    }
}

fn required<'a>(fields: &'a Message<'_>, name: &str) -> Result<&'a str, Error> {
    fields.get(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    Error::unclear(format!("the signed answer has no `{name}`"))
}

pub(super) fn amount(fields: &Message<'_>) -> Result<Option<Money>, Error> {
    let Some(text) = fields.get("txnAmt") else { return Ok(None) };
    let value =
        Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok());
    let value = value.ok_or_else(|| Error::Mismatch("`txnAmt` is not an amount".to_owned()))?;
    Ok(Some(Money { value, currency: Currency::CNY }))
}

fn own_id(fields: &Message<'_>) -> Option<String> {
    fields.get("queryId").map(str::to_owned)
}

fn accepted(pay: &Pay, fields: &Message<'_>) -> Result<Outcome, Error> {
    let action = match Product::of(pay.order.method)? {
        Product::Qr => Some(NextAction::Qr { data: required(fields, "qrCode")?.to_owned() }),
        Product::App => {
            let tn = required(fields, "tn")?.to_owned();
            Some(NextAction::App { params: BTreeMap::from([("tn".to_owned(), tn)]) })
        }
        // The payer may have to confirm; the result comes from a later query or notification.
        Product::Barcode => None,
        Product::Page => return Err(Error::unclear("answer to a page, which is never sent to UnionPay")),
    };
    Ok(Outcome { action, provider_id: own_id(fields), ..Outcome::of(Status::Pending) })
}

/// Progress of a trade in time.
#[derive(Clone, Copy)]
struct Progress {
    /// True if the payTimeout has passed, including a margin for clock differences.
    is_past_timeout: bool,
    /// True if the payer may try another card until the payTimeout. A failure before the payTimeout is then not final.
    may_retry: bool,
}

/// Decodes the state of the queried trade. UnionPay's rule for an order with a payTimeout: after it, an order without
/// success has failed. An order on which the payer did not continue is closed then.
fn trade_outcome(subject: &Subject<'_>, fields: &Message<'_>, progress: Progress) -> Result<Outcome, Error> {
    let code = required(fields, "origRespCode")?;
    let provider_error = || codes::provider_error(code, fields.get("origRespMsg").unwrap_or_default());
    let (status, needs_review) = match codes::trade(code) {
        Some(Trade::Succeeded) => (Status::Succeeded, None),
        Some(Trade::Review(why)) => (Status::Succeeded, Some(why.to_owned())),
        Some(Trade::Waiting | Trade::Absent) if progress.is_past_timeout => return Ok(Outcome::of(Status::Closed)),
        Some(Trade::Absent) => return Err(Error::NotFound(provider_error())),
        _ if progress.is_past_timeout => (Status::Failed, None),
        Some(Trade::Failed) if !progress.may_retry => (Status::Failed, None),
        Some(Trade::Waiting | Trade::Open | Trade::Failed) => (Status::Pending, None),
        None => return Err(Error::UnlistedRefusal(provider_error())),
    };
    let amount = amount(fields)?;
    if status == Status::Succeeded && amount.is_none() {
        return Err(Error::unclear("the answer says that money moved, but has no amount"));
    }
    Ok(Outcome {
        provider_id: own_id(fields),
        amount,
        at: at(fields, subject.at),
        needs_review,
        reason: (status == Status::Failed).then(provider_error),
        ..Outcome::of(status)
    })
}

/// Returns whether a query is about an order whose payTimeout has passed.
///
/// UnionPay returns the time in `reqReserved`, where the gateway stored it; otherwise it is computed from the order. A
/// scanned payment has no payTimeout: it is reversed instead.
fn is_past_timeout(account: &Account, operation: &Operation, fields: &Message<'_>, now: u64) -> bool {
    let Operation::Query(order) = operation else { return false };
    let echoed = fields.get("reqReserved").and_then(read_time);
    let end = echoed.or_else(|| deadline(account, order).ok());
    !order.method.is_scanned() && end.is_some_and(|end| is_past(end, now))
}

fn is_older(moment: Timestamp, now: u64, than: SignedDuration) -> bool {
    let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok());
    now.is_some_and(|now| now.duration_since(moment) > than)
}

/// Parses `traceTime`, which has no year: the first such day since the day before the order.
fn at(fields: &Message<'_>, ordered: Timestamp) -> Option<Timestamp> {
    let moved = fields.get("traceTime")?;
    let earliest = ordered.checked_sub(SignedDuration::from_hours(24)).ok()?;
    let year = china_time::day(earliest).year();
    let is_time = moved.bytes().all(|byte| byte.is_ascii_digit());
    let in_year = |year| china_time::read_in_year(year, moved, "MMddHHmmss").filter(|at| is_time && *at >= earliest);
    in_year(year).or_else(|| in_year(year.checked_add(1)?))
}
