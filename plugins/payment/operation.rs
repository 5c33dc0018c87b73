//! Operations that a provider executes.

use jiff::Timestamp;

use super::{Method, Money, Payer};

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
    /// Number from [`provider_number`](super::provider_number).
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
    /// Number of the refund, from [`provider_number`](super::provider_number).
    pub number: String,
    /// Amount to refund. The upper limit if the refund was made elsewhere.
    pub amount: Money,
    /// True if the refund was made outside the gateway. It is only queried, and the response names its own amount.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Currency;
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
}
