//! Updates and notifications: events, duplicates, mismatches, inquiries.

use tollgate_plugins::payment::NextAction as ActionOf;

use super::*;

#[tokio::test]
async fn status_change_publishes_one_event_with_the_present_record() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    fixture.ledger.apply(&of("o"), Update::NotFoundAtProvider, at(2)).await.unwrap();
    fixture.ledger.apply(&of("o"), Update::NotFoundAtProvider, at(2)).await.unwrap();
    fixture.ledger.record("wechat", notification("e", "o", None, Outcome::of(Status::Succeeded)), at(3)).await.unwrap();
    let mut seen = Vec::new();
    for event in fixture.deliver_all().await {
        let Record::Payment(payment) = event.data else { panic!() };
        assert_eq!(event.subject, of("o"));
        seen.push((event.kind, payment.status, payment.version));
    }
    let expected = [
        ("payment.unknown", Status::Unknown, 2),
        ("payment.failed", Status::Failed, 3),
        ("payment.succeeded", Status::Succeeded, 4),
    ];
    assert_eq!(seen, expected.map(|(kind, status, version)| (kind.to_owned(), status, version)));
    assert_eq!(fixture.ledger.apply(&of("nothing"), Update::Unknown(Reason::default()), at(2)).await.unwrap(), None);
}

#[tokio::test]
async fn successful_refund_is_added_to_its_payment_once() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let paid = fixture.payment("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert_eq!(fixture.payment("o").await, paid, "nothing is certain yet");
    let event = notification("e1", "o", Some("r"), Outcome { at: Some(at(5)), ..Outcome::of(Status::Succeeded) });
    let recorded = fixture.ledger.record("wechat", event.clone(), at(6)).await.unwrap();
    assert_eq!(recorded, Recorded::Applied(of_refund("o", "r")));
    let again = ProviderEvent { id: "e2".into(), ..event };
    assert_eq!(fixture.ledger.record("wechat", again, at(7)).await.unwrap(), Recorded::Duplicate);
    fixture.ledger.apply(&of_refund("o", "r"), outcome(Status::Succeeded), at(8)).await.unwrap();
    let after = fixture.payment("o").await;
    assert_eq!((after.refunded, after.version, after.status), (300, paid.version + 1, Status::Succeeded));
    let refund = fixture.refund("o", "r").await;
    assert_eq!(
        (refund.status, refund.money_state, refund.refunded_at),
        (Status::Succeeded, MoneyState::Moved, Some(at(5)))
    );
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.succeeded"]);
}

#[tokio::test]
async fn closed_refund_counts_as_failed() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Closed)).await;
    assert_eq!(fixture.refund("o", "r").await.status, Status::Failed);
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.failed"]);
    fixture.run("r2", refund_intent("o", "r2", 1000)).await;
}

#[tokio::test]
async fn duplicate_notification_is_ignored_per_channel_and_foreign_ones_are_unknown() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let paid = |id| notification(id, "o", None, Outcome::of(Status::Succeeded));
    let unknown = fixture.ledger.record("wechat", notification("e0", "other", None, Outcome::of(Status::Succeeded)), at(2)).await;
    assert_eq!(unknown.unwrap(), Recorded::UnknownOrder);
    let refund = notification("e0", "o", Some("no such"), Outcome::of(Status::Succeeded));
    let elsewhere = fixture.ledger.record("wechat", refund, at(2)).await.unwrap();
    assert_eq!(elsewhere, Recorded::RefundElsewhere(of("o"), None), "a refund that was not made here");
    assert_eq!(fixture.payment("o").await.status, Status::Pending);
    assert_eq!(fixture.ledger.record("wechat", paid("e0"), at(2)).await.unwrap(), Recorded::Applied(of("o")));
    for id in ["e0", "e1", "e1"] {
        assert_eq!(fixture.ledger.record("wechat", paid(id), at(2)).await.unwrap(), Recorded::Duplicate);
    }
    assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn refund_notification_with_another_order_is_unknown_order() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    fixture.paid("p").await;
    let _permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    let mut event = notification("e", "o", Some("r"), Outcome::of(Status::Succeeded));
    event.order_number = provider_number(&["shop", "p"]);
    event.refunded = Some(tollgate_plugins::payment::Refunded::Part(cny(300)));
    assert_eq!(fixture.ledger.record("wechat", event, at(2)).await.unwrap(), Recorded::UnknownOrder);
    assert_eq!(fixture.refund("o", "r").await.status, Status::Pending);
    assert_eq!(fixture.payment("p").await.refunded, 0);
}

