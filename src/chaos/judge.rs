//! The comparison of one order: what its client was told, what the provider executed, what events were delivered.

use serde_json::Value;

use super::client::ClientLog;
use super::environment::{World, number, refund_number};
use super::till::Scan;
use crate::ledger::MAX_REPEATED_CREATES;

/// What one order came to.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) status: String,
    /// How often the request that makes the order reached the provider.
    pub(super) sent: u64,
    pub(super) executions: u64,
    /// The provider has the payer's money, or gave it back by refunds.
    pub(super) paid: bool,
    /// The provider gave the payer's money back because the order was reversed.
    pub(super) reversed_charge: bool,
    /// It was reversed after the gateway had called it succeeded, and the merchant was told so.
    pub(super) reversed_late: bool,
    /// Reversals that ended an order.
    pub(super) reversals: u64,
    pub(super) refunds: u64,
    /// What is wrong now but may still become right.
    pub(super) open: Vec<&'static str>,
    /// What is wrong for ever.
    pub(super) wrong: Vec<String>,
}

impl Verdict {
    /// The verdict where no gateway answers: one may be coming back.
    pub(super) fn unanswered(why: String) -> Self {
        Self { status: why, open: vec![UNKNOWN], ..Self::default() }
    }
}

const NOT_PAID: &str = "told succeeded, but not paid";
const NO_EVENT: &str = "paid, but no event";
const UNKNOWN: &str = "still unknown";
const NOT_MADE: &str = "accepted, but not made";
const NOT_TOLD: &str = "paid, but not told succeeded";
const REFUND: &str = "a refund in two states";
const STILL_OPEN: &str = "a scanned code that does not end";
const OPEN_THERE: &str = "a scanned code that ended here and can be paid at the provider";
const CONSOLE: &str = "refunded in console, not recorded";
const CONSOLE_EVENT: &str = "refunded in console, no event";

/// Everything that may not be, with its name in the report.
pub(super) const WRONG: [(&str, &str); 10] = [
    ("told succeeded but not paid", NOT_PAID),
    ("paid but not told so", NOT_TOLD),
    ("accepted but not made", NOT_MADE),
    ("paid but no event", NO_EVENT),
    ("still unknown", UNKNOWN),
    ("refunds in two states", REFUND),
    ("scanned codes without an end", STILL_OPEN),
    ("ended here, payable there", OPEN_THERE),
    ("refunded in console, not recorded", CONSOLE),
    ("refunded in console, no event", CONSOLE_EVENT),
];

/// What the three books say of one order.
struct Books<'a> {
    story: &'a ClientLog,
    /// The gateway's record.
    payment: Value,
    /// The sandbox's record.
    seen: Value,
    /// Types of the events that the merchant's receiver took.
    events: Vec<String>,
}

/// Compares what the three books say of one order.
pub(super) async fn judge(world: &World, story: &ClientLog) -> Result<Verdict, String> {
    let order = &story.order;
    let (status, payment) = read(world, &format!("/v1/payments/{order}")).await?;
    let seen = world.seen(order).await?.unwrap_or_default();
    let books = Books { story, payment, seen, events: world.receiver.heard(order).kinds };
    let mut verdict = Verdict {
        status: match status {
            404 => "never claimed".to_owned(),
            _ => books.payment["status"].as_str().unwrap_or("?").to_owned(),
        },
        wrong: story.wrong.clone(),
        ..Verdict::default()
    };
    if status == 404 && story.told.iter().any(|(code, _)| *code < 400) {
        verdict.wrong.push("the gateway told of it and does not know it".to_owned());
    }
    books.executions(&mut verdict);
    books.money(&mut verdict);
    books.ends(&mut verdict);
    let refunded = refunds(world, &books, &mut verdict).await?;
    books.refunded(refunded, &mut verdict);
    Ok(verdict)
}

