//! Account of a UnionPay channel: one merchant number with its protocol settings.

use std::time::Duration;

use super::super::{BuildContext, Secrets, link};
use super::chain::{Chain, Owners};
use super::fields::Codec;
use super::signature::Method;
use crate::settings::Settings;

pub(super) const SECURE_KEY: &str = "secure_key";
pub(super) const ROOT: &str = "root_cert";
pub(super) const MIDDLE: &str = "middle_cert";

const GATEWAY: &str = "https://gateway.95516.com";
const TEST_GATEWAY: &str = "https://gateway.test.95516.com";
/// Default time in which an order can be paid.
const DEFAULT_PAY_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// Settings of one merchant account.
pub(super) struct Account {
    pub(super) mer_id: String,
    /// Account name: `merId`, or `merId/subMerId` on a platform. Payments of one sub-merchant can only be queried with
    /// both numbers.
    pub(super) name: String,
    pub(super) method: Method,
    pub(super) codec: Codec,
    /// Base URL to which the payer's browser posts the form, without a path.
    pub(super) gateway: String,
    pub(super) channel_type: String,
    /// Merchant that a platform sells for.
    pub(super) sub_merchant: Option<SubMerchant>,
    /// Terminal number, for scanned payments.
    pub(super) term_id: Option<String>,
    pub(super) pay_timeout: Duration,
    /// True if a full refund on the clearing day of the payment is sent as an undo (消费撤销).
    pub(super) undo: bool,
}

/// Merchant of a platform.
pub(super) struct SubMerchant {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) abbreviation: String,
}

/// Reads `[account]` and builds the signature method from `[keys]`. Reports every problem to `settings` and returns
/// `None` if there is one.
pub(super) fn read(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Account> {
    let suggestion = "copy the merchant number (商户号) from merchant.unionpay.com, as in merId = \"777290058110048\"";
    let mer_id: Option<String> = settings.required_as("merId", suggestion);
    let mer_id = mer_id.filter(|id| {
        let is_valid = id.len() == 15 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_valid || problem(settings, "merId", "the merId must be 15 letters and digits", suggestion)
    });
    let codec = choice(settings, "codec", &[("form", Codec::Form), ("json", Codec::Json)]);
    let owners = choice(settings, "environment", &[("production", Owners::Production), ("test", Owners::Test)]);
    let encoding = choice(settings, "encoding", &[("UTF-8", ())]);
    let channel_type = choice(settings, "channel_type", &[("08", "08"), ("07", "07")]);
    let gateway = gateway(settings, if owners == Some(Owners::Test) { TEST_GATEWAY } else { GATEWAY });
    let (pay_timeout, term_id) = (pay_timeout(settings), term_id(settings));
    let sub_merchant = sub_merchant(settings);
    let undo = settings.or("undo", false);
    let methods = [("01", Sign::Rsa), ("11", Sign::Sha256), ("12", Sign::Sm3), ("21", Sign::Sm2)];
    let method = choice(settings, "sign_method", &methods).zip(owners);
    let method = method.and_then(|(sign, owners)| read_method(settings, given, sign, owners));
    encoding?;
    let (mer_id, sub_merchant) = (mer_id?, sub_merchant?);
    let name = sub_merchant.as_ref().map_or_else(|| mer_id.clone(), |merchant| format!("{mer_id}/{}", merchant.id));
    Some(Account {
        mer_id,
        name,
        method: method?,
        codec: codec?,
        gateway: gateway?,
        channel_type: channel_type?.to_owned(),
        sub_merchant,
        term_id: term_id?,
        pay_timeout: pay_timeout?,
        undo,
    })
}

/// Reports a problem and returns `false`.
fn problem(settings: &Settings<'_>, key: &str, message: impl Into<String>, suggestion: &str) -> bool {
    settings.problem(key, message, Some(suggestion.to_owned()));
    false
}

/// Reads one of these words; returns the first if the key is missing.
fn choice<T: Copy>(settings: &mut Settings<'_>, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
    let given: Option<String> = settings.optional(key);
    settings.choices(key, words.iter().map(|(choice, _)| *choice));
    let Some(given) = given else {
        let is_wrong = settings.has(key);
        return words.first().filter(|_| !is_wrong).map(|(_, meaning)| *meaning);
    };
    let found = words.iter().find(|(choice, _)| *choice == given).map(|(_, meaning)| *meaning);
    if found.is_none() {
        let known: Vec<String> = words.iter().map(|(choice, _)| format!("\"{choice}\"")).collect();
        let message = format!("`{key}` must be {}, not \"{given}\"", known.join(" or "));
        settings.problem(key, message, None);
    }
    found
}

fn gateway(settings: &mut Settings<'_>, default: &str) -> Option<String> {
    let url: String = settings.or("gateway", default.to_owned());
    let host = url.split_once("://").map_or("", |(_, host)| host);
    let suggestion =
        "in production gateway = \"https://gateway.95516.com\", for tests \"https://gateway.test.95516.com\"";
    let is_valid = link::is_safe(&url) && !host.contains(['/', '?', '#']);
    (is_valid || problem(settings, "gateway", "the gateway must be https:// with a host, without a path", suggestion))
        .then_some(url)
}

fn pay_timeout(settings: &mut Settings<'_>) -> Option<Duration> {
    let timeout: Duration = settings.or("pay_timeout", DEFAULT_PAY_TIMEOUT);
    let is_valid = (60..=30 * 24 * 3600).contains(&timeout.as_secs());
    let suggestion = "pay_timeout = \"2h\" is the time in which an order without `expires_at` can be paid";
    (is_valid || problem(settings, "pay_timeout", "`pay_timeout` must be from \"1m\" to \"30d\"", suggestion))
        .then_some(timeout)
}

/// Returns `Some(None)` if the value is not configured, `None` if it is invalid.
fn term_id(settings: &mut Settings<'_>) -> Option<Option<String>> {
    let id: Option<String> = settings.optional("term_id");
    let is_valid = |id: &String| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let suggestion = "copy the till's number (终端号) from the contract, as in term_id = \"00000001\"";
    let is_right = id.as_ref().is_none_or(is_valid)
        || problem(settings, "term_id", "the term_id must be 8 letters and digits", suggestion);
    is_right.then_some(id)
}

fn sub_merchant(settings: &mut Settings<'_>) -> Option<Option<SubMerchant>> {
    let mut read = |key: &'static str, max_length: usize| -> Option<String> {
        let text: String = settings.optional(key)?;
        let length = text.chars().count();
        let is_valid = (1..=max_length).contains(&length) && !text.contains(['&', '=', '{', '}', '[', ']']);
        let message = format!("`{key}` must have 1 to {max_length} characters, without & = {{ }} [ ]");
        let suggestion = "use the merchant's data as registered with UnionPay (二级商户)";
        (is_valid || problem(settings, key, message, suggestion)).then_some(text)
    };
    let texts = [read("subMerId", 15), read("subMerName", 40), read("subMerAbbr", 16)];
    let keys = ["subMerId", "subMerName", "subMerAbbr"];
    let missing: Vec<&str> = keys.into_iter().filter(|key| !settings.has(key)).collect();
    if missing.len() == keys.len() {
        return Some(None);
    }
    let suggestion =
        "a platform account (accessType 2) needs subMerId, subMerName and subMerAbbr; other accounts need none of them";
    if !missing.is_empty() {
        problem(settings, "subMerId", format!("`{}` is missing", missing.join("`, `")), suggestion);
    }
    let [Some(id), Some(name), Some(abbreviation)] = texts else { return None };
    Some(Some(SubMerchant { id, name, abbreviation }))
}

