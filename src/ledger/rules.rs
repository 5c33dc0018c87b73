//! State machine of payments and refunds. Pure functions: the record, the update, its origin and the time are
//! arguments.
//!
//! Two laws. A final status from the provider's verified answer is never changed, except that money which moved is
//! always recorded. A result that is not certain is never called failed.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::{Money, NextAction, Outcome, Status};

use super::records::{Inquiry, MAX_REPEATED_CREATES, MoneyState, Payment, Reason, RecordState, Refund, Update};
use super::timeline::Origin;

/// Effect of an update on a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The record has changed and its version was incremented.
    pub(super) changed: bool,
    /// New status, if the status has changed.
    pub(super) became: Option<Status>,
    /// The update names another amount and was rejected.
    pub(super) mismatch: bool,
}

/// Applies an update to a payment. While a payer may still be entering a password, the payment stays scheduled for
/// polling; if it stays open, it is reversed. A payment that the provider wants reversed is marked for closing at
/// once.
pub(super) fn payment(payment: &mut Payment, update: &Update, origin: Origin, now: Timestamp) -> Change {
    let (inquiry, had_action) = (payment.inquiry.clone(), payment.action.is_some());
    // A scanned payment ends by its reversal, or after one that the provider accepted.
    let was_reversed = payment.method.is_scanned() && matches!(payment.status, Status::Closed | Status::Failed);
    let is_absence_end = payment.ends_by_absence();
    let machine = StateMachine {
        is_absence_end,
        amount: payment.amount,
        state: &mut payment.state,
        provider_id: &mut payment.provider_payment_id,
        action: Some(&mut payment.action),
        moved_at: &mut payment.paid_at,
    };
    let mut change = machine.apply(update, origin, now);
    let is_closing = inquiry.as_ref().is_some_and(|inquiry| inquiry.closing);
    let contradicts = payment.status == Status::Succeeded && origin == Origin::Query && is_reversed(payment, update);
    change.mismatch |= is_closing && change.became.is_none() && contradicts;
    // The close may have reached the provider after the success was read: later queries decide.
    if change.became == Some(Status::Succeeded) && (is_closing || was_reversed) {
        payment.inquiry = Some(confirmation(now));
    }
    if payment.method.is_scanned() && payment.status == Status::Pending {
        let inquiry = payment.inquiry.insert(inquiry.unwrap_or_else(|| Inquiry::new(now)));
        if matches!(update, Update::Outcome(outcome) if outcome.needs_reversal) {
            inquiry.closing = true;
            inquiry.due = inquiry.due.min(now);
        }
    }
    if payment.status.is_final() || payment.action.is_some() {
        payment.create_request = None;
    }
    if payment.status == Status::Pending && payment.action.is_some() && !had_action {
        (payment.provider_error, payment.status_reason) = (None, None);
    }
    if change.became == Some(Status::Pending) && payment.lacks_action() && payment.awaits_action() {
        schedule_soon(payment.inquiry.as_mut(), now);
    }
    change
}

/// Returns whether the provider reports that our own close reversed a payment. UnionPay reports a reversed order as
/// failed. A payment that was refunded in full is reported as closed by some providers.
fn is_reversed(payment: &Payment, update: &Update) -> bool {
    let is_ended =
        matches!(update, Update::Outcome(outcome) if matches!(outcome.status, Status::Closed | Status::Failed));
    is_ended && payment.refunded < payment.amount.value
}

/// Meaning of a provider's answer about a payment that has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SuccessCheck {
    /// The answer agrees with the success, or with its full refund.
    Agrees,
    /// The answer names an ended order while a refund of the rest is under way: it may be that refund or a reversal.
    Undecided,
    /// A close has reversed the payment: the payer has the money back.
    Reversed,
}

/// Compares a provider's answer with a success. `reserved` is the sum of all refunds that have not failed.
pub(super) fn check_success(payment: &Payment, reserved: u64, update: &Update) -> SuccessCheck {
    match payment.status == Status::Succeeded && is_reversed(payment, update) {
        false => SuccessCheck::Agrees,
        true if reserved >= payment.amount.value => SuccessCheck::Undecided,
        true => SuccessCheck::Reversed,
    }
}

