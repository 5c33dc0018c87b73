//! What can go wrong between the gateway and a provider, with one request.
//!
//! The weights follow what real integrations meet: a system error about an order that exists is common, a lost answer is
//! less so, and a wrong signature is rare.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Requests that a fault can meet.
const WRITES: &[&str] = &["create", "close", "cancel", "refund"];
/// Those that the provider can refuse for good. A refused close would leave the payment open, which is another test.
const REFUSABLE: &[&str] = &["create", "refund"];
const CREATE: &[&str] = &["create"];
const REFUND: &[&str] = &["refund"];
const QUERIES: &[&str] = &["query", "refund_query"];
const ASKED: &[&str] = &["create", "query", "refund"];

const WECHAT: &[&str] = &["wechat"];
const WECHAT_V2: &[&str] = &["wechat-v2"];
const ALIPAY: &[&str] = &["alipay"];
const UNIONPAY: &[&str] = &["unionpay"];
const ALL: &[&str] = &["wechat", "wechat-v2", "alipay", "unionpay"];

const RATE_LIMIT: &str = "rate limit";
const KEY_REFUSED: &str = "key refused";

/// One kind of fault.
struct Row {
    /// Its name in the report.
    name: &'static str,
    /// The channels whose sandbox has it.
    channels: &'static [&'static str],
    operations: &'static [&'static str],
    /// How often it is drawn beside the others that fit.
    weight: u32,
    script: Script,
}

