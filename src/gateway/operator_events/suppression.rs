//! Suppresses repetitions, so that an outage is not a flood.
//!
//! - A repetition of the last event about a cause is suppressed for [`REPEAT_WINDOW`].
//! - A change of state, as from opened to closed, is sent at once, but at most [`MAX_CHANGES`] times in
//!   [`CHANGE_WINDOW`]. Then the last state is sent once the window ends, so the operator never keeps a wrong one.
//! - The next event about the cause says how many were suppressed. It is sent at the end of the window, even if nothing
//!   happens any more.
//! - [`MAX_PER_MINUTE`] bounds all events together. Those beyond it wait.
//! - Events about deliveries get half of these bounds. An outage of a shared broker has a cause for each merchant and sink, and
//!   must not delay the events about channels and payments.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tollgate_config::OperatorEventType;

use super::event::OperatorEvent;
use crate::telemetry::METRICS;

/// Time for which repetitions are suppressed.
const REPEAT_WINDOW: Duration = Duration::from_hours(1);
/// Time in which a state is reported at most [`MAX_CHANGES`] times.
const CHANGE_WINDOW: Duration = Duration::from_mins(10);
/// Maximum number of events about one cause in [`CHANGE_WINDOW`].
const MAX_CHANGES: usize = 2;
/// Maximum number of events in a minute.
const MAX_PER_MINUTE: usize = 60;
/// Maximum number of causes that are remembered.
const MAX_CAUSES: usize = 4096;
/// Maximum number of events about deliveries in a minute.
const MAX_DELIVERIES_PER_MINUTE: usize = MAX_PER_MINUTE / 2;
/// Maximum number of causes about deliveries that are remembered.
const MAX_DELIVERY_CAUSES: usize = MAX_CAUSES / 2;

/// Decides which events are sent, and when.
#[derive(Default)]
pub(crate) struct Suppressor {
    causes: HashMap<String, Cause>,
    /// Times of the events in the last minute, with whether they are about a delivery.
    sent: VecDeque<(Instant, bool)>,
}

struct Cause {
    /// Type of the last event that was sent, or of the first one.
    last: OperatorEventType,
    /// Times of the last events that were sent, at most [`MAX_CHANGES`].
    times: VecDeque<Instant>,
    /// Last event that was not sent, with the number of those before it.
    waiting: Option<OperatorEvent>,
}

impl Cause {
    fn new(event_type: OperatorEventType) -> Self {
        Self { last: event_type, times: VecDeque::new(), waiting: None }
    }

    /// Returns whether an event of this type may be sent.
    fn admits(&self, event_type: OperatorEventType, now: Instant) -> bool {
        let is_older = |time: Option<&Instant>, window| time.is_none_or(|time| now.duration_since(*time) >= window);
        match event_type == self.last {
            true => is_older(self.times.back(), REPEAT_WINDOW),
            false => self.times.len() < MAX_CHANGES || is_older(self.times.front(), CHANGE_WINDOW),
        }
    }

    fn sent(&mut self, event_type: OperatorEventType, now: Instant) {
        self.last = event_type;
        self.times.push_back(now);
        if self.times.len() > MAX_CHANGES {
            self.times.pop_front();
        }
    }
}

impl Suppressor {
    /// Returns the event if it is to be sent now. Otherwise it waits, or is replaced by the next one about its cause.
    pub(crate) fn admit(&mut self, mut event: OperatorEvent, now: Instant) -> Option<OperatorEvent> {
        let (key, has_room) = (event.cause(), self.has_room(event.event_type, now));
        if !self.causes.contains_key(&key) && !self.has_room_for_cause(event.event_type) {
            count(&event, "dropped");
            return None;
        }
        let cause = self.causes.entry(key).or_insert_with(|| Cause::new(event.event_type));
        if let Some(earlier) = cause.waiting.take() {
            count(&earlier, "suppressed");
            event.supersede(earlier);
        }
        if !has_room || !cause.admits(event.event_type, now) {
            cause.waiting = Some(event);
            return None;
        }
        cause.sent(event.event_type, now);
        self.sent.push_back((now, is_about_delivery(event.event_type)));
        Some(event)
    }

