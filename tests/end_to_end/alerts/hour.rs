//! A scripted hour of traffic and faults, scraped every 30 seconds of it and loaded into Prometheus.
//!
//! The hour passes in as many scrapes, not in real time. Only the gateway's own ages need a clock that is ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::prometheus::Prometheus;
use super::recording::{Recording, SCRAPE_INTERVAL};
use super::{RULES, directory, metric_names, read};
use crate::dashboard::{dashboard, targets};
use crate::harness::{
    Merchant, OTHER, WEBHOOK_SECRET, World, WorldOptions, free_address, send, signed_headers, write_merchant,
};
use crate::redis::Redis;

/// Range of a rate in a panel: Grafana's `$__rate_interval` for this scrape interval.
const RATE_INTERVAL: &str = "2m";
/// Metric that a gateway has after ten minutes of real time, once it may purge. A test below compares its name.
const LATE: &str = "tollgate_ledger_oldest_seconds";
/// Routes whose first channel has a fallback.
pub(super) const ROUTES: &str =
    "double_payment = \"flag\"\n[[route]]\nto = [{ channel = \"main\" }]\nfallback = [\"backup\"]\n";

#[tokio::test]
async fn scripted_hour_fills_every_panel_and_its_faults_fire_exactly_their_alerts() {
    let mut hour = Hour::start().await;
    hour.healthy_traffic().await;
    hour.notifications_and_deliveries_stop().await;
    hour.provider_fails().await;
    hour.second_gateway_joins_with_other_files().await;
    hour.first_channel_becomes_unreachable_and_is_paid_twice().await;
    hour.provider_names_other_amounts().await;
    hour.redis_and_the_second_gateway_die().await;
    hour.disk_is_full().await;
    hour.outcome_and_job_get_old().await;

    let Hour { recording, expected, .. } = hour;
    let names = recording.names();
    let (rules, dashboard) = (read(RULES), dashboard());
    for text in [&rules, &dashboard.to_string()] {
        let gone: Vec<_> =
            metric_names(text).into_iter().filter(|name| !names.contains(name) && *name != LATE).collect();
        assert!(gone.is_empty(), "no gateway has these metrics: {gone:?}");
    }
    let prometheus = Prometheus::with_samples(&recording.finish(), &directory().join(RULES)).await;
    let mut empty = Vec::new();
    for target in targets(&dashboard) {
        let query = rendered(&target.query);
        let results = prometheus.evaluate(&query, recording.range(), SCRAPE_INTERVAL).await;
        let is_filled = results.iter().flatten().any(|(_, value)| value.is_finite());
        if !is_filled && !query.contains(LATE) {
            empty.push(format!("{}: {query}", target.panel));
        }
    }
    assert!(empty.is_empty(), "these panels are empty: {empty:#?}");

    let mut fired: BTreeMap<_, i64> = BTreeMap::new();
    for rule in prometheus.rules().await {
        let results = prometheus.evaluate(&rule.query, recording.range(), SCRAPE_INTERVAL).await;
        if let Some(at) = rule.first_firing(&results, SCRAPE_INTERVAL) {
            fired.insert((rule.name, rule.severity), at - recording.start);
        }
    }
    // Other programs fill the machine's disk too, and the hour takes less than a minute.
    fired.remove(&("TollgateLedgerFull".to_owned(), "ticket".to_owned()));
    let fired_names: BTreeSet<_> = fired.keys().collect();
    assert_eq!(fired_names, expected.keys().collect(), "{fired:#?}");
    for (alert, since) in &expected {
        let at = fired[alert];
        assert!(at >= *since, "{alert:?} fired {at} s after the start, before its fault at {since} s");
    }
}

#[test]
fn late_metric_is_defined() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/telemetry/definitions.rs");
    let name = LATE.strip_prefix("tollgate_").unwrap();
    assert!(std::fs::read_to_string(file).unwrap().contains(&format!("Opts::new(\"{name}\"")));
}

/// Returns the query as Grafana sends it with all variables set to "All".
fn rendered(query: &str) -> String {
    let query = query.replace("$__rate_interval", RATE_INTERVAL);
    let query =
        query.replace("$job", ".+").replace("$instance", ".+").replace("$channel", ".*").replace("$merchant", ".*");
    assert!(!query.contains('$'), "unknown variable: {query}");
    query
}

