//! `tollgate route`: prints which route a payment would take, and why.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tollgate_config::{Question, Route};
use tollgate_gateway::snapshot::{self, Snapshot};
use tollgate_plugins::payment::{Currency, Method, Money, provider_number};

use crate::output::say;
use tollgate_gateway::routing::{channels, choose};

/// Number of routes beyond which only near misses are explained.
const EXPLAIN_ALL_UP_TO: usize = 100;

/// Payment to explain.
#[derive(Args, Clone, Debug)]
pub(crate) struct RouteArgs {
    /// Merchant of the payment
    #[arg(long)]
    merchant: String,
    /// Payment method, for example wechat.native
    #[arg(long)]
    method: String,
    /// Amount in the currency's minor unit
    #[arg(long)]
    amount: u64,
    /// Currency (ISO 4217)
    #[arg(long, default_value = "CNY")]
    currency: String,
    /// Channel that the request names
    #[arg(long)]
    channel: Option<String>,
    /// Entry of the request's metadata, for example tier=gold; may be repeated
    #[arg(long, value_name = "NAME=TEXT")]
    metadata: Vec<String>,
    /// Time of the payment, for example 2026-12-24T22:00:00+08:00; default: now
    #[arg(long)]
    at: Option<Timestamp>,
    /// Order id, which decides the weighted choice
    #[arg(long, default_value = "example")]
    order: String,
}

/// Loads the configuration and prints the channels that the payment would use.
pub(crate) fn run(conf: &Path, arguments: &RouteArgs) -> Result<(), String> {
    let snapshot = snapshot::load(conf, None).map_err(|diagnostics| {
        let lines: String = diagnostics.iter().map(|diagnostic| format!("\n{diagnostic}")).collect();
        format!("the configuration has errors:{lines}")
    })?;
    if !snapshot.config.merchants.contains_key(&arguments.merchant) {
        let names: Vec<&str> = snapshot.config.merchants.keys().map(String::as_str).collect();
        return Err(format!("there is no merchant `{}`; there are {}", arguments.merchant, names.join(", ")));
    }
    let method = Method::parse(&arguments.method);
    let method = method.ok_or_else(|| {
        let known: std::collections::BTreeSet<_> = Method::all().map(|known| known.as_str()).collect();
        let known: Vec<_> = known.into_iter().collect();
        format!("`{}` is not a payment method; there are {}", arguments.method, known.join(", "))
    })?;
    let currency = Currency::parse(&arguments.currency);
    let currency =
        currency.ok_or_else(|| format!("`{}` is not a currency; use for example CNY", arguments.currency))?;
    let mut metadata = Map::new();
    for note in &arguments.metadata {
        let (name, text) = note.split_once('=').ok_or_else(|| format!("write `{note}` as NAME=TEXT"))?;
        metadata.insert(name.to_owned(), Value::from(text));
    }
    let question = Question {
        merchant: &arguments.merchant,
        method,
        amount: Money { value: arguments.amount, currency },
        metadata: Some(&metadata),
        pinned: arguments.channel.as_deref(),
        number: &provider_number(&[&arguments.merchant, &arguments.order]),
        at: arguments.at.unwrap_or_else(Timestamp::now),
    };
    explain(&snapshot, &question).iter().for_each(|line| say!("{line}"));
    Ok(())
}

/// Explains each route up to the selected one, then lists the channels. With many routes, those that require another merchant,
/// method or metadata are only counted.
fn explain(snapshot: &Snapshot, question: &Question<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let result = choose(snapshot, question);
    let near: Option<BTreeSet<usize>> =
        (snapshot.routes.len() > EXPLAIN_ALL_UP_TO).then(|| snapshot.routes.positions(question).collect());
    if let Some(near) = &near {
        let others = snapshot.routes.len() - near.len();
        lines.push(format!("{others} routes require another merchant, method or metadata"));
    }
    for (count, route) in snapshot.routes.iter().enumerate() {
        if near.as_ref().is_some_and(|near| !near.contains(&count)) {
            continue;
        }
        let skip_reason = skip_reason(snapshot, route, question);
        let is_taken = skip_reason.is_none();
        let skip_reason = skip_reason.unwrap_or_else(|| "taken".to_owned());
        let is_last = is_taken && (question.pinned.is_none() || route.answer.is_some());
        lines.push(format!("route {:<4} to {:<30} {skip_reason}", count + 1, targets(route)));
        if is_last {
            break;
        }
    }
    match result {
        Ok(channels) => {
            for (count, channel) in channels.iter().enumerate() {
                let place = if count == 0 { "first" } else { "if nothing was sent before" };
                lines.push(format!("channel    {:<33} {place} ({})", channel.name, channel.account()));
            }
        }
        Err(none) => lines.push(format!("no channel: {none}")),
    }
    lines
}

/// Returns why the route is skipped; `None` if it is selected.
fn skip_reason(snapshot: &Snapshot, route: &Route, question: &Question<'_>) -> Option<String> {
    if let Some(refusal) = route.wanted.mismatch(question) {
        return Some(format!("passed over: {refusal}"));
    }
    if route.answer.is_some() {
        return None;
    }
    if let Some(pinned) = question.pinned.filter(|pinned| !route.names(pinned)) {
        return Some(format!("passed over: it does not lead to `{pinned}`"));
    }
    match channels(snapshot, route, question) {
        Ok(channels) if channels.is_empty() => {
            Some(format!("passed over: none of its channels serves {}", question.method))
        }
        Ok(_) => None,
        Err(seconds) => Some(format!("passed over: its channels are under maintenance for another {seconds} s")),
    }
}

fn targets(route: &Route) -> String {
    if let Some(refusal) = &route.answer {
        return format!("answer {} {}", refusal.status, refusal.code);
    }
    let to = route.to.iter().map(|(name, weight)| match route.to.len() {
        1 => name.clone(),
        _ => format!("{name}:{weight}"),
    });
    let mut text = to.collect::<Vec<_>>().join(", ");
    if !route.fallback.is_empty() {
        text += &format!(", else {}", route.fallback.join(", "));
    }
    text
}
