//! What bills are made of, for every dialect: a day's payments and refunds.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

use super::state::{Order, Refund, RefundStatus, SandboxState};

/// One line of a bill.
pub(super) struct Line<'a> {
    /// When the money moved.
    pub(super) at: Timestamp,
    /// The merchant's number of the order.
    pub(super) number: &'a str,
    pub(super) order: &'a Order,
    /// The refund with the merchant's number of it; nothing for a payment.
    pub(super) refund: Option<(&'a str, &'a Refund)>,
}

/// The account's lines of a day in Beijing, oldest first. The original makes its bills the morning after; here the day may
/// still last, so that a test need not wait.
pub(super) fn lines<'a>(books: &'a SandboxState, account: &str, day: Date) -> Vec<Line<'a>> {
    lines_of(books, account, |at| at.to_zoned(TimeZone::fixed(Offset::constant(8))).date() == day)
}

/// The same of what a provider calls a day.
pub(super) fn lines_of<'a>(
    books: &'a SandboxState,
    account: &str,
    is_of_day: impl Fn(Timestamp) -> bool,
) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (id, entry) in books.orders.iter().filter(|(id, _)| id.0 == account) {
        let Some(order) = &entry.order else { continue };
        let paid = order.payment.as_ref().map(|payment| payment.at);
        lines.extend(paid.map(|at| Line { at, number: &id.1, order, refund: None }));
        let given_back = books.refunds_of(id).filter(|(_, refund)| refund.status == RefundStatus::Success);
        lines.extend(given_back.filter_map(|(number, refund)| {
            Some(Line { at: refund.finished?, number: &id.1, order, refund: Some((number, refund)) })
        }));
    }
    lines.retain(|line| is_of_day(line.at));
    lines.sort_by_key(|line| line.at);
    lines
}

/// Reads `yyyy-MM-dd`, and nothing looser.
pub(super) fn day(text: &str) -> Option<Date> {
    text.parse::<Date>().ok().filter(|day| day.to_string() == text)
}

/// Writes fen as yuan.
pub(super) fn yuan(fen: u64) -> String {
    format!("{}.{:02}", fen / 100, fen % 100)
}
