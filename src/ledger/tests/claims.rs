//! Claims: idempotency, deduplication, release, refunds and closes.

use super::*;

#[tokio::test]
async fn same_idempotency_key_executes_once_then_replays_the_response() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    assert_eq!((permit.payment.version, permit.payment.money_state), (1, MoneyState::NotSent));
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::Running));
    let other = fixture.ledger.claim(claim_key("k", "other"), pay("o"), at(0)).await.unwrap();
    assert!(matches!(other, ClaimResult::KeyReused));
    let (record, said) = fixture.ledger.settle(permit, Update::Declined(provider_error()), at(1), answer).await.unwrap();
    let Record::Payment(payment) = record else { panic!() };
    assert_eq!((payment.status, payment.money_state), (Status::Failed, MoneyState::NotMoved));
    assert_eq!(payment.state.provider_error, Some(provider_error()));
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::Replay(again) if again == said));
    let other = fixture.ledger.claim(claim_key("k", "other"), pay("o"), at(0)).await.unwrap();
    assert!(matches!(other, ClaimResult::KeyReused));
}

#[tokio::test]
async fn idempotency_keys_differ_by_merchant_method_path_and_key() {
    let fixture = Fixture::new();
    let _permit = fixture.run("k", pay("o")).await;
    for (number, change) in [
        (|key: &mut ClaimKey| key.method = "PUT".into()) as fn(&mut ClaimKey),
        |key| key.path = "/x".into(),
        |key| key.key = "k2".into(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut key = claim_key("k", "another body");
        change(&mut key);
        let claimed = fixture.ledger.claim(key, pay(&format!("o{number}")), at(0)).await.unwrap();
        assert!(matches!(claimed, ClaimResult::Run(_)), "{claimed:?}");
    }
    // The same order of another merchant is another payment. A key cannot claim an order of another merchant.
    let mut theirs = a_payment("o");
    theirs.merchant = "bakery".into();
    theirs.provider_order_no = provider_number(&["bakery", "o"]);
    let wrong = fixture.ledger.claim(claim_key("k9", ""), Intent::Pay(theirs.clone()), at(0)).await;
    assert!(wrong.is_err());
    let key = ClaimKey { merchant: "bakery".into(), ..claim_key("k", "") };
    assert!(matches!(fixture.ledger.claim(key, Intent::Pay(theirs), at(0)).await.unwrap(), ClaimResult::Run(_)));
}

#[tokio::test]
async fn claim_with_a_foreign_provider_number_is_rejected() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let of_another = Payment { order_id: "twin".into(), ..a_payment("o") };
    let of_a_rest = Payment { order_id: "o/wechat".into(), ..a_payment("o") };
    let refund = Refund { refund_id: "twin".into(), ..a_refund("o", "r", 1) };
    for intent in [Intent::Pay(of_another), Intent::Pay(of_a_rest), Intent::Refund(refund)] {
        let error = fixture.ledger.claim(claim_key("twin", ""), intent, at(0)).await.unwrap_err();
        assert!(matches!(error, LedgerError::InvalidRequest(_)), "{error:?}");
    }
    assert_eq!(fixture.ledger.refund("shop", "o", "twin").await.unwrap(), None);
}

#[tokio::test]
async fn same_order_under_another_key_is_the_same_payment() {
    let fixture = Fixture::new();
    let permit = fixture.run("k1", pay("o")).await;
    assert!(matches!(fixture.claim("k2", pay("o")).await, ClaimResult::Running));
    let other = Intent::Pay(Payment { content: "other".into(), ..a_payment("o") });
    assert!(matches!(fixture.claim("k3", other.clone()).await, ClaimResult::OrderIdReused));
    fixture.settle(permit, outcome(Status::Pending)).await;
    for key in ["k2", "k4"] {
        assert!(matches!(fixture.claim(key, pay("o")).await, ClaimResult::Replay(a) if a.body == "o pending"));
    }
    // k2 and k4 are bound now, k3 is not.
    for key in ["k2", "k4"] {
        assert!(matches!(fixture.claim(key, pay("o2")).await, ClaimResult::KeyReused));
    }
    assert!(matches!(fixture.claim("k3", pay("o2")).await, ClaimResult::Run(_)));
}

