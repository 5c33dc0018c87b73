//! Deliveries: order, postponement, and the next event of a payment.

use super::*;

/// Creates one payment with three events in its queue.
async fn three() -> Fixture {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    fixture.ledger.apply(&of("o"), Update::NotFoundAtProvider, at(2)).await.unwrap();
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(3)).await.unwrap();
    fixture
}

async fn kinds_due(fixture: &Fixture, now: Timestamp) -> Vec<String> {
    let due = fixture.deliveries(now, 10).await;
    due.into_iter().map(|delivery| delivery.event.kind).collect()
}

#[tokio::test]
async fn deliveries_are_ordered_per_payment_and_do_not_delay_other_payments() {
    let fixture = three().await;
    fixture.paid("p").await;
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 4);
    let due = fixture.deliveries(at(10), 10).await;
    assert_eq!(due.len(), 2, "only heads: {due:?}");
    let head = due.iter().find(|delivery| delivery.event.subject == of("o")).unwrap();
    assert_eq!((head.event.kind.as_str(), head.tries, head.due), ("payment.unknown", 0, at(1)));
    fixture.ledger.postpone(head, at(60), 1).await.unwrap();
    assert_eq!(kinds_due(&fixture, at(59)).await, ["payment.succeeded"], "p's; o waits for its head");
    let due = fixture.deliveries(at(60), 10).await;
    let again = due.iter().find(|delivery| delivery.event.subject == of("o")).unwrap();
    assert_eq!((&again.event, again.tries, again.due), (&head.event, 1, at(60)));
    let mut wake = fixture.ledger.wake();
    wake.mark_unchanged();
    fixture.ledger.delivered(head, at(61)).await.unwrap();
    // The counter changes once the next event is durable, at the latest with the next transaction.
    fixture.ledger.delivered(&fixture.delivery("evt_none", &SinkName::WEBHOOK).await, at(61)).await.unwrap();
    assert!(wake.has_changed().unwrap());
    let due = fixture.deliveries(at(61), 10).await;
    let next = due.iter().find(|delivery| delivery.event.subject == of("o")).unwrap();
    assert_eq!((next.event.kind.as_str(), next.tries, next.due), ("payment.failed", 0, at(61)));
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 3);
    assert!(head.event.id < next.event.id);
}

#[tokio::test]
async fn duplicate_delivered_report_is_idempotent() {
    let fixture = three().await;
    let head = fixture.deliveries(at(10), 1).await.remove(0);
    for _ in 0..2 {
        fixture.ledger.delivered(&head, at(11)).await.unwrap();
    }
    fixture.ledger.postpone(&head, at(0), 9).await.unwrap();
    for unknown_id in ["evt_00000000000000000000000000000000", "evt_x", "x", ""] {
        let unknown = fixture.delivery(unknown_id, &SinkName::WEBHOOK).await;
        fixture.ledger.delivered(&unknown, at(11)).await.unwrap();
        fixture.ledger.postpone(&unknown, at(11), 1).await.unwrap();
    }
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 2);
    assert_eq!(fixture.kinds().await, ["payment.failed", "payment.succeeded"]);
    assert_eq!(fixture.ledger.waiting().await.unwrap(), Backlog::default());
}

#[tokio::test]
async fn refund_events_share_the_delivery_queue_of_their_payment() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    assert_eq!(kinds_due(&fixture, at(10)).await, ["payment.succeeded"]);
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.succeeded"]);
}

#[tokio::test]
async fn event_ids_grow_when_the_clock_is_set_back_across_a_restart() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.ledger.settle(permit, Update::Unknown(Reason::default()), at(900_000_000), answer).await.unwrap();
    fixture.ledger.apply(&of("o"), Update::NotFoundAtProvider, at(5)).await.unwrap();
    let fixture = fixture.crash();
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(3)).await.unwrap();
    let ids: Vec<_> = fixture.deliver_all().await.into_iter().map(|event| event.id).collect();
    assert!(ids.len() == 3 && ids.is_sorted(), "{ids:?}");
}

#[tokio::test]
async fn due_deliveries_are_returned_oldest_first_up_to_the_limit() {
    let fixture = Fixture::new();
    for order in ["a", "b", "c"] {
        fixture.paid(order).await;
    }
    for (delivery, due) in fixture.deliveries(at(10), 10).await.iter().zip([30, 10, 20]) {
        fixture.ledger.postpone(delivery, at(due), 1).await.unwrap();
    }
    let due = fixture.deliveries(at(100), 2).await;
    assert_eq!(due.iter().map(|delivery| delivery.due).collect::<Vec<_>>(), [at(10), at(20)]);
    // After a crash the list is the same.
    assert_eq!(fixture.crash().deliveries(at(100), 2).await, due);
}

#[tokio::test]
async fn merchant_gets_at_most_its_free_delivery_slots_and_no_delivery_twice() {
    let fixture = Fixture::new();
    for number in 0..20 {
        fixture.paid(&format!("o{number}")).await;
    }
    let all = fixture.deliveries(at(10), 100).await;
    assert_eq!(all.len(), 20);
    let under_way = all[0].event.id.clone();
    let some =
        fixture.ledger.due_deliveries(at(10), 100, |_| 3, |merchant, event| merchant == "shop" && event == under_way);
    assert_eq!(some.await, all[1..4]);
    assert!(fixture.ledger.due_deliveries(at(10), 100, |_| 0, |_, _| false).await.is_empty());
}
