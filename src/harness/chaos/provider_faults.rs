//! Provider faults: everything that can go wrong with one request between the gateway and a provider.
//!
//! The weights follow real integrations: a system error about an existing order is common, a lost response is less
//! common, and a wrong signature is rare.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Operations that change something at the provider.
const WRITES: &[&str] = &["create", "close", "cancel", "refund"];
/// Operations that the provider can reject finally. A rejected close would leave the payment open, which another test
/// covers.
const REJECTABLE: &[&str] = &["create", "refund"];
const CREATE: &[&str] = &["create"];
const REFUND: &[&str] = &["refund"];
const QUERIES: &[&str] = &["query", "refund_query"];
const SIGNTEST_OPERATIONS: &[&str] = &["create", "query", "refund"];

const WECHAT: &[&str] = &["wechat"];
const WECHAT_V2: &[&str] = &["wechat-v2"];
const ALIPAY: &[&str] = &["alipay"];
const UNIONPAY: &[&str] = &["unionpay"];
const ALL: &[&str] = &["wechat", "wechat-v2", "alipay", "unionpay"];

const RATE_LIMIT: &str = "rate limit";
const KEY_REJECTED: &str = "key rejected";

/// One type of fault.
struct FaultType {
    /// Name in the report.
    name: &'static str,
    /// Channels whose provider has this fault.
    channels: &'static [&'static str],
    operations: &'static [&'static str],
    /// Relative weight among the faults of the same channel and operation.
    weight: u32,
    script: Script,
}

