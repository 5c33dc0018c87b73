//! Model checker: explores every interleaving of two machines over one order, breadth first, with the real rules. The
//! provider executes the order at most once, and never after the merchant was told that it is not executed.
//!
//! Between any two steps a machine may die, lose its lease and renew it, lose a permit, or miss the result of a
//! commit. Two assumptions are verified elsewhere: requests are sent only after `may_send`, at the last moment; and
//! "not found" is trusted only when no request can still arrive (the grace period).

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use parking_lot::Mutex;
use serde_json::Value;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Kind;

use super::super::claim_guard::{Abandoned, ExecutionId};
use super::super::claims::{self, AsyncRequest, Attempt, jobs};
use super::super::ids::{Id, Ids};
use super::super::rows::{PaymentRow, TrackedRow, find_payment};
use super::super::transaction::{Read, Space, Transaction, Value as Bytes};
use super::super::{apply, timeline};
use super::*;

/// Rule that the model can violate on purpose, to prove that it would be detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The end of a claim ignores the execution id.
    Turns,
    /// A renewed lease counts as one that never expired.
    Terms,
    /// A dequeued and lost job goes back to the queue.
    Losses,
}

#[derive(Clone, Default)]
struct Rows(BTreeMap<(Space, Vec<u8>), Bytes>);

impl Read for Rows {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.0.get(&(space, key.to_vec())).cloned())
    }
}

impl Rows {
    fn of(&self, space: Space) -> impl Iterator<Item = (&Vec<u8>, &Bytes)> {
        self.0.iter().filter(move |((of, _), _)| *of == space).map(|((_, key), value)| (key, value))
    }

    fn claim(&self, id: Id) -> Value {
        self.0.get(&(Space::Claims, id.0.to_vec())).map_or(Value::Null, |row| serde_json::from_slice(row).unwrap())
    }

    fn payment(&self) -> Option<PaymentRow> {
        find_payment(self, "shop", "o").unwrap().map(|tracked: TrackedRow<PaymentRow>| tracked.row)
    }

    /// Number of the claim's execution.
    fn execution(&self, claim: Id) -> Option<ExecutionId> {
        let number = self.0.get(&(Space::Running, claim.0.to_vec()))?;
        Some(ExecutionId::listed(&claim.0, number).unwrap())
    }
}

/// A permit held by a machine.
#[derive(Clone)]
struct HeldPermit {
    execution: ExecutionId,
    is_job: bool,
    term: u8,
    sent: bool,
}

#[derive(Clone, Default)]
struct Machine {
    /// Grows with each death.
    history: u8,
    has_no_lease: bool,
    term: u8,
    hand: Option<HeldPermit>,
    /// Ends of dropped permits that are not written yet.
    ends: Vec<(ExecutionId, Abandoned)>,
}

/// Bounds of otherwise endless steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    requests: u8,
    faults: u8,
    returns: u8,
    moves: u8,
}

#[derive(Clone)]
struct World {
    broken: Broken,
    rows: Rows,
    ids: u32,
    machines: [Machine; 2],
    /// Machine that executes the claim.
    owners: BTreeMap<Id, (usize, u8)>,
    on_its_way: u8,
    executed: u8,
    /// True after the record failed or was closed, so that the merchant expects no execution any more.
    rejected: bool,
    left: Left,
}

/// Result of a transaction as its machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visibility {
    /// The result.
    All,
    /// No result, although the transaction was committed.
    NothingOfIt,
    /// No result; the transaction was rolled back.
    Nothing,
}

impl Visibility {
    const ANY: [Self; 3] = [Self::All, Self::NothingOfIt, Self::Nothing];
}

type Steps = Vec<(String, World)>;

impl World {
    fn new(broken: Broken, left: Left) -> Self {
        Self {
            broken,
            rows: Rows::default(),
            ids: 0,
            machines: Default::default(),
            owners: BTreeMap::new(),
            on_its_way: 0,
            executed: 0,
            rejected: false,
            left,
        }
    }

    /// One transaction of a machine.
    fn write<T>(
        &mut self,
        machine: usize,
        visibility: Visibility,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut ids = Ids::of(0);
        for _ in 0..self.ids {
            ids.next(at(0));
        }
        self.ids += 8;
        let (rows, ids) = (self.rows.clone(), Mutex::new(ids));
        let mut tx = Transaction::new(&rows, &ids, &WebhookOnly);
        let done = work(&mut tx);
        let writes = tx.into_writes();
        if done.is_err() || visibility == Visibility::Nothing {
            return done;
        }
        // Fields that only record the past or times are read by no rule.
        let is_expected = |space| matches!(space, Space::Timeline | Space::Outbox | Space::Inquiries | Space::Unknown);
        for (space, key, value) in writes.rows.iter().filter(|(space, ..)| !is_expected(*space)) {
            if space == Space::Running {
                let claim = Id::from_bytes(key).unwrap();
                match value {
                    Some(_) => drop(self.owners.insert(claim, (machine, self.machines[machine].history))),
                    None => drop(self.owners.remove(&claim)),
                }
            }
            match value {
                Some(value) => drop(self.rows.0.insert((space, key.to_vec()), value.clone())),
                None => drop(self.rows.0.remove(&(space, key.to_vec()))),
            }
        }
        done
    }

    /// Returns a copy after a fault, if faults are left.
    fn fault(&self) -> Option<Self> {
        let faults = self.left.faults.checked_sub(1)?;
        Some(Self { left: Left { faults, ..self.left }, ..self.clone() })
    }

