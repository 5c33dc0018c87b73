//! Channels of a run, and the payment methods that each channel serves.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tollgate_sandbox::keygen::SandboxProvider;

/// Channel names with their providers.
pub(super) const CHANNELS: &[(&str, SandboxProvider)] = &[
    ("wechat", SandboxProvider::WECHAT_V3),
    ("alipay", SandboxProvider::ALIPAY),
    ("wechat-v2", SandboxProvider::WECHAT_V2),
    ("unionpay", SandboxProvider::UNIONPAY),
];

/// A payment method of one channel, with the payer's data.
#[derive(Debug)]
pub(super) struct PayMethod {
    pub(super) channel: &'static str,
    pub(super) method: &'static str,
    /// Payer data that the provider requires, as JSON.
    payer: &'static str,
    /// First digits of a payer's code that a till scans. Empty if the payer opens the order.
    code_prefix: &'static str,
}

/// Every method that sends a request to the provider.
pub(super) const PAY_METHODS: &[PayMethod] = &[
    opened("wechat", "wechat.native", "{}"),
    opened("wechat", "wechat.jsapi", r#"{"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}"#),
    opened("wechat", "wechat.h5", r#"{"client_ip": "203.0.113.9"}"#),
    opened("alipay", "alipay.qr", "{}"),
    opened("alipay", "alipay.jsapi", r#"{"buyer_id": "2088102116773037"}"#),
    opened("wechat-v2", "wechat.app", "{}"),
    opened("unionpay", "unionpay.qr", "{}"),
    opened("unionpay", "unionpay.app", "{}"),
    scanned("wechat", "wechat.codepay", "13"),
    scanned("wechat-v2", "wechat.codepay", "13"),
    scanned("alipay", "alipay.barcode", "28"),
    scanned("unionpay", "unionpay.barcode", "622"),
];

/// Share of payments with a scanned code.
const SCANNED_SHARE: f64 = 0.15;

const fn opened(channel: &'static str, method: &'static str, payer: &'static str) -> PayMethod {
    PayMethod { channel, method, payer, code_prefix: "" }
}

const fn scanned(channel: &'static str, method: &'static str, code_prefix: &'static str) -> PayMethod {
    PayMethod { channel, method, payer: r#"{"client_ip": "203.0.113.9"}"#, code_prefix }
}

impl PayMethod {
    /// Draws a method: with a scanned code in [`SCANNED_SHARE`] of the cases.
    pub(super) fn draw(random: &mut StdRng) -> &'static Self {
        let is_scanned = random.random_bool(SCANNED_SHARE);
        let methods: Vec<&Self> = PAY_METHODS.iter().filter(|method| method.is_scanned() == is_scanned).collect();
        methods[random.random_range(0..methods.len())]
    }

    pub(super) fn is_scanned(&self) -> bool {
        !self.code_prefix.is_empty()
    }

    pub(super) fn is_wechat(&self) -> bool {
        self.method.starts_with("wechat")
    }

    /// Returns the sandbox's name of the operation that the gateway sends for a close.
    pub(super) fn closing_operation(&self) -> &'static str {
        if self.is_scanned() { "cancel" } else { "close" }
    }

    /// Returns whether the provider notifies the gateway of a refund in its console. WeChat Pay sends no notifications
    /// for scanned codes. The sandbox has no console for UnionPay.
    pub(super) fn notifies_of_console_refunds(&self) -> bool {
        self.channel != "unionpay" && !(self.is_wechat() && self.is_scanned())
    }

    /// Returns the merchant's request. `code_suffix` ends the payer's code of a scanned method.
    pub(super) fn order(&self, serial: u64, amount: u64, code_suffix: Option<&str>) -> Value {
        let mut order = json!({
            "order_id": order_id(serial), "amount": {"value": amount, "currency": "CNY"}, "description": "混沌 chaos",
            "method": self.method, "payer": serde_json::from_str::<Value>(self.payer).unwrap_or_default(),
            "return_url": "https://shop.example.com/thanks",
        });
        if let Some(suffix) = code_suffix {
            order["payer"]["auth_code"] = format!("{}{serial:012}{suffix}", self.code_prefix).into();
            // Two channels serve the same method, so the channel is named.
            order["channel"] = self.channel.into();
        }
        order
    }
}

pub(super) fn order_id(serial: u64) -> String {
    format!("o-{serial}")
}

/// Returns the routes: one per method, to every channel that serves the method.
pub(super) fn routes() -> String {
    let mut methods: Vec<&str> = PAY_METHODS.iter().map(|entry| entry.method).collect();
    methods.dedup();
    let route = |method: &str| {
        let serving = PAY_METHODS.iter().filter(|entry| entry.method == method);
        let to: Vec<String> = serving.map(|entry| format!("{{ channel = \"{}\" }}", entry.channel)).collect();
        format!("[[route]]\nmatch = {{ method = \"{method}\" }}\nto = [{}]\n", to.join(", "))
    };
    methods.into_iter().map(route).collect()
}