/// Postpones the query that confirms a success, because its answer cannot be told from a refund that is under way.
pub(super) fn postpone_confirmation(payment: &mut Payment, now: Timestamp) {
    let [_, delay] = CONFIRMATION_DELAYS;
    if let Some(inquiry) = &mut payment.inquiry {
        inquiry.due = now.saturating_add(delay).unwrap_or(now);
    }
}

/// Makes the inquiry due at once, or after a delay if the identical create was repeated before without success.
fn schedule_soon(inquiry: Option<&mut Inquiry>, now: Timestamp) {
    let Some(inquiry) = inquiry else { return };
    let pause = SignedDuration::from_secs(i64::from(inquiry.repeated_creates.min(MAX_REPEATED_CREATES)));
    inquiry.due = now.saturating_add(pause).unwrap_or(now);
}

/// Applies an update to a refund. A closed refund counts as failed: no money was returned in either case.
pub(super) fn refund(refund: &mut Refund, update: &Update, origin: Origin, now: Timestamp) -> Change {
    let had_inquiry = refund.inquiry.is_some();
    let is_absence_end = refund.ends_by_absence();
    let machine = StateMachine {
        is_absence_end,
        amount: refund.amount,
        state: &mut refund.state,
        provider_id: &mut refund.provider_refund_id,
        action: None,
        moved_at: &mut refund.refunded_at,
    };
    let change = match update {
        Update::Outcome(outcome) if outcome.status == Status::Closed => {
            let failed = Outcome { status: Status::Failed, ..outcome.clone() };
            machine.apply(&Update::Outcome(failed), origin, now)
        }
        // A refund does not expire.
        Update::Expired => Change::default(),
        _ => machine.apply(update, origin, now),
    };
    // The refund was accepted, but nothing confirms that the provider has it. A query decides this without waiting
    // for a notification.
    if !had_inquiry && refund.status == Status::Pending && refund.ends_by_absence() {
        refund.inquiry = Some(Inquiry::new(now));
    }
    change
}

/// Returns the type of the event for a payment's new status.
pub(super) fn payment_event(status: Status) -> Option<&'static str> {
    match status {
        Status::Succeeded => Some("payment.succeeded"),
        Status::Failed => Some("payment.failed"),
        Status::Closed => Some("payment.closed"),
        Status::Unknown => Some("payment.unknown"),
        Status::Pending => None,
    }
}

/// Returns the type of the event for a refund's new status.
pub(super) fn refund_event(status: Status) -> Option<&'static str> {
    match status {
        Status::Succeeded => Some("refund.succeeded"),
        Status::Failed | Status::Closed => Some("refund.failed"),
        Status::Unknown | Status::Pending => None,
    }
}

/// Delay before the first query about a pending record. Most payments succeed earlier, and their notification
/// arrives.
const NOTIFICATION_WAIT: SignedDuration = SignedDuration::from_mins(5);

/// Delays before the queries that confirm a success during a close. Answers that arrive before the first may be to
/// queries that preceded the close. Some providers only accept a reversal and execute it later, hence the second.
const CONFIRMATION_DELAYS: [SignedDuration; 2] = [SignedDuration::from_secs(10), SignedDuration::from_mins(5)];

/// Returns the inquiry that confirms a success after a close that may have reversed the payment.
pub(super) fn confirmation(now: Timestamp) -> Inquiry {
    let [first, _] = CONFIRMATION_DELAYS;
    let due = now.saturating_add(first).unwrap_or(now);
    Inquiry { closing: true, confirmations: 2, due, ..Inquiry::new(now) }
}

/// Returns an inquiry that first waits for a notification.
fn delayed_inquiry(now: Timestamp) -> Inquiry {
    Inquiry { due: now.saturating_add(NOTIFICATION_WAIT).unwrap_or(now), ..Inquiry::new(now) }
}

/// State machine of one record, with the fields that payments and refunds name differently.
struct StateMachine<'a> {
    /// True if the provider's repeated "not found" ends the record.
    is_absence_end: bool,
    amount: Money,
    state: &'a mut RecordState,
    provider_id: &'a mut Option<String>,
    action: Option<&'a mut Option<NextAction>>,
    moved_at: &'a mut Option<Timestamp>,
}

