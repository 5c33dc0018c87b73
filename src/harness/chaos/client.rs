//! One payment from its first request to its refund, made by an impatient client on a bad network.

use rand::RngExt;
use rand::rngs::StdRng;

use super::client_log::ClientLog;
use super::environment::{ChaosEnvironment, provider_order_number};
use super::pay_methods::PayMethod;
use super::scan::ScanOutcome;
use super::session::ClientSession;
use super::till;

/// Share of the payments with notifications that are refunded in the provider's console: about 1 % of all successes.
const CONSOLE_REFUND_SHARE: f64 = 0.02;

/// Choices of the seed for one payment, drawn before its first request.
struct Plan {
    pay_method: &'static PayMethod,
    scan: Option<ScanOutcome>,
    /// True if some or all of the payment is refunded in the provider's console after it was paid.
    has_console_refund: bool,
}

impl Plan {
    fn draw(random: &mut StdRng) -> Self {
        let pay_method = PayMethod::draw(random);
        let scan = ScanOutcome::draw(random, pay_method);
        let has_console_refund = random.random_bool(CONSOLE_REFUND_SHARE) && pay_method.notifies_of_console_refunds();
        Self { pay_method, scan, has_console_refund }
    }
}

/// Makes one payment. Returns the client's log.
pub(super) async fn run(environment: &ChaosEnvironment, serial: u64, mut random: StdRng) -> ClientLog {
    let Plan { pay_method, scan, has_console_refund } = Plan::draw(&mut random);
    let amount = random.random_range(1..100_000);
    let log = ClientLog::new(serial, amount, pay_method, scan);
    let number = provider_order_number(&log.order);
    let mut session = ClientSession::new(environment, random, log, has_console_refund);
    if scan == Some(ScanOutcome::ChargedPayError) {
        till::script_pay_error(&mut session).await;
    } else {
        session.maybe_add_fault("create", &number, 0.35).await;
    }
    session.maybe_add_fault("query", &number, 0.1).await;
    let body = pay_method.order(serial, amount, scan.map(ScanOutcome::code_suffix));
    let Some((status, mut payment)) = session.retry_until_definite("/v1/payments", "pay", &body).await else {
        return session.log;
    };
    session.log.responses.push((status, payment.clone()));
    if payment["money_state"] == "not_sent" {
        payment = session.wait_until_executed().await;
    }
    if let Some(outcome) = scan {
        till::act_after_scan(&mut session, outcome).await;
        return session.log;
    }
    // The payer can pay only with the action data that the provider returned.
    let can_pay = !payment["action"].is_null();
    match session.random.random_range(0..100) {
        0..70 if can_pay => session.pay().await,
        70..85 => session.close().await,
        _ => {}
    }
    session.log
}
