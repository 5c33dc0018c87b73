//! Encoding and decoding in the protocol of the account: form or v3.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use super::super::form;
use super::super::{Encoded, Signing, Verified};
use super::account::{Account, Protocol};
use super::product::Product;
use super::request::{params, post};
use super::signature::signed;
use super::{answer, v3};
use crate::error::Error;
use crate::payment::{NextAction, Operation, Order, Outcome, Status};

/// Encodes an operation. Links and order strings are signed locally and need no request.
pub(super) fn encode(account: &Account, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
    let send = || match account.protocol {
        Protocol::Form => Ok(Encoded::Send(post(&params(account, operation)?))),
        Protocol::V3 => v3::encode(account, operation).map(Encoded::Send),
    };
    let Operation::Pay(pay) = operation else { return send() };
    let order = || signed(account, params(account, operation)?, with).map(|params| form::write(&params));
    let action = match Product::of(pay.order.method)? {
        Product::Page | Product::Wap => NextAction::Redirect { url: format!("{}?{}", account.gateway, order()?) },
        Product::App => NextAction::App { params: [("orderStr".to_owned(), order()?)].into() },
        Product::Qr | Product::Barcode | Product::Jsapi => return send(),
    };
    Ok(Encoded::Answer(Outcome { action: Some(action), ..Outcome::of(Status::Pending) }))
}

/// Decodes a verified answer; `now` is unix seconds.
pub(super) fn decode(
    account: &Account,
    operation: &Operation,
    status: StatusCode,
    answer: &Verified,
    now: u64,
) -> Result<Outcome, Error> {
    let outcome = match account.protocol {
        Protocol::Form => answer::decode_form(account, operation, status, answer),
        Protocol::V3 => v3::decode(account, operation, status, answer.bytes()),
    };
    match (operation, outcome) {
        (Operation::Query(order), Err(Error::NotFound(_))) if is_past_expiry(order, now) => {
            Ok(Outcome::of(Status::Closed))
        }
        (_, outcome) => outcome,
    }
}

/// Returns whether it is certain that nobody can start to pay the order any more. Alipay knows by then of every trade
/// that was started in time. Orders with a scanned code are cancelled instead.
fn is_past_expiry(order: &Order, now: u64) -> bool {
    /// Bound for Alipay's clock difference and for the delay until a trade is visible to queries.
    const MARGIN: SignedDuration = SignedDuration::from_mins(10);
    let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok());
    let late = now.zip(order.expires_at).map(|(now, end)| now.duration_since(end));
    !order.method.is_scanned() && late.is_some_and(|late| late > MARGIN)
}
