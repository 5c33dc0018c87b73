//! Memtables: rows written since the last checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::RangeBounds;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::transaction::{Key, Rows, Space, Value};

/// One memtable: the writes of each space.
#[derive(Default)]
pub(super) struct Memtable([Part; Space::ALL.len()]);

impl Memtable {
    fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Value>> {
        self.0[space as usize].get(key)
    }

    pub(super) fn insert(&mut self, space: Space, key: impl Into<Key>, value: Option<Value>) {
        let (part, key) = (&mut self.0[space as usize], key.into());
        match part.position(&key) {
            Ok(position) => part.ascending[position].1 = value,
            Err(position) if position == part.ascending.len() && !space.is_hashed() => {
                part.ascending.push((key, value))
            }
            Err(_) => drop(part.others.insert(key, value)),
        }
    }

    /// Returns a range of a space, in order.
    pub(super) fn range<'a>(
        &'a self,
        space: Space,
        bounds: Bounds<'a>,
    ) -> impl Iterator<Item = (&'a Key, Option<&'a Value>)> {
        let Part { ascending, others } = &self.0[space as usize];
        let is_within = |key: &Key| RangeBounds::<[u8]>::contains(&bounds, &**key);
        let mut others: Vec<_> = others.iter().filter(|(key, _)| is_within(key)).collect();
        others.sort_unstable_by_key(|(key, _)| *key);
        // Binary search, because a purge reads few of many rows while the writer waits.
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

    /// Returns all rows of a space, in order.
    pub(super) fn of(&self, space: Space) -> impl Iterator<Item = (&Key, Option<&Value>)> {
        self.range(space, ALL_KEYS)
    }

    /// Removes all rows. The capacity stays.
    pub(super) fn cleared(mut self) -> Self {
        for part in &mut self.0 {
            part.ascending.clear();
            part.others.clear();
        }
        self
    }

    pub(super) fn last_key(&self, space: Space) -> Option<&Key> {
        let part = &self.0[space as usize];
        part.ascending.last().map(|(key, _)| key).max(part.others.keys().max())
    }

    /// Merges later writes.
    pub(super) fn merge(&mut self, later: &mut Rows) {
        later.drain().for_each(|(space, key, value)| self.insert(space, key, value));
    }
}

/// Rows of a space; `None` for a deleted one.
#[derive(Default)]
struct Part {
    /// Rows whose keys came in ascending order, as ids do. Appending here touches no other memory.
    ascending: Vec<(Key, Option<Value>)>,
    /// Rows with hashed keys, and all others.
    others: HashMap<Key, Option<Value>, RandomState>,
}

impl Part {
    fn get(&self, key: &[u8]) -> Option<&Option<Value>> {
        match self.position(key) {
            Ok(position) => Some(&self.ascending[position].1),
            Err(_) => self.others.get(key),
        }
    }

    /// Searches the ascending rows from their end, where most lookups hit. Returns the index, or where the key would
    /// be.
    fn position(&self, key: &[u8]) -> Result<usize, usize> {
        let rows = &self.ascending;
        let mut near = 1;
        while near < rows.len() && *rows[rows.len() - near].0 > *key {
            near *= 2;
        }
        let from = rows.len().saturating_sub(near);
        let position = rows[from..].binary_search_by(|(row, _)| (**row).cmp(key));
        position.map(|position| from + position).map_err(|position| from + position)
    }
}

/// Memtables whose rows may not be in the tables yet.
pub(super) struct Memtables {
    /// Rows of the WAL segment that is being written.
    pub(super) active: Memtable,
    /// Rows of the previous segment, while they are being written to the tables.
    pub(super) immutable: Option<Arc<Memtable>>,
}

impl Memtables {
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Value>> {
        self.active.get(space, key).or_else(|| self.immutable.as_ref()?.get(space, key))
    }

    /// Returns the merged rows of a range, with `what` of each value.
    pub(super) fn overlay<V>(
        &self,
        space: Space,
        bounds: Bounds<'_>,
        what: impl Fn(&Value) -> V,
    ) -> BTreeMap<Key, Option<V>> {
        let memtables = self.immutable.as_deref().into_iter().chain([&self.active]);
        let rows = memtables.flat_map(|rows| rows.range(space, bounds));
        rows.map(|(key, value)| (key.clone(), value.map(&what))).collect()
    }
}

/// Key range.
pub(crate) type Bounds<'a> = (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>);

/// The range of all keys.
pub(super) const ALL_KEYS: Bounds<'static> = (Unbounded, Unbounded);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memtable_keeps_last_write_of_each_key_in_order_for_any_insertion_order() {
        let mut shuffled: Vec<u8> = (0..=255).collect();
        shuffled.sort_by_key(|number| number.wrapping_mul(167));
        for coming in [(0..=255).collect(), (0..=255).rev().collect(), shuffled] {
            let mut memtable = Memtable::default();
            for round in 0..2_u8 {
                for key in coming.iter().filter(|key| round == 0 || **key % 3 > 0) {
                    memtable.insert(Space::Claims, [*key], (round == 0 || *key % 3 == 1).then(|| [round].into()));
                }
            }
            let wanted = |key: u8| match key % 3 {
                0 => Some([0].into()),
                1 => Some([1].into()),
                _ => None,
            };
            let all: Vec<(Key, Option<Value>)> = (0..=255).map(|key| ([key].into(), wanted(key))).collect();
            let found = memtable.of(Space::Claims);
            assert_eq!(
                found.collect::<Vec<_>>(),
                all.iter().map(|(key, value)| (key, value.as_ref())).collect::<Vec<_>>()
            );
            assert!(all.iter().all(|(key, value)| memtable.get(Space::Claims, key) == Some(value)));
            assert_eq!((memtable.get(Space::Claims, &[7, 7]), memtable.get(Space::Keys, &[7])), (None, None));
            assert_eq!(memtable.last_key(Space::Claims), Some(&[255].into()));
            let [low, high] = [9, 12].map(|key| [key]);
            let from = [Included(&low[..]), Excluded(&low), Unbounded, Included(&high)];
            let until = [Included(&high[..]), Excluded(&high), Unbounded, Excluded(&low)];
            for bounds in from.into_iter().flat_map(|from| until.map(|until| (from, until))) {
                let is_within = |key: &&Key| RangeBounds::<[u8]>::contains(&bounds, &***key);
                let wanted = all.iter().map(|(key, _)| key).filter(is_within).collect::<Vec<_>>();
                let found = memtable.range(Space::Claims, bounds).map(|(key, _)| key).collect::<Vec<_>>();
                assert_eq!(found, wanted, "{bounds:?}");
            }
            assert!(memtable.cleared().of(Space::Claims).next().is_none());
        }
    }
}
