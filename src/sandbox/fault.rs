//! Scripted faults: what goes wrong, with which request, how often.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The operations that a fault can name, beside `*`.
pub(super) const OPERATIONS: [&str; 9] =
    ["create", "query", "close", "cancel", "refund", "refund_query", "certificates", "bill", "bill_file"];

/// One entry of the script.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// Which operation it waits for; `*` for any.
    #[serde(default = "any")]
    pub(super) operation: String,
    /// What goes wrong.
    pub(super) fault: Kind,
    /// How long before the answer or the cut (for `delay_before`: before the execution).
    #[serde(default)]
    pub(super) delay_ms: u64,
    /// The HTTP status of `status` and `status_after`.
    #[serde(default = "server_error")]
    pub(super) status: u16,
    /// The `code` in the body of `status` and `status_after`; empty: the body is no JSON and unsigned, as from a proxy.
    #[serde(default = "system_error")]
    pub(super) code: String,
    /// The sentence in the body of `status` and `status_after`; the provider's usual one when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// Leaves the answer without a signature, whatever else is wrong with it.
    #[serde(default)]
    pub(super) unsigned: bool,
    /// How often.
    #[serde(default = "once")]
    pub(super) times: u32,
    /// Only for this order or refund.
    #[serde(default)]
    pub(super) number: Option<String>,
    /// Only for this account: its mchid, app_id or merId.
    #[serde(default, alias = "app_id", alias = "merId")]
    pub(super) mchid: Option<String>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Executes at once, answers late.
    Delay,
    /// Executes late, whether or not anybody still waits.
    DelayBefore,
    /// Reads the head, then closes: the body is not read, nothing is executed.
    CutUnread,
    /// Reads the head, then resets the stream with REFUSED_STREAM, HTTP/2's word for "not processed". HTTP/1.1 has none: there
    /// it closes.
    RefuseStream,
    /// Reads all, then closes without executing.
    CutBefore,
    /// Executes, then closes without answering.
    CutAfter,
    /// Answers with a status of its own instead of executing.
    Status,
    /// Executes, then answers with a status of its own.
    StatusAfter,
    /// The right answer without a signature.
    Unsigned,
    /// The right answer with the signature of other bytes.
    WrongSignature,
    /// The right answer, signed with the provider's next key, which it names (Alipay's certificates).
    NextKey,
    /// The right answer, rightly signed ten minutes ago.
    Stale,
    /// A signed answer that is no JSON.
    Garbage,
    /// A signed answer with another amount in it.
    OtherAmount,
    /// A signed answer about another merchant's order.
    OtherAccount,
    /// A signed answer with the hash of another bill.
    OtherHash,
    /// A signed answer with a bill's link to a host that is not the provider's.
    OtherHost,
    /// WeChat Pay: a signed answer that calls the payment PAYERROR whatever the books say, unless it was reversed or closed.
    PayError,
    /// WeChat Pay's APIv2: the right answer, signed with the same key in the other of its two ways.
    OtherSignType,
    /// WeChat Pay's APIv2: the right answer, signed, but without the account's numbers in it.
    NoAccount,
    /// WeChat Pay's APIv3: the right answer with the platform's probe for a signature, which is wrong on purpose.
    Signtest,
    /// A signed answer with text in GBK, signed over those bytes. Only Alipay's form protocol has it.
    Gbk,
    /// Alipay's gateway refuses with the fault's `code` in the method's own envelope, unsigned.
    OwnEnvelope,
    /// Alipay answers a refund with success and `fund_change` N without making it.
    NotRefunded,
    /// UnionPay: a signed answer to a query that says of the trade what the fault's `code` says, whatever the books say.
    TradeCode,
    /// Closes a new connection at once: provably nothing was read.
    RefuseConnection,
    /// Refuses the client certificate in a new connection's handshake.
    RefuseClientCertificate,
}

impl Kind {
    /// Whether it happens to a connection, before there is any request.
    fn is_for_connections(self) -> bool {
        matches!(self, Self::RefuseConnection | Self::RefuseClientCertificate)
    }

    /// Whether it happens when the head was read and the body was not.
    fn is_for_heads(self) -> bool {
        matches!(self, Self::CutUnread | Self::RefuseStream)
    }
}