/// What the sandbox's control API is told.
enum Script {
    /// A fault by its name.
    Fault(&'static str),
    /// A fault by its name, with a code.
    Coded(&'static str, &'static str),
    /// The request is executed, and the answer is this code with this HTTP status.
    Executed(u16, &'static str),
    /// The request is not executed; the answer is this code with this HTTP status.
    Refused(u16, &'static str),
    /// The same without a signature.
    Unsigned(u16, &'static str),
}

use Script::{Coded, Executed, Fault, Refused, Unsigned};

#[rustfmt::skip]
const FAULTS: &[Row] = &[
    // Connections and answers, at any provider.
    row("cut_unread",      ALL, WRITES, 2, Fault("cut_unread")),
    row("cut_before",      ALL, WRITES, 3, Fault("cut_before")),
    row("cut_after",       ALL, WRITES, 4, Fault("cut_after")),
    row("proxy page",      ALL, WRITES, 2, Refused(502, "")),
    row("proxy page, executed", ALL, WRITES, 3, Executed(504, "")),
    row("delay",           ALL, WRITES, 2, Fault("delay")),
    row("unsigned",        ALL, WRITES, 1, Fault("unsigned")),
    row("wrong_signature", ALL, WRITES, 2, Fault("wrong_signature")),
    row("stale",           ALL, WRITES, 1, Fault("stale")),
    row("garbage",         ALL, WRITES, 1, Fault("garbage")),
    row("other_amount",    ALL, WRITES, 1, Fault("other_amount")),
    // System errors, mostly about what was executed.
    row("system error, executed", WECHAT,    WRITES, 8, Executed(500, "SYSTEM_ERROR")),
    row("system error, executed", WECHAT_V2, WRITES, 8, Executed(200, "SYSTEMERROR")),
    row("system error, executed", ALIPAY,    WRITES, 8, Executed(200, "ACQ.SYSTEM_ERROR")),
    row("system error, executed", UNIONPAY,  WRITES, 4, Executed(200, "04")),
    row("system error, executed", UNIONPAY,  WRITES, 4, Executed(200, "06")),
    row("system error", WECHAT,    WRITES, 3, Refused(500, "SYSTEM_ERROR")),
    row("system error", WECHAT_V2, WRITES, 3, Refused(200, "SYSTEMERROR")),
    row("system error", ALIPAY,    WRITES, 3, Refused(200, "ACQ.SYSTEM_ERROR")),
    row("system error", UNIONPAY,  WRITES, 3, Refused(200, "99")),
    // Documented refusals.
    row("declined", WECHAT,    REFUSABLE, 3, Refused(400, "PARAM_ERROR")),
    row("declined", WECHAT_V2, REFUSABLE, 3, Refused(200, "NOAUTH")),
    row("declined", ALIPAY,    CREATE,    3, Refused(200, "ACQ.PAYMENT_REQUEST_HAS_RISK")),
    row("declined", ALIPAY,    REFUND,    3, Refused(200, "ACQ.TRADE_NOT_ALLOW_REFUND")),
    row("declined", UNIONPAY,  CREATE,    3, Refused(200, "33")),
    row("declined", UNIONPAY,  REFUND,    3, Refused(200, "36")),
    // Refusals with a code that no list has.
    row("unlisted refusal", WECHAT,    REFUSABLE, 2, Refused(400, "CODE_OF_TOMORROW")),
    row("unlisted refusal", WECHAT_V2, REFUSABLE, 2, Refused(200, "CODE_OF_TOMORROW")),
    row("unlisted refusal", ALIPAY,    REFUSABLE, 2, Refused(200, "ACQ.CODE_OF_TOMORROW")),
    row("unlisted refusal", UNIONPAY,  REFUSABLE, 2, Refused(200, "97")),
    // Rate limits.
    row(RATE_LIMIT, WECHAT,    WRITES, 2, Refused(429, "FREQUENCY_LIMITED")),
    row(RATE_LIMIT, WECHAT_V2, WRITES, 2, Refused(200, "FREQUENCY_LIMITED")),
    row(RATE_LIMIT, ALIPAY,    WRITES, 2, Refused(200, "40005")),
    row(RATE_LIMIT, UNIONPAY,  WRITES, 2, Refused(200, "37")),
    // The signature is not accepted for a moment, as while a key is changed; said without a signature.
    row(KEY_REFUSED, WECHAT,   CREATE, 1, Unsigned(401, "SIGN_ERROR")),
    row(KEY_REFUSED, UNIONPAY, CREATE, 1, Unsigned(200, "11")),
    row(KEY_REFUSED, ALIPAY,   CREATE, 1, Coded("own_envelope", "isv.invalid-app-id")),
    // Shapes of one provider.
    row("signtest",        WECHAT,    ASKED,  6, Fault("signtest")),
    row("other_sign_type", WECHAT_V2, WRITES, 3, Fault("other_sign_type")),
    row("no_account",      WECHAT_V2, WRITES, 2, Fault("no_account")),
    row("gbk",             ALIPAY,    WRITES, 4, Fault("gbk")),
    row("not_refunded",    ALIPAY,    REFUND, 4, Fault("not_refunded")),
    // Queries.
    row("query: system error",    UNIONPAY,    QUERIES, 3, Refused(200, "99")),
    row("query: system error",    WECHAT,      QUERIES, 3, Refused(500, "SYSTEM_ERROR")),
    row("query: system error",    WECHAT_V2,   QUERIES, 3, Refused(200, "SYSTEMERROR")),
    row("query: system error",    ALIPAY,      QUERIES, 3, Refused(200, "ACQ.SYSTEM_ERROR")),
    row("query: wrong_signature", ALL,         QUERIES, 3, Fault("wrong_signature")),
    row("query: cut_after",       ALL,         QUERIES, 2, Fault("cut_after")),
    row("query: proxy page",      ALL,         QUERIES, 2, Refused(502, "")),
];

const fn row(
    name: &'static str,
    channels: &'static [&'static str],
    operations: &'static [&'static str],
    weight: u32,
    script: Script,
) -> Row {
    Row { name, channels, operations, weight, script }
}

/// A fault that was drawn.
pub(super) struct Drawn {
    /// Its name in the report.
    pub(super) name: &'static str,
    /// What the sandbox's control API is told.
    pub(super) fault: Value,
    /// Whether the same request is to be sent again, because the provider says that it did nothing.
    pub(super) sent_again: bool,
}

/// Returns a fault that waits for the operation on this number of the provider's; `None` where the channel's provider has none
/// for the operation.
pub(super) fn draw(random: &mut StdRng, channel: &str, operation: &str, number: &str) -> Option<Drawn> {
    let fits = |row: &&Row| row.channels.contains(&channel) && row.operations.contains(&operation);
    let all: u32 = FAULTS.iter().filter(fits).map(|row| row.weight).sum();
    if all == 0 {
        return None;
    }
    let mut left = random.random_range(0..all);
    let row = FAULTS.iter().filter(fits).find(|row| match left.checked_sub(row.weight) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })?;
    let mut fault = row.script.fault(operation);
    let is = |name: &str| fault["fault"] == name;
    let (is_delay, is_unread) = (is("delay"), is("cut_unread"));
    // Longer than the channel's limit for a read.
    fault["delay_ms"] = if is_delay { 2500 } else { random.random_range(0..20) }.into();
    // Before the body is read nobody knows the number: then it meets whoever comes next.
    if !is_unread {
        fault["number"] = number.into();
    }
    Some(Drawn { name: row.name, fault, sent_again: matches!(row.name, RATE_LIMIT | KEY_REFUSED) })
}

impl Script {
    fn fault(&self, operation: &str) -> Value {
        match self {
            Fault(name) => json!({"operation": operation, "fault": name}),
            Coded(name, code) => json!({"operation": operation, "fault": name, "code": code}),
            Executed(status, code) => {
                json!({"operation": operation, "fault": "status_after", "status": status, "code": code})
            }
            Refused(status, code) => json!({"operation": operation, "fault": "status", "status": status, "code": code}),
            Unsigned(status, code) => {
                json!({"operation": operation, "fault": "status", "status": status, "code": code, "unsigned": true})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::chaos::ways::CHANNELS;

    #[test]
    fn every_channel_draws_each_of_its_faults_and_no_other() {
        let mut random = StdRng::seed_from_u64(1);
        let channels: Vec<&str> = CHANNELS.iter().map(|(name, _)| *name).collect();
        for channel in ALL {
            assert!(channels.contains(channel), "{channel} is a channel of the world");
            for operation in WRITES.iter().chain(QUERIES) {
                let mut expected: Vec<_> = FAULTS
                    .iter()
                    .filter(|row| row.channels.contains(channel) && row.operations.contains(operation))
                    .map(|row| row.name)
                    .collect();
                expected.sort_unstable();
                expected.dedup();
                let drawn = (0..3000).filter_map(|_| draw(&mut random, channel, operation, "n"));
                let mut drawn: Vec<_> = drawn.map(|drawn| drawn.name).collect();
                drawn.sort_unstable();
                drawn.dedup();
                assert_eq!(drawn, expected, "{channel} {operation}");
            }
        }
    }
}
