//! Comparison of the events that the sinks received with those that the merchant pulled.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::sink_record::{AcceptedEvent, SinkRecord};

const MISSING: &str = "event missing in a sink";
const NOT_PULLED: &str = "event in a sink, not pulled";
const OUT_OF_ORDER: &str = "events out of order";
const DIFFERS: &str = "event with another id or body";
const PULLED_TWICE: &str = "event pulled twice";
const PULL_DIFFERS: &str = "pull in another order or number";

/// Every mismatch that the report counts.
pub(super) const EVENT_MISMATCHES: [&str; 6] = [MISSING, NOT_PULLED, OUT_OF_ORDER, DIFFERS, PULLED_TWICE, PULL_DIFFERS];

/// Result of a comparison.
#[derive(Debug, Default)]
pub(super) struct EventReport {
    /// Number of pulled events.
    pub(super) events: usize,
    /// Sinks with their numbers of accepted and of repeated events.
    pub(super) sinks: Vec<(&'static str, usize, u64)>,
    /// Number of mismatches by type.
    pub(super) mismatches: BTreeMap<&'static str, u64>,
    pub(super) errors: Vec<String>,
}

impl EventReport {
    /// Returns whether later deliveries may still correct every mismatch.
    pub(super) fn may_settle(&self) -> bool {
        self.mismatches.keys().all(|mismatch| [MISSING, NOT_PULLED, PULL_DIFFERS].contains(mismatch))
    }

