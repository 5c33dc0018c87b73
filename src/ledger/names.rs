//! Hashed names: entries of the index, rows of idempotency keys, and locks.

use tollgate_plugins::payment::provider_number;

use crate::ids::{Id, index};
use crate::records::{ClaimKey, ELSEWHERE_PREFIX, Payment, Refund, merchants_order_id};

/// Returns the index entry of an order's payment, or of its abandoned attempt on a channel (`ORDER/CHANNEL`). The provider's
/// number follows from the order, so one entry serves both.
pub(crate) fn order_entry(merchant: &str, order_id: &str) -> Id {
    match order_id.split_once('/') {
        Some((order_id, channel)) => attempt_entry(channel, &provider_number(&[merchant, order_id])),
        None => payment_number(&provider_number(&[merchant, order_id])),
    }
}

/// Returns the index entry of a refund. For a refund made elsewhere, the provider's number is unique within the
/// payment only.
pub(crate) fn refund_entry(merchant: &str, order_id: &str, refund_id: &str) -> Id {
    if let Some(number) = refund_id.strip_prefix(ELSEWHERE_PREFIX) {
        return index("refund elsewhere", &[merchant, order_id, number]);
    }
    refund_number(&provider_number(&[merchant, order_id, refund_id]))
}

/// Returns the same as [`order_entry`], without hashing the order id.
pub(crate) fn entry_of_payment(payment: &Payment) -> Id {
    match payment.is_attempt() {
        true => attempt_entry(&payment.channel, &payment.provider_order_no),
        false => payment_number(&payment.provider_order_no),
    }
}

/// Returns the same as [`refund_entry`], without hashing the refund id.
pub(crate) fn entry_of_refund(refund: &Refund) -> Id {
    match refund.is_elsewhere() {
        true => refund_entry(&refund.merchant, &refund.order_id, &refund.refund_id),
        false => refund_number(&refund.provider_refund_no),
    }
}

/// Returns the index entry of the payment with this number at its provider.
pub(crate) fn payment_number(number: &str) -> Id {
    index("number", &[number])
}

/// Returns the index entry of the refund with this number at its provider.
pub(crate) fn refund_number(number: &str) -> Id {
    index("refund number", &[number])
}

/// Returns the index entry of an abandoned attempt.
pub(crate) fn attempt_entry(channel: &str, number: &str) -> Id {
    index("attempt number", &[channel, number])
}

/// Returns the lock of an order and its abandoned attempts.
pub(crate) fn order_lock(merchant: &str, order_id: &str) -> Id {
    index("order", &[merchant, merchants_order_id(order_id)])
}

/// Returns the prefix of a merchant's keys in [`Space::MerchantEvents`](crate::transaction::Space::MerchantEvents).
pub(crate) fn events_of(merchant: &str) -> Id {
    index("merchant events", &[merchant])
}

/// Returns the key of an event in [`Space::MerchantEvents`](crate::transaction::Space::MerchantEvents).
pub(crate) fn event_entry(merchant: &str, event: Id) -> Vec<u8> {
    [events_of(merchant).0, event.0].concat()
}

/// Returns the row id of an idempotency key.
pub(crate) fn key_name(key: &ClaimKey) -> Id {
    index("key", &[&key.merchant, &key.method, &key.path, &key.key])
}
