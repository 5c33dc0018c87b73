//! The three books: what clients were told, what the providers executed, what events were delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::Story;
use super::disturb::Counts;
use super::world::{World, refund_number};
use crate::ledger::MAX_REPEATED_CREATES;
use crate::output::say;

/// How long after the last request everything must be known: a few settle windows, and an event's third try.
const SETTLED: Duration = Duration::from_secs(480);
/// How many orders are looked at at once.
const AT_ONCE: usize = 32;

/// What one order came to.
#[derive(Debug, Default)]
struct Verdict {
    status: String,
    /// How often the request that makes the order reached the provider.
    sent: u64,
    /// More often than the provider turned it away.
    sent_too_often: bool,
    executions: u64,
    paid: bool,
    refunds: u64,
    /// What is wrong now but may still become right.
    open: Vec<&'static str>,
    /// What is wrong for ever.
    wrong: Vec<String>,
}

/// The reconciliation.
pub(super) struct Report {
    payments: usize,
    requests: u64,
    hung_up: u64,
    left: u64,
    faults: BTreeMap<&'static str, u64>,
    methods: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<String, u64>,
    most_sent: u64,
    executions: u64,
    most_executions: u64,
    paid: u64,
    refunds: u64,
    open: BTreeMap<&'static str, u64>,
    wrong: Vec<String>,
    receiver: (usize, u64),
    settled_after: Duration,
    /// How long the first comparison of all orders took, and how many were open after it.
    first_comparison: (Duration, usize),
    /// What was open in the last comparison but one.
    last_open: BTreeSet<&'static str>,
}

impl Report {
    /// Compares the books order by order until they agree, or for as long as anything may take to settle.
    pub(super) async fn reconcile(world: &Arc<World>, stories: Vec<Story>) -> Self {
        let start = Instant::now();
        let mut report = Self::of(&stories);
        let mut waiting: Vec<Arc<Story>> = stories.into_iter().map(Arc::new).collect();
        loop {
            let last = start.elapsed() > SETTLED;
            let mut open = Vec::new();
            for (story, verdict) in judged(world, waiting).await {
                let is_done = verdict.open.is_empty() || !verdict.wrong.is_empty();
                match verdict.open.first() {
                    Some(kind) if !is_done && !last => open.push((story, *kind)),
                    _ => report.add(&story, verdict),
                }
            }
            if report.first_comparison.0.is_zero() {
                report.first_comparison = (start.elapsed(), open.len());
            }
            if open.is_empty() {
                break;
            }
            report.last_open = open.iter().map(|(_, kind)| *kind).collect();
            waiting = open.into_iter().map(|(story, _)| story).collect();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        report.receiver = world.receiver.counts();
        report.settled_after = start.elapsed();
        report
    }

    fn of(stories: &[Story]) -> Self {
        let mut report = Self {
            payments: stories.len(),
            requests: stories.iter().map(|story| story.requests).sum(),
            hung_up: stories.iter().map(|story| story.hung_up).sum(),
            left: stories.iter().map(|story| story.left).sum(),
            faults: BTreeMap::new(),
            methods: BTreeMap::new(),
            statuses: BTreeMap::new(),
            most_sent: 0,
            executions: 0,
            most_executions: 0,
            paid: 0,
            refunds: 0,
            open: BTreeMap::new(),
            wrong: Vec::new(),
            receiver: (0, 0),
            settled_after: Duration::ZERO,
            first_comparison: (Duration::ZERO, 0),
            last_open: BTreeSet::new(),
        };
        for story in stories {
            *report.methods.entry(story.method).or_default() += 1;
            for fault in &story.faults {
                *report.faults.entry(fault).or_default() += 1;
            }
        }
        report
    }

    fn add(&mut self, story: &Story, verdict: Verdict) {
        *self.statuses.entry(verdict.status).or_default() += 1;
        self.most_sent = self.most_sent.max(verdict.sent);
        self.executions += verdict.executions;
        self.most_executions = self.most_executions.max(verdict.executions);
        self.paid += u64::from(verdict.paid);
        self.refunds += verdict.refunds;
        for open in verdict.open {
            *self.open.entry(open).or_default() += 1;
            self.wrong.push(format!("{}: {open}", story.order));
        }
        self.wrong.extend(verdict.wrong.into_iter().map(|wrong| format!("{}: {wrong}", story.order)));
    }

    pub(super) fn is_right(&self) -> bool {
        self.wrong.is_empty() && self.most_executions <= 1
    }

    pub(super) fn print(&self, took: Duration, disturbed: &[(String, Counts)]) {
        let line = |name: &str, value: String| say!("{name:<34} {value}");
        let list = |counts: &mut dyn Iterator<Item = (String, u64)>| {
            counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let named = |counts: &BTreeMap<&'static str, u64>| {
            list(&mut counts.iter().map(|(name, count)| ((*name).to_owned(), *count)))
        };
        let rate = self.payments as f64 / took.as_secs_f64();
        line(
            "payments",
            format!("{} in {:.1} s ({rate:.0}/s): {}", self.payments, took.as_secs_f64(), named(&self.methods)),
        );
        line(
            "requests of clients",
            format!("{}, hung up {}, left to the queue {}", self.requests, self.hung_up, self.left),
        );
        line("faults at the providers", named(&self.faults));
        for (whom, counts) in disturbed {
            line(whom, named(counts));
        }
        let (refused, repeated) = self.receiver;
        line("the receiver", format!("refused {refused} events at first, got {repeated} again"));
        line("status at the end", list(&mut self.statuses.iter().map(|(name, count)| (name.clone(), *count))));
        let (first, open) = self.first_comparison;
        let (settled, first) = (self.settled_after.as_secs_f64(), first.as_secs_f64());
        let last = self.last_open.iter().copied().collect::<Vec<_>>().join(", ");
        line("settled after", format!("{settled:.1} s; last: {last}"));
        line("the first comparison", format!("took {first:.1} s and left {open} orders open"));
        let (executions, most, sent) = (self.executions, self.most_executions, self.most_sent);
        line(
            "provider executions",
            format!("{executions}, at most {most} an order; sent at most {sent} times, each but the last turned away"),
        );
        line("paid, refunded", format!("{}, {}", self.paid, self.refunds));
        for (name, kind) in WRONG {
            line(name, self.open.get(kind).copied().unwrap_or(0).to_string());
        }
        for wrong in self.wrong.iter().take(20) {
            say!("WRONG  {wrong}");
        }
        say!("{}", if self.is_right() { "the books agree" } else { "THE BOOKS DO NOT AGREE" });
    }
}

const NOT_PAID: &str = "told succeeded, but not paid";
const NO_EVENT: &str = "paid, but no event";
const UNKNOWN: &str = "still unknown";
const NOT_MADE: &str = "accepted, but not made";
const NOT_TOLD: &str = "paid, but not told succeeded";
const REFUND: &str = "a refund in two states";
const WRONG: [(&str, &str); 6] = [
    ("told succeeded but not paid", NOT_PAID),
    ("paid but not told so", NOT_TOLD),
    ("accepted but not made", NOT_MADE),
    ("paid but no event", NO_EVENT),
    ("still unknown", UNKNOWN),
    ("refunds in two states", REFUND),
];

async fn judged(world: &Arc<World>, stories: Vec<Arc<Story>>) -> Vec<(Arc<Story>, Verdict)> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for story in stories {
        let (world, places) = (Arc::clone(world), Arc::clone(&places));
        tasks.spawn(async move {
            let _place = places.acquire().await;
            let verdict = judge(&world, &story).await.unwrap_or_else(|why| {
                // A gateway may be coming back.
                Verdict { status: why, open: vec![UNKNOWN], ..Verdict::default() }
            });
            (story, verdict)
        });
    }
    tasks.join_all().await
}

