//! The channels of a run, and the ways to pay over them.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::till::Scan;
use crate::keygen::SandboxProvider;

/// The channels by name, each with its provider.
pub(super) const CHANNELS: &[(&str, SandboxProvider)] = &[
    ("wechat", SandboxProvider::WechatV3),
    ("alipay", SandboxProvider::Alipay),
    ("wechat-v2", SandboxProvider::WechatV2),
    ("unionpay", SandboxProvider::Unionpay),
];

/// A way to pay over one channel.
#[derive(Debug)]
pub(super) struct PayMethod {
    pub(super) channel: &'static str,
    pub(super) method: &'static str,
    /// What the provider needs to know of the payer, as JSON.
    payer: &'static str,
    /// First digits of a payer's code that a till scans; empty where the payer opens the order.
    code: &'static str,
}

/// The ways that are an exchange with the provider.
pub(super) const WAYS: &[PayMethod] = &[
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

/// Share of the payments that are made with a scanned code.
const SCANNED: f64 = 0.15;

const fn opened(channel: &'static str, method: &'static str, payer: &'static str) -> PayMethod {
    PayMethod { channel, method, payer, code: "" }
}

const fn scanned(channel: &'static str, method: &'static str, code: &'static str) -> PayMethod {
    PayMethod { channel, method, payer: r#"{"client_ip": "203.0.113.9"}"#, code }
}

impl PayMethod {
    pub(super) fn draw(random: &mut StdRng) -> &'static Self {
        let is_scanned = random.random_bool(SCANNED);
        let ways: Vec<&Self> = WAYS.iter().filter(|way| way.is_scanned() == is_scanned).collect();
        ways[random.random_range(0..ways.len())]
    }

    pub(super) fn is_scanned(&self) -> bool {
        !self.code.is_empty()
    }

    pub(super) fn is_wechat(&self) -> bool {
        self.method.starts_with("wechat")
    }

    /// The sandbox's operation that takes an order back.
    pub(super) fn taking_back(&self) -> &'static str {
        if self.is_scanned() { "cancel" } else { "close" }
    }

    /// Whether the provider notifies of this way's payments, and so of refunds in its console. Neither is so with codes at
    /// WeChat Pay; UnionPay's console is not played.
    pub(super) fn is_notified_of_console(&self) -> bool {
        self.channel != "unionpay" && !(self.is_wechat() && self.is_scanned())
    }

    /// The request for an order of the merchant; `scan` decides how a payer's code ends.
    pub(super) fn order(&self, serial: u64, amount: u64, scan: Option<Scan>) -> Value {
        let mut order = json!({
            "order_id": order_id(serial), "amount": {"value": amount, "currency": "CNY"}, "description": "混沌 chaos",
            "method": self.method, "payer": serde_json::from_str::<Value>(self.payer).unwrap_or_default(),
            "return_url": "https://shop.example.com/thanks",
        });
        if let Some(scan) = scan {
            order["payer"]["auth_code"] = format!("{}{serial:012}{}", self.code, scan.code_end()).into();
            // Two channels serve the same method.
            order["channel"] = self.channel.into();
        }
        order
    }
}

pub(super) fn order_id(serial: u64) -> String {
    format!("o-{serial}")
}

/// One route for each method, to all channels that serve it.
pub(super) fn routes() -> String {
    let mut methods: Vec<&str> = WAYS.iter().map(|way| way.method).collect();
    methods.dedup();
    let route = |method: &str| {
        let serving = WAYS.iter().filter(|way| way.method == method);
        let to: Vec<String> = serving.map(|way| format!("{{ channel = \"{}\" }}", way.channel)).collect();
        format!("[[route]]\nmatch = {{ method = \"{method}\" }}\nto = [{}]\n", to.join(", "))
    };
    methods.into_iter().map(route).collect()
}
