//! The session of one simulated client: requests with retries, aborts and duplicates, and the actions of the payer.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::client_log::ClientLog;
use super::environment::{ChaosEnvironment, provider_order_number, provider_refund_number};
use super::provider_faults;

/// Maximum duration of the retries of one operation.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);

/// A client with its random choices, its log, and the gateway that it uses.
pub(super) struct ClientSession<'a> {
    pub(super) environment: &'a ChaosEnvironment,
    pub(super) random: StdRng,
    pub(super) log: ClientLog,
    has_console_refund: bool,
    /// Gateway that receives the next request. Increased after an error, so that the next gateway is tried.
    gateway: usize,
}

impl<'a> ClientSession<'a> {
    /// Creates a session that starts at a random gateway.
    pub(super) fn new(
        environment: &'a ChaosEnvironment,
        mut random: StdRng,
        log: ClientLog,
        has_console_refund: bool,
    ) -> Self {
        let gateway = random.random_range(0..environment.gateways.len());
        Self { environment, random, log, has_console_refund, gateway }
    }

    /// Scripts a random provider fault for the operation, with this probability.
    pub(super) async fn maybe_add_fault(&mut self, operation: &str, number: &str, probability: f64) {
        if !self.random.random_bool(probability) {
            return;
        }
        let channel = self.log.pay_method.channel;
        let Some(drawn) = provider_faults::draw(&mut self.random, channel, operation, number) else { return };
        self.log.expected_resends += u64::from(operation == "create" && drawn.causes_resend);
        match self.environment.add_fault(drawn.fault).await {
            Ok(()) => self.log.faults.push(drawn.name),
            Err(error) => self.log.errors.push(error),
        }
    }

    /// Pays as the payer. Sometimes sends a forged notification first, and sometimes refunds afterwards.
    pub(super) async fn pay(&mut self) {
        let path = format!("/orders/{}", provider_order_number(&self.log.order));
        let forge = self.random.random_bool(0.1);
        let paid = self.environment.control("POST", &format!("{path}/pay"), json!({"notify": !forge})).await;
        if !matches!(paid, Ok((200, _))) {
            // The order was closed in the meantime.
            return;
        }
        if forge {
            let tamper = ["body", "signature", "amount", "account"][self.random.random_range(0..4)];
            let _ = self.environment.control("POST", &format!("{path}/notify"), json!({"tamper": tamper})).await;
            let _ = self.environment.control("POST", &format!("{path}/notify"), json!({})).await;
        }
        self.maybe_refund().await;
    }

    /// Closes the payment. The gateway reverses the order of a scanned code.
    pub(super) async fn close(&mut self) {
        let order = self.log.order.clone();
        self.maybe_add_fault(self.log.pay_method.closing_operation(), &provider_order_number(&order), 0.2).await;
        let path = format!("/v1/payments/{order}/close");
        if let Some(response) = self.retry_until_definite(&path, "close", &Value::Null).await {
            self.log.responses.push(response);
        }
    }

    /// Sometimes refunds: by the merchant, in the provider's console, or both in either order.
    pub(super) async fn maybe_refund(&mut self) {
        let in_console = self.has_console_refund;
        let is_console_first = self.random.random_bool(0.5);
        if in_console && is_console_first {
            self.refund_in_console().await;
        }
        if self.random.random_bool(0.3) && self.wait_until_succeeded().await {
            self.refund().await;
        }
        if in_console && !is_console_first {
            self.refund_in_console().await;
        }
    }

    /// Refunds some or all in the provider's console. The provider rejects an amount above the refundable balance.
    async fn refund_in_console(&mut self) {
        let number = provider_order_number(&self.log.order);
        let amount =
            if self.random.random_bool(0.3) { self.log.amount } else { self.random.random_range(1..=self.log.amount) };
        let refund = json!({"number": format!("CONSOLE-{number}"), "amount": amount});
        let refunded = self.environment.control("POST", &format!("/orders/{number}/refund_in_console"), refund).await;
        if matches!(refunded, Ok((200, _))) {
            self.log.console_refund = Some(amount);
        }
    }

    /// Waits until the gateway reports the paid payment as succeeded. A scanned code may instead fail or be closed.
    async fn wait_until_succeeded(&mut self) -> bool {
        let deadline = Instant::now() + RETRY_TIMEOUT;
        let path = format!("/v1/payments/{}", self.log.order);
        while Instant::now() < deadline {
            match self.environment.send(self.gateway, "GET", &path, None, &Value::Null).await {
                Ok((200, payment)) if payment["status"] == "succeeded" => return true,
                Ok((200, payment)) if self.log.scan.is_some() && is_failed_or_closed(&payment) => return false,
                Ok((200, _)) => {}
                _ => self.gateway += 1,
            }
            self.pause(200).await;
        }
        if self.log.scan.is_none() {
            self.log.errors.push("the payment was paid, but did not become succeeded".to_owned());
        }
        false
    }

