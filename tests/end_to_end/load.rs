//! Background load: clients that keep paying while a test changes the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::{Answer, SHOP, World, payment_body, signed_request, until};

/// Payments of the merchant `shop`, sequential per worker, until stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Vec<Answer>>>,
}

impl Load {
    /// Starts the workers and waits until some payments are answered.
    pub async fn start(world: &World, method: &'static str) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let pay = |worker| pay(world.gateway.listen, worker, method, Arc::clone(&stop), Arc::clone(&served));
        let workers = (0..4).map(|worker| tokio::spawn(pay(worker))).collect();
        let load = Self { stop, served, workers };
        load.until_progress().await;
        load
    }

    /// Waits until payments that start from now on are answered.
    pub async fn until_progress(&self) {
        let wanted = self.served.load(Ordering::SeqCst) + 8;
        until("payments are answered", || async {
            let served = self.served.load(Ordering::SeqCst);
            if served >= wanted { Ok(()) } else { Err(served) }
        })
        .await;
    }

    /// Stops the workers and returns every response.
    pub async fn stop(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::SeqCst);
        let mut answers = Vec::new();
        for worker in self.workers {
            answers.extend(worker.await.unwrap());
        }
        answers
    }
}

async fn pay(
    listen: SocketAddr,
    worker: usize,
    method: &'static str,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> Vec<Answer> {
    let mut answers = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let order = format!("o-{worker}-{number}");
        let mut body = payment_body(&order);
        body["method"] = method.into();
        answers.push(signed_request(listen, &SHOP, "POST", "/v1/payments", Some(&order), &body).await);
        served.fetch_add(1, Ordering::SeqCst);
    }
    answers
}

/// Error codes of a channel that sent nothing: no connection, an open breaker, rejected keys.
const NOT_SENT_CODES: [&str; 3] = ["provider_unreachable", "channel_unavailable", "channel_credentials_rejected"];

/// Whether the outcome is certain: the payment was created, or provably nothing was sent.
pub fn is_clear(answer: &Answer) -> bool {
    answer.status == 201 || (answer.status == 503 && is_not_sent(&answer.json()))
}

fn is_not_sent(problem: &Value) -> bool {
    problem["code"].as_str().is_some_and(|code| NOT_SENT_CODES.contains(&code))
        && problem["retryable"] == "same_key"
        && problem["money_state"] == "not_sent"
}
