//! Takeover of the claims of a dead process, and the leases of the processes that end them.

use super::backends::shared;
use super::postgres_outage::until;
use super::*;

/// Simulates the expired lease of a process with this many running claims.
async fn left_behind(claims: usize) -> Schema {
    let backend = Schema::on(shared());
    let first = backend.connect(4);
    let claimed = (0..claims).map(|number| {
        let (order, first) = (format!("o{number}"), first.clone());
        tokio::spawn(async move {
            std::mem::forget(first.claim(claim_key(&order, ""), pay(&order), at(0)).await.unwrap());
        })
    });
    for claimed in claimed.collect::<Vec<_>>() {
        claimed.await.unwrap();
    }
    backend.sql(
        "CREATE FUNCTION silence() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RETURN CASE WHEN new.owner = 1 THEN NULL ELSE new END; END $$;
         CREATE TRIGGER silence BEFORE INSERT ON tollgate_owners FOR EACH ROW EXECUTE FUNCTION silence()",
    );
    std::mem::forget(first);
    backend
}

fn dies(backend: &Schema) {
    backend.sql("UPDATE tollgate_owners SET expires = '-infinity' WHERE owner = 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_dead_process_are_each_ended_once() {
    let backend = left_behind(300).await;
    let survivors = [backend.connect(3), backend.connect(3)];
    dies(&backend);
    until("all are ended", async || {
        let mut waiting = survivors[0].waiting().await.unwrap();
        waiting.oldest_unknown = None;
        waiting.unknown == 300
    })
    .await;
    for number in 0..300 {
        let (payment, timeline) = survivors[1].timeline("shop", &format!("o{number}")).await.unwrap().unwrap();
        let lost = serde_json::to_string(&timeline).unwrap().matches("\"interrupted\"").count();
        assert_eq!((payment.status, payment.version, lost), (Status::Unknown, 2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_runs_when_the_lease_of_a_dead_process_expires() {
    let backend = left_behind(1).await;
    let survivor = backend.connect(2);
    let Engine::Postgres(engine) = &survivor.engine else { panic!() };
    backend.sql("UPDATE tollgate_owners SET expires = clock_timestamp() + interval '1 hour' WHERE owner = 1");
    let pause = engine.sweep_pause().await;
    assert!(!pause.is_zero());
    // A busy machine may take longer than the lease lasts.
    until("the lease ends before the next sweep", async || {
        backend.sql("UPDATE tollgate_owners SET expires = clock_timestamp() + interval '2 s' WHERE owner = 1");
        engine.sweep_pause().await < pause
    })
    .await;
}

/// Prints how long a takeover lasts, and what the survivors do meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn duration_of_a_takeover_is_measured() {
    const CLAIMS: usize = 4000;
    let backend = left_behind(CLAIMS).await;
    let survivors = [backend.connect(12), backend.connect(12)];
    let leases = survivors.each_ref().map(|survivor| match &survivor.engine {
        Engine::Postgres(engine) => Arc::clone(engine),
        Engine::Embedded(_) => panic!(),
    });
    dies(&backend);
    let (began, mut paid, mut longest) = (std::time::Instant::now(), 0, std::time::Duration::ZERO);
    let mut said = 0;
    while said < CLAIMS as u64 {
        let order = format!("paid {paid}");
        let at_begin = std::time::Instant::now();
        let claimed = survivors[paid % 2].claim(claim_key(&order, ""), pay(&order), at(0)).await.unwrap();
        let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
        survivors[paid % 2].settle(permit, outcome(Status::Succeeded), at(1), answer).await.unwrap();
        (paid, longest) = (paid + 1, longest.max(at_begin.elapsed()));
        if paid % 10 == 0 {
            said = survivors[0].waiting().await.unwrap().unknown;
        }
    }
    let renewals = leases.map(|engine| engine.lease().renewals());
    println!(
        "{CLAIMS} claims in {:?}; {paid} payments one by one meanwhile, the longest {longest:?}; renewals {renewals:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_claim_does_not_block_its_sweep_batch() {
    let backend = left_behind(5).await;
    backend.sql("UPDATE tollgate_records SET value = 'x' WHERE space = 2 AND key = (SELECT key FROM tollgate_records WHERE space = 2 ORDER BY key LIMIT 1)");
    dies(&backend);
    let survivor = backend.connect(2);
    until("the others are ended", async || survivor.waiting().await.unwrap().unknown == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_is_renewed_while_the_sweeper_is_blocked() {
    let backend = left_behind(200).await;
    let survivor = backend.connect(2);
    let Engine::Postgres(engine) = &survivor.engine else { panic!() };
    // Nobody can write a record until this lock is released.
    let (client, connection) = tokio_postgres::connect(&shared().url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let lock = format!("BEGIN; LOCK TABLE {}.tollgate_records IN EXCLUSIVE MODE", backend.name());
    client.batch_execute(&lock).await.unwrap();
    dies(&backend);
    let before = engine.lease().renewals();
    until("the lease is renewed", async || engine.lease().renewals() >= before + 3).await;
    assert_eq!((survivor.waiting().await.unwrap().unknown, survivor.not_ready().is_none()), (0, true));
    client.batch_execute("ROLLBACK").await.unwrap();
    until("all are ended", async || survivor.waiting().await.unwrap().unknown == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_with_an_expired_lease_is_not_ready_and_says_why() {
    let fixture = Fixture::<Schema>::new();
    let permit = fixture.run("k", pay("o")).await;
    assert!(fixture.ledger.not_ready().is_none());
    let Engine::Postgres(engine) = &fixture.ledger.engine else { panic!() };
    engine.lease().expire();
    assert!(!fixture.ledger.may_work(), "what it took now it could not send");
    let why = fixture.ledger.not_ready().unwrap();
    assert!(matches!(why, LedgerError::LeaseLost(_)), "{why:?}");
    assert!(why.to_string().contains("the lease of this gateway in PostgreSQL ended"), "{why}");
    assert!(matches!(fixture.ledger.may_send(permit.execution), Err(LedgerError::LeaseLost(_))));
    until("it is renewed", async || fixture.ledger.not_ready().is_none()).await;
    assert!(fixture.ledger.may_send(permit.execution).is_err(), "others may have ended it meanwhile");
}
