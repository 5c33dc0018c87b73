//! Comparison of one order between three records: the client's log, the provider's record, and the received events.

use serde_json::Value;

use super::client_log::ClientLog;
use super::environment::{ChaosEnvironment, provider_order_number, provider_refund_number};
use super::scan::ScanOutcome;

/// Result of the comparison of one order.
#[derive(Debug, Default)]
pub(super) struct OrderVerdict {
    pub(super) status: String,
    /// Number of create requests for the order that reached the provider.
    pub(super) create_requests: u64,
    pub(super) executions: u64,
    /// True if the provider charged the payer and did not reverse the order. Refunds do not matter.
    pub(super) paid: bool,
    /// True if the payer was charged and the order was then reversed.
    pub(super) reversed_charge: bool,
    /// True if the order was reversed after the gateway had reported it as succeeded, and the merchant got an event
    /// about that.
    pub(super) reversed_late: bool,
    /// Number of executed reversals.
    pub(super) reversals: u64,
    pub(super) refunds: u64,
    /// Mismatches that may still disappear while the gateway settles the order.
    pub(super) unsettled: Vec<&'static str>,
    /// Errors that no later event can correct.
    pub(super) errors: Vec<String>,
}

impl OrderVerdict {
    /// Returns the verdict for an order about which no gateway responds. A gateway may still be restarting.
    pub(super) fn no_response(error: String) -> Self {
        Self { status: error, unsettled: vec![UNKNOWN], ..Self::default() }
    }
}

/// Maximum number of identical creates that the gateway repeats to get a lost action again, as documented.
const MAX_REPEATED_CREATES: u64 = 3;

const NOT_PAID: &str = "reported succeeded, not paid";
const NO_EVENT: &str = "paid, no event";
const UNKNOWN: &str = "still unknown";
const NOT_EXECUTED: &str = "accepted, not executed";
const NOT_REPORTED: &str = "paid, not reported succeeded";
const REFUND_DIFFERS: &str = "refund status differs";
const NOT_FINAL: &str = "scanned code without final status";
const PAYABLE_AT_PROVIDER: &str = "final here, payable at provider";
const CONSOLE_NOT_RECORDED: &str = "console refund not recorded";
const CONSOLE_WITHOUT_EVENT: &str = "console refund without event";

/// Every mismatch that the report counts.
pub(super) const MISMATCHES: [&str; 10] = [
    NOT_PAID,
    NOT_REPORTED,
    NOT_EXECUTED,
    NO_EVENT,
    UNKNOWN,
    REFUND_DIFFERS,
    NOT_FINAL,
    PAYABLE_AT_PROVIDER,
    CONSOLE_NOT_RECORDED,
    CONSOLE_WITHOUT_EVENT,
];

/// The three records of one order.
struct OrderRecords<'a> {
    log: &'a ClientLog,
    /// The gateway's response to a status query.
    payment: Value,
    /// The sandbox's record of the order.
    provider: Value,
    /// Types of the events that the merchant's receiver accepted.
    events: Vec<String>,
}

/// Compares the three records of one order.
pub(super) async fn compare_order(environment: &ChaosEnvironment, log: &ClientLog) -> Result<OrderVerdict, String> {
    let order = &log.order;
    let (status, payment) = read(environment, &format!("/v1/payments/{order}")).await?;
    let provider = environment.sandbox_order(order).await?.unwrap_or_default();
    let records = OrderRecords { log, payment, provider, events: environment.receiver.types_of(order) };
    let mut verdict = OrderVerdict {
        status: match status {
            404 => "never claimed".to_owned(),
            _ => records.payment["status"].as_str().unwrap_or("?").to_owned(),
        },
        errors: log.errors.clone(),
        ..OrderVerdict::default()
    };
    if status == 404 && log.responses.iter().any(|(code, _)| *code < 400) {
        verdict.errors.push("the gateway accepted the payment, but now responds 404".to_owned());
    }
    records.executions(&mut verdict);
    records.money(&mut verdict);
    records.final_status(&mut verdict);
    let refunded = merchant_refunds(environment, &records, &mut verdict).await?;
    records.refunded_sums(refunded, &mut verdict);
    Ok(verdict)
}

