//! The cost of a refund is independent of the payment's other refunds, also while no event is delivered.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::ids::Ids;
use super::super::transaction::{Read, Space, Transaction, Value};
use super::*;

/// Reader that counts what is read.
struct Counting<'a> {
    rows: &'a transaction::Rows,
    reads: AtomicUsize,
    bytes: AtomicUsize,
}

impl Read for Counting<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        let found = self.rows.get(space, key).cloned().flatten();
        // The timeline is bounded by its own limit.
        if space != Space::Timeline {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(found.as_ref().map_or(0, |value| value.len()), Ordering::Relaxed);
        }
        Ok(found)
    }
}

/// A ledger in memory.
struct Memory {
    rows: transaction::Rows,
    ids: parking_lot::Mutex<Ids>,
}

impl Memory {
    /// Runs a transaction. Returns rows read, bytes read and bytes written as well.
    fn run<T>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError>) -> (T, [usize; 3]) {
        let base = Counting { rows: &self.rows, reads: AtomicUsize::new(0), bytes: AtomicUsize::new(0) };
        let mut tx = Transaction::new(&base, &self.ids, &WebhookOnly);
        let done = work(&mut tx).unwrap();
        let writes = tx.into_writes();
        let written = writes.rows.iter().filter(|(space, ..)| *space != Space::Timeline);
        let written = written.map(|(.., value)| value.map_or(0, |value| value.len())).sum();
        let cost = [base.reads.into_inner(), base.bytes.into_inner(), written];
        let later: Vec<_> =
            writes.rows.iter().map(|(space, key, value)| (space, key.clone(), value.cloned())).collect();
        later.into_iter().for_each(|(space, key, value)| self.rows.insert(space, key, value));
        (done, cost)
    }

    fn claim(&mut self, key: &str, intent: Intent) -> (ClaimResult, [usize; 3]) {
        let request = claims::Request::new(&claim_key(key, key), intent, None, at(0)).unwrap();
        self.run(|tx| claims::claim(tx, *request))
    }

    fn settle(&mut self, claimed: ClaimResult, update: Update) -> [usize; 3] {
        let ClaimResult::Run(permit) = claimed else { panic!("{claimed:?}") };
        let execution = permit.execution;
        self.run(|tx| claims::settle(tx, execution, update.into(), at(1), answer)).1
    }
}

#[test]
fn refund_cost_is_constant_in_the_number_of_refunds() {
    let mut ledger = Memory { rows: transaction::Rows::default(), ids: Ids::of(1).into() };
    let (claimed, _) = ledger.claim("pay", pay("o"));
    ledger.settle(claimed, outcome(Status::Succeeded));
    let mut costs = Vec::new();
    for number in 0..600 {
        let (claimed, claim) = ledger.claim(&format!("k{number:04}"), refund_intent("o", &format!("r{number:04}"), 1));
        let update = if number < 300 { Update::Declined(provider_error()) } else { Update::Unknown(Reason::default()) };
        costs.push((claim, ledger.settle(claimed, update)));
    }
    let sum = |(claim, settle): &([usize; 3], [usize; 3])| -> usize { claim.iter().chain(settle).sum() };
    assert!(sum(&costs[599]) < sum(&costs[301]) + 100, "{:?} {:?}", costs[301], costs[599]);
    assert!(sum(&costs[299]) < sum(&costs[1]) + 100, "{:?} {:?}", costs[1], costs[299]);
}

#[tokio::test]
async fn released_refund_is_removed_at_any_position_of_the_list() {
    for released in ["a", "b", "c"] {
        let fixture = super::Fixture::<Directory>::new();
        fixture.paid("o").await;
        let mut left = Vec::new();
        for refund in ["a", "b", "c"] {
            let permit = fixture.run(refund, refund_intent("o", refund, 300)).await;
            left.push((refund, permit));
        }
        let at = left.iter().position(|(refund, _)| *refund == released).unwrap();
        let (_, permit) = left.remove(at);
        fixture.ledger.release(permit).await.unwrap();
        assert!(fixture.ledger.refund("shop", "o", released).await.unwrap().is_none());
        assert!(matches!(
            fixture.claim("much", refund_intent("o", "much", 401)).await,
            ClaimResult::ExceedsBalance { left: 400 }
        ));
        let refunds = async |fixture: &super::Fixture<Directory>| -> Vec<String> {
            let histories = fixture.ledger.find_histories("o", vec!["shop".into()]).await.unwrap();
            histories[0].refunds.iter().map(|refund| refund.refund_id.clone()).collect()
        };
        let others: Vec<_> = left.iter().map(|(refund, _)| (*refund).to_owned()).collect();
        assert_eq!(refunds(&fixture).await, others);
        // The same again, and this time it is executed.
        let permit = fixture.run("again", refund_intent("o", released, 400)).await;
        fixture.settle(permit, outcome(Status::Succeeded)).await;
        for (_, permit) in left {
            fixture.settle(permit, Update::Declined(provider_error())).await;
        }
        assert_eq!(refunds(&fixture).await, [others, vec![released.to_owned()]].concat());
        assert!(matches!(
            fixture.claim("rest", refund_intent("o", "rest", 601)).await,
            ClaimResult::ExceedsBalance { left: 600 }
        ));
    }
}
