//! The log of one simulated client: what it sent, and the responses that it received.

use serde_json::Value;

use super::pay_methods::{PayMethod, order_id};
use super::scan::ScanOutcome;

/// Everything that one client sent and received for one payment.
#[derive(Debug)]
pub(super) struct ClientLog {
    pub(super) order: String,
    /// Amount in fen.
    pub(super) amount: u64,
    pub(super) pay_method: &'static PayMethod,
    /// Outcome that the seed chose for the payer's code; `None` if no code was scanned.
    pub(super) scan: Option<ScanOutcome>,
    /// Faults that were scripted for this payment, by their name in the report.
    pub(super) faults: Vec<&'static str>,
    /// Number of scripted faults that make the provider reject the order, so that the gateway sends it once more.
    pub(super) expected_resends: u64,
    /// Number of requests that the client sent.
    pub(super) requests: u64,
    /// Number of operations that were sent with `Prefer: respond-async`.
    pub(super) async_operations: u64,
    /// Number of requests that the client aborted before the response.
    pub(super) aborted: u64,
    /// Status and body of each response about the payment.
    pub(super) responses: Vec<(u16, Value)>,
    /// Requested refunds: id, amount in fen, and the status of the response if there was one.
    pub(super) refunds: Vec<(String, u64, Option<u16>)>,
    /// Amount in fen of the refund that was made in the provider's console.
    pub(super) console_refund: Option<u64>,
    /// Errors that no client may ever observe.
    pub(super) errors: Vec<String>,
}

impl ClientLog {
    pub(super) fn new(serial: u64, amount: u64, pay_method: &'static PayMethod, scan: Option<ScanOutcome>) -> Self {
        Self {
            order: order_id(serial),
            amount,
            pay_method,
            scan,
            faults: Vec::new(),
            expected_resends: 0,
            requests: 0,
            async_operations: 0,
            aborted: 0,
            responses: Vec::new(),
            refunds: Vec::new(),
            console_refund: None,
            errors: Vec::new(),
        }
    }
}
