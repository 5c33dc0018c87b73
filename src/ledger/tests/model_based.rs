//! Property test against a model: in random histories nothing is sent twice and no status goes backwards.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Pay { order: u8, key: u8, later: bool },
    Refund { order: u8, refund: u8, key: u8, later: bool },
    Close { order: u8, key: u8, later: bool },
    Take,
    GiveUp { permit: usize },
    Settle { permit: usize, update: u8 },
    Release { permit: usize },
    Lose { permit: usize },
    Apply { order: u8, refund: Option<u8>, update: u8 },
    Notify { order: u8, refund: Option<u8>, update: u8, id: u8 },
    Deliver,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let (order, key, refund, update) = (0..2u8, 0..4u8, 0..3u8, 0..8u8);
    let (scope, later) = (proptest::option::of(refund.clone()), proptest::bool::ANY);
    prop_oneof![
        4 => (order.clone(), key.clone(), later).prop_map(|(order, key, later)| Step::Pay { order, key, later }),
        4 => (order.clone(), refund, key.clone(), later)
            .prop_map(|(order, refund, key, later)| Step::Refund { order, refund, key, later }),
        2 => (order.clone(), key, later).prop_map(|(order, key, later)| Step::Close { order, key, later }),
        4 => Just(Step::Take),
        1 => (0..4usize).prop_map(|permit| Step::GiveUp { permit }),
        6 => (0..4usize, update.clone()).prop_map(|(permit, update)| Step::Settle { permit, update }),
        2 => (0..4usize).prop_map(|permit| Step::Release { permit }),
        1 => (0..4usize).prop_map(|permit| Step::Lose { permit }),
        3 => (order.clone(), scope.clone(), update.clone())
            .prop_map(|(order, refund, update)| Step::Apply { order, refund, update }),
        3 => (order, scope, update, 0..4u8)
            .prop_map(|(order, refund, update, id)| Step::Notify { order, refund, update, id }),
        1 => Just(Step::Deliver),
        1 => Just(Step::Crash),
    ]
}

fn update(number: u8) -> Update {
    match number {
        0 => outcome(Status::Pending),
        1 | 2 => outcome(Status::Succeeded),
        3 => outcome(Status::Failed),
        4 => outcome(Status::Closed),
        5 => Update::Declined(provider_error()),
        6 => Update::Unknown(Reason::default()),
        _ => Update::NotFoundAtProvider,
    }
}

/// History so far.
struct History {
    fixture: Fixture,
    permits: Vec<ExecutionPermit>,
    /// Number of executions that each payment or refund may still have.
    rights: BTreeMap<RecordId, i32>,
    /// Last state of each record.
    last: BTreeMap<RecordId, Record>,
    /// Statuses that must be published, and those that were.
    changes: Vec<(RecordId, Status)>,
    published: Vec<(RecordId, Status)>,
}

impl History {
    async fn take(&mut self, step: Step) {
        match step {
            Step::Pay { order, key, later } => self.claim(&format!("p{key}"), pay(&format!("o{order}")), later).await,
            Step::Refund { order, refund, key, later } => {
                let intent = refund_intent(&format!("o{order}"), &format!("r{refund}"), 400);
                self.claim(&format!("r{key}"), intent, later).await;
            }
            Step::Close { order, key, later } => {
                self.claim(&format!("c{key}"), close(&format!("o{order}")), later).await;
            }
            Step::Take => {
                if let Some(permit) = self.fixture.take().await {
                    let is_close = permit.job.as_ref().is_some_and(|job| job.action == IntentKind::Close);
                    self.given(permit, is_close);
                }
            }
            Step::GiveUp { permit } => {
                let is_job = self.permits.get(permit % self.permits.len().max(1)).is_some_and(|it| it.job.is_some());
                if let Some(permit) = self.permit(permit).filter(|_| is_job) {
                    self.settle(permit, Update::NotSent(Status::Failed, Reason::default())).await;
                }
            }
            Step::Settle { permit, update: number } => {
                if let Some(permit) = self.permit(permit) {
                    self.settle(permit, update(number)).await;
                }
            }
            Step::Release { permit } => {
                let Some(permit) = self.permit(permit) else { return };
                let (subject, claim, job) = (permit.subject.clone(), permit.execution.claim, permit.job.clone());
                self.fixture.ledger.release(permit).await.unwrap();
                let waits = self.fixture.ledger.due_job_ids(at(1_000_000_000), 1000).await.contains(&claim);
                assert!(!waits || job.is_some(), "it was never accepted to be made later");
                if self.look(&subject).await.is_none() {
                    *self.rights.entry(subject.clone()).or_insert(1) += 1;
                    self.last.remove(&subject);
                } else if waits && job.is_some_and(|job| job.action != IntentKind::Close) {
                    *self.rights.entry(subject.clone()).or_insert(1) += 1;
                }
            }
            Step::Lose { permit } => drop(self.permit(permit)),
            Step::Apply { order, refund, update: number } => {
                let subject = subject(order, refund);
                let applied = self.fixture.ledger.apply(&subject, update(number), at(2)).await.unwrap();
                assert_eq!(applied, self.look(&subject).await);
            }
            Step::Notify { order, refund, update: number, id } => {
                let Update::Outcome(outcome) = update(number) else { return };
                // A refund that was not made here would be a record of its own, which the model does not know.
                if refund.is_some() && self.look(&subject(order, refund)).await.is_none() {
                    return;
                }
                let refund = refund.map(|refund| format!("r{refund}"));
                let event = notification(&format!("{id}"), &format!("o{order}"), refund.as_deref(), outcome);
                self.fixture.ledger.record("wechat", event, at(3)).await.unwrap();
            }
            Step::Deliver => self.deliver_next().await,
            Step::Crash => {
                let after = self.fixture.crash();
                self.permits.clear();
                self.fixture = after;
            }
        }
        self.check().await;
    }

