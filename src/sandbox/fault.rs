//! Scripted faults: type, affected requests, and number of times.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Operations that a fault can name, in addition to `*`.
pub(super) const OPERATIONS: [&str; 9] =
    ["create", "query", "close", "cancel", "refund", "refund_query", "certificates", "bill", "bill_file"];

/// One scripted fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// Affected operation; `*` for any.
    #[serde(default = "any")]
    pub(super) operation: String,
    /// Type of the fault.
    pub(super) fault: FaultKind,
    /// Delay before the response or the cut, in milliseconds; for `delay_before`: before the execution.
    #[serde(default)]
    pub(super) delay_ms: u64,
    /// The HTTP status of `status` and `status_after`.
    #[serde(default = "server_error")]
    pub(super) status: u16,
    /// Error code in the body of `status` and `status_after`. Empty: an unsigned body that is not JSON, as from a
    /// proxy.
    #[serde(default = "system_error")]
    pub(super) code: String,
    /// Message in the body of `status` and `status_after`; default: the provider's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// Sends the response without a signature, in addition to the fault.
    #[serde(default)]
    pub(super) unsigned: bool,
    /// Number of times that the fault applies.
    #[serde(default = "once")]
    pub(super) times: u32,
    /// Order or refund number; default: any.
    #[serde(default)]
    pub(super) number: Option<String>,
    /// Account (mchid, app_id or merId); default: any.
    #[serde(default, alias = "app_id", alias = "merId")]
    pub(super) mchid: Option<String>,
}

/// Type of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultKind {
    /// Executes immediately and responds late.
    Delay,
    /// Executes late, even if the client has disconnected.
    DelayBefore,
    /// Reads the head, then closes the connection. The body is not read and nothing is executed.
    CutUnread,
    /// Reads the head, then resets the stream with REFUSED_STREAM, which in HTTP/2 means "not processed". An HTTP/1.1
    /// connection is closed instead.
    RefuseStream,
    /// Reads the whole request, then closes the connection without executing.
    CutBefore,
    /// Executes, then closes the connection without a response.
    CutAfter,
    /// Responds with the scripted status and does not execute.
    Status,
    /// Executes, then responds with the scripted status.
    StatusAfter,
    /// Correct response without a signature.
    Unsigned,
    /// Correct response with the signature of other bytes.
    WrongSignature,
    /// Correct response, signed with the provider's next key and its id (Alipay certificates).
    NextKey,
    /// Correct response with a valid signature from ten minutes ago.
    Stale,
    /// Signed response that is not JSON.
    Garbage,
    /// Signed response with another amount.
    OtherAmount,
    /// Signed response about another merchant's order.
    OtherAccount,
    /// Signed response with the hash of another bill.
    OtherHash,
    /// Signed response with a bill link to a host that is not the provider's.
    OtherHost,
    /// WeChat Pay: signed response that reports PAYERROR for any order that was not reversed or closed.
    PayError,
    /// WeChat Pay APIv2: correct response, signed with the same key but the other sign type.
    OtherSignType,
    /// WeChat Pay APIv2: correct signed response without the account's ids.
    NoAccount,
    /// WeChat Pay APIv3: correct response with the provider's self-test, a deliberately wrong signature.
    Signtest,
    /// Signed response with text in GBK. Only Alipay's form protocol supports it.
    Gbk,
    /// Alipay: the gateway rejects the request with the fault's `code` in the method's own envelope, unsigned.
    OwnEnvelope,
    /// Alipay: responds to a refund with success and `fund_change` N without executing it.
    NotRefunded,
    /// UnionPay: signed query response that reports the fault's `code` for the trade, regardless of its state.
    TradeCode,
    /// Closes a new connection immediately: nothing was read.
    RefuseConnection,
    /// Rejects the client certificate in the TLS handshake of a new connection.
    RefuseClientCertificate,
}

impl FaultKind {
    /// Returns whether the fault applies to a connection, before any request.
    fn is_for_connection(self) -> bool {
        matches!(self, Self::RefuseConnection | Self::RefuseClientCertificate)
    }

    /// Returns whether the fault applies after the head was read and before the body.
    fn is_before_body(self) -> bool {
        matches!(self, Self::CutUnread | Self::RefuseStream)
    }
}

impl Fault {
    /// Returns an error message if the scripted fault is invalid.
    pub(super) fn validation_error(&self) -> Option<String> {
        let Self { operation, fault, status, .. } = self;
        if operation != "*" && !OPERATIONS.contains(&operation.as_str()) {
            return Some(format!("`{operation}` is not an operation; use one of * {}", OPERATIONS.join(" ")));
        }
        if !(200..=599).contains(status) {
            return Some(format!("{status} is not a response status: use 200 to 599"));
        }
        if self.times == 0 {
            return Some("`times` must be at least 1".to_owned());
        }
        let narrow = self.number.is_some() || self.mchid.is_some() || operation != "*";
        if fault.is_for_connection() && narrow {
            return Some("a connection has no operation, number or mchid yet: remove them".to_owned());
        }
        if fault.is_before_body() && self.mchid.is_some() {
            return Some("this fault applies before the mchid is known: remove it".to_owned());
        }
        None
    }
}

