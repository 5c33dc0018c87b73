#![allow(clippy::unwrap_used)]

use super::super::testing::{a_payment, a_refund, at, cny};
use super::super::tests::{outcome, provider_error};
use super::Origin::{Notification, Query, Request};
use super::*;
use tollgate_plugins::error::ProviderError;

const UPDATES: [(&str, &str); 7] = [
    // Update, then its effect in each status: P, S, F, C, U; `-` is no change.
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

fn update(name: &str) -> Update {
    match name {
        "declined" => Update::Declined(provider_error()),
        "unknown" => Update::Unknown(Reason::default()),
        "never" => Update::NotFoundAtProvider,
        _ => outcome(*STATUSES.iter().find(|status| status.as_str() == name).unwrap()),
    }
}

fn payment_in(status: Status) -> Payment {
    let inquiry = (!status.is_final()).then(|| Inquiry::new(at(1)));
    Payment {
        state: RecordState { status, money_state: money_state(status), version: 7, inquiry, ..a_payment("o").state },
        ..a_payment("o")
    }
}

#[test]
fn transition_table_of_every_update_in_every_status_from_every_origin() {
    for (name, row) in UPDATES {
        for (from, to) in STATUSES.into_iter().zip(row.split(' ')) {
            for origin in [Request, Query, Notification] {
                let only_own = from == Status::Pending && (name == "unknown" || name == "never");
                let expected = match STATUSES.into_iter().find(|status| status.as_str()[..1] == to.to_lowercase()) {
                    Some(_) if only_own && origin != Request => None,
                    expected => expected,
                };
                let mut after = payment_in(from);
                let change = payment(&mut after, &update(name), origin, at(5));
                let backend = format!("{name} from {origin:?} meets {from:?}");
                assert_eq!(
                    change,
                    Change { changed: expected.is_some(), became: expected, mismatch: false },
                    "{backend}"
                );
                assert_eq!(after.status, expected.unwrap_or(from), "{backend}");
                assert_eq!(after.money_state, money_state(after.status), "{backend}");
                assert_eq!(after.version, 7 + u64::from(expected.is_some()), "{backend}");
                assert_eq!(after.updated_at, if expected.is_some() { at(5) } else { at(0) }, "{backend}");
                assert_eq!(after.inquiry.is_some(), !after.status.is_final(), "{backend}");
                let has_provider_error = expected == Some(Status::Failed) && name == "declined";
                assert_eq!(after.state.provider_error, has_provider_error.then(provider_error), "{backend}");

                let mut refunded = a_refund("o", "r", 5);
                (refunded.status, refunded.state.inquiry) = (from, payment_in(from).state.inquiry);
                let became = refund(&mut refunded, &update(name), origin, at(5)).became;
                let as_refund = if expected == Some(Status::Closed) { Some(Status::Failed) } else { expected };
                assert_eq!(became, as_refund, "refund: {backend}");
            }
        }
    }
}

#[test]
fn money_state_follows_status() {
    assert_eq!(money_state(Status::Pending), MoneyState::NotMoved);
    assert_eq!(money_state(Status::Succeeded), MoneyState::Moved);
    assert_eq!(money_state(Status::Failed), MoneyState::NotMoved);
    assert_eq!(money_state(Status::Closed), MoneyState::NotMoved);
    assert_eq!(money_state(Status::Unknown), MoneyState::Unknown);
}

#[test]
fn first_answer_sets_fields_and_later_answers_only_fill_empty_ones() {
    let action = |data: &str| Some(NextAction::Qr { data: data.into() });
    let mut it = a_payment("o");
    let first = Outcome { action: action("a"), amount: Some(cny(1000)), ..Outcome::of(Status::Pending) };
    let change = payment(&mut it, &Update::Outcome(first.clone()), Request, at(1));
    assert_eq!(change, Change { changed: true, became: None, mismatch: false });
    assert_eq!((it.version, it.money_state, &it.action), (2, MoneyState::NotMoved, &action("a")));
    assert!(!payment(&mut it, &Update::Outcome(first), Query, at(2)).changed);
    let fuller = Outcome { action: action("b"), provider_id: Some("1".into()), ..Outcome::of(Status::Pending) };
    assert!(payment(&mut it, &Update::Outcome(fuller), Query, at(3)).changed);
    assert_eq!((it.version, &it.action, it.provider_payment_id.as_deref()), (3, &action("a"), Some("1")));
    assert_eq!(payment(&mut it, &outcome(Status::Succeeded), Notification, at(4)).became, Some(Status::Succeeded));
    assert_eq!((it.version, it.paid_at, it.provider_payment_id.as_deref()), (4, None, Some("1")));
    let when = Outcome { at: Some(at(3)), provider_id: Some("2".into()), ..Outcome::of(Status::Succeeded) };
    let change = payment(&mut it, &Update::Outcome(when), Query, at(5));
    assert_eq!(change, Change { changed: true, became: None, mismatch: false });
    assert_eq!((it.version, it.paid_at, it.provider_payment_id.as_deref()), (5, Some(at(3)), Some("1")));
    // Fields that do not fit the status are ignored.
    let before = it.clone();
    let late = Outcome { at: Some(at(9)), action: action("c"), ..Outcome::of(Status::Pending) };
    payment(&mut it, &Update::Outcome(late), Notification, at(6));
    assert_eq!(it, before);
}

#[test]
fn success_after_decline_replaces_the_failure() {
    let mut it = a_payment("o");
    payment(&mut it, &Update::Declined(provider_error()), Request, at(1));
    assert_eq!(it.state.provider_error, Some(provider_error()));
    payment(&mut it, &outcome(Status::Succeeded), Notification, at(2));
    assert_eq!((it.status, it.money_state, it.state.provider_error), (Status::Succeeded, MoneyState::Moved, None));
}

#[test]
fn outcome_with_another_amount_is_rejected_from_every_origin() {
    for status in STATUSES {
        for (origin, amount) in
            [(Request, cny(999)), (Query, cny(1001)), (Notification, Money { currency: usd(), ..cny(1000) })]
        {
            let mut it = payment_in(status);
            let update = Update::Outcome(Outcome { amount: Some(amount), ..Outcome::of(Status::Succeeded) });
            let change = payment(&mut it, &update, origin, at(5));
            assert!(change.mismatch);
            let own_pending = origin == Request && status == Status::Pending;
            assert_eq!(it.status, if own_pending { Status::Unknown } else { status });
            assert_eq!(change.changed, own_pending);
        }
    }
}

#[test]
fn inquiry_continues_until_final_status_is_confirmed_by_query() {
    for origin in [Query, Notification] {
        for name in ["pending", "unknown", "never"] {
            let mut it = payment_in(Status::Pending);
            let change = payment(&mut it, &update(name), origin, at(5));
            let inquiry = Inquiry { confirmed: name == "pending", ..Inquiry::new(at(1)) };
            assert_eq!((&it.inquiry, change.changed), (&Some(inquiry), false), "{name} from {origin:?}");
        }
        let mut it = payment_in(Status::Pending);
        payment(&mut it, &outcome(Status::Closed), origin, at(5));
        assert_eq!(it.state.inquiry, None);
    }
    // A doubt about a final record ends as soon as the provider answers a query.
    let mut doubted = Payment {
        state: RecordState { inquiry: Some(Inquiry::new(at(1))), ..payment_in(Status::Closed).state },
        ..payment_in(Status::Closed)
    };
    payment(&mut doubted, &update("failed"), Notification, at(5));
    assert!(doubted.inquiry.is_some());
    payment(&mut doubted, &update("failed"), Query, at(5));
    assert_eq!((doubted.state.inquiry, doubted.state.status), (None, Status::Closed));
}

#[test]
fn scheduled_close_survives_while_the_payment_is_open() {
    let wanted = Inquiry { closing: true, ..Inquiry::new(at(1)) };
    let mut it = Payment {
        state: RecordState { inquiry: Some(wanted), ..payment_in(Status::Unknown).state },
        ..payment_in(Status::Unknown)
    };
    payment(&mut it, &update("pending"), Query, at(5));
    assert_eq!(
        it.state.inquiry,
        Some(Inquiry { closing: true, confirmed: true, ..Inquiry::new(at(5)) }),
        "due at once"
    );
    let mut it = payment_in(Status::Unknown);
    payment(&mut it, &update("pending"), Query, at(5));
    assert_eq!(
        it.state.inquiry,
        Some(Inquiry { confirmed: true, ..delayed_inquiry(at(5)) }),
        "the others wait for their notification"
    );
}

fn unclear() -> Update {
    Update::Unknown(Reason { provider_error: Some(provider_error()), sentence: None })
}

#[test]
fn final_status_without_reason_keeps_the_earlier_provider_error() {
    for end in [Update::NotFoundAtProvider, outcome(Status::Failed), outcome(Status::Closed)] {
        let mut it = a_payment("o");
        payment(&mut it, &unclear(), Request, at(1));
        assert_eq!((it.status, &it.provider_error), (Status::Unknown, &Some(provider_error())));
        // Pending meanwhile, without new information.
        let mut open = it.clone();
        payment(&mut open, &outcome(Status::Pending), Query, at(2));
        payment(&mut open, &outcome(Status::Closed), Query, at(3));
        for it in [&mut it, &mut open] {
            payment(it, &end, Query, at(4));
            assert!(it.status.is_final(), "{end:?}");
            assert_eq!((&it.provider_error, &it.status_reason), (&Some(provider_error()), &None), "{end:?}");
        }
        let mut refunded = a_refund("o", "r", 5);
        refund(&mut refunded, &unclear(), Request, at(1));
        refund(&mut refunded, &end, Query, at(2));
        assert_eq!(
            (refunded.status, refunded.state.provider_error),
            (Status::Failed, Some(provider_error())),
            "{end:?}"
        );
    }
}

#[test]
fn final_reason_replaces_the_first_and_success_clears_it() {
    let mut it = a_payment("o");
    payment(&mut it, &unclear(), Request, at(1));
    let reason = Some(ProviderError { code: "PAYERROR".into(), message: "失败".into() });
    let failed = Outcome { reason: reason.clone(), ..Outcome::of(Status::Failed) };
    payment(&mut it, &Update::Outcome(failed), Query, at(2));
    assert_eq!((it.status, &it.provider_error), (Status::Failed, &reason));
    payment(&mut it, &outcome(Status::Succeeded), Notification, at(3));
    assert_eq!((it.state.provider_error, it.state.status_reason), (None, None));
}

#[test]
fn status_reason_is_set_when_the_provider_gave_no_error() {
    let sentence = |it: &Payment| it.status_reason.clone().unwrap_or_default();
    let mut it = a_payment("o");
    let error = tollgate_plugins::error::Error::unclear("no answer in time");
    payment(&mut it, &Update::Unknown((&error).into()), Request, at(1));
    assert!(sentence(&it).contains("no answer in time"));
    payment(&mut it, &Update::NotFoundAtProvider, Query, at(2));
    assert!(sentence(&it).contains("no answer in time"));
    let mut it = Payment {
        state: RecordState { inquiry: Some(Inquiry::new(at(1))), ..payment_in(Status::Unknown).state },
        ..payment_in(Status::Unknown)
    };
    payment(&mut it, &Update::NotFoundAtProvider, Query, at(2));
    assert!(sentence(&it).contains("does not have it"));
    let mut it = a_payment("o");
    let gone = Update::NotSent(Status::Failed, Reason::sentence("no channel"));
    payment(&mut it, &gone, Request, at(1));
    assert_eq!((it.status, it.money_state, sentence(&it)), (Status::Failed, MoneyState::NotSent, "no channel".into()));
    let mut it = a_payment("o");
    let other = Outcome { amount: Some(cny(1)), ..Outcome::of(Status::Succeeded) };
    payment(&mut it, &Update::Outcome(other), Request, at(1));
    assert!(sentence(&it).contains("another amount"));
}

#[test]
fn payment_that_needs_reversal_is_marked_closing_with_unknown_money_state() {
    let method = tollgate_plugins::payment::Method::all().find(|method| method.is_scanned()).unwrap();
    for (status, origin) in [(Status::Pending, Request), (Status::Unknown, Query), (Status::Pending, Query)] {
        let mut it = Payment { method, ..payment_in(status) };
        let reason = Some(ProviderError { code: "PAYERROR".into(), message: String::new() });
        let wrong = Outcome { needs_reversal: true, reason: reason.clone(), ..Outcome::of(Status::Pending) };
        payment(&mut it, &Update::Outcome(wrong.clone()), origin, at(5));
        assert_eq!((it.status, it.money_state, &it.provider_error), (Status::Pending, MoneyState::Unknown, &reason));
        let inquiry = it.inquiry.clone().unwrap();
        assert!(inquiry.closing && inquiry.due <= at(5), "{inquiry:?}");
        assert!(!payment(&mut it, &Update::Outcome(wrong), Query, at(6)).changed, "reported once");
        let mut paid = it.clone();
        payment(&mut paid, &outcome(Status::Succeeded), Query, at(7));
        assert_eq!(
            (paid.status, paid.money_state, paid.state.provider_error),
            (Status::Succeeded, MoneyState::Moved, None)
        );
        payment(&mut it, &outcome(Status::Closed), Query, at(7));
        assert_eq!(
            (it.status, it.money_state, it.state.provider_error),
            (Status::Closed, MoneyState::NotMoved, reason)
        );
    }
}

#[test]
fn only_a_sent_pending_payment_expires() {
    for status in STATUSES {
        let mut it = payment_in(status);
        let change = payment(&mut it, &Update::Expired, Query, at(5));
        let expected = (status == Status::Pending).then_some(Status::Closed);
        assert_eq!(change.became, expected, "{status:?}");
        assert_eq!(it.status_reason.is_some(), expected.is_some());
        let mut refunded = a_refund("o", "r", 5);
        refunded.status = status;
        assert_eq!(refund(&mut refunded, &Update::Expired, Query, at(5)), Change::default());
    }
    let mut unsent = a_payment("o");
    assert_eq!(payment(&mut unsent, &Update::Expired, Query, at(5)), Change::default());
}

#[test]
fn accepted_unconfirmed_refund_fails_when_not_found_at_provider() {
    let accepted = |provider_id: Option<&str>| {
        let mut it = a_refund("o", "r", 5);
        let taken = Outcome { provider_id: provider_id.map(str::to_owned), ..Outcome::of(Status::Pending) };
        refund(&mut it, &Update::Outcome(taken), Request, at(1));
        it
    };
    let mut it = accepted(None);
    assert_eq!(it.state.inquiry, Some(Inquiry::new(at(1))), "it is queried at once");
    assert_eq!(refund(&mut it, &Update::NotFoundAtProvider, Query, at(40)).became, Some(Status::Failed));
    let mut it = accepted(Some("50000"));
    assert_eq!(it.state.inquiry, Some(Inquiry { confirmed: true, ..delayed_inquiry(at(1)) }));
    assert_eq!(refund(&mut it, &Update::NotFoundAtProvider, Query, at(40)), Change::default());
    let mut it = accepted(None);
    refund(&mut it, &outcome(Status::Pending), Query, at(2));
    assert_eq!(refund(&mut it, &Update::NotFoundAtProvider, Query, at(40)), Change::default(), "a query has found it");
}

#[test]
fn scanned_payment_waiting_for_password_fails_when_not_found_at_provider() {
    let method = tollgate_plugins::payment::Method::all().find(|method| method.is_scanned()).unwrap();
    let mut it = Payment { method, ..payment_in(Status::Pending) };
    assert_eq!(payment(&mut it, &Update::NotFoundAtProvider, Query, at(5)).became, Some(Status::Failed));
}

#[test]
fn create_request_is_retained_until_the_action_is_known() {
    let create_request = Some(Box::new(super::super::records::CreateRequest {
        description: "tea".into(),
        payer: tollgate_plugins::payment::Payer::default(),
        return_url: None,
        public_url: "https://pay.example.com".into(),
    }));
    let begun = Payment { create_request, ..a_payment("o") };
    let action = Some(NextAction::Qr { data: "x".into() });
    let payable = Update::Outcome(Outcome { action, ..Outcome::of(Status::Pending) });
    let mut it = begun.clone();
    payment(&mut it, &payable, Request, at(1));
    assert_eq!(it.create_request, None);
    let mut it = begun.clone();
    payment(&mut it, &unclear(), Request, at(1));
    payment(&mut it, &outcome(Status::Pending), Query, at(2));
    assert!(it.lacks_action() && it.awaits_action());
    assert_eq!(it.inquiry.as_ref().map(|inquiry| inquiry.due), Some(at(2)), "the create is repeated at once");
    payment(&mut it, &payable, Query, at(3));
    assert_eq!((it.create_request.is_some(), it.lacks_action(), it.state.provider_error), (false, false, None));
    for end in [Update::Declined(provider_error()), outcome(Status::Closed), outcome(Status::Succeeded)] {
        let mut it = begun.clone();
        payment(&mut it, &end, Request, at(1));
        assert_eq!(it.create_request, None, "{end:?}");
    }
}

fn usd() -> tollgate_plugins::payment::Currency {
    tollgate_plugins::payment::Currency::parse("USD").unwrap()
}
