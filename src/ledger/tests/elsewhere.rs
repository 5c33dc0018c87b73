//! Refunds made outside this gateway.

use tollgate_plugins::payment::Refunded;

use super::*;

pub(super) fn refunded(id: &str, order: &str, number: Option<&str>, refunded: Refunded) -> ProviderEvent {
    let event = notification(id, order, None, Outcome::of(Status::Succeeded));
    ProviderEvent { refund_number: number.map(str::to_owned), outcome: None, refunded: Some(refunded), ..event }
}

pub(super) fn total(value: u64) -> Refunded {
    Refunded::Total(cny(value))
}

pub(super) fn part(value: u64) -> Refunded {
    Refunded::Part(cny(value))
}

impl Fixture {
    pub(super) async fn notify(&self, event: ProviderEvent) -> Recorded {
        self.ledger.record("wechat", event, at(5)).await.unwrap()
    }

    /// Answers the query about a refund made elsewhere.
    pub(super) async fn answer_query(&self, order: &str, number: &str, update: Update) -> Refund {
        let answered = self.ledger.apply(&elsewhere(order, number), update, at(6)).await.unwrap();
        let Some(Record::Refund(refund)) = answered else { panic!("{answered:?}") };
        refund
    }

    /// Returns the sums `refunded` and `refunded_elsewhere`.
    pub(super) async fn sums(&self, order: &str) -> (u64, u64) {
        let payment = self.payment(order).await;
        (payment.refunded, payment.refunded_elsewhere)
    }

    pub(super) async fn left(&self, order: &str) -> u64 {
        match self.claim(&format!("too much {order}"), refund_intent(order, "too-much", 1001)).await {
            ClaimResult::ExceedsBalance { left } => left,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the timeline's entries about refunds elsewhere and manual reviews.
    pub(super) async fn noted(&self, order: &str) -> Vec<String> {
        let (_, timeline) = self.ledger.timeline("shop", order).await.unwrap().unwrap();
        let noted = timeline.entries.iter().filter_map(|entry| match &entry.what {
            TimelineEvent::RefundElsewhere { number, status } => Some(format!("{number} {}", status.as_str())),
            TimelineEvent::ManualReview { .. } => Some("person".to_owned()),
            TimelineEvent::NotificationReceived { verdict, .. } => Some(format!("{verdict:?}")),
            _ => None,
        });
        noted.collect()
    }
}

pub(super) fn elsewhere(order: &str, number: &str) -> RecordId {
    of_refund(order, &format!("{ELSEWHERE_PREFIX}{number}"))
}

pub(super) fn returned(value: u64) -> Update {
    Update::Outcome(Outcome { amount: Some(cny(value)), ..Outcome::of(Status::Succeeded) })
}

pub(super) const EVENTS: [&str; 2] = ["payment.succeeded", "payment.refunded_elsewhere"];

#[tokio::test]
async fn refund_elsewhere_without_own_amount_is_recorded_queried_and_counted_once() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let before = fixture.payment("o").await;
    let event = |id: &str| refunded(id, "o", Some("CONSOLE-1"), total(300));
    assert_eq!(fixture.notify(event("a")).await, Recorded::RefundElsewhere(of("o"), None));
    assert_eq!(fixture.notify(event("b")).await, Recorded::Duplicate, "the same refund with other fields");
    assert_eq!(fixture.sums("o").await, (0, 0), "the sum proves no amount of its own");
    assert_eq!(fixture.left("o").await, 700, "the sum is the most that it may have returned");
    // A crash between the record and the query loses nothing.
    let fixture = fixture.crash();
    let [Record::Refund(due)] = &fixture.ledger.due_inquiries(at(5), 10, &[]).await[..] else { panic!() };
    assert_eq!((due.provider_refund_no.as_str(), due.status, due.is_elsewhere()), ("CONSOLE-1", Status::Unknown, true));
    assert_eq!(fixture.ledger.waiting().await.unwrap().unknown, 0, "no merchant made it");
    let settled = fixture.answer_query("o", "CONSOLE-1", returned(200)).await;
    assert_eq!((settled.status, settled.amount, settled.state.inquiry), (Status::Succeeded, cny(200), None));
    for _ in 0..2 {
        fixture.answer_query("o", "CONSOLE-1", returned(200)).await;
        assert_eq!(fixture.notify(event("a")).await, Recorded::Duplicate);
        assert_eq!(fixture.notify(refunded("c", "o", Some("CONSOLE-1"), part(200))).await, Recorded::Duplicate);
    }
    let after = fixture.payment("o").await;
    assert_eq!((after.refunded, after.refunded_elsewhere, after.version), (200, 200, before.version + 1));
    assert_eq!(fixture.kinds().await, EVENTS);
    let noted = ["Verify", "CONSOLE-1 unknown", "CONSOLE-1 succeeded", "person"].map(str::to_owned);
    assert_eq!(fixture.noted("o").await, noted);
    assert_eq!(fixture.ledger.refund("shop", "o", "CONSOLE-1").await.unwrap(), None, "merchants see no such refund");
}

#[tokio::test]
async fn refund_elsewhere_with_own_amount_is_counted_at_once() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let counted = fixture.notify(refunded("d", "o", Some("CONSOLE-3"), part(600))).await;
    assert_eq!(counted, Recorded::RefundedElsewhere(of("o"), cny(600)));
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((600, 600), 400));
    assert_eq!(fixture.kinds().await, EVENTS);
    assert_eq!(fixture.notify(refunded("d", "o", Some("CONSOLE-3"), part(600))).await, Recorded::Duplicate);
    let too_much = fixture.notify(refunded("e", "o", Some("CONSOLE-4"), part(401))).await;
    assert_eq!(too_much, Recorded::Mismatch(of("o")), "more than was paid");
    assert!(fixture.ledger.due_inquiries(at(1_000_000), 10, &[]).await.is_empty());
}

