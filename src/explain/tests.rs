//! What support reads.
#![allow(clippy::unwrap_used)]

use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Kind;

use super::*;
use crate::ledger::{BodyDigest, BytesSent, Entry, Payment, ProviderCall, TimelineEvent, a_payment};

fn life(payment: Payment) -> PaymentHistory {
    PaymentHistory { payment, refunds: Vec::new(), timeline: Timeline::default() }
}

fn told(life: PaymentHistory) -> String {
    text::of(&Explanation::from(life))
}

fn entry(what: TimelineEvent, times: u32) -> Entry {
    let until = (times > 1).then_some(Timestamp::UNIX_EPOCH);
    Entry { at: Timestamp::UNIX_EPOCH, refund_id: None, what, until, times }
}

#[test]
fn the_second_line_says_where_the_money_is() {
    let search = Inquiry { asked: 7, needs_person: true, closing: true, ..Inquiry::new(Timestamp::UNIX_EPOCH) };
    let table = [
        (Status::Succeeded, MoneyState::Moved, 0, "PAID"),
        (Status::Succeeded, MoneyState::Moved, 300, "3.00 CNY of it went back"),
        (Status::Succeeded, MoneyState::Moved, 1000, "GIVEN BACK whole"),
        (Status::Failed, MoneyState::NotMoved, 0, "FAILED: no money moved"),
        (Status::Closed, MoneyState::NotMoved, 0, "CLOSED: it ended unpaid"),
        (Status::Pending, MoneyState::NotSent, 0, "BEGUN"),
        (Status::Pending, MoneyState::NotMoved, 0, "NOT PAID YET"),
        (Status::Pending, MoneyState::Unknown, 0, "must be reversed"),
        (Status::Unknown, MoneyState::Unknown, 0, "UNKNOWN"),
    ];
    for (status, money_state, refunded, words) in table {
        let payment = Payment { status, money_state, refunded, search: Some(search.clone()), ..a_payment("o") };
        let told = told(life(payment));
        assert!(told.lines().nth(1).unwrap().contains(words), "{told}");
        let is_searched =
            told.contains("(7 so far)") && told.contains("A PERSON MUST") && told.contains("is closed if");
        assert_eq!(is_searched, !status.is_final(), "{told}");
        assert!(told.contains("before timelines were kept"), "{told}");
    }
}

#[test]
fn reason_is_told_of_payment_and_refund() {
    let word =
        Some(tollgate_plugins::error::ProviderError { code: "SYSTEM_ERROR".into(), message: "try again".into() });
    let failed =
        Payment { status: Status::Failed, money_state: MoneyState::NotMoved, provider_error: word, ..a_payment("o") };
    let told = |payment| super::tests::told(life(payment));
    let text = told(failed);
    assert!(text.contains("Why: the provider said SYSTEM_ERROR: try again."), "{text}");
    let sentence = Some("no answer came in time".to_owned());
    let cut = Payment { status: Status::Unknown, status_reason: sentence, ..a_payment("o") };
    assert!(told(cut).contains("Why: no answer came in time."));
    let lost = Payment { money_state: MoneyState::NotMoved, ..a_payment("o") };
    assert!(told(lost).contains("close it, and create another payment with a new `order_id`"));
}

#[test]
fn what_was_sent_is_told_with_its_evidence() {
    let mut exchanged = ProviderCall::begun(Kind::Query, "wechat", Timestamp::UNIX_EPOCH);
    let mut lines = Vec::new();
    for written in [BytesSent::No, BytesSent::Maybe, BytesSent::Yes] {
        exchanged.written = written;
        exchanged.ended(&Err(Error::unclear("cut")));
        if written == BytesSent::Yes {
            (exchanged.http_status, exchanged.answer) = (Some(502), Some(BodyDigest::of(b"abc")));
        }
        let mut life = life(a_payment("o"));
        life.timeline.entries.push(entry(TimelineEvent::ProviderCall(exchanged.clone()), 3));
        lines.push(told(life));
    }
    for (told, words) in lines.iter().zip(["nothing was sent: unclear (cut)", "no whole answer", "answered after 0 ms"])
    {
        assert!(told.contains(words) && told.contains("(3 times, last at 1970-01-01 00:00:00.000)"), "{told}");
    }
    assert!(lines[2].contains("HTTP 502, 3 bytes, sha256 ba7816bf8f01cfea…, no verified signature"), "{}", lines[2]);
}

#[test]
fn end_that_is_unknown_says_what_is_known_and_no_more() {
    use crate::ledger::{IntentKind, LossCause};
    for (cause, words) in [
        (LossCause::Unknown, "it is not known whether it was sent; the provider is asked"),
        (LossCause::Abandoned, "the gateway that ran it stopped or lost the ledger"),
        (LossCause::NoResult, "it ended in the gateway without a result"),
        (LossCause::KnownToProvider, "this gateway sent nothing, but the provider has told of it"),
    ] {
        let mut life = life(a_payment("o"));
        life.timeline.entries.push(entry(TimelineEvent::Interrupted { action: IntentKind::Pay, cause }, 1));
        let told = told(life);
        assert!(told.contains("how the payment ended is unknown") && told.contains(words), "{told}");
        assert_eq!(told.contains("stopped"), cause == LossCause::Abandoned, "{told}");
    }
    let older: TimelineEvent = serde_json::from_str(r#"{"what": "interrupted", "action": "pay"}"#).unwrap();
    assert_eq!(older, TimelineEvent::Interrupted { action: IntentKind::Pay, cause: LossCause::Unknown });
}

#[test]
fn refund_that_was_not_made_here_is_told() {
    for (status, words) in [
        (Status::Failed, "refund C-1, which was not made here, has failed: no money went back"),
        (Status::Pending, "refund C-1, which was not made here, is not finished"),
    ] {
        let mut life = life(a_payment("o"));
        life.timeline.entries.push(entry(TimelineEvent::RefundElsewhere { number: "C-1".into(), status }, 1));
        let told = told(life);
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn a_gap_is_told() {
    let mut life = life(a_payment("o"));
    life.timeline.entries = (0..4).map(|_| entry(TimelineEvent::CloseScheduled, 1)).collect();
    life.timeline.left_out = 54;
    assert_eq!(told(life).lines().position(|line| line.contains("54 more")), Some(7));
}

#[test]
fn a_question_goes_to_the_admin_port_and_back() {
    for (order, merchant) in [("tea-1", None), ("a&b=c+d", Some("shop")), ("|1|", Some("店&"))] {
        let question = Question { order: order.to_owned(), merchant: merchant.map(str::to_owned) };
        let uri: http::Uri = question.target().parse().unwrap();
        let read = Question::read(uri.path(), uri.query()).unwrap();
        assert_eq!((read.order.as_str(), read.merchant.as_deref()), (order, merchant));
    }
    assert!(Question::read("/explain/o", Some("of=shop")).is_none());
}
