//! Redelivery: to several sinks, beside their queues, and requests while an attempt is under way.

use super::sinks::{ALL_THREE, deliver_all, heads, refunded, three};
use super::*;

const DAY: i64 = 86_400;

/// Returns the events of a merchant, oldest first.
async fn events_of(fixture: &Fixture, merchant: &str) -> Vec<Event> {
    loop {
        let page = fixture.ledger.events(merchant, None, 100).await.unwrap();
        if !page.is_withheld {
            return page.events;
        }
    }
}

/// Publishes and delivers one event of a payment.
async fn delivered_event(fixture: &Fixture) -> String {
    fixture.paid("o").await;
    fixture.deliver_all().await.remove(0).id
}

async fn due_ids(fixture: &Fixture, now: Timestamp) -> Vec<String> {
    fixture.deliveries(now, 100).await.into_iter().map(|delivery| delivery.event.id).collect()
}

#[tokio::test]
async fn redelivered_event_of_a_purged_payment_reaches_every_sink_while_one_is_dead() {
    let fixture = Fixture::new();
    three(&fixture, "many", "o").await;
    refunded(&fixture, "many", "o").await;
    for sink in [SinkName::WEBHOOK, "mq".into(), "refunds".into()] {
        deliver_all(&fixture, &sink).await;
    }
    let policy = RetentionPolicy { payments: std::time::Duration::from_hours(24), ..RetentionPolicy::default() };
    let mut purge = Purge::default();
    while !fixture.ledger.purge(&mut purge, &policy, at(3 * DAY)).await.unwrap() {}
    assert!(fixture.ledger.payment("many", "o").await.unwrap().is_none());
    let refund = events_of(&fixture, "many").await.remove(3);
    assert_eq!(refund.kind, "refund.succeeded");
    let now = at(3 * DAY);
    assert_eq!(fixture.ledger.redeliver("many", &refund.id, "k", now).await.unwrap(), Redelivered::Accepted);
    let everywhere = ["mq refund.succeeded", "refunds refund.succeeded", "webhook refund.succeeded"];
    assert_eq!(heads(&fixture, now).await, everywhere);
    // The broker is dead.
    let due = fixture.deliveries(now, 100).await;
    let of_mq = due.iter().find(|delivery| delivery.sink.as_str() == "mq").unwrap();
    fixture.ledger.postpone(of_mq, at(4 * DAY), 1).await.unwrap();
    for delivery in due.iter().filter(|delivery| delivery.sink.as_str() != "mq") {
        fixture.ledger.delivered(delivery, now).await.unwrap();
    }
    let fixture = fixture.crash();
    assert_eq!(fixture.ledger.waiting().await.unwrap(), Backlog::default(), "only queues are counted");
    assert_eq!(heads(&fixture, at(4 * DAY - 60)).await, [""; 0]);
    assert_eq!(heads(&fixture, at(4 * DAY)).await, ["mq refund.succeeded"]);
    assert_eq!(deliver_all(&fixture, &"mq".into()).await, ["refund.succeeded"]);
    assert_eq!(fixture.crash().deliveries(at(5 * DAY), 9).await, []);
}

#[tokio::test]
async fn redelivery_of_an_event_without_any_sink_is_refused_and_changes_nothing() {
    let fixture = Fixture::new();
    three(&fixture, "none", "o").await;
    let event = events_of(&fixture, "none").await.remove(0).id;
    for _ in 0..2 {
        assert_eq!(fixture.ledger.redeliver("none", &event, "k", at(10)).await.unwrap(), Redelivered::NoSink);
    }
    assert_eq!(due_ids(&fixture, at(11)).await, [""; 0]);
    let (_, timeline) = fixture.ledger.timeline("none", "o").await.unwrap().unwrap();
    let requested = TimelineEvent::RedeliveryRequested { id: event };
    assert!(timeline.entries.iter().all(|entry| entry.what != requested), "{timeline:?}");
}

#[tokio::test]
async fn event_that_never_joined_a_sinks_queue_is_sent_there_beside_the_queue() {
    let fixture = Fixture::new();
    let merchant = narrow_merchant();
    three(&fixture, &merchant, "o").await;
    assert_eq!(deliver_all(&fixture, &SinkName::WEBHOOK).await, ALL_THREE);
    // The sink fails with the events before and behind one that it did not want.
    let head = fixture.deliveries(at(10), 100).await.remove(0);
    assert_eq!((head.sink.as_str(), head.event.kind.as_str()), ("mq", "payment.unknown"));
    fixture.ledger.postpone(&head, at(50_000), 4).await.unwrap();
    WIDENED.lock().insert(merchant.clone());
    let failed = events_of(&fixture, &merchant).await.remove(1).id;
    assert_eq!(fixture.ledger.redeliver(&merchant, &failed, "k", at(20)).await.unwrap(), Redelivered::Accepted);
    assert_eq!(heads(&fixture, at(20)).await, ["mq payment.failed", "webhook payment.failed"]);
    let all = deliver_all(&fixture, &"mq".into()).await;
    assert_eq!(all, ["payment.failed", "payment.unknown", "payment.succeeded"], "its queue is as it was");
}

