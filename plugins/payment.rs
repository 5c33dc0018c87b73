//! Payment vocabulary: operations that a provider executes, and their outcomes.

mod money;
mod operation;
mod outcome;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::money::{Currency, Money};
pub use self::operation::{Kind, Operation, Order, Pay, Refund};
pub use self::outcome::{Event, NextAction, Outcome, Refunded, Status};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_number_equals_sha256sum_and_separates_its_parts() {
        // printf 'shop\0order-1\0' | sha256sum | cut -c1-32
        assert_eq!(provider_number(&["shop", "order-1"]), "78632b96ea24626beb0cb6b581204b4d");
        assert_ne!(provider_number(&["ab", "c"]), provider_number(&["a", "bc"]));
    }
}
