//! `[account]` of a channel: one merchant number and how it talks.

use std::time::Duration;

use super::super::{BuildContext, Provider, Secrets, link};
use super::UnionPay;
use super::chain::{Chain, Owners};
use super::fields::Codec;
use super::signature::Method;
use crate::settings::Settings;

pub(super) const SECURE_KEY: &str = "secure_key";
pub(super) const ROOT: &str = "root_cert";
pub(super) const MIDDLE: &str = "middle_cert";

const GATEWAY: &str = "https://gateway.95516.com";
const TEST_GATEWAY: &str = "https://gateway.test.95516.com";
/// How long an order can be paid when nothing else is asked for.
const PAY_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// One merchant account.
pub(super) struct Account {
    pub(super) mer_id: String,
    /// With the merchant's number behind a platform's: what one was paid is known there only.
    pub(super) name: String,
    pub(super) method: Method,
    pub(super) codec: Codec,
    /// Where the payer's browser posts the form, without a path.
    pub(super) gateway: String,
    pub(super) channel_type: String,
    /// Whom a platform sells for.
    pub(super) sub_merchant: Option<SubMerchant>,
    /// The till's number, for scanned payments.
    pub(super) term_id: Option<String>,
    pub(super) pay_timeout: Duration,
    /// Whether the whole of a payment is undone (消费撤销) on its clearing day instead of refunded.
    pub(super) undo: bool,
}

/// A merchant of a platform.
pub(super) struct SubMerchant {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) abbreviation: String,
}

pub(super) fn build(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    let suggestion = "copy the merchant number (商户号) from merchant.unionpay.com, as in merId = \"777290058110048\"";
    let mer_id: Option<String> = settings.required_as("merId", suggestion);
    let mer_id = mer_id.filter(|id| {
        let fits = id.len() == 15 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fits || problem(settings, "merId", "the merId must be 15 letters and digits", suggestion)
    });
    let codec = word(settings, "codec", &[("form", Codec::Form), ("json", Codec::Json)]);
    let owners = word(settings, "environment", &[("production", Owners::Production), ("test", Owners::Test)]);
    let encoding = word(settings, "encoding", &[("UTF-8", ())]);
    let channel_type = word(settings, "channel_type", &[("08", "08"), ("07", "07")]);
    let gateway = gateway(settings, if owners == Some(Owners::Test) { TEST_GATEWAY } else { GATEWAY });
    let (pay_timeout, term_id) = (pay_timeout(settings), term_id(settings));
    let sub_merchant = sub_merchant(settings);
    let undo = settings.or("undo", false);
    let methods = [("01", Sign::Rsa), ("11", Sign::Sha256), ("12", Sign::Sm3), ("21", Sign::Sm2)];
    let method = word(settings, "sign_method", &methods).zip(owners);
    let method = method.and_then(|(sign, owners)| read_method(settings, given, sign, owners));
    encoding?;
    let (mer_id, sub_merchant) = (mer_id?, sub_merchant?);
    let name = sub_merchant.as_ref().map_or_else(|| mer_id.clone(), |merchant| format!("{mer_id}/{}", merchant.id));
    Some(Box::new(UnionPay(Account {
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
    })))
}

/// Notes a mistake; never true.
fn problem(settings: &Settings<'_>, key: &str, message: impl Into<String>, suggestion: &str) -> bool {
    settings.problem(key, message, Some(suggestion.to_owned()));
    false
}

/// One of these words; the first when the key is missing.
fn word<T: Copy>(settings: &mut Settings<'_>, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
    let given: Option<String> = settings.optional(key);
    settings.choices(key, words.iter().map(|(word, _)| *word));
    let Some(given) = given else {
        let is_wrong = settings.has(key);
        return words.first().filter(|_| !is_wrong).map(|(_, meaning)| *meaning);
    };
    let found = words.iter().find(|(word, _)| *word == given).map(|(_, meaning)| *meaning);
    if found.is_none() {
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let message = format!("`{key}` must be {}, not \"{given}\"", known.join(" or "));
        settings.problem(key, message, None);
    }
    found
}

fn gateway(settings: &mut Settings<'_>, usual: &str) -> Option<String> {
    let url: String = settings.or("gateway", usual.to_owned());
    let host = url.split_once("://").map_or("", |(_, host)| host);
    let suggestion =
        "in production gateway = \"https://gateway.95516.com\", for tests \"https://gateway.test.95516.com\"";
    let fits = link::is_safe(&url) && !host.contains(['/', '?', '#']);
    (fits || problem(settings, "gateway", "the gateway must be https:// and a host, without a path", suggestion))
        .then_some(url)
}