/// Two refunds exceed what was paid: one more than the payment, the other more than what is left of it.
#[tokio::test]
async fn mismatched_refund_elsewhere_is_in_the_timeline_once_and_publishes_one_mismatch() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 800)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.deliver_all().await;
    for _ in 0..2 {
        for (id, value) in [("a", 1001), ("b", 300)] {
            let recorded = fixture.notify(refunded(id, "o", Some(id), part(value))).await;
            assert_eq!(recorded, Recorded::Mismatch(of("o")), "{value}");
        }
    }
    assert_eq!(fixture.noted("o").await, ["Mismatch", "Mismatch"].map(str::to_owned));
    assert_eq!(fixture.kinds().await, ["payment.mismatch"], "one version, one mismatch");
    let (_, timeline) = fixture.ledger.timeline("shop", "o").await.unwrap().unwrap();
    let position = |wanted: fn(&TimelineEvent) -> bool| timeline.entries.iter().position(|entry| wanted(&entry.what));
    let event = position(|what| matches!(what, TimelineEvent::Event { kind, .. } if kind == "payment.mismatch"));
    let notification = position(|what| matches!(what, TimelineEvent::NotificationReceived { .. }));
    assert!(notification < event, "the event follows the notification that caused it: {timeline:?}");
}

/// The gateway's own refund of 300 ends before, between and after the messages about the refund of 200 elsewhere.
#[tokio::test]
async fn refund_elsewhere_is_counted_once_in_every_order_of_notifications_and_answers() {
    let fixture = Fixture::new();
    let orders = permutations(&[0, 1, 2, 3, 4]);
    // Their query follows their notification.
    let orders = orders.into_iter().filter(|steps| position(steps, 1) < position(steps, 2)).enumerate();
    for (number, steps) in orders {
        let (order, refund) = (format!("o{number}"), format!("r{number}"));
        fixture.paid(&order).await;
        let mut permit = Some(fixture.run(&refund, refund_intent(&order, &refund, 300)).await);
        let (ours, number) = (provider_number(&["shop", &order, &refund]), format!("CONSOLE-{number}"));
        for step in &steps {
            match step {
                0 => drop(fixture.settle(permit.take().unwrap(), outcome(Status::Succeeded)).await),
                // The sum depends on which refund was made first at the provider.
                1 => drop(fixture.notify(refunded("a", &order, Some(&number), total(200))).await),
                2 => drop(fixture.answer_query(&order, &number, returned(200)).await),
                3 => drop(fixture.notify(refunded("b", &order, Some(&ours), total(500))).await),
                _ => drop(fixture.notify(refunded("c", &order, Some(&number), total(500))).await),
            }
        }
        // A notification may have been the first that names the refund.
        fixture.answer_query(&order, &number, returned(200)).await;
        assert_eq!(fixture.sums(&order).await, (500, 200), "{steps:?}");
        assert_eq!(fixture.left(&order).await, 500, "{steps:?}");
        let events = fixture.kinds().await;
        assert_eq!(events.iter().filter(|kind| *kind == EVENTS[1]).count(), 1, "{steps:?}: {events:?}");
        // A stored sum ends by itself, without a count.
        for due in fixture.ledger.due_inquiries(at(40 * 3600), 10, &[]).await {
            assert!(matches!(due, Record::Refund(refund) if refund.is_known_by_sum()), "{steps:?}");
            let ended = fixture.answer_query(&order, "", Update::NotFoundAtProvider).await;
            assert_eq!((ended.status, ended.state.inquiry), (Status::Closed, None), "{steps:?}");
        }
        assert_eq!((fixture.sums(&order).await, fixture.left(&order).await), ((500, 200), 500), "{steps:?}");
        assert!(fixture.kinds().await.is_empty(), "{steps:?}");
    }
}

