//! Alipay, from the platform's side: merge ▶ admit ▶ count ▶ fault ▶ execute ▶ sign. Here its classic form protocol; `v3` is its
//! JSON protocol over the same business.

mod authenticate;
pub(super) mod bills;
mod codes;
mod gbk;
mod notification;
mod refund;
mod reply;
mod schema;
mod trade;
pub(super) mod v3;
mod yuan;

use std::sync::Arc;

use http::Request;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::authenticate::Admitted;
pub(super) use self::notification::compose;
use self::reply::Reply;
use super::Shared;
use super::account::alipay::Account;
use super::fault::{Fault, Kind, disturbed};
use super::form::{Form, Mistake};
use super::notify::{Sending, send};
use super::server::{LONGEST_BODY, Verdict, cut, unread};
use super::state::SandboxState;

/// Serves one request.
pub(super) async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Verdict {
    let (parts, body) = request.into_parts();
    shared.books.lock().stats.requests += 1;
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let head = Form::default().with(query);
    if let Some(verdict) = head.as_ref().ok().and_then(|head| left_unread(&shared, head)) {
        return verdict;
    }
    let Ok(body) = Limited::new(body, LONGEST_BODY).collect().await else { return Verdict::Cut };
    let body = body.to_bytes();
    let has_form = !body.is_empty() && is_form(&parts);
    let form = head.and_then(|head| if has_form { head.with(&body) } else { Ok(head) });
    let form = match form {
        Ok(form) => form,
        Err(mistake) => return Verdict::Answer(unreadable(&mistake).sent()),
    };
    // What to cut is often known from the body alone; nobody outside can tell that it was read.
    if let Some(verdict) = left_unread(&shared, &form) {
        return verdict;
    }
    // A task of its own: what was read is executed, whether or not the other side still waits.
    let host = parts.headers.get("host").and_then(|value| value.to_str().ok());
    let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default().to_owned();
    let work = tokio::spawn(async move { Exchange { platform: Platform { shared, host }, form }.run().await });
    work.await.unwrap_or(Verdict::Cut)
}

fn unreadable(mistake: &Mistake) -> Reply {
    match mistake {
        Mistake::Encoding => Reply::gateway("40002", "isv.invalid-encoding", "参数编码错误，请使用UTF-8表单编码"),
        Mistake::Twice(name) => Reply::gateway("40002", "isv.invalid-parameter", &format!("参数重复：{name}")),
    }
}

