//! Operator events about the merchants' sinks: which of them fail, and which events were given up.

use std::collections::HashMap;

use parking_lot::Mutex;
use tollgate_config::OperatorEventType;
use tollgate_ledger::{Delivery, merchants_order_id};

use super::decision::Decision;
use crate::operator_events::{Details, OperatorEvent};

/// Number of failed attempts in a row after which a sink counts as failing.
const FAILING_AFTER: u32 = 4;

/// Failed attempts in a row by [subscription](tollgate_ledger::SinkName::subscription). A sink without failures has no entry.
#[derive(Default)]
pub(super) struct SinkHealth(Mutex<HashMap<String, u32>>);

impl SinkHealth {
    /// Counts an attempt. Returns events if its sink began or ceased to fail, or if the event was given up.
    pub(super) fn after(&self, delivery: &Delivery, decision: Decision, reason: Option<&str>) -> Vec<OperatorEvent> {
        let subject = &delivery.event.subject;
        let sink = Details {
            cause: reason.unwrap_or_default().to_owned(),
            merchant: subject.merchant.clone(),
            sink: delivery.sink.as_str().to_owned(),
            ..Details::default()
        };
        let mut events = Vec::new();
        if decision == Decision::GiveUp {
            let details = Details {
                order_id: merchants_order_id(&subject.order_id).to_owned(),
                refund_id: subject.refund_id.clone(),
                event_id: delivery.event.id.clone(),
                ..sink.clone()
            };
            events.push(OperatorEvent::new(OperatorEventType::DeliveryExhausted, details));
        }
        let mut failures = self.0.lock();
        let subscription = delivery.sink.subscription(&subject.merchant);
        match decision {
            Decision::Delivered => {
                if let Some(count) = failures.remove(&subscription).filter(|count| *count >= FAILING_AFTER) {
                    let cause = format!("An event was delivered after {count} failed attempts in a row.");
                    let recovered = Details { cause, ..sink };
                    events.push(OperatorEvent::new(OperatorEventType::DeliveryRecovered, recovered));
                }
            }
            // The sink gets no events any more.
            Decision::NoWebhook | Decision::Discarded => drop(failures.remove(&subscription)),
            Decision::GiveUp | Decision::Again(_) | Decision::Defer(_) => {
                let count = failures.entry(subscription).or_default();
                *count = count.saturating_add(1);
                if *count == FAILING_AFTER {
                    events.push(OperatorEvent::new(OperatorEventType::DeliveryFailing, sink));
                }
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tollgate_ledger::SinkName;

    use super::super::testing::delivery;
    use super::*;

    fn told(health: &SinkHealth, sink: &str, decision: Decision) -> Vec<&'static str> {
        let delivery = tollgate_ledger::Delivery { sink: SinkName::from(sink), ..delivery(Timestamp::UNIX_EPOCH) };
        let events = health.after(&delivery, decision, Some("it answered 500"));
        events.iter().map(|event| event.event_type.name()).collect()
    }

    #[test]
    fn fourth_failure_in_a_row_and_the_next_success_are_told_once() {
        let (health, failed) = (SinkHealth::default(), Decision::Again(5));
        for _ in 0..2 {
            for _ in 0..3 {
                assert!(told(&health, "mq", failed).is_empty());
            }
            assert!(told(&health, "mq", Decision::Delivered).is_empty(), "three were not enough");
        }
        let told_while_failing: Vec<_> = (0..50).flat_map(|_| told(&health, "mq", failed)).collect();
        assert_eq!(told_while_failing, ["delivery.failing"]);
        assert!(told(&health, "webhook", Decision::Delivered).is_empty(), "another sink");
        assert_eq!(told(&health, "mq", Decision::GiveUp), ["delivery.exhausted"]);
        assert_eq!(told(&health, "mq", Decision::Delivered), ["delivery.recovered"]);
        assert!(told(&health, "mq", Decision::Delivered).is_empty());
        for _ in 0..4 {
            told(&health, "gone", Decision::Defer(60));
        }
        assert!(told(&health, "gone", Decision::Discarded).is_empty(), "it did not recover");
        assert!(health.0.lock().is_empty());
    }
}
