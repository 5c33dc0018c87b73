//! Responses: a signed result, or an unsigned rejection of a request that was not understood.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::secret::SignType;
use super::xml::{Fields, write};
use crate::account::wechat_v2::Account;
use crate::fault::FaultKind;
use crate::keys::random_text;

/// Response before signing.
pub(super) struct Reply {
    status: u16,
    content: Content,
}

enum Content {
    /// Signed result of a valid request.
    Signed(Fields),
    /// Unsigned rejection.
    Unsigned(Fields),
    /// Bill, or page of a proxy in front of the platform.
    Text(&'static str, String),
}

impl Reply {
    /// Returns a success with these result fields.
    pub(super) fn success(results: Fields) -> Self {
        Self { status: 200, content: Content::Signed(results) }.with("result_code", "SUCCESS")
    }

    /// Returns a signed business error.
    pub(super) fn error(code: &str, message: &str) -> Self {
        let reply = Self { status: 200, content: Content::Signed(Fields::new()) };
        reply.with("result_code", "FAIL").with("err_code", code).with("err_code_des", message)
    }

    /// Returns an unsigned rejection of a malformed or unauthenticated request.
    pub(super) fn refused(message: &str) -> Self {
        let reply = Self { status: 200, content: Content::Unsigned(Fields::new()) };
        reply.with("return_code", "FAIL").with("return_msg", message)
    }

    /// Returns a text file.
    pub(super) fn file(text: String) -> Self {
        Self { status: 200, content: Content::Text("text/plain;charset=utf-8", text) }
    }

    /// Returns an HTML page.
    pub(super) fn page(status: u16, text: &str) -> Self {
        Self { status, content: Content::Text("text/html", text.to_owned()) }
    }

    /// Adds a field.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        if let Content::Signed(fields) | Content::Unsigned(fields) = &mut self.content {
            fields.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Returns the response without a signature, for an unauthenticated sender.
    pub(super) fn sent(self) -> Response<Full<Bytes>> {
        let (kind, body) = match self.content {
            Content::Signed(fields) | Content::Unsigned(fields) => ("text/plain", write("xml", &fields)),
            Content::Text(kind, text) => (kind, text),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
        response
    }

    /// Signs the response, or applies the fault to it. The signed text contains no time, so `stale` has no effect.
    pub(super) fn signed(
        mut self,
        account: &Account,
        how: SignType,
        fault: Option<FaultKind>,
    ) -> Response<Full<Bytes>> {
        if let Content::Signed(fields) = &mut self.content {
            name_account(fields, account);
            fields.insert("return_code".to_owned(), "SUCCESS".to_owned());
            fields.insert("return_msg".to_owned(), "OK".to_owned());
            match fault {
                Some(FaultKind::OtherAmount) => tamper_amounts(fields),
                Some(FaultKind::OtherAccount) => tamper_account(fields),
                Some(FaultKind::NoAccount) => fields.retain(|name, _| !ACCOUNT_FIELDS.contains(&name.as_str())),
                Some(FaultKind::PayError) if is_alive(fields) => fail_payment(fields),
                _ => {}
            }
            let how = if fault == Some(FaultKind::OtherSignType) { how.other() } else { how };
            if fault != Some(FaultKind::Unsigned) {
                sign(fields, account, how, fault == Some(FaultKind::WrongSignature));
            }
        }
        self.sent()
    }
}

/// Adds the account's ids and a nonce.
pub(super) fn name_account(fields: &mut Fields, account: &Account) {
    let names = [("sub_mch_id", &account.sub_mchid), ("sub_appid", &account.sub_appid)];
    fields.extend(names.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    fields.insert("mch_id".to_owned(), account.mchid.clone());
    fields.insert("appid".to_owned(), account.appid.clone());
    fields.insert("nonce_str".to_owned(), random_text(16));
}

/// Adds the signature, or with `wrongly` the signature of another key.
pub(super) fn sign(fields: &mut Fields, account: &Account, how: SignType, wrongly: bool) {
    let other = if wrongly { "x" } else { "" };
    let sign = how.sign(fields, &format!("{}{other}", account.api));
    fields.insert("sign".to_owned(), sign);
}

/// Fields with the account's ids.
const ACCOUNT_FIELDS: &[&str] = &["appid", "mch_id", "sub_appid", "sub_mch_id"];

/// Returns whether a query response is about an order that was neither reversed nor closed.
fn is_alive(fields: &Fields) -> bool {
    fields.get("trade_state").is_some_and(|state| state != "REVOKED" && state != "CLOSED")
}

/// Sets the state PAYERROR and removes the fields of the payment.
fn fail_payment(fields: &mut Fields) {
    const UNPAID: &[&str] = &["out_trade_no", "result_code", "return_code", "return_msg", "nonce_str"];
    fields.retain(|name, _| UNPAID.contains(&name.as_str()) || ACCOUNT_FIELDS.contains(&name.as_str()));
    fields.insert("trade_state".to_owned(), "PAYERROR".to_owned());
    fields.insert("trade_state_desc".to_owned(), "支付失败，请撤销订单".to_owned());
}

/// Adds one fen to every amount.
pub(super) fn tamper_amounts(fields: &mut Fields) {
    for (_, amount) in fields.iter_mut().filter(|(name, _)| name.contains("_fee") && *name != "fee_type") {
        if let Ok(fen) = amount.parse::<u64>() {
            *amount = (fen + 1).to_string();
        }
    }
}

/// Replaces the merchant by another.
pub(super) fn tamper_account(fields: &mut Fields) {
    fields.insert("mch_id".to_owned(), "1900000000".to_owned());
}
