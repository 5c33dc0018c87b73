//! Reconciliation of the run: client logs, provider records and received events are compared, and the report is
//! printed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client_log::ClientLog;
use super::counts::FaultCounts;
use super::environment::ChaosEnvironment;
use super::event_audit::audit_events;
use super::event_books::{EVENT_MISMATCHES, EventReport};
use super::judge::{MISMATCHES, OrderVerdict, compare_order};
use super::pull_reader::PullReader;
use super::scan::ScanOutcome;
use crate::Printer;

/// Maximum time from the last request until every order is settled: several not-found graces and the third attempt of
/// a delivery.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(480);
/// Number of orders that are compared concurrently.
const MAX_CONCURRENT_COMPARISONS: usize = 32;

/// Result of the reconciliation.
pub(super) struct Report {
    payments: usize,
    requests: u64,
    aborted: u64,
    async_operations: u64,
    faults: BTreeMap<&'static str, u64>,
    methods: BTreeMap<&'static str, u64>,
    scans: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<String, u64>,
    max_create_requests: u64,
    executions: u64,
    max_executions: u64,
    paid: u64,
    /// Number of reversals, of reversals of charged orders, and of the latter after the gateway had reported success.
    reversals: [u64; 3],
    refunds: u64,
    console_refunds: usize,
    /// Mismatches that remained at the end, by type.
    unsettled: BTreeMap<&'static str, u64>,
    errors: Vec<String>,
    receiver: (usize, u64),
    events: EventReport,
    settled_after: Duration,
    events_settled_after: Duration,
    /// Duration of the first comparison of all orders, and the number of orders that were unsettled after it.
    first_comparison: (Duration, usize),
    /// Mismatches of the last comparison that was not final.
    last_unsettled: BTreeSet<&'static str>,
}