    /// Returns the waiting events whose window is over, those about deliveries last. Forgets causes without an event for long.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<OperatorEvent> {
        let mut due = Vec::new();
        self.causes.retain(|_, cause| {
            if cause.waiting.as_ref().is_some_and(|event| cause.admits(event.event_type, now)) {
                due.extend(cause.waiting.take());
                return true;
            }
            cause.waiting.is_some() || cause.times.back().is_some_and(|last| now.duration_since(*last) < REPEAT_WINDOW)
        });
        due.sort_by_key(|event| is_about_delivery(event.event_type));
        due.into_iter().filter_map(|event| self.admit(event, now)).collect()
    }

    fn has_room(&mut self, event_type: OperatorEventType, now: Instant) -> bool {
        while self.sent.front().is_some_and(|(time, _)| now.duration_since(*time) >= Duration::from_mins(1)) {
            self.sent.pop_front();
        }
        let deliveries = || self.sent.iter().filter(|(_, is_about_delivery)| *is_about_delivery).count();
        self.sent.len() < MAX_PER_MINUTE && (!is_about_delivery(event_type) || deliveries() < MAX_DELIVERIES_PER_MINUTE)
    }

    fn has_room_for_cause(&self, event_type: OperatorEventType) -> bool {
        let deliveries = || self.causes.values().filter(|cause| is_about_delivery(cause.last)).count();
        self.causes.len() < MAX_CAUSES && (!is_about_delivery(event_type) || deliveries() < MAX_DELIVERY_CAUSES)
    }
}

fn is_about_delivery(event_type: OperatorEventType) -> bool {
    use OperatorEventType::{DeliveryExhausted, DeliveryFailing, DeliveryRecovered};
    matches!(event_type, DeliveryFailing | DeliveryExhausted | DeliveryRecovered)
}

fn count(event: &OperatorEvent, result: &str) {
    METRICS.operator_events_total.with_label_values(&[event.event_type.name(), result]).inc();
}

#[cfg(test)]
mod tests {
    use super::super::event::Details;
    use super::*;

    fn event(event_type: OperatorEventType, channel: &str, order_id: &str) -> OperatorEvent {
        let (channel, order_id) = (channel.to_owned(), order_id.to_owned());
        OperatorEvent::new(event_type, Details { channel, order_id, ..Details::default() })
    }

    fn summaries(events: &[OperatorEvent]) -> Vec<(&'static str, u64)> {
        events.iter().map(|event| (event.event_type.name(), event.details.suppressed)).collect()
    }

