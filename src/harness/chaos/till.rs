//! Behaviour of a till that scans payers' codes, and of the payer.

use std::time::Duration;

use rand::RngExt;
use serde_json::{Value, json};

use super::environment::provider_order_number;
use super::scan::ScanOutcome::{
    self, Abandoned, ChargedPayError, Closed, Declined, PaidAtOnce, PaidDuringClose, PaidLater, PayError,
};
use super::session::ClientSession;

/// Maximum number of queries that report a charged payment as PAYERROR before the provider reports it as paid.
const MAX_PAY_ERRORS: u32 = 4;

/// Scripts the sandbox to report a charged payment as PAYERROR. Must be called before the code is scanned.
pub(super) async fn script_pay_error(session: &mut ClientSession<'_>) {
    let number = provider_order_number(&session.log.order);
    // APIv2 responds with status 200 in every case.
    let status = if session.log.pay_method.channel == "wechat" { 202 } else { 200 };
    let user_paying = json!({"operation": "create", "fault": "status_after", "status": status, "code": "USERPAYING",
                             "number": number});
    let times = if session.random.random_bool(0.8) { 1000 } else { session.random.random_range(1..=MAX_PAY_ERRORS) };
    let pay_error = json!({"operation": "query", "fault": "pay_error", "number": number, "times": times});
    for fault in [user_paying, pay_error] {
        if let Err(error) = session.environment.add_fault(fault).await {
            session.log.errors.push(error);
        }
    }
}

/// Acts as payer and till after the code was scanned.
///
/// The order may already be final, or may never have reached the provider. The payer's actions then fail, and their
/// errors are ignored.
pub(super) async fn act_after_scan(session: &mut ClientSession<'_>, outcome: ScanOutcome) {
    let path = format!("/orders/{}", provider_order_number(&session.log.order));
    let (pay, fail) = (format!("{path}/pay"), format!("{path}/fail"));
    match outcome {
        PaidLater => {
            session.pause(2000).await;
            let _ = session.environment.control("POST", &pay, json!({})).await;
        }
        PaidDuringClose => {
            let (environment, delay) = (session.environment, session.random.random_range(0..300));
            let payer = async {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let _ = environment.control("POST", &pay, json!({})).await;
            };
            tokio::join!(session.close(), payer);
        }
        Closed => {
            session.pause(1000).await;
            session.close().await;
        }
        PayError => {
            session.pause(1000).await;
            let _ = session.environment.control("POST", &fail, Value::Null).await;
        }
        PaidAtOnce | Abandoned | Declined | ChargedPayError => {}
    }
    // An order that never reached the provider becomes final only after the faults end: do not wait for it.
    if matches!(outcome, PaidAtOnce | PaidLater) && is_charged(session).await {
        session.maybe_refund().await;
    }
}

async fn is_charged(session: &ClientSession<'_>) -> bool {
    let order = session.environment.sandbox_order(&session.log.order).await;
    matches!(order, Ok(Some(order)) if order["paid"].is_u64())
}
