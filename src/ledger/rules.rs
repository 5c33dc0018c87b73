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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{a_payment, a_refund, at, cny, outcome, word};
    use super::Source::{Asked, Own, Told};
    use super::*;

    const NEWS: [(&str, &str); 7] = [
        // News, then for each status it meets what it leaves: P, S, F, C, U; `-` is no change.
        // In the order Pending, Succeeded, Failed, Closed, Unknown.
        ("pending", "- - - - P"),
        ("succeeded", "S - S S S"),
        ("failed", "F - - - F"),
        ("closed", "C - - - C"),
        ("declined", "F - - - F"),
        ("unknown", "U - - - -"),
        ("never", "F - - - F"),
    ];
    const STATUSES: [Status; 5] = [Status::Pending, Status::Succeeded, Status::Failed, Status::Closed, Status::Unknown];

    fn news(name: &str) -> News {
        match name {
            "declined" => News::Declined(word()),
            "unknown" => News::Unknown,
            "never" => News::NeverHappened,
            _ => outcome(*STATUSES.iter().find(|status| status.as_str() == name).unwrap()),
        }
    }

    fn standing(status: Status) -> Payment {
        let search = (!status.is_final()).then(|| new_search(at(1)));
        Payment { status, money_state: money_state(status), version: 7, search, ..a_payment("o") }
    }

    #[test]
    fn every_news_in_every_status_from_everyone() {
        for (name, row) in NEWS {
            for (from, to) in STATUSES.into_iter().zip(row.split(' ')) {
                for source in [Own, Asked, Told] {
                    let only_own = from == Status::Pending && (name == "unknown" || name == "never");
                    let expected = match STATUSES.into_iter().find(|status| status.as_str()[..1] == to.to_lowercase()) {
                        Some(_) if only_own && source != Own => None,
                        expected => expected,
                    };
                    let mut after = standing(from);
                    let change = payment(&mut after, &news(name), source, at(5));
                    let place = format!("{name} from {source:?} meets {from:?}");
                    assert_eq!(
                        change,
                        Change { changed: expected.is_some(), became: expected, mismatch: false },
                        "{place}"
                    );
                    assert_eq!(after.status, expected.unwrap_or(from), "{place}");
                    assert_eq!(after.money_state, money_state(after.status), "{place}");
                    assert_eq!(after.version, 7 + u64::from(expected.is_some()), "{place}");
                    assert_eq!(after.updated_at, if expected.is_some() { at(5) } else { at(0) }, "{place}");
                    assert_eq!(after.search.is_some(), !after.status.is_final(), "{place}");
                    let has_word = expected == Some(Status::Failed) && name == "declined";
                    assert_eq!(after.word, has_word.then(word), "{place}");

                    let mut refunded = a_refund("o", "r", 5);
                    (refunded.status, refunded.search) = (from, standing(from).search);
                    let became = refund(&mut refunded, &news(name), source, at(5)).became;
                    let as_refund = if expected == Some(Status::Closed) { Some(Status::Failed) } else { expected };
                    assert_eq!(became, as_refund, "refund: {place}");
                }
            }
        }
    }

    #[test]
    fn money_states_say_what_the_status_means() {
        assert_eq!(money_state(Status::Pending), MoneyState::NotMoved);
        assert_eq!(money_state(Status::Succeeded), MoneyState::Moved);
        assert_eq!(money_state(Status::Failed), MoneyState::NotMoved);
        assert_eq!(money_state(Status::Closed), MoneyState::NotMoved);
        assert_eq!(money_state(Status::Unknown), MoneyState::Unknown);
    }

    #[test]
    fn the_first_answer_brings_its_facts_and_later_ones_fill_gaps_only() {
        let action = |data: &str| Some(Action::Qr { data: data.into() });
        let mut it = a_payment("o");
        let first = Outcome { action: action("a"), amount: Some(cny(1000)), ..Outcome::of(Status::Pending) };
        let change = payment(&mut it, &News::Outcome(first.clone()), Own, at(1));
        assert_eq!(change, Change { changed: true, became: None, mismatch: false });
        assert_eq!((it.version, it.money_state, &it.action), (2, MoneyState::NotMoved, &action("a")));
        assert!(!payment(&mut it, &News::Outcome(first), Asked, at(2)).changed);
        let fuller = Outcome { action: action("b"), provider_id: Some("1".into()), ..Outcome::of(Status::Pending) };
        assert!(payment(&mut it, &News::Outcome(fuller), Asked, at(3)).changed);
        assert_eq!((it.version, &it.action, it.provider_payment_id.as_deref()), (3, &action("a"), Some("1")));
        assert_eq!(payment(&mut it, &outcome(Status::Succeeded), Told, at(4)).became, Some(Status::Succeeded));
        assert_eq!((it.version, it.paid_at, it.provider_payment_id.as_deref()), (4, None, Some("1")));
        let when = Outcome { at: Some(at(3)), provider_id: Some("2".into()), ..Outcome::of(Status::Succeeded) };
        let change = payment(&mut it, &News::Outcome(when), Asked, at(5));
        assert_eq!(change, Change { changed: true, became: None, mismatch: false });
        assert_eq!((it.version, it.paid_at, it.provider_payment_id.as_deref()), (5, Some(at(3)), Some("1")));
        // What does not fit its status leaves nothing behind.
        let before = it.clone();
        let late = Outcome { at: Some(at(9)), action: action("c"), ..Outcome::of(Status::Pending) };
        payment(&mut it, &News::Outcome(late), Told, at(6));
        assert_eq!(it, before);
    }

    #[test]
    fn money_that_moved_after_all_takes_the_refusal_back() {
        let mut it = a_payment("o");
        payment(&mut it, &News::Declined(word()), Own, at(1));
        assert_eq!(it.word, Some(word()));
        payment(&mut it, &outcome(Status::Succeeded), Told, at(2));
        assert_eq!((it.status, it.money_state, it.word), (Status::Succeeded, MoneyState::Moved, None));
    }

    #[test]
    fn another_amount_is_believed_from_nobody() {
        for status in STATUSES {
            for (source, amount) in
                [(Own, cny(999)), (Asked, cny(1001)), (Told, Money { currency: usd(), ..cny(1000) })]
            {
                let mut it = standing(status);
                let news = News::Outcome(Outcome { amount: Some(amount), ..Outcome::of(Status::Succeeded) });
                let change = payment(&mut it, &news, source, at(5));
                assert!(change.mismatch);
                let own_pending = source == Own && status == Status::Pending;
                assert_eq!(it.status, if own_pending { Status::Unknown } else { status });
                assert_eq!(change.changed, own_pending);
            }
        }
    }

    #[test]
    fn the_search_goes_on_until_the_end_is_known() {
        for source in [Asked, Told] {
            for name in ["pending", "unknown", "never"] {
                let mut it = standing(Status::Pending);
                let change = payment(&mut it, &news(name), source, at(5));
                assert_eq!((&it.search, change.changed), (&Some(new_search(at(1))), false), "{name} from {source:?}");
            }
            let mut it = standing(Status::Pending);
            payment(&mut it, &outcome(Status::Closed), source, at(5));
            assert_eq!(it.search, None);
        }
        // A doubt about what had ended is over as soon as the provider answers.
        let mut doubted = Payment { search: Some(new_search(at(1))), ..standing(Status::Closed) };
        payment(&mut doubted, &news("failed"), Told, at(5));
        assert!(doubted.search.is_some());
        payment(&mut doubted, &news("failed"), Asked, at(5));
        assert_eq!((doubted.search, doubted.status), (None, Status::Closed));
    }

    #[test]
    fn what_is_to_be_closed_stays_so_while_it_is_open() {
        let wanted = Search { closing: true, ..new_search(at(1)) };
        let mut it = Payment { search: Some(wanted), ..standing(Status::Unknown) };
        payment(&mut it, &news("pending"), Asked, at(5));
        assert_eq!(it.search, Some(Search { closing: true, ..new_search(at(5)) }), "due at once");
        let mut it = standing(Status::Unknown);
        payment(&mut it, &news("pending"), Asked, at(5));
        assert_eq!(it.search, Some(watch(at(5))), "the others wait for their notification");
    }

    fn usd() -> tollgate_plugins::payment::Currency {
        tollgate_plugins::payment::Currency::parse("USD").unwrap()
    }
}
