//! Authentication of requests: required headers, and the signature over method, path, time, nonce and body.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::request::Parts;
use serde_json::json;

use super::reply::Reply;
use super::scheme::V3Scheme;
use crate::account::v3_scheme::Account;
use crate::account::{self, Accounts};

const FIELDS: [&str; 5] = ["mchid", "nonce_str", "signature", "serial_no", "timestamp"];

/// Parsed `Authorization` header.
pub(super) struct Claim<'a> {
    fields: BTreeMap<&'a str, &'a str>,
}

/// Checks the headers that every request requires.
pub(super) fn check_headers(parts: &Parts) -> Result<(), Reply> {
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refuse = |name: &str, issue: &str| {
        let detail = json!({"location": "header", "field": name, "issue": issue});
        Err(Reply::detailed(400, "PARAM_ERROR", "Http头缺少Accept或User-Agent，或Content-Type不正确", detail))
    };
    let is_json = |value: &str| value.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    if !text("accept").split(',').any(is_json) {
        return refuse("Accept", "must be application/json");
    }
    if text("user-agent").trim().is_empty() {
        return refuse("User-Agent", "must not be empty");
    }
    if parts.method == http::Method::POST && !is_json(text("content-type")) {
        return refuse("Content-Type", "must be application/json");
    }
    Ok(())
}

/// Parses the `Authorization` header.
pub(super) fn read<'a>(scheme: &V3Scheme, headers: &'a HeaderMap) -> Result<Claim<'a>, Reply> {
    let bad = |issue| {
        refusal("authorization", "Http头Authorization值格式错误，请参考《微信支付商户REST API签名规则》", issue)
    };
    let mut values = headers.get_all("authorization").iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| bad("not ASCII"))?,
        _ => return Err(bad("there must be one Authorization header")),
    };
    let rest = value.strip_prefix(scheme.authorization).and_then(|rest| rest.strip_prefix(' '));
    let rest = rest.ok_or_else(|| bad("the scheme must be WECHATPAY2-SHA256-RSA2048"))?;
    let mut fields = BTreeMap::new();
    for part in rest.split(',') {
        let (name, quoted) = part.trim_start().split_once('=').ok_or_else(|| bad("not name=\"value\""))?;
        let value = quoted.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let value = value.ok_or_else(|| bad("a value without its quotes"))?;
        if !FIELDS.contains(&name) || value.contains('"') || fields.insert(name, value).is_some() {
            return Err(bad("an unknown or doubled attribute"));
        }
    }
    if fields.len() != FIELDS.len() {
        return Err(bad("an attribute is missing"));
    }
    Ok(Claim { fields })
}

impl Claim<'_> {
    /// Returns the account of the header's mchid.
    pub(super) fn account(&self, scheme: &V3Scheme, accounts: &Accounts) -> Result<Arc<Account>, Reply> {
        let account = account::typed::<Account>(accounts, self.field("mchid"));
        let account = account.filter(|account| account.scheme.name == scheme.name);
        account.ok_or_else(|| refusal("mchid", "商户号不存在", "unknown mchid"))
    }

    /// Returns the nonce, which must be unique.
    pub(super) fn nonce(&self) -> &str {
        self.field("nonce_str")
    }

    /// Checks everything except the uniqueness of the nonce.
    pub(super) fn check(&self, account: &Account, parts: &Parts, body: &[u8], now: u64) -> Result<(), Reply> {
        if !self.field("serial_no").eq_ignore_ascii_case(&account.merchant.serial) {
            return Err(refusal("serial_no", "商户证书序列号有误", "not this merchant's certificate"));
        }
        let nonce = self.nonce();
        if !(1..=32).contains(&nonce.len()) || !nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(refusal("nonce_str", "随机串格式错误", "must be 1 to 32 letters and digits"));
        }
        let timestamp = self.field("timestamp");
        let seconds = timestamp.parse::<u64>().ok().filter(|_| timestamp.bytes().all(|byte| byte.is_ascii_digit()));
        if seconds.is_none_or(|seconds| seconds.abs_diff(now) > 300) {
            return Err(refusal("timestamp", "时间戳与服务器时间相差过大", "more than 5 minutes off"));
        }
        let uri = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let text = [format!("{}\n{uri}\n{timestamp}\n{nonce}\n", parts.method).as_bytes(), body, b"\n"].concat();
        let signature = STANDARD.decode(self.field("signature")).unwrap_or_default();
        if account.merchant.verifies(&text, &signature) {
            return Ok(());
        }
        let shown: String = String::from_utf8_lossy(&text).chars().take(200).collect();
        let detail = json!({
            "detail": {"issue": "sign not match"},
            "field": "signature",
            "location": "authorization",
            "sign_information": {
                "method": parts.method.as_str(),
                "sign_message_length": text.len(),
                "truncated_sign_message": shown,
                "url": uri,
            },
        });
        Err(Reply::detailed(401, "SIGN_ERROR", "错误的签名，验签失败", detail))
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).copied().unwrap_or_default()
    }
}

/// Returns a response with status 401 that names the invalid attribute.
pub(super) fn refusal(field: &str, message: &str, issue: &str) -> Reply {
    let detail = json!({"detail": {"issue": issue}, "field": field, "location": "authorization"});
    Reply::detailed(401, "SIGN_ERROR", message, detail)
}
