//! WeChat Pay's APIv2, from the platform's side: read ▶ admit ▶ count ▶ fault ▶ execute ▶ sign.

mod authenticate;
mod bill;
mod codes;
mod notification;
mod orders;
mod refund;
mod reply;
mod schema;
mod secret;
mod xml;

use std::sync::Arc;

use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;

use self::authenticate::Admitted;
pub(super) use self::notification::compose;
use self::reply::Reply;
use self::xml::Fields;
use super::Shared;
use super::account::wechat_v2::Account;
use super::fault::{Fault, Kind, disturbed};
use super::notify::{Sending, send};
use super::server::{LONGEST_BODY, Verdict, cut, unread};

/// Whether a path is one of this dialect's.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with("/pay/") || path.starts_with("/secapi/")
}

/// Serves one request; `identity` is the serial number of the client certificate of its connection.
pub(super) async fn serve(shared: Arc<Shared>, identity: Option<String>, request: Request<Incoming>) -> Verdict {
    let (parts, body) = request.into_parts();
    shared.books.lock().stats.requests += 1;
    let Some(call) = Call::at(parts.uri.path()) else {
        return Verdict::Answer(Reply::page(404, "<html><body>404 Not Found</body></html>").sent());
    };
    if let Some(verdict) = unread(&shared, call.operation(), None) {
        return verdict;
    }
    let Ok(body) = Limited::new(body, LONGEST_BODY).collect().await else { return Verdict::Cut };
    // So says what stands before the platform: it knows no merchants yet.
    if call.needs_certificate() && identity.is_none() && shared.require_client_certificate {
        shared.books.lock().stats.wrong_identities += 1;
        let page = "<html><head><title>400 No required SSL certificate was sent</title></head></html>";
        return Verdict::Answer(Reply::page(400, page).sent());
    }
    if parts.method != Method::POST {
        return Verdict::Answer(Reply::refused("请使用post方法").sent());
    }
    let fields = match authenticate::read(&body.to_bytes()) {
        Ok(fields) => fields,
        Err(reply) => return Verdict::Answer(reply.sent()),
    };
    // What to cut is known from the body alone; nobody outside can tell that it was read.
    let number = fields.get("out_refund_no").or_else(|| fields.get("out_trade_no"));
    if let Some(verdict) = unread(&shared, call.operation(), number.map(String::as_str)) {
        return verdict;
    }
    // A task of its own: what was read is executed, whether or not the other side still waits.
    let work = tokio::spawn(async move { Exchange { shared, identity, call, fields }.run().await });
    work.await.unwrap_or(Verdict::Cut)
}

struct Exchange {
    shared: Arc<Shared>,
    identity: Option<String>,
    call: Call,
    fields: Fields,
}

impl Exchange {
    async fn run(self) -> Verdict {
        let Admitted { account, how } = match authenticate::admit(&self.fields, &self.shared.accounts) {
            Ok(admitted) => admitted,
            Err(reply) => {
                self.shared.books.lock().stats.bad_signatures += 1;
                return Verdict::Answer(reply.sent());
            }
        };
        if self.identity.as_ref().is_some_and(|serial| *serial != account.serial) {
            self.shared.books.lock().stats.wrong_identities += 1;
            return Verdict::Answer(Reply::refused("商户号与API证书不一致").sent());
        }
        let Some(fault) = self.arrive(&account) else {
            return Verdict::Answer(self.execute(&account).signed(&account, how, None));
        };
        let reply = disturbed(&fault, || self.execute(&account), |fault| scripted(fault, self.call)).await;
        let Some(reply) = reply else { return cut(&self.shared) };
        let kind = if fault.unsigned { Kind::Unsigned } else { fault.fault };
        Verdict::Answer(reply.signed(&account, how, Some(kind)))
    }

