//! Tests of the explanation's text and query.
#![allow(clippy::unwrap_used)]

use tollgate_ledger::testing::a_payment;
use tollgate_ledger::{BodyDigest, BytesSent, Entry, Payment, ProviderCall, RecordState, SinkName, TimelineEvent};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Kind;

use super::*;

fn history(payment: Payment) -> PaymentHistory {
    PaymentHistory { payment, refunds: Vec::new(), timeline: Timeline::default() }
}

fn explain(history: PaymentHistory) -> String {
    text::explanation_text(&Explanation::from(history))
}

fn entry(what: TimelineEvent, times: u32) -> Entry {
    let until = (times > 1).then_some(Timestamp::UNIX_EPOCH);
    Entry { at: Timestamp::UNIX_EPOCH, refund_id: None, what, until, times }
}

#[test]
fn second_line_says_where_the_money_is() {
    let inquiry = Inquiry { asked: 7, needs_review: true, closing: true, ..Inquiry::new(Timestamp::UNIX_EPOCH) };
    let table = [
        (Status::Succeeded, MoneyState::Moved, 0, "PAID"),
        (Status::Succeeded, MoneyState::Moved, 300, "3.00 CNY of it was refunded"),
        (Status::Succeeded, MoneyState::Moved, 1000, "FULLY REFUNDED"),
        (Status::Failed, MoneyState::NotMoved, 0, "FAILED: no money moved"),
        (Status::Closed, MoneyState::NotMoved, 0, "CLOSED unpaid"),
        (Status::Pending, MoneyState::NotSent, 0, "STARTED"),
        (Status::Pending, MoneyState::NotMoved, 0, "NOT PAID YET"),
        (Status::Pending, MoneyState::Unknown, 0, "must be reversed"),
        (Status::Unknown, MoneyState::Unknown, 0, "UNKNOWN"),
    ];
    for (status, money_state, refunded, expected) in table {
        let payment = Payment {
            refunded,
            state: RecordState { status, money_state, inquiry: Some(inquiry.clone()), ..a_payment("o").state },
            ..a_payment("o")
        };
        let text = explain(history(payment));
        assert!(text.lines().nth(1).unwrap().contains(expected), "{text}");
        let shows_inquiry =
            text.contains("(7 so far)") && text.contains("MANUAL REVIEW NEEDED") && text.contains("is closed if");
        assert_eq!(shows_inquiry, !status.is_final(), "{text}");
        assert!(text.contains("before timelines were kept"), "{text}");
    }
}

#[test]
fn failure_reason_of_payment_and_refund_is_shown() {
    let provider_error =
        Some(tollgate_plugins::error::ProviderError { code: "SYSTEM_ERROR".into(), message: "try again".into() });
    let failed = Payment {
        state: RecordState {
            status: Status::Failed,
            money_state: MoneyState::NotMoved,
            provider_error,
            ..a_payment("o").state
        },
        ..a_payment("o")
    };
    let explain = |payment| super::tests::explain(history(payment));
    let text = explain(failed);
    assert!(text.contains("Why: the provider said SYSTEM_ERROR: try again."), "{text}");
    let sentence = Some("no answer came in time".to_owned());
    let cut = Payment {
        state: RecordState { status: Status::Unknown, status_reason: sentence, ..a_payment("o").state },
        ..a_payment("o")
    };
    assert!(explain(cut).contains("Why: no answer came in time."));
    let lost =
        Payment { state: RecordState { money_state: MoneyState::NotMoved, ..a_payment("o").state }, ..a_payment("o") };
    assert!(explain(lost).contains("close it and create another payment with a new `order_id`"));
}

#[test]
fn provider_call_is_shown_with_its_evidence() {
    let mut call = ProviderCall::begun(Kind::Query, "wechat", Timestamp::UNIX_EPOCH);
    let mut lines = Vec::new();
    for written in [BytesSent::No, BytesSent::Maybe, BytesSent::Yes] {
        call.written = written;
        call.ended(&Err(Error::unclear("cut")));
        if written == BytesSent::Yes {
            (call.http_status, call.answer) = (Some(502), Some(BodyDigest::of(b"abc")));
        }
        let mut history = history(a_payment("o"));
        history.timeline.entries.push(entry(TimelineEvent::ProviderCall(call.clone()), 3));
        lines.push(explain(history));
    }
    for (text, expected) in
        lines.iter().zip(["nothing was sent: unclear (cut)", "no complete response", "answered after 0 ms"])
    {
        assert!(text.contains(expected) && text.contains("(3 times, last at 1970-01-01 00:00:00.000)"), "{text}");
    }
    assert!(lines[2].contains("HTTP 502, 3 bytes, sha256 ba7816bf8f01cfea…, no verified signature"), "{}", lines[2]);
}

