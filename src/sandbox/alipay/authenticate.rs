//! Authentication of form requests: required parameters, and the signature over all of them.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::Method;
use super::codes::parse_china_time;
use super::reply::Reply;
use crate::account::alipay::Account;
use crate::account::{self, Accounts};
use crate::form::Form;

/// An authenticated request.
pub(super) struct AuthenticatedRequest {
    pub(super) account: Arc<Account>,
    pub(super) method: Method,
    /// `biz_content`; `None` if it is not JSON.
    pub(super) content: Option<Value>,
    /// URL for notifications.
    pub(super) notify_url: Option<String>,
}

/// Every parameter outside `biz_content`. Alipay's SDK sends its version in `alipay_sdk`.
const KNOWN: [&str; 15] = [
    "alipay_sdk",
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
/// Maximum difference between a request's timestamp and now, in seconds.
pub(super) const MAX_CLOCK_SKEW_SECONDS: u64 = 15 * 60;

/// Checks everything except the business rules. Rejections are unsigned, because the sender is unknown.
pub(super) fn authenticate(form: &Form, accounts: &Accounts, now: Timestamp) -> Result<AuthenticatedRequest, Reply> {
    let method = needed(form, "method")?;
    let app_id = needed(form, "app_id")?;
    let Some(account) = account::typed::<Account>(accounts, app_id) else {
        return Err(invalid("isv.invalid-app-id", "无效的AppID参数"));
    };
    if needed(form, "sign_type")? != "RSA2" {
        return Err(invalid("isv.invalid-signature-type", "无效的签名类型，应用的密钥为RSA2"));
    }
    let sign = needed(form, "sign")?;
    if !needed(form, "charset")?.eq_ignore_ascii_case("utf-8") {
        return Err(invalid("isv.invalid-charset", "字符集错误，沙箱只接受utf-8"));
    }
    if !is_recent(needed(form, "timestamp")?, now) {
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
    check_certificates(form, &account)?;
    let text = form.signed_text(&["sign"]);
    let signature = STANDARD.decode(sign).unwrap_or_default();
    if !account.application.verifies(text.as_bytes(), &signature) {
        let shown: String = text.chars().take(300).collect();
        return Err(invalid("isv.invalid-signature", &format!("验签出错，待验签字符串：{shown}")));
    }
    if form.get("app_auth_token") != account.app_auth_token.as_deref() {
        return Err(Reply::gateway("20001", "aop.invalid-app-auth-token", "无效的应用授权令牌"));
    }
    let method = Method::named(method).ok_or_else(|| invalid("isv.invalid-method", "不存在的方法名"))?;
    for name in ["notify_url", "return_url"] {
        if form.get(name).is_some_and(|url| !is_url(url)) {
            return Err(invalid("isv.invalid-parameter", &format!("{name}必须是不超过256个字符的http(s)地址")));
        }
    }
    let content = serde_json::from_str(needed(form, "biz_content")?).ok();
    let notify_url = form.get("notify_url").map(str::to_owned);
    Ok(AuthenticatedRequest { account, method, content, notify_url })
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

/// Returns whether the text is strictly `yyyy-MM-dd HH:mm:ss` in UTC+8 and close enough to now.
fn is_recent(text: &str, now: Timestamp) -> bool {
    let form = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    if !form.eq(*b"0000-00-00 00:00:00") {
        return false;
    }
    let time = parse_china_time(text);
    time.is_some_and(|time| time.as_second().abs_diff(now.as_second()) <= MAX_CLOCK_SKEW_SECONDS)
}

pub(super) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text.len() <= 256
        && rest.is_some_and(|rest| !rest.is_empty())
        && text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

pub(super) fn invalid(sub_code: &str, message: &str) -> Reply {
    Reply::gateway("40002", sub_code, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::keys::PublicKey;

    const KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAk8w0IoxJOUT+I0HJAeY0
IXope5AeWclrcaE2qX1P/KZaUDXKOC2FWepSUJpUiYHSWjm09p03IUXndwspel6b
kfJGQIwILizeOEk4ckuckAk/Eh0Dk3H8vZdJh9q/oNTKMCVMG1zk0u4BaXTKzTLt
/shoikG8HsYFgyyy9Hzc6A7BgRvk7v9IW7R/uY4DxF8NPh5kz79k8bIstxBwEalX
DEo+efI+xJ1f+M54lx6urTJvciwDZi4BuutyCZOIUoVJifvvfuwcnShyjPFB+9s7
upDc6G/YFfxfrkRjQhcIwyjZ4PUVHIAO0Bq2oJj7w658ipeeGcaUAH1Ll3gyM9Nw
kQIDAQAB
-----END PUBLIC KEY-----";
    /// Request as signed by three of Alipay's SDKs.
    const BODY: &str = "app_id=2021000000000001&biz_content=%7B%22out_trade_no%22%3A%22T20231115000001%22%2C%22total_amount%\
             22%3A%220.01%22%2C%22subject%22%3A%22%E6%B5%8B%E8%AF%95+a%2Bb%26c%3D%5C%22d%5C%22%22%2C%22product_co\
             de%22%3A%22FACE_TO_FACE_PAYMENT%22%7D&charset=utf-8&format=JSON&method=alipay.trade.precreate&notify\
             _url=https%3A%2F%2Fpay.example.com%2Fnotify%2Fali&sign=O%2FSZL12G4NnFskfJmLiYrK77L8SflGqJhISXXV6D%2F\
             R40RxaM%2Bv0%2BARmLjv1rxwrEe3OEE7Y79WiYHfP6dngoFOZ8SgnLENS9958Na9rLQZQAn68Kywa5MbPz9MMonhw9UYqn4i8yi\
             t3f0qjpc6vFzf2G9jUdRtkcTkMIOVh81VatLGoNryncHfG1X4zI0YkJEDj91qSTTZ%2BYrEEeOxKF9SZU7aAUOEjX63ICacooGqX\
             2znSjL60kUkgDjTaowFyOApbSNRiv323Qosvwax5QLgqnWERLzHcXs9xTK0ZDG0hMdMf7f27Da09hZA72RVXBgw%2BApG%2BaSbG\
             EA8hBOjS4KQ%3D%3D&sign_type=RSA2&timestamp=2023-11-15+06%3A13%3A20&version=1.0";

    #[test]
    fn request_signed_by_alipays_sdks_is_accepted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), KEY).unwrap();
        let key = PublicKey::read(file.path()).unwrap();
        let form = Form::default().with(BODY.as_bytes()).unwrap();
        let signature = STANDARD.decode(form.get("sign").unwrap()).unwrap();
        let text = form.signed_text(&["sign"]);
        assert!(key.verifies(text.as_bytes(), &signature));
        assert!(!key.verifies(text.replace("0.01", "0.02").as_bytes(), &signature));
    }

    #[test]
    fn timestamp_is_accepted_only_in_china_time_and_when_recent() {
        let now = "2023-11-15T06:13:20+08:00".parse().unwrap();
        for (text, good) in [
            ("2023-11-15 06:13:20", true),
            ("2023-11-15 06:28:20", true),
            ("2023-11-15 06:28:21", false),
            ("2023-11-14 22:13:20", false),
            ("2023-11-15T06:13:20", false),
            ("2023-13-15 06:13:20", false),
            ("2023-11-15 6:13:20", false),
        ] {
            assert_eq!(is_recent(text, now), good, "{text}");
        }
    }
}