#[tokio::test]
async fn retry_of_an_unknown_claim_returns_its_state_and_never_resends() {
    let fixture = Fixture::new();
    let permit = fixture.run("k", pay("o")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let unknown = fixture.payment("o").await;
    assert_eq!((unknown.status, unknown.money_state), (Status::Unknown, MoneyState::Unknown));
    assert!(unknown.inquiry.is_some());
    for key in ["k", "k2"] {
        let claimed = fixture.claim(key, pay("o")).await;
        assert!(matches!(&claimed, ClaimResult::AlreadyExists(Record::Payment(p)) if *p == unknown), "{claimed:?}");
    }
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(2)).await.unwrap();
    let claimed = fixture.claim("k", pay("o")).await;
    assert!(matches!(&claimed, ClaimResult::AlreadyExists(Record::Payment(p)) if p.status == Status::Succeeded), "{claimed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_duplicate_claims_execute_once() {
    let fixture = Fixture::new();
    let tasks = (0..200).map(|number| {
        let ledger = fixture.ledger.clone();
        // Half under one key, half each under its own: still one payment.
        let key = if number % 2 == 0 { "k".to_owned() } else { format!("k{number}") };
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

#[tokio::test]
async fn released_claim_is_rolled_back_completely() {
    let fixture = Fixture::new();
    let mut permit = fixture.run("k1", pay("o")).await;
    assert!(matches!(fixture.claim("k2", pay("o")).await, ClaimResult::Running));
    let moved = fixture.ledger.reroute(&mut permit, destination("wechat-backup", "wechat-v3:2"), at(1)).await.unwrap();
    assert_eq!((moved.channel.as_str(), moved.version), ("wechat-backup", 2));
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.ledger.payment("shop", "o").await.unwrap(), None);
    let gone = fixture.ledger.record("wechat", notification("e", "o", None, Outcome::of(Status::Succeeded)), at(1)).await;
    assert_eq!(gone.unwrap(), Recorded::UnknownOrder);
    // Both keys are free again, the second even for another request.
    assert!(matches!(fixture.claim("k2", pay("o2")).await, ClaimResult::Run(_)));
    fixture.run("k1", pay("o")).await;
}

#[tokio::test]
async fn release_after_a_notification_keeps_the_record() {
    let fixture = Fixture::new();
    let mut permit = fixture.run("k", pay("o")).await;
    fixture.ledger.record("wechat", notification("e", "o", None, Outcome::of(Status::Succeeded)), at(1)).await.unwrap();
    assert!(fixture.ledger.reroute(&mut permit, destination("backup", "wechat-v3:2"), at(1)).await.is_err(), "it is paid: send nothing");
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.payment("o").await.status, Status::Succeeded);
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::AlreadyExists(_)));
    // A pending notification proves that the request was sent, so an inquiry starts.
    let permit = fixture.run("k2", pay("o2")).await;
    fixture.ledger.record("wechat", notification("e2", "o2", None, Outcome::of(Status::Pending)), at(1)).await.unwrap();
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.payment("o2").await.status, Status::Unknown);
    // The same for a mismatch.
    let permit = fixture.run("k3", pay("o3")).await;
    fixture.ledger.mismatch(&of("o3"), at(1)).await.unwrap();
    fixture.deliver_all().await;
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.payment("o3").await.status, Status::Unknown);
    // The same for a refund.
    let permit = fixture.run("r", refund_intent("o", "r", 10)).await;
    fixture.ledger.record("wechat", notification("e3", "o", Some("r"), Outcome::of(Status::Pending)), at(1)).await.unwrap();
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.refund("o", "r").await.status, Status::Unknown);
}

#[tokio::test]
async fn dropped_permit_makes_the_claim_unknown() {
    let fixture = Fixture::new();
    drop(fixture.run("k", pay("o")).await);
    // The writer handles requests in order, so this one comes after.
    assert!(matches!(fixture.claim("k", pay("o")).await, ClaimResult::AlreadyExists(_)));
    assert_eq!(fixture.payment("o").await.status, Status::Unknown);
    assert_eq!(fixture.due().await.len(), 1);
}

#[tokio::test]
async fn claim_whose_caller_never_got_the_permit_is_released() {
    let fixture = Fixture::new();
    {
        let claim = fixture.ledger.claim(claim_key("k", "b"), pay("o"), at(0));
        tokio::pin!(claim);
        // Polled once, the request is on its way to the writer; then the caller hangs up.
        let _ = futures_now(claim.as_mut()).await;
    }
    let claimed = loop {
        let claimed = fixture.ledger.claim(claim_key("k", "b"), pay("o"), at(0)).await.unwrap();
        if !matches!(claimed, ClaimResult::Running) {
            break claimed;
        }
    };
    assert!(matches!(claimed, ClaimResult::Run(_)), "{claimed:?}");
}

async fn futures_now<F: Future + Unpin>(mut future: F) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(std::pin::Pin::new(&mut future).poll(context).is_ready()))
        .await
}

