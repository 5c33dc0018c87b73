//! UnionPay simulator (ACP 5.1.0): parse ▶ authenticate ▶ count ▶ fault ▶ execute ▶ sign.

mod authenticate;
mod bills;
mod codes;
mod notification;
mod refund;
mod reply;
mod schema;
mod signature;
mod trade;

use std::io;
use std::sync::Arc;

use http::Request;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::Value;

use self::authenticate::AuthenticatedRequest;
use self::codes::Fields;
use self::reply::{Codec, Refusal, Reply, refused_because};
use super::account::unionpay::Account;
use super::account::{self, AccountFile, Profile};
use super::context::SandboxContext;
use super::fault::{Fault, FaultKind, execute_with_fault};
use super::form::{Form, FormError};
use super::keygen::account_kind::AccountKind;
use super::keygen::unionpay::{SignMethod as KeygenMethod, make};
use super::notification::{ComposedNotification, SendOptions, Subject};
use super::notify::announce;
use super::provider::{Provider, Serving};
use super::response_action::{MAX_BODY_BYTES, ResponseAction, action_before_body, cut};
use super::state::{Id, SandboxState};

const FRONT: &str = "/gateway/api/frontTransReq.do";
const APP: &str = "/gateway/api/appTransReq.do";
const BACK: &str = "/gateway/api/backTransReq.do";
const QUERY: &str = "/gateway/api/queryTrans.do";
/// Path of file downloads. At UnionPay they have a host of their own.
const FILES: &str = "/";

/// UnionPay.
pub(super) struct Unionpay;

impl Provider for Unionpay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn serves(&self, path: &str) -> bool {
        path.starts_with("/gateway/api/") || path == FILES
    }

    fn serve(&'static self, context: Arc<SandboxContext>, _: Option<String>, request: Request<Incoming>) -> Serving {
        Box::pin(serve(context, request))
    }

    fn read_account(&'static self, file: &AccountFile) -> io::Result<Arc<dyn account::Account>> {
        Ok(Arc::new(Account::read(file)?))
    }

    fn account_kinds(&self) -> &'static [AccountKind] {
        &KINDS
    }
}

/// Name, as `provider` in `sandbox.toml`.
const NAME: &str = "unionpay";

static KINDS: [AccountKind; 4] = [
    AccountKind {
        name: NAME,
        help: "UnionPay, with certificates",
        make: |new_account| make(new_account, KeygenMethod::Certificates),
    },
    AccountKind {
        name: "unionpay-sha256",
        help: "UnionPay, with a shared key and SHA-256",
        make: |new_account| make(new_account, KeygenMethod::Sha256),
    },
    AccountKind {
        name: "unionpay-sm3",
        help: "UnionPay, with a shared key and SM3",
        make: |new_account| make(new_account, KeygenMethod::Sm3),
    },
    AccountKind {
        name: "unionpay-sm2",
        help: "UnionPay, with SM2 certificates",
        make: |new_account| make(new_account, KeygenMethod::Sm2),
    },
];

