//! Events as their merchant reads them, and redeliveries that it requests.

use super::*;

const DAY: i64 = 86_400;

/// Reads every event after a cursor, in pages of `limit`. Returns the ids.
async fn read_all(ledger: &Ledger, merchant: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = after.map(str::to_owned);
    loop {
        let after = cursor.as_deref().map(|id| EventCursor::parse(id).unwrap());
        let page = ledger.events(merchant, after, limit).await.unwrap();
        assert!(page.events.len() <= limit);
        assert_eq!(page.next, page.events.last().map(|event| event.id.clone()));
        ids.extend(page.events.into_iter().map(|event| event.id));
        cursor = page.next.or(cursor);
        if page.is_last && !page.is_withheld {
            return ids;
        }
    }
}

impl Fixture {
    async fn ids(&self) -> Vec<String> {
        read_all(&self.ledger, "shop", None, 100).await
    }

    async fn purge_at(&self, now: Timestamp) {
        let mut purge = Purge::default();
        while !self.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
    }

    async fn redeliver(&self, event: &str, key: &str, now: Timestamp) -> Redelivered {
        self.ledger.redeliver("shop", event, key, now).await.unwrap()
    }

    async fn due_ids(&self, now: Timestamp) -> Vec<String> {
        self.deliveries(now, 100).await.into_iter().map(|delivery| delivery.event.id).collect()
    }
}

#[tokio::test]
async fn pages_hold_every_event_of_one_merchant_once_and_in_order() {
    let fixture = Fixture::new();
    for order in ["a", "b", "c", "d", "e"] {
        fixture.paid(order).await;
    }
    let number = provider_number(&["other", "x"]);
    let other = Payment { merchant: "other".into(), provider_order_no: number, ..a_payment("x") };
    let key = ClaimKey { merchant: "other".into(), ..claim_key("x", "x") };
    let ClaimResult::Run(permit) = fixture.ledger.claim(key, Intent::Pay(other), at(0)).await.unwrap() else {
        panic!("it runs")
    };
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let all = fixture.ids().await;
    assert_eq!(all.len(), 5);
    for limit in [1, 2, 5] {
        assert_eq!(read_all(&fixture.ledger, "shop", None, limit).await, all, "{limit}");
        assert_eq!(read_all(&fixture.ledger, "shop", Some(&all[1]), limit).await, all[2..], "{limit}");
    }
    let foreign = read_all(&fixture.ledger, "other", None, 10).await;
    assert!(foreign.len() == 1 && !all.contains(&foreign[0]));
    let last = EventCursor::parse(&all[4]);
    let page = fixture.ledger.events("shop", last, 10).await.unwrap();
    assert_eq!((page.events.len(), page.next, page.is_last, page.is_expired), (0, None, true, false));
    let unknown = EventCursor::parse(&foreign[0]);
    assert!(fixture.ledger.events("shop", unknown, 10).await.unwrap().is_expired, "another merchant's event is no cursor");
    assert_eq!(fixture.ledger.events("nobody", None, 10).await.unwrap().events, []);
    for wrong in ["", "evt_", "evt_zz", "00000000000000000000000000000000"] {
        assert_eq!(EventCursor::parse(wrong), None, "{wrong}");
    }
}

#[tokio::test]
async fn order_of_events_survives_delivery_crash_and_restart() {
    let fixture = Fixture::new();
    for order in ["a", "b", "c"] {
        fixture.paid(order).await;
    }
    let all = fixture.ids().await;
    fixture.deliver_all().await;
    let later = fixture.crash();
    assert_eq!(later.ids().await, all);
    later.paid("d").await;
    let more = read_all(&later.ledger, "shop", Some(&all[2]), 10).await;
    assert!(more.len() == 1 && !all.contains(&more[0]), "{more:?}");
}

#[tokio::test]
async fn purged_cursor_is_reported_and_skips_no_retained_event() {
    let fixture = Fixture::new();
    fixture.paid("a").await;
    fixture.paid("b").await;
    let old = fixture.ids().await;
    fixture.deliver_all().await;
    let permit = fixture.run("k", pay("c")).await;
    fixture.ledger.settle(permit, outcome(Status::Succeeded), at(20 * DAY), answer).await.unwrap();
    fixture.purge_at(at(31 * DAY)).await;
    let retained = fixture.ids().await;
    assert_eq!(retained.len(), 1, "{retained:?}");
    for cursor in &old {
        let page = fixture.ledger.events("shop", EventCursor::parse(cursor), 10).await.unwrap();
        assert!(page.is_expired && page.is_last);
        assert_eq!(page.next.as_ref(), Some(&retained[0]));
    }
    let page = fixture.ledger.events("shop", EventCursor::parse(&retained[0]), 10).await.unwrap();
    assert!(!page.is_expired && page.events.is_empty());
}