fn is_form(parts: &Parts) -> bool {
    let kind = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

fn left_unread(shared: &Shared, form: &Form) -> Option<Verdict> {
    let operation = form.get("method").and_then(Method::named).map_or("", Method::operation);
    let content: Value = form.get("biz_content").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let number = content["out_request_no"].as_str().or_else(|| content["out_trade_no"].as_str());
    unread(shared, operation, number)
}

struct Exchange {
    platform: Platform,
    form: Form,
}

impl Exchange {
    async fn run(self) -> Verdict {
        let shared = &self.platform.shared;
        let admitted = match authenticate::admit(&self.form, &shared.accounts, Timestamp::now()) {
            Ok(admitted) => admitted,
            Err(reply) => {
                shared.books.lock().stats.bad_signatures += 1;
                return Verdict::Answer(reply.sent());
            }
        };
        let (method, account) = (admitted.method, Arc::clone(&admitted.account));
        match self.platform.answer(admitted).await {
            Some((reply, fault)) => Verdict::Answer(reply.signed(method, &account, fault)),
            None => cut(shared),
        }
    }
}

/// The business, whichever protocol brings it.
struct Platform {
    shared: Arc<Shared>,
    /// Where the request was sent to: links lead there too.
    host: String,
}

impl Platform {
    /// Counts, executes, and has go wrong what the script says: the answer, and what is wrong with its signature. Nothing
    /// where the connection is to be cut instead.
    async fn answer(&self, admitted: Admitted) -> Option<(Reply, Option<Kind>)> {
        let Admitted { account, method, content, notify_url } = admitted;
        let Some(fault) = self.arrive(method, &account, content.as_ref()) else {
            return Some((self.execute(method, &account, content, notify_url), None));
        };
        if fault.fault == Kind::NotRefunded {
            let number = content.as_ref().map(|content| content["out_trade_no"].clone()).unwrap_or_default();
            let object = json!({"code": "10000", "msg": "Success", "out_trade_no": number, "fund_change": "N"});
            return Some((Reply::method(object), None));
        }
        let reply = disturbed(&fault, || self.execute(method, &account, content, notify_url), scripted).await?;
        let kind = if fault.unsigned { Kind::Unsigned } else { fault.fault };
        Some((reply.spoilt(fault.fault), Some(kind)))
    }

    /// Counts the request, and takes its fault from the script.
    fn arrive(&self, method: Method, account: &Account, content: Option<&Value>) -> Option<Fault> {
        let operation = method.operation();
        let mut books = self.shared.books.lock();
        let order = content.and_then(|content| trade_number(&books, account, content));
        let refund = match method {
            Method::Refund | Method::RefundQuery => {
                let request = content.and_then(|content| content["out_request_no"].as_str().map(str::to_owned));
                request.or_else(|| order.clone())
            }
            _ => None,
        };
        let id = |number: String| (account.app_id.clone(), number);
        let (order, refund) = (order.map(id), refund.map(id));
        books.arrived(operation, order.as_ref(), refund.as_ref());
        drop(books);
        let numbers: Vec<String> = order.into_iter().chain(refund).map(|(_, number)| number).collect();
        self.shared.script.lock().for_request(operation, &account.app_id, &numbers)
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
        let books = &mut self.shared.books.lock();
        let mut desk = trade::OrderHandler { books, account, now: Timestamp::now() };
        let result = match method {
            Method::Pay => desk.pay(content, notify_url),
            Method::Precreate | Method::Page | Method::Wap | Method::App | Method::Create => {
                desk.create(method, content, notify_url)
            }
            Method::Query => desk.query(&content),
            Method::Close => desk.close(&content),
            Method::Cancel => desk.cancel(&content),
            Method::Refund => desk.refund(content, notify_url, self.shared.refund_auto),
            Method::RefundQuery => desk.refund_query(&content),
            Method::BillLink => desk.bill(&content, &self.host),
            Method::CertificateDownload => desk.certificate(&content),
        };
        let (Ok(reply) | Err(reply)) = result.map(|done| {
            if let Some(subject) = done.notify {
                // Without a notify_url there is nobody to tell.
                send(&self.shared, desk.books, &subject, &Sending::default()).ok();
            }
            done.reply
        });
        reply
    }
}

/// The merchant's number of the trade that is meant; `trade_no` wins. Empty for a `trade_no` that was never given out.
fn trade_number(books: &SandboxState, account: &Account, content: &Value) -> Option<String> {
    let text = |field: &str| content[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match text("trade_no") {
        Some(trade) => Some(books.transactions.get(&(account.app_id.clone(), trade)).cloned().unwrap_or_default()),
        None => text("out_trade_no"),
    }
}

/// What the fault's `code` says in Alipay's words: a sub-code of the business (signed, `SYSTEM_ERROR` is `ACQ.SYSTEM_ERROR`),
/// of the gateway (`isp.…`, `aop.…`, `isv.…`), or a number of the gateway (`40005`). Empty: a page of a proxy.
fn scripted(fault: &Fault) -> Reply {
    let reply = match fault.code.as_str() {
        _ if fault.fault == Kind::Garbage => return Reply::page(200, "<html>OK</html>".to_owned()),
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

/// Which of the interface's methods it is.
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

    /// One of [`super::fault::OPERATIONS`].
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

    /// How an order is paid that was made with this method.
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

/// Success in the platform's words, to be filled with more.
fn success() -> Value {
    json!({"code": "10000", "msg": "Success"})
}
