//! One attempt to take money.

use std::ops::{Deref, DerefMut};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::{Method, Money, NextAction, Payer, Status};

use super::inquiry::Inquiry;
use super::money_state::MoneyState;
use super::state::RecordState;

/// One attempt to take money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Merchant that owns the payment.
    pub merchant: String,
    /// The merchant's own number.
    pub order_id: String,
    /// The number that the provider sees.
    pub provider_order_no: String,
    /// SHA-256 in hexadecimal over the merchant's request. Distinguishes a repetition from other content under the
    /// same order id.
    pub content: String,
    /// Status, versions, times and inquiry.
    #[serde(flatten)]
    pub state: RecordState,
    /// Amount to be paid.
    pub amount: Money,
    /// Sum of successful refunds, in minor units.
    pub refunded: u64,
    /// Part of `refunded` that was refunded outside this gateway, in minor units.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refunded_elsewhere: u64,
    /// Payment method.
    pub method: Method,
    /// Channel that the payment was sent on.
    pub channel: String,
    /// Account of the channel at that time: the provider's name and the provider's number of the account.
    pub account: String,
    /// The provider's own number of the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_payment_id: Option<String>,
    /// Data with which the payer's device continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<NextAction>,
    /// Remaining fields of the create request, while the identical create may have to be repeated to obtain a lost
    /// `action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_request: Option<Box<CreateRequest>>,
    /// Time at which the unpaid order expires, if the merchant or the channel has set one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Time at which the money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<Timestamp>,
    /// The merchant's own metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

fn is_zero(sum: &u64) -> bool {
    *sum == 0
}

/// Fields of a create request that its payment does not have. Both together allow the identical create to be
/// repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Description that the payer sees.
    pub description: String,
    /// The payer.
    pub payer: Payer,
    /// URL to which the payer's browser is redirected afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_url: Option<String>,
    /// `public_url` of the gateway when the create was first sent; part of the notification URL.
    pub public_url: String,
}

/// Maximum number of repetitions of the identical create. One would be too few: a crash or another unclear answer may
/// use it up.
pub const MAX_REPEATED_CREATES: u32 = 3;

impl Payment {
    /// Returns whether the provider's repeated "not found" ends the payment. A pending payment instead ends when it
    /// expires, because the payer may still open it. A pending payment of a scanned code ends by "not found".
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self.status {
            Status::Unknown => true,
            Status::Pending => self.method.is_scanned() && self.money_state != MoneyState::NotSent,
            _ => false,
        }
    }

    /// Returns whether the payer cannot pay because the answer with the `action` was lost.
    pub fn lacks_action(&self) -> bool {
        let is_open = self.status == Status::Pending && self.money_state == MoneyState::NotMoved;
        is_open && self.action.is_none() && !self.method.is_scanned()
    }

    /// Returns whether the gateway still tries to obtain the lost `action` by repeating the identical create.
    pub fn awaits_action(&self) -> bool {
        let may_repeat = |inquiry: &Inquiry| inquiry.repeated_creates < MAX_REPEATED_CREATES && !inquiry.closing;
        self.create_request.is_some() && self.inquiry.as_ref().is_some_and(may_repeat)
    }

    /// Returns whether this is an abandoned attempt on a channel that the payment was moved away from. No merchant
    /// sees it.
    pub fn is_attempt(&self) -> bool {
        self.order_id.contains('/')
    }
}

/// Returns the merchant's order id of a payment or of an abandoned attempt (`ORDER/CHANNEL`).
pub fn merchants_order_id(order_id: &str) -> &str {
    order_id.split_once('/').map_or(order_id, |(order_id, _)| order_id)
}

/// The fields of its [`state`](Payment::state) are read and changed as the record's own.
impl Deref for Payment {
    type Target = RecordState;

    fn deref(&self) -> &RecordState {
        &self.state
    }
}

impl DerefMut for Payment {
    fn deref_mut(&mut self) -> &mut RecordState {
        &mut self.state
    }
}
