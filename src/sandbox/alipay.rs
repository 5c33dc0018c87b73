//! Alipay simulator: parse ▶ authenticate ▶ count ▶ fault ▶ execute ▶ sign. This file contains the form protocol;
//! `v3` contains the JSON protocol over the same business logic.

mod authenticate;
mod bills;
mod codes;
mod gbk;
mod notification;
mod refund;
mod reply;
mod schema;
mod trade;
mod v3;
mod yuan;

use std::io;
use std::sync::Arc;

use http::Request;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::authenticate::AuthenticatedRequest;
use self::reply::Reply;
use super::account::alipay::Account;
use super::account::{self, AccountFile, Profile};
use super::context::SandboxContext;
use super::fault::{Fault, FaultKind, execute_with_fault};
use super::form::{Form, FormError};
use super::keygen::account_kind::AccountKind;
use super::keygen::alipay::{Mode, make};
use super::notification::{ComposedNotification, SendOptions, Subject};
use super::notify::announce;
use super::provider::{Provider, Serving};
use super::response_action::{MAX_BODY_BYTES, ResponseAction, action_before_body, cut};
use super::state::{RefundStatus, SandboxState};

/// Alipay, with its form protocol and its v3 protocol.
pub(super) struct Alipay;

impl Provider for Alipay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn serves(&self, path: &str) -> bool {
        matches!(path, FORM_PATH | bills::PATH) || path.starts_with(v3::PATHS)
    }

    fn serve(&'static self, context: Arc<SandboxContext>, _: Option<String>, request: Request<Incoming>) -> Serving {
        match request.uri().path() {
            FORM_PATH => Box::pin(serve(context, request)),
            bills::PATH => Box::pin(bills::serve(context, request)),
            _ => Box::pin(v3::serve(context, request)),
        }
    }

    fn read_account(&'static self, file: &AccountFile) -> io::Result<Arc<dyn account::Account>> {
        Ok(Arc::new(Account::read(file)?))
    }

    fn account_kinds(&self) -> &'static [AccountKind] {
        &KINDS
    }
}

/// Name, as `provider` in `sandbox.toml`.
const NAME: &str = "alipay";

/// Path of the form protocol.
const FORM_PATH: &str = "/gateway.do";

static KINDS: [AccountKind; 3] = [
    AccountKind { name: NAME, help: "Alipay, with public keys", make: |new_account| make(new_account, Mode::Keys) },
    AccountKind {
        name: "alipay-certificates",
        help: "Alipay, with certificates",
        make: |new_account| make(new_account, Mode::Certificates),
    },
    AccountKind {
        name: "alipay-v3",
        help: "Alipay, with certificates, by its v3 protocol",
        make: |new_account| make(new_account, Mode::V3),
    },
];

impl account::Account for Account {
    fn profile(&self) -> Profile<'_> {
        Profile {
            name: &self.app_id,
            provider: NAME,
            tls: &self.tls,
            requires_client_certificate: false,
            default_payer: "2088102116773037",
            console_refund_statuses: &[RefundStatus::Success],
        }
    }

    fn compose(
        self: Arc<Self>,
        state: &SandboxState,
        subject: &Subject,
        options: &SendOptions,
    ) -> Result<ComposedNotification, String> {
        notification::compose(state, &self, subject, options)
    }
}

/// Serves one request of the form protocol.
async fn serve(context: Arc<SandboxContext>, request: Request<Incoming>) -> ResponseAction {
    let (parts, body) = request.into_parts();
    context.state.lock().stats.requests += 1;
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let head = Form::default().with(query);
    if let Some(verdict) = head.as_ref().ok().and_then(|head| cut_before_body(&context, head)) {
        return verdict;
    }
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else { return ResponseAction::Cut };
    let body = body.to_bytes();
    let has_form = !body.is_empty() && is_form(&parts);
    let form = head.and_then(|head| if has_form { head.with(&body) } else { Ok(head) });
    let form = match form {
        Ok(form) => form,
        Err(error) => return ResponseAction::Answer(form_error_reply(&error).sent()),
    };
    // Whether to cut often depends on the body. The client cannot observe that the body was read.
    if let Some(verdict) = cut_before_body(&context, &form) {
        return verdict;
    }
    // A separate task, so that a request that was read is executed even if the client disconnects.
    let host = parts.headers.get("host").and_then(|value| value.to_str().ok());
    let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default().to_owned();
    let work = tokio::spawn(async move { Exchange { platform: Platform { context, host }, form }.run().await });
    work.await.unwrap_or(ResponseAction::Cut)
}