    /// Waits until a gateway has executed the enqueued payment. Returns null after a timeout.
    ///
    /// A gateway may retry the job for longer than this client waits. The reconciliation then checks the result.
    pub(super) async fn wait_until_executed(&mut self) -> Value {
        let deadline = Instant::now() + RETRY_TIMEOUT;
        let path = format!("/v1/payments/{}", self.log.order);
        while Instant::now() < deadline {
            match self.environment.send(self.gateway, "GET", &path, None, &Value::Null).await {
                Ok((200, payment)) if payment["money_state"] != "not_sent" || is_failed_or_closed(&payment) => {
                    return payment;
                }
                Ok((200, _)) => {}
                _ => self.gateway += 1,
            }
            self.pause(200).await;
        }
        Value::Null
    }

    async fn refund(&mut self) {
        let order = self.log.order.clone();
        let amount = self.random.random_range(1..=self.log.amount);
        let id = "r-1".to_owned();
        self.maybe_add_fault("refund", &provider_refund_number(&order, &id), 0.3).await;
        self.maybe_add_fault("refund_query", &provider_refund_number(&order, &id), 0.1).await;
        let body = json!({"refund_id": id, "amount": {"value": amount, "currency": "CNY"}, "reason": "混沌"});
        let response = self.retry_until_definite(&format!("/v1/payments/{order}/refunds"), "refund", &body).await;
        self.log.refunds.push((id, amount, response.map(|(status, _)| status)));
    }

    /// Repeats the same request with the same idempotency key until a response states the result.
    ///
    /// Some requests are sent twice at once, some are aborted, and some ask for `Prefer: respond-async`.
    pub(super) async fn retry_until_definite(
        &mut self,
        path: &str,
        operation: &str,
        body: &Value,
    ) -> Option<(u16, Value)> {
        let key = format!("{operation}-{}", self.log.order);
        let prefer = self.random.random_bool(0.3).then_some("respond-async");
        self.log.async_operations += u64::from(prefer.is_some());
        let headers = [("idempotency-key", Some(key.as_str())), ("prefer", prefer)];
        let deadline = Instant::now() + RETRY_TIMEOUT;
        while Instant::now() < deadline {
            let request = self.environment.send_with(self.gateway, "POST", path, &headers, body);
            let response = match self.random.random_range(0..10) {
                0 => {
                    let wait = Duration::from_millis(self.random.random_range(0..40));
                    self.log.requests += 1;
                    tokio::time::timeout(wait, request).await.unwrap_or_else(|_| {
                        self.log.aborted += 1;
                        Err("aborted by the client".to_owned())
                    })
                }
                1 | 2 => {
                    self.log.requests += 2;
                    let other = self.random.random_range(0..self.environment.gateways.len());
                    let duplicate = self.environment.send_with(other, "POST", path, &headers, body);
                    let (first, second) = tokio::join!(request, duplicate);
                    if is_definite(&first) { first } else { second }
                }
                _ => {
                    self.log.requests += 1;
                    request.await
                }
            };
            match response {
                Ok((status @ (200 | 201 | 202 | 402), body)) => return Some((status, body)),
                // UnionPay cannot close orders.
                Ok((400, body)) if body["code"] == "unsupported_by_provider" && operation == "close" => {
                    return Some((400, body));
                }
                // The operation lost a race: a close of a paid payment, or a refund of an unpaid one.
                Ok((409, body)) if body["code"] == "invalid_state" => return Some((409, body)),
                // The provider's console refunded the balance first.
                Ok((422, body)) if body["code"] == "refund_exceeds_balance" && self.log.console_refund.is_some() => {
                    return Some((422, body));
                }
                // Another gateway may succeed with the same key.
                Ok((409 | 503, _)) | Err(_) => self.gateway += 1,
                Ok((status, body)) => {
                    self.log.errors.push(format!("unexpected response to {operation}: {status} {body}"));
                    return Some((status, body));
                }
            }
            self.pause(300).await;
        }
        self.log.errors.push(format!("no definite response to {operation} within {RETRY_TIMEOUT:?}"));
        None
    }

    /// Sleeps for a random time from 20 ms to `max_ms`.
    pub(super) async fn pause(&mut self, max_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(20..max_ms))).await;
    }
}

fn is_failed_or_closed(payment: &Value) -> bool {
    ["failed", "closed"].iter().any(|status| payment["status"] == *status)
}

fn is_definite(response: &Result<(u16, Value), String>) -> bool {
    matches!(response, Ok((200 | 201 | 202 | 402, _)))
}