impl Fault {
    /// What is wrong with a new entry.
    pub(super) fn problem(&self) -> Option<String> {
        let Self { operation, fault, status, .. } = self;
        if operation != "*" && !OPERATIONS.contains(&operation.as_str()) {
            return Some(format!("`{operation}` is no operation; there are * {}", OPERATIONS.join(" ")));
        }
        if !(200..=599).contains(status) {
            return Some(format!("{status} is no status of an answer: give 200 to 599"));
        }
        if self.times == 0 {
            return Some("`times` must be at least 1".to_owned());
        }
        let narrow = self.number.is_some() || self.mchid.is_some() || operation != "*";
        if fault.is_for_connections() && narrow {
            return Some("a connection has no operation, number or mchid yet: leave them out".to_owned());
        }
        if fault.is_for_heads() && self.mchid.is_some() {
            return Some("this happens before anybody knows the mchid: leave it out".to_owned());
        }
        None
    }
}

/// The entries that still wait, by the order or refund that they wait for. Of those that fit, the oldest comes first.
#[derive(Default)]
pub(super) struct Script {
    by_number: HashMap<String, VecDeque<Entry>>,
    for_any: VecDeque<Entry>,
    added: u64,
}

struct Entry {
    /// How many came before.
    serial: u64,
    fault: Fault,
}

impl Script {
    /// Adds an entry.
    pub(super) fn add(&mut self, fault: Fault) {
        let entry = Entry { serial: self.added, fault };
        self.added += 1;
        match entry.fault.number.clone() {
            Some(number) => self.by_number.entry(number).or_default().push_back(entry),
            None => self.for_any.push_back(entry),
        }
    }

    /// Forgets all entries.
    pub(super) fn clear(&mut self) {
        self.by_number.clear();
        self.for_any.clear();
    }

    /// Those that still wait, with the times that are left, in the order in which they came.
    pub(super) fn waiting(&self) -> Vec<Fault> {
        let mut entries: Vec<&Entry> = self.by_number.values().flatten().chain(&self.for_any).collect();
        entries.sort_unstable_by_key(|entry| entry.serial);
        entries.into_iter().map(|entry| entry.fault.clone()).collect()
    }

    /// The fault of the connection that was just accepted.
    pub(super) fn for_connection(&mut self) -> Option<Kind> {
        self.take(&[], |fault| fault.fault.is_for_connections()).map(|fault| fault.fault)
    }

    /// What to do now, with the head read and the body not.
    pub(super) fn for_head(&mut self, operation: &str, number: Option<&str>) -> Option<Kind> {
        let numbers: Vec<String> = number.map(str::to_owned).into_iter().collect();
        self.take(&numbers, |fault| fault.fault.is_for_heads() && fault.is_about(operation)).map(|fault| fault.fault)
    }

    /// The fault of a request whose signature was verified.
    pub(super) fn for_request(&mut self, operation: &str, mchid: &str, numbers: &[String]) -> Option<Fault> {
        self.take(numbers, |fault| {
            !fault.fault.is_for_connections()
                && !fault.fault.is_for_heads()
                && fault.is_about(operation)
                && fault.mchid.as_deref().is_none_or(|wanted| wanted == mchid)
        })
    }

    /// Takes the oldest entry that fits and waits for one of these numbers, or for any.
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

/// Does the work with the fault in its way: what `execute` answers, what the fault wants `instead`, or, from a connection
/// that is cut, nothing.
pub(super) async fn disturbed<R>(
    fault: &Fault,
    execute: impl FnOnce() -> R,
    instead: impl FnOnce(&Fault) -> R,
) -> Option<R> {
    let delay = Duration::from_millis(fault.delay_ms);
    if fault.fault == Kind::DelayBefore {
        tokio::time::sleep(delay).await;
    }
    let reply = match fault.fault {
        Kind::CutBefore => None,
        Kind::Status | Kind::OwnEnvelope => Some(instead(fault)),
        Kind::CutAfter => {
            execute();
            None
        }
        Kind::StatusAfter | Kind::Garbage => {
            execute();
            Some(instead(fault))
        }
        _ => Some(execute()),
    };
    if fault.fault != Kind::DelayBefore {
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
