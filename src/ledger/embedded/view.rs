//! Consistent view of the ledger: memtables merged over the tables.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

use parking_lot::RwLockReadGuard;

use super::memtable::{ALL_KEYS, Bounds, Memtables};
use super::store::{Store, read_failed};
use crate::error::LedgerError;
use crate::transaction::{Key, Pair, Read, Space, Value};

/// Consistent view of the ledger. Blocks the writer, so it is used for few rows or when nothing is written.
pub(crate) struct View<'a> {
    memtables: RwLockReadGuard<'a, Memtables>,
    store: Arc<Store>,
}

impl<'a> View<'a> {
    pub(super) fn new(memtables: RwLockReadGuard<'a, Memtables>, store: Arc<Store>) -> Self {
        Self { memtables, store }
    }

    /// Returns every row of a space, in order.
    pub(crate) fn all(&self, space: Space) -> Result<Vec<Pair>, LedgerError> {
        self.each(space).collect()
    }

    /// Returns an iterator over [`all`](Self::all).
    pub(crate) fn each(&self, space: Space) -> impl Iterator<Item = Result<Pair, LedgerError>> + use<> {
        let rows = self.store.space(space).iter().map(|row| {
            let (key, value) = row.into_inner().map_err(read_failed)?;
            Ok((key.to_vec(), value.to_vec()))
        });
        merged(self.memtables.overlay(space, ALL_KEYS, |value| value.to_vec()), rows)
    }

    /// Returns the keys of a space in a range. The view may be dropped while they are read.
    pub(super) fn keys(
        self,
        space: Space,
        from: &[u8],
        until: &[u8],
    ) -> impl Iterator<Item = Result<Vec<u8>, LedgerError>> + use<> {
        let bounds: Bounds<'_> = (Included(from), Excluded(until));
        let keys = self.store.space(space).range::<&[u8], _>(bounds).map(|row| {
            let key = row.key().map_err(read_failed)?;
            Ok((key.to_vec(), ()))
        });
        let keys = merged(self.memtables.overlay(space, bounds, |_| ()), keys);
        keys.map(|key| key.map(|(key, ())| key))
    }

    /// Returns the greatest key of a space, which may be a deleted one.
    pub(crate) fn last_key(&self, space: Space) -> Result<Option<Vec<u8>>, LedgerError> {
        let last = self.store.space(space).last_key_value().map(fjall::Guard::key).transpose();
        let stored = last.map_err(read_failed)?.map(|key| key.to_vec());
        let memtables = self.memtables.immutable.as_deref().into_iter().chain([&self.memtables.active]);
        let written = memtables.filter_map(|rows| rows.last_key(space).map(|key| key.to_vec()));
        Ok(written.chain(stored).max())
    }
}

impl Read for View<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        match self.memtables.get(space, key) {
            Some(known) => Ok(known.clone()),
            None => self.store.bytes(space, key),
        }
    }
}

/// Merges memtable rows over stored rows. A memtable row hides the stored one.
fn merged<V>(
    overlay: BTreeMap<Key, Option<V>>,
    stored: impl Iterator<Item = Result<(Vec<u8>, V), LedgerError>>,
) -> impl Iterator<Item = Result<(Vec<u8>, V), LedgerError>> {
    let (mut overlay, mut stored) = (overlay.into_iter().peekable(), stored.peekable());
    std::iter::from_fn(move || {
        loop {
            let is_over = match (overlay.peek(), stored.peek()) {
                (Some((own, _)), Some(Ok((key, _)))) => {
                    let order = (**own).cmp(key);
                    if order.is_eq() {
                        stored.next();
                    }
                    order.is_le()
                }
                (own, None) => own.is_some(),
                (_, Some(_)) => false,
            };
            if !is_over {
                return stored.next();
            }
            if let Some((key, Some(value))) = overlay.next() {
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
    fn memtable_rows_hide_stored_rows_and_merge_in_order() {
        let overlay = [(1, Some(10)), (3, None), (4, Some(40)), (9, None)];
        let overlay = overlay.into_iter().map(|(key, value)| (Key::from([key]), value)).collect();
        let stored = [(vec![2], 2), (vec![3], 3), (vec![4], 4), (vec![5], 5)].into_iter().map(Ok);
        let found: Vec<_> = merged(overlay, stored).map(Result::unwrap).collect();
        assert_eq!(found, [(vec![1], 10), (vec![2], 2), (vec![4], 40), (vec![5], 5)]);
    }
}
