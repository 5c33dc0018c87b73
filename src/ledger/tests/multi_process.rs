//! Several processes on one PostgreSQL.

use std::collections::BTreeSet;

use super::super::transaction::{Space, Transaction};
use super::*;

impl Schema {
    /// Expires the lease of the first process, although it is alive.
    fn silence_the_first(&self) {
        self.sql(
            "CREATE FUNCTION silence() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RETURN CASE WHEN new.owner = 1 THEN NULL ELSE new END; END $$;
             CREATE TRIGGER silence BEFORE INSERT ON tollgate_owners FOR EACH ROW EXECUTE FUNCTION silence();
             UPDATE tollgate_owners SET expires = '-infinity' WHERE owner = 1",
        );
    }

    /// Connects another process.
    fn join(&self) -> Fixture<Self> {
        let backend = self.again();
        Fixture { ledger: backend.open(), backend }
    }
}

/// Returns two processes with several connections each: few enough that no lock is waited for during seconds on a
/// busy machine.
fn two() -> (Schema, [Ledger; 2]) {
    let backend = Schema::new();
    let ledgers = [backend.connect(3), backend.connect(3)];
    (backend, ledgers)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claims_of_one_order_over_two_processes_execute_once() {
    let (_place, ledgers) = two();
    let tasks = (0..60).map(|number| {
        let ledger = ledgers[number % 2].clone();
        // A third under one key, the others each under its own: still one payment.
        let key = if number % 3 == 0 { "k".to_owned() } else { format!("k{number}") };
        tokio::spawn(async move { ledger.claim(claim_key(&key, "body"), pay("o"), at(0)).await.unwrap() })
    });
    let mut permits = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            ClaimResult::Run(permit) => permits.push(permit),
            other => assert!(matches!(other, ClaimResult::Running), "{other:?}"),
        }
    }
    assert_eq!(permits.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_over_two_processes_never_exceed_what_was_paid() {
    let (_place, ledgers) = two();
    let ClaimResult::Run(permit) = ledgers[0].claim(claim_key("k", ""), pay("o"), at(0)).await.unwrap() else {
        panic!()
    };
    ledgers[0].settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
    let tasks = (0..40).map(|number| {
        let ledger = ledgers[number % 2].clone();
        tokio::spawn(async move {
            let intent = give_back("o", &format!("r{number}"), 70);
            let claimed = ledger.claim(claim_key(&format!("r{number}"), ""), intent, at(0)).await.unwrap();
            let ClaimResult::Run(permit) = claimed else { return 0 };
            ledger.settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
            70
        })
    });
    let mut given = 0;
    for task in tasks.collect::<Vec<_>>() {
        given += task.await.unwrap();
    }
    let payment = ledgers[1].payment("shop", "o").await.unwrap().unwrap();
    assert_eq!((given, payment.refunded), (980, 980));
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_keys_reject_the_second_writer_without_locks() {
    let (_place, ledgers) = two();
    for round in 0..20_u8 {
        let writes = [0, 1_u8].map(|side| {
            let (ledger, scope) =
                (ledgers[usize::from(side)].clone(), LockScope::order("shop", &format!("{round}-{side}")));
            let entry = move |tx: &mut Transaction<'_>| {
                tx.put(Space::Index, &[round; 16], [side; 16]);
                Ok(())
            };
            tokio::spawn(async move { ledger.engine.write(Durable, scope, entry).await })
        });
        let mut written = 0;
        for write in writes {
            written += usize::from(write.await.unwrap().is_ok());
        }
        assert_eq!(written, 1, "the index is the last line behind the locks");
    }
}

#[tokio::test]
async fn claims_of_a_living_process_are_untouched_when_others_start() {
    let bench = Fixture::<Schema>::new();
    let permit = bench.run("k", pay("o")).await;
    let other = bench.backend.join();
    assert!(matches!(other.claim("k", pay("o")).await, ClaimResult::Running));
    assert_eq!(other.payment("o").await.version, 1);
    bench.settle(permit, outcome(Status::Pending)).await;
    assert!(matches!(other.claim("k", pay("o")).await, ClaimResult::Replay(_)));
}

#[tokio::test]
async fn claims_after_a_clean_shutdown_are_taken_over_at_once() {
    let bench = Fixture::<Schema>::new();
    // The task never ends, like one that is cut off with its process.
    std::mem::forget(bench.run("k", pay("o")).await);
    let backend = bench.backend.again();
    drop(bench.ledger);
    let other = Fixture { ledger: backend.open(), backend };
    assert_eq!(other.payment("o").await.status, Status::Unknown);
}

#[tokio::test]
async fn expired_lease_makes_claims_unknown_and_late_results_overwrite_nothing() {
    let bench = Fixture::<Schema>::new();
    let mut permits = Vec::new();
    for order in ["paid", "open", "refused", "lost"] {
        permits.push(bench.run(order, pay(order)).await);
    }
    let other = bench.backend.join();
    bench.backend.silence_the_first();
    let third = bench.backend.join();
    for order in ["paid", "open", "refused", "lost"] {
        assert_eq!(other.payment(order).await.status, Status::Unknown);
        assert!(
            matches!(other.claim(order, pay(order)).await, ClaimResult::AlreadyExists(_)),
            "it is never sent again"
        );
    }
    assert_eq!((other.due().await.len(), third.due().await.len()), (4, 0), "one of them asks");
    // The provider's answer meanwhile.
    other.ledger.apply(&of("paid"), outcome(Status::Succeeded), at(5)).await.unwrap();
    other.ledger.apply(&of("refused"), outcome(Status::Pending), at(5)).await.unwrap();
    let late = [
        outcome(Status::Closed),
        outcome(Status::Pending),
        Update::Declined(word()),
        Update::Unknown(Reason::default()),
    ];
    for (permit, update) in permits.into_iter().zip(late) {
        bench.settle(permit, update).await;
    }
    let mut statuses = Vec::new();
    for order in ["paid", "open", "refused", "lost"] {
        statuses.push(other.payment(order).await.status);
        assert!(
            matches!(other.claim(order, pay(order)).await, ClaimResult::AlreadyExists(_)),
            "its end was not known in time"
        );
    }
    assert_eq!(statuses, [Status::Succeeded, Status::Pending, Status::Pending, Status::Unknown]);
}

#[tokio::test]
async fn permit_of_an_expired_lease_can_neither_reroute_nor_release() {
    let bench = Fixture::<Schema>::new();
    let mut permit = bench.run("k", pay("o")).await;
    bench.backend.silence_the_first();
    let other = bench.backend.join();
    assert!(
        bench.ledger.reroute(&mut permit, destination("backup", "wechat-v3:2"), at(1)).await.is_err(),
        "nothing may be sent"
    );
    bench.ledger.release(permit).await.unwrap();
    assert_eq!(other.payment("o").await.status, Status::Unknown, "it is being asked about");
}

#[tokio::test]
async fn expired_lease_forbids_sending() {
    let bench = Fixture::<Schema>::new();
    let permit = bench.run("k", pay("o")).await;
    assert!(bench.ledger.may_send(permit.execution).is_ok());
    let Engine::Postgres(engine) = &bench.ledger.engine else { panic!() };
    engine.lease().start_new_term();
    assert!(bench.ledger.may_send(permit.execution).is_err(), "others may have ended it before the lease was renewed");
    let later = bench.run("k2", pay("o2")).await;
    assert!(bench.ledger.may_send(later.execution).is_ok());
    engine.lease().expire();
    assert!(bench.ledger.may_send(later.execution).is_err());
}

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
        tokio::spawn(async move { (number % 2, ledger.due_searches(at(10), 16, &[]).await) })
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
    let search = ledgers[0].payment("shop", mine).await.unwrap().unwrap().state.search.unwrap();
    ledgers[0].save_inquiry(&of(mine), Some(Inquiry { due: at(2), ..search })).await.unwrap();
    let mut theirs = ledgers[1].due_searches(at(10), 100, &[]).await;
    theirs.retain(|record| matches!(record, Record::Payment(payment) if payment.order_id == *mine));
    assert_eq!(theirs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refund_elsewhere_is_counted_once_by_two_processes() {
    let (_place, ledgers) = two();
    for number in 0..10 {
        let order = format!("o{number}");
        let ClaimResult::Run(permit) = ledgers[0].claim(claim_key(&order, ""), pay(&order), at(0)).await.unwrap()
        else {
            panic!()
        };
        ledgers[0].settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
        let event = ProviderEvent {
            refund_number: Some("C".into()),
            outcome: None,
            refunded: Some(tollgate_plugins::payment::Refunded::Total(cny(300))),
            ..notification("e", &order, None, Outcome::of(Status::Succeeded))
        };
        let tasks = (0..8).map(|side| {
            let (ledger, event, subject) = (ledgers[side % 2].clone(), event.clone(), of_refund(&order, "elsewhere/C"));
            tokio::spawn(async move {
                ledger.record("wechat", event, at(2)).await.unwrap();
                let returned = Outcome { amount: Some(cny(300)), ..Outcome::of(Status::Succeeded) };
                ledger.apply(&subject, Update::Outcome(returned), at(3)).await.unwrap();
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let payment = ledgers[1].payment("shop", &order).await.unwrap().unwrap();
        assert_eq!((payment.refunded, payment.refunded_elsewhere, payment.version), (300, 300, 3));
    }
    assert_eq!(ledgers[0].waiting().await.unwrap().deliveries, 20, "success and refund of each payment");
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
    let bench = Fixture::<Schema>::new();
    for order in ["taken", "waits"] {
        let key = claim_key(order, "");
        bench.ledger.enqueue(key, pay(order), "{}".into(), 100, at(0)).await.unwrap();
        if order == "taken" {
            let [claim] = bench.ledger.due_job_ids(at(1), 9).await[..] else { panic!() };
            std::mem::forget(bench.ledger.dequeue(claim, "first", at(1)).await.unwrap().unwrap());
        }
    }
    drop(bench.ledger.due_job_ids(at(1), 9).await);
    bench.backend.silence_the_first();
    let other = bench.backend.join();
    assert_eq!(other.payment("taken").await.status, Status::Unknown);
    let [claim] = other.ledger.due_job_ids(at(1), 9).await[..] else { panic!() };
    let permit = other.ledger.dequeue(claim, "second", at(1)).await.unwrap().unwrap();
    assert_eq!(permit.subject, of("waits"));
    other.settle(permit, outcome(Status::Succeeded)).await;
    assert!(bench.ledger.dequeue(claim, "first", at(1)).await.unwrap().is_none());
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
    let mut taken = [BTreeSet::new(), BTreeSet::new()];
    // A process that lost the race for a row gets none, and finds others at its next query.
    for number in 0..8 {
        if number >= looks.len() {
            looks.push(look(number));
        }
        let (side, deliveries) = (&mut looks[number]).await.unwrap();
        assert!(deliveries.len() <= 8, "no more than it has places for");
        assert!(deliveries.iter().all(|delivery| delivery.event.kind == "payment.unknown"), "only heads");
        taken[side].extend(deliveries.into_iter().map(|delivery| delivery.event.id));
    }
    assert!(taken[0].is_disjoint(&taken[1]) && !taken[0].is_empty() && !taken[1].is_empty(), "{taken:?}");
    // The next event of the same payment may go to any process.
    let mine = taken[0].first().unwrap();
    ledgers[0].delivered(mine, at(11)).await.unwrap();
    let next = ledgers[1].due_deliveries(at(11), 100, |_| 100, |_, event| taken[1].contains(event)).await;
    assert!(next.iter().any(|delivery| delivery.event.kind == "payment.succeeded"), "{next:?}");
    assert!(next.iter().all(|delivery| !taken[0].contains(&delivery.event.id)), "{next:?}");
    // Reservations of a dead process are free, too.
    backend.silence_the_first();
    let all = ledgers[1].due_deliveries(at(12), 100, |_| 100, |_, _| false).await;
    assert_eq!(all.len(), 40);
}

#[tokio::test]
async fn concurrent_schema_migrations_succeed_and_older_versions_run_on_newer_tables() {
    let backend = Schema::new();
    let opened: Vec<_> =
        (0..4).map(|_| backend.address()).map(|it| std::thread::spawn(|| Ledger::connect(it))).collect();
    for ledger in opened {
        ledger.join().unwrap().unwrap();
    }
    backend.sql("INSERT INTO tollgate_schema (version) VALUES (99); ALTER TABLE tollgate_due ADD COLUMN newer text");
    let bench = backend.join();
    bench.paid("o").await;
    assert_eq!(bench.kinds().await, ["payment.succeeded"]);
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
            ledgers[0].delivered(&delivery.event.id, at(10)).await.unwrap();
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