impl Books<'_> {
    fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| *event == kind).count()
    }

    fn executions(&self, verdict: &mut Verdict) {
        let Self { story, seen, .. } = self;
        let executed = |operation: &str| seen["executions"][operation].as_u64().unwrap_or(0);
        verdict.sent = seen["arrivals"]["create"].as_u64().unwrap_or(0);
        verdict.executions = executed("create");
        verdict.reversals = executed("cancel");
        // Where the provider documents it, the identical create is repeated for a lost action.
        let is_repeated = story.scan.is_none() && story.way.channel != "unionpay";
        let repeats = if is_repeated { u64::from(MAX_REPEATED_CREATES) } else { 0 };
        if verdict.sent > 1 + story.sent_again + repeats || verdict.executions > 1 {
            verdict.wrong.push(format!("sent {} times and executed {} times", verdict.sent, verdict.executions));
        }
        let refunds = executed("refund");
        if refunds > story.refunds.len() as u64 {
            verdict.wrong.push(format!("{refunds} refunds were executed, {} asked for", story.refunds.len()));
        }
    }

    /// Whether Alipay gave back the whole by a cancel, which it books as a refund under the order's own number.
    fn is_cancelled_by_refund(&self) -> bool {
        !self.seen["refunds"][number(&self.story.order)].is_null()
    }

    fn money(&self, verdict: &mut Verdict) {
        let Self { story, payment, seen, .. } = self;
        let is_charged = seen["paid"].is_u64();
        let is_reversed = seen["state"] == "CLOSED" || self.is_cancelled_by_refund();
        verdict.paid = is_charged && !is_reversed;
        verdict.reversed_charge = is_charged && is_reversed;
        let events = self.count("payment.succeeded");
        let told = verdict.status == "succeeded" || story.told.iter().any(|(_, told)| told["status"] == "succeeded");
        if (told || events > 0) && !verdict.paid {
            let later = ["payment.mismatch", "payment.refunded_elsewhere"];
            verdict.reversed_late = verdict.reversed_charge && later.iter().any(|kind| self.count(kind) > 0);
            if !verdict.reversed_late {
                verdict.open.push(NOT_PAID);
            }
        }
        if verdict.paid && verdict.status != "succeeded" {
            verdict.open.push(NOT_TOLD);
        }
        if verdict.paid && events == 0 {
            verdict.open.push(NO_EVENT);
        }
        if events > 1 {
            verdict.wrong.push(format!("payment.succeeded came {events} times under different ids"));
        }
        if verdict.paid && payment["amount"]["value"] != story.amount {
            verdict.wrong.push(format!("another amount: {payment}"));
        }
        if verdict.reversed_charge && story.scan == Some(Scan::PaidAtOnce) {
            verdict.wrong.push("it was paid at once, and reversed".to_owned());
        }
    }

    fn ends(&self, verdict: &mut Verdict) {
        match verdict.status.as_str() {
            "unknown" => verdict.open.push(UNKNOWN),
            "pending" if self.payment["money_state"] == "not_sent" => verdict.open.push(NOT_MADE),
            // An order that a payer opens may stay unpaid; a till waits.
            "pending" if self.story.scan.is_some() => verdict.open.push(STILL_OPEN),
            "failed" | "closed" if self.story.scan.is_some() && self.seen["state"] == "NOTPAY" => {
                verdict.open.push(OPEN_THERE);
            }
            _ => {}
        }
    }

    /// Compares the payment's sums with what went back: by refunds of the merchant's, and elsewhere.
    fn refunded(&self, by_merchant: u64, verdict: &mut Verdict) {
        let Self { story, payment, .. } = self;
        let sum = |name: &str| payment[name].as_u64().unwrap_or(0);
        let in_console = story.console_refund.unwrap_or(0);
        // A reversal of what the gateway calls succeeded was not made by the gateway as far as its books know.
        let is_elsewhere = self.is_cancelled_by_refund() && verdict.status == "succeeded";
        let elsewhere = in_console + if is_elsewhere { story.amount } else { 0 };
        let (recorded, events) = (sum("refunded_elsewhere"), self.count("payment.refunded_elsewhere"));
        let expected = usize::from(in_console > 0) + usize::from(is_elsewhere);
        if recorded > elsewhere || events > expected {
            let times = format!("{events} events about {recorded} fen");
            verdict.wrong.push(format!("{times}, but {expected} refunds of {elsewhere} fen in the console"));
        }
        if recorded < elsewhere {
            verdict.open.push(CONSOLE);
        }
        if events < expected {
            verdict.open.push(CONSOLE_EVENT);
        }
        if recorded == elsewhere && sum("refunded") != by_merchant + elsewhere {
            verdict.open.push(REFUND);
        }
    }
}

/// Compares each refund of the merchant's; gives the sum of those that the provider made.
async fn refunds(world: &World, books: &Books<'_>, verdict: &mut Verdict) -> Result<u64, String> {
    let (order, mut sum) = (&books.story.order, 0);
    for (name, amount, _) in &books.story.refunds {
        let (status, refund) = read(world, &format!("/v1/payments/{order}/refunds/{name}")).await?;
        let theirs = &books.seen["refunds"][refund_number(order, name)];
        let is_done = theirs["status"] == "SUCCESS";
        if is_done {
            sum += amount;
            verdict.refunds += 1;
        }
        if is_done && theirs["amount"] != *amount {
            verdict.wrong.push(format!("refund {name} gave back another amount: {theirs}"));
        }
        let told = if status == 404 { "never claimed" } else { refund["status"].as_str().unwrap_or("?") };
        let agree = match told {
            "succeeded" => is_done,
            "failed" | "never claimed" => theirs.is_null(),
            _ => false,
        };
        if !agree {
            verdict.open.push(REFUND);
        }
    }
    Ok(sum)
}

