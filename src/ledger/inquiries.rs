//! Status inquiries about unknown and pending records: which are due, and their state.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::Status;

use super::due_index::{LATEST_DUE, after, is_urgent, patient_share};
use super::error::LedgerError;
use super::ids::{millis, millis_at};
use super::records::{Inquiry, Record, RecordId};
use super::rows::{PaymentRow, Target, TrackedRow};
use super::rules;
use super::schedule::Schedule;
use super::timeline::{self, TimelineEvent};
use super::transaction::{Read, Transaction, report_unreadable};

/// Implements [`Ledger::save_inquiry`](super::Ledger::save_inquiry).
pub(super) fn save_inquiry(
    tx: &mut Transaction<'_>,
    subject: &RecordId,
    loaded: &Inquiry,
    next: Option<Inquiry>,
) -> Result<bool, LedgerError> {
    let Some(mut target) = Target::find(tx, subject)? else { return Ok(false) };
    let is_success = target.status() == Status::Succeeded;
    // The inquiry may have ended while the provider was queried.
    let Some(known) = target.inquiry() else { return Ok(false) };
    // The record has succeeded while the provider was queried, or another close requires new confirmations. What was
    // loaded before must neither be sent nor saved.
    if is_success && (loaded.confirmations, loaded.closing) != (known.confirmations, known.closing) {
        return Ok(false);
    }
    // A close or a notification that made the record due meanwhile stays, and so does a confirmation that arrived.
    let (closing, confirmed, due) = (known.closing, known.confirmed, known.due);
    let is_rescheduled = due != loaded.due;
    *target.inquiry() = next.map(|next| Inquiry {
        closing: next.closing || closing,
        confirmed: next.confirmed || confirmed,
        due: if is_rescheduled { due.min(next.due) } else { next.due },
        ..next
    });
    target.save(tx)?;
    Ok(true)
}

/// Schedules the inquiry after an unclear close: the provider is queried, and an open order is closed again. The
/// payment's status stays until then. A payment that succeeded meanwhile may have been reversed by the close, so it
/// is queried too.
pub(super) fn after_close(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let status = payment.row.payment.status;
    if status.is_final() && status != Status::Succeeded {
        return Ok(());
    }
    if status == Status::Succeeded {
        payment.row.payment.inquiry = Some(rules::confirmation(now));
        return payment.save(tx);
    }
    let inquiry = payment.row.payment.inquiry.get_or_insert_with(|| Inquiry::new(now));
    inquiry.due = inquiry.due.min(now);
    if !std::mem::replace(&mut inquiry.closing, true) {
        timeline::add(tx, payment.id, None, TimelineEvent::CloseScheduled, now)?;
    }
    payment.save(tx)
}

/// Returns keys of due inquiries, except those of `busy` channels. Urgent ones come first, each group by due time,
/// then those that a wrong clock wrote. A quarter is reserved for inquiries that can wait.
pub(super) fn due(schedule: &Schedule, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Vec<u8>> {
    let is_busy = |group: &[u8]| group.get(1..).is_some_and(|channel| busy.iter().any(|it| it.as_bytes() == channel));
    let (mut urgent, mut patient) = (Vec::new(), Vec::new());
    for (group, keys) in schedule.inquiries.groups().filter(|(group, _)| !is_busy(group)) {
        let due = keys.iter().take_while(|key| millis_at(key) <= millis(now));
        let misdated = keys.range(after(now, LATEST_DUE)..);
        let kind = if is_urgent(group) { &mut urgent } else { &mut patient };
        kind.extend(due.chain(misdated).take(limit));
    }
    urgent.sort();
    patient.sort();
    urgent.truncate(limit - patient.len().min(patient_share(limit)));
    // Keys of this space also name their records after eight bytes.
    let future = schedule.unknown.range(after(now, MAX_FUTURE_START)..).map(|(key, _)| key);
    let mut keys: Vec<_> = urgent.into_iter().chain(patient).take(limit).cloned().collect();
    let is_listed = |name: &[u8]| keys.iter().any(|key| key.get(8..) == Some(name));
    let future: Vec<_> = future.filter(|key| key.get(8..).is_some_and(|name| !is_listed(name))).cloned().collect();
    keys.extend(future);
    keys.truncate(limit);
    keys
}

/// Records that became unknown later than this were written by a wrong clock.
const MAX_FUTURE_START: SignedDuration = SignedDuration::from_mins(1);

/// Returns the records of these keys. A record that cannot be read does not block the others.
pub(super) fn records(from: &impl Read, due: &[Vec<u8>]) -> Vec<Record> {
    let record = |key: &Vec<u8>| match Target::listed(from, key) {
        Ok(target) => target.and_then(|mut target| target.inquiry().is_some().then(|| target.record())),
        Err(error) => {
            report_unreadable(&error, "a record with a due inquiry");
            None
        }
    };
    due.iter().filter_map(record).collect()
}