impl Report {
    /// Compares order by order, and then sink by sink, until all records agree or [`SETTLE_TIMEOUT`] is over. `reader` has
    /// pulled the events of the run.
    pub(super) async fn reconcile(
        environment: &Arc<ChaosEnvironment>,
        logs: Vec<ClientLog>,
        reader: PullReader,
    ) -> Self {
        let start = Instant::now();
        let mut report = Self::from_logs(&logs);
        let mut remaining: Vec<Arc<ClientLog>> = logs.into_iter().map(Arc::new).collect();
        loop {
            let is_last = start.elapsed() > SETTLE_TIMEOUT;
            let mut unsettled = Vec::new();
            for (log, verdict) in compare_orders(environment, remaining).await {
                let is_done = verdict.unsettled.is_empty() || !verdict.errors.is_empty();
                match verdict.unsettled.first() {
                    Some(kind) if !is_done && !is_last => unsettled.push((log, *kind)),
                    _ => report.add(&log, verdict),
                }
            }
            if report.first_comparison.0.is_zero() {
                report.first_comparison = (start.elapsed(), unsettled.len());
            }
            if unsettled.is_empty() {
                break;
            }
            report.last_unsettled = unsettled.iter().map(|(_, kind)| *kind).collect();
            remaining = unsettled.into_iter().map(|(log, _)| log).collect();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        report.settled_after = start.elapsed();
        report.events = audit_events(environment, reader, start + SETTLE_TIMEOUT).await;
        report.events_settled_after = start.elapsed();
        report.receiver = environment.receiver.counts();
        report
    }

    fn from_logs(logs: &[ClientLog]) -> Self {
        let mut report = Self {
            payments: logs.len(),
            requests: logs.iter().map(|log| log.requests).sum(),
            aborted: logs.iter().map(|log| log.aborted).sum(),
            async_operations: logs.iter().map(|log| log.async_operations).sum(),
            faults: BTreeMap::new(),
            methods: BTreeMap::new(),
            scans: BTreeMap::new(),
            statuses: BTreeMap::new(),
            max_create_requests: 0,
            executions: 0,
            max_executions: 0,
            paid: 0,
            reversals: [0; 3],
            refunds: 0,
            console_refunds: logs.iter().filter(|log| log.console_refund.is_some()).count(),
            unsettled: BTreeMap::new(),
            errors: Vec::new(),
            receiver: (0, 0),
            events: EventReport::default(),
            settled_after: Duration::ZERO,
            events_settled_after: Duration::ZERO,
            first_comparison: (Duration::ZERO, 0),
            last_unsettled: BTreeSet::new(),
        };
        for log in logs {
            *report.methods.entry(log.pay_method.method).or_default() += 1;
            if let Some(scan) = log.scan.map(ScanOutcome::name) {
                *report.scans.entry(scan).or_default() += 1;
            }
            for fault in &log.faults {
                *report.faults.entry(fault).or_default() += 1;
            }
        }
        report
    }

    fn add(&mut self, log: &ClientLog, verdict: OrderVerdict) {
        *self.statuses.entry(verdict.status).or_default() += 1;
        self.max_create_requests = self.max_create_requests.max(verdict.create_requests);
        self.executions += verdict.executions;
        self.max_executions = self.max_executions.max(verdict.executions);
        self.paid += u64::from(verdict.paid);
        self.refunds += verdict.refunds;
        let reversed = [verdict.reversals, u64::from(verdict.reversed_charge), u64::from(verdict.reversed_late)];
        self.reversals.iter_mut().zip(reversed).for_each(|(sum, count)| *sum += count);
        for mismatch in verdict.unsettled {
            *self.unsettled.entry(mismatch).or_default() += 1;
            self.errors.push(format!("{}: {mismatch}", log.order));
        }
        self.errors.extend(verdict.errors.into_iter().map(|error| format!("{}: {error}", log.order)));
    }

    /// Returns whether all records agree and no order was executed twice.
    pub(super) fn agrees(&self) -> bool {
        self.errors.is_empty() && self.events.errors.is_empty() && self.max_executions <= 1
    }

    pub(super) fn print(&self, duration: Duration, injected: &[(String, FaultCounts)], print: Printer) {
        let line = |name: &str, value: String| print(format_args!("{name:<34} {value}"));
        let list = |counts: &mut dyn Iterator<Item = (String, u64)>| {
            counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let named = |counts: &BTreeMap<&'static str, u64>| {
            list(&mut counts.iter().map(|(name, count)| ((*name).to_owned(), *count)))
        };
        let rate = self.payments as f64 / duration.as_secs_f64();
        line(
            "payments",
            format!("{} in {:.1} s ({rate:.0}/s): {}", self.payments, duration.as_secs_f64(), named(&self.methods)),
        );
        line("scanned codes", named(&self.scans));
        line(
            "client requests",
            format!("{}, aborted {}; respond-async operations {}", self.requests, self.aborted, self.async_operations),
        );
        line("provider faults", named(&self.faults));
        for (name, counts) in injected {
            line(name, named(counts));
        }
        let (rejected, duplicates) = self.receiver;
        line("webhook receiver", format!("rejected {rejected} events once, received {duplicates} duplicates"));
        line("final status", list(&mut self.statuses.iter().map(|(name, count)| (name.clone(), *count))));
        let sinks =
            self.events.sinks.iter().map(|(sink, events, more)| format!("; {sink} {events} and {more} repeated"));
        let (pulled, after) = (self.events.events, self.events_settled_after.as_secs_f64());
        line("events", format!("pulled {pulled}{}; complete after {after:.1} s", sinks.collect::<String>()));
        let (first, unsettled) = self.first_comparison;
        let (settled, first) = (self.settled_after.as_secs_f64(), first.as_secs_f64());
        let last = self.last_unsettled.iter().copied().collect::<Vec<_>>().join(", ");
        line("settled after", format!("{settled:.1} s; settled last: {last}"));
        line("first comparison", format!("{first:.1} s,  {unsettled} orders unsettled"));
        let (executions, max, requests) = (self.executions, self.max_executions, self.max_create_requests);
        line(
            "provider executions",
            format!("{executions}, at most {max} per order; at most {requests} create requests per order"),
        );
        line("paid, refunded, console refunds", format!("{}, {}, {}", self.paid, self.refunds, self.console_refunds));
        let [reversals, charged, late] = self.reversals;
        line(
            "reversed scanned codes",
            format!("{reversals}, of them {charged} after a charge, of these {late} after reported success"),
        );
        for mismatch in MISMATCHES {
            line(mismatch, self.unsettled.get(mismatch).copied().unwrap_or(0).to_string());
        }
        for mismatch in EVENT_MISMATCHES {
            line(mismatch, self.events.mismatches.get(mismatch).copied().unwrap_or(0).to_string());
        }
        for error in self.errors.iter().take(20).chain(self.events.errors.iter().take(20)) {
            print(format_args!("ERROR  {error}"));
        }
        print(format_args!("{}", if self.agrees() { "the records agree" } else { "THE RECORDS DO NOT AGREE" }));
    }
}

async fn compare_orders(
    environment: &Arc<ChaosEnvironment>,
    logs: Vec<Arc<ClientLog>>,
) -> Vec<(Arc<ClientLog>, OrderVerdict)> {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_COMPARISONS));
    let mut tasks = JoinSet::new();
    for log in logs {
        let (environment, permits) = (Arc::clone(environment), Arc::clone(&permits));
        tasks.spawn(async move {
            let _permit = permits.acquire().await;
            let verdict = compare_order(&environment, &log).await.unwrap_or_else(OrderVerdict::no_response);
            (log, verdict)
        });
    }
    tasks.join_all().await
}
