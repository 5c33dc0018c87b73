//! Status inquiries about unknown and pending records: which are due, and their state.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::Status;

use super::ids::{millis, millis_at, time};
use super::jobs;
use super::records::{Backlog, Inquiry, LedgerError, Record, RecordId};
use super::rows::{PaymentRow, Target, TrackedRow};
use super::schedule::Schedule;
use super::timeline::{self, TimelineEvent};
use super::transaction::{Read, Transaction, Watched};

/// Implements [`Ledger::save_inquiry`](super::Ledger::save_inquiry).
pub(super) fn save_inquiry(
    tx: &mut Transaction<'_>,
    subject: &RecordId,
    search: Option<Inquiry>,
) -> Result<bool, LedgerError> {
    let Some(mut target) = Target::find(tx, subject)? else { return Ok(false) };
    // The inquiry may have ended while the provider was queried.
    let Some(known) = target.search() else { return Ok(false) };
    // A close that was requested meanwhile stays scheduled, and a confirmation that arrived meanwhile is kept.
    let (closing, confirmed) = (known.closing, known.confirmed);
    *target.search() = search.map(|search| Inquiry {
        closing: search.closing || closing,
        confirmed: search.confirmed || confirmed,
        ..search
    });
    target.save(tx)?;
    Ok(true)
}

/// Schedules the inquiry after an unclear close: the provider is queried, and an open order is closed again. The
/// payment's status stays until then. A final record needs no inquiry.
pub(super) fn after_close(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let status = payment.row.payment.status;
    if status.is_final() && status != Status::Succeeded {
        return Ok(());
    }
    let search = payment.row.payment.search.get_or_insert_with(|| Inquiry::new(now));
    search.due = search.due.min(now);
    if !std::mem::replace(&mut search.closing, true) && !status.is_final() {
        timeline::add(tx, payment.id, None, TimelineEvent::CloseScheduled, now)?;
    }
    payment.save(tx)
}

/// Bound on due times: a later due time was written by a wrong clock and counts as due now. The longest regular
/// delays are those of pending records (30 h) and of deliveries (27 h).
pub(super) const LATEST_DUE: SignedDuration = SignedDuration::from_hours(48);

/// First byte of the value of an inquiry that can wait. Any other value is urgent, including the empty one of older
/// versions.
pub(super) const PATIENT: u8 = 0;
const URGENT: u8 = 1;

/// Returns the value in the inquiry index: priority and channel.
pub(super) fn priority(is_urgent: bool, channel: &str) -> Vec<u8> {
    [&[if is_urgent { URGENT } else { PATIENT }], channel.as_bytes()].concat()
}

/// Returns whether a value of the inquiry index is urgent.
pub(super) fn is_urgent(value: &[u8]) -> bool {
    value.first() != Some(&PATIENT)
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
    let unborn = schedule.unknown.range(after(now, FUTURE)..).map(|(key, _)| key);
    let mut keys: Vec<_> = urgent.into_iter().chain(patient).take(limit).cloned().collect();
    let is_listed = |name: &[u8]| keys.iter().any(|key| key.get(8..) == Some(name));
    let unborn: Vec<_> = unborn.filter(|key| key.get(8..).is_some_and(|name| !is_listed(name))).cloned().collect();
    keys.extend(unborn);
    keys.truncate(limit);
    keys
}

/// Returns how many of `limit` are reserved for inquiries that can wait.
pub(super) fn patient_share(limit: usize) -> usize {
    limit / 4
}

/// Records that became unknown later than this were written by a wrong clock.
const FUTURE: SignedDuration = SignedDuration::from_mins(1);

/// Returns the first key whose time is `later` from now.
pub(super) fn after(now: Timestamp, later: SignedDuration) -> Vec<u8> {
    let bound = now.saturating_add(later).unwrap_or(Timestamp::MAX);
    millis(bound).saturating_add(1).to_be_bytes().to_vec()
}

/// Returns the records of these keys. A record that cannot be read does not block the others.
pub(super) fn records(from: &impl Read, due: &[Vec<u8>]) -> Vec<Record> {
    let from = Watched::new(from);
    let record = |key: &Vec<u8>| match Target::listed(&from, key) {
        Ok(target) => target.and_then(|mut target| target.search().is_some().then(|| target.record())),
        Err(error) => {
            from.report(&error, "a record with a due inquiry");
            None
        }
    };
    due.iter().filter_map(record).collect()
}

/// Implements [`Ledger::waiting`](super::Ledger::waiting).
pub(super) fn waiting(schedule: &Schedule) -> Backlog {
    Backlog {
        deliveries: u64::try_from(schedule.queued).unwrap_or(0),
        unknown: schedule.unknown.len() as u64,
        oldest_unknown: schedule.unknown.keys().next().map(|key| time(millis_at(key))),
        jobs: schedule.jobs.len() as u64,
        oldest_job: jobs::oldest(schedule),
    }
}
