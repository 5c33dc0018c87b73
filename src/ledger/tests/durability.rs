//! What a crash, a failing disk and a crowd leave of the ledger.

use std::sync::mpsc;

use super::super::embedded::{Durability, Engine};
use super::*;

#[tokio::test]
async fn after_a_crash_what_ran_is_unknown_and_searched() {
    let bench = Bench::new();
    bench.paid("paid").await;
    bench.paid("refunding").await;
    let ticket = bench.run("k", pay("open")).await;
    bench.settle(ticket, outcome(Status::Pending)).await;
    let ticket = bench.run("done", pay("unpaid")).await;
    bench.settle(ticket, outcome(Status::Closed)).await;
    let known = bench.hear_all().await.len();
    let _running = [("p", pay("o")), ("r", give_back("refunding", "r", 10)), ("c", close("open")), ("q", pay("told"))];
    let mut tickets = Vec::new();
    for (key, intent) in _running {
        tickets.push(bench.run(key, intent).await);
    }
    bench.ledger.record("wechat", told("e", "told", None, Outcome::of(Status::Succeeded)), at(2)).await.unwrap();

    let after = bench.crash();
    let payment = after.payment("o").await;
    assert_eq!((payment.status, payment.money_state, payment.version), (Status::Unknown, MoneyState::Unknown, 2));
    assert_eq!(after.refund("refunding", "r").await.status, Status::Unknown);
    let open = after.payment("open").await;
    assert_eq!((open.status, open.version), (Status::Pending, bench.payment("open").await.version));
    assert!(open.search.is_some());
    assert_eq!(after.payment("told").await.status, Status::Succeeded);
    assert_eq!(after.payment("paid").await, bench.payment("paid").await);
    let mut due: Vec<_> = after.due().await.iter().map(name).collect();
    due.sort();
    assert_eq!(due, ["o", "open", "refunding/r"]);
    assert_eq!(after.ledger.waiting().await.unwrap().unknown, 2);
    for (key, intent) in
        [("p", pay("o")), ("r", give_back("refunding", "r", 10)), ("c", close("open")), ("q", pay("told"))]
    {
        assert!(matches!(after.claim(key, intent).await, Claimed::Present(_)), "{key}");
    }
    assert!(matches!(after.claim("done", pay("unpaid")).await, Claimed::Replay(_)));
    assert_eq!(known, 3);
    let mut kinds = after.kinds().await;
    kinds.sort();
    assert_eq!(kinds, ["payment.succeeded", "payment.unknown"], "told's and o's, nothing twice");
    // A second crash finds nothing running.
    let again = after.crash();
    assert_eq!(again.payment("o").await.version, 2);
    assert!(again.kinds().await.is_empty());
}

fn name(record: &Record) -> String {
    match record {
        Record::Payment(payment) => payment.order_id.clone(),
        Record::Refund(refund) => format!("{}/{}", refund.order_id, refund.refund_id),
    }
}

