//! Sources of rows, and rows that cannot be read.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::space::Space;
use super::writes::Value;
use crate::error::{Corruption, LedgerError};

/// Source of rows: a transaction, or an engine outside a transaction.
pub(crate) trait Read {
    /// Reads the value of a key.
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError>;

    /// Reads and decodes the row of a key.
    fn row<T: DeserializeOwned>(&self, space: Space, key: &[u8]) -> Result<Option<T>, LedgerError>
    where
        Self: Sized,
    {
        let Some(bytes) = self.bytes(space, key)? else { return Ok(None) };
        let row = serde_json::from_slice(&bytes);
        Ok(row.map(Some).map_err(|error| Corruption::Row { space: space.name(), source: Arc::new(error) })?)
    }
}

impl<R: Read + ?Sized> Read for &R {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        (**self).bytes(space, key)
    }
}

/// Reader without any rows.
pub(crate) struct Nothing;

impl Read for Nothing {
    fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Value>, LedgerError> {
        Ok(None)
    }
}

/// Logs why a row could not be read. A damaged row needs manual review; any other failure is temporary.
pub(crate) fn report_unreadable(error: &LedgerError, what: &str) {
    match error {
        LedgerError::Corrupt(_) => tracing::error!(%error, "{what} cannot be read; a person must review it"),
        _ => tracing::warn!(%error, "{what} could not be read from the ledger; it is read again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Read for Gone {
        fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Value>, LedgerError> {
            Err(LedgerError::Timeout)
        }
    }

    struct Garbage;

    impl Read for Garbage {
        fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Value>, LedgerError> {
            Ok(Some(Value::from("{".as_bytes())))
        }
    }

    #[test]
    fn failed_read_is_distinguished_from_undecodable_row() {
        assert!(matches!(Gone.row::<String>(Space::Events, &[]), Err(LedgerError::Timeout)));
        let Err(LedgerError::Corrupt(Corruption::Row { space, .. })) = Garbage.row::<String>(Space::Events, &[]) else {
            panic!("it is not corrupt")
        };
        assert_eq!(space, "events");
    }
}