/// What any gateway knows.
async fn read(world: &World, path: &str) -> Result<(u16, Value), String> {
    let door = rand::random_range(0..world.gateways.len());
    match world.ask(door, "GET", path, None, &Value::Null).await? {
        (status @ (200 | 404), record) => Ok((status, record)),
        (status, problem) => Err(format!("gateway {} answered {status} to {path}: {problem}", door + 1)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ways::{PayMethod, WAYS};
    use super::*;

    fn way(channel: &str, method: &str) -> &'static PayMethod {
        WAYS.iter().find(|way| (way.channel, way.method) == (channel, method)).unwrap_or(&WAYS[0])
    }

    /// Compares the gateway's record with the sandbox's; gives what is open or wrong.
    fn compared(story: &ClientLog, payment: &Value, seen: &Value, events: &[&str]) -> (Vec<&'static str>, Vec<String>) {
        let events = events.iter().map(|kind| (*kind).to_owned()).collect();
        let books = Books { story, payment: payment.clone(), seen: seen.clone(), events };
        let status = payment["status"].as_str().unwrap_or_default().to_owned();
        let mut verdict = Verdict { status, ..Verdict::default() };
        books.executions(&mut verdict);
        books.money(&mut verdict);
        books.ends(&mut verdict);
        books.refunded(0, &mut verdict);
        (verdict.open, verdict.wrong)
    }

    #[test]
    fn scanned_code_that_is_not_reversed_is_told() {
        let waiting = json!({"state": "NOTPAY", "paid": null});
        let charged = json!({"state": "SUCCESS", "paid": 100});
        let reversed = json!({"state": "CLOSED", "paid": 100, "executions": {"create": 1, "cancel": 1}});
        let paid = ["payment.succeeded"];
        for (status, seen, events, expected) in [
            ("pending", &waiting, &[][..], &[STILL_OPEN][..]),
            ("closed", &waiting, &[], &[OPEN_THERE]),
            ("failed", &waiting, &[], &[OPEN_THERE]),
            ("closed", &charged, &[], &[NOT_TOLD, NO_EVENT]),
            ("failed", &charged, &[], &[NOT_TOLD, NO_EVENT]),
            ("pending", &charged, &[], &[NOT_TOLD, NO_EVENT, STILL_OPEN]),
            ("succeeded", &charged, &paid, &[]),
            ("closed", &reversed, &[], &[]),
            ("succeeded", &reversed, &paid, &[NOT_PAID]),
            ("succeeded", &reversed, &["payment.succeeded", "payment.mismatch"], &[]),
        ] {
            for channel in ["wechat", "wechat-v2"] {
                let story = ClientLog::new(1, 100, way(channel, "wechat.codepay"), Some(Scan::ChargedPayError));
                let payment = json!({"status": status, "money_state": "unknown", "amount": {"value": 100}});
                let (open, wrong) = compared(&story, &payment, seen, events);
                assert_eq!((open.as_slice(), wrong.len()), (expected, 0), "{status} {seen}");
            }
        }
        let story = ClientLog::new(1, 100, way("wechat", "wechat.codepay"), Some(Scan::PaidAtOnce));
        let (_, wrong) = compared(&story, &json!({"status": "closed"}), &reversed, &[]);
        assert_eq!(wrong, ["it was paid at once, and reversed"]);
    }

    #[test]
    fn console_refund_that_is_lost_or_counted_twice_is_told() {
        let seen = json!({"state": "REFUND", "paid": 100});
        for (refunded, elsewhere, events, open, wrong) in [
            (30, 30, 1, &[][..], 0),
            (0, 0, 0, &[CONSOLE, CONSOLE_EVENT][..], 0),
            (30, 30, 0, &[CONSOLE_EVENT], 0),
            (0, 0, 1, &[CONSOLE], 0),
            (60, 60, 1, &[], 1),
            (30, 30, 2, &[], 1),
            (0, 30, 1, &[REFUND], 0),
        ] {
            let mut story = ClientLog::new(1, 100, way("alipay", "alipay.qr"), None);
            story.console_refund = Some(30);
            let payment = json!({"status": "succeeded", "amount": {"value": 100}, "refunded": refunded,
                                 "refunded_elsewhere": elsewhere});
            let told: Vec<&str> = ["payment.succeeded"]
                .into_iter()
                .chain(std::iter::repeat_n("payment.refunded_elsewhere", events))
                .collect();
            let (found, mistakes) = compared(&story, &payment, &seen, &told);
            assert_eq!((found.as_slice(), mistakes.len()), (open, wrong), "{refunded} {elsewhere} {events}");
        }
    }

    #[test]
    fn cancel_that_gave_money_back_counts_as_refunded_elsewhere_where_the_payment_succeeded() {
        let story = ClientLog::new(1, 100, way("alipay", "alipay.barcode"), Some(Scan::PaidWhileGivenUp));
        let mut seen = json!({"state": "REFUND", "paid": 100});
        seen["refunds"][number(&story.order)] = json!({"status": "SUCCESS", "amount": 100});
        let payment =
            json!({"status": "succeeded", "amount": {"value": 100}, "refunded": 100, "refunded_elsewhere": 100});
        let told = ["payment.succeeded", "payment.refunded_elsewhere"];
        assert_eq!(compared(&story, &payment, &seen, &told), (vec![], vec![]));
        assert_eq!(compared(&story, &json!({"status": "closed"}), &seen, &[]), (vec![], vec![]));
    }
}
