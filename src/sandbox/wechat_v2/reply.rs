//! Answers: what was done, signed as the request was; or that nothing was understood, which nobody signs.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::secret::SignType;
use super::xml::{Fields, write};
use crate::sandbox::account::wechat_v2::Account;
use crate::sandbox::fault::Kind;
use crate::sandbox::keys::random_text;

/// What is answered, before it is signed.
pub(super) struct Reply {
    status: u16,
    content: Content,
}

enum Content {
    /// An answer to a request that was understood.
    Signed(Fields),
    /// A refusal before that.
    Unsigned(Fields),
    /// A bill, or a page of something that stands before the platform.
    Text(&'static str, String),
}

impl Reply {
    /// It was done, with these results.
    pub(super) fn success(results: Fields) -> Self {
        Self { status: 200, content: Content::Signed(results) }.with("result_code", "SUCCESS")
    }

    /// It was understood, but not done.
    pub(super) fn error(code: &str, message: &str) -> Self {
        let reply = Self { status: 200, content: Content::Signed(Fields::new()) };
        reply.with("result_code", "FAIL").with("err_code", code).with("err_code_des", message)
    }

    /// It was not understood, or came from nobody who is known.
    pub(super) fn refused(message: &str) -> Self {
        let reply = Self { status: 200, content: Content::Unsigned(Fields::new()) };
        reply.with("return_code", "FAIL").with("return_msg", message)
    }

    /// A text file.
    pub(super) fn file(text: String) -> Self {
        Self { status: 200, content: Content::Text("text/plain;charset=utf-8", text) }
    }

    /// HTML.
    pub(super) fn page(status: u16, text: &str) -> Self {
        Self { status, content: Content::Text("text/html", text.to_owned()) }
    }

    /// With one more field.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        if let Content::Signed(fields) | Content::Unsigned(fields) = &mut self.content {
            fields.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Without a signature, as before anybody is known.
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

    /// Signs, or spoils it as the fault says. (There is no time in what is signed: `stale` changes nothing.)
    pub(super) fn signed(mut self, account: &Account, how: SignType, fault: Option<Kind>) -> Response<Full<Bytes>> {
        if let Content::Signed(fields) = &mut self.content {
            name_account(fields, account);
            fields.insert("return_code".to_owned(), "SUCCESS".to_owned());
            fields.insert("return_msg".to_owned(), "OK".to_owned());
            match fault {
                Some(Kind::OtherAmount) => spoil_amounts(fields),
                Some(Kind::OtherAccount) => spoil_account(fields),
                Some(Kind::NoAccount) => fields.retain(|name, _| !ACCOUNT.contains(&name.as_str())),
                Some(Kind::PayError) if is_alive(fields) => fail_payment(fields),
                _ => {}
            }
            let how = if fault == Some(Kind::OtherSignType) { how.other() } else { how };
            if fault != Some(Kind::Unsigned) {
                sign(fields, account, how, fault == Some(Kind::WrongSignature));
            }
        }
        self.sent()
    }
}

/// Says whose message it is, with a nonce of its own.
pub(super) fn name_account(fields: &mut Fields, account: &Account) {
    let names = [("sub_mch_id", &account.sub_mchid), ("sub_appid", &account.sub_appid)];
    fields.extend(names.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    fields.insert("mch_id".to_owned(), account.mchid.clone());
    fields.insert("appid".to_owned(), account.appid.clone());
    fields.insert("nonce_str".to_owned(), random_text(16));
}

/// Adds the signature, or, when it is to be wrong, that of another key.
pub(super) fn sign(fields: &mut Fields, account: &Account, how: SignType, wrongly: bool) {
    let other = if wrongly { "x" } else { "" };
    let sign = how.sign(fields, &format!("{}{other}", account.api));
    fields.insert("sign".to_owned(), sign);
}

/// The fields that name an account.
const ACCOUNT: &[&str] = &["appid", "mch_id", "sub_appid", "sub_mch_id"];

/// Whether an answer to a query tells of an order that was neither reversed nor closed.
fn is_alive(fields: &Fields) -> bool {
    fields.get("trade_state").is_some_and(|state| state != "REVOKED" && state != "CLOSED")
}

/// Says that the payment failed, and nothing of who paid what.
fn fail_payment(fields: &mut Fields) {
    const UNPAID: &[&str] = &["out_trade_no", "result_code", "return_code", "return_msg", "nonce_str"];
    fields.retain(|name, _| UNPAID.contains(&name.as_str()) || ACCOUNT.contains(&name.as_str()));
    fields.insert("trade_state".to_owned(), "PAYERROR".to_owned());
    fields.insert("trade_state_desc".to_owned(), "支付失败，请撤销订单".to_owned());
}

/// Makes every amount one fen more.
pub(super) fn spoil_amounts(fields: &mut Fields) {
    for (_, amount) in fields.iter_mut().filter(|(name, _)| name.contains("_fee") && *name != "fee_type") {
        if let Ok(fen) = amount.parse::<u64>() {
            *amount = (fen + 1).to_string();
        }
    }
}

/// Names another merchant.
pub(super) fn spoil_account(fields: &mut Fields) {
    fields.insert("mch_id".to_owned(), "1900000000".to_owned());
}