fn position(steps: &[u8], step: u8) -> usize {
    steps.iter().position(|other| *other == step).unwrap()
}

fn permutations(steps: &[u8]) -> Vec<Vec<u8>> {
    if steps.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |first: &u8| {
        let rest: Vec<u8> = steps.iter().filter(|step| *step != first).copied().collect();
        permutations(&rest).into_iter().map(|rest| [vec![*first], rest].concat()).collect::<Vec<_>>()
    };
    steps.iter().flat_map(with_first).collect()
}

#[tokio::test]
async fn own_refund_that_ends_before_the_query_hides_no_refund_elsewhere() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    // The sum equals our open refund.
    let recorded = fixture.notify(refunded("a", "o", Some("CONSOLE-1"), total(300))).await;
    assert_eq!(recorded, Recorded::RefundElsewhere(of("o"), None));
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.answer_query("o", "CONSOLE-1", returned(300)).await;
    assert_eq!(fixture.sums("o").await, (600, 300));
}

#[tokio::test]
async fn refund_that_is_claimed_after_its_notification_is_counted_once() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let ours = provider_number(&["shop", "o", "r"]);
    fixture.notify(refunded("a", "o", Some(&ours), total(300))).await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let ended = fixture.answer_query("o", &ours, returned(300)).await;
    assert_eq!((ended.status, ended.state.inquiry), (Status::Closed, None));
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((300, 0), 700));
}

#[tokio::test]
async fn failed_query_of_a_refund_elsewhere_ends_it_without_event() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    fixture.deliver_all().await;
    fixture.notify(refunded("a", "o", Some("C-1"), Refunded::Open)).await;
    assert_eq!(fixture.left("o").await, 0, "its amount is unknown, so all that is left is reserved");
    let open = fixture.answer_query("o", "C-1", outcome(Status::Pending)).await;
    assert_eq!(open.status, Status::Pending);
    let failed = fixture.answer_query("o", "C-1", outcome(Status::Failed)).await;
    assert_eq!((failed.status, failed.state.inquiry), (Status::Failed, None));
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((0, 0), 1000));
    assert!(fixture.kinds().await.is_empty());
    assert_eq!(fixture.noted("o").await, ["Verify", "C-1 unknown", "C-1 pending", "C-1 failed"].map(str::to_owned));
    // Should it succeed nevertheless, the money counts.
    let counted = fixture.notify(refunded("b", "o", Some("C-1"), part(300))).await;
    assert_eq!(counted, Recorded::RefundedElsewhere(of("o"), cny(300)));
}

#[tokio::test]
async fn refund_elsewhere_that_the_query_does_not_find_is_reviewed_and_counted_by_the_sum() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    fixture.notify(refunded("a", "o", Some("C-1"), total(300))).await;
    let absent = fixture.answer_query("o", "C-1", Update::NotFoundAtProvider).await;
    assert!(absent.status == Status::Pending && !absent.ends_by_absence(), "{absent:?}");
    assert!(fixture.noted("o").await.contains(&"person".to_owned()));
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((0, 0), 700));
    // The resolver has nobody to ask about the sum.
    let sum = fixture.answer_query("o", "", Update::NotFoundAtProvider).await;
    assert_eq!((sum.status, sum.amount), (Status::Succeeded, cny(300)));
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((300, 300), 700));
    // Its own answer comes late: the money is the same.
    fixture.answer_query("o", "C-1", returned(300)).await;
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((300, 300), 700));
    assert_eq!(fixture.kinds().await, EVENTS);
}

