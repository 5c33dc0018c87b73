//! Bill lines of a day, for every provider: payments and refunds.

use jiff::Timestamp;
use jiff::civil::Date;

use super::china_time::zoned;
use super::state::{Order, Refund, RefundStatus, SandboxState};

/// One line of a bill.
pub(super) struct Line<'a> {
    /// Time at which the money moved.
    pub(super) at: Timestamp,
    /// Merchant's order number.
    pub(super) number: &'a str,
    pub(super) order: &'a Order,
    /// Refund with the merchant's refund number; `None` for a payment.
    pub(super) refund: Option<(&'a str, &'a Refund)>,
}

/// Returns the account's lines of a day in UTC+8, oldest first. A provider creates bills the next morning. The
/// sandbox also returns the current day, so that tests need not wait.
pub(super) fn lines<'a>(state: &'a SandboxState, account: &str, day: Date) -> Vec<Line<'a>> {
    lines_of(state, account, |at| zoned(at).date() == day)
}

/// Returns the same lines as [`lines`], with the provider's own definition of a day.
pub(super) fn lines_of<'a>(
    state: &'a SandboxState,
    account: &str,
    is_of_day: impl Fn(Timestamp) -> bool,
) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (id, entry) in state.orders.iter().filter(|(id, _)| id.0 == account) {
        let Some(order) = &entry.order else { continue };
        let paid = order.payment.as_ref().map(|payment| payment.at);
        lines.extend(paid.map(|at| Line { at, number: &id.1, order, refund: None }));
        let refunds = state.refunds_of(id).filter(|(_, refund)| refund.status == RefundStatus::Success);
        lines.extend(refunds.filter_map(|(number, refund)| {
            Some(Line { at: refund.finished?, number: &id.1, order, refund: Some((number, refund)) })
        }));
    }
    lines.retain(|line| is_of_day(line.at));
    lines.sort_by_key(|line| line.at);
    lines
}

/// Parses `yyyy-MM-dd` strictly.
pub(super) fn day(text: &str) -> Option<Date> {
    text.parse::<Date>().ok().filter(|day| day.to_string() == text)
}

/// Formats fen as yuan.
pub(super) fn yuan(fen: u64) -> String {
    format!("{}.{:02}", fen / 100, fen % 100)
}
