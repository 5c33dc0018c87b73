//! What was written since the tables were filled last lies over them in memory, and readers see both as one.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::RangeBounds;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::RwLockReadGuard;

use super::store::Store;
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::{Key, Pair, Read, Rows, Space, Value};

/// What is written of each space.
#[derive(Default)]
pub(super) struct Layer([Part; Space::ALL.len()]);

impl Layer {
    fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Value>> {
        self.0[space as usize].get(key)
    }

    pub(super) fn insert(&mut self, space: Space, key: impl Into<Key>, value: Option<Value>) {
        let (part, key) = (&mut self.0[space as usize], key.into());
        match part.place(&key) {
            Ok(place) => part.ascending[place].1 = value,
            Err(place) if place == part.ascending.len() && !space.is_hashed() => part.ascending.push((key, value)),
            Err(_) => drop(part.others.insert(key, value)),
        }
    }

    /// A part of a space, in order.
    pub(super) fn range<'a>(
        &'a self,
        space: Space,
        bounds: Bounds<'a>,
    ) -> impl Iterator<Item = (&'a Key, Option<&'a Value>)> {
        let Part { ascending, others } = &self.0[space as usize];
        let is_within = |key: &Key| RangeBounds::<[u8]>::contains(&bounds, &**key);
        let mut others: Vec<_> = others.iter().filter(|(key, _)| is_within(key)).collect();
        others.sort_unstable_by_key(|(key, _)| *key);
        // Whoever purges asks for a few of many, while the writing thread waits.
        let up_to = |key: &[u8]| ascending.partition_point(|(row, _)| **row <= *key);
        let before = |key: &[u8]| ascending.partition_point(|(row, _)| **row < *key);
        let from = match bounds.0 {
            Included(key) => before(key),
            Excluded(key) => up_to(key),
            Unbounded => 0,
        };
        let until = match bounds.1 {
            Included(key) => up_to(key),
            Excluded(key) => before(key),
            Unbounded => ascending.len(),
        };
        let ascending = ascending[from..until.max(from)].iter().map(|(key, value)| (key, value));
        let (mut ascending, mut others) = (ascending.peekable(), others.into_iter().peekable());
        std::iter::from_fn(move || {
            let before = ascending.peek().map(|(key, _)| *key);
            let next = others.next_if(|(key, _)| before.is_none_or(|before| *key < before));
            next.or_else(|| ascending.next()).map(|(key, value)| (key, value.as_ref()))
        })
    }

    /// All of a space, in order.
    pub(super) fn of(&self, space: Space) -> impl Iterator<Item = (&Key, Option<&Value>)> {
        self.range(space, ALL)
    }

    /// Without its rows; the room for as many stays.
    pub(super) fn emptied(mut self) -> Self {
        for part in &mut self.0 {
            part.ascending.clear();
            part.others.clear();
        }
        self
    }

    fn last_key(&self, space: Space) -> Option<&Key> {
        let part = &self.0[space as usize];
        part.ascending.last().map(|(key, _)| key).max(part.others.keys().max())
    }

    /// Takes in what was written later.
    pub(super) fn merge(&mut self, later: &mut Rows) {
        later.drain().for_each(|(space, key, value)| self.insert(space, key, value));
    }
}

/// A space's rows; `None` for one that goes.
#[derive(Default)]
struct Part {
    /// Those that came with a greater key than all before, as ids do: to put one here touches no other memory.
    ascending: Vec<(Key, Option<Value>)>,
    /// All of those whose keys are hashes, and the others.
    others: HashMap<Key, Option<Value>, RandomState>,
}

impl Part {
    fn get(&self, key: &[u8]) -> Option<&Option<Value>> {
        match self.place(key) {
            Ok(place) => Some(&self.ascending[place].1),
            Err(_) => self.others.get(key),
        }
    }