#[tokio::test]
async fn mismatched_amount_or_channel_publishes_one_mismatch_and_changes_nothing() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let before = fixture.payment("o").await;
    let wrong = Outcome { amount: Some(cny(1)), ..Outcome::of(Status::Succeeded) };
    let right = Outcome { amount: Some(cny(1000)), ..wrong.clone() };
    for _ in 0..3 {
        let recorded = fixture.ledger.record("wechat", notification("e", "o", None, wrong.clone()), at(2)).await;
        assert_eq!(recorded.unwrap(), Recorded::Mismatch(of("o")));
    }
    let foreign = fixture.ledger.record("another", notification("f", "o", None, right.clone()), at(2)).await;
    assert_eq!(foreign.unwrap(), Recorded::Mismatch(of("o")));
    fixture.ledger.mismatch(&of("o"), at(2)).await.unwrap();
    let applied = fixture.ledger.apply(&of("o"), Update::Outcome(wrong.clone()), at(2)).await.unwrap();
    assert_eq!(applied, Some(Record::Payment(before)));
    assert_eq!(fixture.kinds().await, ["payment.mismatch"], "one version, one mismatch");
    // A rejected notification stays open: with the right amount it counts under the same id.
    let recorded = fixture.ledger.record("wechat", notification("e", "o", None, right), at(3)).await;
    assert_eq!(recorded.unwrap(), Recorded::Applied(of("o")));
    assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
    fixture.ledger.mismatch(&of("nothing"), at(4)).await.unwrap();
    // At a new version a published mismatch is not published again; a new one is.
    for (id, kinds) in [("old", vec!["payment.mismatch"]), ("old", vec![]), ("new", vec!["payment.mismatch"])] {
        let outcome = Outcome { amount: Some(cny(1)), ..Outcome::of(Status::Succeeded) };
        fixture.ledger.record("wechat", notification(id, "o", None, outcome), at(5)).await.unwrap();
        assert_eq!(fixture.kinds().await, kinds, "{id}");
        let filled = if id == "old" { Outcome { at: Some(at(3)), ..Outcome::of(Status::Succeeded) } } else { continue };
        fixture.ledger.apply(&of("o"), Update::Outcome(filled), at(6)).await.unwrap();
    }
    assert_eq!(fixture.payment("o").await.paid_at, Some(at(3)));
}

#[tokio::test]
async fn applied_notification_is_deduplicated() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let event = notification("e", "o", None, Outcome::of(Status::Succeeded));
    assert_eq!(fixture.ledger.record("wechat", event.clone(), at(2)).await.unwrap(), Recorded::Duplicate);
    let before = fixture.payment("o").await;
    let fuller = Outcome { at: Some(at(1)), ..event.outcome.clone().unwrap() };
    let same_id = notification("e", "o", None, fuller.clone());
    assert_eq!(fixture.ledger.record("wechat", same_id, at(3)).await.unwrap(), Recorded::Duplicate);
    assert_eq!(fixture.payment("o").await, before);
    let other_id = notification("f", "o", None, fuller);
    assert_eq!(fixture.ledger.record("wechat", other_id, at(3)).await.unwrap(), Recorded::Applied(of("o")));
}

