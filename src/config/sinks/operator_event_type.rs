//! Types of events that the operator gets.

/// Type of an operator event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperatorEventType {
    /// A breaker rejects the calls of an operation on a channel.
    BreakerOpened,
    /// A breaker lets them pass again.
    BreakerClosed,
    /// A probe could not reach a host of a channel.
    ProbeFailed,
    /// A reload put a generation in force.
    ConfigApplied,
    /// A reload, or the start, found errors.
    ConfigRejected,
    /// An earlier generation came into force again.
    ConfigRolledBack,
    /// Several attempts in a row of one sink failed.
    DeliveryFailing,
    /// An event was given up.
    DeliveryExhausted,
    /// A failing sink has accepted an event.
    DeliveryRecovered,
    /// A payment or refund needs a person.
    ManualReview,
    /// A certificate expires soon.
    CertificateExpiring,
}

use self::OperatorEventType::*;

/// Every type with its name, and with the advice for events that have none of their own.
const TYPES: [(OperatorEventType, &str, &str); 11] = [
    (
        BreakerOpened,
        "channel.breaker_opened",
        "Find out from the cause whether the provider or the network fails; until probes succeed, payments use the route's \
         fallback or get 503.",
    ),
    (BreakerClosed, "channel.breaker_closed", "Nothing has to be done: the channel gets all calls again."),
    (
        ProbeFailed,
        "channel.probe_failed",
        "Correct what the cause names, because payments on this channel would fail; the probe is repeated.",
    ),
    (
        ConfigApplied,
        "config.applied",
        "Nothing has to be done, unless `needs_restart` names keys that take effect after a restart.",
    ),
    (ConfigRejected, "config.rejected", "Correct the named line, and run `tollgate check` before the next reload."),
    (ConfigRolledBack, "config.rolled_back", "Correct the files; they are read again when they change."),
    (
        DeliveryFailing,
        "delivery.failing",
        "Repair the destination, or tell the merchant to do so; the events wait and are retried.",
    ),
    (
        DeliveryExhausted,
        "delivery.exhausted",
        "Repair the destination, and let the merchant read the lost events with `GET /v1/events`.",
    ),
    (
        DeliveryRecovered,
        "delivery.recovered",
        "Nothing has to be done: waiting events are delivered at their next attempts.",
    ),
    (
        ManualReview,
        "payment.manual_review",
        "Compare the order with the provider's console; `tollgate explain ORDER` shows its history.",
    ),
    (CertificateExpiring, "certificate.expiring", "Order its successor in time, and configure both until the switch."),
];

impl OperatorEventType {
    /// Returns every type.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.into_iter().map(|(event_type, ..)| event_type)
    }

    /// Returns the name, as in `channel.breaker_opened`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Returns what the operator should do, in one sentence.
    pub fn advice(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> &'static (Self, &'static str, &'static str) {
        &TYPES[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_type_has_a_name_and_one_sentence_of_advice_of_its_own() {
        for (row, (event_type, name, advice)) in TYPES.into_iter().enumerate() {
            assert_eq!(event_type as usize, row, "{name}: the table has the order of the enum");
            assert!(name.contains('.') && name.len() <= crate::sinks::event_filter::MAX_TYPE, "{name}");
            let ends = advice.matches(". ").count() + usize::from(advice.ends_with('.'));
            assert!(advice.len() > 40 && ends == 1 && !advice.contains("  "), "{name}: {advice}");
        }
        let names: HashSet<_> = TYPES.iter().map(|(_, name, _)| name).collect();
        let advices: HashSet<_> = TYPES.iter().map(|(.., advice)| advice).collect();
        assert_eq!((names.len(), advices.len(), OperatorEventType::all().count()), (11, 11, 11));
    }
}
