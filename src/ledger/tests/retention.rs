//! Retention and purge: expired rows are deleted together; open, unknown or undelivered ones are retained.

use super::*;
use crate::transaction::Space;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Returns every row that is not due work.
const RECORDS: [Space; 9] = [
    Space::Payments,
    Space::Refunds,
    Space::Claims,
    Space::Keys,
    Space::Index,
    Space::Events,
    Space::Notifications,
    Space::Timeline,
    Space::Expiry,
];

impl Fixture {
    /// Runs a whole round of the purge.
    async fn purge(&self, now: Timestamp) {
        let mut purge = Purge::default();
        while !self.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
    }

    async fn count(&self, space: Space) -> usize {
        self.ledger.engine.keys(space, Vec::new(), vec![0xff; 32], 10_000).await.unwrap().len()
    }

    async fn claim_at(&self, key: &str, intent: Intent, now: Timestamp) -> ClaimResult {
        let body = format!("{intent:?}");
        self.ledger.claim(claim_key(key, &body), intent, now).await.unwrap()
    }

    /// Delivers every event except those of one order.
    async fn deliver_all_but(&self, order: &str) {
        loop {
            let mut due = self.deliveries(at(3), 100).await;
            due.retain(|delivery| delivery.event.subject.order_id != order);
            if due.is_empty() {
                return;
            }
            for delivery in due {
                self.ledger.delivered(&delivery, at(3)).await.unwrap();
            }
        }
    }

    async fn is_there(&self, order: &str) -> bool {
        self.ledger.payment("shop", order).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn expired_payment_is_purged_completely_and_its_order_id_is_free() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.ledger.record("wechat", notification("e", "o", None, Outcome::of(Status::Succeeded)), at(2)).await.unwrap();
    assert!(matches!(fixture.claim("late", pay("o")).await, ClaimResult::Replay(_)));
    let part = Some(tollgate_plugins::payment::Refunded::Part(cny(100)));
    let event = notification("f", "o", None, Outcome::of(Status::Succeeded));
    let elsewhere = ProviderEvent { refund_number: Some("C".into()), outcome: None, refunded: part, ..event };
    fixture.ledger.record("wechat", elsewhere, at(2)).await.unwrap();
    fixture.deliver_all().await;
    for space in RECORDS {
        assert_ne!(fixture.count(space).await, 0, "{space:?}");
    }
    fixture.purge(at(400 * DAY)).await;
    assert!(fixture.is_there("o").await, "it changed a second after it was made");
    assert_eq!(fixture.count(Space::Notifications).await, 2);
    fixture.purge(at(400 * DAY + 2)).await;
    for space in RECORDS {
        assert_eq!(fixture.count(space).await, 0, "{space:?}");
    }
    assert_eq!(fixture.ledger.timeline("shop", "o").await.unwrap(), None);
    assert!(matches!(fixture.claim_at("pay o", pay("o"), at(401 * DAY)).await, ClaimResult::Run(_)));
}

#[tokio::test]
async fn unknown_open_or_undelivered_records_are_never_purged() {
    let fixture = Fixture::new();
    let unknown = fixture.run("unknown", pay("unknown")).await;
    fixture.settle(unknown, Update::Unknown(Reason::default())).await;
    let pending = fixture.run("pending", pay("pending")).await;
    fixture.settle(pending, outcome(Status::Pending)).await;
    for order in ["undelivered", "refunded", "done"] {
        fixture.paid(order).await;
    }
    fixture.paid("elsewhere").await;
    let open = ProviderEvent {
        refund_number: Some("C".into()),
        ..notification("e", "elsewhere", None, Outcome::of(Status::Pending))
    };
    fixture.ledger.record("wechat", ProviderEvent { outcome: None, ..open }, at(2)).await.unwrap();
    let refund = fixture.run("refund", refund_intent("refunded", "r", 300)).await;
    fixture.settle(refund, Update::Unknown(Reason::default())).await;
    let _running = fixture.run("running", pay("running")).await;
    fixture.deliver_all_but("undelivered").await;
    fixture.purge(at(500 * DAY)).await;
    for order in ["unknown", "pending", "undelivered", "refunded", "running", "elsewhere"] {
        assert!(fixture.is_there(order).await, "{order}");
    }
    assert!(!fixture.is_there("done").await);
    assert_eq!(fixture.refund("refunded", "r").await.status, Status::Unknown);
    assert_eq!(fixture.ledger.waiting().await.unwrap().unknown, 2);
    assert_eq!(fixture.count(Space::Events).await, 1, "the one that nobody has");
    // A repeated request gets the present state; nothing is executed again.
    for (key, intent) in [("unknown", pay("unknown")), ("refund", refund_intent("refunded", "r", 300))] {
        assert!(matches!(fixture.claim(key, intent).await, ClaimResult::AlreadyExists(_)), "{key}");
    }
    assert!(matches!(fixture.claim("pending", pay("pending")).await, ClaimResult::Replay(_)));
    assert!(matches!(fixture.claim("running", pay("running")).await, ClaimResult::Running));
    assert!(matches!(fixture.claim("running", pay("other")).await, ClaimResult::KeyReused));

    // A record that became final later is retained for its period from then on.
    let end = at(500 * DAY);
    for subject in [of("unknown"), of("pending"), of_refund("refunded", "r")] {
        fixture.ledger.apply(&subject, outcome(Status::Succeeded), end).await.unwrap();
    }
    assert!(!fixture.deliver_all().await.is_empty());
    fixture.purge(at(899 * DAY)).await;
    for order in ["unknown", "pending", "refunded", "running"] {
        assert!(fixture.is_there(order).await, "{order}");
    }
    assert!(!fixture.is_there("undelivered").await);
    fixture.purge(at(900 * DAY)).await;
    for order in ["unknown", "pending", "refunded"] {
        assert!(!fixture.is_there(order).await, "{order}");
    }
    assert!(fixture.is_there("running").await);
}

#[tokio::test]
async fn order_is_still_deduplicated_after_its_idempotency_key_expired() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    fixture.purge(at(DAY - 1)).await;
    assert!(matches!(fixture.claim_at("pay o", pay("o"), at(DAY - 1)).await, ClaimResult::Replay(_)));
    // A further key is retained for a day of its own, with the response.
    assert!(matches!(fixture.claim_at("late", pay("o"), at(DAY - HOUR)).await, ClaimResult::Replay(_)));
    fixture.purge(at(2 * DAY - HOUR - 1)).await;
    assert!(matches!(fixture.claim_at("late", pay("o"), at(2 * DAY - HOUR - 1)).await, ClaimResult::Replay(_)));
    assert!(matches!(fixture.claim_at("late", pay("other"), at(2 * DAY - HOUR - 1)).await, ClaimResult::KeyReused));
    fixture.purge(at(2 * DAY - HOUR)).await;
    assert_eq!((fixture.count(Space::Keys).await, fixture.count(Space::Claims).await), (0, 0));

