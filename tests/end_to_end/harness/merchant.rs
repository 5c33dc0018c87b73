//! Merchants: configuration file, request bodies, signed requests.

pub use tollgate_harness::http_client::{HttpResponse as Answer, send};
use tollgate_harness::merchant::MerchantKey;

use super::*;

pub struct Merchant {
    pub key: &'static str,
    pub secret: &'static str,
}

pub const SHOP: Merchant = Merchant { key: "shop-1", secret: "0123456789abcdef0123456789abcdef" };
pub const OTHER: Merchant = Merchant { key: "other-1", secret: "fedcba9876543210fedcba9876543210" };
/// 32 bytes, base64.
pub const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

pub fn write_merchants(conf: &Path, webhook: &str) {
    for (name, merchant) in [("shop", &SHOP), ("other", &OTHER)] {
        write_merchant(conf, name, merchant, webhook);
    }
}

pub fn write_merchant(conf: &Path, name: &str, merchant: &Merchant, webhook: &str) {
    let (key, secret) = (merchant.key, merchant.secret);
    let webhook = format!("webhook = {{ url = \"{webhook}\", secrets = [\"plain:{WEBHOOK_SECRET}\"] }}");
    let text = format!("keys = [{{ id = \"{key}\", secret = \"plain:{secret}\" }}]\n{webhook}\n");
    std::fs::write(conf.join(format!("merchants/{name}.toml")), text).unwrap();
}

pub fn payment_body(order: &str) -> Value {
    json!({"order_id": order, "amount": {"value": 1000, "currency": "CNY"}, "description": "茶 tea", "method": "wechat.native"})
}

/// Returns the payment in the response to its creation without its watch token, as a query returns it.
pub fn without_token(created: &Answer) -> Value {
    let mut payment = created.json();
    assert!(payment.as_object_mut().is_some_and(|fields| fields.remove("watch").is_some()), "{payment}");
    payment
}

/// Sends a signed request.
pub async fn signed_request(
    to: SocketAddr,
    merchant: &Merchant,
    method: &str,
    target: &str,
    key: Option<&str>,
    body: &Value,
) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    try_signed_request(to, merchant, method, target, key, body.as_bytes()).await.unwrap()
}

pub async fn try_signed_request(
    to: SocketAddr,
    merchant: &Merchant,
    method: &str,
    target: &str,
    key: Option<&str>,
    body: &[u8],
) -> Result<Answer, String> {
    let mut headers = signed_headers(merchant, method, target, body);
    headers.extend(key.map(|key| ("idempotency-key", key.to_owned())));
    send(method, &format!("http://{to}{target}"), &headers, body).await
}

/// Sends a signed POST of the merchant `shop` with `prefer: respond-async`.
pub async fn signed_request_async(to: SocketAddr, target: &str, key: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut headers = signed_headers(&SHOP, "POST", target, body.as_bytes());
    headers.extend([("idempotency-key", key.to_owned()), ("prefer", "respond-async".to_owned())]);
    send("POST", &format!("http://{to}{target}"), &headers, body.as_bytes()).await.unwrap()
}

pub fn signed_headers(merchant: &Merchant, method: &str, target: &str, body: &[u8]) -> Vec<(&'static str, String)> {
    MerchantKey::fixed(merchant.key, merchant.secret).sign(method, target, body)
}
