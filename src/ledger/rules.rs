//! How news changes a payment or a refund. Pure: the record, the news, who brings it and the time are arguments.
//!
//! Two laws: what the provider's verified word made final is never taken back, except that money which moved is always
//! believed; and what is not sure is never called failed.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::error::Word;
use tollgate_plugins::payment::{Action, Money, Outcome, Status};

use super::records::{MoneyState, News, Payment, Refund, Search};
use super::timeline::Source;

/// What news did to a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The record differs from before, so its version grew.
    pub(super) changed: bool,
    /// The status that it came to, when it came to another one.
    pub(super) became: Option<Status>,
    /// The news is about another amount; it was not believed.
    pub(super) mismatch: bool,
}

/// Lets a payment hear news. One whose payer may be typing a password is watched until its end: a till waits for it, and
/// what stays open is reversed.
pub(super) fn payment(payment: &mut Payment, news: &News, source: Source, now: Timestamp) -> Change {
    let search = payment.search.clone();
    let standing = Standing {
        amount: payment.amount,
        status: &mut payment.status,
        money_state: &mut payment.money_state,
        provider_id: &mut payment.provider_payment_id,
        action: Some(&mut payment.action),
        word: &mut payment.word,
        version: &mut payment.version,
        updated_at: &mut payment.updated_at,
        moved_at: &mut payment.paid_at,
        search: &mut payment.search,
    };
    let change = standing.hear(news, source, now);
    if payment.method.is_scanned() && payment.status == Status::Pending {
        payment.search = search.or_else(|| Some(new_search(now)));
    }
    change
}

/// Lets a refund hear news. A closed refund is a failed one: either way no money went back.
pub(super) fn refund(refund: &mut Refund, news: &News, source: Source, now: Timestamp) -> Change {
    let standing = Standing {
        amount: refund.amount,
        status: &mut refund.status,
        money_state: &mut refund.money_state,
        provider_id: &mut refund.provider_refund_id,
        action: None,
        word: &mut refund.word,
        version: &mut refund.version,
        updated_at: &mut refund.updated_at,
        moved_at: &mut refund.refunded_at,
        search: &mut refund.search,
    };
    match news {
        News::Outcome(outcome) if outcome.status == Status::Closed => {
            let failed = Outcome { status: Status::Failed, ..outcome.clone() };
            standing.hear(&News::Outcome(failed), source, now)
        }
        _ => standing.hear(news, source, now),
    }
}

/// What the merchant is told when a payment came to this status.
pub(super) fn payment_event(status: Status) -> Option<&'static str> {
    match status {
        Status::Succeeded => Some("payment.succeeded"),
        Status::Failed => Some("payment.failed"),
        Status::Closed => Some("payment.closed"),
        Status::Unknown => Some("payment.unknown"),
        Status::Pending => None,
    }
}

/// What the merchant is told when a refund came to this status.
pub(super) fn refund_event(status: Status) -> Option<&'static str> {
    match status {
        Status::Succeeded => Some("refund.succeeded"),
        Status::Failed | Status::Closed => Some("refund.failed"),
        Status::Unknown | Status::Pending => None,
    }
}

/// How long a pending one is not asked about: most are paid by then, and their notifications are here.
const SILENCE: SignedDuration = SignedDuration::from_mins(5);

/// A search that starts now, due at once.
pub(super) fn new_search(now: Timestamp) -> Search {
    Search { since: now, due: now, asked: 0, absent: 0, needs_person: false, closing: false }
}

/// A search that waits for a notification first.
fn watch(now: Timestamp) -> Search {
    Search { due: now.saturating_add(SILENCE).unwrap_or(now), ..new_search(now) }
}

/// What payments and refunds have in common, so that one set of rules serves both.
struct Standing<'a> {
    amount: Money,
    status: &'a mut Status,
    money_state: &'a mut MoneyState,
    provider_id: &'a mut Option<String>,
    action: Option<&'a mut Option<Action>>,
    word: &'a mut Option<Word>,
    version: &'a mut u64,
    updated_at: &'a mut Timestamp,
    moved_at: &'a mut Option<Timestamp>,
    search: &'a mut Option<Search>,
}