impl OrderRecords<'_> {
    fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| *event == kind).count()
    }

    fn executions(&self, verdict: &mut OrderVerdict) {
        let Self { log, provider, .. } = self;
        let executed = |operation: &str| provider["executions"][operation].as_u64().unwrap_or(0);
        verdict.create_requests = provider["arrivals"]["create"].as_u64().unwrap_or(0);
        verdict.executions = executed("create");
        verdict.reversals = executed("cancel");
        // Where the provider documents it, the gateway repeats the identical create to get a lost action again.
        let may_repeat = log.scan.is_none() && log.pay_method.channel != "unionpay";
        let repeats = if may_repeat { MAX_REPEATED_CREATES } else { 0 };
        if verdict.create_requests > 1 + log.expected_resends + repeats || verdict.executions > 1 {
            verdict
                .errors
                .push(format!("{} create requests, {} executions", verdict.create_requests, verdict.executions));
        }
        let refunds = executed("refund");
        if refunds > log.refunds.len() as u64 {
            verdict.errors.push(format!("{refunds} refunds were executed, {} requested", log.refunds.len()));
        }
    }

    /// Returns whether Alipay cancelled a charged order. Alipay records such a cancel as a refund of the full amount
    /// under the order number.
    fn is_cancelled_by_refund(&self) -> bool {
        !self.provider["refunds"][provider_order_number(&self.log.order)].is_null()
    }

    fn money(&self, verdict: &mut OrderVerdict) {
        let Self { log, payment, provider, .. } = self;
        let is_charged = provider["paid"].is_u64();
        let is_reversed = provider["state"] == "CLOSED" || self.is_cancelled_by_refund();
        verdict.paid = is_charged && !is_reversed;
        verdict.reversed_charge = is_charged && is_reversed;
        let events = self.count("payment.succeeded");
        let is_reported =
            verdict.status == "succeeded" || log.responses.iter().any(|(_, body)| body["status"] == "succeeded");
        if (is_reported || events > 0) && !verdict.paid {
            let corrections = ["payment.mismatch", "payment.refunded_elsewhere"];
            verdict.reversed_late = verdict.reversed_charge && corrections.iter().any(|kind| self.count(kind) > 0);
            if !verdict.reversed_late {
                verdict.unsettled.push(NOT_PAID);
            }
        }
        if verdict.paid && verdict.status != "succeeded" {
            verdict.unsettled.push(NOT_REPORTED);
        }
        if verdict.paid && events == 0 {
            verdict.unsettled.push(NO_EVENT);
        }
        if events > 1 {
            verdict.errors.push(format!("{events} payment.succeeded events with different ids"));
        }
        if verdict.paid && payment["amount"]["value"] != log.amount {
            verdict.errors.push(format!("wrong amount: {payment}"));
        }
        if verdict.reversed_charge && log.scan == Some(ScanOutcome::PaidAtOnce) {
            verdict.errors.push("a code that was paid at once was reversed".to_owned());
        }
    }

    fn final_status(&self, verdict: &mut OrderVerdict) {
        match verdict.status.as_str() {
            "unknown" => verdict.unsettled.push(UNKNOWN),
            "pending" if self.payment["money_state"] == "not_sent" => verdict.unsettled.push(NOT_EXECUTED),
            // An order that a payer opens may stay unpaid. A scanned code must reach a final status.
            "pending" if self.log.scan.is_some() => verdict.unsettled.push(NOT_FINAL),
            "failed" | "closed" if self.log.scan.is_some() && self.provider["state"] == "NOTPAY" => {
                verdict.unsettled.push(PAYABLE_AT_PROVIDER);
            }
            _ => {}
        }
    }

    /// Compares the payment's refunded sums with the merchant's refunds and with the refunds made elsewhere.
    fn refunded_sums(&self, by_merchant: u64, verdict: &mut OrderVerdict) {
        let Self { log, payment, .. } = self;
        let sum = |name: &str| payment[name].as_u64().unwrap_or(0);
        let in_console = log.console_refund.unwrap_or(0);
        // A reversal of a payment that the gateway reports as succeeded counts as refunded elsewhere.
        let is_elsewhere = self.is_cancelled_by_refund() && verdict.status == "succeeded";
        let elsewhere = in_console + if is_elsewhere { log.amount } else { 0 };
        let (recorded, events) = (sum("refunded_elsewhere"), self.count("payment.refunded_elsewhere"));
        let expected = usize::from(in_console > 0) + usize::from(is_elsewhere);
        if recorded > elsewhere || events > expected {
            let reported = format!("{events} events, {recorded} fen recorded as refunded elsewhere");
            verdict.errors.push(format!("{reported}, but {expected} such refunds of {elsewhere} fen"));
        }
        if recorded < elsewhere {
            verdict.unsettled.push(CONSOLE_NOT_RECORDED);
        }
        if events < expected {
            verdict.unsettled.push(CONSOLE_WITHOUT_EVENT);
        }
        if recorded == elsewhere && sum("refunded") != by_merchant + elsewhere {
            verdict.unsettled.push(REFUND_DIFFERS);
        }
    }
}