    /// Admits an event every second for so long, and returns what is sent.
    fn flapping(suppressor: &mut Suppressor, start: Instant, seconds: u64) -> Vec<OperatorEvent> {
        let mut sent = Vec::new();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            let types = [OperatorEventType::BreakerOpened, OperatorEventType::BreakerClosed];
            sent.extend(suppressor.due(now));
            sent.extend(suppressor.admit(event(types[second as usize % 2], "a", ""), now));
        }
        sent
    }

    #[test]
    fn ten_thousand_events_of_one_cause_are_one_and_a_count_with_the_orders() {
        let (mut suppressor, start) = (Suppressor::default(), Instant::now());
        let sent: Vec<_> = (0..10_000)
            .filter_map(|number| {
                let exhausted = event(OperatorEventType::DeliveryExhausted, "a", &format!("o-{number}"));
                suppressor.admit(exhausted, start + Duration::from_millis(number))
            })
            .collect();
        assert_eq!(summaries(&sent), [("delivery.exhausted", 0)]);
        assert_eq!(suppressor.due(start + REPEAT_WINDOW - Duration::from_secs(1)), []);
        let summary = suppressor.due(start + REPEAT_WINDOW);
        assert_eq!(summaries(&summary), [("delivery.exhausted", 9998)], "and the event itself");
        assert_eq!(summary[0].details.order_id, "o-9999");
        let orders = &summary[0].details.suppressed_order_ids;
        assert_eq!((orders.len(), orders[0].as_str(), orders[99].as_str()), (100, "o-1", "o-100"));
        assert_eq!(suppressor.due(start + 2 * REPEAT_WINDOW), [], "nothing is left");
        assert!(suppressor.causes.is_empty(), "and the cause is forgotten");
    }

    #[test]
    fn other_causes_are_reported_at_once() {
        let (mut suppressor, now) = (Suppressor::default(), Instant::now());
        for channel in ["a", "b"] {
            assert!(suppressor.admit(event(OperatorEventType::BreakerOpened, channel, ""), now).is_some());
            assert!(suppressor.admit(event(OperatorEventType::BreakerOpened, channel, ""), now).is_none());
            assert!(suppressor.admit(event(OperatorEventType::ProbeFailed, channel, ""), now).is_some());
        }
    }

    #[test]
    fn flapping_breaker_sends_a_bounded_number_and_its_last_state_in_the_end() {
        let (mut suppressor, start) = (Suppressor::default(), Instant::now());
        let sent = flapping(&mut suppressor, start, 3600);
        assert!((3..=12).contains(&sent.len()), "{:?}", summaries(&sent));
        assert_eq!(summaries(&sent)[..2], [("channel.breaker_opened", 0), ("channel.breaker_closed", 0)]);
        let suppressed: u64 = sent.iter().map(|event| event.details.suppressed).sum();
        let end = start + Duration::from_secs(3600);
        // The last of the 3,600 events says that it is closed.
        let rest: Vec<_> = (0..=120).flat_map(|minute| suppressor.due(end + Duration::from_mins(minute))).collect();
        let last = rest.last().or(sent.last()).map(|event| event.event_type);
        assert_eq!(last, Some(OperatorEventType::BreakerClosed));
        let rest_suppressed: u64 = rest.iter().map(|event| event.details.suppressed).sum();
        assert_eq!(sent.len() as u64 + suppressed + rest.len() as u64 + rest_suppressed, 3600, "none is uncounted");
    }

    #[test]
    fn state_that_differs_from_the_last_report_is_reported_when_the_window_ends() {
        let (mut suppressor, start) = (Suppressor::default(), Instant::now());
        let sent = flapping(&mut suppressor, start, 3);
        assert_eq!(sent.len(), 2, "opened, closed; opened again is suppressed");
        assert_eq!(suppressor.due(start + CHANGE_WINDOW - Duration::from_secs(1)), []);
        assert_eq!(summaries(&suppressor.due(start + CHANGE_WINDOW)), [("channel.breaker_opened", 0)]);
    }

    #[test]
    fn all_events_together_are_bounded_per_minute() {
        let (mut suppressor, start) = (Suppressor::default(), Instant::now());
        let mut admit = |number: u64, now| {
            suppressor.admit(event(OperatorEventType::ProbeFailed, &number.to_string(), ""), now).is_some()
        };
        assert_eq!((0..1000).filter(|number| admit(*number, start)).count(), MAX_PER_MINUTE);
        assert!(suppressor.due(start + Duration::from_secs(59)).is_empty());
        let later: Vec<_> = (1..60).map(|minute| suppressor.due(start + Duration::from_mins(minute)).len()).collect();
        assert_eq!((later[0], later.iter().sum::<usize>()), (MAX_PER_MINUTE, 1000 - MAX_PER_MINUTE), "none is lost");
    }

    #[test]
    fn outage_of_all_sinks_leaves_room_for_other_events_and_delays_none() {
        let (mut suppressor, start) = (Suppressor::default(), Instant::now());
        let failing = |number: usize| {
            let merchant = format!("m-{number}");
            OperatorEvent::new(OperatorEventType::DeliveryFailing, Details { merchant, ..Details::default() })
        };
        let sent = (0..MAX_CAUSES).filter(|number| suppressor.admit(failing(*number), start).is_some()).count();
        assert_eq!((sent, suppressor.causes.len()), (MAX_DELIVERIES_PER_MINUTE, MAX_DELIVERY_CAUSES));
        let channels = 0..MAX_PER_MINUTE;
        let opened = |number: usize| event(OperatorEventType::BreakerOpened, &number.to_string(), "");
        let sent = channels.clone().filter(|number| suppressor.admit(opened(*number), start).is_some()).count();
        assert_eq!(sent, MAX_PER_MINUTE - MAX_DELIVERIES_PER_MINUTE);
        let due = suppressor.due(start + Duration::from_mins(1));
        let types: Vec<_> = due.iter().map(|event| event.event_type).collect();
        let half = MAX_PER_MINUTE / 2;
        assert!(types[..half].iter().all(|event_type| *event_type == OperatorEventType::BreakerOpened), "{types:?}");
        assert!(types[half..].iter().all(|event_type| *event_type == OperatorEventType::DeliveryFailing), "{types:?}");
        assert_eq!(types.len(), MAX_PER_MINUTE);
    }

    #[test]
    fn number_of_remembered_causes_is_bounded() {
        let (mut suppressor, start) = (Suppressor::default(), Instant::now());
        for number in 0..2 * MAX_CAUSES as u64 {
            let now = start + Duration::from_secs(number);
            drop(suppressor.admit(event(OperatorEventType::ProbeFailed, &number.to_string(), ""), now));
        }
        assert_eq!(suppressor.causes.len(), MAX_CAUSES);
        for hour in 3..9 {
            suppressor.due(start + hour * REPEAT_WINDOW);
        }
        assert!(suppressor.causes.is_empty());
    }
}
