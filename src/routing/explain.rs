//! `tollgate route`: which route a payment would take, and why.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tollgate_plugins::payment::{Currency, Method, Money, provider_number};

use super::{Question, Route, choose};
use crate::config::{self, Snapshot};
use crate::output::say;

/// Of more routes nobody reads why each was passed over.
const MANY: usize = 100;

/// A payment that nobody makes.
#[derive(Args, Clone, Debug)]
pub struct RouteArgs {
    /// Whose payment
    #[arg(long)]
    merchant: String,
    /// As in wechat.native
    #[arg(long)]
    method: String,
    /// In the currency's minor unit
    #[arg(long)]
    amount: u64,
    /// ISO 4217
    #[arg(long, default_value = "CNY")]
    currency: String,
    /// A channel that the request names
    #[arg(long)]
    channel: Option<String>,
    /// A note in the request's metadata, as in tier=gold; several
    #[arg(long, value_name = "NAME=TEXT")]
    metadata: Vec<String>,
    /// When; now unless it is given, as in 2026-12-24T22:00:00+08:00
    #[arg(long)]
    at: Option<Timestamp>,
    /// The order's id, by which weights are shared out
    #[arg(long, default_value = "example")]
    order: String,
}

/// Reads the configuration and prints which channels the payment would come to.
pub fn run(conf: &Path, arguments: &RouteArgs) -> Result<(), String> {
    let snapshot = config::file::load(conf, None).map_err(|mistakes| {
        let lines: String = mistakes.iter().map(|mistake| format!("\n{mistake}")).collect();
        format!("the configuration has mistakes:{lines}")
    })?;
    if !snapshot.merchants.contains_key(&arguments.merchant) {
        let names: Vec<&str> = snapshot.merchants.keys().map(String::as_str).collect();
        return Err(format!("there is no merchant `{}`; there are {}", arguments.merchant, names.join(", ")));
    }
    let method = Method::parse(&arguments.method);
    let method = method.ok_or_else(|| {
        let known: std::collections::BTreeSet<_> = Method::all().map(|known| known.as_str()).collect();
        let known: Vec<_> = known.into_iter().collect();
        format!("`{}` is no method; there are {}", arguments.method, known.join(", "))
    })?;
    let currency = Currency::parse(&arguments.currency);
    let currency = currency.ok_or_else(|| format!("`{}` is no currency; give one as in CNY", arguments.currency))?;
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

/// One line for each route up to the one that is taken, then the channels. Where there are very many, those that want another
/// merchant, method or note are counted only.
fn explain(snapshot: &Snapshot, question: &Question<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let result = choose(snapshot, question);
    let near: Option<BTreeSet<usize>> =
        (snapshot.routes.len() > MANY).then(|| snapshot.routes.places(question).collect());
    if let Some(near) = &near {
        let others = snapshot.routes.len() - near.len();
        lines.push(format!("{others} routes want another merchant, method or note in the metadata"));
    }
    for (count, route) in snapshot.routes.iter().enumerate() {
        if near.as_ref().is_some_and(|near| !near.contains(&count)) {
            continue;
        }
        let verdict = verdict(snapshot, route, question);
        let is_taken = verdict.is_none();
        let verdict = verdict.unwrap_or_else(|| "taken".to_owned());
        let is_last = is_taken && (question.pinned.is_none() || route.answer.is_some());
        lines.push(format!("route {:<4} to {:<30} {verdict}", count + 1, targets(route)));
        if is_last {
            break;
        }
    }
    match result {
        Ok(channels) => {
            for (count, channel) in channels.iter().enumerate() {
                let place = if count == 0 { "first" } else { "when nothing was sent before" };
                lines.push(format!("channel    {:<33} {place} ({})", channel.name, channel.account()));
            }
        }
        Err(none) => lines.push(format!("no channel: {none}")),
    }
    lines
}

/// Why the route is not taken.
fn verdict(snapshot: &Snapshot, route: &Route, question: &Question<'_>) -> Option<String> {
    if let Some(refusal) = route.wanted.refusal(question) {
        return Some(format!("passed over: {refusal}"));
    }
    if route.answer.is_some() {
        return None;
    }
    if let Some(pinned) = question.pinned.filter(|pinned| !route.names(pinned)) {
        return Some(format!("passed over: it does not lead to `{pinned}`"));
    }
    match super::channels(snapshot, route, question) {
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
