//! Records notifications of providers: removes duplicates, applies the update and publishes the event, in one
//! transaction.

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

use crate::apply::apply_update;
use crate::effects::{BELIEVED, MISMATCHED, find_payment_by_number, publish_mismatch, schedule_query};
use crate::elsewhere;
use crate::error::LedgerError;
use crate::ids::index;
use crate::records::{Recorded, Update};
use crate::retention::{self, Kind};
use crate::rows::{self, Target};
use crate::rules::{self, Change};
use crate::timeline::{Notification, NotificationVerdict, Origin, TimelineEvent};
use crate::transaction::{Read, Space, Transaction};

/// Implements [`Ledger::record`](crate::Ledger::record).
pub(crate) fn record(
    tx: &mut Transaction<'_>,
    channel: &str,
    notification: &Notification,
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let event = &notification.event;
    if let Some(recorded) = elsewhere::record(tx, channel, notification, now)? {
        return Ok(recorded);
    }
    let Some(mut target) = find_target(tx, channel, notification)? else { return Ok(Recorded::UnknownOrder) };
    let seen_key = index("seen", &[channel, &event.id]);
    let seen = tx.bytes(Space::Notifications, &seen_key.0)?;
    let agrees = target.channel() == channel && event.amount.is_none_or(|amount| amount == target.amount());
    if agrees && seen.as_deref() == Some(BELIEVED) {
        return Ok(Recorded::Duplicate);
    }
    let notified = |verdict| {
        let (channel, id) = (channel.to_owned(), event.id.clone());
        TimelineEvent::NotificationReceived { channel, id, verdict, seen: notification.seen.clone() }
    };
    let change = match &event.outcome {
        _ if !agrees => Change { mismatch: true, ..Change::default() },
        Some(outcome) if !(outcome.status == Status::Succeeded && was_reversed(&target)) => {
            let update = Update::Outcome(outcome.clone());
            // Added first, so that the timeline shows the effects after the notification.
            let verdict = match preview(&target, &update, Origin::Notification, now) {
                Change { mismatch: true, .. } => None,
                Change { changed: true, .. } => Some(NotificationVerdict::Applied),
                _ => Some(NotificationVerdict::NoChange),
            };
            verdict.map_or(Ok(()), |verdict| target.add(tx, notified(verdict), now))?;
            apply_update(tx, &mut target, &update, Origin::Notification, now)?
        }
        // Every repeated notification schedules the query again, because the provider's query API may lag behind its
        // notifications.
        None if target.status() == Status::Succeeded => return Ok(Recorded::Duplicate),
        _ => {
            target.add(tx, notified(NotificationVerdict::Verify), now)?;
            schedule_query(tx, &mut target, now)?;
            return Ok(Recorded::Applied(target.subject()));
        }
    };
    if seen.is_none() {
        retention::index_for_expiry(tx, Kind::Notifications, seen_key, now);
    }
    if !change.mismatch {
        tx.put(Space::Notifications, &seen_key.0, BELIEVED);
        let needs_review = event.outcome.as_ref().is_some_and(|outcome| outcome.needs_review.is_some());
        let is_news = change.changed || needs_review;
        return Ok(if is_news { Recorded::Applied(target.subject()) } else { Recorded::Duplicate });
    }
    // A rejected notification stays open: the same one may come again and match then. The mismatch is published only
    // once.
    if seen.is_none() {
        tx.put(Space::Notifications, &seen_key.0, MISMATCHED);
        target.add(tx, notified(NotificationVerdict::Mismatch), now)?;
        publish_mismatch(tx, &mut target, now)?;
    }
    Ok(Recorded::Mismatch(target.subject()))
}

/// Returns whether a scanned payment was closed by its reversal, which returned the money: a late success
/// notification may be older than the reversal.
fn was_reversed(target: &Target) -> bool {
    matches!(target, Target::Payment(tracked) if tracked.row.payment.method.is_scanned() && target.status() == Status::Closed)
}

/// Returns the effect that an update will have (dry run).
fn preview(target: &Target, update: &Update, origin: Origin, now: Timestamp) -> Change {
    match target {
        Target::Payment(tracked) => rules::payment(&mut tracked.row.payment.clone(), update, origin, now),
        Target::Refund(tracked) => rules::refund(&mut tracked.row.refund.clone(), update, origin, now),
    }
}

/// Returns the record that a notification names. `None` for a refund that belongs to another order.
fn find_target(
    tx: &Transaction<'_>,
    channel: &str,
    Notification { event, .. }: &Notification,
) -> Result<Option<Target>, LedgerError> {
    let Some(payment) = find_payment_by_number(tx, channel, &event.order_number)? else { return Ok(None) };
    let Some(number) = &event.refund_number else { return Ok(Some(Target::Payment(payment))) };
    let refund = rows::refund_by_number(tx, number)?.filter(|refund| refund.row.payment == payment.id);
    Ok(refund.map(Target::Refund))
}