/// Compares each refund of the merchant. Returns the sum in fen of the refunds that the provider executed.
async fn merchant_refunds(
    environment: &ChaosEnvironment,
    records: &OrderRecords<'_>,
    verdict: &mut OrderVerdict,
) -> Result<u64, String> {
    let (order, mut sum) = (&records.log.order, 0);
    for (name, amount, _) in &records.log.refunds {
        let (status, refund) = read(environment, &format!("/v1/payments/{order}/refunds/{name}")).await?;
        let at_provider = &records.provider["refunds"][provider_refund_number(order, name)];
        let is_done = at_provider["status"] == "SUCCESS";
        if is_done {
            sum += amount;
            verdict.refunds += 1;
        }
        if is_done && at_provider["amount"] != *amount {
            verdict.errors.push(format!("refund {name} has a wrong amount: {at_provider}"));
        }
        let reported = if status == 404 { "never claimed" } else { refund["status"].as_str().unwrap_or("?") };
        let agrees = match reported {
            "succeeded" => is_done,
            "failed" | "never claimed" => at_provider.is_null(),
            _ => false,
        };
        if !agrees {
            verdict.unsettled.push(REFUND_DIFFERS);
        }
    }
    Ok(sum)
}

/// Queries a random gateway.
async fn read(environment: &ChaosEnvironment, path: &str) -> Result<(u16, Value), String> {
    let gateway = rand::random_range(0..environment.gateways.len());
    match environment.send(gateway, "GET", path, None, &Value::Null).await? {
        (status @ (200 | 404), record) => Ok((status, record)),
        (status, problem) => Err(format!("gateway {} responded with {status} to {path}: {problem}", gateway + 1)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::pay_methods::{PAY_METHODS, PayMethod};
    use super::*;

    fn pay_method(channel: &str, method: &str) -> &'static PayMethod {
        PAY_METHODS.iter().find(|entry| (entry.channel, entry.method) == (channel, method)).unwrap_or(&PAY_METHODS[0])
    }

    /// Compares the records. Returns the unsettled mismatches and the errors.
    fn compared(
        log: &ClientLog,
        payment: &Value,
        provider: &Value,
        events: &[&str],
    ) -> (Vec<&'static str>, Vec<String>) {
        let events = events.iter().map(|kind| (*kind).to_owned()).collect();
        let records = OrderRecords { log, payment: payment.clone(), provider: provider.clone(), events };
        let status = payment["status"].as_str().unwrap_or_default().to_owned();
        let mut verdict = OrderVerdict { status, ..OrderVerdict::default() };
        records.executions(&mut verdict);
        records.money(&mut verdict);
        records.final_status(&mut verdict);
        records.refunded_sums(0, &mut verdict);
        (verdict.unsettled, verdict.errors)
    }

    #[test]
    fn scanned_code_that_is_charged_or_payable_after_the_end_is_reported_as_mismatch() {
        let unpaid = json!({"state": "NOTPAY", "paid": null});
        let charged = json!({"state": "SUCCESS", "paid": 100});
        let reversed = json!({"state": "CLOSED", "paid": 100, "executions": {"create": 1, "cancel": 1}});
        let paid = ["payment.succeeded"];
        for (status, provider, events, expected) in [
            ("pending", &unpaid, &[][..], &[NOT_FINAL][..]),
            ("closed", &unpaid, &[], &[PAYABLE_AT_PROVIDER]),
            ("failed", &unpaid, &[], &[PAYABLE_AT_PROVIDER]),
            ("closed", &charged, &[], &[NOT_REPORTED, NO_EVENT]),
            ("failed", &charged, &[], &[NOT_REPORTED, NO_EVENT]),
            ("pending", &charged, &[], &[NOT_REPORTED, NO_EVENT, NOT_FINAL]),
            ("succeeded", &charged, &paid, &[]),
            ("closed", &reversed, &[], &[]),
            ("succeeded", &reversed, &paid, &[NOT_PAID]),
            ("succeeded", &reversed, &["payment.succeeded", "payment.mismatch"], &[]),
        ] {
            for channel in ["wechat", "wechat-v2"] {
                let log =
                    ClientLog::new(1, 100, pay_method(channel, "wechat.codepay"), Some(ScanOutcome::ChargedPayError));
                let payment = json!({"status": status, "money_state": "unknown", "amount": {"value": 100}});
                let (unsettled, errors) = compared(&log, &payment, provider, events);
                assert_eq!((unsettled.as_slice(), errors.len()), (expected, 0), "{status} {provider}");
            }
        }
        let log = ClientLog::new(1, 100, pay_method("wechat", "wechat.codepay"), Some(ScanOutcome::PaidAtOnce));
        let (_, errors) = compared(&log, &json!({"status": "closed"}), &reversed, &[]);
        assert_eq!(errors, ["a code that was paid at once was reversed"]);
    }

    #[test]
    fn console_refund_that_is_missing_or_duplicate_is_reported_as_mismatch() {
        let provider = json!({"state": "REFUND_DIFFERS", "paid": 100});
        for (refunded, elsewhere, event_count, expected_unsettled, expected_errors) in [
            (30, 30, 1, &[][..], 0),
            (0, 0, 0, &[CONSOLE_NOT_RECORDED, CONSOLE_WITHOUT_EVENT][..], 0),
            (30, 30, 0, &[CONSOLE_WITHOUT_EVENT], 0),
            (0, 0, 1, &[CONSOLE_NOT_RECORDED], 0),
            (60, 60, 1, &[], 1),
            (30, 30, 2, &[], 1),
            (0, 30, 1, &[REFUND_DIFFERS], 0),
        ] {
            let mut log = ClientLog::new(1, 100, pay_method("alipay", "alipay.qr"), None);
            log.console_refund = Some(30);
            let payment = json!({"status": "succeeded", "amount": {"value": 100}, "refunded": refunded,
                                 "refunded_elsewhere": elsewhere});
            let events: Vec<&str> = ["payment.succeeded"]
                .into_iter()
                .chain(std::iter::repeat_n("payment.refunded_elsewhere", event_count))
                .collect();
            let (unsettled, errors) = compared(&log, &payment, &provider, &events);
            assert_eq!(
                (unsettled.as_slice(), errors.len()),
                (expected_unsettled, expected_errors),
                "{refunded} {elsewhere} {event_count}"
            );
        }
    }

    #[test]
    fn alipay_cancel_of_succeeded_payment_counts_as_refunded_elsewhere() {
        let log = ClientLog::new(1, 100, pay_method("alipay", "alipay.barcode"), Some(ScanOutcome::PaidDuringClose));
        let mut provider = json!({"state": "REFUND_DIFFERS", "paid": 100});
        provider["refunds"][provider_order_number(&log.order)] = json!({"status": "SUCCESS", "amount": 100});
        let payment =
            json!({"status": "succeeded", "amount": {"value": 100}, "refunded": 100, "refunded_elsewhere": 100});
        let events = ["payment.succeeded", "payment.refunded_elsewhere"];
        assert_eq!(compared(&log, &payment, &provider, &events), (vec![], vec![]));
        assert_eq!(compared(&log, &json!({"status": "closed"}), &provider, &[]), (vec![], vec![]));
    }
}
