//! Record of the events that one sink of the merchant received.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::event_receiver::order_of;

/// An accepted event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AcceptedEvent {
    pub(super) id: String,
    pub(super) order: String,
    /// Order id for an event about the payment; order and refund id for an event about a refund.
    pub(super) subject: String,
    /// Version of the payment or refund in the event.
    pub(super) version: u64,
}

/// Digests of an event's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BodyDigest {
    /// SHA-256 of the body to the byte; `None` for an event that is part of a page.
    bytes: Option<[u8; 32]>,
    /// SHA-256 of the body's JSON with sorted keys.
    json: [u8; 32],
}

impl BodyDigest {
    fn differs(self, other: Self) -> bool {
        self.json != other.json || matches!((self.bytes, other.bytes), (Some(one), Some(another)) if one != another)
    }
}

/// Events that one sink received.
#[derive(Debug, Default)]
pub(super) struct SinkRecord {
    /// Accepted events in order of their first acceptance.
    accepted: Vec<AcceptedEvent>,
    /// Digest of each event's body at its first attempt, and whether the event was accepted.
    bodies: HashMap<String, (BodyDigest, bool)>,
    /// Number of acceptances after the first one of an event.
    repetitions: u64,
    /// Ids and bodies that differ from those of an earlier attempt.
    errors: Vec<String>,
}

impl SinkRecord {
    /// Records an attempt, whether or not the merchant accepts the event. `id` is the one beside the body.
    pub(super) fn attempt(&mut self, id: &str, body: &[u8]) {
        let event: Value = serde_json::from_slice(body).unwrap_or_default();
        self.seen(id, &event, Some(Sha256::digest(body).into()));
    }

    /// Records that the merchant has accepted an event. Returns whether this is its first acceptance.
    pub(super) fn accept(&mut self, event: &Value) -> bool {
        let id = event["id"].as_str().unwrap_or_default();
        self.seen(id, event, None);
        match self.bodies.get_mut(id) {
            Some((_, is_accepted)) if !*is_accepted => *is_accepted = true,
            _ => {
                self.repetitions += 1;
                return false;
            }
        }
        let (order, data) = (order_of(event), &event["data"]);
        let (subject, record) = match data["refund"]["refund_id"].as_str() {
            Some(refund) => (format!("{order}/{refund}"), &data["refund"]),
            None => (order.to_owned(), &data["payment"]),
        };
        let version = record["version"].as_u64().unwrap_or(0);
        self.accepted.push(AcceptedEvent { id: id.to_owned(), order: order.to_owned(), subject, version });
        true
    }

    /// Accepted events in order of their first acceptance.
    pub(super) fn accepted(&self) -> &[AcceptedEvent] {
        &self.accepted
    }

    /// Returns whether the event was accepted.
    pub(super) fn has(&self, id: &str) -> bool {
        self.bodies.get(id).is_some_and(|(_, is_accepted)| *is_accepted)
    }

    /// Number of acceptances after the first one of an event.
    pub(super) fn repetitions(&self) -> u64 {
        self.repetitions
    }

    /// Ids and bodies that differ from those of an earlier attempt.
    pub(super) fn errors(&self) -> &[String] {
        &self.errors
    }

    /// Returns whether both records have the event, with bodies that differ.
    pub(super) fn differs(&self, other: &Self, id: &str) -> bool {
        matches!((self.bodies.get(id), other.bodies.get(id)), (Some((one, _)), Some((another, _))) if one.differs(*another))
    }

    fn seen(&mut self, id: &str, event: &Value, bytes: Option<[u8; 32]>) {
        if id.is_empty() || event["id"] != id {
            self.errors.push(format!("an event with the id `{id}` has the body {event}"));
        }
        let digest = BodyDigest { bytes, json: Sha256::digest(event.to_string()).into() };
        match self.bodies.entry(id.to_owned()) {
            Entry::Vacant(entry) => drop(entry.insert((digest, false))),
            Entry::Occupied(entry) if entry.get().0.differs(digest) => {
                self.errors.push(format!("a later attempt of {id} has another body: {event}"));
            }
            Entry::Occupied(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attempt_with_another_id_or_body_is_an_error_and_a_repetition_is_none() {
        let event = |id: &str, version: u64| json!({"id": id, "type": "payment.succeeded", "data": {"payment": {"order_id": "o-1", "version": version}}});
        let first = event("evt_1", 3);
        let spaced = first.to_string().replace("\"type\":", "\"type\": ");
        for (attempts, expected) in [
            (vec![("evt_1", first.to_string()), ("evt_1", first.to_string())], 0),
            (vec![("evt_2", first.to_string())], 1),
            (vec![("", first.to_string())], 1),
            (vec![("evt_1", first.to_string()), ("evt_1", event("evt_1", 4).to_string())], 1),
            // The same JSON in other bytes.
            (vec![("evt_1", first.to_string()), ("evt_1", spaced)], 1),
        ] {
            let mut record = SinkRecord::default();
            attempts.iter().for_each(|(id, body)| record.attempt(id, body.as_bytes()));
            assert_eq!(record.errors().len(), expected, "{attempts:?}");
            assert!(!record.has("evt_1"), "an attempt is no acceptance");
        }
        let mut record = SinkRecord::default();
        record.attempt("evt_1", first.to_string().as_bytes());
        assert!(record.accept(&first) && !record.accept(&first));
        assert!(record.has("evt_1") && record.errors().is_empty());
        assert_eq!((record.accepted().len(), record.repetitions()), (1, 1));
    }
}
