//! Operator events about the merchants' sinks: which of them fail, and which events were given up.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tollgate_config::OperatorEventType;
use tollgate_ledger::{Delivery, merchants_order_id};

use super::decision::Decision;
use crate::operator_events::{Details, OperatorEvent};

/// Number of failed attempts in a row after which a sink counts as failing, if the first was long enough ago.
const FAILING_AFTER: u32 = 4;
/// Minimum time since the first of these attempts. Attempts are parallel, so a short interruption fails many at once.
const FAILING_FOR: Duration = Duration::from_secs(30);

/// Failed attempts in a row by [subscription](tollgate_ledger::SinkName::subscription). A sink without failures has no entry.
#[derive(Default)]
pub(super) struct SinkHealth(Mutex<HashMap<String, Failures>>);

struct Failures {
    count: u32,
    since: Instant,
    is_reported: bool,
}

impl SinkHealth {
    /// Counts an attempt. Returns events if its sink began or ceased to fail, or if the event was given up.
    /// A deferred attempt is neither a failure nor a success.
    pub(super) fn after(&self, delivery: &Delivery, decision: Decision, reason: Option<&str>) -> Vec<OperatorEvent> {
        self.after_at(delivery, decision, reason, Instant::now())
    }

    fn after_at(
        &self,
        delivery: &Delivery,
        decision: Decision,
        reason: Option<&str>,
        now: Instant,
    ) -> Vec<OperatorEvent> {
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
                if let Some(failures) = failures.remove(&subscription).filter(|failures| failures.is_reported) {
                    let cause = format!("An event was delivered after {} failed attempts in a row.", failures.count);
                    let recovered = Details { cause, ..sink };
                    events.push(OperatorEvent::new(OperatorEventType::DeliveryRecovered, recovered));
                }
            }
            // The sink gets no events any more.
            Decision::NoWebhook | Decision::Discarded => drop(failures.remove(&subscription)),
            Decision::Defer(_) => {}
            Decision::GiveUp | Decision::Again(_) => {
                let new = || Failures { count: 0, since: now, is_reported: false };
                let failures = failures.entry(subscription).or_insert_with(new);
                failures.count = failures.count.saturating_add(1);
                let is_failing =
                    failures.count >= FAILING_AFTER && now.saturating_duration_since(failures.since) >= FAILING_FOR;
                if is_failing && !failures.is_reported {
                    failures.is_reported = true;
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

    /// SinkHealth with a clock.
    struct Timed {
        health: SinkHealth,
        now: Instant,
    }

    impl Timed {
        /// Makes an attempt after so many seconds.
        fn emitted(&mut self, sink: &str, decision: Decision, seconds: u64) -> Vec<&'static str> {
            self.now += Duration::from_secs(seconds);
            let delivery = tollgate_ledger::Delivery { sink: SinkName::from(sink), ..delivery(Timestamp::UNIX_EPOCH) };
            let events = self.health.after_at(&delivery, decision, Some("it answered 500"), self.now);
            events.iter().map(|event| event.event_type.name()).collect()
        }
    }

    #[test]
    fn sink_that_fails_four_times_in_thirty_seconds_and_its_next_success_are_reported_once() {
        let mut sinks = Timed { health: SinkHealth::default(), now: Instant::now() };
        let (failed, none) = (Decision::Again(5), [""; 0]);
        for pause in [10, 1] {
            // Three failures are not enough, and neither are many in less than 30 s.
            for _ in 0..(if pause == 10 { 3 } else { 29 }) {
                assert_eq!(sinks.emitted("mq", failed, pause), none);
            }
            assert_eq!(sinks.emitted("mq", Decision::Delivered, 60), none);
        }
        let while_failing: Vec<_> = (0..50).flat_map(|_| sinks.emitted("mq", failed, 1)).collect();
        assert_eq!(while_failing, ["delivery.failing"]);
        assert_eq!(sinks.emitted("webhook", Decision::Delivered, 0), none, "another sink");
        assert_eq!(sinks.emitted("mq", Decision::GiveUp, 0), ["delivery.exhausted"]);
        assert_eq!(sinks.emitted("mq", Decision::Defer(60), 0), none);
        assert_eq!(sinks.emitted("mq", Decision::Delivered, 0), ["delivery.recovered"]);
        assert_eq!(sinks.emitted("mq", Decision::Delivered, 0), none);
        for _ in 0..50 {
            assert_eq!(sinks.emitted("gone", Decision::Defer(60), 60), none, "no attempt was made");
        }
        for _ in 0..4 {
            sinks.emitted("gone", failed, 60);
        }
        assert_eq!(sinks.emitted("gone", Decision::Discarded, 0), none, "it did not recover");
        assert!(sinks.health.0.lock().is_empty());
    }
}
