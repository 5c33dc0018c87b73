//! How news changes a payment or a refund. Pure: the record, the news, who brings it and the time are arguments.
//!
//! Two laws: what the provider's verified word made final is never taken back, except that money which moved is always
//! believed; and what is not sure is never called failed.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::{Money, NextAction, Outcome, Status};

use super::records::{Inquiry, MAX_REPEATED_CREATES, MoneyState, Payment, Reason, Refund, Update};
use super::timeline::Origin;

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
/// what stays open is reversed. One that the provider wants reversed is marked so at once.
pub(super) fn payment(payment: &mut Payment, update: &Update, origin: Origin, now: Timestamp) -> Change {
    let (search, had_action) = (payment.search.clone(), payment.action.is_some());
    let is_absence_end = payment.ends_by_absence();
    let standing = RecordState {
        is_absence_end,
        amount: payment.amount,
        status: &mut payment.status,
        money_state: &mut payment.money_state,
        provider_id: &mut payment.provider_payment_id,
        action: Some(&mut payment.action),
        word: &mut payment.provider_error,
        sentence: &mut payment.status_reason,
        version: &mut payment.version,
        updated_at: &mut payment.updated_at,
        moved_at: &mut payment.paid_at,
        search: &mut payment.search,
    };
    let change = standing.apply(update, origin, now);
    if payment.method.is_scanned() && payment.status == Status::Pending {
        let search = payment.search.insert(search.unwrap_or_else(|| Inquiry::new(now)));
        if matches!(update, Update::Outcome(outcome) if outcome.needs_reversal) {
            search.closing = true;
            search.due = search.due.min(now);
        }
    }
    if payment.status.is_final() || payment.action.is_some() {
        payment.create_request = None;
    }
    if payment.status == Status::Pending && payment.action.is_some() && !had_action {
        (payment.provider_error, payment.status_reason) = (None, None);
    }
    if change.became == Some(Status::Pending) && payment.lacks_action() && payment.awaits_action() {
        hasten(payment.search.as_mut(), now);
    }
    change
}

/// Makes the search due at once, or after a pause where the identical create was already sent again in vain.
fn hasten(search: Option<&mut Inquiry>, now: Timestamp) {
    let Some(search) = search else { return };
    let pause = SignedDuration::from_secs(i64::from(search.repeated_creates.min(MAX_REPEATED_CREATES)));
    search.due = now.saturating_add(pause).unwrap_or(now);
}

/// Lets a refund hear news. A closed refund is a failed one: either way no money went back.
pub(super) fn refund(refund: &mut Refund, update: &Update, origin: Origin, now: Timestamp) -> Change {
    let had_search = refund.search.is_some();
    let is_absence_end = refund.ends_by_absence();
    let standing = RecordState {
        is_absence_end,
        amount: refund.amount,
        status: &mut refund.status,
        money_state: &mut refund.money_state,
        provider_id: &mut refund.provider_refund_id,
        action: None,
        word: &mut refund.provider_error,
        sentence: &mut refund.status_reason,
        version: &mut refund.version,
        updated_at: &mut refund.updated_at,
        moved_at: &mut refund.refunded_at,
        search: &mut refund.search,
    };
    let change = match update {
        Update::Outcome(outcome) if outcome.status == Status::Closed => {
            let failed = Outcome { status: Status::Failed, ..outcome.clone() };
            standing.apply(&Update::Outcome(failed), origin, now)
        }
        // A refund has no time of its own.
        Update::Expired => Change::default(),
        _ => standing.apply(update, origin, now),
    };
    // Accepted, but nothing confirms that the provider has it: a query decides, and need not wait for a notification.
    if !had_search && refund.status == Status::Pending && refund.ends_by_absence() {
        refund.search = Some(Inquiry::new(now));
    }
    change
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

/// A search that waits for a notification first.
fn watch(now: Timestamp) -> Inquiry {
    Inquiry { due: now.saturating_add(SILENCE).unwrap_or(now), ..Inquiry::new(now) }
}

/// What payments and refunds have in common, so that one set of rules serves both.
struct RecordState<'a> {
    /// True if the provider's "not known", said for long enough, ends it.
    is_absence_end: bool,
    amount: Money,
    status: &'a mut Status,
    money_state: &'a mut MoneyState,
    provider_id: &'a mut Option<String>,
    action: Option<&'a mut Option<NextAction>>,
    word: &'a mut Option<ProviderError>,
    sentence: &'a mut Option<String>,
    version: &'a mut u64,
    updated_at: &'a mut Timestamp,
    moved_at: &'a mut Option<Timestamp>,
    search: &'a mut Option<Inquiry>,
}