#[tokio::test]
async fn response_with_another_amount_makes_the_payment_unknown() {
    let fixture = Fixture::new();
    let wrong = Update::Outcome(Outcome { amount: Some(cny(1)), ..Outcome::of(Status::Succeeded) });
    let permit = fixture.run("k", pay("o")).await;
    let Record::Payment(payment) = fixture.settle(permit, wrong.clone()).await else { panic!() };
    assert_eq!((payment.status, payment.money_state), (Status::Unknown, MoneyState::Unknown));
    assert_eq!(fixture.kinds().await, ["payment.unknown", "payment.mismatch"]);
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::AlreadyExists(_)));
    // The same for a close, except that the payment's status stays.
    let permit = fixture.run("k2", pay("o2")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o2")).await;
    fixture.settle(permit, wrong.clone()).await;
    let payment = fixture.payment("o2").await;
    assert_eq!(payment.status, Status::Pending);
    assert!(payment.inquiry.is_some());
    assert_eq!(fixture.kinds().await, ["payment.mismatch"]);
    assert!(matches!(fixture.claim("c", close("o2")).await, ClaimResult::AlreadyExists(_)));
    // The same for a refund.
    fixture.paid("o3").await;
    let permit = fixture.run("r", refund_intent("o3", "r", 300)).await;
    fixture.settle(permit, wrong).await;
    assert_eq!(fixture.refund("o3", "r").await.status, Status::Unknown);
    assert_eq!(fixture.payment("o3").await.refunded, 0);
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "payment.mismatch"]);
}

#[tokio::test]
async fn notification_before_the_response_takes_precedence() {
    let fixture = Fixture::new();
    for (order, update) in [
        ("a", Update::Unknown(Reason::default())),
        ("b", outcome(Status::Pending)),
        ("c", Update::Declined(provider_error())),
        ("d", outcome(Status::Closed)),
    ] {
        let permit = fixture.run(order, pay(order)).await;
        fixture.ledger.record("wechat", notification(order, order, None, Outcome::of(Status::Succeeded)), at(1)).await.unwrap();
        fixture.settle(permit, update).await;
        let payment = fixture.payment(order).await;
        assert_eq!((payment.status, payment.money_state, payment.state.provider_error), (Status::Succeeded, MoneyState::Moved, None));
        assert!(matches!(fixture.claim(order, pay(order)).await, ClaimResult::Replay(_)));
        assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
    }
    assert!(fixture.due().await.is_empty());
}

#[tokio::test]
async fn recovered_action_publishes_payment_pending() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let found = Outcome { action: Some(ActionOf::Qr { data: "x".into() }), ..Outcome::of(Status::Pending) };
    for at_second in [2, 3] {
        fixture.ledger.apply(&of("o"), Update::Outcome(found.clone()), at(at_second)).await.unwrap();
    }
    let mut kinds = Vec::new();
    for event in fixture.deliver_all().await {
        kinds.push(event.kind);
    }
    assert_eq!(kinds, ["payment.unknown", "payment.pending"]);
}

#[tokio::test]
async fn busy_channels_do_not_starve_pending_inquiries_of_others() {
    let fixture = Fixture::new();
    for number in 0..12 {
        let order = format!("unknown-{number}");
        let permit = fixture.run(&order, pay(&order)).await;
        fixture.settle(permit, Update::Unknown(Reason::default())).await;
    }
    let permit = fixture.run("pending", pay("pending")).await;
    fixture.settle(permit, Update::Outcome(Outcome::of(Status::Pending))).await;
    fixture.save_inquiry(&of("pending"), Some(Inquiry { due: at(50), ..Inquiry::new(at(1)) })).await;
    let due = fixture.ledger.due_inquiries(at(60), 8, &[]).await;
    let is_pending = |record: &Record| matches!(record, Record::Payment(it) if it.status == Status::Pending);
    assert!((7..=8).contains(&due.len()) && due.last().is_some_and(is_pending), "{due:?}");
}

