//! Error codes of Alipay's gateway, which checks a request before passing it on to an interface. A request refused by
//! the gateway was not executed.
//!
//! Source: `CommonErrorType` of Alipay's own Java SDK for the v3 protocol (API document of 2026-09-23), which writes
//! the names bare; Alipay's public list of gateway codes, which writes them with `isv.`, `isp.` or `aop.` beside a
//! number.

use super::codes::Class::{self, Busy, Declined, Unauthorized, Unclear};

/// Numbers of the form protocol, for answers whose name is not more specific. `40003` (a condition is not met) means
/// nothing by itself, and `40004` refers to the interface's own code.
const NUMBERS: &[(&str, Class)] = &[
    ("20000", Unclear),      // the service is unavailable
    ("20001", Unauthorized), // the token of partner mode
    ("40001", Declined),     // a parameter is missing
    ("40002", Declined),     // a parameter is wrong
    ("40005", Busy),         // called too often
    ("40006", Declined),     // no permission
];

/// Names without their prefix.
const NAMES: &[(&str, Class)] = &[
    // The gateway itself failed, or a service behind it failed.
    ("access-data-time-out", Unclear),
    ("invalid-response-data", Unclear),
    ("openid-error", Unclear),
    ("unknow-error", Unclear),
    ("unknown-sub-code", Unclear),
    // Called too often.
    ("app-auth-invoke-limit", Busy),
    ("app-call-limited", Busy),
    ("exceed-api-balance", Busy),
    ("method-call-limited", Busy),
    // Our application, key or signature is invalid.
    ("app-key-security-risk", Unauthorized),
    ("app-key-security-risk, app-cert-expired", Unauthorized), // one name in the list
    ("invalid-app-id", Unauthorized),
    ("invalid-app-state", Unauthorized),
    ("invalid-digest", Unauthorized),
    ("invalid-digest-type", Unauthorized),
    ("invalid-partnerid", Unauthorized),
    ("invalid-signature", Unauthorized),
    ("invalid-signature-type", Unauthorized),
    ("invalid-signature-type-said-interface", Unauthorized),
    ("missing-app-id", Unauthorized),
    ("missing-default-signature-type", Unauthorized),
    ("missing-signature", Unauthorized),
    ("missing-signature-config", Unauthorized), // no key was uploaded for the application
    ("missing-signature-key", Unauthorized),
    ("missing-signature-type", Unauthorized),
    ("unsupported-expired-app-key-sign", Unauthorized),
    // Our certificates are invalid.
    ("alipay-cert-not-exist", Unauthorized),
    ("app-cert-expired", Unauthorized),
    ("app-cert-not-exist", Unauthorized),
    ("invalid-alipay-root-cert-sn", Unauthorized),
    ("invalid-app-cert-sn", Unauthorized),
    ("missing-alipay-cert-sn", Unauthorized),
    ("missing-alipay-root-cert-sn", Unauthorized),
    ("missing-app-cert-sn", Unauthorized),
    // Our encryption key is invalid.
    ("decryption-error", Unauthorized),
    ("decryption-error-missing-encrypt-type", Unauthorized),
    ("decryption-error-not-valid-encrypt-key", Unauthorized),
    ("decryption-error-not-valid-encrypt-type", Unauthorized),
    ("decryption-error-unknown", Unauthorized),
    ("invalid-encrypt", Unauthorized),
    ("invalid-encrypt-type", Unauthorized),
    ("missing-encrypt-key", Unauthorized),
    ("missing-encrypt-type", Unauthorized),
    // Our clock or IP address is rejected.
    ("illegal-client-ip", Unauthorized),
    ("illegal-timestamp", Unauthorized),
    ("invalid-timestamp", Unauthorized),
    ("missing-timestamp", Unauthorized),
    // The merchant's authorization of a partner is invalid.
    ("app-auth-token-time-out", Unauthorized),
    ("app-unbind-partner", Unauthorized),
    ("auth-token-time-out", Unauthorized),
    ("invalid-app-auth-relations", Unauthorized),
    ("invalid-app-auth-token", Unauthorized),
    ("invalid-app-auth-token-no-api", Unauthorized),
    ("invalid-auth-relations", Unauthorized),
    ("invalid-auth-token", Unauthorized),
    ("missing-app-access-token", Unauthorized),
    ("missing-session", Unauthorized),
    ("not-support-app-auth", Unauthorized),
    // Permissions and contracts.
    ("app-api-punished", Declined),
    ("app-invalid-oid", Declined),
    ("forbidden-api", Declined),
    ("inner-app-no-access", Declined),
    ("insufficient-isv-permissions", Declined),
    ("insufficient-user-permissions", Declined),
    ("invalid-inner-invoke-scene", Declined),
    ("invalid-product", Declined),
    ("invalid-subscribe-relations", Declined),
    ("no-product-reg-by-partner", Declined),
    ("self-invoke-forbidden", Declined),
    ("sevice-not-been-subscribed-to", Declined), // spelled so
    ("suspected-attack", Declined),
    ("unsupport-operation", Declined),
    // Parameters.
    ("exist-blank-sub-request-id", Declined),
    ("exist-repeated-sub-request-id", Declined),
    ("file-check-fail", Declined),
    ("illegal-card-no", Declined),
    ("illegal-json", Declined),
    ("invalid-app-api-field-config", Declined),
    ("invalid-app-method", Declined),
    ("invalid-charset", Declined),
    ("invalid-encoding", Declined),
    ("invalid-file-extension", Declined),
    ("invalid-file-size", Declined),
    ("invalid-format", Declined),
    ("invalid-method", Declined),
    ("invalid-parameter", Declined),
    ("invalid-platform", Declined),
    ("invalid-request-data", Declined),
    ("invalid-version", Declined),
    ("method-forbidden-batch-invoke", Declined),
    ("missing-app-uid", Declined),
    ("missing-method", Declined),
    ("missing-platform", Declined),
    ("missing-version", Declined),
    ("unsupported-version", Declined),
    ("upload-fail", Declined),
];

