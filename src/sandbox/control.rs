//! The control API: plain HTTP on loopback, for tests and people. It acts as the payer and scripts faults.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::console;
use super::context::SandboxContext;
use super::fault::Fault;
use super::listener::accept;
use super::notification::{SendOptions, Subject};
use super::notify::send;
use super::state::{Id, OrderState, RefundStatus, SandboxState};

/// Serves connections until the sandbox stops.
pub(super) async fn run(context: Arc<SandboxContext>, listener: TcpListener) {
    loop {
        let stream = accept(&listener).await;
        let at = context.clone();
        context.spawn(async move {
            let service = service_fn(move |request| {
                let context = at.clone();
                async move { Ok::<_, Infallible>(answer(&context, request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(context: &Arc<SandboxContext>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let result = match Limited::new(body, 1 << 20).collect().await {
        Ok(body) => {
            let query = parts.uri.query().and_then(|query| query.split_once('='));
            let account = query.filter(|(name, _)| matches!(*name, "mchid" | "app_id" | "merId" | "account"));
            let account = account.map(|(_, account)| account.to_owned());
            let call = Call { context, account, body: body.to_bytes(), now: Timestamp::now() };
            call.run(&parts.method, parts.uri.path())
        }
        Err(error) => Err(control_error(StatusCode::BAD_REQUEST, error.to_string())),
    };
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err((status, message)) => (status, json!({"error": message})),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

type ControlError = (StatusCode, String);

fn control_error(status: StatusCode, message: impl Into<String>) -> ControlError {
    (status, message.into())
}

struct Call<'a> {
    context: &'a Arc<SandboxContext>,
    /// Account from the query string; needed if several accounts have the same number.
    account: Option<String>,
    body: Bytes,
    now: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pay {
    #[serde(alias = "buyer_id")]
    openid: Option<String>,
    #[serde(default = "yes")]
    notify: bool,
    amount: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finish {
    #[serde(default = "success")]
    status: RefundStatus,
    #[serde(default = "yes")]
    notify: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsoleRefund {
    number: String,
    /// Amount in fen.
    amount: u64,
    #[serde(default = "success")]
    status: RefundStatus,
}

impl Call<'_> {
    fn run(&self, method: &Method, path: &str) -> Result<Value, ControlError> {
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut state = self.context.state.lock();
        match (method.as_str(), path.as_slice()) {
            ("GET", ["orders"]) => {
                let ids: Vec<Id> = state.orders.keys().cloned().collect();
                Ok(ids.iter().filter_map(|id| state.view(id, self.now)).collect())
            }
            ("GET", ["orders", number]) => {
                let id = self.id(|id| state.orders.contains_key(id), number)?;
                Ok(state.view(&id, self.now).unwrap_or_default())
            }
            ("POST", ["orders", number, action]) => {
                let id = self.id(|id| state.orders.contains_key(id), number)?;
                match *action {
                    "scan" => self.open_order(&mut state, &id)?.opened = true,
                    "pay" => self.pay(&mut state, &id)?,
                    "fail" => self.open_order(&mut state, &id)?.state = OrderState::PayError,
                    "notify" => self.notify(&mut state, &Subject::Payment(id.clone()), &self.read()?)?,
                    "refund_in_console" => {
                        let ConsoleRefund { number, amount, status } = self.read()?;
                        console::refund(self.context, &mut state, &id, (&number, amount), status)
                            .map_err(|message| control_error(StatusCode::CONFLICT, message))?;
                    }
                    _ => return Err(unknown()),
                }
                Ok(state.view(&id, self.now).unwrap_or_default())
            }
            ("POST", ["refunds", number, action]) => {
                let id = self.id(|id| state.refunds.contains_key(id), number)?;
                match *action {
                    "finish" => self.finish(&mut state, &id)?,
                    "notify" => self.notify(&mut state, &Subject::Refund(id.clone()), &self.read()?)?,
                    _ => return Err(unknown()),
                }
                let order = state.refunds.get(&id).map(|refund| (id.0.clone(), refund.order.clone()));
                Ok(order.and_then(|order| state.view(&order, self.now)).unwrap_or_default())
            }
            ("GET", ["faults"]) => Ok(json!(self.context.script.lock().pending())),
            ("POST", ["faults"]) => {
                let fault: Fault = self.read()?;
                if let Some(error) = fault.validation_error() {
                    return Err(control_error(StatusCode::BAD_REQUEST, error));
                }
                let added = json!([fault]);
                self.context.script.lock().add(fault);
                Ok(added)
            }
            ("DELETE", ["faults"]) => {
                self.context.script.lock().clear();
                Ok(json!([]))
            }
            ("GET", ["stats"]) => Ok(json!(state.stats)),
            ("POST", ["reset"]) => {
                state.reset();
                self.context.script.lock().clear();
                Ok(json!({}))
            }
            _ => Err(unknown()),
        }
    }

    fn pay(&self, state: &mut SandboxState, id: &Id) -> Result<(), ControlError> {
        let pay: Pay = self.read()?;
        let order = self.open_order(state, id)?;
        order.opened = true;
        let default_payer = self.context.accounts.get(&id.0).map_or("", |account| account.profile().default_payer);
        let payer = pay.openid.unwrap_or_else(|| default_payer.to_owned());
        order.pay(payer, pay.amount, self.now);
        // An order without notify_url has no receiver.
        if pay.notify && order.notify_url.is_some() {
            self.notify(state, &Subject::Payment(id.clone()), &SendOptions::default())?;
        }
        Ok(())
    }

    /// Returns the order if it can still be paid.
    fn open_order<'b>(
        &self,
        state: &'b mut SandboxState,
        id: &Id,
    ) -> Result<&'b mut super::state::Order, ControlError> {
        let order = state.order(id, self.now);
        let order =
            order.ok_or_else(|| control_error(StatusCode::NOT_FOUND, "requests arrived, but no order was created"))?;
        if order.state != OrderState::NotPay {
            let message = format!("the order is {}; only a NOTPAY order can be paid or fail", order.state.as_str());
            return Err(control_error(StatusCode::CONFLICT, message));
        }
        Ok(order)
    }

    fn finish(&self, state: &mut SandboxState, id: &Id) -> Result<(), ControlError> {
        let finish: Finish = self.read()?;
        let refund = state.refunds.get(id).ok_or_else(unknown)?;
        // ABNORMAL is not final: the merchant can still resolve it.
        if !matches!(refund.status, RefundStatus::Processing | RefundStatus::Abnormal) {
            return Err(control_error(
                StatusCode::CONFLICT,
                format!("the refund is already {}", refund.status.as_str()),
            ));
        }
        if finish.status == RefundStatus::Processing {
            return Err(control_error(StatusCode::BAD_REQUEST, "`status` must be SUCCESS, CLOSED or ABNORMAL"));
        }
        let has_receiver = refund.notify_url.is_some();
        state.finish_refund(id, finish.status, self.now);
        // A refund without notify_url has no receiver.
        if finish.notify && has_receiver {
            // Not every provider notifies of every final status; an error means that there is nothing to send.
            send(self.context, state, &Subject::Refund(id.clone()), &SendOptions::default()).ok();
        }
        Ok(())
    }

    fn notify(&self, state: &mut SandboxState, subject: &Subject, options: &SendOptions) -> Result<(), ControlError> {
        send(self.context, state, subject, options).map_err(|message| control_error(StatusCode::CONFLICT, message))
    }

    /// Returns the id of a number. Looks the number up in each account instead of scanning all orders.
    fn id(&self, is_known: impl Fn(&Id) -> bool, number: &str) -> Result<Id, ControlError> {
        let accounts = self.context.accounts.keys();
        let wanted = accounts.filter(|name| self.account.as_ref().is_none_or(|account| account == *name));
        let mut found = wanted.map(|name| (name.clone(), number.to_owned())).filter(|id| is_known(id));
        let id =
            found.next().ok_or_else(|| control_error(StatusCode::NOT_FOUND, format!("nothing reached `{number}`")))?;
        match found.next() {
            Some(_) => {
                Err(control_error(StatusCode::CONFLICT, "several accounts have this number: add `?account=NAME`"))
            }
            None => Ok(id),
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, ControlError> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| control_error(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

fn unknown() -> ControlError {
    control_error(StatusCode::NOT_FOUND, "no such path or method")
}

fn yes() -> bool {
    true
}

fn success() -> RefundStatus {
    RefundStatus::Success
}
