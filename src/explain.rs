//! `tollgate explain ORDER`: prints the timeline of a payment for support staff.
//!
//! Asks the running gateway over its admin port, because an embedded ledger can be opened by one process only. If no
//! gateway is running, opens the ledger itself.

#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use crate::cli::operate::in_force;
use clap::Args;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tollgate_gateway::open_ledger::open_ledger;
use tollgate_gateway::snapshot::{Current, Snapshot, put_in_force};
use tollgate_gateway::view::lost_action;
use tollgate_ledger::{ELSEWHERE_PREFIX, Inquiry, Ledger, LedgerError, MoneyState, PaymentHistory, Refund, Timeline};
use tollgate_plugins::payment::{Money, Status};

use crate::admin_client;
use crate::output::say;

/// Arguments of `tollgate explain`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExplainArgs {
    /// Order id of the merchant, or the order number at the provider, which is on the payer's receipt
    order: String,
    /// Search this merchant's orders only; two merchants may use the same order id
    #[arg(long)]
    merchant: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints everything known about the payment.
pub(crate) async fn run(conf: &Path, arguments: &ExplainArgs) -> Result<(), String> {
    let current = put_in_force(in_force(conf)?);
    let snapshot = current.load_full();
    let question = Question { order: arguments.order.clone(), merchant: arguments.merchant.clone() };
    let answer = match admin_client::ask(&snapshot.process, "GET", &question.target()).await {
        Ok((200, payments)) => payments.to_string(),
        Ok((status, body)) => {
            return Err(format!("the gateway answered {status}: {}", body.as_str().unwrap_or("").trim()));
        }
        Err(connection_error) => explain_from_ledger(&current, &question)
            .await
            .map_err(|reason| format!("{connection_error}, and {reason}"))?,
    };
    let payments: Vec<Explanation> = serde_json::from_str(&answer)
        .map_err(|error| format!("the gateway's response is invalid ({error}); check that it has the same version"))?;
    if payments.is_empty() {
        return Err(format!(
            "there is no payment `{}`{}: nothing was ever sent for it. Check that the number is complete and that it is not the \
             payment's id at the provider",
            arguments.order,
            arguments.merchant.as_ref().map_or(String::new(), |merchant| format!(" of `{merchant}`")),
        ));
    }
    if arguments.json {
        let pretty = serde_json::to_string_pretty(&payments).map_err(|error| error.to_string())?;
        say!("{pretty}");
        return Ok(());
    }
    for payment in &payments {
        say!("{}", text::explanation_text(payment));
    }
    Ok(())
}

/// Reads the ledger directly when no gateway is running.
async fn explain_from_ledger(current: &Current, question: &Question) -> Result<String, String> {
    let snapshot = current.load_full();
    if let tollgate_config::LedgerConfig::Embedded(path) = &snapshot.process.ledger
        && Ledger::identity_in(path).map_err(|error| error.to_string())?.is_none()
    {
        return Err(format!("there is no ledger in {}", path.display()));
    }
    let ledger = open_ledger(&snapshot.process, current)?;
    answer(&ledger, &snapshot, question).await.map_err(|error| error.to_string())
}

/// A query for a payment, sent to the admin port.
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

    /// Parses path and query.
    pub(crate) fn read(path: &str, query: Option<&str>) -> Option<Self> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from);
        let merchant = match query {
            Some(query) => Some(decoded(query.strip_prefix("merchant=")?)?),
            None => None,
        };
        Some(Self { order: decoded(path.strip_prefix("/explain/")?)?, merchant })
    }
}

/// Returns every matching payment as JSON.
pub(crate) async fn answer(ledger: &Ledger, snapshot: &Snapshot, question: &Question) -> Result<String, LedgerError> {
    let merchants = match &question.merchant {
        Some(merchant) => vec![merchant.clone()],
        None => snapshot.config.merchants.keys().cloned().collect(),
    };
    let mut payments = ledger.find_histories(&question.order, merchants).await?;
    payments.retain(|history| question.merchant.as_ref().is_none_or(|merchant| history.payment.merchant == *merchant));
    let payments: Vec<Explanation> = payments.into_iter().map(Explanation::from).collect();
    serde_json::to_string(&payments).map_err(|error| LedgerError::Internal(error.to_string()))
}

/// Facts about a payment for support staff. It contains no payer data, no merchant metadata and no provider messages.
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
    /// The provider's code and message of a refusal or an inconclusive response.
    refused: Option<String>,
    /// The gateway's reason for the status.
    #[serde(default)]
    status_reason: Option<String>,
    search: Option<Inquiry>,
    refunds: Vec<RefundExplanation>,
    #[serde(flatten)]
    timeline: Timeline,
}

/// Facts about a refund.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RefundExplanation {
    refund_id: String,
    provider_refund_number: String,
    provider_refund_id: Option<String>,
    status: Status,
    money_state: MoneyState,
    amount: Money,
    refunded_at: Option<Timestamp>,
    /// The provider's code and message of a refusal or an inconclusive response.
    #[serde(default)]
    refused: Option<String>,
    /// The gateway's reason for the status.
    #[serde(default)]
    status_reason: Option<String>,
    search: Option<Inquiry>,
}

impl RefundExplanation {
    /// Returns whether the refund was made outside this gateway.
    fn is_elsewhere(&self) -> bool {
        self.refund_id.starts_with(ELSEWHERE_PREFIX)
    }
}

impl From<PaymentHistory> for Explanation {
    fn from(history: PaymentHistory) -> Self {
        let PaymentHistory { payment, refunds, timeline } = history;
        let status_reason = lost_action(&payment).map(str::to_owned).or(payment.state.status_reason);
        Self {
            merchant: payment.merchant,
            order_id: payment.order_id,
            provider_order_number: payment.provider_order_no,
            provider_payment_id: payment.provider_payment_id,
            status: payment.state.status,
            money_state: payment.state.money_state,
            amount: payment.amount,
            refunded: payment.refunded,
            method: payment.method.as_str().to_owned(),
            channel: payment.channel,
            account: payment.account,
            created_at: payment.state.created_at,
            paid_at: payment.paid_at,
            refused: payment.state.provider_error.map(|provider_error| provider_error.to_string()),
            status_reason,
            search: payment.state.inquiry,
            refunds: refunds.into_iter().map(RefundExplanation::from).collect(),
            timeline,
        }
    }
}

impl From<Refund> for RefundExplanation {
    fn from(refund: Refund) -> Self {
        Self {
            refund_id: refund.refund_id,
            provider_refund_number: refund.provider_refund_no,
            provider_refund_id: refund.provider_refund_id,
            status: refund.state.status,
            money_state: refund.state.money_state,
            amount: refund.amount,
            refunded_at: refund.refunded_at,
            refused: refund.state.provider_error.map(|provider_error| provider_error.code),
            status_reason: refund.state.status_reason,
            search: refund.state.inquiry,
        }
    }
}
