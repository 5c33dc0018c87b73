//! Messages as a merchant's producer signs them.

use serde_json::{Value, json};
use tollgate_harness::merchant::{MerchantKey, new_nonce, unix_now};
use tollgate_merchant::{Credentials, Headers, plain, rfc9421};

use crate::harness::{Merchant, SHOP, payment_body};

/// Signer of one scheme.
pub type Sign = fn(&Credentials<'_>, &str, &str, &[u8]) -> Headers;

/// A request that is not signed yet.
pub struct Message<'a> {
    pub merchant: &'a Merchant,
    pub source: &'a str,
    pub sign: Sign,
    pub method: &'a str,
    pub path: &'a str,
    pub key: &'a str,
    pub body: &'a str,
}

impl<'a> Message<'a> {
    pub fn of(merchant: &'a Merchant, source: &'a str, sign: Sign) -> Self {
        Self { merchant, source, sign, method: "POST", path: "/v1/payments", key: "k", body: "" }
    }

    /// Signs with a nonce for the source.
    pub fn signed_now(&self) -> Value {
        self.signed(unix_now(), &format!("queue:{}:{}", self.source, new_nonce()))
    }

    pub fn signed(&self, created: u64, nonce: &str) -> Value {
        let key = MerchantKey::fixed(self.merchant.key, self.merchant.secret);
        let signed = (self.sign)(&key.credentials(created, nonce), self.method, self.path, self.body.as_bytes());
        let mut headers = json!({"method": self.method, "path": self.path, "idempotency-key": self.key});
        for (name, value) in signed {
            headers[name] = value.into();
        }
        json!({"headers": headers, "body": self.body, "id": self.key})
    }
}

/// Returns a signed message of the merchant `shop` that creates this order.
pub fn signed_create(source: &str, order: &str) -> Value {
    create(source, order, rfc9421)
}

/// Like [`signed_create`], in the plain scheme.
pub fn plain_create(source: &str, order: &str) -> Value {
    create(source, order, plain)
}

fn create(source: &str, order: &str, sign: Sign) -> Value {
    Message { key: order, body: &payment_body(order).to_string(), ..Message::of(&SHOP, source, sign) }.signed_now()
}
