//! Every interleaving of two machines over one order, walked breadth first over the real rules: the provider executes it at
//! most once, and never once the merchant has been told that nothing comes of it.
//!
//! Between any two steps a machine may die, lose its lease and get it back, lose a ticket, or not hear whether what it wrote
//! was committed. Two things are assumed of the world, and are the business of others: what is sent is asked about as
//! `may_send` promises, at the last moment; and that the provider does not know an order is believed only when nothing is
//! on its way any more (the settle window).

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use parking_lot::Mutex;
use serde_json::Value;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Kind;

use super::super::claims::{self, Later, errands};
use super::super::held::{End, Turn};
use super::super::ids::{Id, Ids};
use super::super::rows::{Kept, PaymentRow, find_payment};
use super::super::transaction::{Read, Space, Transaction};
use super::super::{changes, timeline};
use super::*;

/// A rule that the walk can be made to break, to see that it would be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Ends do not look whose turn it is.
    Turns,
    /// A lease that was renewed is as good as one that never ended.
    Terms,
    /// What was taken and lost goes back to the queue.
    Losses,
}

#[derive(Clone, Default)]
struct Rows(BTreeMap<(Space, Vec<u8>), Vec<u8>>);

impl Read for Rows {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.0.get(&(space, key.to_vec())).cloned())
    }
}

impl Rows {
    fn of(&self, space: Space) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.0.iter().filter(move |((of, _), _)| *of == space).map(|((_, key), value)| (key, value))
    }

    fn claim(&self, id: Id) -> Value {
        self.0.get(&(Space::Claims, id.0.to_vec())).map_or(Value::Null, |row| serde_json::from_slice(row).unwrap())
    }

    fn payment(&self) -> Option<PaymentRow> {
        find_payment(self, "shop", "o").unwrap().map(|kept: Kept<PaymentRow>| kept.row)
    }

    /// Which of its turns a claim is in.
    fn turn(&self, claim: Id) -> Option<Turn> {
        let number = self.0.get(&(Space::Running, claim.0.to_vec()))?;
        Some(Turn::listed(&claim.0, number).unwrap())
    }
}

/// A ticket in the hands of a machine.
#[derive(Clone)]
struct Hand {
    turn: Turn,
    is_errand: bool,
    term: u8,
    sent: bool,
}

#[derive(Clone, Default)]
struct Machine {
    /// Grows with each death.
    life: u8,
    has_no_lease: bool,
    term: u8,
    hand: Option<Hand>,
    /// What it has yet to write about tickets that are gone.
    ends: Vec<(Turn, End)>,
}

/// How often what could go on for ever may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    asks: u8,
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
    /// Who runs what.
    owners: BTreeMap<Id, (usize, u8)>,
    on_its_way: u8,
    executed: u8,
    /// The merchant was told that nothing comes of it.
    told_none: bool,
    left: Left,
}

/// What a machine hears of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hears {
    /// That it is done.
    All,
    /// Nothing, although it is done.
    NothingOfIt,
    /// Nothing, and it is not done.
    Nothing,
}

