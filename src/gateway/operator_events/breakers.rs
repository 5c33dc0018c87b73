//! Watches the breakers. Breakers emit no events, because a payment must not wait for one. Their state and number of
//! transitions are read at intervals.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_config::OperatorEventType;
use tollgate_plugins::filter::BreakerStatus;
use tollgate_plugins::payment::Kind;

use super::event::{Details, OperatorEvent};
use crate::snapshot::Snapshot;

/// Breakers as they were seen last, by channel, position of the filter, and operation.
#[derive(Default)]
pub(crate) struct BreakerWatch(BTreeMap<(String, usize, Kind), Seen>);

/// A breaker as it was seen last.
#[derive(Clone, Copy, Default)]
struct Seen {
    transitions: u64,
    /// True from an opening until the next closing, half open included.
    is_open: bool,
}

impl BreakerWatch {
    /// Returns an event for each breaker that opened or closed since the last call. Forced states are not
    /// reported.
    pub(crate) fn changes(&mut self, snapshot: &Snapshot) -> Vec<OperatorEvent> {
        self.0.retain(|(channel, ..), _| snapshot.channels.contains_key(channel));
        let mut events = Vec::new();
        for channel in snapshot.channels.values() {
            for (position, filter) in channel.filters.iter().enumerate() {
                for status in filter.statuses(Duration::ZERO).iter().filter(|status| status.transitions > 0) {
                    let seen = self.0.entry((channel.name.clone(), position, status.operation)).or_default();
                    events.extend(seen.changes(&channel.name, status));
                }
            }
        }
        events
    }
}

impl Seen {
    fn changes(&mut self, channel: &str, status: &BreakerStatus) -> Vec<OperatorEvent> {
        let before =
            std::mem::replace(self, Self { transitions: status.transitions, is_open: status.state != "closed" });
        if before.transitions == self.transitions {
            return Vec::new();
        }
        use OperatorEventType::{BreakerClosed, BreakerOpened};
        let types: &[_] = match (before.is_open, self.is_open) {
            (false, true) => &[BreakerOpened],
            (true, false) => &[BreakerClosed],
            // Only an opening can change a closed breaker.
            (false, false) => &[BreakerOpened, BreakerClosed],
            (true, true) => &[],
        };
        let details = Details {
            cause: status.reason.clone(),
            channel: channel.to_owned(),
            operation: status.operation.as_str().to_owned(),
            ..Details::default()
        };
        types.iter().map(|event_type| OperatorEvent::new(*event_type, details.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(seen: &mut Seen, state: &'static str, transitions: u64) -> Vec<&'static str> {
        let status = BreakerStatus {
            operation: Kind::Pay,
            state,
            forced: None,
            forced_for: None,
            transitions,
            reason: "9 of 10 calls failed".to_owned(),
        };
        seen.changes("main", &status).iter().map(|event| event.event_type.name()).collect()
    }

    #[test]
    fn opening_and_closing_are_reported_once_each_and_probes_never() {
        let mut seen = Seen::default();
        for (state, transitions, expected) in [
            ("closed", 0, &[][..]),
            ("open", 1, &["channel.breaker_opened"]),
            ("open", 1, &[]),
            ("half_open", 2, &[]),
            ("open", 3, &[]),
            ("half_open", 6, &[]),
            ("closed", 7, &["channel.breaker_closed"]),
            ("closed", 7, &[]),
            // It opened and closed between two looks.
            ("closed", 10, &["channel.breaker_opened", "channel.breaker_closed"]),
            ("half_open", 12, &["channel.breaker_opened"]),
        ] {
            assert_eq!(emitted(&mut seen, state, transitions), expected, "{state} {transitions}");
        }
    }
}
