//! Payment vocabulary: operations that a provider executes, and their outcomes.

mod money;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::money::{Currency, Money};
use crate::error::ProviderError;

/// Payment method that a provider serves, for example `wechat.native`.
///
/// Names are parsed in [`registry`](crate::registry), which knows the providers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method {
    name: &'static str,
    is_scanned: bool,
}

impl Method {
    pub(crate) const fn new(name: &'static str, is_scanned: bool) -> Self {
        Self { name, is_scanned }
    }

    /// Returns the method's name.
    pub fn as_str(&self) -> &'static str {
        self.name
    }

    /// Returns whether a cashier scans the payer's code. Such a payment ends at once or after the payer enters a password.
    /// An unfinished one is reversed instead of closed. The provider's registration lists these methods.
    pub fn is_scanned(&self) -> bool {
        self.is_scanned
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

/// Returns the number under which the provider knows an order or a refund.
///
/// It is the first 32 hexadecimal digits of SHA-256 over the parts, each followed by a zero byte. Equal `order_id`s of two
/// merchants on one channel therefore never collide. Every provider accepts its alphabet and length.
pub fn provider_number(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..16])
}

/// Data of the payer. The method decides which fields are required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payer {
    /// WeChat's id of the payer in the merchant's app (`wechat.jsapi`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openid: Option<String>,
    /// IP address of the payer (`wechat.h5`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// Payment code that a cashier scanned from the payer's phone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_code: Option<String>,
    /// Provider's id of the payer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buyer_id: Option<String>,
}

/// Kind of an operation, for breakers, limits, logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Creates a payment.
    Pay,
    /// Queries the status of a payment.
    Query,
    /// Closes an unpaid payment.
    Close,
    /// Creates a refund.
    Refund,
    /// Queries the status of a refund.
    QueryRefund,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Pay, Self::Query, Self::Close, Self::Refund, Self::QueryRefund];

    /// Returns the kind's name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pay => "pay",
            Self::Query => "query",
            Self::Close => "close",
            Self::Refund => "refund",
            Self::QueryRefund => "query_refund",
        }
    }

    /// Returns whether the kind only reads, so that repeating it is harmless.
    pub fn is_query(self) -> bool {
        matches!(self, Self::Query | Self::QueryRefund)
    }
}

/// An order as the provider knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Number from [`provider_number`].
    pub number: String,
    /// Payment method.
    pub method: Method,
    /// Amount to pay.
    pub amount: Money,
    /// Time of the first send, or of acceptance if the order is sent at once. Some providers identify an order by number and
    /// this time.
    pub created_at: Timestamp,
    /// Time at which the unpaid order expires, if known.
    pub expires_at: Option<Timestamp>,
    /// Provider's own number of the order, once known.
    pub provider_id: Option<String>,
}

/// Request to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates a payment.
    Pay(Pay),
    /// Queries the status of a payment.
    Query(Order),
    /// Closes an unpaid payment.
    Close(Order),
    /// Creates a refund.
    Refund(Refund),
    /// Queries the status of a refund.
    QueryRefund(Refund),
}

/// Payment to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pay {
    /// Number, method, amount and expiry.
    pub order: Order,
    /// Text that the payer sees.
    pub description: String,
    /// Data of the payer.
    pub payer: Payer,
    /// URL to which the payer's browser returns after the payment.
    pub return_url: Option<String>,
    /// URL to which the provider sends its notification.
    pub notify_url: String,
}

/// Refund to create or to query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Order that was paid.
    pub order: Order,
    /// Number of the refund, from [`provider_number`].
    pub number: String,
    /// Amount to refund. The upper limit if the refund was made elsewhere.
    pub amount: Money,
    /// Whether the refund was made outside the gateway. It is only queried, and the response names its own amount.
    pub made_elsewhere: bool,
    /// Time of the refund's first send, or of its acceptance if it is sent at once.
    pub created_at: Timestamp,
    /// Text that the payer sees.
    pub reason: Option<String>,
    /// URL to which the provider sends its notification.
    pub notify_url: String,
}

impl Refund {
    /// Returns whether a response may name this amount. It must be the refund's own; for a refund made elsewhere, any
    /// amount up to the limit.
    pub fn may_have(&self, amount: Money) -> bool {
        let is_within = amount.currency == self.amount.currency && amount.value <= self.amount.value;
        amount == self.amount || (self.made_elsewhere && is_within)
    }
}

impl Operation {
    /// Returns the kind of the operation.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pay(_) => Kind::Pay,
            Self::Query(_) => Kind::Query,
            Self::Close(_) => Kind::Close,
            Self::Refund(_) => Kind::Refund,
            Self::QueryRefund(_) => Kind::QueryRefund,
        }
    }

    /// Returns the order that the operation concerns.
    pub fn order(&self) -> &Order {
        match self {
            Self::Pay(pay) => &pay.order,
            Self::Query(order) | Self::Close(order) => order,
            Self::Refund(refund) | Self::QueryRefund(refund) => &refund.order,
        }
    }

    /// Returns the amount that the provider's response must confirm.
    pub fn amount(&self) -> Money {
        match self {
            Self::Refund(refund) | Self::QueryRefund(refund) => refund.amount,
            _ => self.order().amount,
        }
    }

    /// Returns whether a response may name this amount.
    pub fn may_have(&self, amount: Money) -> bool {
        match self {
            Self::QueryRefund(refund) => refund.may_have(amount),
            _ => amount == self.amount(),
        }
    }
}

