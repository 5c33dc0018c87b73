//! Steps that updates and notifications share: evidence, scheduled queries, mismatch events.

use jiff::Timestamp;

use super::abandoned_attempts;
use super::error::LedgerError;
use super::outbox;
use super::records::Inquiry;
use super::rows::{self, PaymentRow, Target, TrackedRow};
use super::timeline::{ProviderCall, TimelineEvent};
use super::transaction::Transaction;

/// Appends provider calls to the timeline of a record.
pub(super) fn add_evidence(
    tx: &mut Transaction<'_>,
    target: &Target,
    evidence: Vec<ProviderCall>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    evidence.into_iter().try_for_each(|call| target.add(tx, TimelineEvent::ProviderCall(call), now))
}

/// Makes the inquiry due now, because the notification alone proves nothing.
pub(super) fn schedule_query(tx: &mut Transaction<'_>, target: &mut Target, now: Timestamp) -> Result<(), LedgerError> {
    let inquiry = target.inquiry().get_or_insert_with(|| Inquiry::new(now));
    inquiry.due = inquiry.due.min(now);
    target.save(tx)
}

/// Value in [`Space::Notifications`](super::transaction::Space::Notifications) of a notification that was applied.
pub(super) const BELIEVED: &[u8] = b"believed";
/// Value in the same space of a notification that was rejected as a mismatch.
pub(super) const MISMATCHED: &[u8] = b"mismatched";

/// Publishes that the provider names another amount or channel, once per version of the record.
pub(super) fn publish_mismatch(
    tx: &mut Transaction<'_>,
    target: &mut Target,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const MISMATCH_EVENT: &str = "payment.mismatch";
    let (subject, data) = (target.subject(), target.record());
    match target {
        // Merchants do not know abandoned attempts.
        Target::Payment(TrackedRow { row: PaymentRow { attempt_of: Some(main), .. }, .. }) => {
            let main = TrackedRow::<PaymentRow>::load(tx, *main)?;
            main.map_or(Ok(()), |main| publish_mismatch(tx, &mut Target::Payment(main), now))
        }
        Target::Payment(tracked) => {
            let version = tracked.row.payment.version;
            if tracked.row.mismatch.replace(version) == Some(version) {
                return Ok(());
            }
            outbox::publish(tx, tracked, MISMATCH_EVENT, subject, data, now)?;
            tracked.save(tx)
        }
        // Merchants do not know refunds made elsewhere.
        Target::Refund(tracked) if tracked.row.refund.is_elsewhere() => {
            let payment = TrackedRow::<PaymentRow>::must(tx, tracked.row.payment)?;
            publish_mismatch(tx, &mut Target::Payment(payment), now)
        }
        Target::Refund(tracked) => {
            let version = tracked.row.refund.version;
            if tracked.row.mismatch.replace(version) == Some(version) {
                return Ok(());
            }
            let mut payment = TrackedRow::<PaymentRow>::must(tx, tracked.row.payment)?;
            outbox::publish(tx, &mut payment, MISMATCH_EVENT, subject, data, now)?;
            payment.save(tx)?;
            tracked.save(tx)
        }
    }
}

/// Returns the payment with this order number, or its abandoned attempt on this channel.
pub(super) fn find_payment_by_number(
    tx: &Transaction<'_>,
    channel: &str,
    order_number: &str,
) -> Result<Option<TrackedRow<PaymentRow>>, LedgerError> {
    let Some(payment) = rows::payment_by_number(tx, order_number)? else { return Ok(None) };
    Ok(Some(match payment.row.payment.channel == channel {
        true => payment,
        false => abandoned_attempts::find(tx, channel, order_number)?.unwrap_or(payment),
    }))
}