impl RecordState<'_> {
    fn apply(mut self, update: &Update, origin: Origin, now: Timestamp) -> Change {
        let (to, outcome) = match update {
            Update::Outcome(outcome) if outcome.amount.is_some_and(|amount| amount != self.amount) => {
                // Our own request ended in an answer that cannot be believed: that is no answer.
                let change = if origin == Origin::Request {
                    self.transition(Status::Unknown, origin, now)
                } else {
                    Change::default()
                };
                if change.became.is_some() {
                    self.because(&Reason::sentence("the provider's answer names another amount"));
                }
                return Change { mismatch: true, ..change };
            }
            Update::Outcome(outcome) => (outcome.status, Some(outcome)),
            Update::Declined(_) => (Status::Failed, None),
            Update::Unknown(_) => (Status::Unknown, None),
            Update::NotFoundAtProvider => return self.never_happened(origin, now),
            Update::Expired => return self.expired(origin, now),
            Update::NotSent(to, reason) => return self.unsent(*to, reason, origin, now),
        };
        let mut change = self.transition(to, origin, now);
        if change.became.is_some() {
            self.take_reason(update);
        }
        if let Some(outcome) = outcome.filter(|_| *self.status == to) {
            let filled = self.merge(outcome, change.became.is_some());
            if filled && !change.changed {
                change.changed = true;
                *self.version += 1;
                *self.updated_at = now;
            }
        }
        match *self.status {
            Status::Pending => {
                let search = self.search.get_or_insert_with(|| watch(now));
                search.confirmed |= outcome.is_some_and(|outcome| {
                    outcome.status == Status::Pending && (origin != Origin::Request || outcome.provider_id.is_some())
                });
            }
            status if status.is_final() && origin == Origin::Query => *self.search = None,
            _ => {}
        }
        change
    }

    /// Takes over why it came to a new status. What ends without a reason of its own keeps the one that it began with; money
    /// that moved needs none.
    fn take_reason(&mut self, update: &Update) {
        match update {
            Update::Declined(word) => self.because(&Reason { word: Some(word.clone()), sentence: None }),
            Update::Unknown(reason) | Update::NotSent(_, reason) => self.because(reason),
            Update::Outcome(outcome) => match &outcome.reason {
                _ if outcome.status == Status::Succeeded => (*self.word, *self.sentence) = (None, None),
                Some(word) => self.because(&Reason { word: Some(word.clone()), sentence: None }),
                None => {}
            },
            Update::NotFoundAtProvider | Update::Expired => {}
        }
    }

    fn because(&mut self, Reason { word, sentence }: &Reason) {
        if word.is_some() || sentence.is_some() {
            (*self.word, *self.sentence) = (word.clone(), sentence.clone());
        }
    }

    /// The provider does not know it. That ends what was unknown, and what it only accepted without confirming that it has it.
    /// An order that it once confirmed may come to life when the payer scans it, so it stays pending.
    fn never_happened(&mut self, origin: Origin, now: Timestamp) -> Change {
        if self.status.is_final() {
            *self.search = None;
            return Change::default();
        }
        if *self.status == Status::Pending && origin != Origin::Request && !self.is_absence_end {
            return Change::default();
        }
        let change = self.transition(Status::Failed, origin, now);
        if change.became.is_some() && self.word.is_none() && self.sentence.is_none() {
            *self.sentence = Some("the provider does not have it".to_owned());
        }
        change
    }

    /// Nobody opened it in time, and nobody can any more. Says nothing of what is not sent yet.
    fn expired(&mut self, origin: Origin, now: Timestamp) -> Change {
        if *self.status != Status::Pending || *self.money_state == MoneyState::NotSent {
            return Change::default();
        }
        let change = self.transition(Status::Closed, origin, now);
        *self.sentence = Some("its time is over, and nobody has begun to pay it".to_owned());
        change
    }

    /// Nothing was sent and nothing will be. Of what was heard of all the same it says nothing.
    fn unsent(&mut self, to: Status, reason: &Reason, origin: Origin, now: Timestamp) -> Change {
        if *self.status != Status::Pending || *self.money_state != MoneyState::NotSent {
            return Change::default();
        }
        let change = self.transition(to, origin, now);
        self.because(reason);
        *self.money_state = MoneyState::NotSent;
        change
    }

    /// Changes the status if it may be changed so.
    fn transition(&mut self, to: Status, origin: Origin, now: Timestamp) -> Change {
        if !can_transition(*self.status, to, origin) {
            return Change::default();
        }
        *self.status = to;
        *self.money_state = money_state(to);
        let new = match to {
            Status::Unknown => Some(Inquiry::new(now)),
            Status::Pending if self.search.as_ref().is_some_and(|search| search.closing) => Some(Inquiry::new(now)),
            Status::Pending => Some(watch(now)),
            _ => None,
        };
        // What was done stays done.
        *self.search = new.map(|new| match &*self.search {
            Some(Inquiry { closing, reversed, repeated_creates, .. }) => {
                Inquiry { closing: *closing, reversed: *reversed, repeated_creates: *repeated_creates, ..new }
            }
            None => new,
        });
        *self.version += 1;
        *self.updated_at = now;
        Change { changed: true, became: Some(to), mismatch: false }
    }

    /// Takes over what the outcome tells beside the status. A new status brings its own facts; an old one is only
    /// completed where something was missing.
    fn merge(&mut self, outcome: &Outcome, is_new: bool) -> bool {
        let mut filled = put(self.provider_id, outcome.provider_id.as_ref(), is_new);
        if let Some(action) = self.action.as_deref_mut().filter(|_| outcome.status == Status::Pending) {
            filled |= put(action, outcome.action.as_ref(), is_new);
        }
        if outcome.status == Status::Succeeded {
            filled |= put(self.moved_at, outcome.at.as_ref(), is_new);
        }
        if let Some(word) = outcome.reason.as_ref().filter(|_| outcome.status != Status::Succeeded) {
            filled |= put(self.word, Some(word), is_new || outcome.status == Status::Pending);
        }
        // Until a payment that went wrong is reversed, its payer may have been charged.
        let known = if outcome.needs_reversal { MoneyState::Unknown } else { money_state(outcome.status) };
        if *self.money_state != known {
            *self.money_state = known;
            filled = true;
        }
        filled
    }
}

/// Never backwards.
fn can_transition(from: Status, to: Status, origin: Origin) -> bool {
    match (from, to) {
        (Status::Succeeded, _) => false,
        (Status::Failed | Status::Closed, to) => to == Status::Succeeded,
        (Status::Pending, Status::Pending) | (Status::Unknown, Status::Unknown) => false,
        (Status::Pending, Status::Unknown) => origin == Origin::Request,
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
