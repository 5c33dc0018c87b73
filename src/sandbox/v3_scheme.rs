//! Simulator of the v3 scheme, the protocol of WeChat Pay's API v3 that other companies use under their own names:
//! authenticate ▶ count ▶ fault ▶ execute ▶ sign. A provider of the scheme is one [`V3Scheme`].

mod authorization;
pub(super) mod bills;
mod codepay;
mod notification;
mod orders;
mod partner;
mod reply;
mod schema;
pub(super) mod scheme;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::bills::Bill;
use self::reply::{Reply, parameter};
use self::schema::Product;
use self::scheme::V3Scheme;
use super::account::v3_scheme::Account;
use super::account::{self, AccountFile, Profile};
use super::context::SandboxContext;
use super::fault::{Fault, FaultKind, execute_with_fault};
use super::keygen::account_kind::AccountKind;
use super::notification::{ComposedNotification, SendOptions, Subject};
use super::notify::announce;
use super::provider::{Provider, Serving};
use super::response_action::{MAX_BODY_BYTES, ResponseAction, action_before_body, cut};
use super::state::{RefundStatus, SandboxState};

impl Provider for V3Scheme {
    fn name(&self) -> &'static str {
        self.name
    }

    fn serves(&self, path: &str) -> bool {
        self.paths.contain(path)
    }

    fn serve(
        &'static self,
        context: Arc<SandboxContext>,
        identity: Option<String>,
        request: Request<Incoming>,
    ) -> Serving {
        Box::pin(serve(self, context, identity, request))
    }

    fn read_account(&'static self, file: &AccountFile) -> io::Result<Arc<dyn account::Account>> {
        Ok(Arc::new(Account::read(self, file)?))
    }

    fn account_kinds(&self) -> &'static [AccountKind] {
        self.account_kinds
    }
}