    async fn claim(&mut self, key: &str, intent: Intent, later: bool) {
        let is_close = matches!(intent, Intent::Close(_));
        let claimed = if later { self.fixture.accept(key, intent).await } else { self.fixture.claim(key, intent).await };
        match claimed {
            ClaimResult::Run(permit) if !later => self.given(permit, is_close),
            ClaimResult::Run(permit) => panic!("what is to be made later runs: {permit:?}"),
            _ => {}
        }
    }

    /// Records that a permit was granted.
    fn given(&mut self, permit: ExecutionPermit, is_close: bool) {
        if is_close {
            let closes = self.permits.iter().filter(|other| other.subject == permit.subject && other.refund.is_none());
            assert_eq!(closes.count(), 0, "closed while something runs");
        } else {
            let rights = self.rights.entry(permit.subject.clone()).or_insert(1);
            *rights -= 1;
            assert!(*rights >= 0, "run twice: {:?}", permit.subject);
        }
        self.permits.push(permit);
    }

    async fn settle(&mut self, permit: ExecutionPermit, update: Update) {
        let (subject, job) = (permit.subject.clone(), permit.job.clone());
        let is_unclear = update == Update::Unknown(Reason::default());
        let record = self.fixture.settle(permit, update).await;
        // No caller waits for its response, so it is published even if the status is the same.
        if job.is_some() && !is_unclear && matches!(&record, Record::Payment(it) if it.status == Status::Pending) {
            self.changes.push((subject, Status::Pending));
        }
    }

    fn permit(&mut self, number: usize) -> Option<ExecutionPermit> {
        let number = number.checked_rem(self.permits.len())?;
        Some(self.permits.swap_remove(number))
    }

    async fn look(&self, subject: &RecordId) -> Option<Record> {
        let RecordId { merchant, order_id, refund_id } = subject;
        match refund_id {
            Some(refund) => self.fixture.ledger.refund(merchant, order_id, refund).await.unwrap().map(Record::Refund),
            None => self.fixture.ledger.payment(merchant, order_id).await.unwrap().map(Record::Payment),
        }
    }

    async fn deliver_next(&mut self) {
        for event in self.fixture.deliver_all().await {
            self.published.push((event.subject, facts(&event.data).0));
        }
    }

    async fn check(&mut self) {
        // The drop of a permit takes effect before a later request is answered.
        self.fixture.ledger.mismatch(&of("nothing"), at(4)).await.unwrap();
        let (mut unknown, mut inquiries) = (0, 0);
        for order in 0..2 {
            let mut given = 0;
            for refund in [Some(0), Some(1), Some(2), None] {
                let subject = subject(order, refund);
                let Some(record) = self.look(&subject).await else { continue };
                let (status, version, has_inquiry, money) = facts(&record);
                unknown += u64::from(status == Status::Unknown);
                inquiries += usize::from(has_inquiry);
                if status == Status::Succeeded && refund.is_some() {
                    given += 400;
                }
                assert_eq!(money == MoneyState::Moved, status == Status::Succeeded);
                let before = self.last.get(&subject).map_or((Status::Pending, 1), |last| {
                    let (status, version, ..) = facts(last);
                    (status, version)
                });
                if before != (status, version) {
                    assert!(version > before.1, "{before:?} {record:?}");
                    assert!(before.0 != Status::Succeeded || status == before.0, "{before:?} {record:?}");
                    let is_final = before.0.is_final();
                    assert!(!is_final || status == before.0 || status == Status::Succeeded, "{before:?} {record:?}");
                }
                let is_expected = status != Status::Pending && (refund.is_none() || status != Status::Unknown);
                if before.0 != status && is_expected {
                    self.changes.push((subject.clone(), status));
                }
                if let Record::Payment(payment) = &record {
                    assert_eq!(payment.refunded, given);
                }
                self.last.insert(subject, record);
            }
        }
        let waiting = self.fixture.ledger.waiting().await.unwrap();
        assert_eq!(
            (waiting.unknown, self.fixture.ledger.due_inquiries(at(1_000_000_000), 1000, &[]).await.len()),
            (unknown, inquiries)
        );
        assert_eq!(waiting.deliveries as usize, self.changes.len() - self.published.len());
    }
}

fn subject(order: u8, refund: Option<u8>) -> RecordId {
    RecordId { refund_id: refund.map(|refund| format!("r{refund}")), ..of(&format!("o{order}")) }
}

fn facts(record: &Record) -> (Status, u64, bool, MoneyState) {
    match record {
        Record::Payment(it) => (it.status, it.version, it.inquiry.is_some(), it.money_state),
        Record::Refund(it) => (it.status, it.version, it.inquiry.is_some(), it.money_state),
    }
}

proptest! {
    #![proptest_config(super::proptest_config(24))]

    #[test]
    fn claims_execute_once_and_records_never_regress(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut history = History {
                fixture: Fixture::new(),
                permits: Vec::new(),
                rights: BTreeMap::new(),
                last: BTreeMap::new(),
                changes: Vec::new(),
                published: Vec::new(),
            };
            for step in steps {
                history.take(step).await;
            }
            history.deliver_next().await;
            let sorted = |mut list: Vec<(RecordId, Status)>| {
                list.sort_by_key(|(subject, status)| (subject.clone(), status.as_str()));
                list
            };
            assert_eq!(sorted(history.published), sorted(history.changes));
        });
    }
}