impl StateMachine<'_> {
    fn apply(mut self, update: &Update, origin: Origin, now: Timestamp) -> Change {
        let (to, outcome) = match update {
            Update::Outcome(outcome) if outcome.amount.is_some_and(|amount| amount != self.amount) => {
                // An answer to our own request that cannot be trusted counts as no answer.
                let change = if origin == Origin::Request {
                    self.transition(Status::Unknown, origin, now)
                } else {
                    Change::default()
                };
                if change.became.is_some() {
                    self.set_reason(&Reason::sentence("the provider's answer names another amount"));
                }
                return Change { mismatch: true, ..change };
            }
            Update::Outcome(outcome) => (outcome.status, Some(outcome)),
            Update::Declined(_) => (Status::Failed, None),
            Update::Unknown(_) => (Status::Unknown, None),
            Update::NotFoundAtProvider => return self.not_found_at_provider(origin, now),
            Update::Expired => return self.expired(origin, now),
            Update::NotSent(to, reason) => return self.not_sent(*to, reason, origin, now),
        };
        let mut change = self.transition(to, origin, now);
        if change.became.is_some() {
            self.record_reason(update);
        }
        if let Some(outcome) = outcome.filter(|_| self.state.status == to) {
            let filled = self.merge(outcome, change.became.is_some());
            if filled && !change.changed {
                change.changed = true;
                self.state.version += 1;
                self.state.updated_at = now;
            }
        }
        match self.state.status {
            Status::Pending => {
                let inquiry = self.state.inquiry.get_or_insert_with(|| delayed_inquiry(now));
                inquiry.confirmed |= outcome.is_some_and(|outcome| {
                    outcome.status == Status::Pending && (origin != Origin::Request || outcome.provider_id.is_some())
                });
            }
            status if status.is_final() && origin == Origin::Query => self.end_or_postpone_inquiry(to, now),
            _ => {}
        }
        change
    }

    /// Ends the inquiry of a final record. A success that a close may have reversed is first confirmed: by a success
    /// after each delay. A pending answer proves nothing.
    fn end_or_postpone_inquiry(&mut self, answer: Status, now: Timestamp) {
        let [_, delay] = CONFIRMATION_DELAYS;
        let is_success = self.state.status == Status::Succeeded;
        let Some(inquiry) = self.state.inquiry.as_mut().filter(|inquiry| is_success && inquiry.confirmations > 0)
        else {
            self.state.inquiry = None;
            return;
        };
        // A due time beyond the delay was written by a wrong clock.
        let is_early = now < inquiry.due && inquiry.due.duration_since(now) <= delay;
        match answer {
            Status::Succeeded if is_early => {}
            Status::Succeeded if inquiry.confirmations > 1 => {
                inquiry.confirmations -= 1;
                inquiry.due = now.saturating_add(delay).unwrap_or(now);
            }
            answer if !answer.is_final() => {}
            _ => self.state.inquiry = None,
        }
    }

    /// Records the reason of a new status. A result without a reason keeps the earlier one. Success clears it.
    fn record_reason(&mut self, update: &Update) {
        match update {
            Update::Declined(provider_error) => {
                self.set_reason(&Reason { provider_error: Some(provider_error.clone()), sentence: None })
            }
            Update::Unknown(reason) | Update::NotSent(_, reason) => self.set_reason(reason),
            Update::Outcome(outcome) => match &outcome.reason {
                _ if outcome.status == Status::Succeeded => {
                    (self.state.provider_error, self.state.status_reason) = (None, None)
                }
                Some(provider_error) => {
                    self.set_reason(&Reason { provider_error: Some(provider_error.clone()), sentence: None })
                }
                None => {}
            },
            Update::NotFoundAtProvider | Update::Expired => {}
        }
    }

    fn set_reason(&mut self, Reason { provider_error, sentence }: &Reason) {
        if provider_error.is_some() || sentence.is_some() {
            (self.state.provider_error, self.state.status_reason) = (provider_error.clone(), sentence.clone());
        }
    }

    /// Ends a record that the provider does not have: an unknown one, or one that the provider accepted without
    /// confirming it. An order that the provider once confirmed may still be paid when the payer scans it, so it
    /// stays pending.
    fn not_found_at_provider(&mut self, origin: Origin, now: Timestamp) -> Change {
        if self.state.status.is_final() {
            // "Not found" confirms no success.
            self.state.inquiry = self.state.inquiry.take().filter(|inquiry| inquiry.confirmations > 0);
            return Change::default();
        }
        if self.state.status == Status::Pending && origin != Origin::Request && !self.is_absence_end {
            return Change::default();
        }
        let change = self.transition(Status::Failed, origin, now);
        if change.became.is_some() && self.state.provider_error.is_none() && self.state.status_reason.is_none() {
            self.state.status_reason = Some("the provider does not have it".to_owned());
        }
        change
    }

    /// Closes a payment that nobody opened in time. Ignored for a payment that was not sent yet.
    fn expired(&mut self, origin: Origin, now: Timestamp) -> Change {
        if self.state.status != Status::Pending || self.state.money_state == MoneyState::NotSent {
            return Change::default();
        }
        let change = self.transition(Status::Closed, origin, now);
        self.state.status_reason = Some("its time is over, and nobody has begun to pay it".to_owned());
        change
    }

    /// Ends a record of which nothing was sent and nothing will be. Ignored if an update has arrived.
    fn not_sent(&mut self, to: Status, reason: &Reason, origin: Origin, now: Timestamp) -> Change {
        if self.state.status != Status::Pending || self.state.money_state != MoneyState::NotSent {
            return Change::default();
        }
        let change = self.transition(to, origin, now);
        self.set_reason(reason);
        self.state.money_state = MoneyState::NotSent;
        change
    }

    /// Changes the status if the transition is allowed.
    fn transition(&mut self, to: Status, origin: Origin, now: Timestamp) -> Change {
        if !can_transition(self.state.status, to, origin) {
            return Change::default();
        }
        self.state.status = to;
        self.state.money_state = money_state(to);
        let new = match to {
            Status::Unknown => Some(Inquiry::new(now)),
            Status::Pending if self.state.inquiry.as_ref().is_some_and(|inquiry| inquiry.closing) => {
                Some(Inquiry::new(now))
            }
            Status::Pending => Some(delayed_inquiry(now)),
            _ => None,
        };
        // Flags of completed actions survive the transition.
        self.state.inquiry = new.map(|new| match &self.state.inquiry {
            Some(Inquiry { closing, reversed, repeated_creates, .. }) => {
                Inquiry { closing: *closing, reversed: *reversed, repeated_creates: *repeated_creates, ..new }
            }
            None => new,
        });
        self.state.version += 1;
        self.state.updated_at = now;
        Change { changed: true, became: Some(to), mismatch: false }
    }

    /// Merges the other fields of the outcome. A new status replaces them; an unchanged status only fills empty ones.
    fn merge(&mut self, outcome: &Outcome, is_new: bool) -> bool {
        let mut filled = put(self.provider_id, outcome.provider_id.as_ref(), is_new);
        if let Some(action) = self.action.as_deref_mut().filter(|_| outcome.status == Status::Pending) {
            filled |= put(action, outcome.action.as_ref(), is_new);
        }
        if outcome.status == Status::Succeeded {
            filled |= put(self.moved_at, outcome.at.as_ref(), is_new);
        }
        if let Some(provider_error) = outcome.reason.as_ref().filter(|_| outcome.status != Status::Succeeded) {
            filled |=
                put(&mut self.state.provider_error, Some(provider_error), is_new || outcome.status == Status::Pending);
        }
        // Until a payment that went wrong is reversed, its payer may have been charged.
        let known = if outcome.needs_reversal { MoneyState::Unknown } else { money_state(outcome.status) };
        if self.state.money_state != known {
            self.state.money_state = known;
            filled = true;
        }
        filled
    }
}

/// Returns whether a transition is allowed. A status never goes backwards.
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