#[tokio::test]
async fn a_notification_that_was_answered_survives_with_its_event_and_its_memory() {
    let bench = Bench::new();
    let ticket = bench.run("k", pay("o")).await;
    bench.settle(ticket, outcome(Status::Pending)).await;
    let event = told("e", "o", None, Outcome::of(Status::Succeeded));
    bench.ledger.record("wechat", event.clone(), at(2)).await.unwrap();
    let after = bench.crash();
    assert_eq!(after.ledger.waiting().await.unwrap().deliveries, 1);
    assert_eq!(after.ledger.record("wechat", event, at(3)).await.unwrap(), Recorded::Duplicate);
    assert_eq!(after.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn a_ledger_that_was_closed_opens_as_it_was() {
    let Bench { ledger, directory } = Bench::new();
    let bench = Bench { ledger, directory };
    bench.paid("o").await;
    let payment = bench.payment("o").await;
    let Bench { ledger, directory } = bench;
    drop(ledger);
    let bench = Bench { ledger: Ledger::open(directory.path()).unwrap(), directory };
    assert_eq!(bench.payment("o").await, payment);
    assert_eq!(bench.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn two_at_once_may_not_open_it() {
    let bench = Bench::new();
    assert!(Ledger::open(bench.directory.path()).is_err());
}

/// Keeps the thread busy until the sender is dropped, so that a known crowd gathers behind.
async fn hold(engine: Arc<Engine>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (started, has_started) = tokio::sync::oneshot::channel();
    let held = engine.clone();
    let task = tokio::spawn(async move {
        let work = move |_: &mut super::super::embedded::Transaction<'_>| {
            let _ = started.send(());
            let _ = released.recv();
            Ok(())
        };
        held.write(Durability::Durable, work).await.unwrap();
    });
    has_started.await.unwrap();
    engine.hooks().start_counting();
    (release, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_shares_one_sync() {
    let bench = Bench::new();
    let (release, held) = hold(bench.ledger.engine.clone()).await;
    let tasks = (0..64).map(|number| {
        let ledger = bench.ledger.clone();
        tokio::spawn(async move {
            ledger.claim(claim_key(&format!("{number}"), ""), pay(&format!("o{number}")), at(0)).await.unwrap()
        })
    });
    let tasks: Vec<_> = tasks.collect();
    bench.ledger.engine.hooks().crowd(64).await;
    let before = bench.ledger.engine.hooks().sizes().len();
    drop(release);
    held.await.unwrap();
    let mut tickets = Vec::new();
    for task in tasks {
        tickets.push(task.await.unwrap());
        assert!(matches!(tickets.last(), Some(Claimed::Run(_))));
    }
    let sizes = bench.ledger.engine.hooks().sizes().split_off(before);
    assert!(sizes.iter().any(|size| *size >= 60) && sizes.len() <= 4, "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_fails_for_all_and_for_good() {
    for step in ["commit", "sync"] {
        let bench = Bench::new();
        bench.paid("o").await;
        let running = bench.run("running", pay("running")).await;
        let (release, held) = hold(bench.ledger.engine.clone()).await;
        let tasks = (0..8).map(|number| {
            let ledger = bench.ledger.clone();
            tokio::spawn(async move {
                ledger.claim(claim_key(&format!("{number}"), ""), pay(&format!("{number}")), at(0)).await
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let settling = {
            let ledger = bench.ledger.clone();
            tokio::spawn(async move { ledger.settle(running, outcome(Status::Pending), at(1), answer).await })
        };
        bench.ledger.engine.hooks().crowd(9).await;
        bench.ledger.engine.hooks().fail_next(step);
        drop(release);
        held.await.unwrap();
        for task in tasks {
            assert!(task.await.unwrap().is_err(), "{step}: it must not send");
        }
        // Applied before the sync, so that only a failing commit takes it back.
        assert_eq!(settling.await.unwrap().is_ok(), step == "sync");
        assert!(!bench.ledger.is_healthy());
        let later = bench.ledger.claim(claim_key("later", ""), pay("later"), at(0)).await;
        assert!(later.unwrap_err().to_string().contains("failed"), "no second try");
        assert_eq!(bench.payment("o").await.status, Status::Succeeded, "reading goes on");
    }
}

#[tokio::test]
async fn a_panic_inside_a_transaction_is_an_error_not_a_silence() {
    let bench = Bench::new();
    let ticket = bench.run("k", pay("o")).await;
    let settled = bench.ledger.settle(ticket, outcome(Status::Succeeded), at(1), |_| panic!("no answer")).await;
    assert!(settled.unwrap_err().to_string().contains("no answer"));
    assert!(!bench.ledger.is_healthy());
    assert!(bench.ledger.apply(&of("o"), outcome(Status::Succeeded), at(1)).await.is_err());
    assert_eq!(bench.payment("o").await.status, Status::Pending, "nothing of it was written");
    // The next start finds the claim that was left.
    assert_eq!(bench.crash().payment("o").await.status, Status::Unknown);
}

#[tokio::test]
async fn a_transaction_that_errs_writes_nothing_and_harms_nobody() {
    let bench = Bench::new();
    let _ticket = bench.run("k", pay("o")).await;
    // Another order with the same provider's number: it would take the first one's notifications.
    let twin = Payment { number: provider_number(&["shop", "o"]), ..a_payment("twin") };
    assert!(bench.ledger.claim(claim_key("twin", ""), Intent::Pay(twin), at(0)).await.is_err());
    assert!(bench.ledger.is_healthy());
    assert_eq!(bench.ledger.payment("shop", "twin").await.unwrap(), None);
    bench.run("twin", pay("twin")).await;
}

#[tokio::test]
async fn what_is_applied_is_seen_at_once() {
    let bench = Bench::new();
    for number in 0..50 {
        let order = format!("o{number}");
        let ticket = bench.run(&order, pay(&order)).await;
        let record = bench.settle(ticket, outcome(Status::Succeeded)).await;
        assert_eq!(Record::Payment(bench.payment(&order).await), record);
        assert!(matches!(bench.claim(&order, pay(&order)).await, Claimed::Replay(_)));
    }
}

#[tokio::test]
async fn what_nobody_waited_for_is_synced_soon_and_at_the_latest_at_the_end() {
    let bench = Bench::new();
    let ticket = bench.run("k", pay("o")).await;
    let before = bench.ledger.engine.hooks().syncs();
    bench.settle(ticket, outcome(Status::Pending)).await;
    while bench.ledger.engine.hooks().syncs() == before {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let ticket = bench.run("last", pay("last")).await;
    let shared = bench.ledger.engine.weak().upgrade().unwrap();
    let before = shared.hooks().syncs();
    bench.settle(ticket, outcome(Status::Pending)).await;
    let Bench { ledger, directory } = bench;
    drop(ledger);
    assert_eq!(shared.hooks().syncs(), before + 1);
    drop((shared, directory));
}