impl account::Account for Account {
    fn profile(&self) -> Profile<'_> {
        Profile {
            name: &self.mchid,
            provider: self.scheme.name,
            tls: &self.tls,
            requires_client_certificate: true,
            default_payer: "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o",
            console_refund_statuses: RefundStatus::FINAL,
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

/// Serves one request. `identity` is the serial number of the connection's client certificate.
async fn serve(
    scheme: &'static V3Scheme,
    context: Arc<SandboxContext>,
    identity: Option<String>,
    request: Request<Incoming>,
) -> ResponseAction {
    let (parts, body) = request.into_parts();
    context.state.lock().stats.requests += 1;
    let route = Route::of(scheme, &parts);
    if let Some(route) = &route
        && let Some(verdict) = action_before_body(&context, route.operation(), route.number())
    {
        return verdict;
    }
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else { return ResponseAction::Cut };
    // A separate task, so that a request that was read is executed even if the client disconnects.
    let work = tokio::spawn(async move {
        let exchange = Exchange { scheme, context, identity, parts, body: body.to_bytes(), route };
        exchange.run().await
    });
    work.await.unwrap_or(ResponseAction::Cut)
}

struct Exchange {
    scheme: &'static V3Scheme,
    context: Arc<SandboxContext>,
    identity: Option<String>,
    parts: Parts,
    body: Bytes,
    route: Option<Route>,
}

impl Exchange {
    async fn run(self) -> ResponseAction {
        let account = match self.authenticate() {
            Ok(account) => account,
            Err((reply, account)) => {
                let key = account.as_ref().and_then(|account| account.key(None));
                return ResponseAction::Answer(reply.signed(self.scheme, key, None));
            }
        };
        let serial = self.scheme.header("serial");
        let wanted = self.parts.headers.get(&serial).and_then(|value| value.to_str().ok());
        let Some(key) = account.key(wanted) else {
            let issue = "neither the id of the public key nor the serial of a platform certificate";
            let reply = parameter("header", &serial, issue);
            return ResponseAction::Answer(reply.signed(self.scheme, account.key(None), None));
        };
        // Merchants and service providers have separate paths.
        let is_own_path = self.is_for_partners() == account.merchant_of.is_some();
        let Some(route) = self.route.as_ref().filter(|route| !route.has_partner_path() || is_own_path) else {
            let reply = Reply::error(404, "RESOURCE_NOT_EXISTS", "请求的资源不存在");
            return ResponseAction::Answer(reply.signed(self.scheme, Some(key), None));
        };
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        let Some(fault) = self.arrive(route, &account, body.as_ref()) else {
            return ResponseAction::Answer(self.execute(route, &account, body).signed(self.scheme, Some(key), None));
        };

        let reply = execute_with_fault(&fault, || self.execute(route, &account, body), scripted).await;
        let Some(reply) = reply.map(|reply| tampered(reply, fault.fault)) else { return cut(&self.context) };
        let unsigned = fault.unsigned || fault.fault == FaultKind::Unsigned || fault.code.is_empty();
        ResponseAction::Answer(reply.signed(self.scheme, Some(key).filter(|_| !unsigned), Some(fault.fault)))
    }

    /// Checks headers, signature, nonce and client certificate. A rejection contains the account if it is known, so
    /// that the rejection can be signed.
    fn authenticate(&self) -> Result<Arc<Account>, (Reply, Option<Arc<Account>>)> {
        let rejected = |reply, account| {
            self.context.state.lock().stats.bad_signatures += 1;
            (reply, account)
        };
        authorization::check_headers(&self.parts).map_err(|reply| (reply, None))?;
        let claim = authorization::read(self.scheme, &self.parts.headers).map_err(|reply| rejected(reply, None))?;
        let account = claim.account(self.scheme, &self.context.accounts).map_err(|reply| rejected(reply, None))?;
        let now = Timestamp::now().as_second().unsigned_abs();
        let checked = claim.check(&account, &self.parts, &self.body, now);
        checked.map_err(|reply| rejected(reply, Some(account.clone())))?;
        // Only nonces of valid signatures are recorded; otherwise anyone could use up a merchant's nonces.
        if !self.context.state.lock().is_new_nonce(&account.mchid, claim.nonce(), now) {
            self.context.state.lock().stats.replayed_nonces += 1;
            let reply = authorization::refusal("nonce_str", "请求重放，随机串已被使用", "this nonce was used before");
            return Err(rejected(reply, Some(account)));
        }
        let is_wrong_identity = match &self.identity {
            Some(serial) => *serial != account.merchant.serial,
            // If the listener also serves other providers, a handshake without a certificate is allowed.
            None => self.context.require_client_certificate,
        };
        if is_wrong_identity {
            self.context.state.lock().stats.wrong_identities += 1;
            let reply = Reply::error(403, "NO_AUTH", "the connection's client certificate is not this merchant's");
            return Err((reply, Some(account)));
        }
        Ok(account)
    }

    fn is_for_partners(&self) -> bool {
        self.parts.uri.path().starts_with(self.scheme.paths.partner_transactions)
    }

    /// Counts the request and takes its scripted fault.
    fn arrive(&self, route: &Route, account: &Account, body: Option<&Value>) -> Option<Fault> {
        let text = |field: &str| body.and_then(|body| body[field].as_str()).map(str::to_owned);
        let id = |number: String| (account.mchid.clone(), number);
        let operation = route.operation();
        let state = self.context.state.lock();
        let by_transaction = |transaction: Option<String>| state.transactions.get(&id(transaction?)).cloned();
        let (order, refund) = match route {
            Route::Create(_) => (text("out_trade_no"), None),
            Route::Query(number) | Route::Close(number) | Route::Reverse(number) => (Some(number.clone()), None),
            Route::QueryById(transaction) => (by_transaction(Some(transaction.clone())), None),
            Route::Refund => {
                (text("out_trade_no").or_else(|| by_transaction(text("transaction_id"))), text("out_refund_no"))
            }
            Route::RefundQuery(number) => {
                (state.refunds.get(&id(number.clone())).map(|refund| refund.order.clone()), Some(number.clone()))
            }
            Route::Certificates | Route::Bill(_) | Route::BillFile => (None, None),
        };
        let (order, refund) = (order.map(id), refund.map(id));
        drop(state);
        self.context.arrive(operation, &account.mchid, order.as_ref(), refund.as_ref())
    }

    fn execute(&self, route: &Route, account: &Arc<Account>, body: Option<Value>) -> Reply {
        let mut handler =
            orders::OrderHandler { state: &mut self.context.state.lock(), account, now: Timestamp::now() };
        let query = self.parts.uri.query();
        let id = |number: &String| (account.mchid.clone(), number.clone());
        let body = match partner::inward(account, body) {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        let result = match route {
            Route::Create(product) => handler.create(*product, body),
            Route::Query(number) => handler.check_query(query).and_then(|()| handler.query(&id(number))),
            Route::QueryById(transaction) => {
                handler.check_query(query).and_then(|()| handler.query_by_id(&id(transaction)))
            }
            Route::Close(number) => handler.close(&id(number), body),
            Route::Reverse(number) => handler.reverse(&id(number), body),
            Route::Refund => handler.refund(body, self.context.refund_auto),
            Route::RefundQuery(number) => handler.refund_query(&id(number), query),
            Route::Certificates => handler.certificates(query),
            Route::Bill(bill) => handler.bill(*bill, &self.parts),
            Route::BillFile => handler.bill_file(query),
        };
        let (Ok(reply) | Err(reply)) = announce(&self.context, handler.state, result);
        reply
    }
}

fn scripted(fault: &Fault) -> Reply {
    if fault.fault == FaultKind::Garbage {
        return Reply::other(200, "<html>OK</html>");
    }
    if fault.code.is_empty() {
        return Reply::other(fault.status, "<html><body>Bad Gateway</body></html>");
    }
    Reply::error(fault.status, &fault.code, fault.message.as_deref().unwrap_or("系统异常，请稍后重试"))
}

/// Bill link to a foreign host that does not resolve.
const FOREIGN_FILE_URL: &str = "https://bills.example.invalid/v3/billdownload/file?token=x";

/// Applies the fault to the content: another amount, account, hash or host.
fn tampered(reply: Reply, kind: FaultKind) -> Reply {
    let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) else { return reply };
    match kind {
        FaultKind::OtherAmount => notification::tamper_amount(&mut body),
        FaultKind::PayError
            if body["trade_state"].as_str().is_some_and(|state| state != "REVOKED" && state != "CLOSED") =>
        {
            orders::fail_payment(&mut body)
        }
        FaultKind::OtherHash if body.get("hash_value").is_some() => bills::tamper_hash(&mut body),
        FaultKind::OtherHost if body.get("download_url").is_some() => body["download_url"] = json!(FOREIGN_FILE_URL),
        FaultKind::OtherAccount if body.get("mchid").is_some() => body["mchid"] = json!("1900000000"),
        FaultKind::OtherAccount if body.get("out_trade_no").is_some() => {
            body["out_trade_no"] = json!("order-of-another-merchant")
        }
        _ => return reply,
    }
    reply.with(&body)
}

/// API request of v3.
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
    fn of(scheme: &V3Scheme, parts: &Parts) -> Option<Self> {
        let get = match parts.method {
            Method::GET => true,
            Method::POST => false,
            _ => return None,
        };
        let (paths, path) = (&scheme.paths, parts.uri.path());
        let below = |base: &str| {
            let rest = path.strip_prefix(base)?.strip_prefix('/')?;
            Some(rest.split('/').collect::<Vec<_>>())
        };
        if let Some(rest) = below(paths.partner_transactions).or_else(|| below(paths.transactions)) {
            return Self::of_order(get, &rest);
        }
        if let Some(rest) = below(paths.refunds) {
            return match (get, rest.as_slice()) {
                (true, [number]) => Some(Self::RefundQuery(decoded(number)?)),
                _ => None,
            };
        }
        match (get, path) {
            (false, path) if path == paths.refunds => Some(Self::Refund),
            (true, path) if path == paths.certificates => Some(Self::Certificates),
            (true, path) if path == paths.trade_bill => Some(Self::Bill(Bill::Trade)),
            (true, path) if path == paths.fund_flow_bill => Some(Self::Bill(Bill::FundFlow)),
            (true, path) if path == paths.bill_file => Some(Self::BillFile),
            _ => None,
        }
    }

    /// Returns the route of a path below the orders.
    fn of_order(get: bool, path: &[&str]) -> Option<Self> {
        match (get, path) {
            (false, [product]) => Product::named(product).map(Self::Create),
            (true, ["out-trade-no", number]) => Some(Self::Query(decoded(number)?)),
            (true, ["id", id]) => Some(Self::QueryById(decoded(id)?)),
            (false, ["out-trade-no", number, "close"]) => Some(Self::Close(decoded(number)?)),
            (false, ["out-trade-no", number, "reverse"]) => Some(Self::Reverse(decoded(number)?)),
            _ => None,
        }
    }

    /// Returns whether service providers use another path for this request.
    fn has_partner_path(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Query(_) | Self::QueryById(_) | Self::Close(_) | Self::Reverse(_))
    }

    /// Operation name, one of [`super::fault::OPERATIONS`].
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

/// Decodes the percent encoding of a path segment.
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
