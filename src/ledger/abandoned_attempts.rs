//! Abandoned attempts: what may be left of a payment on a channel that it was moved away from.
//!
//! A payment is moved only if nothing was sent. If that is ever wrong, money could be taken twice. An attempt that
//! was tried is therefore stored as a row of its own; its provider is queried, and an open order is closed. Money
//! found there is published as an event, and is refunded or marked for manual review, as `routes.toml` says.
//! Merchants cannot address these rows, because their order ids contain no `/`.

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

use super::double_payment::DoublePayment;
use super::error::LedgerError;
use super::names;
use super::outbox;
use super::records::{Inquiry, MoneyState, Payment, Record, RecordState};
use super::rows::{self, PaymentRow, TrackedRow};
use super::timeline::{self, IntentKind, TimelineEvent};
use super::transaction::{Read, Space, Transaction};

/// Type of the event about money on two channels.
pub(super) const DOUBLE: &str = "payment.double_payment";

/// Returns the order id of an abandoned attempt.
fn order_id(payment: &Payment) -> String {
    format!("{}/{}", payment.order_id, payment.channel)
}

/// Returns the abandoned attempt on this channel.
pub(super) fn find(
    from: &impl Read,
    channel: &str,
    number: &str,
) -> Result<Option<TrackedRow<PaymentRow>>, LedgerError> {
    TrackedRow::find(from, names::attempt_entry(channel, number))
}

/// Stores the attempt on the channel that a payment is about to leave.
pub(super) fn record_abandoned(
    tx: &mut Transaction<'_>,
    main: &mut TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let payment = main.row.payment.clone();
    let attempt = Payment {
        order_id: order_id(&payment),
        metadata: None,
        create_request: None,
        state: RecordState {
            status: Status::Unknown,
            money_state: MoneyState::Unknown,
            version: 1,
            updated_at: now,
            inquiry: Some(Inquiry { closing: true, ..Inquiry::new(now) }),
            ..payment.state
        },
        ..payment
    };
    let (id, claim) = (tx.new_id(now), main.row.claim);
    let what =
        TimelineEvent::Claimed { action: IntentKind::Close, channel: attempt.channel.clone(), amount: attempt.amount };
    let entry = names::entry_of_payment(&attempt);
    if tx.bytes(Space::Index, &entry.0)?.is_some() {
        return Err(LedgerError::Superseded("the payment was sent on this channel before"));
    }
    tx.put(Space::Index, &entry.0, id.0);
    let row = PaymentRow { attempt_of: Some(main.id), ..PaymentRow::new(attempt, claim) };
    TrackedRow::new(id, row).save(tx)?;
    timeline::begin(tx, id, what, now)?;
    main.row.attempts.push(id);
    Ok(())
}

/// Deletes the attempts of a payment of which nothing was sent on any channel.
pub(super) fn discard(tx: &mut Transaction<'_>, main: &PaymentRow) -> Result<(), LedgerError> {
    for id in &main.attempts {
        let Some(tracked) = TrackedRow::<PaymentRow>::load(tx, *id)? else { continue };
        tx.remove(Space::Index, &names::entry_of_payment(&tracked.row.payment).0);
        timeline::remove(tx, tracked.id);
        tracked.remove(tx);
    }
    Ok(())
}

/// Publishes that money was found on an abandoned channel. The attempt stays until that is resolved.
pub(super) fn paid(
    tx: &mut Transaction<'_>,
    attempt: &mut TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let channel = attempt.row.payment.channel.clone();
    attempt.row.payment.inquiry = Some(Inquiry::new(now));
    tx.found_double_payment(DoublePayment { order_id: attempt.row.payment.order_id.clone(), channel: channel.clone() });
    let Some(main) = attempt.row.attempt_of else { return Ok(()) };
    let Some(mut main) = TrackedRow::<PaymentRow>::load(tx, main)? else { return Ok(()) };
    main.row.payment.version += 1;
    main.row.payment.updated_at = now;
    timeline::add(tx, main.id, None, TimelineEvent::DuplicatePayment { channel }, now)?;
    let (subject, data) = (rows::payment_subject(&main.row.payment), Record::Payment(main.row.payment.clone()));
    outbox::publish(tx, &mut main, DOUBLE, subject, data, now)?;
    main.save(tx)
}