#[test]
fn interrupted_execution_shows_its_known_cause() {
    use tollgate_ledger::{IntentKind, LossCause};
    for (cause, expected) in [
        (LossCause::Unknown, "it is not known whether it was sent; the provider is queried"),
        (LossCause::Abandoned, "the gateway that ran it stopped or lost the ledger"),
        (LossCause::NoResult, "it ended in the gateway without a result"),
        (LossCause::KnownToProvider, "this gateway sent nothing, but the provider knows the request"),
    ] {
        let mut history = history(a_payment("o"));
        history.timeline.entries.push(entry(TimelineEvent::Interrupted { action: IntentKind::Pay, cause }, 1));
        let text = explain(history);
        assert!(text.contains("the outcome of the payment is unknown") && text.contains(expected), "{text}");
        assert_eq!(text.contains("stopped"), cause == LossCause::Abandoned, "{text}");
    }
    let older: TimelineEvent = serde_json::from_str(r#"{"what": "interrupted", "action": "pay"}"#).unwrap();
    assert_eq!(older, TimelineEvent::Interrupted { action: IntentKind::Pay, cause: LossCause::Unknown });
}

#[test]
fn refund_not_made_through_this_gateway_is_shown() {
    for (status, expected) in [
        (Status::Failed, "refund C-1, not made through this gateway, has failed: it moved no money"),
        (Status::Pending, "refund C-1, not made through this gateway, is not finished"),
        (Status::Unknown, "refund C-1, not made through this gateway: its result is queried"),
        (Status::Succeeded, "refund C-1, not made through this gateway, has returned its amount"),
        (Status::Closed, "refund C-1 belongs to the cancellation of the payment"),
    ] {
        let mut history = history(a_payment("o"));
        history.timeline.entries.push(entry(TimelineEvent::RefundElsewhere { number: "C-1".into(), status }, 1));
        let text = explain(history);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn delivery_names_its_sink_unless_it_is_the_webhook() {
    let id = || "evt_1".to_owned();
    let (webhook, mq) = (SinkName::WEBHOOK, SinkName::from("orders-mq"));
    for (what, expected) in [
        (TimelineEvent::Delivered { id: id(), sink: webhook }, "the event evt_1 was delivered\n"),
        (TimelineEvent::Delivered { id: id(), sink: mq.clone() }, "was delivered to the sink orders-mq\n"),
        (
            TimelineEvent::Undelivered { id: id(), why: "nack".into(), sink: mq.clone() },
            "was not delivered to the sink orders-mq: nack; it is retried",
        ),
        (
            TimelineEvent::DeliveryAbandoned { id: id(), why: "discarded".into(), sink: mq },
            "was dropped: the operator discards the events of the sink orders-mq",
        ),
    ] {
        let mut history = history(a_payment("o"));
        history.timeline.entries.push(entry(what, 1));
        let text = format!("{}\n", explain(history));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn omitted_timeline_entries_are_counted() {
    let mut history = history(a_payment("o"));
    history.timeline.entries = (0..4).map(|_| entry(TimelineEvent::CloseScheduled, 1)).collect();
    history.timeline.left_out = 54;
    assert_eq!(explain(history).lines().position(|line| line.contains("54 more")), Some(7));
}

#[test]
fn query_is_encoded_and_parsed_again() {
    for (order, merchant) in [("tea-1", None), ("a&b=c+d", Some("shop")), ("|1|", Some("店&"))] {
        let question = Question { order: order.to_owned(), merchant: merchant.map(str::to_owned) };
        let uri: http::Uri = question.target().parse().unwrap();
        let read = Question::read(uri.path(), uri.query()).unwrap();
        assert_eq!((read.order.as_str(), read.merchant.as_deref()), (order, merchant));
    }
    assert!(Question::read("/explain/o", Some("of=shop")).is_none());
}