/// Compares what the three books say of one order.
async fn judge(world: &World, story: &Story) -> Result<Verdict, String> {
    let order = &story.order;
    let (status, payment) = read(world, &format!("/v1/payments/{order}")).await?;
    let seen = world.seen(order).await?.unwrap_or_default();
    let heard = world.receiver.heard(order).kinds;
    let state = seen["state"].as_str().unwrap_or("NONE");
    let mut verdict = Verdict {
        status: if status == 404 { "never claimed".into() } else { payment["status"].as_str().unwrap_or("?").into() },
        sent: seen["arrivals"]["create"].as_u64().unwrap_or(0),
        executions: seen["executions"]["create"].as_u64().unwrap_or(0),
        paid: matches!(state, "SUCCESS" | "REFUND"),
        wrong: story.wrong.clone(),
        ..Verdict::default()
    };
    let told_succeeded =
        verdict.status == "succeeded" || story.told.iter().any(|(_, told)| told["status"] == "succeeded");
    let events = heard.iter().filter(|kind| *kind == "payment.succeeded").count();
    // Where the provider documents it, the identical create is repeated for a lost action.
    let repeats = if story.method.starts_with("unionpay") { 0 } else { u64::from(MAX_REPEATED_CREATES) };
    verdict.sent_too_often = verdict.sent > 1 + story.sent_again + repeats;
    if verdict.sent_too_often || verdict.executions > 1 {
        verdict.wrong.push(format!("sent {} times and executed {} times", verdict.sent, verdict.executions));
    }
    if (told_succeeded || events > 0) && !verdict.paid {
        verdict.open.push(NOT_PAID);
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
    if verdict.status == "unknown" {
        verdict.open.push(UNKNOWN);
    }
    if verdict.status == "pending" && payment["money_state"] == "not_sent" {
        verdict.open.push(NOT_MADE);
    }
    if status == 404 && story.told.iter().any(|(code, _)| *code < 400) {
        verdict.wrong.push("the gateway told of it and does not know it".to_owned());
    }
    if verdict.paid && payment["amount"]["value"] != story.amount {
        verdict.wrong.push(format!("another amount: {payment}"));
    }
    refunds(world, story, &seen, &payment, &mut verdict).await?;
    Ok(verdict)
}

/// What any gateway knows.
async fn read(world: &World, path: &str) -> Result<(u16, Value), String> {
    let door = rand::random_range(0..world.gateways.len());
    match world.ask(door, "GET", path, None, &Value::Null).await? {
        (status @ (200 | 404), record) => Ok((status, record)),
        (status, problem) => Err(format!("gateway {} answered {status} to {path}: {problem}", door + 1)),
    }
}

async fn refunds(
    world: &World,
    story: &Story,
    seen: &Value,
    payment: &Value,
    verdict: &mut Verdict,
) -> Result<(), String> {
    let mut sum = 0;
    for (name, amount, _) in &story.refunds {
        let path = format!("/v1/payments/{}/refunds/{name}", story.order);
        let (status, refund) = read(world, &path).await?;
        let theirs = &seen["refunds"][refund_number(&story.order, name)];
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
    let executed = seen["executions"]["refund"].as_u64().unwrap_or(0);
    if executed > story.refunds.len() as u64 {
        verdict.wrong.push(format!("{executed} refunds were executed, {} asked for", story.refunds.len()));
    }
    if !story.refunds.is_empty() && payment["refunded"] != sum {
        verdict.open.push(REFUND);
    }
    Ok(())
}