#[tokio::test]
async fn redelivered_event_is_due_once_more_beside_its_payments_queue() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let first = fixture.ids().await.remove(0);
    fixture.deliver_all().await;
    // The payment's next event waits for an endpoint that fails.
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let next = fixture.deliveries(at(5), 1).await.remove(0);
    fixture.ledger.postpone(&next, at(1000), 3).await.unwrap();
    assert_eq!(fixture.redeliver(&first, "k", at(10)).await, Redelivered::Accepted);
    let due = fixture.deliveries(at(10), 10).await;
    assert_eq!(due.iter().map(|it| (it.event.id.as_str(), it.tries)).collect::<Vec<_>>(), [(first.as_str(), 0)]);
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 1, "only the queue is counted");
    // It is retried like any other, also after a crash.
    fixture.ledger.postpone(&due[0], at(20), 1).await.unwrap();
    assert_eq!(fixture.due_ids(at(19)).await, [""; 0]);
    let fixture = fixture.crash();
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 1);
    let again = fixture.deliveries(at(60), 10).await.remove(0);
    assert_eq!((again.event.id.as_str(), again.tries), (first.as_str(), 1));
    for _ in 0..2 {
        fixture.ledger.delivered(&again, at(21)).await.unwrap();
    }
    assert_eq!(fixture.due_ids(at(999)).await, [""; 0]);
    assert_eq!(fixture.due_ids(at(1000)).await, [next.event.id.as_str()], "the queue is as it was");
    let (_, timeline) = fixture.ledger.timeline("shop", "o").await.unwrap().unwrap();
    let requested = TimelineEvent::RedeliveryRequested { id: first.clone() };
    assert_eq!(timeline.entries.iter().filter(|entry| entry.what == requested).count(), 1, "{timeline:?}");
    assert_eq!(timeline.entries.last().unwrap().what, TimelineEvent::Delivered { id: first, sink: SinkName::WEBHOOK });
}

#[tokio::test]
async fn repeated_key_redelivers_once_and_unknown_or_foreign_event_is_not_found() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let event = fixture.ids().await.remove(0);
    fixture.deliver_all().await;
    assert_eq!(fixture.redeliver(&event, "k", at(10)).await, Redelivered::Accepted);
    fixture.ledger.delivered(&fixture.deliveries(at(11), 1).await[0], at(11)).await.unwrap();
    assert_eq!(fixture.redeliver(&event, "k", at(12)).await, Redelivered::Repeated);
    assert_eq!(fixture.due_ids(at(13)).await, [""; 0]);
    assert_eq!(fixture.redeliver(&event, "k-2", at(14)).await, Redelivered::Accepted);
    assert_eq!(fixture.redeliver(&event, "k-3", at(15)).await, Redelivered::Accepted);
    assert_eq!(fixture.due_ids(at(16)).await, [event.as_str()], "two requests at a time are one delivery");
    assert_eq!(fixture.ledger.redeliver("other", &event, "k", at(17)).await.unwrap(), Redelivered::NotFound);
    for unknown in ["evt_00000000000000000000000000000000", "evt_x", ""] {
        assert_eq!(fixture.redeliver(unknown, "k", at(17)).await, Redelivered::NotFound, "{unknown}");
    }
}

#[tokio::test]
async fn redelivery_of_queued_event_tries_its_queue_at_once_in_order() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let [first, second] = fixture.ids().await.try_into().unwrap();
    fixture.ledger.postpone(&fixture.deliveries(at(5), 1).await[0], at(5000), 4).await.unwrap();
    assert_eq!(fixture.redeliver(&second, "k", at(10)).await, Redelivered::Accepted);
    assert_eq!(fixture.due_ids(at(10)).await, [first.as_str()], "the earlier event comes first");
    fixture.ledger.delivered(&fixture.deliveries(at(11), 1).await[0], at(11)).await.unwrap();
    assert_eq!(fixture.due_ids(at(11)).await, [second.as_str()]);
    fixture.ledger.delivered(&fixture.deliveries(at(12), 1).await[0], at(12)).await.unwrap();
    assert_eq!(fixture.due_ids(at(9999)).await, [""; 0], "it was not sent twice");
}

#[tokio::test]
async fn event_under_redelivery_outlives_its_retention_and_its_payment() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let event = fixture.ids().await.remove(0);
    fixture.deliver_all().await;
    let long = RetentionPolicy { payments: std::time::Duration::from_hours(24), ..RetentionPolicy::default() };
    let mut purge = Purge::default();
    while !fixture.ledger.purge(&mut purge, &long, at(3 * DAY)).await.unwrap() {}
    assert!(fixture.ledger.payment("shop", "o").await.unwrap().is_none());
    assert_eq!(fixture.redeliver(&event, "k", at(3 * DAY)).await, Redelivered::Accepted);
    fixture.purge_at(at(40 * DAY)).await;
    let fixture = fixture.crash();
    let [delivery] = &fixture.deliveries(at(40 * DAY), 9).await[..] else { panic!() };
    assert_eq!(delivery.event.id, event);
    fixture.ledger.dropped(delivery, "given_up", at(40 * DAY)).await.unwrap();
    assert_eq!(fixture.due_ids(at(99 * DAY)).await, [""; 0]);
    fixture.purge_at(at(40 * DAY)).await;
    assert_eq!(fixture.ids().await, [""; 0]);
}

/// PostgreSQL may lose the commit of a transaction that wakes nothing, for which its caller does not wait.
#[tokio::test]
async fn transaction_that_publishes_an_event_without_a_sink_wakes() {
    let fixture = Fixture::new();
    let number = provider_number(&["none", "o"]);
    let payment = Payment { merchant: "none".into(), provider_order_no: number, ..a_payment("o") };
    let key = ClaimKey { merchant: "none".into(), ..claim_key("o", "o") };
    let ClaimResult::Run(permit) = fixture.ledger.claim(key, Intent::Pay(payment), at(0)).await.unwrap() else {
        panic!("it runs")
    };
    let mut wake = fixture.ledger.wake();
    wake.mark_unchanged();
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    tokio::time::timeout(std::time::Duration::from_secs(30), wake.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn shared_secret_is_created_once_and_survives_a_restart() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ledger.find_shared_secret().await.unwrap(), None, "a read creates nothing");
    let secret = fixture.ledger.shared_secret().await.unwrap();
    assert_ne!(secret, [0; 32]);
    let fixture = fixture.crash();
    assert_eq!(fixture.ledger.shared_secret().await.unwrap(), secret);
    assert_eq!(fixture.ledger.find_shared_secret().await.unwrap(), Some(secret));
}
