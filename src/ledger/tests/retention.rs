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

impl Bench {
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
    async fn hear_all_but(&self, order: &str) {
        loop {
            let mut due = self.deliveries(at(3), 100).await;
            due.retain(|delivery| delivery.event.subject.order_id != order);
            if due.is_empty() {
                return;
            }
            for delivery in due {
                self.ledger.delivered(&delivery.event.id, &SinkName::WEBHOOK, at(3)).await.unwrap();
            }
        }
    }

    async fn is_there(&self, order: &str) -> bool {
        self.ledger.payment("shop", order).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn expired_payment_is_purged_completely_and_its_order_id_is_free() {
    let bench = Bench::new();
    bench.paid("o").await;
    let permit = bench.run("r", give_back("o", "r", 300)).await;
    bench.settle(permit, outcome(Status::Succeeded)).await;
    bench.ledger.record("wechat", notification("e", "o", None, Outcome::of(Status::Succeeded)), at(2)).await.unwrap();
    assert!(matches!(bench.claim("late", pay("o")).await, ClaimResult::Replay(_)));
    let part = Some(tollgate_plugins::payment::Refunded::Part(cny(100)));
    let event = notification("f", "o", None, Outcome::of(Status::Succeeded));
    let elsewhere = ProviderEvent { refund_number: Some("C".into()), outcome: None, refunded: part, ..event };
    bench.ledger.record("wechat", elsewhere, at(2)).await.unwrap();
    bench.hear_all().await;
    for space in RECORDS {
        assert_ne!(bench.count(space).await, 0, "{space:?}");
    }
    bench.purge(at(400 * DAY)).await;
    assert!(bench.is_there("o").await, "it changed a second after it was made");
    assert_eq!(bench.count(Space::Notifications).await, 2);
    bench.purge(at(400 * DAY + 2)).await;
    for space in RECORDS {
        assert_eq!(bench.count(space).await, 0, "{space:?}");
    }
    assert_eq!(bench.ledger.timeline("shop", "o").await.unwrap(), None);
    assert!(matches!(bench.claim_at("pay o", pay("o"), at(401 * DAY)).await, ClaimResult::Run(_)));
}

#[tokio::test]
async fn unknown_open_or_undelivered_records_are_never_purged() {
    let bench = Bench::new();
    let unknown = bench.run("unknown", pay("unknown")).await;
    bench.settle(unknown, Update::Unknown(Reason::default())).await;
    let pending = bench.run("pending", pay("pending")).await;
    bench.settle(pending, outcome(Status::Pending)).await;
    for order in ["undelivered", "refunded", "done"] {
        bench.paid(order).await;
    }
    bench.paid("elsewhere").await;
    let open = ProviderEvent {
        refund_number: Some("C".into()),
        ..notification("e", "elsewhere", None, Outcome::of(Status::Pending))
    };
    bench.ledger.record("wechat", ProviderEvent { outcome: None, ..open }, at(2)).await.unwrap();
    let refund = bench.run("refund", give_back("refunded", "r", 300)).await;
    bench.settle(refund, Update::Unknown(Reason::default())).await;
    let _running = bench.run("running", pay("running")).await;
    bench.hear_all_but("undelivered").await;
    bench.purge(at(500 * DAY)).await;
    for order in ["unknown", "pending", "undelivered", "refunded", "running", "elsewhere"] {
        assert!(bench.is_there(order).await, "{order}");
    }
    assert!(!bench.is_there("done").await);
    assert_eq!(bench.refund("refunded", "r").await.status, Status::Unknown);
    assert_eq!(bench.ledger.waiting().await.unwrap().unknown, 2);
    assert_eq!(bench.count(Space::Events).await, 1, "the one that nobody has");
    // A repeated request gets the present state; nothing is executed again.
    for (key, intent) in [("unknown", pay("unknown")), ("refund", give_back("refunded", "r", 300))] {
        assert!(matches!(bench.claim(key, intent).await, ClaimResult::AlreadyExists(_)), "{key}");
    }
    assert!(matches!(bench.claim("pending", pay("pending")).await, ClaimResult::Replay(_)));
    assert!(matches!(bench.claim("running", pay("running")).await, ClaimResult::Running));
    assert!(matches!(bench.claim("running", pay("other")).await, ClaimResult::KeyReused));

    // A record that became final later is retained for its period from then on.
    let end = at(500 * DAY);
    for subject in [of("unknown"), of("pending"), of_refund("refunded", "r")] {
        bench.ledger.apply(&subject, outcome(Status::Succeeded), end).await.unwrap();
    }
    assert!(!bench.hear_all().await.is_empty());
    bench.purge(at(899 * DAY)).await;
    for order in ["unknown", "pending", "refunded", "running"] {
        assert!(bench.is_there(order).await, "{order}");
    }
    assert!(!bench.is_there("undelivered").await);
    bench.purge(at(900 * DAY)).await;
    for order in ["unknown", "pending", "refunded"] {
        assert!(!bench.is_there(order).await, "{order}");
    }
    assert!(bench.is_there("running").await);
}

#[tokio::test]
async fn order_is_still_deduplicated_after_its_idempotency_key_expired() {
    let bench = Bench::new();
    bench.paid("o").await;
    bench.purge(at(DAY - 1)).await;
    assert!(matches!(bench.claim_at("pay o", pay("o"), at(DAY - 1)).await, ClaimResult::Replay(_)));
    // A further key is retained for a day of its own, with the response.
    assert!(matches!(bench.claim_at("late", pay("o"), at(DAY - HOUR)).await, ClaimResult::Replay(_)));
    bench.purge(at(2 * DAY - HOUR - 1)).await;
    assert!(matches!(bench.claim_at("late", pay("o"), at(2 * DAY - HOUR - 1)).await, ClaimResult::Replay(_)));
    assert!(matches!(bench.claim_at("late", pay("other"), at(2 * DAY - HOUR - 1)).await, ClaimResult::KeyReused));
    bench.purge(at(2 * DAY - HOUR)).await;
    assert_eq!((bench.count(Space::Keys).await, bench.count(Space::Claims).await), (0, 0));

    let later = at(2 * DAY);
    let again = bench.claim_at("pay o", pay("o"), later).await;
    assert!(matches!(&again, ClaimResult::AlreadyExists(Record::Payment(it)) if it.status == Status::Succeeded), "{again:?}");
    // That key counts again, for a day.
    bench.purge(at(3 * DAY - 1)).await;
    assert!(matches!(bench.claim_at("pay o", pay("x"), later).await, ClaimResult::KeyReused));
    assert!(matches!(bench.claim_at("k2", pay("o"), later).await, ClaimResult::AlreadyExists(_)));
    let other = Intent::Pay(Payment { content: "other".into(), ..a_payment("o") });
    assert!(matches!(bench.claim_at("k3", other, later).await, ClaimResult::OrderIdReused));
    assert_eq!(bench.count(Space::Payments).await, 1);

    // The same for a refund, and for a close.
    let permit = bench.run("r", give_back("o", "r", 300)).await;
    bench.settle(permit, outcome(Status::Succeeded)).await;
    let permit = bench.run("p", pay("p")).await;
    bench.settle(permit, outcome(Status::Pending)).await;
    let permit = bench.run("close p", close("p")).await;
    bench.settle(permit, outcome(Status::Closed)).await;
    bench.purge(at(9 * DAY)).await;
    assert_eq!(bench.count(Space::Claims).await, 0);
    let again = bench.claim_at("r", give_back("o", "r", 300), at(9 * DAY)).await;
    assert!(matches!(&again, ClaimResult::AlreadyExists(Record::Refund(it)) if it.status == Status::Succeeded), "{again:?}");
    let too_much = bench.claim_at("r2", give_back("o", "r2", 701), at(9 * DAY)).await;
    assert!(matches!(too_much, ClaimResult::ExceedsBalance { left: 700 }), "{too_much:?}");
    assert!(matches!(bench.claim_at("close p", close("p"), at(9 * DAY)).await, ClaimResult::AlreadyExists(_)));
    assert_eq!(bench.payment("o").await.refunded, 300);
}

#[tokio::test]
async fn payment_is_purged_after_its_claims() {
    let bench = Bench::new();
    bench.paid("o").await;
    bench.hear_all().await;
    // A key that was used just before the payment expires.
    assert!(matches!(bench.claim_at("late", pay("o"), at(400 * DAY)).await, ClaimResult::Replay(_)));
    bench.purge(at(400 * DAY + 1)).await;
    assert!(matches!(bench.claim_at("late", pay("o"), at(400 * DAY + 1)).await, ClaimResult::Replay(_)));
    bench.purge(at(401 * DAY)).await;
    assert!(!bench.is_there("o").await);
}

#[tokio::test]
async fn interrupted_purge_continues_and_retained_rows_do_not_block_it() {
    let bench = Bench::new();
    let permit = bench.run("first", pay("first")).await;
    bench.settle(permit, Update::Unknown(Reason::default())).await;
    for number in 0..80 {
        bench.paid(&format!("o{number}")).await;
    }
    bench.hear_all().await;
    let now = at(500 * DAY);
    // Interrupted among the payments.
    let mut purge = Purge::default();
    while bench.count(Space::Payments).await == 81 {
        assert!(!bench.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap());
    }
    let left = bench.count(Space::Payments).await;
    assert!(left > 1 && left < 81, "{left}: a few at a time");
    let after = bench.crash();
    after.purge(now).await;
    for (space, count) in [(Space::Payments, 1), (Space::Claims, 1), (Space::Index, 1), (Space::Timeline, 1)] {
        assert_eq!(after.count(space).await, count, "{space:?}");
    }
    // The same purge, round after round: retained rows are checked again.
    while !bench.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
    assert_eq!(bench.count(Space::Payments).await, 1);
    bench.ledger.apply(&of("first"), outcome(Status::Failed), at(2)).await.unwrap();
    bench.hear_all().await;
    while !bench.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
    for space in RECORDS {
        assert_eq!(bench.count(space).await, 0, "{space:?}");
    }
}

#[tokio::test]
async fn clock_set_back_purges_nothing() {
    let bench = Bench::new();
    bench.paid("o").await;
    bench.hear_all().await;
    let mut purge = Purge::default();
    for now in [at(30 * DAY), at(-30 * DAY), Timestamp::UNIX_EPOCH] {
        while !bench.ledger.purge(&mut purge, &RetentionPolicy::default(), now).await.unwrap() {}
        assert!(bench.is_there("o").await);
    }
}
