//! Refunds made elsewhere of payments that are unpaid or reversed, and their timeline.

use tollgate_plugins::payment::{Method, Refunded};

use super::elsewhere::{EVENTS, part, refunded, returned, total};
use super::*;

#[tokio::test]
async fn refund_elsewhere_of_an_unpaid_payment_is_stored_and_counted_when_it_is_paid() {
    for (number, refund) in [(Some("CONSOLE-1"), total(300)), (Some("CONSOLE-1"), part(300)), (None, total(300))] {
        let fixture = Fixture::new();
        let permit = fixture.run("k", pay("o")).await;
        fixture.settle(permit, outcome(Status::Pending)).await;
        let event = || refunded("a", "o", number, refund);
        let early = fixture.notify(event()).await;
        assert!(matches!(early, Recorded::RefundElsewhere(_, None) | Recorded::Applied(_)), "{early:?}");
        assert_eq!(fixture.ledger.due_inquiries(at(9), 10, &[]).await.len(), 2, "the payment and the refund are queried");
        let update = || if number.is_some() { returned(300) } else { Update::NotFoundAtProvider };
        let number = number.unwrap_or_default();
        let waiting = fixture.answer_query("o", number, update()).await;
        assert!(!waiting.status.is_final() && waiting.state.inquiry.unwrap().due > at(6), "only a paid order can be refunded");
        let fixture = fixture.crash();
        let paid = Outcome { amount: Some(cny(1000)), ..Outcome::of(Status::Succeeded) };
        fixture.ledger.apply(&of("o"), Update::Outcome(paid), at(6)).await.unwrap();
        // A verified amount needs no further proof.
        fixture.answer_query("o", number, Update::NotFoundAtProvider).await;
        assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((300, 300), 700));
        assert_eq!(fixture.kinds().await, EVENTS);
        assert_eq!(fixture.notify(event()).await, Recorded::Duplicate);
        // Over another channel, of another order.
        let other = fixture.ledger.record("other", event(), at(7)).await.unwrap();
        assert_eq!(other == Recorded::UnknownOrder, !number.is_empty(), "{other:?}");
        assert!(matches!(other, Recorded::UnknownOrder | Recorded::Mismatch(_)), "{other:?}");
        let unknown = ProviderEvent { order_number: "n".into(), ..event() };
        assert_eq!(fixture.notify(unknown).await, Recorded::UnknownOrder);
    }
}

#[tokio::test]
async fn refund_of_a_reversed_scanned_payment_ends_without_event() {
    let fixture = Fixture::new();
    let method = Method::all().find(Method::is_scanned).unwrap();
    let permit = fixture.run("k", Intent::Pay(Payment { method, ..a_payment("o") })).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let number = provider_number(&["shop", "o"]);
    let recorded = fixture.notify(refunded("a", "o", Some(&number), total(1000))).await;
    assert_eq!(recorded, Recorded::RefundElsewhere(of("o"), None));
    fixture.ledger.apply(&of("o"), outcome(Status::Closed), at(6)).await.unwrap();
    let ended = fixture.answer_query("o", &number, returned(1000)).await;
    assert_eq!((ended.status, ended.state.inquiry), (Status::Closed, None));
    assert_eq!(fixture.sums("o").await, (0, 0));
    assert!(!fixture.kinds().await.contains(&EVENTS[1].to_owned()));
    let late = fixture.notify(refunded("b", "o", Some("other"), total(1000))).await;
    assert_eq!(late, Recorded::Applied(of("o")), "the reversal is known");
}

#[tokio::test]
async fn unsuccessful_refund_elsewhere_is_added_to_the_timeline_once() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    fixture.deliver_all().await;
    let before = fixture.payment("o").await;
    let record = async |number: &str, state| {
        let event = refunded(&format!("{number} {state}"), "o", Some(number), state);
        fixture.ledger.record("wechat", event, at(5)).await.unwrap()
    };
    assert_eq!(record("C-1", Refunded::Failed).await, Recorded::RefundElsewhere(of("o"), None));
    assert_eq!(record("C-2", Refunded::Open).await, Recorded::RefundElsewhere(of("o"), None));
    let Recorded::RefundElsewhere(_, Some(why)) = record("C-3", Refunded::Abnormal).await else { panic!("nobody looks") };
    assert!(why.contains("finish it in the provider's console"), "{why}");
    for (number, state) in [("C-1", Refunded::Failed), ("C-2", Refunded::Open), ("C-3", Refunded::Abnormal)] {
        assert_eq!(record(number, state).await, Recorded::Duplicate, "{number}");
    }
    let noted =
        ["Applied", "C-1 failed", "Verify", "C-2 unknown", "Applied", "C-3 pending", "person"].map(str::to_owned);
    assert_eq!(fixture.noted("o").await, noted);
    assert_eq!(fixture.payment("o").await, before);
    assert!(fixture.kinds().await.is_empty(), "no money moved");
    // Completed in the provider's console, it counts.
    assert_eq!(record("C-3", part(300)).await, Recorded::RefundedElsewhere(of("o"), cny(300)));
    assert_eq!(fixture.payment("o").await.refunded_elsewhere, 300);
}

#[tokio::test]
async fn failed_refund_elsewhere_of_an_unpaid_payment_is_noted_and_schedules_a_query() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let event = refunded("a", "o", Some("C-1"), Refunded::Failed);
    let noted = fixture.ledger.record("wechat", event.clone(), at(5)).await.unwrap();
    assert_eq!(noted, Recorded::RefundElsewhere(of("o"), None));
    assert_eq!(fixture.noted("o").await, ["Verify", "C-1 failed"].map(str::to_owned));
    assert_eq!(fixture.ledger.due_inquiries(at(5), 10, &[]).await.len(), 1, "what can be given back was paid");
    assert_eq!(fixture.ledger.record("wechat", event, at(6)).await.unwrap(), Recorded::Duplicate);
}