    fn add(&mut self, mismatch: &'static str, error: String) {
        *self.mismatches.entry(mismatch).or_default() += 1;
        self.errors.push(format!("{mismatch}: {error}"));
    }
}

/// Compares the sinks with the events that the merchant pulled during the run. `reread` is a second pull from the
/// beginning after it.
pub(super) fn compare_events(
    pulled: &SinkRecord,
    reread: &SinkRecord,
    sinks: &[(&'static str, &SinkRecord)],
) -> EventReport {
    let mut report = EventReport { events: pulled.accepted().len(), ..EventReport::default() };
    let pulls = [("pull", pulled), ("second pull", reread)];
    for (name, pull) in pulls {
        if pull.repetitions() > 0 {
            report.add(PULLED_TWICE, format!("{} events by the {name}", pull.repetitions()));
        }
    }
    if !ids(pulled).eq(ids(reread)) {
        let at = ids(pulled).zip(ids(reread)).take_while(|(one, another)| one == another).count();
        let counts = (pulled.accepted().len(), reread.accepted().len());
        report.add(PULL_DIFFERS, format!("{} events, then {}; equal are the first {at}", counts.0, counts.1));
    }
    for (name, record) in pulls.into_iter().chain(sinks.iter().copied()) {
        for error in record.errors() {
            report.add(DIFFERS, format!("{name}: {error}"));
        }
        versions_grow(name, record, &mut report);
    }
    let sequences = by_order(pulled);
    for (name, sink) in sinks {
        report.sinks.push((name, sink.accepted().len(), sink.repetitions()));
        compare_ids(name, sink, pulled, &mut report);
        same_sequences(name, &sequences, sink, pulled, &mut report);
    }
    report
}

/// Finds events that only one of both has, and events with different bodies.
fn compare_ids(name: &str, sink: &SinkRecord, pulled: &SinkRecord, report: &mut EventReport) {
    for event in pulled.accepted() {
        if !sink.has(&event.id) {
            report.add(MISSING, format!("{name} lacks {} of {}", event.id, event.order));
        }
        if sink.differs(pulled, &event.id) {
            report.add(DIFFERS, format!("{name} got {} of {} with another body", event.id, event.order));
        }
    }
    for event in sink.accepted().iter().filter(|event| !pulled.has(&event.id)) {
        report.add(NOT_PULLED, format!("{name} has {} of {}", event.id, event.order));
    }
}

/// Finds orders whose events came in another order than they were pulled.
fn same_sequences(
    name: &str,
    pulled_by_order: &HashMap<&str, Vec<&str>>,
    sink: &SinkRecord,
    pulled: &SinkRecord,
    report: &mut EventReport,
) {
    for (order, received) in by_order(sink) {
        let received: Vec<&str> = received.into_iter().filter(|id| pulled.has(id)).collect();
        let known: HashSet<&str> = received.iter().copied().collect();
        let expected = pulled_by_order.get(order).into_iter().flatten().copied();
        let expected: Vec<&str> = expected.filter(|id| known.contains(id)).collect();
        if received != expected {
            report.add(OUT_OF_ORDER, format!("{name} got {received:?} of {order}, pulled were {expected:?}"));
        }
    }
}

/// Finds payments and refunds whose version is lower in a later event.
fn versions_grow(name: &str, record: &SinkRecord, report: &mut EventReport) {
    let mut last: HashMap<&str, &AcceptedEvent> = HashMap::new();
    for event in record.accepted() {
        match last.insert(&event.subject, event) {
            Some(earlier) if earlier.version > event.version => {
                let (first, second) = ((&earlier.id, earlier.version), (&event.id, event.version));
                report.add(OUT_OF_ORDER, format!("{name} got {first:?} and then {second:?} of {}", event.subject));
            }
            _ => {}
        }
    }
}

fn ids(record: &SinkRecord) -> impl Iterator<Item = &str> {
    record.accepted().iter().map(|event| event.id.as_str())
}

/// Returns the event ids of each order, in order of their first acceptance.
fn by_order(record: &SinkRecord) -> HashMap<&str, Vec<&str>> {
    let mut orders: HashMap<&str, Vec<&str>> = HashMap::new();
    for event in record.accepted() {
        orders.entry(&event.order).or_default().push(&event.id);
    }
    orders
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns event number `number` of the order `o-1`; its version is the number.
    fn event(number: u64) -> Value {
        json!({"id": format!("evt_{number}"), "data": {"payment": {"order_id": "o-1", "version": number}}})
    }

    fn record(events: &[Value]) -> SinkRecord {
        let mut record = SinkRecord::default();
        for event in events {
            record.accept(event);
        }
        record
    }

    /// Compares a sink with a pull, repeated equally. Returns the mismatches and whether they may settle.
    fn compared(pulled: &[Value], sink: &[Value]) -> (Vec<&'static str>, bool) {
        let report = compare_events(&record(pulled), &record(pulled), &[("sink", &record(sink))]);
        (report.mismatches.keys().copied().collect(), report.may_settle())
    }

    #[test]
    fn event_that_a_sink_lacks_or_got_late_or_changed_is_a_mismatch() {
        let all = [event(1), event(2), event(3)];
        let mut other = event(2);
        other["type"] = "payment.failed".into();
        for (sink, expected, may_settle) in [
            (vec![event(1), event(2), event(3)], &[][..], true),
            // A repetition of an older event is allowed.
            (vec![event(1), event(2), event(1), event(3), event(2)], &[], true),
            (vec![event(1), event(2)], &[MISSING], true),
            (vec![event(1), event(3)], &[MISSING], true),
            (vec![event(1), event(3), event(2)], &[OUT_OF_ORDER], false),
            (vec![event(1), event(2), event(3), event(4)], &[NOT_PULLED], true),
            (vec![event(1), other, event(3)], &[DIFFERS], false),
        ] {
            assert_eq!(compared(&all, &sink), (expected.to_vec(), may_settle), "{sink:?}");
        }
    }

    #[test]
    fn order_is_compared_within_each_payment_and_version_within_payment_and_refund() {
        let of = |id: &str, data: Value| json!({"id": id, "data": data});
        let paid = of("evt_1", json!({"payment": {"order_id": "a", "version": 5}}));
        let refund = of("evt_2", json!({"refund": {"order_id": "a", "refund_id": "r", "version": 1}}));
        let other = of("evt_3", json!({"payment": {"order_id": "b", "version": 1}}));
        let [all, moved, swapped] = [
            [&paid, &refund, &other].map(Clone::clone),
            [&other, &paid, &refund].map(Clone::clone),
            [&refund, &paid, &other].map(Clone::clone),
        ];
        assert_eq!(compared(&all, &moved), (vec![], true), "payments are independent");
        assert_eq!(compared(&all, &swapped), (vec![OUT_OF_ORDER], false), "a refund comes after its payment");
    }

    #[test]
    fn pulled_events_must_be_each_once_and_equal_in_a_second_pull() {
        let (once, twice) = ([event(1), event(2)], [event(1), event(2), event(1)]);
        let mismatches = |pulled: &[Value], reread: &[Value]| {
            let report = compare_events(&record(pulled), &record(reread), &[]);
            report.mismatches.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(mismatches(&once, &once), [""; 0]);
        assert_eq!(mismatches(&once, &twice), [PULLED_TWICE]);
        assert_eq!(mismatches(&twice, &once), [PULLED_TWICE]);
        assert_eq!(mismatches(&once, &once[..1]), [PULL_DIFFERS]);
        assert_eq!(mismatches(&once, &[event(2), event(1)]), [OUT_OF_ORDER, PULL_DIFFERS]);
    }
}
