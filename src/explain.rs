//! `tollgate explain ORDER`: where is my money? A payment's whole timeline, for a person who did not write the gateway.
//!
//! The gateway that runs is asked over its admin port: an embedded ledger is its alone. When none runs, the ledger is
//! opened here.

#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::{Money, Status};

use crate::admin;
use crate::config::{Snapshot, operate};
use crate::ledger::{Inquiry, Ledger, LedgerError, MoneyState, PaymentHistory, Refund, Timeline};
use crate::output::say;
use crate::server::open_ledger;
use crate::view::lost_action;

/// Which payment.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The merchant's order id, or the number by which the provider and the payer's receipt know the payment
    order: String,
    /// Only this merchant's; two merchants may use the same order id
    #[arg(long)]
    merchant: Option<String>,
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

/// Prints what is known of the payment.
pub async fn run(conf: &Path, arguments: &ExplainArgs) -> Result<(), String> {
    let snapshot = operate::in_force(conf)?;
    let question = Question { order: arguments.order.clone(), merchant: arguments.merchant.clone() };
    let answer = match admin::ask(&snapshot.process, "GET", &question.target()).await {
        Ok((200, found)) => found.to_string(),
        Ok((status, said)) => {
            return Err(format!("the gateway answered {status}: {}", said.as_str().unwrap_or("").trim()));
        }
        Err(unreachable) => alone(&snapshot, &question).await.map_err(|why| format!("{unreachable}, and {why}"))?,
    };
    let found: Vec<Explanation> = serde_json::from_str(&answer)
        .map_err(|error| format!("the gateway's answer cannot be read ({error}); is it of another version?"))?;
    if found.is_empty() {
        return Err(format!(
            "there is no payment `{}`{}: nothing was ever sent for it. See that the number is whole, and that it is not the \
             provider's own number of the payment",
            arguments.order,
            arguments.merchant.as_ref().map_or(String::new(), |merchant| format!(" of `{merchant}`")),
        ));
    }
    if arguments.json {
        let pretty = serde_json::to_string_pretty(&found).map_err(|error| error.to_string())?;
        say!("{pretty}");
        return Ok(());
    }
    for one in &found {
        say!("{}", text::of(one));
    }
    Ok(())
}

/// Looks into the ledger when no gateway does.
async fn alone(snapshot: &Snapshot, question: &Question) -> Result<String, String> {
    if let crate::config::LedgerConfig::Embedded(path) = &snapshot.process.ledger
        && Ledger::identity_in(path).map_err(|error| error.to_string())?.is_none()
    {
        return Err(format!("there is no ledger in {}", path.display()));
    }
    let ledger = open_ledger(&snapshot.process)?;
    answer(&ledger, snapshot, question).await.map_err(|error| error.to_string())
}

/// What is asked, on its way to the admin port and there.
pub(crate) struct Question {
    order: String,
    merchant: Option<String>,
}

impl Question {
    fn target(&self) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let merchant = self.merchant.as_deref().map(|merchant| format!("?merchant={}", encoded(merchant)));
        format!("/explain/{}{}", encoded(&self.order), merchant.unwrap_or_default())
    }

    /// Back from path and query.
    pub(crate) fn read(path: &str, query: Option<&str>) -> Option<Self> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from);
        let merchant = match query {
            Some(query) => Some(decoded(query.strip_prefix("merchant=")?)?),
            None => None,
        };
        Some(Self { order: decoded(path.strip_prefix("/explain/")?)?, merchant })
    }
}

/// Every payment that may be meant, as JSON.
pub(crate) async fn answer(ledger: &Ledger, snapshot: &Snapshot, question: &Question) -> Result<String, LedgerError> {
    let merchants = match &question.merchant {
        Some(merchant) => vec![merchant.clone()],
        None => snapshot.merchants.keys().cloned().collect(),
    };
    let mut found = ledger.find_histories(&question.order, merchants).await?;
    found.retain(|life| question.merchant.as_ref().is_none_or(|merchant| life.payment.merchant == *merchant));
    let found: Vec<Explanation> = found.into_iter().map(Explanation::from).collect();
    serde_json::to_string(&found).map_err(|error| LedgerError(error.to_string()))
}

/// What support is told: nothing of the payer, of the merchant's notes, or of what was said in the provider's sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Explanation {
    merchant: String,
    order_id: String,
    provider_order_number: String,
    provider_payment_id: Option<String>,
    status: Status,
    money_state: MoneyState,
    amount: Money,
    refunded: u64,
    method: String,
    channel: String,
    account: String,
    created_at: Timestamp,
    paid_at: Option<Timestamp>,
    /// The provider's code and sentence when it refused, or when its answer left the end open.
    refused: Option<String>,
    /// The gateway's sentence about why it stands so.
    #[serde(default)]
    status_reason: Option<String>,
    search: Option<Inquiry>,
    refunds: Vec<Given>,
    #[serde(flatten)]
    timeline: Timeline,
}

/// A refund as support is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    refund_id: String,
    provider_refund_number: String,
    provider_refund_id: Option<String>,
    status: Status,
    money_state: MoneyState,
    amount: Money,
    refunded_at: Option<Timestamp>,
    /// The provider's code and sentence when it refused, or when its answer left the end open.
    #[serde(default)]
    refused: Option<String>,
    /// The gateway's sentence about why the refund stands so.
    #[serde(default)]
    status_reason: Option<String>,
    search: Option<Inquiry>,
}

impl From<PaymentHistory> for Explanation {
    fn from(life: PaymentHistory) -> Self {
        let PaymentHistory { payment, refunds, timeline } = life;
        let status_reason = lost_action(&payment).map(str::to_owned).or(payment.status_reason);
        Self {
            merchant: payment.merchant,
            order_id: payment.order_id,
            provider_order_number: payment.provider_order_no,
            provider_payment_id: payment.provider_payment_id,
            status: payment.status,
            money_state: payment.money_state,
            amount: payment.amount,
            refunded: payment.refunded,
            method: payment.method.as_str().to_owned(),
            channel: payment.channel,
            account: payment.account,
            created_at: payment.created_at,
            paid_at: payment.paid_at,
            refused: payment.provider_error.map(|word| word.to_string()),
            status_reason,
            search: payment.search,
            refunds: refunds.into_iter().map(Given::from).collect(),
            timeline,
        }
    }
}

impl From<Refund> for Given {
    fn from(refund: Refund) -> Self {
        Self {
            refund_id: refund.refund_id,
            provider_refund_number: refund.provider_refund_no,
            provider_refund_id: refund.provider_refund_id,
            status: refund.status,
            money_state: refund.money_state,
            amount: refund.amount,
            refunded_at: refund.refunded_at,
            refused: refund.provider_error.map(|word| word.code),
            status_reason: refund.status_reason,
            search: refund.search,
        }
    }
}