/// Request to the sandbox's control API.
enum Script {
    /// Named fault.
    Fault(&'static str),
    /// Named fault with a code.
    Coded(&'static str, &'static str),
    /// The request is executed. The response has this HTTP status and code.
    Executed(u16, &'static str),
    /// The request is not executed. The response has this HTTP status and code.
    Rejected(u16, &'static str),
    /// The request is not executed. The response has this HTTP status and code, and no signature.
    Unsigned(u16, &'static str),
    /// One script for each channel, in the order of [`ALL`].
    ByChannel(&'static [Script; ALL.len()]),
}

use Script::{ByChannel, Coded, Executed, Fault, Rejected, Unsigned};

#[rustfmt::skip]
const FAULTS: &[FaultType] = &[
    // Connections and responses of any provider.
    fault_type("cut_unread",      ALL, WRITES, 2, Fault("cut_unread")),
    fault_type("cut_before",      ALL, WRITES, 3, Fault("cut_before")),
    fault_type("cut_after",       ALL, WRITES, 4, Fault("cut_after")),
    fault_type("proxy page",      ALL, WRITES, 2, Rejected(502, "")),
    fault_type("proxy page, executed", ALL, WRITES, 3, Executed(504, "")),
    fault_type("delay",           ALL, WRITES, 2, Fault("delay")),
    fault_type("unsigned",        ALL, WRITES, 1, Fault("unsigned")),
    fault_type("wrong_signature", ALL, WRITES, 2, Fault("wrong_signature")),
    fault_type("stale",           ALL, WRITES, 1, Fault("stale")),
    fault_type("garbage",         ALL, WRITES, 1, Fault("garbage")),
    fault_type("other_amount",    ALL, WRITES, 1, Fault("other_amount")),
    // System errors, mostly about executed requests.
    fault_type("system error, executed", WECHAT,    WRITES, 8, Executed(500, "SYSTEM_ERROR")),
    fault_type("system error, executed", WECHAT_V2, WRITES, 8, Executed(200, "SYSTEMERROR")),
    fault_type("system error, executed", ALIPAY,    WRITES, 8, Executed(200, "ACQ.SYSTEM_ERROR")),
    fault_type("system error, executed", UNIONPAY,  WRITES, 4, Executed(200, "04")),
    fault_type("system error, executed", UNIONPAY,  WRITES, 4, Executed(200, "06")),
    fault_type("system error", ALL, WRITES, 3, ByChannel(&[
        Rejected(500, "SYSTEM_ERROR"), Rejected(200, "SYSTEMERROR"), Rejected(200, "ACQ.SYSTEM_ERROR"), Rejected(200, "99"),
    ])),
    // Documented rejections.
    fault_type("declined", WECHAT,    REJECTABLE, 3, Rejected(400, "PARAM_ERROR")),
    fault_type("declined", WECHAT_V2, REJECTABLE, 3, Rejected(200, "NOAUTH")),
    fault_type("declined", ALIPAY,    CREATE,    3, Rejected(200, "ACQ.PAYMENT_REQUEST_HAS_RISK")),
    fault_type("declined", ALIPAY,    REFUND,    3, Rejected(200, "ACQ.TRADE_NOT_ALLOW_REFUND")),
    fault_type("declined", UNIONPAY,  CREATE,    3, Rejected(200, "33")),
    fault_type("declined", UNIONPAY,  REFUND,    3, Rejected(200, "36")),
    // Rejections with an undocumented code.
    fault_type("undocumented rejection", ALL, REJECTABLE, 2, ByChannel(&[
        Rejected(400, "CODE_OF_TOMORROW"), Rejected(200, "CODE_OF_TOMORROW"), Rejected(200, "ACQ.CODE_OF_TOMORROW"), Rejected(200, "97"),
    ])),
    // Rate limits.
    fault_type(RATE_LIMIT, ALL, WRITES, 2, ByChannel(&[
        Rejected(429, "FREQUENCY_LIMITED"), Rejected(200, "FREQUENCY_LIMITED"), Rejected(200, "40005"), Rejected(200, "37"),
    ])),
    // The signing key is rejected for a moment, as during a key rotation. The response is unsigned.
    fault_type(KEY_REJECTED, WECHAT,   CREATE, 1, Unsigned(401, "SIGN_ERROR")),
    fault_type(KEY_REJECTED, UNIONPAY, CREATE, 1, Unsigned(200, "11")),
    fault_type(KEY_REJECTED, ALIPAY,   CREATE, 1, Coded("own_envelope", "isv.invalid-app-id")),
    // Faults of one provider.
    fault_type("signtest",        WECHAT,    SIGNTEST_OPERATIONS,  6, Fault("signtest")),
    fault_type("other_sign_type", WECHAT_V2, WRITES, 3, Fault("other_sign_type")),
    fault_type("no_account",      WECHAT_V2, WRITES, 2, Fault("no_account")),
    fault_type("gbk",             ALIPAY,    WRITES, 4, Fault("gbk")),
    fault_type("not_refunded",    ALIPAY,    REFUND, 4, Fault("not_refunded")),
    // Queries.
    fault_type("query: system error", ALL, QUERIES, 3, ByChannel(&[
        Rejected(500, "SYSTEM_ERROR"), Rejected(200, "SYSTEMERROR"), Rejected(200, "ACQ.SYSTEM_ERROR"), Rejected(200, "99"),
    ])),
    fault_type("query: wrong_signature", ALL,         QUERIES, 3, Fault("wrong_signature")),
    fault_type("query: cut_after",       ALL,         QUERIES, 2, Fault("cut_after")),
    fault_type("query: proxy page",      ALL,         QUERIES, 2, Rejected(502, "")),
];

const fn fault_type(
    name: &'static str,
    channels: &'static [&'static str],
    operations: &'static [&'static str],
    weight: u32,
    script: Script,
) -> FaultType {
    FaultType { name, channels, operations, weight, script }
}

/// A drawn fault.
pub(super) struct DrawnFault {
    /// Name in the report.
    pub(super) name: &'static str,
    /// Body of the request to the sandbox's control API.
    pub(super) fault: Value,
    /// True if the gateway is expected to send the same request again, because the provider rejects it without
    /// executing it.
    pub(super) causes_resend: bool,
}

/// Draws a fault for the operation on this provider number. Returns `None` if the channel's provider has no fault for
/// the operation.
pub(super) fn draw(random: &mut StdRng, channel: &str, operation: &str, number: &str) -> Option<DrawnFault> {
    let fits =
        |fault_type: &&FaultType| fault_type.channels.contains(&channel) && fault_type.operations.contains(&operation);
    let total: u32 = FAULTS.iter().filter(fits).map(|fault_type| fault_type.weight).sum();
    if total == 0 {
        return None;
    }
    let mut rest = random.random_range(0..total);
    let fault_type = FAULTS.iter().filter(fits).find(|fault_type| match rest.checked_sub(fault_type.weight) {
        Some(remaining) => {
            rest = remaining;
            false
        }
        None => true,
    })?;
    let mut fault = fault_type.script.fault(channel, operation);
    let is_named = |name: &str| fault["fault"] == name;
    let (is_delay, is_unread) = (is_named("delay"), is_named("cut_unread"));
    // 2.5 s exceeds the channel's read timeout of 2 s.
    fault["delay_ms"] = if is_delay { 2500 } else { random.random_range(0..20) }.into();
    // The number is unknown before the body is read, so that this fault hits the next request of any order.
    if !is_unread {
        fault["number"] = number.into();
    }
    Some(DrawnFault {
        name: fault_type.name,
        fault,
        causes_resend: matches!(fault_type.name, RATE_LIMIT | KEY_REJECTED),
    })
}

impl Script {
    fn fault(&self, channel: &str, operation: &str) -> Value {
        match self {
            ByChannel(scripts) => {
                let script = ALL.iter().zip(*scripts).find(|(name, _)| **name == channel).map(|(_, script)| script);
                script.map_or(Value::Null, |script| script.fault(channel, operation))
            }
            Fault(name) => json!({"operation": operation, "fault": name}),
            Coded(name, code) => json!({"operation": operation, "fault": name, "code": code}),
            Executed(status, code) => {
                json!({"operation": operation, "fault": "status_after", "status": status, "code": code})
            }
            Rejected(status, code) => {
                json!({"operation": operation, "fault": "status", "status": status, "code": code})
            }
            Unsigned(status, code) => {
                json!({"operation": operation, "fault": "status", "status": status, "code": code, "unsigned": true})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::pay_methods::CHANNELS;
    use super::*;

    #[test]
    fn provider_faults_of_each_channel_are_all_drawn_and_no_others() {
        let mut random = StdRng::seed_from_u64(1);
        let channels: Vec<&str> = CHANNELS.iter().map(|(name, _)| *name).collect();
        for channel in ALL {
            assert!(channels.contains(channel), "{channel} must be a configured channel");
            for operation in WRITES.iter().chain(QUERIES) {
                let mut expected: Vec<_> = FAULTS
                    .iter()
                    .filter(|fault_type| {
                        fault_type.channels.contains(channel) && fault_type.operations.contains(operation)
                    })
                    .map(|fault_type| fault_type.name)
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

    #[test]
    fn system_error_has_the_code_of_the_provider_that_the_channel_uses() {
        for (channel, code) in [
            ("wechat", "SYSTEM_ERROR"),
            ("wechat-v2", "SYSTEMERROR"),
            ("alipay", "ACQ.SYSTEM_ERROR"),
            ("unionpay", "99"),
        ] {
            let scripts = FAULTS.iter().filter(|fault_type| fault_type.name == "query: system error");
            for fault_type in scripts {
                assert_eq!(fault_type.script.fault(channel, "query")["code"], code, "{channel}");
            }
        }
    }
}
