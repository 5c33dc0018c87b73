//! Refunds of a payment as a linked list: the payment's row names the newest, and each refund names the previous one.
//! The size of the payment's row does not depend on the number of refunds.

use super::error::LedgerError;
use super::rows::{PaymentRow, RefundRow, TrackedRow};
use super::transaction::{Read, Transaction};

/// Returns the refunds of a payment, newest first, including released ones. Reads each row.
pub(super) fn of<'a, R: Read>(
    from: &'a R,
    payment: &PaymentRow,
) -> impl Iterator<Item = Result<TrackedRow<RefundRow>, LedgerError>> + use<'a, R> {
    let mut next = payment.last_refund;
    std::iter::from_fn(move || {
        let refund = TrackedRow::<RefundRow>::must(from, next.take()?);
        next = refund.as_ref().ok().and_then(|refund| refund.row.previous);
        Some(refund)
    })
}

/// Removes a refund of which nothing was sent. The caller saves the payment.
pub(super) fn remove(
    tx: &mut Transaction<'_>,
    mut refund: TrackedRow<RefundRow>,
    payment: &mut TrackedRow<PaymentRow>,
) -> Result<(), LedgerError> {
    if payment.row.last_refund == Some(refund.id) {
        payment.row.last_refund = refund.row.previous;
        refund.remove(tx);
        return Ok(());
    }
    (refund.row.released, refund.row.refund.inquiry) = (true, None);
    refund.save(tx)
}