impl account::Account for Account {
    fn profile(&self) -> Profile<'_> {
        Profile {
            name: &self.mer_id,
            provider: NAME,
            tls: &self.tls,
            requires_client_certificate: false,
            default_payer: "621626*********0018",
            console_refund_statuses: &[],
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

/// Serves one request.
async fn serve(context: Arc<SandboxContext>, request: Request<Incoming>) -> ResponseAction {
    let (parts, body) = request.into_parts();
    context.state.lock().stats.requests += 1;
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else { return ResponseAction::Cut };
    let codec = codec_of(&parts);
    let form = match read(&parts, codec, &body.to_bytes()) {
        Ok(form) => form,
        Err(refusal) => return ResponseAction::Answer(Reply::to(&Form::default(), Err(refusal)).sent(codec)),
    };
    let path = parts.uri.path().to_owned();
    // Whether to cut depends on the body. The client cannot observe that the body was read.
    if let Some(verdict) = cut_before_body(&context, &path, &form) {
        return verdict;
    }
    // A separate task, so that a request that was read is executed even if the client disconnects.
    let work = tokio::spawn(async move { Exchange { context, path, codec, form }.run().await });
    work.await.unwrap_or(ResponseAction::Cut)
}

fn codec_of(parts: &Parts) -> Codec {
    match content_type(parts) {
        _ if parts.uri.path() == FRONT => Codec::Browser,
        "application/json" => Codec::Json,
        _ => Codec::Form,
    }
}

fn content_type(parts: &Parts) -> &str {
    let kind = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}

fn read(parts: &Parts, codec: Codec, body: &[u8]) -> Result<Form, Refusal> {
    if parts.method != http::Method::POST {
        return Err(refused_because("10", "报文格式错误：只接受POST"));
    }
    if codec == Codec::Json {
        return object(body).ok_or_else(|| refused_because("10", "报文格式错误：JSON必须是由字符串组成的对象"));
    }
    if !content_type(parts).eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(refused_because("10", "报文格式错误：请使用application/x-www-form-urlencoded"));
    }
    Form::default().with(body).map_err(|error| match error {
        FormError::Encoding => refused_because("10", "报文格式错误：编码不是UTF-8表单编码"),
        FormError::Duplicate(name) => refused_because("10", &format!("报文格式错误：参数重复：{name}")),
    })
}

fn object(body: &[u8]) -> Option<Form> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let mut form = Form::default();
    for (name, value) in value.as_object()? {
        form.set(name, value.as_str()?);
    }
    Some(form)
}

fn cut_before_body(context: &SandboxContext, path: &str, form: &Form) -> Option<ResponseAction> {
    let about = Transaction::of(path, form).map(|transaction| transaction.about(&context.state.lock(), form));
    let operation = about.as_ref().map_or("", |about| about.operation);
    let number = about.and_then(|about| about.refund.or(about.order)).map(|(_, number)| number);
    action_before_body(context, operation, number.as_deref())
}

struct Exchange {
    context: Arc<SandboxContext>,
    path: String,
    codec: Codec,
    form: Form,
}

impl Exchange {
    async fn run(self) -> ResponseAction {
        let request = match authenticate::authenticate(&self.path, &self.form, &self.context.accounts) {
            Ok(request) => request,
            Err(refusal) => {
                self.context.state.lock().stats.bad_signatures += 1;
                return ResponseAction::Answer(Reply::to(&self.form, Err(refusal)).sent(self.codec));
            }
        };
        let AuthenticatedRequest { account, method, transaction } = request;
        let Some(fault) = self.arrive(transaction, &account) else {
            let reply = self.execute(transaction, &account);
            return ResponseAction::Answer(reply.signed(&account, method, self.codec, None));
        };
        let execute = || self.execute(transaction, &account);
        let reply = execute_with_fault(&fault, execute, |fault| scripted(&self.form, fault)).await;
        let Some(reply) = reply else { return cut(&self.context) };
        let reply = match fault.fault {
            FaultKind::TradeCode => reply.about_trade(&fault.code),
            kind => reply.tampered(kind),
        };
        let kind = if fault.unsigned { FaultKind::Unsigned } else { fault.fault };
        ResponseAction::Answer(reply.signed(&account, method, self.codec, Some(kind)))
    }

    /// Counts the request and takes its scripted fault.
    fn arrive(&self, transaction: Transaction, account: &Account) -> Option<Fault> {
        let state = self.context.state.lock();
        let About { operation, order, refund } = transaction.about(&state, &self.form);
        drop(state);
        self.context.arrive(operation, &account.mer_id, order.as_ref(), refund.as_ref())
    }

    fn execute(&self, transaction: Transaction, account: &Account) -> Reply {
        let now = Timestamp::now();
        let result = self.carry_out(transaction, account, now);
        Reply::to(&self.form, result)
    }

