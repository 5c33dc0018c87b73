//! Refunds that people make in a provider's console, past every program.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::Shared;
use super::account::Account;
use super::keys::random_digits;
use super::notify::{Sending, Subject, send};
use super::state::{Id, OrderEntry, Refund, RefundStatus, SandboxState, State};

/// Refunds a paid order under a number that no program knows. A refund that exists already gets its next status. The provider
/// notifies of the refund where it notified of the payment; an order without a notification URL is refunded silently.
pub(super) fn refund(
    shared: &Arc<Shared>,
    books: &mut SandboxState,
    order: &Id,
    (number, amount): (&str, u64),
    status: RefundStatus,
) -> Result<(), String> {
    match (shared.accounts.get(&order.0), status) {
        (None | Some(Account::Unionpay(_)), _) => {
            return Err("only the consoles of Alipay and WeChat Pay are played here".to_owned());
        }
        (_, RefundStatus::Processing) => return Err("`status` must be SUCCESS, CLOSED or ABNORMAL".to_owned()),
        (Some(Account::Alipay(_)), RefundStatus::Closed | RefundStatus::Abnormal) => {
            return Err("Alipay notifies of refunds that succeeded only".to_owned());
        }
        _ => {}
    }
    let id = (order.0.clone(), number.to_owned());
    let others =
        books.refunds_of(order).filter(|(other, refund)| *other != number && refund.status != RefundStatus::Closed);
    let given_back: u64 = others.map(|(_, refund)| refund.amount).sum();
    let Some(OrderEntry { order: Some(paid), refunds, .. }) = books.orders.get_mut(order) else {
        return Err("there is no such order".to_owned());
    };
    if paid.payment.is_none() || !matches!(paid.state, State::Success | State::Refund) {
        return Err(format!("the order is {}, and only a paid one can be refunded", paid.state.as_str()));
    }
    let left = paid.total.saturating_sub(given_back);
    if amount == 0 || amount > left {
        return Err(format!("the amount must be from 1 to {left} fen, which is left of the payment"));
    }
    paid.state = State::Refund;
    let (now, notify_url) = (Timestamp::now(), paid.notify_url.clone());
    let is_notified = notify_url.is_some();
    let finished = (status == RefundStatus::Success).then_some(now);
    let known = books.refunds.entry(id.clone()).or_insert_with(|| {
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
    if is_notified { send(shared, books, &Subject::Refund(id), &Sending::default()) } else { Ok(()) }
}
