//! Keys and values of the due indexes: inquiries, outbox and queue. Each key begins with a due time.

use jiff::{SignedDuration, Timestamp};

use crate::ids::{Id, millis};
use crate::records::{Job, SinkName};

/// Bound on due times: a later due time was written by a wrong clock and counts as due now. The longest regular
/// delays are those of pending records (30 h) and of deliveries (27 h).
pub(crate) const LATEST_DUE: SignedDuration = SignedDuration::from_hours(48);

/// First byte of the value of an inquiry that can wait. Any other value is urgent, including the empty one of older
/// versions.
pub(crate) const PATIENT: u8 = 0;

const URGENT: u8 = 1;

/// Returns the value in the inquiry index: priority and channel.
pub(crate) fn priority(is_urgent: bool, channel: &str) -> Vec<u8> {
    [&[if is_urgent { URGENT } else { PATIENT }], channel.as_bytes()].concat()
}

/// Returns whether a value of the inquiry index is urgent.
pub(crate) fn is_urgent(value: &[u8]) -> bool {
    value.first() != Some(&PATIENT)
}

/// Returns how many of `limit` are reserved for inquiries that can wait.
pub(crate) fn patient_share(limit: usize) -> usize {
    limit / 4
}

/// Returns the first key whose time is `later` from now.
pub(crate) fn after(now: Timestamp, later: SignedDuration) -> Vec<u8> {
    let bound = now.saturating_add(later).unwrap_or(Timestamp::MAX);
    millis(bound).saturating_add(1).to_be_bytes().to_vec()
}

/// Bound on due times of jobs. A later due time was written by a wrong clock.
pub(crate) const LATEST_DUE_JOB: SignedDuration = SignedDuration::from_mins(5);

/// Returns the subscription in the value of an outbox row: merchant and sink, as
/// [`SinkName::subscription`](crate::records::SinkName::subscription) writes them.
pub(crate) fn subscription_of_outbox(value: &[u8]) -> &str {
    std::str::from_utf8(value.get(20..).unwrap_or_default()).unwrap_or_default()
}

/// Flag of a redelivery, in the number of attempts that begins the value of an outbox row.
const REDELIVERY: u32 = 1 << 31;

/// Returns the number of attempts as the value of a redelivery's outbox row begins with it.
pub(crate) fn redelivery_tries(tries: u32) -> u32 {
    tries | REDELIVERY
}

/// Returns the number of attempts in the value of an outbox row, and whether the row is a redelivery.
pub(crate) fn tries_of_outbox(value: &[u8]) -> (u32, bool) {
    let tries = value.first_chunk().map_or(0, |tries| u32::from_be_bytes(*tries));
    (tries & !REDELIVERY, tries & REDELIVERY != 0)
}

/// Returns the key of an event in the outbox. The sink distinguishes rows of one event; it is left out for the webhook.
pub(crate) fn outbox_key(due: u64, event: Id, sink: &SinkName) -> Vec<u8> {
    [&due.to_be_bytes()[..], &queued_key(event, sink)].concat()
}

/// Returns the key under which an undelivered event is counted.
pub(crate) fn queued_key(event: Id, sink: &SinkName) -> Vec<u8> {
    let sink = if sink.is_webhook() { "" } else { sink.as_str() };
    [&event.0[..], sink.as_bytes()].concat()
}

/// Returns the sink in the key of an undelivered event.
pub(crate) fn sink_of_queued(key: &[u8]) -> SinkName {
    match std::str::from_utf8(key.get(16..).unwrap_or_default()) {
        Ok("") | Err(_) => SinkName::WEBHOOK,
        Ok(sink) => SinkName::from(sink),
    }
}

/// Returns the event in a key of the outbox.
pub(crate) fn event_of_outbox(key: &[u8]) -> Option<Id> {
    key.get(8..24).and_then(|event| Id::from_bytes(event).ok())
}

/// Returns the merchant of a running job; `None` if the row belongs to no job.
pub(crate) fn merchant_of_running(value: &[u8]) -> Option<&[u8]> {
    value.get(16..).filter(|merchant| !merchant.is_empty())
}

/// Returns the claim in a key of the queue.
pub(crate) fn claim_of(key: &[u8]) -> Option<Id> {
    key.get(8..).and_then(|claim| Id::from_bytes(claim).ok())
}

/// Returns the key of a job in the queue.
pub(crate) fn job_key(id: Id, job: &Job) -> Vec<u8> {
    [&millis(job.due).to_be_bytes()[..], &id.0].concat()
}
