//! What the merchant's people do in a provider's console, past every program.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::Shared;
use super::account::Account;
use super::books::{Books, Entry, Id, Refund, RefundStatus, State};
use super::keys::random_digits;
use super::notify::{Sending, Subject, send};

/// Gives money back under a number that no program knows, and notifies of how it ended where it notified of the payment. A
/// refund that is known already comes to its next end.
pub(super) fn refund(
    shared: &Arc<Shared>,
    books: &mut Books,
    order: &Id,
    (number, amount): (&str, u64),
    status: RefundStatus,
) -> Result<(), String> {
    match (shared.accounts.get(&order.0), status) {
        (Some(Account::Unionpay(_)), _) => return Err("UnionPay notifies of no refund in its console".to_owned()),
        (_, RefundStatus::Processing) => return Err("`status` must be SUCCESS, CLOSED or ABNORMAL".to_owned()),
        (Some(Account::Alipay(_)), RefundStatus::Closed | RefundStatus::Abnormal) => {
            return Err("Alipay notifies of refunds that succeeded only".to_owned());
        }
        _ => {}
    }
    let now = Timestamp::now();
    let finished = (status == RefundStatus::Success).then_some(now);
    let refund_id = (order.0.clone(), number.to_owned());
    let Some(Entry { order: Some(kept), refunds, .. }) = books.orders.get_mut(order) else {
        return Err("there is no such order".to_owned());
    };
    kept.state = State::Refund;
    let notify_url = kept.notify_url.clone();
    let known = books.refunds.entry(refund_id.clone()).or_insert_with(|| {
        refunds.push(number.to_owned());
        Refund {
            order: order.1.clone(),
            parameters: json!({}),
            notify_url,
            refund_id: format!("50{}", random_digits(26)),
            amount,
            status,
            created: now,
            finished,
            notifications: Vec::new(),
        }
    });
    (known.status, known.finished) = (status, finished);
    send(shared, books, &Subject::Refund(refund_id), &Sending::default())
}