    /// Returns a copy for a transaction with this visibility.
    fn with_visibility(&self, visibility: Visibility) -> Option<Self> {
        if visibility == Visibility::All { Some(self.clone()) } else { self.fault() }
    }

    /// Records what the merchant sees, and returns a violated invariant.
    fn violation(&mut self) -> Option<&'static str> {
        let ended = self.rows.payment().map(|row| row.payment.status);
        self.rejected |= matches!(ended, Some(Status::Failed | Status::Closed));
        if self.executed > 1 {
            return Some("executed twice");
        }
        (self.rejected && self.executed > 0).then_some("executed, and the merchant was told that it is not")
    }

    /// The state without times, ids and counters that grow without end.
    fn essence(&self) -> String {
        let claims: Vec<Id> = self.rows.of(Space::Claims).map(|(key, _)| Id::from_bytes(key).unwrap()).collect();
        let rank = |id: Id| claims.iter().position(|claim| *claim == id);
        let execution =
            |execution: &ExecutionId| (rank(execution.claim), self.rows.execution(execution.claim) == Some(*execution));
        let claimed: Vec<_> = claims
            .iter()
            .map(|id| {
                let claim = self.rows.claim(*id);
                let state = claim["state"].as_str().unwrap_or("done").to_owned();
                let owner =
                    self.owners.get(id).map(|(owner, history)| (*owner, self.machines[*owner].history == *history));
                (state, claim["job"].is_null(), claim["names"].as_array().map(Vec::len), owner)
            })
            .collect();
        let payments: Vec<_> = self
            .rows
            .of(Space::Payments)
            .map(|(_, row)| {
                let row: PaymentRow = serde_json::from_slice(row).unwrap();
                let Payment { channel, state: RecordState { status, money_state, inquiry, .. }, .. } = row.payment;
                let closing = inquiry.map(|inquiry| inquiry.closing);
                (status, money_state, closing, channel, row.queues.is_empty(), rank(row.claim), row.attempts.len())
            })
            .collect();
        let machines = self.machines.each_ref().map(|it| {
            let hand =
                it.hand.as_ref().map(|hand| (execution(&hand.execution), hand.is_job, hand.sent, hand.term == it.term));
            let mut ends: Vec<_> =
                it.ends.iter().map(|(of, end)| (execution(of), *end == Abandoned::MaybeSent)).collect();
            ends.sort();
            (it.has_no_lease, hand, ends)
        });
        let keys = self.rows.of(Space::Keys).count();
        let World { on_its_way, executed, rejected, left, .. } = self;
        format!("{claimed:?}{payments:?}{machines:?}{keys}{on_its_way}{executed}{rejected}{left:?}")
    }
}

/// Result of the exploration.
#[derive(Debug, Default)]
struct Met {
    worlds: usize,
    /// Final states, by status and number of executions.
    ends: BTreeMap<(String, u8), usize>,
}

/// Explores all states. The error is the path to a violation.
fn walk(broken: Broken, left: Left) -> Result<Met, String> {
    let first = World::new(broken, left);
    let mut seen = HashSet::from([first.essence()]);
    let mut ways = vec![(0, String::new())];
    let mut next = VecDeque::from([(0, first)]);
    let mut met = Met::default();
    while let Some((backend, world)) = next.pop_front() {
        met.worlds += 1;
        let state = world
            .rows
            .payment()
            .map_or("none".to_owned(), |row| format!("{} {:?}", row.payment.status.as_str(), row.payment.money_state));
        *met.ends.entry((state, world.executed)).or_default() += 1;
        for (step, mut after) in world.steps() {
            let wrong = after.violation();
            if wrong.is_none() && !seen.insert(after.essence()) {
                continue;
            }
            ways.push((backend, step));
            let here = ways.len() - 1;
            if let Some(wrong) = wrong {
                let mut way = Vec::new();
                let mut at = here;
                while at != 0 {
                    way.push(ways[at].1.clone());
                    at = ways[at].0;
                }
                way.reverse();
                return Err(format!("{wrong}:\n{}", way.join("\n")));
            }
            next.push_back((here, after));
        }
    }
    Ok(met)
}

#[test]
fn no_interleaving_executes_twice_or_after_a_reported_rejection() {
    // With a second channel, and with a second fault: both at once would take minutes.
    let mut ends = BTreeSet::new();
    for left in
        [Left { requests: 2, faults: 1, returns: 1, moves: 1 }, Left { requests: 2, faults: 2, returns: 1, moves: 0 }]
    {
        let met = walk(Broken::Nothing, left).unwrap_or_else(|way| panic!("{way}"));
        println!("{left:?}: {met:?}");
        assert!(met.worlds > 1000, "{met:?}");
        ends.extend(met.ends.into_keys());
    }
    for (state, executed) in [
        ("none", 0),
        ("pending NotSent", 0),
        ("unknown Unknown", 1),
        ("succeeded Moved", 1),
        ("failed NotMoved", 0),
        ("failed NotSent", 0),
        ("closed NotSent", 0),
    ] {
        assert!(ends.contains(&(state.to_owned(), executed)), "never came to {state} {executed}: {ends:?}");
    }
}

#[test]
fn model_detects_every_injected_rule_violation() {
    for broken in [Broken::Turns, Broken::Terms, Broken::Losses] {
        let left = Left { requests: 1, faults: 2, returns: 2, moves: 0 };
        let way = walk(broken, left).err().unwrap_or_else(|| panic!("{broken:?} was not found"));
        println!("without {broken:?}: {way}\n");
    }
}

mod steps;
