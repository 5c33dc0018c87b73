//! Workers of several processes on one PostgreSQL: resolver, queue, delivery and purge.

use std::collections::BTreeSet;

use super::multi_process::two;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_query_the_same_record() {
    let (_place, ledgers) = two();
    // More than one side can reserve: some are left for the other in any case.
    for number in 0..100 {
        let order = format!("o{number}");
        let claimed = ledgers[0].claim(claim_key(&order, ""), pay(&order), at(0)).await.unwrap();
        let ClaimResult::Run(permit) = claimed else { panic!() };
        ledgers[0].settle(permit, Update::Unknown(Reason::default()), at(1), answer).await.unwrap();
    }
    let looks = (0..8).map(|number| {
        let ledger = ledgers[number % 2].clone();
        tokio::spawn(async move { (number % 2, ledger.due_inquiries(at(10), 16, &[]).await) })
    });
    let mut taken = [BTreeSet::new(), BTreeSet::new()];
    for look in looks.collect::<Vec<_>>() {
        let (side, records) = look.await.unwrap();
        taken[side].extend(records.into_iter().map(|record| match record {
            Record::Payment(payment) => payment.order_id,
            Record::Refund(_) => panic!(),
        }));
    }
    assert!(taken[0].is_disjoint(&taken[1]), "{taken:?}");
    assert!(taken.iter().all(|taken| taken.len() >= 16), "{taken:?}");
    // A process that got an inconclusive answer releases its reservation; then any process may query.
    let mine = taken[0].first().unwrap();
    let inquiry = ledgers[0].payment("shop", mine).await.unwrap().unwrap().state.inquiry.unwrap();
    let postponed = Inquiry { due: at(2), ..inquiry.clone() };
    ledgers[0].save_inquiry(&of(mine), &inquiry, Some(postponed)).await.unwrap();
    let mut theirs = ledgers[1].due_inquiries(at(10), 100, &[]).await;
    theirs.retain(|record| matches!(record, Record::Payment(payment) if payment.order_id == *mine));
    assert_eq!(theirs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn job_is_executed_by_one_of_two_processes() {
    let (backend, ledgers) = two();
    for number in 0..60 {
        let order = format!("o{number}");
        let accepted = ledgers[0].enqueue(claim_key(&order, ""), pay(&order), "{}".into(), 100, at(0)).await.unwrap();
        assert!(matches!(accepted, ClaimResult::Accepted(_)), "{accepted:?}");
    }
    // As many reservations as needed, on both sides at once.
    let looks = (0..8).map(|number| {
        let ledgers = ledgers.clone();
        tokio::spawn(async move {
            let found = ledgers[number % 2].due_job_ids(at(10), 16).await;
            let mut taken = Vec::new();
            for claim in found {
                for ledger in &ledgers {
                    taken.extend(ledger.dequeue(claim, "here", at(10)).await.unwrap());
                }
            }
            taken
        })
    });
    let mut orders = Vec::new();
    for look in looks.collect::<Vec<_>>() {
        orders.extend(look.await.unwrap().into_iter().map(|permit| {
            let order = permit.subject.order_id.clone();
            std::mem::forget(permit);
            order
        }));
    }
    let many = orders.len();
    let orders: BTreeSet<_> = orders.into_iter().collect();
    assert!(many >= 32 && orders.len() == many, "{many} taken, {} different", orders.len());
    // Jobs that the first process had reserved but not dequeued when it died go to the other.
    let left = 60 - many;
    drop(ledgers[0].due_job_ids(at(10), 100).await);
    backend.silence_the_first();
    let mut found = BTreeSet::new();
    while found.len() < left {
        let due = ledgers[1].due_job_ids(at(10), 100).await;
        assert!(!due.is_empty(), "{} of {left}", found.len());
        found.extend(due);
    }
}

#[tokio::test]
async fn jobs_of_a_dead_process_become_unknown_and_queued_ones_execute() {
    let fixture = Fixture::<Schema>::new();
    for order in ["taken", "waits"] {
        let key = claim_key(order, "");
        fixture.ledger.enqueue(key, pay(order), "{}".into(), 100, at(0)).await.unwrap();
        if order == "taken" {
            let [claim] = fixture.ledger.due_job_ids(at(1), 9).await[..] else { panic!() };
            std::mem::forget(fixture.ledger.dequeue(claim, "first", at(1)).await.unwrap().unwrap());
        }
    }
    drop(fixture.ledger.due_job_ids(at(1), 9).await);
    fixture.backend.silence_the_first();
    let other = fixture.backend.join();
    assert_eq!(other.payment("taken").await.status, Status::Unknown);
    let [claim] = other.ledger.due_job_ids(at(1), 9).await[..] else { panic!() };
    let permit = other.ledger.dequeue(claim, "second", at(1)).await.unwrap().unwrap();
    assert_eq!(permit.subject, of("waits"));
    other.settle(permit, outcome(Status::Succeeded)).await;
    assert!(fixture.ledger.dequeue(claim, "first", at(1)).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_deliver_the_same_event() {
    let (backend, ledgers) = two();
    // More than one side can reserve: some are left for the other in any case.
    for number in 0..40 {
        let order = format!("o{number}");
        let claimed = ledgers[0].claim(claim_key(&order, ""), pay(&order), at(0)).await.unwrap();
        let ClaimResult::Run(permit) = claimed else { panic!() };
        ledgers[0].settle(permit, Update::Unknown(Reason::default()), at(1), answer).await.unwrap();
        ledgers[1].apply(&of(&order), outcome(Status::Succeeded), at(2)).await.unwrap();
    }
    let look = |number: usize| {
        let ledger = ledgers[number % 2].clone();
        tokio::spawn(async move { (number % 2, ledger.due_deliveries(at(10), 100, |_| 8, |_, _| false).await) })
    };
    let mut looks: Vec<_> = (0..6).map(look).collect();
    let (mut taken, mut mine) = ([BTreeSet::new(), BTreeSet::new()], None);
    // A process that lost the race for a row gets none, and finds others at its next query.
    for number in 0..8 {
        if number >= looks.len() {
            looks.push(look(number));
        }
        let (side, deliveries) = (&mut looks[number]).await.unwrap();
        assert!(deliveries.len() <= 8, "no more than it has slots for");
        assert!(deliveries.iter().all(|delivery| delivery.event.kind == "payment.unknown"), "only heads");
        mine = mine.or_else(|| deliveries.first().filter(|_| side == 0).cloned());
        taken[side].extend(deliveries.into_iter().map(|delivery| delivery.event.id));
    }
    assert!(taken[0].is_disjoint(&taken[1]) && !taken[0].is_empty() && !taken[1].is_empty(), "{taken:?}");
    // The next event of the same payment may go to any process.
    ledgers[0].delivered(&mine.unwrap(), at(11)).await.unwrap();
    let next = ledgers[1].due_deliveries(at(11), 100, |_| 100, |_, event| taken[1].contains(event)).await;
    assert!(next.iter().any(|delivery| delivery.event.kind == "payment.succeeded"), "{next:?}");
    assert!(next.iter().all(|delivery| !taken[0].contains(&delivery.event.id)), "{next:?}");
    // Reservations of a dead process are free, too.
    backend.silence_the_first();
    let all = ledgers[1].due_deliveries(at(12), 100, |_| 100, |_, _| false).await;
    assert_eq!(all.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivery_of_an_event_that_another_process_sends_gives_it_to_no_third() {
    let (_backend, ledgers) = two();
    let ClaimResult::Run(permit) = ledgers[0].claim(claim_key("o", ""), pay("o"), at(0)).await.unwrap() else {
        panic!()
    };
    ledgers[0].settle(permit, Update::Unknown(Reason::default()), at(1), answer).await.unwrap();
    ledgers[0].apply(&of("o"), outcome(Status::Succeeded), at(2)).await.unwrap();
    let due = async |number: usize, now| ledgers[number].due_deliveries(now, 100, |_| 8, |_, _| false).await;
    let mine = due(0, at(10)).await.remove(0);
    assert_eq!(mine.event.kind, "payment.unknown");
    let accepted = ledgers[1].redeliver("shop", &mine.event.id, "k", at(11)).await.unwrap();
    assert_eq!((accepted, due(1, at(12)).await), (Redelivered::Accepted, vec![]), "its successor could overtake it");
    ledgers[0].delivered(&mine, at(12)).await.unwrap();
    let next = due(1, at(13)).await;
    assert_eq!(next.iter().map(|it| it.event.kind.as_str()).collect::<Vec<_>>(), ["payment.succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_may_be_delivered_to_two_sinks_by_two_processes() {
    let (_backend, ledgers) = two();
    let payment =
        Payment { merchant: "many".into(), provider_order_no: provider_number(&["many", "o"]), ..a_payment("o") };
    let key = ClaimKey { merchant: "many".into(), ..claim_key("o", "") };
    let ClaimResult::Run(permit) = ledgers[0].claim(key, Intent::Pay(payment), at(0)).await.unwrap() else { panic!() };
    ledgers[0].settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
    let of_sink = |sink: &'static str| move |subscription: &str| usize::from(subscription == sink);
    let mine = ledgers[0].due_deliveries(at(10), 100, of_sink("many"), |_, _| false).await;
    let yours = ledgers[1].due_deliveries(at(10), 100, |_| 8, |_, _| false).await;
    let sinks = [&mine, &yours].map(|list| list.iter().map(|it| it.sink.as_str()).collect::<Vec<_>>());
    assert_eq!(sinks, [["webhook"], ["mq"]]);
    assert_eq!(mine[0].event, yours[0].event);
    for (ledger, delivery) in ledgers.iter().zip([&mine[0], &yours[0]]) {
        ledger.delivered(delivery, at(11)).await.unwrap();
    }
    assert_eq!(ledgers[0].waiting().await.unwrap().deliveries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_purges_do_not_disturb_payments() {
    let (_place, ledgers) = two();
    let pay_all = async |prefix: &str, now: Timestamp| {
        for number in 0..60 {
            let order = format!("{prefix}{number}");
            let claimed = ledgers[number % 2].claim(claim_key(&order, ""), pay(&order), now).await.unwrap();
            let ClaimResult::Run(permit) = claimed else { panic!() };
            ledgers[number % 2].settle(permit, outcome(Status::Failed), now, answer).await.unwrap();
        }
    };
    pay_all("old", at(0)).await;
    loop {
        let due = ledgers[0].due_deliveries(at(10), 100, |_| 100, |_, _| false).await;
        if due.is_empty() {
            break;
        }
        for delivery in due {
            ledgers[0].delivered(&delivery, at(10)).await.unwrap();
        }
    }
    let now = at(500 * 86_400);
    let purges = (0..4).map(|number| {
        let ledger = ledgers[number % 2].clone();
        tokio::spawn(async move {
            let mut purge = Purge::default();
            while !ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
        })
    });
    let purges: Vec<_> = purges.collect();
    pay_all("new", now).await;
    for purge in purges {
        purge.await.unwrap();
    }
    for number in 0..60 {
        assert_eq!(ledgers[0].payment("shop", &format!("old{number}")).await.unwrap(), None);
        assert!(ledgers[0].payment("shop", &format!("new{number}")).await.unwrap().is_some());
    }
}