#[tokio::test]
async fn urgent_inquiries_come_first_and_busy_channels_are_skipped() {
    let fixture = Fixture::new();
    for (order, update) in [
        ("pending", Update::Outcome(Outcome::of(Status::Pending))),
        ("unknown", Update::Unknown(Reason::default())),
        ("closing", Update::Outcome(Outcome::of(Status::Pending))),
    ] {
        let permit = fixture.run(order, pay(order)).await;
        fixture.settle(permit, update).await;
    }
    let channel = fixture.payment("unknown").await.channel;
    let inquiry = |due, closing| Inquiry { due: at(due), closing, ..Inquiry::new(at(1)) };
    for (order, due, closing) in [("pending", 10, false), ("unknown", 30, false), ("closing", 20, true)] {
        assert!(fixture.save_inquiry(&of(order), Some(inquiry(due, closing))).await);
    }
    let names = async |limit, busy: &[String]| -> Vec<String> {
        let due = fixture.ledger.due_inquiries(at(60), limit, busy).await;
        due.into_iter().map(|record| if let Record::Payment(p) = record { p.order_id } else { panic!() }).collect()
    };
    assert_eq!(names(10, &[]).await, ["closing", "unknown", "pending"]);
    assert_eq!(names(2, &[]).await, ["closing", "unknown"], "a backlog of pending orders hides no unknown one");
    assert_eq!(names(10, std::slice::from_ref(&channel)).await, <[&str; 0]>::default());
    assert_eq!(names(10, &["another".to_owned()]).await.len(), 3);
    // A formerly urgent record that is only pending now waits with the others.
    fixture.ledger.apply(&of("unknown"), Update::Outcome(Outcome::of(Status::Pending)), at(60)).await.unwrap();
    fixture.save_inquiry(&of("unknown"), Some(inquiry(5, false))).await;
    assert_eq!(names(10, &[]).await, ["closing", "unknown", "pending"]);
    fixture.save_inquiry(&of("unknown"), Some(inquiry(15, false))).await;
    assert_eq!(names(10, &[]).await, ["closing", "pending", "unknown"]);
}

#[tokio::test]
async fn inquiries_are_due_in_order_and_end_with_a_final_status() {
    let fixture = Fixture::new();
    let wake = fixture.ledger.wake();
    for order in ["a", "b"] {
        let permit = fixture.run(order, pay(order)).await;
        fixture.settle(permit, Update::Unknown(Reason::default())).await;
    }
    // A settlement is not synced at once; the next durable transaction follows it.
    fixture.ledger.apply(&of("nothing"), Update::Unknown(Reason::default()), at(1)).await.unwrap();
    assert!(wake.has_changed().unwrap());
    assert!(fixture.ledger.due_inquiries(at(0), 10, &[]).await.is_empty());
    assert_eq!(fixture.ledger.due_inquiries(at(1), 1, &[]).await.len(), 1);
    let version = fixture.payment("a").await.version;
    let inquiry = Inquiry { due: at(60), asked: 3, absent: 1, needs_review: true, ..Inquiry::new(at(1)) };
    fixture.save_inquiry(&of("a"), Some(inquiry.clone())).await;
    let names = async |now| -> Vec<String> {
        let due = fixture.ledger.due_inquiries(now, 10, &[]).await;
        due.into_iter().map(|record| if let Record::Payment(p) = record { p.order_id } else { panic!() }).collect()
    };
    assert_eq!(names(at(59)).await, ["b"]);
    assert_eq!(names(at(60)).await, ["b", "a"]);
    let a = fixture.payment("a").await;
    assert_eq!((a.version, a.state.inquiry), (version, Some(inquiry.clone())));
    let waiting = fixture.ledger.waiting().await.unwrap();
    assert_eq!((waiting.unknown, waiting.oldest_unknown, waiting.deliveries), (2, Some(at(1)), 2));
    for order in ["a", "b"] {
        fixture.ledger.apply(&of(order), outcome(Status::Succeeded), at(70)).await.unwrap();
        fixture.save_inquiry(&of(order), Some(inquiry.clone())).await;
        assert_eq!(fixture.payment(order).await.state.inquiry, None, "what ended is not queried again");
    }
    let waiting = fixture.ledger.waiting().await.unwrap();
    assert_eq!((waiting.unknown, waiting.oldest_unknown, waiting.deliveries), (0, None, 4));
    assert!(fixture.due().await.is_empty());
}