    /// Where it is among the ascending ones, or would be. Looked for from their end: who has come last is asked for most.
    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        let rows = &self.ascending;
        let mut near = 1;
        while near < rows.len() && *rows[rows.len() - near].0 > *key {
            near *= 2;
        }
        let from = rows.len().saturating_sub(near);
        let place = rows[from..].binary_search_by(|(row, _)| (**row).cmp(key));
        place.map(|place| from + place).map_err(|place| from + place)
    }
}

/// The rows that may not be in the tables yet.
pub(super) struct Memtables {
    /// Those of the segment that is being written.
    pub(super) active: Layer,
    /// Those of the segment before it, while they are being filed into the tables.
    pub(super) immutable: Option<Arc<Layer>>,
}

impl Memtables {
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Value>> {
        self.active.get(space, key).or_else(|| self.immutable.as_ref()?.get(space, key))
    }

    /// What lies over a part of a space, with `what` is needed of its values.
    fn over<V>(&self, space: Space, bounds: Bounds<'_>, what: impl Fn(&Value) -> V) -> BTreeMap<Key, Option<V>> {
        let layers = self.immutable.as_deref().into_iter().chain([&self.active]);
        let rows = layers.flat_map(|rows| rows.range(space, bounds));
        rows.map(|(key, value)| (key.clone(), value.map(&what))).collect()
    }
}

/// From where to where.
pub(in crate::ledger) type Bounds<'a> = (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>);

const ALL: Bounds<'static> = (Unbounded, Unbounded);

/// The whole ledger at one moment. Whoever has one keeps the writing thread waiting, so it is for a few rows, or for when
/// nobody writes.
pub(in crate::ledger) struct View<'a> {
    layers: RwLockReadGuard<'a, Memtables>,
    store: Arc<Store>,
}

impl<'a> View<'a> {
    pub(super) fn new(layers: RwLockReadGuard<'a, Memtables>, store: Arc<Store>) -> Self {
        Self { layers, store }
    }

    /// Every row of a space, in order.
    pub(in crate::ledger) fn all(&self, space: Space) -> Result<Vec<Pair>, LedgerError> {
        self.each(space).collect()
    }

    /// As [`all`](Self::all), one after another.
    pub(in crate::ledger) fn each(&self, space: Space) -> impl Iterator<Item = Result<Pair, LedgerError>> + use<> {
        let rows = self.store.space(space).iter().map(|row| {
            let (key, value) = row.into_inner().map_err(|error| LedgerError(error.to_string()))?;
            Ok((key.to_vec(), value.to_vec()))
        });
        merged(self.layers.over(space, ALL, |value| value.to_vec()), rows)
    }

    /// The keys of a space from one on and before another, for reading them without the view.
    pub(super) fn keys(
        self,
        space: Space,
        from: &[u8],
        until: &[u8],
    ) -> impl Iterator<Item = Result<Vec<u8>, LedgerError>> + use<> {
        let bounds: Bounds<'_> = (Included(from), Excluded(until));
        let keys = self.store.space(space).range::<&[u8], _>(bounds).map(|row| {
            let key = row.key().map_err(|error| LedgerError(error.to_string()))?;
            Ok((key.to_vec(), ()))
        });
        let keys = merged(self.layers.over(space, bounds, |_| ()), keys);
        keys.map(|key| key.map(|(key, ())| key))
    }

    /// A key than which none of the space's is greater; it may be gone.
    pub(in crate::ledger) fn last_key(&self, space: Space) -> Result<Option<Vec<u8>>, LedgerError> {
        let last = self.store.space(space).last_key_value().map(fjall::Guard::key).transpose();
        let stored = last.map_err(|error| LedgerError(error.to_string()))?.map(|key| key.to_vec());
        let layers = self.layers.immutable.as_deref().into_iter().chain([&self.layers.active]);
        let written = layers.filter_map(|rows| rows.last_key(space).map(|key| key.to_vec()));
        Ok(written.chain(stored).max())
    }
}