/// Status of a payment or refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The provider accepted the request; not final.
    Pending,
    /// Money moved; final.
    Succeeded,
    /// No money moved; final.
    Failed,
    /// Ended unpaid; final.
    Closed,
    /// A request was sent and no trustworthy response came. Only the gateway sets this status, never a provider.
    Unknown,
}

impl Status {
    /// Returns whether the status can no longer change.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Closed)
    }

    /// Returns the status's name, as in responses and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
        }
    }
}

/// Next step of the payer's device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NextAction {
    /// Show a QR code.
    Qr {
        /// Content of the code.
        data: String,
    },
    /// Call the provider's JavaScript API.
    Jsapi {
        /// Signed parameters, with the provider's names.
        params: BTreeMap<String, String>,
    },
    /// Call the provider's SDK in the app.
    App {
        /// Signed parameters, with the provider's names.
        params: BTreeMap<String, String>,
    },
    /// Redirect the payer's browser.
    Redirect {
        /// Target of the redirect.
        url: String,
    },
    /// Submit a form with `POST` in the payer's browser.
    Form {
        /// Target of the form.
        url: String,
        /// Fields of the form.
        fields: BTreeMap<String, String>,
    },
}

/// Result of an operation, from a verified response or notification of the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Status; never [`Status::Unknown`].
    pub status: Status,
    /// Provider's own number of the payment or refund.
    pub provider_id: Option<String>,
    /// Amount that the provider names. If present, it must equal the requested amount.
    pub amount: Option<Money>,
    /// Next step of the payer's device.
    pub action: Option<NextAction>,
    /// Time at which the money moved.
    pub at: Option<Timestamp>,
    /// Reason for a manual review, if the provider cannot finish the operation by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_person: Option<String>,
    /// True if the provider requires the reversal of a failed scanned payment. Until then the payer may have been charged, so
    /// the status is [`Status::Pending`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_reversal: bool,
    /// Provider's code and message that explain the status, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ProviderError>,
}

impl Outcome {
    /// Returns an outcome with this status and no other data.
    pub fn of(status: Status) -> Self {
        Self {
            status,
            provider_id: None,
            amount: None,
            action: None,
            at: None,
            needs_person: None,
            needs_reversal: false,
            reason: None,
        }
    }
}

/// Decoded notification of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Deduplication id: equal for every repetition of the notification. The ledger prefixes it with the channel's name.
    pub id: String,
    /// Number of the order.
    pub order_number: String,
    /// Number of the refund, if the notification concerns a refund.
    pub refund_number: Option<String>,
    /// Outcome of the order or refund; `None` if the notification alone is not sufficient evidence, and a query must follow.
    pub outcome: Option<Outcome>,
    /// Amount that a notification without an outcome names. A wrong amount causes no query.
    pub amount: Option<Money>,
    /// Refund data. Used only for a refund that was not created by this gateway.
    pub refunded: Option<Refunded>,
}

/// State of a refund's money in a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refunded {
    /// Amount that this refund returned to the payer.
    Part(Money),
    /// Amount that all refunds of the order together returned to the payer.
    Total(Money),
    /// The refund failed; final. The merchant keeps the money.
    Failed,
    /// The provider cannot finish the refund by itself. A person must finish it in the provider's console.
    Abnormal,
    /// The refund is pending, or the notification does not name its state.
    Open,
}

impl fmt::Display for Refunded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(money) => write!(f, "part {money}"),
            Self::Total(money) => write!(f, "total {money}"),
            Self::Failed => f.write_str("failed"),
            Self::Abnormal => f.write_str("abnormal"),
            Self::Open => f.write_str("open"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn query_of_a_refund_made_elsewhere_accepts_any_amount_up_to_its_limit() {
        let method = Method::parse("alipay.qr").unwrap();
        let cny = |value| Money { value, currency: Currency::CNY };
        let created_at = Timestamp::UNIX_EPOCH;
        let order =
            Order { number: "n".into(), method, amount: cny(1000), created_at, expires_at: None, provider_id: None };
        let refund = |made_elsewhere| Refund {
            order: order.clone(),
            number: "r".into(),
            amount: cny(300),
            made_elsewhere,
            created_at,
            reason: None,
            notify_url: String::new(),
        };
        for (value, is_own, is_elsewhere) in [(300, true, true), (299, false, true), (301, false, false)] {
            assert_eq!(Operation::QueryRefund(refund(false)).may_have(cny(value)), is_own, "{value}");
            assert_eq!(Operation::QueryRefund(refund(true)).may_have(cny(value)), is_elsewhere, "{value}");
        }
        let euro = Currency::parse("EUR").unwrap();
        assert!(!refund(true).may_have(Money { value: 1, currency: euro }));
    }

    #[test]
    fn provider_number_equals_sha256sum_and_separates_its_parts() {
        // printf 'shop\0order-1\0' | sha256sum | cut -c1-32
        assert_eq!(provider_number(&["shop", "order-1"]), "78632b96ea24626beb0cb6b581204b4d");
        assert_ne!(provider_number(&["ab", "c"]), provider_number(&["a", "bc"]));
    }
}
