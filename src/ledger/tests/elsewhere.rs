//! Refunds that were not made here.

use tollgate_plugins::payment::Refunded;

use super::*;

fn refunded(id: &str, order: &str, number: Option<&str>, refunded: Refunded) -> ProviderEvent {
    let event = told(id, order, None, Outcome::of(Status::Succeeded));
    ProviderEvent { refund_number: number.map(str::to_owned), outcome: None, refunded: Some(refunded), ..event }
}

fn total(value: u64) -> Refunded {
    Refunded::Total(cny(value))
}

fn part(value: u64) -> Refunded {
    Refunded::Part(cny(value))
}

#[tokio::test]
async fn refund_made_elsewhere_publishes_one_event_and_reduces_the_balance() {
    let bench = Bench::new();
    bench.paid("o").await;
    let before = bench.payment("o").await;
    let record = async |event| bench.ledger.record("wechat", event, at(5)).await.unwrap();
    let applied = record(refunded("a", "o", Some("CONSOLE-1"), total(300))).await;
    assert_eq!(applied, Recorded::RefundedElsewhere(of("o"), cny(300)));
    let after = bench.payment("o").await;
    assert_eq!((after.refunded, after.refunded_elsewhere, after.version), (300, 300, before.version + 1));
    assert_eq!(bench.kinds().await, ["payment.succeeded", "payment.refunded_elsewhere"]);
    // The same refund under another of the provider's states.
    let again = record(refunded("b", "o", Some("CONSOLE-1"), total(300))).await;
    assert_eq!(again, Recorded::Duplicate);
    // The sum grows by another one; the last of it is named as a part.
    let second = record(refunded("c", "o", Some("CONSOLE-2"), total(400))).await;
    assert_eq!(second, Recorded::RefundedElsewhere(of("o"), cny(100)));
    let third = record(refunded("d", "o", Some("CONSOLE-3"), part(600))).await;
    assert_eq!(third, Recorded::RefundedElsewhere(of("o"), cny(600)));
    assert_eq!(bench.payment("o").await.refunded, 1000);
    for (id, number, state) in [("d", "CONSOLE-3", part(600)), ("c", "CONSOLE-2", total(400))] {
        let again = record(refunded(id, "o", Some(number), state)).await;
        assert_eq!(again, Recorded::Duplicate, "{number}: repeated, it is no second refund");
    }
    let too_much = record(refunded("e", "o", Some("CONSOLE-4"), part(1))).await;
    assert_eq!(too_much, Recorded::Mismatch(of("o")), "more than was paid");
    let claimed = bench.claim("r", give_back("o", "r", 1)).await;
    assert!(matches!(claimed, ClaimResult::ExceedsBalance { left: 0 }), "{claimed:?}");
}

#[tokio::test]
async fn duplicate_notification_of_a_full_refund_made_elsewhere_is_ignored() {
    for refund in [part(1000), part(600), total(1000)] {
        let bench = Bench::new();
        bench.paid("o").await;
        let record = async |id| bench.ledger.record("wechat", refunded(id, "o", Some("CONSOLE-1"), refund), at(5)).await;
        assert!(matches!(record("a").await.unwrap(), Recorded::RefundedElsewhere(..)), "{refund:?}");
        // The acknowledgement was lost: the same notification comes again, or another about the same refund.
        for id in ["a", "b"] {
            assert_eq!(record(id).await.unwrap(), Recorded::Duplicate, "{refund:?}");
        }
        assert_eq!(bench.kinds().await, ["payment.succeeded", "payment.refunded_elsewhere"], "{refund:?}");
    }
}

#[tokio::test]
async fn sum_of_own_refunds_is_not_a_refund_elsewhere() {
    let bench = Bench::new();
    bench.paid("o").await;
    let permit = bench.run("r", give_back("o", "r", 300)).await;
    let record = async |event| bench.ledger.record("wechat", event, at(5)).await.unwrap();
    // While a refund of ours is open, whose sum it is cannot be told: the provider sends it again.
    assert_eq!(record(refunded("a", "o", None, total(300))).await, Recorded::TooEarly(of("o")));
    let ours = provider_number(&["shop", "o", "r"]);
    assert_eq!(record(refunded("b", "o", Some(&ours), total(300))).await, Recorded::Applied(of_refund("o", "r")));
    bench.settle(permit, outcome(Status::Succeeded)).await;
    assert_eq!(record(refunded("c", "o", None, total(300))).await, Recorded::Duplicate);
    assert_eq!(bench.payment("o").await.refunded_elsewhere, 0);
    // What is more than that went back elsewhere, though no number says so.
    let more = record(refunded("d", "o", None, total(350))).await;
    assert_eq!(more, Recorded::RefundedElsewhere(of("o"), cny(50)));
    assert_eq!(bench.payment("o").await.refunded, 350);
}

