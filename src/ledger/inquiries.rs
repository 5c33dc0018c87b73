//! The search for the truth about unknown outcomes: what is due, and how each search stands.

use jiff::{SignedDuration, Timestamp};

use super::ids::{millis, millis_at, time};
use super::jobs;
use super::records::{Backlog, Inquiry, LedgerError, Record, RecordId};
use super::rows::{PaymentRow, Target, TrackedRow};
use super::schedule::Schedule;
use super::timeline::{self, TimelineEvent};
use super::transaction::{Read, Transaction, Watched};

/// As [`Ledger::searched`](super::Ledger::searched).
pub(super) fn save_inquiry(
    tx: &mut Transaction<'_>,
    subject: &RecordId,
    search: Option<Inquiry>,
) -> Result<bool, LedgerError> {
    let Some(mut target) = Target::find(tx, subject)? else { return Ok(false) };
    // It may have ended while the provider was asked.
    let Some(known) = target.search() else { return Ok(false) };
    // A close that was asked for meanwhile is not forgotten, nor what was heard meanwhile.
    let (closing, confirmed) = (known.closing, known.confirmed);
    *target.search() = search.map(|search| Inquiry {
        closing: search.closing || closing,
        confirmed: search.confirmed || confirmed,
        ..search
    });
    target.save(tx)?;
    Ok(true)
}

/// Has an unclear close carried through: the provider is asked, and what is open is closed again. The payment's status
/// stays until then. What is final needs no search.
pub(super) fn after_close(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    if payment.row.payment.status.is_final() {
        return Ok(());
    }
    let search = payment.row.payment.search.get_or_insert_with(|| Inquiry::new(now));
    search.due = search.due.min(now);
    if !std::mem::replace(&mut search.closing, true) {
        timeline::add(tx, payment.id, None, TimelineEvent::CloseScheduled, now)?;
    }
    payment.save(tx)
}

/// A later due time than this was written by a clock that was wrong: what has it is due now. The longest pauses are those of
/// what is pending (30 hours) and of deliveries (27 hours).
pub(super) const LATEST_DUE: SignedDuration = SignedDuration::from_hours(48);

/// First byte of the value of a search that can wait. Any other value, also the empty one of older versions, is urgent.
pub(super) const PATIENT: u8 = 0;
const URGENT: u8 = 1;

/// Returns what the list of searches says of a record beside its due time: its priority and its channel.
pub(super) fn priority(is_urgent: bool, channel: &str) -> Vec<u8> {
    [&[if is_urgent { URGENT } else { PATIENT }], channel.as_bytes()].concat()
}

/// Whether a value of the list is that of an urgent search.
pub(super) fn is_urgent(value: &[u8]) -> bool {
    value.first() != Some(&PATIENT)
}

/// Keys of the searches that are due, none of the channels that are `busy`: the urgent ones first, of each kind the longest
/// due first, then those that a wrong clock has written. A quarter is left to those that can wait.
pub(super) fn due(schedule: &Schedule, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Vec<u8>> {
    let is_busy = |lane: &[u8]| lane.get(1..).is_some_and(|channel| busy.iter().any(|it| it.as_bytes() == channel));
    let (mut urgent, mut patient) = (Vec::new(), Vec::new());
    for (lane, keys) in schedule.searches.lanes().filter(|(lane, _)| !is_busy(lane)) {
        let due = keys.iter().take_while(|key| millis_at(key) <= millis(now));
        let misdated = keys.range(after(now, LATEST_DUE)..);
        let kind = if is_urgent(lane) { &mut urgent } else { &mut patient };
        kind.extend(due.chain(misdated).take(limit));
    }
    urgent.sort();
    patient.sort();
    urgent.truncate(limit - patient.len().min(patient_share(limit)));
    // These keys too name their records behind eight bytes.
    let unborn = schedule.unknown.range(after(now, FUTURE)..).map(|(key, _)| key);
    let mut keys: Vec<_> = urgent.into_iter().chain(patient).take(limit).cloned().collect();
    let is_listed = |name: &[u8]| keys.iter().any(|key| key.get(8..) == Some(name));
    let unborn: Vec<_> = unborn.filter(|key| key.get(8..).is_some_and(|name| !is_listed(name))).cloned().collect();
    keys.extend(unborn);
    keys.truncate(limit);
    keys
}

/// How many of `limit` are left to searches that can wait.
pub(super) fn patient_share(limit: usize) -> usize {
    limit / 4
}

/// What became unknown later than so long from now did so by a clock that was wrong.
const FUTURE: SignedDuration = SignedDuration::from_mins(1);

/// The first key that begins with a time so much later.
pub(super) fn after(now: Timestamp, later: SignedDuration) -> Vec<u8> {
    let bound = now.saturating_add(later).unwrap_or(Timestamp::MAX);
    millis(bound).saturating_add(1).to_be_bytes().to_vec()
}

/// The records behind them. One that cannot be read must not keep the others waiting.
pub(super) fn records(from: &impl Read, due: &[Vec<u8>]) -> Vec<Record> {
    let from = Watched::new(from);
    let record = |key: &Vec<u8>| match Target::listed(&from, key) {
        Ok(target) => target.and_then(|mut target| target.search().is_some().then(|| target.record())),
        Err(error) => {
            from.report(&error, "a record that is to be asked about");
            None
        }
    };
    due.iter().filter_map(record).collect()
}

/// As [`Ledger::waiting`](super::Ledger::waiting).
pub(super) fn waiting(schedule: &Schedule) -> Backlog {
    Backlog {
        deliveries: u64::try_from(schedule.queued).unwrap_or(0),
        unknown: schedule.unknown.len() as u64,
        oldest_unknown: schedule.unknown.keys().next().map(|key| time(millis_at(key))),
        jobs: schedule.jobs.len() as u64,
        oldest_job: jobs::oldest(schedule),
    }
}
