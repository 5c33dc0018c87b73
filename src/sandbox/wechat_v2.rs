//! WeChat Pay APIv2 simulator: parse ▶ authenticate ▶ count ▶ fault ▶ execute ▶ sign.

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

use std::io;
use std::sync::Arc;

use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;

use self::authenticate::AuthenticatedRequest;
use self::reply::Reply;
use self::xml::Fields;
use super::account::wechat_v2::Account;
use super::account::{self, AccountFile, Profile};
use super::context::SandboxContext;
use super::fault::{Fault, FaultKind, execute_with_fault};
use super::keygen::account_kind::AccountKind;
use super::keygen::wechat_v2::make;
use super::notification::{ComposedNotification, SendOptions, Subject};
use super::notify::announce;
use super::provider::{Provider, Serving};
use super::response_action::{MAX_BODY_BYTES, ResponseAction, action_before_body, cut};
use super::state::{RefundStatus, SandboxState};

/// WeChat Pay, APIv2.
pub(super) struct WechatV2;

impl Provider for WechatV2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn serves(&self, path: &str) -> bool {
        path.starts_with("/pay/") || path.starts_with("/secapi/")
    }

    fn serve(
        &'static self,
        context: Arc<SandboxContext>,
        identity: Option<String>,
        request: Request<Incoming>,
    ) -> Serving {
        Box::pin(serve(context, identity, request))
    }

    fn read_account(&'static self, file: &AccountFile) -> io::Result<Arc<dyn account::Account>> {
        Ok(Arc::new(Account::read(file)?))
    }

    fn account_kinds(&self) -> &'static [AccountKind] {
        &KINDS
    }
}

/// Name, as `provider` in `sandbox.toml`.
const NAME: &str = "wechat-v2";

static KINDS: [AccountKind; 1] = [AccountKind { name: NAME, help: "WeChat Pay, APIv2", make }];