    /// Counts the request, and takes its fault from the script.
    fn arrive(&self, account: &Account) -> Option<Fault> {
        let id = |number: String| (account.mchid.clone(), number);
        let text = |name: &str| self.fields.get(name).cloned();
        let operation = self.call.operation();
        let mut books = self.shared.books.lock();
        let refund = match self.call {
            Call::Refund => text("out_refund_no").map(id),
            Call::RefundQuery => match text("refund_id") {
                Some(refund_id) => refund::by_id(&books, account, &refund_id),
                None => text("out_refund_no").map(id),
            },
            _ => None,
        };
        let by_transaction = |transaction: String| books.transactions.get(&id(transaction)).cloned();
        let order = text("out_trade_no").or_else(|| by_transaction(text("transaction_id")?));
        let order = order.or_else(|| Some(books.refunds.get(refund.as_ref()?)?.order.clone())).map(id);
        books.arrived(operation, order.as_ref(), refund.as_ref());
        drop(books);
        let numbers: Vec<String> = order.into_iter().chain(refund).map(|(_, number)| number).collect();
        self.shared.script.lock().for_request(operation, &account.mchid, &numbers)
    }

    fn execute(&self, account: &Account) -> Reply {
        let content = match schema::checked(&self.fields, self.call) {
            Ok(content) => content,
            Err(reply) => return reply,
        };
        let mut desk = orders::OrderHandler { books: &mut self.shared.books.lock(), account, now: Timestamp::now() };
        let result = match self.call {
            Call::UnifiedOrder => desk.create(content),
            Call::Micropay => desk.scan(content),
            Call::OrderQuery => desk.query(&content),
            Call::CloseOrder => desk.close(&content),
            Call::Reverse => desk.reverse(&content),
            Call::Refund => desk.refund(content, self.shared.refund_auto),
            Call::RefundQuery => desk.refund_query(&content),
            Call::DownloadBill => desk.bill(&content),
            Call::DownloadFundFlow => desk.fund_flow(&content),
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

/// What the fault's `code` says in APIv2's words: an `err_code`, signed; `FAIL`: not understood, unsigned; empty: a page of a
/// proxy.
fn scripted(fault: &Fault, call: Call) -> Reply {
    let message = |usual| fault.message.as_deref().unwrap_or(usual);
    let reply = match fault.code.as_str() {
        _ if fault.fault == Kind::Garbage => return Reply::page(200, "<html>OK</html>"),
        "" => return Reply::page(fault.status, "<html><body>Bad Gateway</body></html>"),
        "FAIL" => Reply::refused(message("系统繁忙，请稍后再试")),
        "SYSTEM_ERROR" => Reply::error("SYSTEMERROR", message("系统错误")),
        code => Reply::error(code, message("系统错误")),
    };
    let reply = reply.with_status(fault.status);
    if call == Call::Reverse { reply.with("recall", "Y") } else { reply }
}

/// Which of the interface's requests it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    UnifiedOrder,
    Micropay,
    OrderQuery,
    CloseOrder,
    Reverse,
    Refund,
    RefundQuery,
    DownloadBill,
    DownloadFundFlow,
}

impl Call {
    fn at(path: &str) -> Option<Self> {
        match path {
            "/pay/unifiedorder" => Some(Self::UnifiedOrder),
            "/pay/micropay" => Some(Self::Micropay),
            "/pay/orderquery" => Some(Self::OrderQuery),
            "/pay/closeorder" => Some(Self::CloseOrder),
            "/secapi/pay/reverse" => Some(Self::Reverse),
            "/secapi/pay/refund" => Some(Self::Refund),
            "/pay/refundquery" => Some(Self::RefundQuery),
            "/pay/downloadbill" => Some(Self::DownloadBill),
            "/pay/downloadfundflow" => Some(Self::DownloadFundFlow),
            _ => None,
        }
    }

    /// One of [`super::fault::OPERATIONS`].
    fn operation(self) -> &'static str {
        match self {
            Self::UnifiedOrder | Self::Micropay => "create",
            Self::OrderQuery => "query",
            Self::CloseOrder => "close",
            Self::Reverse => "cancel",
            Self::Refund => "refund",
            Self::RefundQuery => "refund_query",
            Self::DownloadBill | Self::DownloadFundFlow => "bill",
        }
    }

    fn needs_certificate(self) -> bool {
        matches!(self, Self::Reverse | Self::Refund | Self::DownloadFundFlow)
    }
}