#[tokio::test]
async fn redelivery_requested_during_an_attempt_is_sent_after_it() {
    let fixture = Fixture::new();
    let event = delivered_event(&fixture).await;
    let redeliver = async |key: &str, now| fixture.ledger.redeliver("shop", &event, key, now).await.unwrap();
    assert_eq!(redeliver("k", at(10)).await, Redelivered::Accepted);
    let first = fixture.deliveries(at(10), 9).await.remove(0);
    // In the same millisecond as the first request.
    assert_eq!(redeliver("k-2", at(10)).await, Redelivered::Accepted);
    fixture.ledger.delivered(&first, at(11)).await.unwrap();
    assert_eq!(due_ids(&fixture, at(12)).await, [event.as_str()], "the second request is not fulfilled");
    fixture.ledger.postpone(&first, at(5000), 3).await.unwrap();
    let [second] = &fixture.deliveries(at(12), 9).await[..] else { panic!("a late report delays it") };
    // In that millisecond again.
    assert_eq!(redeliver("k-3", at(10)).await, Redelivered::Accepted);
    fixture.ledger.delivered(&first, at(12)).await.unwrap();
    fixture.ledger.delivered(second, at(12)).await.unwrap();
    let [third] = &fixture.deliveries(at(12), 9).await[..] else { panic!("the third request is not fulfilled") };
    fixture.ledger.postpone(third, at(5000), 3).await.unwrap();
    assert_eq!(redeliver("k-4", at(20)).await, Redelivered::Accepted);
    let [fourth] = &fixture.deliveries(at(20), 9).await[..] else { panic!("it waits for the postponed one") };
    fixture.ledger.delivered(fourth, at(21)).await.unwrap();
    assert_eq!(due_ids(&fixture, at(9999)).await, [""; 0]);
}

#[tokio::test]
async fn age_of_the_oldest_waiting_event_ignores_redeliveries() {
    let fixture = Fixture::new();
    let event = delivered_event(&fixture).await;
    assert_eq!(fixture.ledger.redeliver("shop", &event, "k", at(2 * DAY)).await.unwrap(), Redelivered::Accepted);
    let redelivery = fixture.deliveries(at(2 * DAY), 9).await.remove(0);
    fixture.ledger.postpone(&redelivery, at(2 * DAY + 60), 3).await.unwrap();
    let claimed = fixture.ledger.claim(claim_key("refund", "r"), Intent::Refund(a_refund("o", "r", 300)), at(2 * DAY)).await.unwrap();
    let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
    fixture.ledger.settle(permit, outcome(Status::Succeeded), at(2 * DAY), answer).await.unwrap();
    let fixture = fixture.crash();
    let oldest = fixture.ledger.waiting().await.unwrap().oldest_by_sink;
    assert_eq!(oldest, BTreeMap::from([(SinkName::WEBHOOK, at(2 * DAY))]));
    let tries = fixture.deliveries(at(3 * DAY), 9).await.into_iter().map(|it| (it.event.id == event, it.tries));
    assert_eq!(tries.collect::<BTreeMap<_, _>>(), BTreeMap::from([(true, 3), (false, 0)]));
}

#[tokio::test]
async fn late_report_about_the_first_delivery_does_not_end_a_redelivery() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let head = fixture.deliveries(at(10), 9).await.remove(0);
    // Another gateway sent it after the reservation had expired.
    fixture.ledger.delivered(&head, at(11)).await.unwrap();
    let event = &head.event.id;
    assert_eq!(fixture.ledger.redeliver("shop", event, "k", at(12)).await.unwrap(), Redelivered::Accepted);
    fixture.ledger.delivered(&head, at(13)).await.unwrap();
    assert_eq!(due_ids(&fixture, at(14)).await, [event.as_str()]);
}

#[tokio::test]
async fn keys_of_redeliveries_are_remembered_for_a_day_and_bounded_in_number() {
    let fixture = Fixture::new();
    let event = delivered_event(&fixture).await;
    let redeliver = async |key: &str, now| fixture.ledger.redeliver("shop", &event, key, now).await.unwrap();
    for number in 0..100 {
        assert_eq!(redeliver(&format!("k{number}"), at(10 + number)).await, Redelivered::Accepted);
    }
    assert_eq!(redeliver("more", at(200)).await, Redelivered::TooOften { retry_after: 86_400 - 190 });
    let fixture = fixture.crash();
    let redeliver = async |key: &str, now| fixture.ledger.redeliver("shop", &event, key, now).await.unwrap();
    assert_eq!(redeliver("k0", at(9 + DAY)).await, Redelivered::Repeated);
    assert_eq!(redeliver("k0", at(10 + DAY)).await, Redelivered::Accepted);
    assert_eq!(redeliver("k1", at(10 + DAY)).await, Redelivered::Repeated);
}