#[tokio::test]
async fn higher_refund_sum_waits_for_the_missing_notification() {
    const DAY: i64 = 24 * 3600;
    let fixture = Fixture::new();
    for order in ["lost", "late"] {
        fixture.paid(order).await;
        let permit = fixture.run(order, refund_intent(order, order, 100)).await;
        fixture.settle(permit, outcome(Status::Succeeded)).await;
        let ours = provider_number(&["shop", order, order]);
        fixture.notify(refunded("a", order, Some(&ours), total(400))).await;
        assert_eq!((fixture.sums(order).await, fixture.left(order).await), ((100, 0), 600), "the difference is reserved");
    }
    let due = async |now| {
        let due = fixture.ledger.due_inquiries(now, 10, &[]).await;
        due.into_iter().filter(|it| matches!(it, Record::Refund(refund) if refund.is_known_by_sum())).count()
    };
    assert_eq!(due(at(DAY)).await, 0, "the provider may still repeat the missing notification");
    fixture.notify(refunded("b", "late", Some("C-1"), total(400))).await;
    fixture.answer_query("late", "C-1", returned(300)).await;
    assert_eq!(fixture.sums("late").await, (400, 300));
    assert_eq!(due(at(2 * DAY - 3600)).await, 1, "explained, a sum is not evaluated any more");
    fixture.answer_query("lost", "", Update::NotFoundAtProvider).await;
    for order in ["lost", "late"] {
        assert_eq!((fixture.sums(order).await, fixture.left(order).await), ((400, 300), 600), "{order}");
    }
    let events = fixture.kinds().await;
    assert_eq!(events.iter().filter(|kind| *kind == EVENTS[1]).count(), 2, "{events:?}");
}

#[tokio::test]
async fn query_that_names_more_than_is_left_is_a_mismatch_and_counts_nothing() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 600)).await;
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    fixture.notify(refunded("a", "o", Some("C-1"), total(1000))).await;
    let refused = fixture.answer_query("o", "C-1", returned(401)).await;
    assert_eq!(refused.status, Status::Unknown);
    assert!(refused.state.inquiry.is_some_and(|inquiry| inquiry.due > at(6)), "no busy loop");
    assert_eq!(fixture.sums("o").await, (600, 0));
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.succeeded", "payment.mismatch"]);
}

#[tokio::test]
async fn duplicate_notification_of_a_full_refund_made_elsewhere_is_ignored() {
    for (number, refund) in [(Some("CONSOLE-1"), part(1000)), (Some("CONSOLE-1"), part(600)), (None, total(1000))] {
        let fixture = Fixture::new();
        fixture.paid("o").await;
        let record = async |id| fixture.ledger.record("wechat", refunded(id, "o", number, refund), at(5)).await;
        assert!(matches!(record("a").await.unwrap(), Recorded::RefundedElsewhere(..)), "{refund:?}");
        // The acknowledgement was lost: the provider repeats the notification, or sends another one about the same
        // refund.
        for id in ["a", "b"] {
            assert_eq!(record(id).await.unwrap(), Recorded::Duplicate, "{refund:?}");
        }
        assert_eq!(fixture.kinds().await, ["payment.succeeded", "payment.refunded_elsewhere"], "{refund:?}");
    }
}

#[tokio::test]
async fn sum_of_own_refunds_is_not_a_refund_elsewhere() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    // While a refund of ours is open, the sum cannot be attributed. It is stored.
    assert_eq!(fixture.notify(refunded("a", "o", None, total(300))).await, Recorded::Applied(of("o")));
    let ours = provider_number(&["shop", "o", "r"]);
    assert_eq!(fixture.notify(refunded("b", "o", Some(&ours), total(300))).await, Recorded::Applied(of_refund("o", "r")));
    let waiting = fixture.answer_query("o", "", Update::NotFoundAtProvider).await;
    assert!(waiting.state.inquiry.is_some_and(|inquiry| inquiry.due > at(6)), "no busy loop");
    fixture.settle(permit, outcome(Status::Succeeded)).await;
    let evaluated = fixture.answer_query("o", "", Update::NotFoundAtProvider).await;
    assert_eq!((evaluated.status, evaluated.amount.value), (Status::Closed, 0));
    assert_eq!(fixture.notify(refunded("c", "o", None, total(300))).await, Recorded::Duplicate);
    assert_eq!(fixture.sums("o").await, (300, 0));
    // The rest of the sum was refunded elsewhere, though no number says so.
    let more = fixture.notify(refunded("d", "o", None, total(350))).await;
    assert_eq!(more, Recorded::RefundedElsewhere(of("o"), cny(50)));
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((350, 50), 650));
}

#[tokio::test]
async fn stored_refund_sum_is_counted_when_the_own_refund_has_failed() {
    let fixture = Fixture::new();
    fixture.paid("o").await;
    let permit = fixture.run("r", refund_intent("o", "r", 300)).await;
    fixture.notify(refunded("a", "o", None, total(300))).await;
    fixture.settle(permit, Update::Declined(provider_error())).await;
    fixture.answer_query("o", "", Update::NotFoundAtProvider).await;
    assert_eq!((fixture.sums("o").await, fixture.left("o").await), ((300, 300), 700));
    assert_eq!(fixture.kinds().await, ["payment.succeeded", "refund.failed", "payment.refunded_elsewhere"]);
}
