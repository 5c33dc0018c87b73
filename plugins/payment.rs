//! The words: what is asked of a provider, and what became of it.

mod money;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::money::{Currency, Money};
use crate::error::ProviderError;

/// How the payer pays, as in `wechat.native`; one of those that the table of providers lists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(&'static str);

impl Method {
    /// Finds a method by its name; `None` when no provider has it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|method| method.0 == name)
    }

    /// Every method that some provider has.
    pub fn all() -> impl Iterator<Item = Self> {
        crate::provider::PROVIDERS.iter().flat_map(|row| row.methods).map(|name| Self(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &'static str {
        self.0
    }

    /// Whether a till scans the payer's code: then the payment ends at once, or while the payer types a password, and
    /// what stays open is reversed instead of closed.
    pub fn is_scanned(&self) -> bool {
        matches!(self.0.split_once('.'), Some((_, "barcode" | "codepay")))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| {
            // Two dialects of one company have methods in common.
            let known: std::collections::BTreeSet<_> = Self::all().map(|method| method.0).collect();
            let known: Vec<_> = known.into_iter().collect();
            serde::de::Error::custom(format!("`{name}` is no method; there are {}", known.join(", ")))
        })
    }
}

/// The number under which the provider knows an order or a refund, derived from the merchant's own and always the same
/// way: the first 32 hexadecimal digits of SHA-256 over the parts, each ended by a zero byte. Two merchants with one
/// `order_id` on one channel never meet, and its letters and length suit every provider.
pub fn provider_number(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..16])
}

/// What is known of the payer; which fields are needed depends on the method.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payer {
    /// WeChat's identity of the payer in the merchant's app (`wechat.jsapi`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openid: Option<String>,
    /// The payer's IP address (`wechat.h5`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// The code that a till scanned from the payer's telephone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_code: Option<String>,
    /// The provider's number of the payer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buyer_id: Option<String>,
}

/// Names the kinds of operation, for breakers, limits, logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Create a payment.
    Pay,
    /// Ask what became of a payment.
    Query,
    /// Close an unpaid payment.
    Close,
    /// Give money back.
    Refund,
    /// Ask what became of a refund.
    QueryRefund,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Pay, Self::Query, Self::Close, Self::Refund, Self::QueryRefund];

    /// Its name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pay => "pay",
            Self::Query => "query",
            Self::Close => "close",
            Self::Refund => "refund",
            Self::QueryRefund => "query_refund",
        }
    }

    /// Whether it only asks, so that sending it twice does no harm.
    pub fn is_query(self) -> bool {
        matches!(self, Self::Query | Self::QueryRefund)
    }
}

/// An order as the provider knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The number from [`provider_number`].
    pub number: String,
    /// How it is paid.
    pub method: Method,
    /// What it is for.
    pub amount: Money,
    /// When it was first sent, or accepted where it is sent at once; some providers know an order by its number and this time.
    pub created_at: Timestamp,
    /// When it ends unpaid, where that is known.
    pub expires_at: Option<Timestamp>,
    /// The provider's own number of it, once it has said one.
    pub provider_id: Option<String>,
}

/// What is asked of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Create a payment.
    Pay(Pay),
    /// Ask what became of a payment.
    Query(Order),
    /// Close an unpaid payment.
    Close(Order),
    /// Give money back.
    Refund(Refund),
    /// Ask what became of a refund.
    QueryRefund(Refund),
}

/// A payment to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pay {
    /// Number, method, amount, end.
    pub order: Order,
    /// What the payer reads.
    pub description: String,
    /// Who pays.
    pub payer: Payer,
    /// Where the payer's browser goes afterwards.
    pub return_url: Option<String>,
    /// Where the provider sends its notification.
    pub notify_url: String,
}

/// A refund to make or to ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// What was paid.
    pub order: Order,
    /// The refund's own number.
    pub number: String,
    /// How much goes back.
    pub amount: Money,
    /// When the merchant asked for the payment.
    pub created_at: Timestamp,
    /// What the payer reads.
    pub reason: Option<String>,
    /// Where the provider sends its notification.
    pub notify_url: String,
}