#[tokio::test]
async fn refund_is_rejected_without_a_successful_payment_in_its_currency() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.claim("r", refund_intent("o", "r", 1)).await, ClaimResult::NotFound));
    let permit = fixture.run("k", pay("o")).await;
    assert!(matches!(fixture.claim("r", refund_intent("o", "r", 1)).await, ClaimResult::Refused(_)));
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    assert!(matches!(fixture.claim("r", refund_intent("o", "r", 1)).await, ClaimResult::Refused(_)));
    fixture.ledger.apply(&of("o"), outcome(Status::Succeeded), at(2)).await.unwrap();
    let mut dollars = a_refund("o", "r", 1);
    dollars.amount.currency = Currency::parse("USD").unwrap();
    assert!(matches!(fixture.claim("r", Intent::Refund(dollars)).await, ClaimResult::Refused(_)));
    let permit = fixture.run("r", refund_intent("o", "r", 1)).await;
    let refund = permit.refund.as_ref().unwrap();
    assert_eq!((refund.channel.as_str(), permit.payment.order_id.as_str()), ("wechat", "o"));
    assert_eq!(permit.subject, of_refund("o", "r"));
}

#[tokio::test]
async fn duplicate_refund_executes_once() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("a", refund_intent("o", "r", 10)).await;
    assert!(matches!(fixture.claim("a", refund_intent("o", "r", 10)).await, ClaimResult::Running));
    assert!(matches!(fixture.claim("b", refund_intent("o", "r", 10)).await, ClaimResult::Running));
    assert!(matches!(fixture.claim("c", refund_intent("o", "r", 11)).await, ClaimResult::OrderIdReused));
    assert!(matches!(fixture.claim("a", refund_intent("o", "r2", 10)).await, ClaimResult::KeyReused));
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    let claimed = fixture.claim("b", refund_intent("o", "r", 10)).await;
    assert!(matches!(claimed, ClaimResult::AlreadyExists(Record::Refund(refund)) if refund.status == Status::Unknown));
    let permit = fixture.run("d", refund_intent("o", "r3", 10)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let claimed = fixture.claim("e", refund_intent("o", "r3", 10)).await;
    assert!(matches!(claimed, ClaimResult::Replay(answer) if answer.body == "r3 succeeded"));
}

#[tokio::test]
async fn refund_exceeding_the_balance_is_rejected() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    assert!(matches!(fixture.claim("a", refund_intent("o", "a", 1001)).await, ClaimResult::ExceedsBalance { left: 1000 }));
    let open = fixture.run("b", refund_intent("o", "b", 600)).await;
    assert!(matches!(fixture.claim("c", refund_intent("o", "c", 401)).await, ClaimResult::ExceedsBalance { left: 400 }));
    // Unknown refunds count, failed and released ones do not.
    fixture.settle(open, Update::Unknown(Reason::default())).await;
    assert!(matches!(fixture.claim("c", refund_intent("o", "c", 401)).await, ClaimResult::ExceedsBalance { left: 400 }));
    fixture.ledger.apply(&of_refund("o", "b"), Update::NotFoundAtProvider, at(2)).await.unwrap();
    let permit = fixture.run("c", refund_intent("o", "c", 1000)).await;
    fixture.ledger.release(permit).await.unwrap();
    let permit = fixture.run("c", refund_intent("o", "c", 1000)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    assert_eq!(fixture.payment("o").await.refunded, 1000);
    assert!(matches!(fixture.claim("d", refund_intent("o", "d", 1)).await, ClaimResult::ExceedsBalance { left: 0 }));
    assert!(matches!(fixture.claim("e", refund_intent("o", "e", u64::MAX)).await, ClaimResult::ExceedsBalance { left: 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refunds_never_exceed_the_paid_amount() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let tasks = (0..60).map(|number| {
        let ledger = fixture.ledger.clone();
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
    assert_eq!((given, fixture.payment("o").await.refunded), (980, 980));
}

#[tokio::test]
async fn close_is_rejected_unless_the_payment_is_open() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.claim("c", close("o")).await, ClaimResult::NotFound));
    let permit = fixture.run("k", pay("o")).await;
    assert!(matches!(fixture.claim("c", close("o")).await, ClaimResult::Running), "it may overtake the payment");
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("c", close("o")).await;
    assert!(matches!(fixture.claim("c2", close("o")).await, ClaimResult::Running));
    fixture.ledger.release(permit).await.unwrap();
    assert_eq!(fixture.payment("o").await.status, Status::Pending, "only the claim is gone");
    let permit = fixture.run("c2", close("o")).await;
    let Record::Payment(closed) = fixture.settle(permit, outcome(Status::Closed)).await else { panic!() };
    assert_eq!((closed.status, closed.money_state), (Status::Closed, MoneyState::NotMoved));
    assert!(matches!(fixture.claim("c2", close("o")).await, ClaimResult::Replay(_)));
    assert!(matches!(fixture.claim("c3", close("o")).await, ClaimResult::AlreadyExists(_)));
    fixture.paid("paid").await;
    assert!(matches!(fixture.claim("c4", close("paid")).await, ClaimResult::Refused(_)));
    let permit = fixture.run("k2", pay("unknown")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    assert!(matches!(fixture.claim("c5", close("unknown")).await, ClaimResult::AlreadyExists(_)));
}