impl Standing<'_> {
    fn hear(mut self, news: &News, source: Source, now: Timestamp) -> Change {
        let (to, outcome, word) = match news {
            News::Outcome(outcome) if outcome.amount.is_some_and(|amount| amount != self.amount) => {
                // Our own request ended in an answer that cannot be believed: that is no answer.
                let change =
                    if source == Source::Own { self.go(Status::Unknown, source, now) } else { Change::default() };
                return Change { mismatch: true, ..change };
            }
            News::Outcome(outcome) => (outcome.status, Some(outcome), None),
            News::Declined(word) => (Status::Failed, None, Some(word)),
            News::Unknown => (Status::Unknown, None, None),
            News::NeverHappened => return self.never_happened(source, now),
            News::Unsent(to) => return self.unsent(*to, source, now),
        };
        let mut change = self.go(to, source, now);
        if change.became.is_some() {
            *self.word = word.cloned();
        }
        if let Some(outcome) = outcome.filter(|_| *self.status == to) {
            let filled = self.fill(outcome, change.became.is_some());
            if filled && !change.changed {
                change.changed = true;
                *self.version += 1;
                *self.updated_at = now;
            }
        }
        match *self.status {
            Status::Pending => drop(self.search.get_or_insert_with(|| watch(now))),
            status if status.is_final() && source == Source::Asked => *self.search = None,
            _ => {}
        }
        change
    }

    /// The provider does not know it. That ends what was unknown; but what it once confirmed may only not be there yet
    /// (an order that comes to life when the payer scans it), so a pending one stays.
    fn never_happened(&mut self, source: Source, now: Timestamp) -> Change {
        if self.status.is_final() {
            *self.search = None;
            return Change::default();
        }
        if *self.status == Status::Pending && source != Source::Own {
            return Change::default();
        }
        let change = self.go(Status::Failed, source, now);
        if change.became.is_some() {
            *self.word = None;
        }
        change
    }

    /// Nothing was sent and nothing will be. Of what was heard of all the same it says nothing.
    fn unsent(&mut self, to: Status, source: Source, now: Timestamp) -> Change {
        if *self.status != Status::Pending || *self.money_state != MoneyState::NotSent {
            return Change::default();
        }
        let change = self.go(to, source, now);
        *self.money_state = MoneyState::NotSent;
        change
    }

    /// Changes the status if it may be changed so.
    fn go(&mut self, to: Status, source: Source, now: Timestamp) -> Change {
        if !may_go(*self.status, to, source) {
            return Change::default();
        }
        *self.status = to;
        *self.money_state = money_state(to);
        let closing = self.search.as_ref().is_some_and(|search| search.closing);
        *self.search = match to {
            Status::Unknown => Some(Search { closing, ..new_search(now) }),
            Status::Pending if closing => Some(Search { closing, ..new_search(now) }),
            Status::Pending => Some(watch(now)),
            _ => None,
        };
        *self.version += 1;
        *self.updated_at = now;
        Change { changed: true, became: Some(to), mismatch: false }
    }

    /// Takes over what the outcome tells beside the status. A new status brings its own facts; an old one is only
    /// completed where something was missing.
    fn fill(&mut self, outcome: &Outcome, is_new: bool) -> bool {
        let mut filled = put(self.provider_id, outcome.provider_id.as_ref(), is_new);
        if let Some(action) = self.action.as_deref_mut().filter(|_| outcome.status == Status::Pending) {
            filled |= put(action, outcome.action.as_ref(), is_new);
        }
        if outcome.status == Status::Succeeded {
            filled |= put(self.moved_at, outcome.at.as_ref(), is_new);
        }
        if *self.money_state != money_state(outcome.status) {
            *self.money_state = money_state(outcome.status);
            filled = true;
        }
        filled
    }
}

/// Never backwards.
fn may_go(from: Status, to: Status, source: Source) -> bool {
    match (from, to) {
        (Status::Succeeded, _) => false,
        (Status::Failed | Status::Closed, to) => to == Status::Succeeded,
        (Status::Pending, Status::Pending) | (Status::Unknown, Status::Unknown) => false,
        (Status::Pending, Status::Unknown) => source == Source::Own,
        (Status::Pending | Status::Unknown, _) => true,
    }
}

fn money_state(status: Status) -> MoneyState {
    match status {
        Status::Pending | Status::Failed | Status::Closed => MoneyState::NotMoved,
        Status::Succeeded => MoneyState::Moved,
        Status::Unknown => MoneyState::Unknown,
    }
}

fn put<T: Clone + PartialEq>(ours: &mut Option<T>, theirs: Option<&T>, replace: bool) -> bool {
    let wanted = theirs.is_some() && (ours.is_none() || replace) && ours.as_ref() != theirs;
    if wanted {
        *ours = theirs.cloned();
    }
    wanted
}

#[cfg(test)]
mod tests;
