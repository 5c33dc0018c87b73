//! `[account]` of an Alipay channel.

use super::super::{BuildContext, link};
use super::certificates;
use super::sealed::Sealer;
use crate::settings::Settings;

pub(super) const APP_CERT: &str = "app_cert";
pub(super) const ROOT_CERT: &str = "root_cert";
pub(super) const AES: &str = "aes";

const GATEWAY: &str = "https://openapi.alipay.com/gateway.do";

/// Ids and settings of one app, under Alipay's field names. An answer or notification that contains one of these ids
/// must match it.
pub(super) struct Account {
    /// Account name: the app id, in partner mode `app_id/seller_id`.
    pub(super) name: String,
    pub(super) app_id: String,
    pub(super) seller_id: Option<String>,
    /// Mini program in which the payer pays, if it is another app than `app_id`.
    pub(super) op_app_id: Option<String>,
    /// Token by which the merchant authorized a partner to act for it.
    pub(super) app_auth_token: Option<String>,
    /// Base URL of links for the payer's browser.
    pub(super) gateway: String,
    /// Signature type: `RSA2` or `RSA`.
    pub(super) sign_type: &'static str,
    /// Serial numbers for certificate mode; `None` in key mode.
    pub(super) certificates: Option<Certificates>,
    /// Encryption of contents; `None` if contents are not encrypted.
    pub(super) sealer: Option<Sealer>,
    pub(super) protocol: Protocol,
}

/// Alipay protocol of requests and answers. Links, order strings and notifications have the same format in both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Signed forms, all sent to one address.
    Form,
    /// Signed JSON, with a path for each interface.
    V3,
}

/// Certificate serial numbers, computed by Alipay's rule.
pub(super) struct Certificates {
    pub(super) app: String,
    pub(super) root: String,
    /// Root certificates (DER) that the chain of Alipay's next certificate must lead to.
    pub(super) roots: Vec<Vec<u8>>,
}

/// Reads `[account]`. Secrets were checked by the provider spec's own checks before, so an invalid secret is not
/// reported again.
pub(super) fn read(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Account> {
    let problems_before = settings.problems().len();
    let app_id =
        read_token(settings, true, "app_id", "copy the APPID from open.alipay.com, as in \"2021000000000001\"");
    let seller_id = read_token(settings, false, "seller_id", "copy the seller's PID, as in \"2088000000000001\"");
    let op_app_id =
        read_token(settings, false, "op_app_id", "copy the mini program's APPID, as in \"2021000000000002\"");
    let token = read_token(settings, false, "app_auth_token", "copy the token that the merchant's consent gave");
    let gateway = settings.optional("gateway").unwrap_or_else(|| GATEWAY.to_owned());
    if !link::is_safe(&gateway) || gateway.contains(['?', '#']) {
        let suggestion = format!("remove it to use the default \"{GATEWAY}\"");
        settings.problem("gateway", "the gateway must be an https:// URL without `?` and `#`", Some(suggestion));
    }
    let protocol = protocol(settings, given.algorithm);
    let secret = |name| given.secrets.get(name).map(|secret| secret.expose());
    let certificates = match (secret(APP_CERT), secret(ROOT_CERT)) {
        (Some(app), Some(root)) => Some(Certificates {
            app: certificates::app_serial(app)?,
            root: certificates::root_serials(root)?,
            roots: certificates::roots(root),
        }),
        (None, None) => None,
        // A rejected file was reported already. It is not reported as missing too.
        _ if settings.problems().are_keys_wrong() => return None,
        (app, _) => {
            let (has, lacks) = if app.is_some() { (APP_CERT, ROOT_CERT) } else { (ROOT_CERT, APP_CERT) };
            let message = format!("`[keys]` has `{has}` but no `{lacks}`: certificate mode needs both, key mode none");
            settings.problem(lacks, message, Some(format!("add `{lacks} = \"file:…\"` to `[keys]`")));
            return None;
        }
    };
    // After an error no further check runs, so that an invalid value is not reported as missing.
    if settings.problems().len() > problems_before {
        return None;
    }
    let name = match (&token, &seller_id) {
        (None, _) => app_id.clone()?,
        (Some(_), Some(seller)) => format!("{}/{seller}", app_id.as_ref()?),
        (Some(_), None) => {
            let suggestion = "add the PID of the merchant that gave the token, as in seller_id = \"2088000000000001\"";
            settings.problem("seller_id", "`seller_id` is needed with `app_auth_token`", Some(suggestion.to_owned()));
            return None;
        }
    };
    Some(Account {
        name,
        app_id: app_id?,
        seller_id,
        op_app_id,
        app_auth_token: token,
        gateway,
        sign_type: if given.algorithm == Some("rsa-sha1") { "RSA" } else { "RSA2" },
        certificates,
        sealer: secret(AES).and_then(Sealer::new),
        protocol: protocol?,
    })
}

fn protocol(settings: &mut Settings<'_>, algorithm: Option<&str>) -> Option<Protocol> {
    let name: Option<String> = settings.optional("protocol");
    settings.choices("protocol", ["form", "v3"]);
    match name.as_deref() {
        None | Some("form") => Some(Protocol::Form),
        Some("v3") if algorithm == Some("rsa-sha1") => {
            let suggestion = "set `algorithm = \"rsa-sha256\"` in `keys.sign`, or remove `protocol`";
            settings.problem("protocol", "the v3 protocol does not support rsa-sha1", Some(suggestion.to_owned()));
            None
        }
        Some("v3") => Some(Protocol::V3),
        Some(_) => {
            let suggestion = "write \"form\" (the default) or \"v3\"";
            settings.problem("protocol", "unknown protocol", Some(suggestion.to_owned()));
            None
        }
    }
}

/// Reads a number or token that is sent unchanged.
fn read_token(settings: &mut Settings<'_>, required: bool, key: &'static str, suggestion: &str) -> Option<String> {
    let value: String = if required { settings.required_as(key, suggestion) } else { settings.optional(key) }?;
    if (1..=64).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Some(value);
    }
    settings.problem(key, format!("`{key}` must be 1 to 64 letters and digits"), Some(suggestion.to_owned()));
    None
}