impl Read for View<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        match self.layers.get(space, key) {
            Some(known) => Ok(known.clone()),
            None => self.store.bytes(space, key),
        }
    }
}

/// What lies over the tables hides what is under it.
fn merged<V>(
    over: BTreeMap<Key, Option<V>>,
    under: impl Iterator<Item = Result<(Vec<u8>, V), LedgerError>>,
) -> impl Iterator<Item = Result<(Vec<u8>, V), LedgerError>> {
    let (mut over, mut under) = (over.into_iter().peekable(), under.peekable());
    std::iter::from_fn(move || {
        loop {
            let is_over = match (over.peek(), under.peek()) {
                (Some((own, _)), Some(Ok((key, _)))) => {
                    let order = (**own).cmp(key);
                    if order.is_eq() {
                        under.next();
                    }
                    order.is_le()
                }
                (own, None) => own.is_some(),
                (_, Some(_)) => false,
            };
            if !is_over {
                return under.next();
            }
            if let Some((key, Some(value))) = over.next() {
                return Some(Ok((key.to_vec(), value)));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_lies_over_hides_what_is_under_and_all_comes_in_order() {
        let over = [(1, Some(10)), (3, None), (4, Some(40)), (9, None)];
        let over = over.into_iter().map(|(key, value)| (Key::from([key]), value)).collect();
        let under = [(vec![2], 2), (vec![3], 3), (vec![4], 4), (vec![5], 5)].into_iter().map(Ok);
        let found: Vec<_> = merged(over, under).map(Result::unwrap).collect();
        assert_eq!(found, [(vec![1], 10), (vec![2], 2), (vec![4], 40), (vec![5], 5)]);
    }

    #[test]
    fn a_layer_has_the_last_of_each_in_order_however_they_come() {
        let mut shuffled: Vec<u8> = (0..=255).collect();
        shuffled.sort_by_key(|number| number.wrapping_mul(167));
        for coming in [(0..=255).collect(), (0..=255).rev().collect(), shuffled] {
            let mut layer = Layer::default();
            for round in 0..2_u8 {
                for key in coming.iter().filter(|key| round == 0 || **key % 3 > 0) {
                    layer.insert(Space::Claims, [*key], (round == 0 || *key % 3 == 1).then(|| [round].into()));
                }
            }
            let wanted = |key: u8| match key % 3 {
                0 => Some([0].into()),
                1 => Some([1].into()),
                _ => None,
            };
            let all: Vec<(Key, Option<Value>)> = (0..=255).map(|key| ([key].into(), wanted(key))).collect();
            let found = layer.of(Space::Claims);
            assert_eq!(
                found.collect::<Vec<_>>(),
                all.iter().map(|(key, value)| (key, value.as_ref())).collect::<Vec<_>>()
            );
            assert!(all.iter().all(|(key, value)| layer.get(Space::Claims, key) == Some(value)));
            assert_eq!((layer.get(Space::Claims, &[7, 7]), layer.get(Space::Keys, &[7])), (None, None));
            assert_eq!(layer.last_key(Space::Claims), Some(&[255].into()));
            let [low, high] = [9, 12].map(|key| [key]);
            let from = [Included(&low[..]), Excluded(&low), Unbounded, Included(&high)];
            let until = [Included(&high[..]), Excluded(&high), Unbounded, Excluded(&low)];
            for bounds in from.into_iter().flat_map(|from| until.map(|until| (from, until))) {
                let is_within = |key: &&Key| RangeBounds::<[u8]>::contains(&bounds, &***key);
                let wanted = all.iter().map(|(key, _)| key).filter(is_within).collect::<Vec<_>>();
                let found = layer.range(Space::Claims, bounds).map(|(key, _)| key).collect::<Vec<_>>();
                assert_eq!(found, wanted, "{bounds:?}");
            }
            assert!(layer.emptied().of(Space::Claims).next().is_none());
        }
    }
}
