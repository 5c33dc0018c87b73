//! Writes of a transaction or a batch.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::space::Space;
use crate::record_key::{RecordKey, Version};

/// Key and value of a row on disk.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Key in memory. Short keys are stored inline, so that a lookup follows no pointer.
pub(crate) type Key = fjall::Slice;

/// Value in memory, shared by its readers.
pub(crate) type Value = fjall::Slice;

/// Written and deleted rows, each key once. A few are searched linearly; many get a hash index.
#[derive(Default)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    positions: Option<Box<Positions>>,
}

/// A write; the value is `None` for a deletion.
struct Row {
    space: Space,
    key: Key,
    value: Option<Value>,
}

type Positions = [HashMap<Key, usize, RandomState>; Space::ALL.len()];

/// Number of rows above which a hash index is used.
const FEW: usize = 16;

impl Rows {
    /// Returns a collection with capacity for the writes of a usual transaction.
    pub(crate) fn for_one_transaction() -> Self {
        Self { rows: Vec::with_capacity(FEW), positions: None }
    }

    /// Returns the write of a key: `Some(None)` for a deletion, `None` if the key is not written.
    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Value>> {
        self.rows.get(self.position(space, key)?).map(|row| &row.value)
    }

    fn position(&self, space: Space, key: &[u8]) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions[space as usize].get(key).copied(),
            None => self.rows.iter().position(|row| row.space == space && *row.key == *key),
        }
    }

    pub(crate) fn insert(&mut self, space: Space, key: impl Into<Key>, value: Option<Value>) {
        let key = key.into();
        if let Some(position) = self.position(space, &key) {
            self.rows[position].value = value;
            return;
        }
        if let Some(positions) = &mut self.positions {
            positions[space as usize].insert(key.clone(), self.rows.len());
        }
        self.rows.push(Row { space, key, value });
        if self.positions.is_none() && self.rows.len() > FEW {
            let mut positions = Box::<Positions>::default();
            for (position, row) in self.rows.iter().enumerate() {
                positions[row.space as usize].insert(row.key.clone(), position);
            }
            self.positions = Some(positions);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Space, &Key, Option<&Value>)> {
        self.rows.iter().map(|row| (row.space, &row.key, row.value.as_ref()))
    }

    /// Returns the writes of one space.
    pub(crate) fn of(&self, space: Space) -> impl Iterator<Item = (&Key, Option<&Value>)> {
        self.iter().filter(move |(of, ..)| *of == space).map(|(_, key, value)| (key, value))
    }

    /// Removes all writes. The capacity stays.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Space, Key, Option<Value>)> {
        self.positions.iter_mut().flat_map(|positions| positions.iter_mut()).for_each(HashMap::clear);
        self.rows.drain(..).map(|row| (row.space, row.key, row.value))
    }

    /// Merges later writes.
    fn merge(&mut self, mut later: Self) {
        later.drain().for_each(|(space, key, value)| self.insert(space, key, value));
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Writes of a transaction or a batch.
#[derive(Default)]
pub(crate) struct Writes {
    pub(crate) rows: Rows,
    /// Events that joined (`true`) or left the queues, by [`queued_key`](crate::due_index::queued_key).
    pub(crate) queued: Vec<(Key, bool)>,
    /// Records that changed in the merchant's view.
    pub(crate) became: Vec<(RecordKey, Version)>,
    /// True if something became due sooner.
    pub(crate) wakes: bool,
}

impl Writes {
    pub(crate) fn merge(&mut self, later: Self) {
        self.rows.merge(later.rows);
        self.queued.extend(later.queued);
        self.became.extend(later.became);
        self.wakes |= later.wakes;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_below_and_above_the_index_threshold_keep_the_last_write_of_each_key() {
        for count in [1, FEW as u8, FEW as u8 + 1, 200] {
            let mut rows = Rows::default();
            for round in [0, 1] {
                for number in 0..count {
                    rows.insert(Space::Keys, [number], Some([round].into()));
                    rows.insert(Space::Index, [number], None);
                }
            }
            assert_eq!((rows.len(), rows.get(Space::Claims, &[0])), (2 * usize::from(count), None));
            assert_eq!(rows.get(Space::Keys, &[count - 1]), Some(&Some([1].into())));
            assert_eq!(rows.get(Space::Index, &[count - 1]), Some(&None));
            assert!(rows.of(Space::Keys).all(|(_, value)| value == Some(&Value::from([1]))));
            assert_eq!(rows.of(Space::Keys).count(), usize::from(count));
            assert_eq!(rows.drain().count(), 2 * usize::from(count));
            assert!(rows.is_empty() && rows.get(Space::Keys, &[0]).is_none());
            rows.insert(Space::Keys, [0], None);
            assert_eq!(rows.get(Space::Keys, &[0]), Some(&None));
        }
    }
}
