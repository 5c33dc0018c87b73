#![allow(clippy::unwrap_used)]

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
        for (source, amount) in [(Own, cny(999)), (Asked, cny(1001)), (Told, Money { currency: usd(), ..cny(1000) })] {
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
