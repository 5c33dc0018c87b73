//! UnionPay's ACP 5.1.0, from the platform's side: read ▶ admit ▶ count ▶ fault ▶ execute ▶ sign.

mod authenticate;
mod bills;
mod codes;
mod notification;
mod refund;
mod reply;
mod schema;
mod signature;
mod trade;

use std::sync::Arc;

use http::Request;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::Value;

use self::authenticate::Admitted;
pub(super) use self::notification::compose;
use self::reply::{Codec, Fields, Refusal, Reply, refused_because};
use super::Shared;
use super::account::unionpay::Account;
use super::fault::{Fault, Kind, disturbed};
use super::form::{Form, Mistake};
use super::notify::{Sending, send};
use super::server::{LONGEST_BODY, Verdict, cut, unread};
use super::state::{Id, SandboxState};

const FRONT: &str = "/gateway/api/frontTransReq.do";
const APP: &str = "/gateway/api/appTransReq.do";
const BACK: &str = "/gateway/api/backTransReq.do";
const QUERY: &str = "/gateway/api/queryTrans.do";
/// Files have a host of their own, and no path there.
pub(super) const FILES: &str = "/";

/// Serves one request.
pub(super) async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Verdict {
    let (parts, body) = request.into_parts();
    shared.books.lock().stats.requests += 1;
    let Ok(body) = Limited::new(body, LONGEST_BODY).collect().await else { return Verdict::Cut };
    let codec = codec_of(&parts);
    let form = match read(&parts, codec, &body.to_bytes()) {
        Ok(form) => form,
        Err(refusal) => return Verdict::Answer(Reply::to(&Form::default(), Err(refusal)).sent(codec)),
    };
    let path = parts.uri.path().to_owned();
    // What to cut is known from the body alone; nobody outside can tell that it was read.
    if let Some(verdict) = left_unread(&shared, &path, &form) {
        return verdict;
    }
    // A task of its own: what was read is executed, whether or not the other side still waits.
    let work = tokio::spawn(async move { Exchange { shared, path, codec, form }.run().await });
    work.await.unwrap_or(Verdict::Cut)
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
    Form::default().with(body).map_err(|mistake| match mistake {
        Mistake::Encoding => refused_because("10", "报文格式错误：编码不是UTF-8表单编码"),
        Mistake::Twice(name) => refused_because("10", &format!("报文格式错误：参数重复：{name}")),
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

fn left_unread(shared: &Shared, path: &str, form: &Form) -> Option<Verdict> {
    let about = Transaction::of(path, form).map(|transaction| transaction.about(&shared.books.lock(), form));
    let operation = about.as_ref().map_or("", |about| about.operation);
    let number = about.and_then(|about| about.refund.or(about.order)).map(|(_, number)| number);
    unread(shared, operation, number.as_deref())
}

struct Exchange {
    shared: Arc<Shared>,
    path: String,
    codec: Codec,
    form: Form,
}

impl Exchange {
    async fn run(self) -> Verdict {
        let admitted = match authenticate::admit(&self.path, &self.form, &self.shared.accounts) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.shared.books.lock().stats.bad_signatures += 1;
                return Verdict::Answer(Reply::to(&self.form, Err(refusal)).sent(self.codec));
            }
        };
        let Admitted { account, method, transaction } = admitted;
        let Some(fault) = self.arrive(transaction, &account) else {
            let reply = self.execute(transaction, &account);
            return Verdict::Answer(reply.signed(&account, method, self.codec, None));
        };
        let execute = || self.execute(transaction, &account);
        let reply = disturbed(&fault, execute, |fault| scripted(&self.form, fault)).await;
        let Some(reply) = reply else { return cut(&self.shared) };
        let reply = match fault.fault {
            Kind::TradeCode => reply.about_trade(&fault.code),
            kind => reply.spoilt(kind),
        };
        let kind = if fault.unsigned { Kind::Unsigned } else { fault.fault };
        Verdict::Answer(reply.signed(&account, method, self.codec, Some(kind)))
    }

    /// Counts the request, and takes its fault from the script.
    fn arrive(&self, transaction: Transaction, account: &Account) -> Option<Fault> {
        let mut books = self.shared.books.lock();
        let About { operation, order, refund } = transaction.about(&books, &self.form);
        books.arrived(operation, order.as_ref(), refund.as_ref());
        drop(books);
        let numbers: Vec<String> = order.into_iter().chain(refund).map(|(_, number)| number).collect();
        self.shared.script.lock().for_request(operation, &account.mer_id, &numbers)
    }

    fn execute(&self, transaction: Transaction, account: &Account) -> Reply {
        let now = Timestamp::now();
        let result = self.carry_out(transaction, account, now);
        Reply::to(&self.form, result)
    }

    fn carry_out(&self, transaction: Transaction, account: &Account, now: Timestamp) -> Result<Fields, Refusal> {
        let parameters = schema::checked(&self.form, transaction, now)?;
        let books = &mut self.shared.books.lock();
        let mut desk = trade::OrderHandler { books, account, now };
        let done = match transaction {
            Transaction::Page | Transaction::App | Transaction::Qr => desk.create(transaction, parameters)?,
            Transaction::Barcode => desk.take(parameters)?,
            Transaction::Query => desk.query(&parameters)?,
            Transaction::Refund => desk.refund(parameters, self.shared.refund_auto)?,
            Transaction::Undo => desk.undo(parameters, self.shared.refund_auto)?,
            Transaction::Reverse => desk.reverse(&parameters)?,
            Transaction::File => desk.bill(&parameters)?,
        };
        if let Some(subject) = done.notify {
            // Without a backUrl there is nobody to tell.
            send(&self.shared, desk.books, &subject, &Sending::default()).ok();
        }
        Ok(done.fields)
    }
}

/// What the fault's `code` says in UnionPay's words: a `respCode` of two digits; any other word is a busy system (06).
/// Empty: a page of a proxy.
fn scripted(form: &Form, fault: &Fault) -> Reply {
    let is_code = fault.code.len() == 2;
    let reply = match fault.code.as_str() {
        _ if fault.fault == Kind::Garbage => return Reply::page(200, "<html>OK</html>"),
        "" => return Reply::page(fault.status, "<html><body>Bad Gateway</body></html>"),
        code if is_code => Reply::coded(form, code),
        _ => Reply::coded(form, "06"),
    };
    reply.with_status(fault.status)
}

/// Which of the interface's transactions it is.
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

/// What a request is about, as far as the books know.
struct About {
    /// One of [`super::fault::OPERATIONS`].
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
            // Trades of a QR product are asked about where they were made.
            (QUERY | BACK, "00", "00") => Some(Self::Query).filter(|_| (path == BACK) == (text("bizType") == "000000")),
            (BACK, "04", "00") => Some(Self::Refund),
            (BACK, "31", "00") => Some(Self::Undo),
            (BACK, "99", "01") => Some(Self::Reverse),
            (FILES, "76", "01") => Some(Self::File),
            _ => None,
        }
    }

    fn about(self, books: &SandboxState, form: &Form) -> About {
        let id = |number: &str| (form.get("merId").unwrap_or_default().to_owned(), number.to_owned());
        let named = |name: &str| form.get(name).map(id);
        let own = named("orderId");
        let original = named("origQryId").and_then(|query| books.transactions.get(&query)).map(|number| id(number));
        match self {
            Self::Query => match own.as_ref().and_then(|own| books.refunds.get(own)) {
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

    /// How an order is paid that was made with this transaction.
    fn product(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::App => "app",
            Self::Barcode => "barcode",
            _ => "qr",
        }
    }
}
