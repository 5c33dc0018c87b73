//! Refunds in a provider's console, which bypass the gateway.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::context::SandboxContext;
use super::keys::random_digits;
use super::notification::{SendOptions, Subject};
use super::notify::send;
use super::order_machine::NewRefund;
use super::state::{Id, OrderState, RefundStatus, SandboxState};

/// Refunds a paid order under a number that the gateway does not know. An existing refund gets the new status. The
/// provider notifies of the refund at the URL of the payment. An order without a notification URL is refunded
/// silently.
pub(super) fn refund(
    context: &Arc<SandboxContext>,
    state: &mut SandboxState,
    order: &Id,
    (number, amount): (&str, u64),
    status: RefundStatus,
) -> Result<(), String> {
    let statuses =
        context.accounts.get(&order.0).map(|account| account.profile().console_refund_statuses).unwrap_or_default();
    if statuses.is_empty() {
        return Err("only the consoles of Alipay and WeChat Pay are simulated".to_owned());
    }
    if status == RefundStatus::Processing {
        return Err("`status` must be SUCCESS, CLOSED or ABNORMAL".to_owned());
    }
    if !statuses.contains(&status) {
        return Err("Alipay notifies only of succeeded refunds".to_owned());
    }
    let id = (order.0.clone(), number.to_owned());
    let others =
        state.refunds_of(order).filter(|(other, refund)| *other != number && refund.status != RefundStatus::Closed);
    let refunded: u64 = others.map(|(_, refund)| refund.amount).sum();
    let Some(paid) = state.orders.get(order).and_then(|entry| entry.order.as_ref()) else {
        return Err("the order does not exist".to_owned());
    };
    if paid.payment.is_none() || !matches!(paid.state, OrderState::Success | OrderState::Refund) {
        return Err(format!("the order is {}; only a paid order can be refunded", paid.state.as_str()));
    }
    let balance = paid.total.saturating_sub(refunded);
    if amount == 0 || amount > balance {
        return Err(format!("the amount must be from 1 to {balance} fen, the refundable balance"));
    }
    let (now, notify_url) = (Timestamp::now(), paid.notify_url.clone());
    let is_notified = notify_url.is_some();
    if !state.refunds.contains_key(&id) {
        let refund_id = format!("50{}", random_digits(26));
        state.refund(order, &id, NewRefund { refund_id, amount, notify_url, parameters: json!({}) }, now);
    }
    state.finish_refund(&id, status, now);
    if is_notified { send(context, state, &Subject::Refund(id), &SendOptions::default()) } else { Ok(()) }
}
