//! Decoding of answers with an error status: a code of the provider's table becomes an error.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::super::answer_codes::{self as table, Class, CodeRow, Interface, bare};
use crate::error::{Error, ProviderError};

/// Meanings of a provider's error codes.
pub(in super::super) struct AnswerCodes {
    /// Codes of the official lists. A code without a row is [`Error::UnlistedRefusal`].
    pub(in super::super) rows: &'static [CodeRow],
    /// Final codes that the lists contain with HTTP 500. Any other final code with a 5xx status is attributed to a failed
    /// server.
    pub(in super::super) final_with_500: &'static [&'static str],
    /// Fragments of messages and field names about our key, or about the key that the provider is asked to sign with. Their
    /// code is `PARAM_ERROR`.
    pub(in super::super) credentials: &'static [&'static str],
}

impl AnswerCodes {
    /// Returns the error of a verified answer with an error status.
    pub(in super::super) fn refusal(&self, interface: Interface, status: StatusCode, body: &[u8]) -> Error {
        self.error(interface, status, body, true)
    }

    /// Returns the error of an unsigned answer with an error status.
    pub(in super::super) fn unsigned(&self, interface: Interface, status: StatusCode, body: &[u8]) -> Error {
        self.error(interface, status, body, false)
    }

    fn error(&self, interface: Interface, status: StatusCode, body: &[u8], is_signed: bool) -> Error {
        let is_error = status.is_client_error() || status.is_server_error();
        let Some(refusal) = Refusal::read(body).filter(|_| is_error) else {
            return Error::unclear(format!("HTTP {} answer in an unknown format", status.as_u16()));
        };
        let class = refusal.class(self, interface, status);
        let provider_error = ProviderError { code: refusal.code, message: refusal.message };
        table::error(class, interface, is_signed, provider_error, format!("HTTP {} error answer", status.as_u16()))
    }
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
    /// Has many formats; in most of them `field` names the invalid parameter.
    #[serde(default)]
    detail: Value,
}

impl Refusal {
    /// Parses an error in the scheme's format. Anything else came from an intermediary.
    fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    fn is_about_credentials(&self, codes: &AnswerCodes) -> bool {
        let field = self.detail["field"].as_str().unwrap_or_default();
        codes.credentials.iter().any(|part| self.message.contains(part) || field.contains(part))
    }

    fn class(&self, codes: &AnswerCodes, interface: Interface, status: StatusCode) -> Option<Class> {
        if status == StatusCode::UNAUTHORIZED || status.is_client_error() && self.is_about_credentials(codes) {
            return Some(Class::Credentials);
        }
        // Both messages mean OUT_TRADE_NO_USED: "201 商户订单号重复", "请求重入时，参数与首次请求时不一致".
        let is_number_used =
            bare(&self.code) == "INVALIDREQUEST" && ["重复", "首次请求"].iter().any(|part| self.message.contains(part));
        let known =
            table::class(codes.rows, &self.code, interface).map(|class| match table::platform_failure(&self.message) {
                _ if is_number_used => Class::State,
                Some(platform_failure) if table::has_several_causes(&self.code) => platform_failure,
                _ => class,
            });
        let is_server_failure = status.is_server_error() && !codes.final_with_500.contains(&bare(&self.code).as_str());
        match known {
            // A failed server is trusted only if it reports overload.
            Some(Class::Later) => known,
            _ if is_server_failure => Some(Class::Query),
            None if status == StatusCode::TOO_MANY_REQUESTS => Some(Class::Later),
            _ => known,
        }
    }
}

/// Returns the provider's error if the payer is entering the password. It comes with HTTP 202 and other statuses.
pub(in super::super) fn awaiting_password(body: &[u8]) -> Option<ProviderError> {
    let Refusal { code, message, .. } = Refusal::read(body).filter(|refusal| bare(&refusal.code) == "USERPAYING")?;
    Some(ProviderError { code, message })
}
