//! Payments with their refunds and timelines, for support staff.

use crate::error::LedgerError;
use crate::records::{Payment, Refund};
use crate::refunds;
use crate::rows::{self, PaymentRow, TrackedRow};
use crate::timeline::{self, Timeline};
use crate::transaction::Read;

/// A payment with its refunds and timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentHistory {
    /// The payment.
    pub payment: Payment,
    /// Its refunds.
    pub refunds: Vec<Refund>,
    /// Its timeline.
    pub timeline: Timeline,
}

/// Implements [`Ledger::find_histories`](crate::Ledger::find_histories).
pub(crate) fn find_histories(
    from: &impl Read,
    named: &str,
    merchants: &[String],
) -> Result<Vec<PaymentHistory>, LedgerError> {
    let of_merchants = merchants.iter().map(|merchant| rows::find_payment(from, merchant, named));
    let found = of_merchants.chain([rows::payment_by_number(from, named)]).filter_map(Result::transpose);
    let history = |tracked: TrackedRow<PaymentRow>| {
        let mut all = refunds::of(from, &tracked.row).collect::<Result<Vec<_>, LedgerError>>()?;
        all.retain(|refund| !refund.row.released);
        let refunds = all.into_iter().rev().map(|refund| refund.row.refund).collect();
        Ok::<_, LedgerError>(PaymentHistory {
            timeline: timeline::read(from, tracked.id)?,
            payment: tracked.row.payment,
            refunds,
        })
    };
    let mut histories = Vec::new();
    for tracked in found {
        let tracked = tracked?;
        let attempts = tracked.row.attempts.clone();
        histories.push(history(tracked)?);
        for attempt in attempts {
            histories.extend(TrackedRow::load(from, attempt)?.map(history).transpose()?);
        }
    }
    Ok(histories)
}