/// Pending faults by order or refund number. Of the matching faults the oldest applies first.
#[derive(Default)]
pub(super) struct Script {
    by_number: HashMap<String, VecDeque<Entry>>,
    for_any: VecDeque<Entry>,
    added: u64,
}

struct Entry {
    /// Number of faults that were added before.
    serial: u64,
    fault: Fault,
}

impl Script {
    /// Adds a fault.
    pub(super) fn add(&mut self, fault: Fault) {
        let entry = Entry { serial: self.added, fault };
        self.added += 1;
        match entry.fault.number.clone() {
            Some(number) => self.by_number.entry(number).or_default().push_back(entry),
            None => self.for_any.push_back(entry),
        }
    }

    /// Removes all faults.
    pub(super) fn clear(&mut self) {
        self.by_number.clear();
        self.for_any.clear();
    }

    /// Returns the pending faults with their remaining times, oldest first.
    pub(super) fn pending(&self) -> Vec<Fault> {
        let mut entries: Vec<&Entry> = self.by_number.values().flatten().chain(&self.for_any).collect();
        entries.sort_unstable_by_key(|entry| entry.serial);
        entries.into_iter().map(|entry| entry.fault.clone()).collect()
    }

    /// Takes the fault for a newly accepted connection.
    pub(super) fn for_connection(&mut self) -> Option<FaultKind> {
        self.take(&[], |fault| fault.fault.is_for_connection()).map(|fault| fault.fault)
    }

    /// Takes the fault for a request whose head was read and whose body was not.
    pub(super) fn for_head(&mut self, operation: &str, number: Option<&str>) -> Option<FaultKind> {
        let numbers: Vec<String> = number.map(str::to_owned).into_iter().collect();
        self.take(&numbers, |fault| fault.fault.is_before_body() && fault.is_about(operation)).map(|fault| fault.fault)
    }

    /// Takes the fault for a request with a verified signature.
    pub(super) fn for_request(&mut self, operation: &str, mchid: &str, numbers: &[String]) -> Option<Fault> {
        self.take(numbers, |fault| {
            !fault.fault.is_for_connection()
                && !fault.fault.is_before_body()
                && fault.is_about(operation)
                && fault.mchid.as_deref().is_none_or(|wanted| wanted == mchid)
        })
    }

    /// Takes the oldest matching fault for one of these numbers or for any number.
    fn take(&mut self, numbers: &[String], fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let oldest =
            |entries: &VecDeque<Entry>| entries.iter().find(|entry| fits(&entry.fault)).map(|entry| entry.serial);
        let named = numbers.iter().filter_map(|number| Some((oldest(self.by_number.get(number)?)?, Some(number))));
        let any = oldest(&self.for_any).map(|serial| (serial, None));
        let (serial, number) = named.chain(any).min_by_key(|(serial, _)| *serial)?;
        let entries = match number {
            Some(number) => self.by_number.get_mut(number)?,
            None => &mut self.for_any,
        };
        let entry = entries.iter_mut().find(|entry| entry.serial == serial)?;
        entry.fault.times -= 1;
        let taken = entry.fault.clone();
        entries.retain(|entry| entry.fault.times > 0);
        let is_empty = entries.is_empty();
        if let Some(number) = number.filter(|_| is_empty) {
            self.by_number.remove(number);
        }
        Some(taken)
    }
}

/// Executes a request under a fault. Returns the response of `execute`, the fault's response from `instead`, or
/// `None` if the connection is cut.
pub(super) async fn execute_with_fault<R>(
    fault: &Fault,
    execute: impl FnOnce() -> R,
    instead: impl FnOnce(&Fault) -> R,
) -> Option<R> {
    let delay = Duration::from_millis(fault.delay_ms);
    if fault.fault == FaultKind::DelayBefore {
        tokio::time::sleep(delay).await;
    }
    let reply = match fault.fault {
        FaultKind::CutBefore => None,
        FaultKind::Status | FaultKind::OwnEnvelope => Some(instead(fault)),
        FaultKind::CutAfter => {
            execute();
            None
        }
        FaultKind::StatusAfter | FaultKind::Garbage => {
            execute();
            Some(instead(fault))
        }
        _ => Some(execute()),
    };
    if fault.fault != FaultKind::DelayBefore {
        tokio::time::sleep(delay).await;
    }
    reply
}

impl Fault {
    fn is_about(&self, operation: &str) -> bool {
        self.operation == "*" || self.operation == operation
    }
}

fn any() -> String {
    "*".to_owned()
}

fn server_error() -> u16 {
    500
}

fn system_error() -> String {
    "SYSTEM_ERROR".to_owned()
}

fn once() -> u32 {
    1
}
