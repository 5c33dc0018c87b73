//! WeChat Pay API v3, from the platform's side: admit ▶ count ▶ fault ▶ execute ▶ sign.

mod authorization;
pub(super) mod bills;
mod codepay;
mod notification;
mod orders;
mod partner;
mod reply;
mod schema;

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::bills::Bill;
pub(super) use self::notification::compose;
use self::reply::Reply;
use self::schema::Product;
use super::Shared;
use super::account::wechat_v3::Account;
use super::fault::{Fault, Kind, disturbed};
use super::notify::{Sending, send};
use super::server::{LONGEST_BODY, Verdict, cut, unread};

/// Serves one request; `identity` is the serial number of the client certificate of its connection.
pub(super) async fn serve(shared: Arc<Shared>, identity: Option<String>, request: Request<Incoming>) -> Verdict {
    let (parts, body) = request.into_parts();
    shared.books.lock().stats.requests += 1;
    let route = Route::of(&parts);
    if let Some(route) = &route
        && let Some(verdict) = unread(&shared, route.operation(), route.number())
    {
        return verdict;
    }
    let Ok(body) = Limited::new(body, LONGEST_BODY).collect().await else { return Verdict::Cut };
    // A task of its own: what was read is executed, whether or not the other side still waits.
    let work = tokio::spawn(async move {
        let exchange = Exchange { shared, identity, parts, body: body.to_bytes(), route };
        exchange.run().await
    });
    work.await.unwrap_or(Verdict::Cut)
}

struct Exchange {
    shared: Arc<Shared>,
    identity: Option<String>,
    parts: Parts,
    body: Bytes,
    route: Option<Route>,
}

impl Exchange {
    async fn run(self) -> Verdict {
        let account = match self.admit() {
            Ok(account) => account,
            Err((reply, account)) => {
                let key = account.as_ref().and_then(|account| account.key(None));
                return Verdict::Answer(reply.signed(key, None));
            }
        };
        let wanted = self.parts.headers.get("wechatpay-serial").and_then(|value| value.to_str().ok());
        let Some(key) = account.key(wanted) else {
            let issue = "neither the id of the public key nor the serial of a platform certificate";
            let reply = orders::parameter("header", "Wechatpay-Serial", issue);
            return Verdict::Answer(reply.signed(account.key(None), None));
        };
        // Each has a desk of its own.
        let is_theirs = self.is_for_partners() == account.merchant_of.is_some();
        let Some(route) = self.route.as_ref().filter(|route| !route.has_two_desks() || is_theirs) else {
            let reply = Reply::error(404, "RESOURCE_NOT_EXISTS", "请求的资源不存在");
            return Verdict::Answer(reply.signed(Some(key), None));
        };
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        let Some(fault) = self.arrive(route, &account, body.as_ref()) else {
            return Verdict::Answer(self.execute(route, &account, body).signed(Some(key), None));
        };

        let reply = disturbed(&fault, || self.execute(route, &account, body), scripted).await;
        let Some(reply) = reply.map(|reply| spoilt(reply, fault.fault)) else { return cut(&self.shared) };
        let unsigned = fault.unsigned || fault.fault == Kind::Unsigned || fault.code.is_empty();
        Verdict::Answer(reply.signed(Some(key).filter(|_| !unsigned), Some(fault.fault)))
    }

