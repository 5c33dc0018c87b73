//! News on its way into the records: the change, what follows from it elsewhere, and the event, in one transaction.

use jiff::Timestamp;
use tollgate_plugins::payment::{Event as ProviderEvent, Status};

use super::outbox;
use super::records::{LedgerError, News, Record, Recorded, Subject};
use super::rows::{self, Kept, PaymentRow, RefundRow, Target, index};
use super::rules::{self, Change, Source};
use super::transaction::{Read, Space, Transaction};

/// As [`Ledger::apply`](super::Ledger::apply).
pub(super) fn apply(
    tx: &mut Transaction<'_>,
    subject: &Subject,
    news: &News,
    now: Timestamp,
) -> Result<Option<Record>, LedgerError> {
    let Some(mut target) = Target::find(tx, subject)? else { return Ok(None) };
    if hear(tx, &mut target, news, Source::Asked, now)?.mismatch {
        tell_mismatch(tx, &mut target, now)?;
    }
    Ok(Some(target.record()))
}

/// As [`Ledger::record`](super::Ledger::record).
pub(super) fn record(
    tx: &mut Transaction<'_>,
    channel: &str,
    event: &ProviderEvent,
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let Some(mut target) = named(tx, event)? else { return Ok(Recorded::UnknownOrder) };
    let seen_key = index("seen", &[channel, &event.id]);
    let seen = tx.bytes(Space::Seen, &seen_key.0)?;
    let agrees = target.channel() == channel && event.amount.is_none_or(|amount| amount == target.amount());
    if agrees && seen.as_deref() == Some(BELIEVED) {
        return Ok(Recorded::Duplicate);
    }
    let change = match &event.outcome {
        _ if !agrees => Change { mismatch: true, ..Change::default() },
        Some(outcome) => hear(tx, &mut target, &News::Outcome(outcome.clone()), Source::Told, now)?,
        // Each repetition starts the question anew: it may come to a provider whose books lag behind its news.
        None => {
            ask(tx, &mut target, now)?;
            return Ok(match target.status() {
                Status::Succeeded => Recorded::Duplicate,
                _ => Recorded::Applied(target.subject()),
            });
        }
    };
    if !change.mismatch {
        tx.put(Space::Seen, &seen_key.0, BELIEVED);
        return Ok(if change.changed { Recorded::Applied(target.subject()) } else { Recorded::Duplicate });
    }
    // Not believed, so not done with: the same news may come again and be right then. But it is told once only.
    if seen.is_none() {
        tx.put(Space::Seen, &seen_key.0, MISMATCHED);
        tell_mismatch(tx, &mut target, now)?;
    }
    Ok(Recorded::Mismatch(target.subject()))
}

/// The news is no proof by itself: the provider is asked, now. Money that moved needs no second word.
fn ask(tx: &mut Transaction<'_>, target: &mut Target, now: Timestamp) -> Result<(), LedgerError> {
    if target.status() == Status::Succeeded {
        return Ok(());
    }
    let search = target.search().get_or_insert_with(|| rules::new_search(now));
    search.due = search.due.min(now);
    target.save(tx)
}

const BELIEVED: &[u8] = b"believed";
const MISMATCHED: &[u8] = b"mismatched";

/// As [`Ledger::mismatch`](super::Ledger::mismatch).
pub(super) fn mismatch(tx: &mut Transaction<'_>, subject: &Subject, now: Timestamp) -> Result<(), LedgerError> {
    match Target::find(tx, subject)? {
        Some(mut target) => tell_mismatch(tx, &mut target, now),
        None => Ok(()),
    }
}

/// Lets a record hear news, saves it, and tells the merchant when its status changed. A mismatch is left to the caller.
pub(super) fn hear(
    tx: &mut Transaction<'_>,
    target: &mut Target,
    news: &News,
    source: Source,
    now: Timestamp,
) -> Result<Change, LedgerError> {
    match target {
        Target::Payment(kept) => hear_payment(tx, kept, news, source, now),
        Target::Refund(kept) => hear_refund(tx, kept, news, source, now),
    }
}

/// As [`hear`], for a payment.
pub(super) fn hear_payment(
    tx: &mut Transaction<'_>,
    kept: &mut Kept<PaymentRow>,
    news: &News,
    source: Source,
    now: Timestamp,
) -> Result<Change, LedgerError> {
    let change = rules::payment(&mut kept.row.payment, news, source, now);
    if let Some(kind) = change.became.and_then(rules::payment_event) {
        let data = Record::Payment(kept.row.payment.clone());
        outbox::tell(tx, kept, kind, rows::payment_subject(&kept.row.payment), data, now)?;
    }
    kept.save(tx)?;
    Ok(change)
}

/// As [`hear`], for a refund.
pub(super) fn hear_refund(
    tx: &mut Transaction<'_>,
    kept: &mut Kept<RefundRow>,
    news: &News,
    source: Source,
    now: Timestamp,
) -> Result<Change, LedgerError> {
    let change = rules::refund(&mut kept.row.refund, news, source, now);
    kept.save(tx)?;
    let Some(status) = change.became else { return Ok(change) };
    let Some(kind) = rules::refund_event(status) else { return Ok(change) };
    let refund = &kept.row.refund;
    let mut payment = Kept::<PaymentRow>::must(tx, kept.row.payment)?;
    if status == Status::Succeeded {
        let paid = &mut payment.row.payment;
        paid.refunded = paid.refunded.saturating_add(refund.amount.value);
        paid.version += 1;
        paid.updated_at = now;
    }
    let data = Record::Refund(refund.clone());
    outbox::tell(tx, &mut payment, kind, rows::refund_subject(refund), data, now)?;
    payment.save(tx)?;
    Ok(change)
}

/// Tells that somebody names another amount or channel, once per version of the record.
pub(super) fn tell_mismatch(tx: &mut Transaction<'_>, target: &mut Target, now: Timestamp) -> Result<(), LedgerError> {
    const KIND: &str = "payment.mismatch";
    let (subject, data) = (target.subject(), target.record());
    match target {
        Target::Payment(kept) => {
            let version = kept.row.payment.version;
            if kept.row.mismatch.replace(version) == Some(version) {
                return Ok(());
            }
            outbox::tell(tx, kept, KIND, subject, data, now)?;
            kept.save(tx)
        }
        Target::Refund(kept) => {
            let version = kept.row.refund.version;
            if kept.row.mismatch.replace(version) == Some(version) {
                return Ok(());
            }
            let mut payment = Kept::<PaymentRow>::must(tx, kept.row.payment)?;
            outbox::tell(tx, &mut payment, KIND, subject, data, now)?;
            payment.save(tx)?;
            kept.save(tx)
        }
    }
}

/// What a notification is about. A refund of another order than the one it names is about nothing of ours.
fn named(tx: &Transaction<'_>, event: &ProviderEvent) -> Result<Option<Target>, LedgerError> {
    let Some(payment) = rows::payment_by_number(tx, &event.order_number)? else { return Ok(None) };
    let Some(number) = &event.refund_number else { return Ok(Some(Target::Payment(payment))) };
    let refund = rows::refund_by_number(tx, number)?.filter(|refund| refund.row.payment == payment.id);
    Ok(refund.map(Target::Refund))
}
