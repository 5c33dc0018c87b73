//! The control API: plain HTTP on loopback, for tests and people. It plays the payer, and scripts what goes wrong.

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

use super::fault::Fault;
use super::notify::{Sending, Subject, send};
use super::state::{Id, Payment, RefundStatus, SandboxState, State};
use super::{Shared, accept, console};

/// Serves until the sandbox stops.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let stream = accept(&listener).await;
        let at = shared.clone();
        shared.spawn(async move {
            let service = service_fn(move |request| {
                let shared = at.clone();
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let result = match Limited::new(body, 1 << 20).collect().await {
        Ok(body) => {
            let query = parts.uri.query().and_then(|query| query.split_once('='));
            let account = query.filter(|(name, _)| matches!(*name, "mchid" | "app_id" | "merId" | "account"));
            let account = account.map(|(_, account)| account.to_owned());
            let call = Call { shared, account, body: body.to_bytes(), now: Timestamp::now() };
            call.run(&parts.method, parts.uri.path())
        }
        Err(error) => Err(refused(StatusCode::BAD_REQUEST, error.to_string())),
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

type Refused = (StatusCode, String);

fn refused(status: StatusCode, message: impl Into<String>) -> Refused {
    (status, message.into())
}

struct Call<'a> {
    shared: &'a Arc<Shared>,
    /// Which account, where a number alone could mean several.
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
    /// Fen.
    amount: u64,
    #[serde(default = "success")]
    status: RefundStatus,
}

impl Call<'_> {
    fn run(&self, method: &Method, path: &str) -> Result<Value, Refused> {
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut books = self.shared.books.lock();
        match (method.as_str(), path.as_slice()) {
            ("GET", ["orders"]) => {
                let ids: Vec<Id> = books.orders.keys().cloned().collect();
                Ok(ids.iter().filter_map(|id| books.view(id, self.now)).collect())
            }
            ("GET", ["orders", number]) => {
                let id = self.id(|id| books.orders.contains_key(id), number)?;
                Ok(books.view(&id, self.now).unwrap_or_default())
            }
            ("POST", ["orders", number, action]) => {
                let id = self.id(|id| books.orders.contains_key(id), number)?;
                match *action {
                    "scan" => self.open_order(&mut books, &id)?.opened = true,
                    "pay" => self.pay(&mut books, &id)?,
                    "fail" => self.open_order(&mut books, &id)?.state = State::PayError,
                    "notify" => self.notify(&mut books, &Subject::Payment(id.clone()), &self.read()?)?,
                    "refund_in_console" => {
                        let ConsoleRefund { number, amount, status } = self.read()?;
                        console::refund(self.shared, &mut books, &id, (&number, amount), status)
                            .map_err(|message| refused(StatusCode::CONFLICT, message))?;
                    }
                    _ => return Err(unknown()),
                }
                Ok(books.view(&id, self.now).unwrap_or_default())
            }
            ("POST", ["refunds", number, action]) => {
                let id = self.id(|id| books.refunds.contains_key(id), number)?;
                match *action {
                    "finish" => self.finish(&mut books, &id)?,
                    "notify" => self.notify(&mut books, &Subject::Refund(id.clone()), &self.read()?)?,
                    _ => return Err(unknown()),
                }
                let order = books.refunds.get(&id).map(|refund| (id.0.clone(), refund.order.clone()));
                Ok(order.and_then(|order| books.view(&order, self.now)).unwrap_or_default())
            }
            ("GET", ["faults"]) => Ok(json!(self.shared.script.lock().waiting())),
            ("POST", ["faults"]) => {
                let fault: Fault = self.read()?;
                if let Some(problem) = fault.problem() {
                    return Err(refused(StatusCode::BAD_REQUEST, problem));
                }
                let added = json!([fault]);
                self.shared.script.lock().add(fault);
                Ok(added)
            }
            ("DELETE", ["faults"]) => {
                self.shared.script.lock().clear();
                Ok(json!([]))
            }
            ("GET", ["stats"]) => Ok(json!(books.stats)),
            ("POST", ["reset"]) => {
                books.reset();
                self.shared.script.lock().clear();
                Ok(json!({}))
            }
            _ => Err(unknown()),
        }
    }

    fn pay(&self, books: &mut SandboxState, id: &Id) -> Result<(), Refused> {
        let pay: Pay = self.read()?;
        let order = self.open_order(books, id)?;
        order.state = State::Success;
        order.opened = true;
        let amount = pay.amount.unwrap_or(order.total);
        let somebody = self.shared.accounts.get(&id.0).map_or("", |account| account.payer());
        let payer = pay.openid.unwrap_or_else(|| somebody.to_owned());
        order.payment = Some(Payment { payer, amount, at: self.now });
        // An order without notify_url has nobody to tell.
        if pay.notify && order.notify_url.is_some() {
            self.notify(books, &Subject::Payment(id.clone()), &Sending::default())?;
        }
        Ok(())
    }

    /// An order that can still be paid.
    fn open_order<'b>(&self, books: &'b mut SandboxState, id: &Id) -> Result<&'b mut super::state::Order, Refused> {
        let order = books.order(id, self.now);
        let order =
            order.ok_or_else(|| refused(StatusCode::NOT_FOUND, "there were requests, but never such an order"))?;
        if order.state != State::NotPay {
            let message =
                format!("the order is {}, and only one that is NOTPAY can be paid or fail", order.state.as_str());
            return Err(refused(StatusCode::CONFLICT, message));
        }
        Ok(order)
    }

    fn finish(&self, books: &mut SandboxState, id: &Id) -> Result<(), Refused> {
        let finish: Finish = self.read()?;
        let refund = books.refunds.get_mut(id).ok_or_else(unknown)?;
        // ABNORMAL is not an end: the merchant can still lead it to one.
        if !matches!(refund.status, RefundStatus::Processing | RefundStatus::Abnormal) {
            return Err(refused(StatusCode::CONFLICT, format!("the refund is {} already", refund.status.as_str())));
        }
        if finish.status == RefundStatus::Processing {
            return Err(refused(StatusCode::BAD_REQUEST, "`status` must be SUCCESS, CLOSED or ABNORMAL"));
        }
        refund.status = finish.status;
        refund.finished = Some(self.now);
        // A refund without notify_url has nobody to tell.
        if finish.notify && refund.notify_url.is_some() {
            // Nor does every provider tell of every end.
            send(self.shared, books, &Subject::Refund(id.clone()), &Sending::default()).ok();
        }
        Ok(())
    }

    fn notify(&self, books: &mut SandboxState, subject: &Subject, sending: &Sending) -> Result<(), Refused> {
        send(self.shared, books, subject, sending).map_err(|message| refused(StatusCode::CONFLICT, message))
    }

    /// The account and the number, looked for in every account: there may be very many orders.
    fn id(&self, is_known: impl Fn(&Id) -> bool, number: &str) -> Result<Id, Refused> {
        let accounts = self.shared.accounts.keys();
        let wanted = accounts.filter(|name| self.account.as_ref().is_none_or(|account| account == *name));
        let mut found = wanted.map(|name| (name.clone(), number.to_owned())).filter(|id| is_known(id));
        let id = found.next().ok_or_else(|| refused(StatusCode::NOT_FOUND, format!("nothing reached `{number}`")))?;
        match found.next() {
            Some(_) => Err(refused(StatusCode::CONFLICT, "several accounts have this number: add `?account=…`")),
            None => Ok(id),
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| refused(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

fn unknown() -> Refused {
    refused(StatusCode::NOT_FOUND, "no such path or method")
}

fn yes() -> bool {
    true
}

fn success() -> RefundStatus {
    RefundStatus::Success
}
