//! Migration of an embedded ledger to PostgreSQL.

use super::*;

#[tokio::test]
async fn migration_copies_the_whole_embedded_ledger() {
    let old = Fixture::<Directory>::new();
    old.paid("paid").await;
    let permit = old.run("r", refund_intent("paid", "r", 300)).await;
    old.settle(permit, outcome(Status::Succeeded)).await;
    let permit = old.run("unknown", pay("unknown")).await;
    old.settle(permit, Update::Unknown(Reason::default())).await;
    let event = notification("e", "paid", None, Outcome::of(Status::Succeeded));
    old.ledger.record("wechat", event.clone(), at(2)).await.unwrap();
    let elsewhere = ProviderEvent {
        refund_number: Some("CONSOLE-1".into()),
        outcome: None,
        refunded: Some(tollgate_plugins::payment::Refunded::Open),
        ..notification("f", "refunded", None, Outcome::of(Status::Succeeded))
    };
    old.paid("refunded").await;
    assert!(matches!(old.ledger.record("wechat", elsewhere, at(2)).await.unwrap(), Recorded::RefundElsewhere(..)));
    std::mem::forget(old.run("running", pay("running")).await);
    let key = claim_key("waits", &format!("{:?}", pay("waits")));
    old.ledger.enqueue(key, pay("waits"), "{}".into(), 9, at(0)).await.unwrap();
    let (paid, unknown) = (old.payment("paid").await, old.payment("unknown").await);
    let old = old.crash();

    let backend = Schema::new();
    assert!(migrate(old.backend.path(), backend.address()).is_err(), "a gateway runs on it");
    let Fixture { ledger, backend: old } = old;
    drop(ledger);
    let moved = migrate(old.path(), backend.address()).unwrap().to_string();
    for count in [
        "payments          5",
        "refunds           2",
        "claims            6",
        "running           0",
        "jobs              1",
    ] {
        assert!(moved.contains(count), "{moved}");
    }
    let fixture = Fixture { ledger: backend.open(), backend };
    assert_eq!((fixture.payment("paid").await, fixture.payment("unknown").await), (paid, unknown));
    assert_eq!(fixture.payment("running").await.status, Status::Unknown, "nobody runs it any more");
    assert_eq!(fixture.due().await.len(), 3);
    let [claim] = fixture.ledger.due_job_ids(at(9), 9).await[..] else { panic!() };
    assert!(matches!(fixture.claim("waits", pay("waits")).await, ClaimResult::Queued(_)));
    let permit = fixture.ledger.dequeue(claim, "here", at(9)).await.unwrap().unwrap();
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert!(matches!(fixture.claim("pay paid", pay("paid")).await, ClaimResult::Replay(_)));
    assert!(matches!(fixture.claim("running", pay("running")).await, ClaimResult::AlreadyExists(_)));
    assert!(matches!(
        fixture.claim("x", refund_intent("paid", "r2", 701)).await,
        ClaimResult::ExceedsBalance { left: 700 }
    ));
    assert_eq!(fixture.ledger.record("wechat", event, at(3)).await.unwrap(), Recorded::Duplicate);
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 6);
    let mut kinds = fixture.kinds().await;
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "payment.pending",
            "payment.succeeded",
            "payment.succeeded",
            "payment.unknown",
            "payment.unknown",
            "refund.succeeded"
        ]
    );
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 0);
    let counted = Update::Outcome(Outcome { amount: Some(cny(300)), ..Outcome::of(Status::Succeeded) });
    fixture.ledger.apply(&of_refund("refunded", "elsewhere/CONSOLE-1"), counted, at(9)).await.unwrap();
    assert_eq!(fixture.payment("refunded").await.refunded_elsewhere, 300);

    let again = migrate(old.path(), fixture.backend.address());
    assert!(again.unwrap_err().to_string().contains("was moved to PostgreSQL at"));
}

