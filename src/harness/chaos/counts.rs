//! Counts of the faults of a run.

use std::collections::BTreeMap;

/// Number of injected faults by their name in the report.
pub(super) type FaultCounts = BTreeMap<&'static str, u64>;