    /// Headers, signature, nonce, identity. The account comes with a refusal when it is known, to sign it.
    fn admit(&self) -> Result<Arc<Account>, (Reply, Option<Arc<Account>>)> {
        let bad = |reply, account| {
            self.shared.books.lock().stats.bad_signatures += 1;
            (reply, account)
        };
        authorization::check_headers(&self.parts).map_err(|reply| (reply, None))?;
        let claim = authorization::read(&self.parts.headers).map_err(|reply| bad(reply, None))?;
        let account = claim.account(&self.shared.accounts).map_err(|reply| bad(reply, None))?;
        let now = Timestamp::now().as_second().unsigned_abs();
        let checked = claim.check(&account, &self.parts, &self.body, now);
        checked.map_err(|reply| bad(reply, Some(account.clone())))?;
        // Only the nonces of good signatures are remembered: else anybody could use up a merchant's.
        if !self.shared.books.lock().is_new_nonce(&account.mchid, claim.nonce(), now) {
            self.shared.books.lock().stats.replayed_nonces += 1;
            let reply = authorization::refusal("nonce_str", "请求重放，随机串已被使用", "this nonce was used before");
            return Err(bad(reply, Some(account)));
        }
        let wrong = match &self.identity {
            Some(serial) => *serial != account.merchant.serial,
            // Where other providers' merchants come in too, a handshake without a certificate is no mistake yet.
            None => self.shared.require_client_certificate,
        };
        if wrong {
            self.shared.books.lock().stats.wrong_identities += 1;
            let reply = Reply::error(403, "NO_AUTH", "the connection's client certificate is not this merchant's");
            return Err((reply, Some(account)));
        }
        Ok(account)
    }

    fn is_for_partners(&self) -> bool {
        self.parts.uri.path().starts_with("/v3/pay/partner/")
    }

    /// Counts the request, and takes its fault from the script.
    fn arrive(&self, route: &Route, account: &Account, body: Option<&Value>) -> Option<Fault> {
        let text = |field: &str| body.and_then(|body| body[field].as_str()).map(str::to_owned);
        let id = |number: String| (account.mchid.clone(), number);
        let operation = route.operation();
        let mut books = self.shared.books.lock();
        let by_transaction = |transaction: Option<String>| books.transactions.get(&id(transaction?)).cloned();
        let (order, refund) = match route {
            Route::Create(_) => (text("out_trade_no"), None),
            Route::Query(number) | Route::Close(number) | Route::Reverse(number) => (Some(number.clone()), None),
            Route::QueryById(transaction) => (by_transaction(Some(transaction.clone())), None),
            Route::Refund => {
                (text("out_trade_no").or_else(|| by_transaction(text("transaction_id"))), text("out_refund_no"))
            }
            Route::RefundQuery(number) => {
                (books.refunds.get(&id(number.clone())).map(|refund| refund.order.clone()), Some(number.clone()))
            }
            Route::Certificates | Route::Bill(_) | Route::BillFile => (None, None),
        };
        let (order, refund) = (order.map(id), refund.map(id));
        books.arrived(operation, order.as_ref(), refund.as_ref());
        drop(books);
        let numbers: Vec<String> = order.into_iter().chain(refund).map(|(_, number)| number).collect();
        self.shared.script.lock().for_request(operation, &account.mchid, &numbers)
    }

    fn execute(&self, route: &Route, account: &Arc<Account>, body: Option<Value>) -> Reply {
        let mut desk = orders::OrderHandler { books: &mut self.shared.books.lock(), account, now: Timestamp::now() };
        let query = self.parts.uri.query();
        let id = |number: &String| (account.mchid.clone(), number.clone());
        let body = match partner::inward(account, body) {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        let result = match route {
            Route::Create(product) => desk.create(*product, body),
            Route::Query(number) => desk.check_query(query).and_then(|()| desk.query(&id(number))),
            Route::QueryById(transaction) => desk.check_query(query).and_then(|()| desk.query_by_id(&id(transaction))),
            Route::Close(number) => desk.close(&id(number), body),
            Route::Reverse(number) => desk.reverse(&id(number), body),
            Route::Refund => desk.refund(body, self.shared.refund_auto),
            Route::RefundQuery(number) => desk.refund_query(&id(number), query),
            Route::Certificates => desk.certificates(query),
            Route::Bill(bill) => desk.bill(*bill, &self.parts),
            Route::BillFile => desk.bill_file(query),
        };
        let (Ok(reply) | Err(reply)) = result.map(|done| {
            if let Some(subject) = done.notify {
                send(&self.shared, desk.books, &subject, &Sending::default()).ok();
            }
            done.reply
        });
        reply
    }
}

fn scripted(fault: &Fault) -> Reply {
    if fault.fault == Kind::Garbage {
        return Reply::other(200, "<html>OK</html>");
    }
    if fault.code.is_empty() {
        return Reply::other(fault.status, "<html><body>Bad Gateway</body></html>");
    }
    Reply::error(fault.status, &fault.code, fault.message.as_deref().unwrap_or("系统异常，请稍后重试"))
}

/// A file that is none of the platform's; the name leads nowhere.
const ELSEWHERE: &str = "https://bills.example.invalid/v3/billdownload/file?token=x";

/// Puts another amount, account, hash or host into an answer.
fn spoilt(reply: Reply, kind: Kind) -> Reply {
    let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) else { return reply };
    match kind {
        Kind::OtherAmount => notification::spoil_amount(&mut body),
        Kind::PayError if body["trade_state"].as_str().is_some_and(|state| state != "REVOKED" && state != "CLOSED") => {
            orders::fail_payment(&mut body)
        }
        Kind::OtherHash if body.get("hash_value").is_some() => bills::spoil_hash(&mut body),
        Kind::OtherHost if body.get("download_url").is_some() => body["download_url"] = json!(ELSEWHERE),
        Kind::OtherAccount if body.get("mchid").is_some() => body["mchid"] = json!("1900000000"),
        Kind::OtherAccount if body.get("out_trade_no").is_some() => {
            body["out_trade_no"] = json!("somebody-elses-order")
        }
        _ => return reply,
    }
    reply.with(&body)
}

