//! Who sends a request: the parameters that each must have, and the signature over all of them.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use serde_json::Value;

use super::Method;
use super::form::Form;
use super::reply::Reply;
use crate::sandbox::account::alipay::Account;
use crate::sandbox::account::{self, Accounts};

/// A request that may be executed.
pub(super) struct Admitted {
    pub(super) account: Arc<Account>,
    pub(super) method: Method,
    /// `None` when it is no JSON.
    pub(super) content: Option<Value>,
}

/// Every parameter that there is outside `biz_content`.
const KNOWN: [&str; 14] = [
    "app_id",
    "method",
    "format",
    "charset",
    "sign_type",
    "sign",
    "timestamp",
    "version",
    "notify_url",
    "return_url",
    "app_auth_token",
    "biz_content",
    "app_cert_sn",
    "alipay_root_cert_sn",
];
/// How far a request's time may be off.
const PATIENCE_SECONDS: u64 = 15 * 60;

/// Checks everything but the business. Refusals are never signed: their sender is not known.
pub(super) fn admit(form: &Form, accounts: &Accounts, now: Timestamp) -> Result<Admitted, Reply> {
    let method = needed(form, "method")?;
    let app_id = needed(form, "app_id")?;
    let Some(account::Account::Alipay(account)) = accounts.get(app_id) else {
        return Err(invalid("isv.invalid-app-id", "无效的AppID参数"));
    };
    if needed(form, "sign_type")? != "RSA2" {
        return Err(invalid("isv.invalid-signature-type", "无效的签名类型，应用的密钥为RSA2"));
    }
    let sign = needed(form, "sign")?;
    if !needed(form, "charset")?.eq_ignore_ascii_case("utf-8") {
        return Err(invalid("isv.invalid-charset", "字符集错误，沙箱只接受utf-8"));
    }
    if !is_lately(needed(form, "timestamp")?, now) {
        return Err(invalid("isv.invalid-timestamp", "非法的时间戳参数：与服务器时间相差超过15分钟，或不是北京时间"));
    }
    if needed(form, "version")? != "1.0" {
        return Err(invalid("isv.invalid-version", "无效的版本参数"));
    }
    if form.get("format").is_some_and(|format| format != "JSON") {
        return Err(invalid("isv.invalid-format", "无效的数据格式"));
    }
    if let Some(name) = form.names().find(|name| !KNOWN.contains(name)) {
        return Err(invalid("isv.invalid-parameter", &format!("未知参数：{name}")));
    }
    check_certificates(form, account)?;
    let text = form.signed_text(&["sign"]);
    let signature = STANDARD.decode(sign).unwrap_or_default();
    if !account.application.verifies(text.as_bytes(), &signature) {
        let shown: String = text.chars().take(300).collect();
        return Err(invalid("isv.invalid-signature", &format!("验签出错，待验签字符串：{shown}")));
    }
    if form.get("app_auth_token").is_some() {
        return Err(Reply::gateway("20001", "aop.invalid-app-auth-token", "无效的应用授权令牌"));
    }
    let method = Method::named(method).ok_or_else(|| invalid("isv.invalid-method", "不存在的方法名"))?;
    for name in ["notify_url", "return_url"] {
        if form.get(name).is_some_and(|url| !is_url(url)) {
            return Err(invalid("isv.invalid-parameter", &format!("{name}必须是不超过256个字符的http(s)地址")));
        }
    }
    let content = serde_json::from_str(needed(form, "biz_content")?).ok();
    Ok(Admitted { account: account.clone(), method, content })
}

fn needed<'a>(form: &'a Form, name: &str) -> Result<&'a str, Reply> {
    form.get(name).ok_or_else(|| {
        let sub_code = match name {
            "sign" => "isv.missing-signature".to_owned(),
            "sign_type" => "isv.missing-signature-type".to_owned(),
            other => format!("isv.missing-{}", other.replace('_', "-")),
        };
        Reply::gateway("40001", &sub_code, &format!("缺少参数{name}"))
    })
}

fn check_certificates(form: &Form, account: &Account) -> Result<(), Reply> {
    let wanted = account.certificates.as_ref();
    let wanted = [
        ("app_cert_sn", "isv.invalid-app-cert-sn", wanted.map(|sn| sn.app_cert_sn.as_str())),
        ("alipay_root_cert_sn", "isv.invalid-alipay-root-cert-sn", wanted.map(|sn| sn.alipay_root_cert_sn.as_str())),
    ];
    match wanted.iter().find(|(name, _, wanted)| form.get(name) != *wanted) {
        Some((name, sub_code, _)) => Err(invalid(sub_code, &format!("{name}与应用的接口加签方式不一致"))),
        None => Ok(()),
    }
}

/// `yyyy-MM-dd HH:mm:ss` in China, and nothing looser.
fn is_lately(text: &str, now: Timestamp) -> bool {
    let form = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    if !form.eq(*b"0000-00-00 00:00:00") {
        return false;
    }
    let time = DateTime::strptime("%Y-%m-%d %H:%M:%S", text);
    let time = time.and_then(|time| time.to_zoned(TimeZone::fixed(Offset::constant(8))));
    time.is_ok_and(|time| time.timestamp().as_second().abs_diff(now.as_second()) <= PATIENCE_SECONDS)
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text.len() <= 256
        && rest.is_some_and(|rest| !rest.is_empty())
        && text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

fn invalid(sub_code: &str, message: &str) -> Reply {
    Reply::gateway("40002", sub_code, message)
}