#[tokio::test]
async fn refund_elsewhere_of_an_unpaid_payment_schedules_a_query_and_is_recorded_later() {
    let bench = Bench::new();
    let permit = bench.run("k", pay("o")).await;
    bench.settle(permit, outcome(Status::Pending)).await;
    let event = || refunded("a", "o", Some("CONSOLE-1"), total(300));
    let early = bench.ledger.record("wechat", event(), at(5)).await.unwrap();
    assert_eq!(early, Recorded::TooEarly(of("o")));
    let due = bench.ledger.due_searches(at(5), 10, &[]).await;
    assert_eq!(due.len(), 1, "the provider is asked");
    let paid = Outcome { amount: Some(cny(1000)), ..Outcome::of(Status::Succeeded) };
    bench.ledger.apply(&of("o"), Update::Outcome(paid), at(6)).await.unwrap();
    let later = bench.ledger.record("wechat", event(), at(7)).await.unwrap();
    assert_eq!(later, Recorded::RefundedElsewhere(of("o"), cny(300)));
    // Over another channel, of another order.
    assert_eq!(bench.ledger.record("other", event(), at(7)).await.unwrap(), Recorded::UnknownOrder);
    let unknown = ProviderEvent { order_number: "n".into(), ..event() };
    assert_eq!(bench.ledger.record("wechat", unknown, at(7)).await.unwrap(), Recorded::UnknownOrder);
}

impl Bench {
    /// What the timeline says of refunds that were not made here, and of people.
    async fn noted(&self, order: &str) -> Vec<String> {
        let (_, timeline) = self.ledger.timeline("shop", order).await.unwrap().unwrap();
        let noted = timeline.entries.iter().filter_map(|entry| match &entry.what {
            TimelineEvent::RefundElsewhere { number, status } => Some(format!("{number} {}", status.as_str())),
            TimelineEvent::ManualReview { .. } => Some("person".to_owned()),
            TimelineEvent::NotificationReceived { verdict, .. } => Some(format!("{verdict:?}")),
            _ => None,
        });
        noted.collect()
    }
}

#[tokio::test]
async fn unsuccessful_refund_elsewhere_is_added_to_the_timeline_once() {
    let bench = Bench::new();
    bench.paid("o").await;
    bench.hear_all().await;
    let before = bench.payment("o").await;
    let record = async |number: &str, state| {
        let event = refunded(&format!("{number} {state}"), "o", Some(number), state);
        bench.ledger.record("wechat", event, at(5)).await.unwrap()
    };
    assert_eq!(record("C-1", Refunded::Failed).await, Recorded::RefundElsewhere(of("o"), None));
    assert_eq!(record("C-2", Refunded::Open).await, Recorded::RefundElsewhere(of("o"), None));
    let Recorded::RefundElsewhere(_, Some(why)) = record("C-3", Refunded::Abnormal).await else { panic!("nobody looks") };
    assert!(why.contains("finish it in the provider's console"), "{why}");
    for (number, state) in [("C-1", Refunded::Failed), ("C-2", Refunded::Open), ("C-3", Refunded::Abnormal)] {
        assert_eq!(record(number, state).await, Recorded::Duplicate, "{number}");
    }
    let noted =
        ["Believed", "C-1 failed", "Believed", "C-2 pending", "Believed", "C-3 pending", "person"].map(str::to_owned);
    assert_eq!(bench.noted("o").await, noted);
    assert_eq!(bench.payment("o").await, before);
    assert!(bench.kinds().await.is_empty(), "no money moved");
    // Finished by a person, it counts.
    assert_eq!(record("C-3", part(300)).await, Recorded::RefundedElsewhere(of("o"), cny(300)));
    assert_eq!(bench.payment("o").await.refunded_elsewhere, 300);
}

#[tokio::test]
async fn failed_refund_elsewhere_of_an_unpaid_payment_is_noted_and_schedules_a_query() {
    let bench = Bench::new();
    let permit = bench.run("k", pay("o")).await;
    bench.settle(permit, outcome(Status::Pending)).await;
    let event = refunded("a", "o", Some("C-1"), Refunded::Failed);
    let noted = bench.ledger.record("wechat", event.clone(), at(5)).await.unwrap();
    assert_eq!(noted, Recorded::RefundElsewhere(of("o"), None));
    assert_eq!(bench.noted("o").await, ["Ask", "C-1 failed"].map(str::to_owned));
    assert_eq!(bench.ledger.due_searches(at(5), 10, &[]).await.len(), 1, "what can be given back was paid");
    assert_eq!(bench.ledger.record("wechat", event, at(6)).await.unwrap(), Recorded::Duplicate);
}
