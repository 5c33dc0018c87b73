//! Scripted faults: what goes wrong, with which request, how often.

use std::collections::VecDeque;
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
    /// Closes a new connection at once: provably nothing was read.
    RefuseConnection,
    /// Refuses the client certificate in a new connection's handshake.
    RefuseClientCertificate,
    /// The right answer with a signature that is wrong on purpose: the provider's own test of whether signatures are checked.
    ProbeSignature,
    /// Executes nothing: a signed refusal with a code that is in no list, or with the fault's `code` where it names one.
    UnlistedRefusal,
    /// Executes nothing: a signed refusal with a documented code that is final.
    Declined,
    /// Executes nothing: a signed refusal because of the provider's rate limit.
    RateLimited,
    /// Executes nothing: a signed word that the end is unclear.
    NotDone,
    /// Executes nothing: an unsigned refusal of the signature, in the shape in which the provider writes one.
    UnsignedRefusal,
    /// Executes nothing: a failure that names no account.
    NoAccount,
    /// A scanned payment that is said to have failed and is charged afterwards.
    PayError,
    /// The right answer in GBK, signed over its bytes.
    Gbk,
    /// The right answer, signed by the account's other method.
    OtherSignType,
}

impl Kind {
    /// Whether it happens to a connection, before there is any request.
    fn is_for_connections(self) -> bool {
        matches!(self, Self::RefuseConnection | Self::RefuseClientCertificate)
    }

    /// Whether an answer of its own takes the place of the execution.
    pub(super) fn executes_nothing(self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::UnlistedRefusal
                | Self::Declined
                | Self::RateLimited
                | Self::NotDone
                | Self::UnsignedRefusal
                | Self::NoAccount
        )
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

/// The entries that still wait, in the order in which they came.
#[derive(Default)]
pub(super) struct Script(VecDeque<Fault>);

impl Script {
    /// Adds an entry.
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push_back(fault);
    }

    /// Forgets all entries.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that still wait, with the times that are left.
    pub(super) fn waiting(&self) -> Vec<Fault> {
        self.0.iter().cloned().collect()
    }

    /// The fault of the connection that was just accepted.
    pub(super) fn for_connection(&mut self) -> Option<Kind> {
        self.take(|fault| fault.fault.is_for_connections()).map(|fault| fault.fault)
    }

    /// What to do now, with the head read and the body not.
    pub(super) fn for_head(&mut self, operation: &str, number: Option<&str>) -> Option<Kind> {
        let fits = |fault: &Fault| {
            let number_fits = fault.number.is_none() || fault.number.as_deref() == number;
            fault.fault.is_for_heads() && fault.is_about(operation) && number_fits
        };
        self.take(fits).map(|fault| fault.fault)
    }

    /// The fault of a request whose signature was verified.
    pub(super) fn for_request(&mut self, operation: &str, mchid: &str, numbers: &[String]) -> Option<Fault> {
        self.take(|fault| {
            !fault.fault.is_for_connections()
                && !fault.fault.is_for_heads()
                && fault.is_about(operation)
                && fault.mchid.as_deref().is_none_or(|wanted| wanted == mchid)
                && fault.number.as_ref().is_none_or(|wanted| numbers.contains(wanted))
        })
    }

    fn take(&mut self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let at = self.0.iter().position(|fault| fault.times > 0 && fits(fault))?;
        let fault = self.0.get_mut(at)?;
        fault.times -= 1;
        let taken = fault.clone();
        self.0.retain(|fault| fault.times > 0);
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
        kind if kind.executes_nothing() => Some(instead(fault)),
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