#[tokio::test]
async fn escalation_happens_once_and_only_for_open_records() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let ask = async || fixture.ledger.escalate(&of("o"), "nobody knows", at(90_000)).await.unwrap();
    // As after a crash behind the first step, before the next query is due.
    assert_eq!((ask().await, ask().await), (true, false));
    assert!(fixture.payment("o").await.state.inquiry.unwrap().needs_review);
    assert_eq!(fixture.kinds().await, ["payment.unknown", "payment.unknown"], "the merchant gets the event once more");
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(90_001)).await.unwrap();
    assert!(!ask().await, "it ended while the provider was queried");
    assert_eq!(fixture.kinds().await, ["payment.succeeded"]);
}

#[tokio::test]
async fn outcome_that_needs_a_person_is_recorded_without_status_change() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let stuck = Outcome { needs_review: Some("the card refused".into()), ..Outcome::of(Status::Pending) };
    let subject = RecordId { refund_id: Some("r".into()), ..of("o") };
    for expected in [Recorded::Applied(subject), Recorded::Duplicate] {
        let recorded = fixture.ledger.record("wechat", notification("e", "o", Some("r"), stuck.clone()), at(2)).await.unwrap();
        assert_eq!(recorded, expected);
    }
    assert_eq!(fixture.refund("o", "r").await.status, Status::Pending);
}

#[tokio::test]
async fn notification_without_proof_schedules_a_query() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert!(fixture.due().await.is_empty());
    let unproven = ProviderEvent { outcome: None, ..notification("e", "o", None, Outcome::of(Status::Succeeded)) };
    let recorded = fixture.ledger.record("wechat", unproven.clone(), at(2)).await.unwrap();
    assert_eq!(recorded, Recorded::Applied(of("o")));
    assert_eq!((fixture.payment("o").await.status, fixture.due().await.len()), (Status::Pending, 1));
    let later = Inquiry { due: at(900), ..fixture.payment("o").await.state.inquiry.unwrap() };
    fixture.save_inquiry(&of("o"), Some(later)).await;
    fixture.ledger.record("wechat", unproven.clone(), at(2)).await.unwrap();
    assert_eq!(fixture.payment("o").await.state.inquiry.unwrap().due, at(2), "a repetition schedules the query again");
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(3)).await.unwrap();
    assert!(fixture.due().await.is_empty(), "the answer ends it");
    assert_eq!(fixture.ledger.record("wechat", unproven, at(4)).await.unwrap(), Recorded::Duplicate);
    assert!(fixture.due().await.is_empty(), "money that moved needs no second query");

    let other = Some(Money { value: 1, currency: Currency::CNY });
    let wrong =
        ProviderEvent { outcome: None, amount: other, ..notification("e-2", "o", None, Outcome::of(Status::Succeeded)) };
    let recorded = fixture.ledger.record("wechat", wrong, at(5)).await.unwrap();
    assert_eq!(recorded, Recorded::Mismatch(of("o")), "another amount is no reason to ask");
}

#[tokio::test]
async fn pending_record_is_queried_after_the_notification_wait() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert!(fixture.ledger.due_inquiries(at(299), 10, &[]).await.is_empty());
    assert_eq!(fixture.ledger.due_inquiries(at(302), 10, &[]).await.len(), 1);
    fixture.ledger.apply(&of("o"), outcome(Status::Pending), at(302)).await.unwrap();
    assert!(fixture.payment("o").await.inquiry.is_some(), "until its end is known");
    fixture.save_inquiry(&of("o"), None).await;
    assert!(fixture.payment("o").await.inquiry.is_none(), "or nothing more is expected");
    fixture.paid("paid").await;
    let permit = fixture.run("r", refund_intent("paid", "r", 10)).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    assert_eq!(fixture.ledger.due_inquiries(at(1000), 10, &[]).await.len(), 1, "refunds too");
}

#[tokio::test]
async fn close_of_unknown_payment_is_scheduled_until_it_is_open() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    assert!(matches!(fixture.claim("c", close("o")).await, ClaimResult::AlreadyExists(_)));
    fixture.ledger.apply(&of("o"), outcome(Status::Pending), at(2)).await.unwrap();
    let inquiry = fixture.payment("o").await.state.inquiry.unwrap();
    assert!(inquiry.closing && inquiry.due == at(2), "{inquiry:?}");
}