/// Which of the interface's requests it is.
enum Route {
    Create(Product),
    Query(String),
    QueryById(String),
    Close(String),
    Reverse(String),
    Refund,
    RefundQuery(String),
    Certificates,
    Bill(Bill),
    BillFile,
}

impl Route {
    fn of(parts: &Parts) -> Option<Self> {
        let get = parts.method == Method::GET;
        if !get && parts.method != Method::POST {
            return None;
        }
        let path = parts.uri.path().strip_prefix("/v3/")?;
        let path: Vec<&str> = path.split('/').collect();
        let path = match path.as_slice() {
            ["pay", "partner", rest @ ..] => [&["pay"], rest].concat(),
            _ => path,
        };
        match (get, path.as_slice()) {
            (false, ["pay", "transactions", product]) => Product::named(product).map(Self::Create),
            (true, ["pay", "transactions", "out-trade-no", number]) => Some(Self::Query(decoded(number)?)),
            (true, ["pay", "transactions", "id", id]) => Some(Self::QueryById(decoded(id)?)),
            (false, ["pay", "transactions", "out-trade-no", number, "close"]) => Some(Self::Close(decoded(number)?)),
            (false, ["pay", "transactions", "out-trade-no", number, "reverse"]) => {
                Some(Self::Reverse(decoded(number)?))
            }
            (false, ["refund", "domestic", "refunds"]) => Some(Self::Refund),
            (true, ["refund", "domestic", "refunds", number]) => Some(Self::RefundQuery(decoded(number)?)),
            (true, ["certificates"]) => Some(Self::Certificates),
            (true, ["bill", "tradebill"]) => Some(Self::Bill(Bill::Trade)),
            (true, ["bill", "fundflowbill"]) => Some(Self::Bill(Bill::FundFlow)),
            (true, ["billdownload", "file"]) => Some(Self::BillFile),
            _ => None,
        }
    }

    /// Whether service providers have another path for it.
    fn has_two_desks(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Query(_) | Self::QueryById(_) | Self::Close(_) | Self::Reverse(_))
    }

    /// One of [`super::fault::OPERATIONS`].
    fn operation(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Query(_) | Self::QueryById(_) => "query",
            Self::Close(_) => "close",
            Self::Reverse(_) => "cancel",
            Self::Refund => "refund",
            Self::RefundQuery(_) => "refund_query",
            Self::Certificates => "certificates",
            Self::Bill(_) => "bill",
            Self::BillFile => "bill_file",
        }
    }

    fn number(&self) -> Option<&str> {
        match self {
            Self::Query(number) | Self::Close(number) | Self::Reverse(number) | Self::RefundQuery(number) => {
                Some(number)
            }
            _ => None,
        }
    }
}

/// A piece of the path without its percent signs.
fn decoded(piece: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(piece.len());
    let mut rest = piece.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}
