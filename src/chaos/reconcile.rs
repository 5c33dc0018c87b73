//! The three books: what clients were told, what the providers executed, what events were delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::ClientLog;
use super::environment::World;
use super::judge::{Verdict, WRONG, judge};
use super::process_faults::Counts;
use super::till::Scan;
use crate::output::say;

/// How long after the last request everything must be known: a few settle windows, and an event's third try.
const SETTLED: Duration = Duration::from_secs(480);
/// How many orders are looked at at once.
const AT_ONCE: usize = 32;

/// The reconciliation.
pub(super) struct Report {
    payments: usize,
    requests: u64,
    hung_up: u64,
    left: u64,
    faults: BTreeMap<&'static str, u64>,
    methods: BTreeMap<&'static str, u64>,
    scans: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<String, u64>,
    most_sent: u64,
    executions: u64,
    most_executions: u64,
    paid: u64,
    /// Reversals, those of what was charged, and of these the ones that came after the gateway called it succeeded.
    reversals: [u64; 3],
    refunds: u64,
    console_refunds: usize,
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
    pub(super) async fn reconcile(world: &Arc<World>, stories: Vec<ClientLog>) -> Self {
        let start = Instant::now();
        let mut report = Self::of(&stories);
        let mut waiting: Vec<Arc<ClientLog>> = stories.into_iter().map(Arc::new).collect();
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

    fn of(stories: &[ClientLog]) -> Self {
        let mut report = Self {
            payments: stories.len(),
            requests: stories.iter().map(|story| story.requests).sum(),
            hung_up: stories.iter().map(|story| story.hung_up).sum(),
            left: stories.iter().map(|story| story.left).sum(),
            faults: BTreeMap::new(),
            methods: BTreeMap::new(),
            scans: BTreeMap::new(),
            statuses: BTreeMap::new(),
            most_sent: 0,
            executions: 0,
            most_executions: 0,
            paid: 0,
            reversals: [0; 3],
            refunds: 0,
            console_refunds: stories.iter().filter(|story| story.console_refund.is_some()).count(),
            open: BTreeMap::new(),
            wrong: Vec::new(),
            receiver: (0, 0),
            settled_after: Duration::ZERO,
            first_comparison: (Duration::ZERO, 0),
            last_open: BTreeSet::new(),
        };
        for story in stories {
            *report.methods.entry(story.way.method).or_default() += 1;
            if let Some(scan) = story.scan.map(Scan::name) {
                *report.scans.entry(scan).or_default() += 1;
            }
            for fault in &story.faults {
                *report.faults.entry(fault).or_default() += 1;
            }
        }
        report
    }

    fn add(&mut self, story: &ClientLog, verdict: Verdict) {
        *self.statuses.entry(verdict.status).or_default() += 1;
        self.most_sent = self.most_sent.max(verdict.sent);
        self.executions += verdict.executions;
        self.most_executions = self.most_executions.max(verdict.executions);
        self.paid += u64::from(verdict.paid);
        self.refunds += verdict.refunds;
        let reversed = [verdict.reversals, u64::from(verdict.reversed_charge), u64::from(verdict.reversed_late)];
        self.reversals.iter_mut().zip(reversed).for_each(|(sum, count)| *sum += count);
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
        line("scanned codes", named(&self.scans));
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
        line("paid, refunded, in the console", format!("{}, {}, {}", self.paid, self.refunds, self.console_refunds));
        let [reversals, charged, late] = self.reversals;
        line(
            "reversed scanned codes",
            format!("{reversals}, {charged} of them charged and given back, {late} of these told succeeded before"),
        );
        for (name, kind) in WRONG {
            line(name, self.open.get(kind).copied().unwrap_or(0).to_string());
        }
        for wrong in self.wrong.iter().take(20) {
            say!("WRONG  {wrong}");
        }
        say!("{}", if self.is_right() { "the books agree" } else { "THE BOOKS DO NOT AGREE" });
    }
}

async fn judged(world: &Arc<World>, stories: Vec<Arc<ClientLog>>) -> Vec<(Arc<ClientLog>, Verdict)> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for story in stories {
        let (world, places) = (Arc::clone(world), Arc::clone(&places));
        tasks.spawn(async move {
            let _place = places.acquire().await;
            let verdict = judge(&world, &story).await.unwrap_or_else(Verdict::unanswered);
            (story, verdict)
        });
    }
    tasks.join_all().await
}
