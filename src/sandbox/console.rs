//! Refunds that people make in a provider's console, past every program.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::Shared;
use super::account::Account;
use super::books::{Books, Entry, Id, Refund, RefundStatus, State};
use super::keys::random_digits;
use super::notify::{Sending, Subject, send};

/// Refunds a paid order under a number that no program knows. The provider notifies of the refund where it notified of the
/// payment; an order without a notification URL is refunded silently.
pub(super) fn refund(
    shared: &Arc<Shared>,
    books: &mut Books,
    order: &Id,
    number: &str,
    amount: u64,
) -> Result<(), String> {
    if matches!(shared.accounts.get(&order.0), None | Some(Account::Unionpay(_))) {
        return Err("only the consoles of Alipay and WeChat Pay are played here".to_owned());
    }
    let id = (order.0.clone(), number.to_owned());
    if books.refunds.contains_key(&id) {
        return Err(format!("there is a refund `{number}` already"));
    }
    let alive = books.refunds_of(order).filter(|(_, refund)| refund.status != RefundStatus::Closed);
    let given_back: u64 = alive.map(|(_, refund)| refund.amount).sum();
    let Some(Entry { order: Some(paid), refunds, .. }) = books.orders.get_mut(order) else {
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
    refunds.push(number.to_owned());
    let (now, notify_url) = (Timestamp::now(), paid.notify_url.clone());
    let is_notified = notify_url.is_some();
    let refund = Refund {
        order: order.1.clone(),
        parameters: json!({}),
        notify_url,
        refund_id: format!("50{}", random_digits(26)),
        amount,
        status: RefundStatus::Success,
        created: now,
        finished: Some(now),
        notifications: Vec::new(),
    };
    books.refunds.insert(id.clone(), refund);
    if is_notified { send(shared, books, &Subject::Refund(id), &Sending::default()) } else { Ok(()) }
}
