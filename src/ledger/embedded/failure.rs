//! Failure of a write, and whether free space repairs it.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::disk_space::DiskSpace;
use crate::error::{Cause, LedgerError};

/// Reason why a write failed.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    /// The disk was full, and all earlier writes are intact.
    pub(super) is_full: bool,
}

impl Failure {
    /// Classifies an error of the file system or of the tables.
    pub(super) fn of(error: impl Error + Send + Sync + 'static, disk_space: &DiskSpace) -> Self {
        let is_full = match (&error as &(dyn Error + 'static)).downcast_ref() {
            // A background thread of fjall met the error first; its kind is not reported.
            Some(fjall::Error::Poisoned) => !disk_space.has_reserve_now(),
            _ => is_disk_full_error(&error),
        };
        Self { cause: Arc::new(error), is_full }
    }

    /// Returns a failure that only a restart can repair.
    pub(super) fn permanent(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: Arc::from(cause.into()), is_full: false }
    }

    /// Returns the failure of a step that could not begin, because an earlier one had failed.
    pub(super) fn again(earlier: LedgerError) -> Self {
        let is_full = matches!(earlier, LedgerError::DiskFull { .. });
        match earlier {
            LedgerError::DiskFull { source: cause, .. } | LedgerError::SyncFailed { source: cause, .. } => {
                Self { cause, is_full }
            }
            other => Self { cause: Arc::new(other), is_full },
        }
    }

    /// Returns the error of every caller, once this step has failed.
    pub(super) fn at(self, step: &'static str) -> LedgerError {
        let Self { cause: source, is_full } = self;
        match is_full {
            true => LedgerError::DiskFull { step, source },
            false => LedgerError::SyncFailed { step, source },
        }
    }
}

/// Returns whether a full disk is the root cause.
fn is_disk_full_error(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref().map(io::Error::kind) {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => true,
        _ => error.source().is_some_and(is_disk_full_error),
    }
}