#[derive(Clone, Copy)]
enum Sign {
    Rsa,
    Sha256,
    Sm3,
    Sm2,
}

fn read_method(settings: &Settings<'_>, given: &BuildContext<'_>, sign: Sign, owners: Owners) -> Option<Method> {
    match sign {
        Sign::Rsa => certificate_chain(settings, given, "rsa-sha256", owners).map(Method::Rsa),
        Sign::Sm2 => certificate_chain(settings, given, "sm2-sm3", owners).map(Method::Sm2),
        Sign::Sha256 => secure_key(settings, given.secrets).map(Method::sha256),
        Sign::Sm3 => secure_key(settings, given.secrets).map(Method::sm3),
    }
}

fn secure_key<'a>(settings: &Settings<'_>, secrets: &'a Secrets) -> Option<&'a [u8]> {
    let key = secrets.get(SECURE_KEY);
    if key.is_none() {
        let suggestion = "add `secure_key = \"env:…\"` under `[keys]`: the key (密钥) from merchant.unionpay.com";
        problem(settings, "sign_method", "this `sign_method` needs the shared key `secure_key`", suggestion);
    }
    key.map(|key| key.expose())
}

/// Builds the certificate chain of a method that signs with a private key and verifies certificates.
fn certificate_chain(
    settings: &Settings<'_>,
    given: &BuildContext<'_>,
    algorithm: &str,
    owners: Owners,
) -> Option<Chain> {
    // A rejected key was reported already; it is not missing.
    if settings.problems().are_keys_wrong() {
        return None;
    }
    let has_key = given.algorithm == Some(algorithm);
    if !has_key {
        let message = format!("this `sign_method` needs the merchant's private key for `{algorithm}`");
        let suggestion = format!(
            "add `sign = {{ algorithm = \"{algorithm}\", file = \"acp_sign.pfx\", password = \"env:…\" }}` under `[keys]`; or \
             a PEM file that holds certificate and private key, which has no password"
        );
        problem(settings, "sign_method", message, &suggestion);
    }
    let certificate = |name: &str| {
        let found = given.secrets.get(name);
        if found.is_none() {
            let message = format!("this `sign_method` needs `{name}`, to verify UnionPay's signatures");
            let suggestion =
                format!("add `{name} = \"file:PATH\"` under `[keys]`: it comes with UnionPay's SDK (acp_prod_*.cer)");
            problem(settings, "sign_method", message, &suggestion);
        }
        found.map(|secret| secret.expose())
    };
    let (root, middle) = (certificate(ROOT), certificate(MIDDLE));
    let (true, Some(root), Some(middle)) = (has_key, root, middle) else { return None };
    let wrong = |why: String| {
        let suggestion = "take both from the same SDK and environment (acp_prod_*.cer, acp_test_*.cer)";
        problem(settings, "sign_method", why, suggestion)
    };
    Chain::new(middle, root, owners).map_err(wrong).ok()
}