fn form_error_reply(error: &FormError) -> Reply {
    match error {
        FormError::Encoding => Reply::gateway("40002", "isv.invalid-encoding", "参数编码错误，请使用UTF-8表单编码"),
        FormError::Duplicate(name) => Reply::gateway("40002", "isv.invalid-parameter", &format!("参数重复：{name}")),
    }
}

fn is_form(parts: &Parts) -> bool {
    let kind = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

fn cut_before_body(context: &SandboxContext, form: &Form) -> Option<ResponseAction> {
    let operation = form.get("method").and_then(Method::named).map_or("", Method::operation);
    let content: Value = form.get("biz_content").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let number = content["out_request_no"].as_str().or_else(|| content["out_trade_no"].as_str());
    action_before_body(context, operation, number)
}

struct Exchange {
    platform: Platform,
    form: Form,
}

impl Exchange {
    async fn run(self) -> ResponseAction {
        let context = &self.platform.context;
        let request = match authenticate::authenticate(&self.form, &context.accounts, Timestamp::now()) {
            Ok(request) => request,
            Err(reply) => {
                context.state.lock().stats.bad_signatures += 1;
                return ResponseAction::Answer(reply.sent());
            }
        };
        let (method, account) = (request.method, Arc::clone(&request.account));
        match self.platform.answer(request).await {
            Some((reply, fault)) => ResponseAction::Answer(reply.signed(method, &account, fault)),
            None => cut(context),
        }
    }
}

/// Business logic, shared by both protocols.
struct Platform {
    context: Arc<SandboxContext>,
    /// Host of the request, also used in links.
    host: String,
}

impl Platform {
    /// Counts and executes a request under its scripted fault. Returns the reply and the fault of its signature, or
    /// `None` if the connection is cut.
    async fn answer(&self, request: AuthenticatedRequest) -> Option<(Reply, Option<FaultKind>)> {
        let AuthenticatedRequest { account, method, content, notify_url } = request;
        let Some(fault) = self.arrive(method, &account, content.as_ref()) else {
            return Some((self.execute(method, &account, content, notify_url), None));
        };
        if fault.fault == FaultKind::NotRefunded {
            let number = content.as_ref().map(|content| content["out_trade_no"].clone()).unwrap_or_default();
            let object = json!({"code": "10000", "msg": "Success", "out_trade_no": number, "fund_change": "N"});
            return Some((Reply::method(object), None));
        }
        let reply =
            execute_with_fault(&fault, || self.execute(method, &account, content, notify_url), scripted).await?;
        let kind = if fault.unsigned { FaultKind::Unsigned } else { fault.fault };
        Some((reply.tampered(fault.fault), Some(kind)))
    }

    /// Counts the request and takes its scripted fault.
    fn arrive(&self, method: Method, account: &Account, content: Option<&Value>) -> Option<Fault> {
        let operation = method.operation();
        let state = self.context.state.lock();
        let order = content.and_then(|content| trade_number(&state, account, content));
        let refund = match method {
            Method::Refund | Method::RefundQuery => {
                let request = content.and_then(|content| content["out_request_no"].as_str().map(str::to_owned));
                request.or_else(|| order.clone())
            }
            _ => None,
        };
        let id = |number: String| (account.app_id.clone(), number);
        let (order, refund) = (order.map(id), refund.map(id));
        drop(state);
        self.context.arrive(operation, &account.app_id, order.as_ref(), refund.as_ref())
    }

    fn execute(
        &self,
        method: Method,
        account: &Arc<Account>,
        content: Option<Value>,
        notify_url: Option<String>,
    ) -> Reply {
        let content = match schema::checked(content, method) {
            Ok(content) => content,
            Err(reply) => return reply,
        };
        let state = &mut self.context.state.lock();
        let mut handler = trade::OrderHandler { state, account, now: Timestamp::now() };
        let result = match method {
            Method::Pay => handler.pay(content, notify_url),
            Method::Precreate | Method::Page | Method::Wap | Method::App | Method::Create => {
                handler.create(method, content, notify_url)
            }
            Method::Query => handler.query(&content),
            Method::Close => handler.close(&content),
            Method::Cancel => handler.cancel(&content),
            Method::Refund => handler.refund(content, notify_url, self.context.refund_auto),
            Method::RefundQuery => handler.refund_query(&content),
            Method::BillLink => handler.bill(&content, &self.host),
            Method::CertificateDownload => handler.certificate(&content),
        };
        let (Ok(reply) | Err(reply)) = announce(&self.context, handler.state, result);
        reply
    }
}

/// Returns the merchant's number of the requested trade. `trade_no` takes precedence; an unknown `trade_no` gives an
/// empty number.
fn trade_number(state: &SandboxState, account: &Account, content: &Value) -> Option<String> {
    let text = |field: &str| content[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match text("trade_no") {
        Some(trade) => Some(state.transactions.get(&(account.app_id.clone(), trade)).cloned().unwrap_or_default()),
        None => text("out_trade_no"),
    }
}

/// Returns the reply for the fault's `code`: a business sub-code (signed, `SYSTEM_ERROR` becomes `ACQ.SYSTEM_ERROR`),
/// a gateway sub-code (`isp.…`, `aop.…`, `isv.…`), or a gateway code (`40005`). An empty code gives a proxy's page.
fn scripted(fault: &Fault) -> Reply {
    let reply = match fault.code.as_str() {
        _ if fault.fault == FaultKind::Garbage => return Reply::page(200, "<html>OK</html>".to_owned()),
        "" => return Reply::page(fault.status, "<html><body>Bad Gateway</body></html>".to_owned()),
        code if code.starts_with("isp.") || code.starts_with("aop.") => Reply::gateway("20000", code, "系统繁忙"),
        code if code.starts_with("isv.") => Reply::gateway("40002", code, "参数无效"),
        code if code.bytes().all(|byte| byte.is_ascii_digit()) => {
            Reply::gateway(code, "isv.app-call-limited", "调用受限")
        }
        code if code.starts_with("ACQ.") => Reply::business(code, "系统错误"),
        code => Reply::business(&format!("ACQ.{code}"), "系统错误"),
    };
    reply.with_status(fault.status)
}

/// API method of Alipay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Precreate,
    Pay,
    Page,
    Wap,
    App,
    Create,
    Query,
    Close,
    Cancel,
    Refund,
    RefundQuery,
    BillLink,
    CertificateDownload,
}

impl Method {
    const ALL: [Self; 13] = [
        Self::Precreate,
        Self::Pay,
        Self::Page,
        Self::Wap,
        Self::App,
        Self::Create,
        Self::Query,
        Self::Close,
        Self::Cancel,
        Self::Refund,
        Self::RefundQuery,
        Self::BillLink,
        Self::CertificateDownload,
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Precreate => "alipay.trade.precreate",
            Self::Pay => "alipay.trade.pay",
            Self::Page => "alipay.trade.page.pay",
            Self::Wap => "alipay.trade.wap.pay",
            Self::App => "alipay.trade.app.pay",
            Self::Create => "alipay.trade.create",
            Self::Query => "alipay.trade.query",
            Self::Close => "alipay.trade.close",
            Self::Cancel => "alipay.trade.cancel",
            Self::Refund => "alipay.trade.refund",
            Self::RefundQuery => "alipay.trade.fastpay.refund.query",
            Self::BillLink => "alipay.data.dataservice.bill.downloadurl.query",
            Self::CertificateDownload => "alipay.open.app.alipaycert.download",
        }
    }

    /// Operation name, one of [`super::fault::OPERATIONS`].
    fn operation(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Close => "close",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
            Self::RefundQuery => "refund_query",
            Self::BillLink => "bill",
            Self::CertificateDownload => "certificates",
            _ => "create",
        }
    }

    /// Payment product of orders that this method creates.
    fn product(self) -> &'static str {
        match self {
            Self::Pay => "code",
            Self::Page => "page",
            Self::Wap => "wap",
            Self::App => "app",
            Self::Create => "jsapi",
            _ => "qr",
        }
    }
}

/// Returns a success object, to which fields are added.
fn success() -> Value {
    json!({"code": "10000", "msg": "Success"})
}
