//! `[account]` of an Alipay channel.

use super::super::{BuildContext, link};
use super::certificates;
use super::sealed::Sealer;
use crate::settings::Settings;

pub(super) const APP_CERT: &str = "app_cert";
pub(super) const ROOT_CERT: &str = "root_cert";
pub(super) const AES: &str = "aes";

const GATEWAY: &str = "https://openapi.alipay.com/gateway.do";

/// One app, by Alipay's own names; every answer and notification that names them must name these.
pub(super) struct Account {
    /// Tells this account from all others: the app, and in partner mode the merchant too.
    pub(super) name: String,
    pub(super) app_id: String,
    pub(super) seller_id: Option<String>,
    /// The mini program in which the payer pays, when it is another app than `app_id`.
    pub(super) op_app_id: Option<String>,
    /// The merchant's leave for a partner to act for it.
    pub(super) app_auth_token: Option<String>,
    /// Where links lead the payer's browser.
    pub(super) gateway: String,
    /// `RSA2` or `RSA`.
    pub(super) sign_type: &'static str,
    /// Nothing when keys are exchanged bare.
    pub(super) certificates: Option<Certificates>,
    /// Nothing when contents go unencrypted.
    pub(super) sealer: Option<Sealer>,
    pub(super) protocol: Protocol,
}

/// In which of Alipay's two protocols it is asked; links, order strings and notifications have one form in both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Signed forms, all to one address.
    Form,
    /// Signed JSON, each interface at a path of its own.
    V3,
}

/// Serial numbers, as Alipay works them out.
pub(super) struct Certificates {
    pub(super) app: String,
    pub(super) root: String,
    /// The roots themselves, to which the chain of Alipay's next certificate must lead.
    pub(super) roots: Vec<Vec<u8>>,
}

/// Secrets are checked by the row's own checks before this is called, so a wrong one is not told a second time here.
pub(super) fn read(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Account> {
    let mistakes = settings.problems().len();
    let app_id = word(settings, true, "app_id", "copy the APPID from open.alipay.com, as in \"2021000000000001\"");
    let seller_id = word(settings, false, "seller_id", "copy the seller's PID, as in \"2088000000000001\"");
    let op_app_id = word(settings, false, "op_app_id", "copy the mini program's APPID, as in \"2021000000000002\"");
    let token = word(settings, false, "app_auth_token", "copy the token that the merchant's consent gave");
    let gateway = settings.optional("gateway").unwrap_or_else(|| GATEWAY.to_owned());
    if !link::is_safe(&gateway) || gateway.contains(['?', '#']) {
        let suggestion = format!("leave it away for \"{GATEWAY}\"");
        settings.problem("gateway", "the gateway must be an https:// URL without `?` and `#`", Some(suggestion));
    }
    let protocol = protocol(settings, given.algorithm);
    let secret = |name| given.secrets.get(name).map(|secret| secret.expose());
    let certificates = match (secret(APP_CERT), secret(ROOT_CERT)) {
        (Some(app), Some(root)) => Some(Certificates {
            app: certificates::app_number(app)?,
            root: certificates::root_number(root)?,
            roots: certificates::roots(root),
        }),
        (None, None) => None,
        // A file that was refused has been reported already; it is not missing too.
        _ if settings.problems().are_keys_wrong() => return None,
        (app, _) => {
            let (has, lacks) = if app.is_some() { (APP_CERT, ROOT_CERT) } else { (ROOT_CERT, APP_CERT) };
            let message = format!("`[keys]` has `{has}` but no `{lacks}`: certificate mode needs both, key mode none");
            settings.problem(lacks, message, Some(format!("add `{lacks} = \"file:…\"` to `[keys]`")));
            return None;
        }
    };
    // What is wrong must not be taken for what is missing.
    if settings.problems().len() > mistakes {
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
            let suggestion = "set `algorithm = \"rsa-sha256\"` in `keys.sign`, or take `protocol` away";
            settings.problem("protocol", "the v3 protocol knows no rsa-sha1", Some(suggestion.to_owned()));
            None
        }
        Some("v3") => Some(Protocol::V3),
        Some(_) => {
            let suggestion = "write \"form\" (the default) or \"v3\"";
            settings.problem("protocol", "there is no such protocol", Some(suggestion.to_owned()));
            None
        }
    }
}

/// A number or token that goes out as it stands.
fn word(settings: &mut Settings<'_>, required: bool, key: &'static str, suggestion: &str) -> Option<String> {
    let value: String = if required { settings.required_as(key, suggestion) } else { settings.optional(key) }?;
    if (1..=64).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Some(value);
    }
    settings.problem(key, format!("`{key}` must be 1 to 64 letters and digits"), Some(suggestion.to_owned()));
    None
}