    let later = at(2 * DAY);
    let again = fixture.claim_at("pay o", pay("o"), later).await;
    assert!(matches!(&again, ClaimResult::AlreadyExists(Record::Payment(it)) if it.status == Status::Succeeded), "{again:?}");
    // That key counts again, for a day.
    fixture.purge(at(3 * DAY - 1)).await;
    assert!(matches!(fixture.claim_at("pay o", pay("x"), later).await, ClaimResult::KeyReused));
    assert!(matches!(fixture.claim_at("k2", pay("o"), later).await, ClaimResult::AlreadyExists(_)));
    let other = Intent::Pay(Payment { content: "other".into(), ..a_payment("o") });
    assert!(matches!(fixture.claim_at("k3", other, later).await, ClaimResult::OrderIdReused));
    assert_eq!(fixture.count(Space::Payments).await, 1);

    // The same for a refund, and for a close.
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let permit = fixture.run("p", pay("p")).await;
    fixture.settle(permit, outcome(Status::Pending)).await;
    let permit = fixture.run("close p", close("p")).await;
    fixture.settle(permit, outcome(Status::Closed)).await;
    fixture.purge(at(9 * DAY)).await;
    assert_eq!(fixture.count(Space::Claims).await, 0);
    let again = fixture.claim_at("r", refund_intent("o", "r", 300), at(9 * DAY)).await;
    assert!(matches!(&again, ClaimResult::AlreadyExists(Record::Refund(it)) if it.status == Status::Succeeded), "{again:?}");
    let too_much = fixture.claim_at("r2", refund_intent("o", "r2", 701), at(9 * DAY)).await;
    assert!(matches!(too_much, ClaimResult::ExceedsBalance { left: 700 }), "{too_much:?}");
    assert!(matches!(fixture.claim_at("close p", close("p"), at(9 * DAY)).await, ClaimResult::AlreadyExists(_)));
    assert_eq!(fixture.payment("o").await.refunded, 300);
}

