//! Traffic and faults of the scripted hour, in their order.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::hour::{Hour, ROUTES};
use crate::duplicate_payment::{create_on_first_channel, sandbox_order, set_first_host};
use crate::harness::{
    OTHER, SHOP, World, WorldOptions, force_breaker, free_address, payment_body, signed_request, signed_request_async,
    until,
};

/// Code that no table of the provider contains.
const NEW_CODE: &str = "SOMETHING_NEW";

impl Hour {
    /// 16 minutes of payments, refunds, queries, asynchronous requests, a stream, and errors of callers and payers.
    pub(super) async fn healthy_traffic(&mut self) {
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
    }

    /// Scrapes while a reader follows the order, then pays it.
    async fn watch_until_paid(&mut self, order: &str) {
        let (listen, target) = (self.world.gateway.listen, format!("/v1/payments/{order}/events"));
        let reader =
            tokio::spawn(async move { signed_request(listen, &SHOP, "GET", &target, None, &Value::Null).await });
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

    /// Sends more incomplete notifications than the gateway waits for, and an incomplete head.
    async fn reject_load(&self) {
        let mut connections = Vec::new();
        for _ in 0..12 {
            let mut connection = TcpStream::connect(self.world.gateway.listen).await.unwrap();
            let head = b"POST /notify/main HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{";
            connection.write_all(head).await.unwrap();
            connections.push(connection);
        }
        self.world.until_metric("tollgate_requests_shed_total{kind=\"notification\"}").await;
        let mut connection = TcpStream::connect(self.world.gateway.listen).await.unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        self.world.until_metric("tollgate_connections_closed_total{").await;
    }

    /// 18 minutes without notifications, in which webhooks fail and the files are broken for a while.
    pub(super) async fn notifications_and_deliveries_stop(&mut self) {
        self.world.receiver.answer_with(500);
        self.expect("NotificationsSilent", "page");
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
    pub(super) async fn provider_fails(&mut self) {
        for severity in ["page", "ticket"] {
            self.expect("ErrorBudgetBurn", severity);
        }
        self.expect("BreakerOpen", "ticket");
        let main = channel_account(self.world.conf(), "main");
        let new_code =
            json!({"operation": "create", "fault": "status", "status": 403, "code": NEW_CODE, "mchid": main});
        self.world.inject_fault(new_code).await;
        self.create(202).await;
        self.world.until_metric("tollgate_unlisted_refusals_total{").await;
        let fails = json!({"operation": "create", "fault": "status", "status": 500, "mchid": main, "times": 1000});
        self.world.inject_fault(fails).await;
        let open = "tollgate_breaker_state{channel=\"main\",operation=\"pay\"} 2";
        // The breaker opens during the third scrape interval.
        while !self.world.metrics().await.contains(open) {
            for _ in 0..8 {
                let order = self.next_order();
                let answer = self.world.create(&order, &order).await;
                assert!([201, 202].contains(&answer.status), "{:?}", answer.body);
            }
            self.step().await;
        }
        for _ in 0..12 {
            self.create(201).await;
            self.step().await;
        }
        self.world.sandbox_control("DELETE", "/faults", Value::Null).await;
        force_breaker(&self.world.gateway, "closed").await;
        self.world.receiver.answer_with(204);
    }

    pub(super) async fn second_gateway_joins_with_other_files(&mut self) {
        let ledger =
            format!("path = \"../data\"\n[cache]\nkind = \"redis\"\nurl = \"plain:redis://{}\"", self.redis.address);
        self.second = Some(World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await);
        self.expect("ConfigDiffers", "ticket");
    }

    /// A payment moves to the fallback, and its payer pays on both channels.
    pub(super) async fn first_channel_becomes_unreachable_and_is_paid_twice(&mut self) {
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
    pub(super) async fn provider_names_other_amounts(&mut self) {
        self.expect("Mismatch", "page");
        let order = self.create(201).await;
        self.pay_silently("shop", &order).await;
        let number = World::provider_order_no(&order);
        self.world.inject_fault(json!({"operation": "query", "fault": "other_amount", "number": number})).await;
        self.query(&SHOP, &order).await;
        let mismatch = "tollgate_provider_requests_total{channel=\"backup\",operation=\"query\",result=\"mismatch\"} 1";
        self.world.until_metric(mismatch).await;
        let target = format!("/orders/{number}/notify");
        self.world.sandbox_control("POST", &target, json!({"tamper": "account"})).await;
        self.world.until_metric("tollgate_notifications_unusable_total{channel=\"backup\"").await;
        self.minutes(7).await;
    }

    pub(super) async fn redis_and_the_second_gateway_die(&mut self) {
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
    pub(super) async fn disk_is_full(&mut self) {
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
    pub(super) async fn outcome_and_job_get_old(&mut self) {
        self.restart().await;
        self.world.inject_fault(json!({"operation": "create", "fault": "cut_after"})).await;
        self.world
            .inject_fault(json!({"operation": "query", "fault": "status", "status": 500, "times": 1_000_000}))
            .await;
        self.create(202).await;
        self.world.inject_fault(json!({"fault": "refuse_connection", "times": 1_000_000})).await;
        // Without its open connections.
        self.restart().await;
        let (order, listen) = (self.next_order(), self.world.gateway.listen);
        assert_eq!(signed_request_async(listen, "/v1/payments", &order, &payment_body(&order)).await.status, 202);
        self.world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"requeued\"}").await;
        self.step().await;
        self.expect("PaymentUnknownTooLong", "page");
        self.expect("QueueOld", "ticket");
        // Those of the merchant whose webhook refuses connections.
        self.expect("DeliveryLag", "ticket");
        self.world.gateway.clock_ahead = 20 * 60;
        self.restart().await;
        // The next attempt is seconds away, so every scrape finds the job in the queue.
        self.world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"requeued\"} 4").await;
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