    fn carry_out(&self, transaction: Transaction, account: &Account, now: Timestamp) -> Result<Fields, Refusal> {
        let parameters = schema::checked(&self.form, transaction, now)?;
        let state = &mut self.context.state.lock();
        let mut handler = trade::OrderHandler { state, account, now };
        let result = match transaction {
            Transaction::Page | Transaction::App | Transaction::Qr => handler.create(transaction, parameters),
            Transaction::Barcode => handler.take(parameters),
            Transaction::Query => handler.query(&parameters),
            Transaction::Refund => handler.refund(parameters, self.context.refund_auto),
            Transaction::Undo => handler.undo(parameters, self.context.refund_auto),
            Transaction::Reverse => handler.reverse(&parameters),
            Transaction::File => handler.bill(&parameters),
        };
        announce(&self.context, handler.state, result)
    }
}

/// Returns the reply for the fault's `code`: a `respCode` of two digits; any other text is a busy system (06). An
/// empty code gives a proxy's page.
fn scripted(form: &Form, fault: &Fault) -> Reply {
    let is_code = fault.code.len() == 2;
    let reply = match fault.code.as_str() {
        _ if fault.fault == FaultKind::Garbage => return Reply::page(200, "<html>OK</html>"),
        "" => return Reply::page(fault.status, "<html><body>Bad Gateway</body></html>"),
        code if is_code => Reply::coded(form, code),
        _ => Reply::coded(form, "06"),
    };
    reply.with_status(fault.status)
}

/// Transaction type of UnionPay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    Page,
    App,
    Qr,
    Barcode,
    Query,
    Refund,
    Undo,
    Reverse,
    File,
}

/// Operation and numbers of a request.
struct About {
    /// Operation name, one of [`super::fault::OPERATIONS`].
    operation: &'static str,
    order: Option<Id>,
    refund: Option<Id>,
}

impl Transaction {
    fn of(path: &str, form: &Form) -> Option<Self> {
        let text = |name: &str| form.get(name).unwrap_or_default();
        match (path, text("txnType"), text("txnSubType")) {
            (FRONT, "01", "01") => Some(Self::Page),
            (APP, "01", "01") => Some(Self::App),
            (BACK, "01", "07") => Some(Self::Qr),
            (BACK, "01", "06") => Some(Self::Barcode),
            // Trades of a QR product are queried at the path that created them.
            (QUERY | BACK, "00", "00") => Some(Self::Query).filter(|_| (path == BACK) == (text("bizType") == "000000")),
            (BACK, "04", "00") => Some(Self::Refund),
            (BACK, "31", "00") => Some(Self::Undo),
            (BACK, "99", "01") => Some(Self::Reverse),
            (FILES, "76", "01") => Some(Self::File),
            _ => None,
        }
    }

    fn about(self, state: &SandboxState, form: &Form) -> About {
        let id = |number: &str| (form.get("merId").unwrap_or_default().to_owned(), number.to_owned());
        let named = |name: &str| form.get(name).map(id);
        let own = named("orderId");
        let original = named("origQryId").and_then(|query| state.transactions.get(&query)).map(|number| id(number));
        match self {
            Self::Query => match own.as_ref().and_then(|own| state.refunds.get(own)) {
                Some(refund) => {
                    About { operation: "refund_query", order: Some(id(&refund.order)), refund: own.clone() }
                }
                None => About { operation: "query", order: own, refund: None },
            },
            Self::Refund => About { operation: "refund", order: original, refund: own },
            Self::Undo => About { operation: "cancel", order: original, refund: own },
            Self::Reverse => About { operation: "cancel", order: named("origOrderId").or(own), refund: None },
            Self::File => About { operation: "bill", order: None, refund: None },
            _ => About { operation: "create", order: own, refund: None },
        }
    }

    /// Payment product of orders that this transaction creates.
    fn product(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::App => "app",
            Self::Barcode => "barcode",
            _ => "qr",
        }
    }
}