impl account::Account for Account {
    fn profile(&self) -> Profile<'_> {
        Profile {
            name: &self.mchid,
            provider: NAME,
            tls: &self.tls,
            requires_client_certificate: false,
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
async fn serve(context: Arc<SandboxContext>, identity: Option<String>, request: Request<Incoming>) -> ResponseAction {
    let (parts, body) = request.into_parts();
    context.state.lock().stats.requests += 1;
    let Some(call) = Call::at(parts.uri.path()) else {
        return ResponseAction::Answer(Reply::page(404, "<html><body>404 Not Found</body></html>").sent());
    };
    if let Some(verdict) = action_before_body(&context, call.operation(), None) {
        return verdict;
    }
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else { return ResponseAction::Cut };
    // The proxy in front of the platform rejects this: it knows no merchants.
    if call.needs_certificate() && identity.is_none() && context.require_client_certificate {
        context.state.lock().stats.wrong_identities += 1;
        let page = "<html><head><title>400 No required SSL certificate was sent</title></head></html>";
        return ResponseAction::Answer(Reply::page(400, page).sent());
    }
    if parts.method != Method::POST {
        return ResponseAction::Answer(Reply::refused("请使用post方法").sent());
    }
    let fields = match authenticate::read(&body.to_bytes()) {
        Ok(fields) => fields,
        Err(reply) => return ResponseAction::Answer(reply.sent()),
    };
    // Whether to cut depends on the body. The client cannot observe that the body was read.
    let number = fields.get("out_refund_no").or_else(|| fields.get("out_trade_no"));
    if let Some(verdict) = action_before_body(&context, call.operation(), number.map(String::as_str)) {
        return verdict;
    }
    // A separate task, so that a request that was read is executed even if the client disconnects.
    let work = tokio::spawn(async move { Exchange { context, identity, call, fields }.run().await });
    work.await.unwrap_or(ResponseAction::Cut)
}

struct Exchange {
    context: Arc<SandboxContext>,
    identity: Option<String>,
    call: Call,
    fields: Fields,
}

impl Exchange {
    async fn run(self) -> ResponseAction {
        let AuthenticatedRequest { account, how } =
            match authenticate::authenticate(&self.fields, &self.context.accounts) {
                Ok(request) => request,
                Err(reply) => {
                    self.context.state.lock().stats.bad_signatures += 1;
                    return ResponseAction::Answer(reply.sent());
                }
            };
        if self.identity.as_ref().is_some_and(|serial| *serial != account.serial) {
            self.context.state.lock().stats.wrong_identities += 1;
            return ResponseAction::Answer(Reply::refused("商户号与API证书不一致").sent());
        }
        let Some(fault) = self.arrive(&account) else {
            return ResponseAction::Answer(self.execute(&account).signed(&account, how, None));
        };
        let reply = execute_with_fault(&fault, || self.execute(&account), |fault| scripted(fault, self.call)).await;
        let Some(reply) = reply else { return cut(&self.context) };
        let kind = if fault.unsigned { FaultKind::Unsigned } else { fault.fault };
        ResponseAction::Answer(reply.signed(&account, how, Some(kind)))
    }

    /// Counts the request and takes its scripted fault.
    fn arrive(&self, account: &Account) -> Option<Fault> {
        let id = |number: String| (account.mchid.clone(), number);
        let text = |name: &str| self.fields.get(name).cloned();
        let operation = self.call.operation();
        let state = self.context.state.lock();
        let refund = match self.call {
            Call::Refund => text("out_refund_no").map(id),
            Call::RefundQuery => match text("refund_id") {
                Some(refund_id) => refund::by_id(&state, account, &refund_id),
                None => text("out_refund_no").map(id),
            },
            _ => None,
        };
        let by_transaction = |transaction: String| state.transactions.get(&id(transaction)).cloned();
        let order = text("out_trade_no").or_else(|| by_transaction(text("transaction_id")?));
        let order = order.or_else(|| Some(state.refunds.get(refund.as_ref()?)?.order.clone())).map(id);
        drop(state);
        self.context.arrive(operation, &account.mchid, order.as_ref(), refund.as_ref())
    }

    fn execute(&self, account: &Account) -> Reply {
        let content = match schema::checked(&self.fields, self.call) {
            Ok(content) => content,
            Err(reply) => return reply,
        };
        let mut handler =
            orders::OrderHandler { state: &mut self.context.state.lock(), account, now: Timestamp::now() };
        let result = match self.call {
            Call::UnifiedOrder => handler.create(content),
            Call::Micropay => handler.scan(content),
            Call::OrderQuery => handler.query(&content),
            Call::CloseOrder => handler.close(&content),
            Call::Reverse => handler.reverse(&content),
            Call::Refund => handler.refund(content, self.context.refund_auto),
            Call::RefundQuery => handler.refund_query(&content),
            Call::DownloadBill => handler.bill(&content),
            Call::DownloadFundFlow => handler.fund_flow(&content),
        };
        let (Ok(reply) | Err(reply)) = announce(&self.context, handler.state, result);
        reply
    }
}

/// Returns the reply for the fault's `code`: a signed `err_code`; `FAIL` gives an unsigned rejection; an empty code
/// gives a proxy's page.
fn scripted(fault: &Fault, call: Call) -> Reply {
    let message = |usual| fault.message.as_deref().unwrap_or(usual);
    let reply = match fault.code.as_str() {
        _ if fault.fault == FaultKind::Garbage => return Reply::page(200, "<html>OK</html>"),
        "" => return Reply::page(fault.status, "<html><body>Bad Gateway</body></html>"),
        "FAIL" => Reply::refused(message("系统繁忙，请稍后再试")),
        "SYSTEM_ERROR" => Reply::error("SYSTEMERROR", message("系统错误")),
        code => Reply::error(code, message("系统错误")),
    };
    let reply = reply.with_status(fault.status);
    if call == Call::Reverse { reply.with("recall", "Y") } else { reply }
}

/// API call of APIv2.
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

    /// Operation name, one of [`super::fault::OPERATIONS`].
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
