//! Several processes on one PostgreSQL.

use super::super::transaction::{Space, Transaction};
use super::*;

impl Schema {
    /// Expires the lease of the first process, although it is alive.
    pub(super) fn silence_the_first(&self) {
        self.sql(
            "CREATE FUNCTION silence() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RETURN CASE WHEN new.owner = 1 THEN NULL ELSE new END; END $$;
             CREATE TRIGGER silence BEFORE INSERT ON tollgate_owners FOR EACH ROW EXECUTE FUNCTION silence();
             UPDATE tollgate_owners SET expires = '-infinity' WHERE owner = 1",
        );
    }

    /// Connects another process.
    pub(super) fn join(&self) -> Fixture<Self> {
        let backend = self.again();
        Fixture { ledger: backend.open(), backend }
    }
}

/// Returns two processes with several connections each: few enough that no lock is waited for during seconds on a
/// busy machine.
pub(super) fn two() -> (Schema, [Ledger; 2]) {
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
            let intent = refund_intent("o", &format!("r{number}"), 70);
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
    let fixture = Fixture::<Schema>::new();
    let permit = fixture.run("k", pay("o")).await;
    let other = fixture.backend.join();
    assert!(matches!(other.claim("k", pay("o")).await, ClaimResult::Running));
    assert_eq!(other.payment("o").await.version, 1);
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert!(matches!(other.claim("k", pay("o")).await, ClaimResult::Replay(_)));
}

#[tokio::test]
async fn claims_after_a_clean_shutdown_are_taken_over_at_once() {
    let fixture = Fixture::<Schema>::new();
    // The task never ends, like one that is cut off with its process.
    std::mem::forget(fixture.run("k", pay("o")).await);
    let backend = fixture.backend.again();
    drop(fixture.ledger);
    let other = Fixture { ledger: backend.open(), backend };
    assert_eq!(other.payment("o").await.status, Status::Unknown);
}

#[tokio::test]
async fn expired_lease_makes_claims_unknown_and_late_results_overwrite_nothing() {
    let fixture = Fixture::<Schema>::new();
    let mut permits = Vec::new();
    for order in ["paid", "open", "refused", "lost"] {
        permits.push(fixture.run(order, pay(order)).await);
    }
    let other = fixture.backend.join();
    fixture.backend.silence_the_first();
    let third = fixture.backend.join();
    for order in ["paid", "open", "refused", "lost"] {
        assert_eq!(other.payment(order).await.status, Status::Unknown);
        assert!(
            matches!(other.claim(order, pay(order)).await, ClaimResult::AlreadyExists(_)),
            "it is never sent again"
        );
    }
    assert_eq!((other.due().await.len(), third.due().await.len()), (4, 0), "one of them queries");
    // The provider's answer meanwhile.
    other.ledger.apply(&of("paid"), outcome(Status::Succeeded), at(5)).await.unwrap();
    other.ledger.apply(&of("refused"), outcome(Status::Pending), at(5)).await.unwrap();
    let late = [
        outcome(Status::Closed),
        outcome(Status::Pending),
        Update::Declined(provider_error()),
        Update::Unknown(Reason::default()),
    ];
    for (permit, update) in permits.into_iter().zip(late) {
        fixture.settle(permit, update).await;
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
    let fixture = Fixture::<Schema>::new();
    let mut permit = fixture.run("k", pay("o")).await;
    fixture.backend.silence_the_first();
    let other = fixture.backend.join();
    assert!(
        fixture.ledger.reroute(&mut permit, destination("backup", "wechat-v3:2"), at(1)).await.is_err(),
        "nothing may be sent"
    );
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(other.payment("o").await.status, Status::Unknown, "it is being queried");
}

#[tokio::test]
async fn expired_lease_forbids_sending() {
    let fixture = Fixture::<Schema>::new();
    let permit = fixture.run("k", pay("o")).await;
    assert!(fixture.ledger.may_send(permit.execution).is_ok());
    let Engine::Postgres(engine) = &fixture.ledger.engine else { panic!() };
    engine.lease().start_new_term();
    assert!(
        fixture.ledger.may_send(permit.execution).is_err(),
        "others may have ended it before the lease was renewed"
    );
    let later = fixture.run("k2", pay("o2")).await;
    assert!(fixture.ledger.may_send(later.execution).is_ok());
    engine.lease().expire();
    assert!(fixture.ledger.may_send(later.execution).is_err());
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

#[tokio::test]
async fn concurrent_schema_migrations_succeed_and_older_versions_run_on_newer_tables() {
    let backend = Schema::new();
    let opened: Vec<_> =
        (0..4).map(|_| backend.address()).map(|it| std::thread::spawn(|| Ledger::connect(it))).collect();
    for ledger in opened {
        ledger.join().unwrap().unwrap();
    }
    backend.sql("INSERT INTO tollgate_schema (version) VALUES (99); ALTER TABLE tollgate_due ADD COLUMN newer text");
    let fixture = backend.join();
    fixture.paid("o").await;
    assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn tables_of_an_unreleased_version_are_refused_with_advice() {
    for version in [1, 2] {
        let backend = Schema::new();
        backend.sql(&format!(
            "CREATE TABLE tollgate_schema (version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
             INSERT INTO tollgate_schema (version) VALUES ({version})"
        ));
        let Err(LedgerError::Refused { why, source: None }) = Ledger::connect(backend.address()) else { panic!() };
        assert!(why.contains(&format!("unreleased version of Tollgate (version {version} ")), "{why}");
        assert!(why.contains("name an empty database in `ledger.url`, or drop every table"), "{why}");
    }
}