impl Operation {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pay(_) => Kind::Pay,
            Self::Query(_) => Kind::Query,
            Self::Close(_) => Kind::Close,
            Self::Refund(_) => Kind::Refund,
            Self::QueryRefund(_) => Kind::QueryRefund,
        }
    }

    /// The order that it is about.
    pub fn order(&self) -> &Order {
        match self {
            Self::Pay(pay) => &pay.order,
            Self::Query(order) | Self::Close(order) => order,
            Self::Refund(refund) | Self::QueryRefund(refund) => &refund.order,
        }
    }

    /// The amount that the provider's answer must agree with.
    pub fn amount(&self) -> Money {
        match self {
            Self::Refund(refund) | Self::QueryRefund(refund) => refund.amount,
            _ => self.order().amount,
        }
    }
}

/// What a payment or refund has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The provider has it and the end is open.
    Pending,
    /// Money moved; final.
    Succeeded,
    /// No money moved; final.
    Failed,
    /// It ended unpaid; final.
    Closed,
    /// Something was sent and no trustworthy answer came; only the gateway says this, never a provider.
    Unknown,
}

impl Status {
    /// Whether nothing can come after it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Closed)
    }

    /// Its name, as in answers and metrics.
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

/// What the payer's device needs in order to pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NextAction {
    /// Show this as a QR code.
    Qr {
        /// The code's content.
        data: String,
    },
    /// Hand these to the provider's JavaScript call.
    Jsapi {
        /// Signed parameters, by the provider's own names.
        params: BTreeMap<String, String>,
    },
    /// Hand these to the provider's SDK in the app.
    App {
        /// Signed parameters, by the provider's own names.
        params: BTreeMap<String, String>,
    },
    /// Send the payer's browser there.
    Redirect {
        /// Where to.
        url: String,
    },
    /// Let the payer's browser post this form.
    Form {
        /// Where to.
        url: String,
        /// The form's fields.
        fields: BTreeMap<String, String>,
    },
}

/// What became of an operation, in the provider's verified word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Never [`Status::Unknown`].
    pub status: Status,
    /// The provider's own number of the payment or refund.
    pub provider_id: Option<String>,
    /// The amount that the provider names; must agree with ours where it is named.
    pub amount: Option<Money>,
    /// What the payer's device needs.
    pub action: Option<NextAction>,
    /// When the money moved.
    pub at: Option<Timestamp>,
    /// Why a person must look at it, when the provider says that it does not go on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_person: Option<String>,
    /// Whether the provider says that a scanned payment went wrong and must be reversed. Until the reversal the payer may have
    /// been charged, so the status is [`Status::Pending`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_reversal: bool,
    /// The provider's own code and message of why it came to this status, where its answer gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ProviderError>,
}

impl Outcome {
    /// An outcome of which only the status is known.
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

/// What a provider's notification says, in our words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The same for every repetition of this news; the channel's name goes before it when it is remembered.
    pub id: String,
    /// Number of the order that it is about.
    pub order_number: String,
    /// Number of the refund, when it is about a refund.
    pub refund_number: Option<String>,
    /// What became of it; nothing when the news must not be believed by itself, and the provider is to be asked.
    pub outcome: Option<Outcome>,
    /// The amount that it names where the provider is to be asked: one that is not ours is no reason to ask.
    pub amount: Option<Money>,
    /// What it says of a refund's money. It counts only where the refund was not made here.
    pub refunded: Option<Refunded>,
}

/// What a notification says of a refund's money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refunded {
    /// So much went back to the payer by this refund.
    Part(Money),
    /// So much went back to the payer by all refunds of the order together.
    Total(Money),
    /// The refund failed for good, so the money stays with the merchant.
    Failed,
    /// The provider cannot finish the refund by itself. A person must finish it in the provider's console.
    Abnormal,
    /// The refund's end is open, or the notification does not say it.
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
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_sha256sum_says_and_parts_do_not_run_together() {
        // printf 'shop\0order-1\0' | sha256sum | cut -c1-32
        assert_eq!(provider_number(&["shop", "order-1"]), "78632b96ea24626beb0cb6b581204b4d");
        assert_ne!(provider_number(&["ab", "c"]), provider_number(&["a", "bc"]));
    }
}