impl Hears {
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
            told_none: false,
            left,
        }
    }

    /// One transaction of a machine.
    fn write<T>(
        &mut self,
        machine: usize,
        hears: Hears,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut ids = Ids::of(0);
        for _ in 0..self.ids {
            ids.next(at(0));
        }
        self.ids += 8;
        let (rows, ids) = (self.rows.clone(), Mutex::new(ids));
        let mut tx = Transaction::new(&rows, &ids);
        let done = work(&mut tx);
        let writes = tx.into_writes();
        if done.is_err() || hears == Hears::Nothing {
            return done;
        }
        // What only tells of what was, or when, no rule reads again.
        let is_told =
            |space| matches!(space, Space::Timeline | Space::Events | Space::Outbox | Space::Searches | Space::Unknown);
        for (space, key, value) in writes.rows.iter().filter(|(space, ..)| !is_told(*space)) {
            if space == Space::Running {
                let claim = Id::from_bytes(key).unwrap();
                match value {
                    Some(_) => drop(self.owners.insert(claim, (machine, self.machines[machine].life))),
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

    /// A copy in which a fault has happened, if any may.
    fn fault(&self) -> Option<Self> {
        let faults = self.left.faults.checked_sub(1)?;
        Some(Self { left: Left { faults, ..self.left }, ..self.clone() })
    }

    /// A copy for a transaction of which that is heard.
    fn hearing(&self, hears: Hears) -> Option<Self> {
        if hears == Hears::All { Some(self.clone()) } else { self.fault() }
    }

    fn steps(&self) -> Steps {
        let mut steps = Vec::new();
        // Whichever begins is the first.
        for machine in 0..if self.ids == 0 { 1 } else { 2 } {
            match self.machines[machine].hand.clone() {
                None => self.begin(machine, &mut steps),
                Some(hand) => self.go_on(machine, &hand, &mut steps),
            }
            self.keep_house(machine, &mut steps);
        }
        if self.on_its_way > 0 {
            let arrived = Self { on_its_way: self.on_its_way - 1, executed: self.executed + 1, ..self.clone() };
            steps.push(("the provider executes it".into(), arrived));
            steps.push(("it is lost on its way".into(), Self { on_its_way: self.on_its_way - 1, ..self.clone() }));
        }
        self.resolve(&mut steps);
        steps
    }

    /// What a machine without a ticket can do.
    fn begin(&self, machine: usize, steps: &mut Steps) {
        for (later, hears) in [false, true].into_iter().flat_map(|later| Hears::ANY.map(|hears| (later, hears))) {
            let (Some(asks), Some(mut next)) = (self.left.asks.checked_sub(1), self.hearing(hears)) else { continue };
            next.left.asks = asks;
            // Told that nothing was sent, a merchant asks anew for a new one.
            next.told_none &= self.rows.payment().is_some();
            let waits = later.then(|| Later { body: "{}".into(), is_full: false });
            let key = claim_key("k", "body");
            let claimed = next.write(machine, hears, |tx| claims::claim(tx, &key, pay("o"), waits, at(0))).unwrap();
            if let Claimed::Run(ticket) = claimed {
                next.give(machine, ticket.turn, false, hears);
            } else if hears != Hears::All && !later {
                continue;
            }
            steps.push((format!("{machine} is asked, later {later}, hears {hears:?}"), next));
        }
        if let Some(asks) = self.left.asks.checked_sub(1) {
            let mut next = Self { left: Left { asks, ..self.left }, ..self.clone() };
            let key = claim_key("c", "body");
            let claimed = next.write(machine, Hears::All, |tx| claims::claim(tx, &key, close("o"), None, at(0)));
            // A close that is sent says nothing about how often the payment is.
            if matches!(claimed, Ok(Claimed::Present(_))) {
                steps.push((format!("{machine} is asked to close it"), next));
            }
        }
        let waiting: Vec<_> = self.rows.of(Space::Errands).map(|(key, _)| key.clone()).collect();
        for (claim, hears) in errands::ids(&waiting).into_iter().flat_map(|id| Hears::ANY.map(|hears| (id, hears))) {
            let Some(mut next) = self.hearing(hears) else { continue };
            let taken = next.write(machine, hears, |tx| errands::take(tx, claim, "here", at(0))).unwrap();
            if let Some(ticket) = taken {
                next.give(machine, ticket.turn, true, hears);
                steps.push((format!("{machine} takes it, hears {hears:?}"), next));
            } else {
                steps.push((format!("{machine} finds nothing to be made"), next));
            }
        }
    }

    fn give(&mut self, machine: usize, turn: Turn, is_errand: bool, hears: Hears) {
        let it = &mut self.machines[machine];
        match hears {
            Hears::All => it.hand = Some(Hand { turn, is_errand, term: it.term, sent: false }),
            // Its ticket never came to anybody.
            _ => it.ends.push((turn, End::Released)),
        }
    }

    /// What a machine with a ticket can do.
    fn go_on(&self, machine: usize, hand: &Hand, steps: &mut Steps) {
        let it = &self.machines[machine];
        if hand.sent {
            for (news, name) in [
                (outcome(Status::Succeeded), "an answer: done"),
                (News::Declined(word()), "an answer: refused"),
                (News::Unknown, "no answer"),
            ] {
                let is_possible = match news {
                    News::Outcome(_) => self.executed > 0,
                    News::Declined(_) => self.on_its_way > 0,
                    _ => true,
                };
                if is_possible {
                    self.settle(machine, hand, &news, name, steps);
                }
            }
        } else {
            let may_send = !it.has_no_lease && (hand.term == it.term || self.broken == Broken::Terms);
            if may_send {
                let mut next = Self { on_its_way: self.on_its_way + 1, ..self.clone() };
                next.machines[machine].hand = Some(Hand { sent: true, ..hand.clone() });
                steps.push((format!("{machine} sends it"), next));
            }
            self.move_on(machine, hand, steps);
            self.release(machine, hand, steps);
            if hand.is_errand {
                self.settle(machine, hand, &News::Unsent(Status::Failed), "given up", steps);
            }
        }
        if let Some(mut next) = self.fault() {
            next.lose(machine, hand.turn);
            steps.push((format!("{machine} loses its ticket"), next));
        }
    }

    fn settle(&self, machine: usize, hand: &Hand, news: &News, name: &str, steps: &mut Steps) {
        for hears in Hears::ANY {
            let Some(mut next) = self.hearing(hears) else { continue };
            if matches!(news, News::Declined(_)) {
                next.on_its_way -= 1;
            }
            let heard = timeline::Heard::from(news.clone());
            let settled = next.write(machine, hears, |tx| claims::settle(tx, hand.turn, heard, at(1), answer));
            if hears == Hears::All && settled.is_ok() {
                next.machines[machine].hand = None;
            } else {
                next.lose(machine, hand.turn);
            }
            steps.push((format!("{machine} settles it ({name}), hears {hears:?}"), next));
        }
    }

    fn move_on(&self, machine: usize, hand: &Hand, steps: &mut Steps) {
        let Some(moves) = self.left.moves.checked_sub(1) else { return };
        let mut next = Self { left: Left { moves, ..self.left }, ..self.clone() };
        let mut tried = Exchanged::begun(Kind::Pay, "wechat", at(0));
        tried.ended(&Err(Error::NotSent("refused".into())));
        let to = destination("backup", "wechat-v3:2");
        let moved = next.write(machine, Hears::All, |tx| claims::moved_to(tx, hand.turn, to, vec![tried], at(1)));
        if moved.is_ok() {
            steps.push((format!("{machine} goes to another channel"), next));
        }
    }

    fn release(&self, machine: usize, hand: &Hand, steps: &mut Steps) {
        let Some(returns) = self.left.returns.checked_sub(1) else { return };
        for hears in Hears::ANY {
            let Some(mut next) = self.hearing(hears) else { continue };
            next.left.returns = returns;
            next.write(machine, hears, |tx| claims::release(tx, hand.turn, Vec::new(), at(1))).unwrap();
            if hears == Hears::All {
                next.machines[machine].hand = None;
                // 503: nothing was sent.
                next.told_none |= next.rows.payment().is_none();
            } else {
                next.lose(machine, hand.turn);
            }
            steps.push((format!("{machine} gives it back, hears {hears:?}"), next));
        }
    }

    fn lose(&mut self, machine: usize, turn: Turn) {
        let it = &mut self.machines[machine];
        it.hand = None;
        it.ends.push((turn, End::Lost));
    }

    /// What a machine does beside its requests, and what may happen to it.
    fn keep_house(&self, machine: usize, steps: &mut Steps) {
        let it = &self.machines[machine];
        for place in 0..it.ends.len() {
            let mut next = self.clone();
            let (turn, end) = next.machines[machine].ends.remove(place);
            next.end(machine, turn, end);
            steps.push((format!("{machine} ends what it has no ticket of: {end:?}"), next));
        }
        for (claim, (owner, life)) in &self.owners {
            let Some(turn) = self.rows.turn(*claim) else { continue };
            let owned_by = &self.machines[*owner];
            let is_known = it.ends.iter().any(|(ended, _)| *ended == turn);
            let is_dead = owned_by.life != *life || owned_by.has_no_lease;
            let is_held = it.hand.as_ref().is_some_and(|hand| hand.turn == turn);
            let is_ours = *owner == machine && it.life == *life;
            if !is_known && ((is_dead && !is_ours) || (is_ours && !is_held)) {
                // Found in one transaction, written in another.
                let mut next = self.clone();
                next.machines[machine].ends.push((turn, End::Lost));
                steps.push((format!("{machine} finds that nobody runs it"), next));
            }
        }
        if it.has_no_lease {
            let mut next = self.clone();
            let it = &mut next.machines[machine];
            (it.has_no_lease, it.term) = (false, it.term + 1);
            steps.push((format!("{machine} has its lease again"), next));
        } else if let Some(mut next) = self.fault() {
            next.machines[machine].has_no_lease = true;
            steps.push((format!("{machine} has no lease"), next));
        }
        if let Some(mut next) = self.fault() {
            next.machines[machine] = Machine { life: it.life + 1, ..Machine::default() };
            steps.push((format!("{machine} dies and starts again"), next));
        }
    }

    fn end(&mut self, machine: usize, turn: Turn, end: End) {
        let turn = match self.broken {
            Broken::Turns => self.rows.turn(turn.claim).unwrap_or(turn),
            _ => turn,
        };
        let is_errand = !self.rows.claim(turn.claim)["errand"].is_null();
        let end = if self.broken == Broken::Losses && is_errand { End::Released } else { end };
        self.write(machine, Hears::All, |tx| end.of(tx, turn)).unwrap();
    }

    /// The provider is asked about what is unknown.
    fn resolve(&self, steps: &mut Steps) {
        let is_unknown = self.rows.payment().is_some_and(|row| row.payment.status == Status::Unknown);
        if !is_unknown || (self.executed == 0 && self.on_its_way > 0) {
            return;
        }
        let news = if self.executed > 0 { outcome(Status::Succeeded) } else { News::NeverHappened };
        let mut next = self.clone();
        next.write(0, Hears::All, |tx| changes::apply(tx, &of("o"), news.clone().into(), at(2))).unwrap();
        steps.push((format!("the provider is asked: {news:?}"), next));
    }

    /// Takes in what the merchant sees, and says what must never be.
    fn judge(&mut self) -> Option<&'static str> {
        let ended = self.rows.payment().map(|row| row.payment.status);
        self.told_none |= matches!(ended, Some(Status::Failed | Status::Closed));
        if self.executed > 1 {
            return Some("executed twice");
        }
        (self.told_none && self.executed > 0).then_some("executed, and the merchant was told that it is not")
    }

    /// What the rules can tell worlds apart by: without times, ids and what grows without end.
    fn essence(&self) -> String {
        let claims: Vec<Id> = self.rows.of(Space::Claims).map(|(key, _)| Id::from_bytes(key).unwrap()).collect();
        let rank = |id: Id| claims.iter().position(|claim| *claim == id);
        let turn = |turn: &Turn| (rank(turn.claim), self.rows.turn(turn.claim) == Some(*turn));
        let claimed: Vec<_> = claims
            .iter()
            .map(|id| {
                let claim = self.rows.claim(*id);
                let state = claim["state"].as_str().unwrap_or("done").to_owned();
                let owner = self.owners.get(id).map(|(owner, life)| (*owner, self.machines[*owner].life == *life));
                (state, claim["errand"].is_null(), claim["names"].as_array().map(Vec::len), owner)
            })
            .collect();
        let payments: Vec<_> = self
            .rows
            .of(Space::Payments)
            .map(|(_, row)| {
                let row: PaymentRow = serde_json::from_slice(row).unwrap();
                let Payment { status, money_state, search, channel, .. } = row.payment;
                let closing = search.map(|search| search.closing);
                (status, money_state, closing, channel, row.queue.is_empty(), rank(row.claim), row.attempts.len())
            })
            .collect();
        let machines = self.machines.each_ref().map(|it| {
            let hand = it.hand.as_ref().map(|hand| (turn(&hand.turn), hand.is_errand, hand.sent, hand.term == it.term));
            let mut ends: Vec<_> = it.ends.iter().map(|(of, end)| (turn(of), *end == End::Lost)).collect();
            ends.sort();
            (it.has_no_lease, hand, ends)
        });
        let keys = self.rows.of(Space::Keys).count();
        let World { on_its_way, executed, told_none, left, .. } = self;
        format!("{claimed:?}{payments:?}{machines:?}{keys}{on_its_way}{executed}{told_none}{left:?}")
    }
}

/// What was met on the walk.
#[derive(Debug, Default)]
struct Met {
    worlds: usize,
    /// Ends, by how it stands and how often it was executed.
    ends: BTreeMap<(String, u8), usize>,
}

/// Walks through all worlds; an error is the way to one that must not be.
fn walk(broken: Broken, left: Left) -> Result<Met, String> {
    let first = World::new(broken, left);
    let mut seen = HashSet::from([first.essence()]);
    let mut ways = vec![(0, String::new())];
    let mut next = VecDeque::from([(0, first)]);
    let mut met = Met::default();
    while let Some((place, world)) = next.pop_front() {
        met.worlds += 1;
        let state = world
            .rows
            .payment()
            .map_or("none".to_owned(), |row| format!("{} {:?}", row.payment.status.as_str(), row.payment.money_state));
        *met.ends.entry((state, world.executed)).or_default() += 1;
        for (step, mut after) in world.steps() {
            let wrong = after.judge();
            if wrong.is_none() && !seen.insert(after.essence()) {
                continue;
            }
            ways.push((place, step));
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
fn no_interleaving_executes_twice_or_after_the_merchant_was_told_of_none() {
    // With a second channel, and with a second fault: both at once would take minutes.
    let mut ends = BTreeSet::new();
    for left in [Left { asks: 2, faults: 1, returns: 1, moves: 1 }, Left { asks: 2, faults: 2, returns: 1, moves: 0 }] {
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
fn it_finds_each_rule_that_is_broken() {
    for broken in [Broken::Turns, Broken::Terms, Broken::Losses] {
        let left = Left { asks: 1, faults: 2, returns: 2, moves: 0 };
        let way = walk(broken, left).err().unwrap_or_else(|| panic!("{broken:?} was not found"));
        println!("without {broken:?}: {way}\n");
    }
}