#[tokio::test]
async fn migration_of_a_missing_ledger_creates_nothing() {
    let (backend, empty) = (Schema::new(), Directory::new());
    for missing in [empty.path().to_owned(), empty.path().join("none")] {
        assert!(migrate(&missing, backend.address()).unwrap_err().to_string().contains("holds no ledger"));
    }
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// Returns an embedded ledger with one payment, not in use.
async fn one_payment() -> Directory {
    let old = Fixture::<Directory>::new();
    old.paid("paid").await;
    old.backend
}

#[tokio::test]
async fn migrated_ledger_cannot_be_opened_and_says_what_to_do() {
    let (old, backend) = (one_payment().await, Schema::new());
    migrate(old.path(), backend.address()).unwrap();
    let refused = Ledger::open(old.path()).err().unwrap().to_string();
    assert!(refused.contains("was moved to PostgreSQL at") && refused.contains("Name that PostgreSQL"), "{refused}");
    let again = migrate(old.path(), Schema::new().address()).unwrap_err().to_string();
    assert!(again.contains("already"), "also into another one: {again}");
}

#[tokio::test]
async fn crash_before_the_commit_leaves_both_ledgers_closed_and_retry_completes_the_migration() {
    let (old, backend) = (one_payment().await, Schema::new());
    moved::Mark::begin(backend.address().to_string()).write(old.path()).unwrap();
    let refused = Ledger::open(old.path()).err().unwrap().to_string();
    assert!(refused.contains("was not finished") && refused.contains("tollgate migrate"), "{refused}");
    let moved = migrate(old.path(), backend.address()).unwrap().to_string();
    assert!(moved.contains("payments          1"), "{moved}");
    assert_eq!(Fixture { ledger: backend.open(), backend }.payment("paid").await.status, Status::Succeeded);
}

#[tokio::test]
async fn crash_after_the_commit_is_completed_by_retry_without_a_second_copy() {
    let (old, backend) = (one_payment().await, Schema::new());
    migrate(old.path(), backend.address()).unwrap();
    let mark = moved::Mark::read(old.path()).unwrap().unwrap();
    moved::Mark { complete: false, ..mark.clone() }.write(old.path()).unwrap();
    let fixture = Fixture { ledger: backend.open(), backend };
    fixture.paid("later").await;
    let moved = migrate(old.path(), fixture.backend.address()).unwrap().to_string();
    assert!(moved.contains("payments          1"), "{moved}");
    assert_eq!(moved::Mark::read(old.path()).unwrap().unwrap(), mark);
    // The migration cannot be completed in another database, because the first may have all rows.
    moved::Mark { complete: false, to: "PostgreSQL elsewhere".into(), ..mark }.write(old.path()).unwrap();
    let refused = migrate(old.path(), fixture.backend.address()).unwrap_err().to_string();
    assert!(refused.contains("a move to PostgreSQL elsewhere began"), "{refused}");
}

#[tokio::test]
async fn unreadable_migration_mark_keeps_the_ledger_closed() {
    let old = one_payment().await;
    std::fs::write(old.path().join(moved::MARK), "{").unwrap();
    assert!(Ledger::open(old.path()).err().unwrap().to_string().contains("cannot be read"));
}

#[tokio::test]
async fn migration_into_a_started_but_unused_postgres_succeeds() {
    let (old, backend) = (one_payment().await, Schema::new());
    let started = backend.open();
    started.purge_time(&mut PurgeGuard::default(), environment().clock.reading()).await.unwrap();
    drop(started);
    let moved = migrate(old.path(), backend.address()).unwrap().to_string();
    assert!(moved.contains("payments          1"), "{moved}");
    let refused = migrate(one_payment().await.path(), backend.address()).unwrap_err().to_string();
    assert!(refused.contains("there are payments in"), "{refused}");
}

#[tokio::test]
async fn migration_copies_the_queue_of_every_sink() {
    let old = Fixture::<Directory>::new();
    let payment =
        Payment { merchant: "many".into(), provider_order_no: provider_number(&["many", "o"]), ..a_payment("o") };
    let key = ClaimKey { merchant: "many".into(), ..claim_key("o", "o") };
    let claimed = old.ledger.claim(key, Intent::Pay(payment), at(0)).await.unwrap();
    let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
    old.settle(permit, Update::Unknown(Reason::default())).await;
    let subject = RecordId { merchant: "many".into(), ..of("o") };
    old.ledger.apply(&subject, outcome(Status::Succeeded), at(2)).await.unwrap();
    let Fixture { ledger, backend: old } = old;
    drop(ledger);
    let backend = Schema::new();
    migrate(old.path(), backend.address()).unwrap();
    let fixture = Fixture { ledger: backend.open(), backend };
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 4);
    let due = fixture.deliveries(at(9), 10).await;
    let mut sinks: Vec<_> = due.iter().map(|delivery| delivery.sink.as_str()).collect();
    sinks.sort_unstable();
    assert_eq!(sinks, ["mq", "webhook"]);
    for delivery in due {
        fixture.ledger.delivered(&delivery, at(10)).await.unwrap();
    }
    assert_eq!(fixture.ledger.waiting().await.unwrap().deliveries, 2);
}