/// Name parts that indicate invalid credentials, for names that the list does not contain yet.
const CREDENTIALS: &[&str] = &[
    "signature",
    "sign-type",
    "invalid-sign",
    "missing-sign",
    "cert-",
    "-cert",
    "app-key",
    "public-key",
    "encrypt",
    "decrypt",
    "timestamp",
    "token",
    "app-id",
    "-ip",
];

/// Returns the class of a name, with or without a prefix; `None` for a name that is not the gateway's. An unlisted
/// `isv.` name is an error in our request, an unlisted `isp.` name a failure of Alipay.
pub(super) fn by_name(code: &str) -> Option<Class> {
    listed(code).or_else(|| (is_gateways(code) && code.starts_with("isv.")).then_some(Declined))
}

/// Returns the class of a number of the form protocol with the name beside it; `None` if the code is not the gateway's.
pub(super) fn by_number(number: &str, name: Option<&str>) -> Option<Class> {
    let class = NUMBERS.iter().find(|(known, _)| *known == number).map(|(_, class)| *class);
    match class {
        // These numbers decide, whatever name stands beside them.
        Some(Unclear | Busy) => class,
        Some(class) => name.and_then(listed).or(Some(class)),
        None if number == "40003" => name.and_then(listed),
        None => None,
    }
}

fn listed(code: &str) -> Option<Class> {
    let without_prefix = without_prefix(code);
    let row = NAMES.iter().find(|(known, _)| *known == without_prefix).map(|(_, class)| *class);
    if row.is_none() && is_gateways(code) && code.starts_with("isp.") {
        return Some(Unclear);
    }
    let is_about_us = || is_gateways(code) && CREDENTIALS.iter().any(|part| without_prefix.contains(part));
    row.or_else(|| is_about_us().then_some(Unauthorized))
}

fn without_prefix(code: &str) -> &str {
    code.rsplit('.').next().unwrap_or(code).trim()
}

/// Gateway names contain hyphens; interface names are in capitals.
fn is_gateways(code: &str) -> bool {
    let without_prefix = without_prefix(code);
    without_prefix.contains('-') && !without_prefix.bytes().any(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
pub(super) const ALL: &[(&str, Class)] = NAMES;
