//! What the merchant's people do in Alipay's console, past every program.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::trade::Desk;
use crate::sandbox::Shared;
use crate::sandbox::account::Account;
use crate::sandbox::books::{Books, Id};
use crate::sandbox::notify::{Sending, Subject, send};

/// Gives money back under a number that no program knows. Alipay notifies of it where it notified of the payment.
pub(in crate::sandbox) fn refund(
    shared: &Arc<Shared>,
    books: &mut Books,
    order: &Id,
    number: &str,
    amount: u64,
) -> Result<(), String> {
    let Some(Account::Alipay(account)) = shared.accounts.get(&order.0) else {
        return Err("only Alipay's console is played here".to_owned());
    };
    let mut desk = Desk { books, account, now: Timestamp::now() };
    let request = desk.id(number);
    desk.give_back(order, &request, amount, json!({}), None, true);
    send(shared, books, &Subject::Refund(request), &Sending::default())
}
