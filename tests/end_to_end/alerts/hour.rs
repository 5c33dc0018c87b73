//! A scripted hour of traffic and faults, scraped every 30 seconds of it and loaded into Prometheus.
//!
//! The hour passes in as many scrapes, not in real time. Only the gateway's own ages need a clock that is ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::prometheus::Prometheus;
use super::recording::{Recording, SCRAPE_INTERVAL};
use super::{RULES, directory, metric_names, read};
use crate::dashboard::{dashboard, targets};
use crate::duplicate_payment::{create_on_first_channel, sandbox_order, set_first_host};
use crate::harness::{
    OTHER, SHOP, World, WorldOptions, force_breaker, free_address, payment_body, send, signed_headers, signed_request,
    signed_request_async, until, write_merchant,
};
use crate::redis::Redis;

/// Range of a rate in a panel: Grafana's `$__rate_interval` for this scrape interval.
const RATE_INTERVAL: &str = "2m";
/// Code that no table of the provider contains.
const NEW_CODE: &str = "SOMETHING_NEW";

/// Routes whose first channel has a fallback.
const ROUTES: &str = "double_payment = \"flag\"\n[[route]]\nto = [{ channel = \"main\" }]\nfallback = [\"backup\"]\n";

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
        let gone: Vec<_> = metric_names(text).into_iter().filter(|name| !names.contains(name)).collect();
        assert!(gone.is_empty(), "no gateway has these metrics: {gone:?}");
    }
    let prometheus = Prometheus::with_samples(&recording.finish(), &directory().join(RULES)).await;
    let mut empty = Vec::new();
    for target in targets(&dashboard) {
        let query = rendered(&target.query);
        let results = prometheus.evaluate(&query, recording.range(), SCRAPE_INTERVAL).await;
        let is_filled = results.iter().any(|series| series.samples.iter().any(|(_, value)| value.is_finite()));
        if !is_filled {
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
    let fired_names: BTreeSet<_> = fired.keys().collect();
    assert_eq!(fired_names, expected.keys().collect(), "{fired:#?}");
    for (alert, since) in &expected {
        let at = fired[alert];
        assert!(at >= *since, "{alert:?} fired {at} s after the start, before its fault at {since} s");
    }
}

/// Returns the query as Grafana sends it with all variables set to "All".
fn rendered(query: &str) -> String {
    let query = query.replace("$__rate_interval", RATE_INTERVAL);
    let query = query.replace("$job", ".+").replace("$instance", ".+").replace("$channel", ".*").replace("$merchant", ".*");
    assert!(!query.contains('$'), "unknown variable: {query}");
    query
}

/// The gateways of the hour, what was scraped, and which alerts the faults must fire.
struct Hour {
    world: World,
    second: Option<World>,
    redis: Redis,
    recording: Recording,
    orders: u32,
    /// Alerts by name and severity, with the seconds from the start of the hour to their fault.
    expected: BTreeMap<(String, String), i64>,
}

impl Hour {
    async fn start() -> Self {
        let options = WorldOptions {
            channels: vec!["main", "backup"],
            edit: add_adaptive_limit,
            server: "max_in_flight = 16",
            ..WorldOptions::default()
        };
        let world = World::with(options).await;
        std::fs::write(world.conf().join("routes.toml"), ROUTES).unwrap();
        // Nobody listens there.
        write_merchant(world.conf(), "other", &OTHER, &format!("http://{}/", free_address()));
        assert_eq!(world.reload().await.status, 200);
        world.until_probed().await;
        let redis = Redis::start().await;
        Self { world, second: None, redis, recording: Recording::new(), orders: 10, expected: BTreeMap::new() }
    }

    /// Scrapes every gateway, then half a minute passes.
    async fn step(&mut self) {
        let gateways = [("a", Some(&self.world)), ("b", self.second.as_ref())];
        for (instance, world) in gateways.into_iter().filter_map(|(name, world)| Some((name, world?))) {
            let url = format!("http://{}/metrics", world.gateway.admin);
            let answer = send("GET", &url, &[], b"").await.ok().filter(|answer| answer.status == 200);
            let page = answer.map(|answer| String::from_utf8(answer.body.to_vec()).unwrap());
            self.recording.add(instance, page.as_deref());
        }
        self.recording.advance();
    }

    async fn minutes(&mut self, count: i64) {
        for _ in 0..count * 60 / SCRAPE_INTERVAL {
            self.step().await;
        }
    }

    /// Expects an alert because of a fault that begins now.
    fn expect(&mut self, alert: &str, severity: &str) {
        let since = self.recording.now - self.recording.start;
        self.expected.insert((format!("Tollgate{alert}"), severity.to_owned()), since);
    }

    fn next_order(&mut self) -> String {
        self.orders += 1;
        format!("o-{}", self.orders)
    }

    /// Creates a payment of the merchant `shop`, which must be answered with this status.
    async fn create(&mut self, status: u16) -> String {
        let order = self.next_order();
        let answer = self.world.create(&order, &order).await;
        assert_eq!(answer.status, status, "{order}: {:?}", answer.body);
        order
    }

    /// Pays an order of this merchant at the provider, which notifies nobody.
    async fn pay_silently(&self, merchant: &str, order: &str) {
        let number = tollgate_harness::merchant::provider_number(&[merchant, order]);
        let body = json!({"notify": false});
        let paid = self.world.sandbox_control("POST", &format!("/orders/{number}/pay"), body).await;
        assert_eq!(paid["state"], "SUCCESS", "{paid}");
    }

    /// Asks the provider about an order, past the cache.
    async fn query(&self, merchant: &crate::harness::Merchant, order: &str) -> Value {
        let target = format!("/v1/payments/{order}");
        let mut headers = signed_headers(merchant, "GET", &target, b"");
        headers.push(("cache-control", "no-cache".to_owned()));
        send("GET", &format!("http://{}{target}", self.world.gateway.listen), &headers, b"").await.unwrap().json()
    }

    async fn restart(&mut self) {
        self.world.gateway.kill();
        self.world.start().await;
    }

    /// 16 minutes of payments, refunds, queries, asynchronous requests, a stream, and errors of callers and payers.
    async fn healthy_traffic(&mut self) {
        for step in 0..32 {
            let order = self.create(201).await;
            if step == 3 {
                self.watch_until_paid(&order).await;
            } else {
                self.world.pay(&order).await;
            }
            self.world.receiver.until(&order, "payment.succeeded").await;
            self.world.payment(&order).await;
            self.world.payment(&order).await;
            self.world.payment("unknown").await;
            if step % 8 == 1 {
                self.refund(&order).await;
                let async_order = self.next_order();
                let body = payment_body(&async_order);
                let listen = self.world.gateway.listen;
                let accepted = signed_request_async(listen, "/v1/payments", &async_order, &body).await;
                assert_eq!(accepted.status, 202, "{:?}", accepted.body);
                self.world.receiver.until(&async_order, "payment.pending").await;
                let decline = json!({"operation": "create", "fault": "status", "status": 400, "code": "PARAM_ERROR"});
                self.world.inject_fault(decline).await;
                self.create(402).await;
            }
            self.step().await;
        }
        self.reject_load().await;
        assert!(self.expected.is_empty());
    }

    /// Scrapes while a reader follows the order, then pays it.
    async fn watch_until_paid(&mut self, order: &str) {
        let (listen, target) = (self.world.gateway.listen, format!("/v1/payments/{order}/events"));
        let reader = tokio::spawn(async move { signed_request(listen, &SHOP, "GET", &target, None, &Value::Null).await });
        self.world.until_metric("tollgate_streams{kind=\"sse\"} 1").await;
        self.step().await;
        self.world.pay(order).await;
        assert_eq!(reader.await.unwrap().status, 200);
        self.world.until_metric("tollgate_streams_total{").await;
    }

    async fn refund(&self, order: &str) {
        let body = json!({"refund_id": format!("r-{order}"), "amount": {"value": 100, "currency": "CNY"}});
        let target = format!("/v1/payments/{order}/refunds");
        let answer = self.world.signed_request("POST", &target, Some(&format!("refund-{order}")), &body).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
    }

    /// Sends more incomplete notifications than the gateway waits for.
    async fn reject_load(&self) {
        let mut connections = Vec::new();
        for _ in 0..12 {
            let mut connection = TcpStream::connect(self.world.gateway.listen).await.unwrap();
            let head = b"POST /notify/main HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{";
            connection.write_all(head).await.unwrap();
            connections.push(connection);
        }
        self.world.until_metric("tollgate_requests_shed_total{kind=\"notification\"}").await;
    }

    /// 18 minutes without notifications, in which webhooks fail and the files are broken for a while.
    async fn notifications_and_deliveries_stop(&mut self) {
        self.world.receiver.answer_with(500);
        self.expect("NotificationsSilent", "page");
        self.expect("DeliveryLag", "ticket");
        self.expect("SinkFailing", "ticket");
        for step in 0..36 {
            let order = self.create(201).await;
            if step < 4 {
                self.pay_silently("shop", &order).await;
                assert_eq!(self.query(&SHOP, &order).await["status"], "succeeded");
                self.world.receiver.until(&order, "payment.succeeded").await;
                self.event_of_other_merchant().await;
            }
            if step == 6 {
                std::fs::write(self.world.conf().join("routes.toml"), "no TOML").unwrap();
                assert_eq!(self.world.reload().await.status, 422);
                self.expect("ReloadFailed", "ticket");
            }
            if step == 20 {
                std::fs::write(self.world.conf().join("routes.toml"), ROUTES).unwrap();
                assert_eq!(self.world.reload().await.status, 200);
            }
            self.step().await;
        }
    }

    /// Makes an event for the merchant whose webhook refuses connections, and waits until its delivery failed.
    async fn event_of_other_merchant(&mut self) {
        let (order, listen) = (self.next_order(), self.world.gateway.listen);
        let before = failed_deliveries(&self.world.metrics().await);
        let body = payment_body(&order);
        assert_eq!(signed_request(listen, &OTHER, "POST", "/v1/payments", Some(&order), &body).await.status, 201);
        self.pay_silently("other", &order).await;
        assert_eq!(self.query(&OTHER, &order).await["status"], "succeeded");
        let world = &self.world;
        until("the delivery failed", || async {
            let page = world.metrics().await;
            (failed_deliveries(&page) > before).then_some(()).ok_or(page)
        })
        .await;
    }

    /// The provider answers payments with errors, until the breaker opens and the fallback takes over.
    async fn provider_fails(&mut self) {
        for severity in ["page", "ticket"] {
            self.expect("ErrorBudgetBurn", severity);
        }
        self.expect("BreakerOpen", "ticket");
        let main = channel_account(self.world.conf(), "main");
        let new_code = json!({"operation": "create", "fault": "status", "status": 403, "code": NEW_CODE, "mchid": main});
        self.world.inject_fault(new_code).await;
        self.create(202).await;
        self.world.until_metric("tollgate_unlisted_refusals_total{").await;
        let fails = json!({"operation": "create", "fault": "status", "status": 500, "mchid": main, "times": 1000});
        self.world.inject_fault(fails).await;
        let open = "tollgate_breaker_state{channel=\"main\",operation=\"pay\"} 2";
        while !self.world.metrics().await.contains(open) {
            let order = self.next_order();
            let answer = self.world.create(&order, &order).await;
            assert!([201, 202].contains(&answer.status), "{:?}", answer.body);
        }
        for _ in 0..12 {
            self.create(201).await;
            self.step().await;
        }
        self.world.sandbox_control("DELETE", "/faults", Value::Null).await;
        force_breaker(&self.world.gateway, "closed").await;
        self.world.receiver.answer_with(204);
    }

    async fn second_gateway_joins_with_other_files(&mut self) {
        let ledger = format!(
            "path = \"../data\"\n[cache]\nkind = \"redis\"\nurl = \"plain:redis://{}\"",
            self.redis.address
        );
        self.second = Some(World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await);
        self.expect("ConfigDiffers", "ticket");
    }

    /// A payment moves to the fallback, and its payer pays on both channels.
    async fn first_channel_becomes_unreachable_and_is_paid_twice(&mut self) {
        set_first_host(self.world.conf(), free_address());
        assert_eq!(self.world.reload().await.status, 200);
        self.world.until_probed().await;
        self.expect("ProbeFailed", "ticket");
        assert_eq!(self.world.create("o-1", "k-1").await.json()["channel"], "backup");
        self.step().await;
        create_on_first_channel(&self.world).await;
        sandbox_order(&self.world, "main", "/pay").await;
        self.expect("DoublePayment", "page");
        self.expect("ManualReview", "page");
        self.world.until_metric("tollgate_double_payments_total{channel=\"main\"} 1").await;
        self.world.until_metric("tollgate_manual_review_total{channel=\"main\"} 1").await;
        self.minutes(2).await;
    }

    /// A query and a notification of the fallback name another amount and account.
    async fn provider_names_other_amounts(&mut self) {
        self.expect("Mismatch", "page");
        let order = self.create(201).await;
        self.world.inject_fault(json!({"operation": "query", "fault": "other_amount"})).await;
        self.query(&SHOP, &order).await;
        let mismatch = "tollgate_provider_requests_total{channel=\"backup\",operation=\"query\",result=\"mismatch\"} 1";
        self.world.until_metric(mismatch).await;
        self.pay_silently("shop", &order).await;
        let target = format!("/orders/{}/notify", World::provider_order_no(&order));
        self.world.sandbox_control("POST", &target, json!({"tamper": "account"})).await;
        self.world.until_metric("tollgate_notifications_unusable_total{channel=\"backup\"").await;
        self.minutes(7).await;
    }

    async fn redis_and_the_second_gateway_die(&mut self) {
        self.redis.kill();
        self.second.as_ref().unwrap().until_metric("tollgate_cache_ready 0").await;
        self.expect("CacheUnavailable", "page");
        self.minutes(2).await;
        self.second.as_mut().unwrap().gateway.kill();
        self.expect("Down", "page");
        self.minutes(3).await;
        self.second = None;
    }

    /// The gateway restarts with more `min_free_disk` than the disk has, and with room for few nonces, which a merchant fills.
    async fn disk_is_full(&mut self) {
        self.expect("LedgerFull", "page");
        let file = self.world.conf().join("tollgate.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let full = text.replace("[ledger]\n", "[ledger]\nmin_free_disk = \"8000000GiB\"\n");
        std::fs::write(&file, format!("{full}[cache]\nnonces = 1000\n")).unwrap();
        self.restart().await;
        self.world.until_metric("tollgate_ledger_accepts_writes 0").await;
        let listen = self.world.gateway.listen;
        while signed_request(listen, &OTHER, "GET", "/v1/payments/unknown", None, &Value::Null).await.status != 503 {}
        self.minutes(2).await;
        std::fs::write(&file, text).unwrap();
    }

    /// A payment stays unknown and a job stays queued while no provider is reachable. The gateway's clock then is 20 minutes
    /// ahead.
    async fn outcome_and_job_get_old(&mut self) {
        self.restart().await;
        self.world.inject_fault(json!({"operation": "create", "fault": "cut_after"})).await;
        self.world.inject_fault(json!({"operation": "query", "fault": "status", "status": 500, "times": 1_000_000})).await;
        self.create(202).await;
        self.restart().await;
        self.world.inject_fault(json!({"fault": "refuse_connection", "times": 1_000_000})).await;
        let (order, listen) = (self.next_order(), self.world.gateway.listen);
        assert_eq!(signed_request_async(listen, "/v1/payments", &order, &payment_body(&order)).await.status, 202);
        self.world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"requeued\"}").await;
        self.step().await;
        self.expect("PaymentUnknownTooLong", "page");
        self.expect("QueueOld", "ticket");
        self.world.gateway.clock_ahead = 20 * 60;
        self.restart().await;
        self.minutes(7).await;
    }
}

/// Returns how many deliveries to the merchant `other` failed.
fn failed_deliveries(page: &str) -> u64 {
    let series = "tollgate_deliveries_total{merchant=\"other\",result=\"failed\",sink=\"webhook\"} ";
    page.lines().find_map(|line| line.strip_prefix(series)).map_or(0, |count| count.parse().unwrap())
}

/// Returns the provider's number of a channel's account.
fn channel_account(conf: &Path, channel: &str) -> String {
    let text = std::fs::read_to_string(conf.join(format!("channels/{channel}.toml"))).unwrap();
    text.split_once("mchid = \"").and_then(|(_, rest)| rest.split_once('"')).unwrap().0.to_owned()
}

fn add_adaptive_limit(conf: &Path, _: SocketAddr) {
    for channel in ["main", "backup"] {
        let file = conf.join(format!("channels/{channel}.toml"));
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}\n[[filter]]\nuse = \"adaptive\"\n")).unwrap();
    }
}