/// The gateways of the hour, what was scraped, and which alerts the faults must fire.
pub(super) struct Hour {
    pub(super) world: World,
    pub(super) second: Option<World>,
    pub(super) redis: Redis,
    pub(super) recording: Recording,
    orders: u32,
    /// Alerts by name and severity, with the seconds from the start of the hour to their fault.
    expected: BTreeMap<(String, String), i64>,
}

impl Hour {
    async fn start() -> Self {
        let options = WorldOptions {
            channels: vec!["main", "backup"],
            edit: add_adaptive_limit,
            server: "max_in_flight = 16\nheader_timeout = \"5s\"",
            ..WorldOptions::default()
        };
        let world = World::with(options).await;
        std::fs::write(world.conf().join("routes.toml"), ROUTES).unwrap();
        // Nobody listens at the addresses of these webhooks.
        write_merchant(world.conf(), "other", &OTHER, &format!("http://{}/", free_address()));
        let file = world.conf().join("tollgate.toml");
        let sink = format!("[[sink]]\nname = \"ops\"\nkind = \"webhook\"\nurl = \"http://{}/\"\n", free_address());
        let sink = format!("{sink}secrets = [\"plain:{WEBHOOK_SECRET}\"]\n");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &sink).unwrap();
        assert_eq!(world.reload().await.status, 200);
        world.until_probed().await;
        let redis = Redis::start().await;
        Self { world, second: None, redis, recording: Recording::new(), orders: 10, expected: BTreeMap::new() }
    }

    /// Scrapes every gateway, then half a minute passes.
    pub(super) async fn step(&mut self) {
        let gateways = [("a", Some(&self.world)), ("b", self.second.as_ref())];
        for (instance, world) in gateways.into_iter().filter_map(|(name, world)| Some((name, world?))) {
            let url = format!("http://{}/metrics", world.gateway.admin);
            let answer = send("GET", &url, &[], b"").await.ok().filter(|answer| answer.status == 200);
            let page = answer.map(|answer| String::from_utf8(answer.body.to_vec()).unwrap());
            self.recording.add(instance, page.as_deref());
        }
        self.recording.advance();
    }

    pub(super) async fn minutes(&mut self, count: i64) {
        for _ in 0..count * 60 / SCRAPE_INTERVAL {
            self.step().await;
        }
    }

    /// Expects an alert because of a fault that begins now.
    pub(super) fn expect(&mut self, alert: &str, severity: &str) {
        let since = self.recording.now - self.recording.start;
        self.expected.insert((format!("Tollgate{alert}"), severity.to_owned()), since);
    }

    pub(super) fn next_order(&mut self) -> String {
        self.orders += 1;
        format!("o-{}", self.orders)
    }

    /// Creates a payment of the merchant `shop`, which must be answered with this status.
    pub(super) async fn create(&mut self, status: u16) -> String {
        let order = self.next_order();
        let answer = self.world.create(&order, &order).await;
        assert_eq!(answer.status, status, "{order}: {:?}", answer.body);
        order
    }

    /// Pays an order of this merchant at the provider, which notifies nobody.
    pub(super) async fn pay_silently(&self, merchant: &str, order: &str) {
        let number = tollgate_harness::merchant::provider_number(&[merchant, order]);
        let body = json!({"notify": false});
        let paid = self.world.sandbox_control("POST", &format!("/orders/{number}/pay"), body).await;
        assert_eq!(paid["state"], "SUCCESS", "{paid}");
    }

    /// Asks the provider about an order, past the cache.
    pub(super) async fn query(&self, merchant: &Merchant, order: &str) -> Value {
        let target = format!("/v1/payments/{order}");
        let mut headers = signed_headers(merchant, "GET", &target, b"");
        headers.push(("cache-control", "no-cache".to_owned()));
        send("GET", &format!("http://{}{target}", self.world.gateway.listen), &headers, b"").await.unwrap().json()
    }

    pub(super) async fn restart(&mut self) {
        self.world.gateway.kill();
        self.world.start().await;
    }
}

fn add_adaptive_limit(conf: &Path, _: SocketAddr) {
    for channel in ["main", "backup"] {
        let file = conf.join(format!("channels/{channel}.toml"));
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}\n[[filter]]\nuse = \"adaptive\"\n")).unwrap();
    }
}