#[tokio::test]
async fn payment_is_purged_after_its_claims() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    fixture.deliver_all().await;
    // A key that was used just before the payment expires.
    assert!(matches!(fixture.claim_at("late", pay("o"), at(400 * DAY)).await, ClaimResult::Replay(_)));
    fixture.purge(at(400 * DAY + 1)).await;
    assert!(matches!(fixture.claim_at("late", pay("o"), at(400 * DAY + 1)).await, ClaimResult::Replay(_)));
    fixture.purge(at(401 * DAY)).await;
    assert!(!fixture.is_there("o").await);
}

#[tokio::test]
async fn interrupted_purge_continues_and_retained_rows_do_not_block_it() {
    let fixture = Fixture::new();
    let permit = fixture.run("first", pay("first")).await;
    fixture.settle(permit, Update::Unknown(Reason::default())).await;
    for number in 0..80 {
        fixture.paid(&format!("o{number}")).await;
    }
    fixture.deliver_all().await;
    let now = at(500 * DAY);
    // Interrupted among the payments.
    let mut purge = Purge::default();
    while fixture.count(Space::Payments).await == 81 {
        assert!(!fixture.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap());
    }
    let left = fixture.count(Space::Payments).await;
    assert!(left > 1 && left < 81, "{left}: a few at a time");
    let after = fixture.crash();
    after.purge(now).await;
    for (space, count) in [(Space::Payments, 1), (Space::Claims, 1), (Space::Index, 1), (Space::Timeline, 1)] {
        assert_eq!(after.count(space).await, count, "{space:?}");
    }
    // The same purge, round after round: retained rows are checked again.
    while !fixture.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
    assert_eq!(fixture.count(Space::Payments).await, 1);
    fixture.ledger.apply(&of("first"), outcome(Status::Failed), at(2)).await.unwrap();
    fixture.deliver_all().await;
    while !fixture.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
    for space in RECORDS {
        assert_eq!(fixture.count(space).await, 0, "{space:?}");
    }
}

#[tokio::test]
async fn clock_set_back_purges_nothing() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    fixture.deliver_all().await;
    let mut purge = Purge::default();
    for now in [at(30 * DAY), at(-30 * DAY), Timestamp::UNIX_EPOCH] {
        while !fixture.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
        assert!(fixture.is_there("o").await);
    }
}

/// The provider's query never found the refund, so the resolver ended its inquiry.
#[tokio::test]
async fn payment_with_an_absent_refund_elsewhere_is_purged_after_the_inquiry_has_ended() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let open = ProviderEvent {
        refund_number: Some("C".into()),
        outcome: None,
        ..notification("e", "o", None, Outcome::of(Status::Pending))
    };
    fixture.ledger.record("wechat", open.clone(), at(2)).await.unwrap();
    let subject = of_refund("o", &format!("{ELSEWHERE_PREFIX}C"));
    fixture.ledger.apply(&subject, Update::NotFoundAtProvider, at(3)).await.unwrap();
    fixture.deliver_all().await;
    fixture.purge(at(500 * DAY)).await;
    assert!(fixture.is_there("o").await, "the inquiry is open");
    assert!(fixture.save_inquiry(&subject, None).await);
    // A further notification starts the inquiry again. The provider named the refund, so its absence proves nothing.
    let total = Some(tollgate_plugins::payment::Refunded::Total(cny(300)));
    let again = ProviderEvent { id: "f".into(), refunded: total, ..open };
    fixture.ledger.record("wechat", again, at(4)).await.unwrap();
    assert!(fixture.due().await.iter().all(|record| !record.ends_by_absence()));
    fixture.purge(at(500 * DAY)).await;
    assert!(fixture.is_there("o").await, "the inquiry is open again");
    assert!(fixture.save_inquiry(&subject, None).await);
    fixture.purge(at(500 * DAY)).await;
    for space in RECORDS {
        assert_eq!(fixture.count(space).await, 0, "{space:?}");
    }
}