fn pay_timeout(settings: &mut Settings<'_>) -> Option<Duration> {
    let timeout: Duration = settings.or("pay_timeout", PAY_TIMEOUT);
    let fits = (60..=30 * 24 * 3600).contains(&timeout.as_secs());
    let suggestion = "pay_timeout = \"2h\" is how long an order can be paid when no `expires_at` is asked for";
    (fits || problem(settings, "pay_timeout", "`pay_timeout` must be from \"1m\" to \"30d\"", suggestion))
        .then_some(timeout)
}

/// Nothing inside where it is not given, nothing at all where it is wrong.
fn term_id(settings: &mut Settings<'_>) -> Option<Option<String>> {
    let id: Option<String> = settings.optional("term_id");
    let fits = |id: &String| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let suggestion = "copy the till's number (终端号) from the contract, as in term_id = \"00000001\"";
    let is_right = id.as_ref().is_none_or(fits)
        || problem(settings, "term_id", "the term_id must be 8 letters and digits", suggestion);
    is_right.then_some(id)
}

fn sub_merchant(settings: &mut Settings<'_>) -> Option<Option<SubMerchant>> {
    let mut read = |key: &'static str, most: usize| -> Option<String> {
        let text: String = settings.optional(key)?;
        let length = text.chars().count();
        let fits = (1..=most).contains(&length) && !text.contains(['&', '=', '{', '}', '[', ']']);
        let message = format!("`{key}` must have 1 to {most} characters, none of them one of & = {{ }} [ ]");
        let suggestion = "give the merchant as it was announced to UnionPay (二级商户)";
        (fits || problem(settings, key, message, suggestion)).then_some(text)
    };
    let texts = [read("subMerId", 15), read("subMerName", 40), read("subMerAbbr", 16)];
    let keys = ["subMerId", "subMerName", "subMerAbbr"];
    let missing: Vec<&str> = keys.into_iter().filter(|key| !settings.has(key)).collect();
    if missing.len() == keys.len() {
        return Some(None);
    }
    let suggestion =
        "an account of a platform (accessType 2) names subMerId, subMerName and subMerAbbr; any other, none";
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
        Sign::Rsa => certified(settings, given, "rsa-sha256", owners).map(Method::Rsa),
        Sign::Sm2 => certified(settings, given, "sm2-sm3", owners).map(Method::Sm2),
        Sign::Sha256 => secure_key(settings, given.secrets).map(Method::sha256),
        Sign::Sm3 => secure_key(settings, given.secrets).map(Method::sm3),
    }
}

fn secure_key<'a>(settings: &Settings<'_>, secrets: &'a Secrets) -> Option<&'a [u8]> {
    let key = secrets.get(SECURE_KEY);
    if key.is_none() {
        let suggestion = "add `secure_key = \"env:…\"` under `[keys]`: the key (密钥) from merchant.unionpay.com";
        problem(settings, "sign_method", "this `sign_method` needs the key that both sides have", suggestion);
    }
    key.map(|key| key.expose())
}

/// What is needed to sign with a private key and to believe certificates.
fn certified(settings: &Settings<'_>, given: &BuildContext<'_>, algorithm: &str, owners: Owners) -> Option<Chain> {
    // What is refused is there, and was told of.
    if settings.problems().are_keys_wrong() {
        return None;
    }
    let signs = given.algorithm == Some(algorithm);
    if !signs {
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
            let message = format!("this `sign_method` needs `{name}`, to check what UnionPay signs");
            let suggestion =
                format!("add `{name} = \"file:PATH\"` under `[keys]`: it comes with UnionPay's SDK (acp_prod_*.cer)");
            problem(settings, "sign_method", message, &suggestion);
        }
        found.map(|secret| secret.expose())
    };
    let (root, middle) = (certificate(ROOT), certificate(MIDDLE));
    let (true, Some(root), Some(middle)) = (signs, root, middle) else { return None };
    let wrong = |why: String| {
        let suggestion = "take both from the same SDK and environment (acp_prod_*.cer, acp_test_*.cer)";
        problem(settings, "sign_method", why, suggestion)
    };
    Chain::new(middle, root, owners).map_err(wrong).ok()
}
