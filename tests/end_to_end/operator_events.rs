//! Events for the operator: each type is triggered for real and received by a webhook and by RabbitMQ.

mod outage;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_harness::merchant::provider_number;

use crate::breaker::{eager, inject_failures, until_accepted};
use crate::duplicate_payment::set_first_host;
use crate::harness::{WEBHOOK_SECRET, World, WorldOptions, free_address, until};
use crate::rabbitmq::RabbitMq;
use crate::receiver::{Received, Receiver};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// World with a receiver of operator events.
struct Watched {
    world: World,
    operator: Receiver,
}

/// Returns the table of a webhook of the operator, with further lines.
fn webhook(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"{url}\"\nsecrets = [\"plain:{WEBHOOK_SECRET}\"]\n{more}\n"
    )
}

/// Replaces the operator's sinks, without a reload.
fn write_sinks(world: &World, sinks: &str) {
    let file = world.conf().join("tollgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (kept, _) = text.split_once("[[sink]]").unwrap_or((&text, ""));
    std::fs::write(&file, format!("{kept}{sinks}")).unwrap();
}

/// Replaces the operator's sinks and puts them in force.
async fn set_sinks(world: &World, sinks: &str) {
    write_sinks(world, sinks);
    let answer = world.reload().await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

impl Watched {
    async fn new(options: WorldOptions, more: &str) -> Self {
        let (world, operator) = (World::with(options).await, Receiver::start().await);
        set_sinks(&world, &(webhook("ops", &operator.url(), "") + more)).await;
        Self { world, operator }
    }

    /// Waits for an event of this type that passes the check, and returns it.
    async fn until_event(&self, event_type: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the operator gets {event_type}"), || async {
            let events = received(&self.operator);
            let found = events.iter().find(|event| event["type"] == event_type && is_it(&event["data"])).cloned();
            found.ok_or(Value::from(events))
        })
        .await
    }

    async fn until_type(&self, event_type: &str) -> Value {
        let event = self.until_event(event_type, |_| true).await;
        for field in ["cause", "advice"] {
            assert!(event["data"][field].as_str().is_some_and(|text| text.len() > 10), "{field}: {event}");
        }
        event
    }
}

fn received(operator: &Receiver) -> Vec<Value> {
    operator.events.lock().iter().map(Received::json).collect()
}

fn count_of(operator: &Receiver, event_type: &str) -> usize {
    received(operator).iter().filter(|event| event["type"] == event_type).count()
}

/// Takes messages out of a queue of operator events until one has this type, and returns it.
async fn until_message(broker: &RabbitMq, queue: &str, event_type: &str) -> Value {
    until(&format!("{event_type} in {queue}"), || async {
        let taken = broker.take(queue).await;
        taken.iter().find(|message| message["type"] == event_type).cloned().ok_or(Value::from(taken))
    })
    .await
}

#[tokio::test]
async fn breaker_probe_and_reload_events_reach_webhook_and_rabbitmq() {
    let broker = RabbitMq::shared().await;
    broker.bind("alerts-mq", "alerts", "#").await;
    let url = format!("amqp://guest:guest@127.0.0.1:{}", broker.port);
    let mq = format!(
        "[[sink]]\nname = \"alerts\"\nkind = \"rabbitmq\"\nurl = \"plain:{url}\"\nexchange = \"alerts-mq\"\n\
         routing_key = \"{{type}}.{{channel}}\"\nevents = [\"channel.*\", \"config.rejected\"]\n"
    );
    let watched = Watched::new(WorldOptions { edit: eager, ..WorldOptions::default() }, &mq).await;
    let world = &watched.world;
    // The reload that added the sinks.
    let applied = watched.until_type("config.applied").await;
    assert_eq!((&applied["data"]["generation"], &applied["cluster"]), (&json!(2), &json!("local")), "{applied}");
    assert!(applied["data"]["changed"][0].as_str().unwrap().contains("sink"), "{applied}");
    assert!(applied["node"].as_str().unwrap().ends_with(&format!(":{}", world.gateway.listen.port())), "{applied}");

    inject_failures(world, 3).await;
    for order in ["o-1", "o-2"] {
        assert_eq!(world.create(order, order).await.json()["status"], "unknown");
    }
    let opened = watched.until_type("channel.breaker_opened").await;
    let data = &opened["data"];
    assert_eq!((&data["channel"], &data["operation"]), (&json!("main"), &json!("pay")), "{opened}");
    assert_eq!(data["cause"], "2 of 2 calls failed within 60s: 2 HTTP 500", "{opened}");
    let message = until_message(broker, "alerts", "channel.breaker_opened").await;
    assert_eq!(
        (&message["message_id"], &message["routing_key"]),
        (&opened["id"], &json!("channel.breaker_opened.main"))
    );
    let headers = &message["headers"];
    assert_eq!((&headers["ce_source"], &headers["ce_subject"]), (&json!("/tollgate/local/operator"), &json!("main")));
    assert_eq!(serde_json::from_str::<Value>(message["body"].as_str().unwrap()).unwrap(), opened);
    until_accepted(world, "after").await;
    watched.until_type("channel.breaker_closed").await;

    let routes = world.conf().join("routes.toml");
    let good = std::fs::read_to_string(&routes).unwrap();
    std::fs::write(&routes, format!("{good}[[route]]\ntoo = 1\n")).unwrap();
    assert_eq!(world.reload().await.status, 422);
    let rejected = watched.until_type("config.rejected").await;
    let data = &rejected["data"];
    assert!(data["file"].as_str().unwrap().ends_with("routes.toml"), "{rejected}");
    assert_eq!((&data["line"], &data["generation"]), (&json!(3), &json!(2)), "{rejected}");
    assert_eq!(until_message(broker, "alerts", "config.rejected").await["routing_key"], "config.rejected.");
    std::fs::write(&routes, &good).unwrap();

    set_first_host(world.conf(), free_address());
    assert_eq!(world.reload().await.status, 200);
    let failed = watched.until_type("channel.probe_failed").await;
    assert_eq!(failed["data"]["channel"], "main", "{failed}");
    assert!(failed["data"]["host"].as_str().is_some_and(|host| host.contains(':')), "{failed}");
    watched.until_event("config.applied", |data| data["generation"] == 3).await;

    let json_type = [("content-type", "application/json".to_owned())];
    assert_eq!(world.admin_request("POST", "/rollback?to=2", &json_type).await.status, 200);
    let back = watched.until_type("config.rolled_back").await;
    assert_eq!(back["data"]["generation"], 4, "{back}");
    assert!(back["data"]["cause"].as_str().unwrap().contains("Generation 3 was rolled back"), "{back}");
    let text = received(&watched.operator).iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains("guest:guest") && !text.contains("whsec_"), "no secrets: {text}");
}

/// Makes a payment each second until an operator event reports the failing webhook, which takes half a minute.
async fn until_failing(watched: &Watched) -> Value {
    let number = AtomicU32::new(0);
    until("the operator gets delivery.failing", || async {
        let order = format!("failing-{}", number.fetch_add(1, Ordering::Relaxed));
        assert_eq!(watched.world.create(&order, &order).await.status, 201);
        watched.world.pay(&order).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let events = received(&watched.operator);
        let failing = events.iter().find(|event| event["type"] == "delivery.failing").cloned();
        failing.ok_or(Value::from(events))
    })
    .await
}

#[tokio::test]
async fn failing_sink_is_reported_after_half_a_minute_and_its_recovery_once() {
    let watched = Watched::new(WorldOptions::default(), "").await;
    let world = &watched.world;
    world.receiver.answer_with(500);
    for number in 0..8 {
        let order = format!("o-{number}");
        assert_eq!(world.create(&order, &order).await.status, 201);
        world.pay(&order).await;
    }
    let failing = until_failing(&watched).await;
    let data = &failing["data"];
    assert_eq!((&data["merchant"], &data["sink"]), (&json!("shop"), &json!("webhook")), "{failing}");
    assert_eq!(data["cause"], "it answered 500", "{failing}");
    world.receiver.answer_with(204);
    // The first events have failed twice; their next attempt is due in five minutes.
    assert_eq!(world.admin_request("POST", "/merchants/shop/sinks/webhook/retry", &[]).await.status, 200);
    let recovered = watched.until_type("delivery.recovered").await;
    assert_eq!(recovered["data"]["sink"], "webhook", "{recovered}");
    for number in 0..8 {
        let order = format!("o-{number}");
        until(&format!("{order} is delivered"), || async {
            let events = world.receiver.events_of(&order);
            if events.iter().any(|event| event.answered == 204) { Ok(()) } else { Err(format!("{events:?}")) }
        })
        .await;
    }
    assert_eq!(
        [count_of(&watched.operator, "delivery.failing"), count_of(&watched.operator, "delivery.recovered")],
        [1, 1]
    );
}

#[tokio::test]
async fn event_that_is_given_up_is_reported_with_its_ids() {
    let ledger = Some("path = \"../data\"".to_owned());
    let mut watched = Watched::new(WorldOptions { ledger, ..WorldOptions::default() }, "").await;
    watched.world.receiver.answer_with(500);
    watched.world.create("o-1", "o-1").await;
    watched.world.pay("o-1").await;
    let event = watched.world.receiver.until("o-1", "payment.succeeded").await;
    // Each restart is later than the next attempt is due: 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h, each +10 %.
    for pause in [6, 330, 1980, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR] {
        let attempts = watched.world.receiver.events_of("o-1").len();
        watched
            .world
            .until_metric("tollgate_deliveries_total{merchant=\"shop\",result=\"failed\",sink=\"webhook\"} 1")
            .await;
        watched.world.gateway.kill();
        watched.world.gateway.clock_ahead += pause * 12 / 10;
        watched.world.start().await;
        until("another attempt is made", || async {
            let now = watched.world.receiver.events_of("o-1").len();
            if now > attempts { Ok(()) } else { Err(now) }
        })
        .await;
    }
    let exhausted = watched.until_type("delivery.exhausted").await;
    let data = &exhausted["data"];
    assert_eq!(
        (&data["merchant"], &data["sink"], &data["order_id"]),
        (&json!("shop"), &json!("webhook"), &json!("o-1"))
    );
    assert_eq!((&data["event_id"], &data["cause"]), (&json!(event.id), &json!("it answered 500")), "{exhausted}");
}

#[tokio::test]
async fn manual_review_is_reported_with_the_refund_and_expiring_certificates_with_days_left() {
    let options =
        WorldOptions { refunds_wait: true, ledger: Some("path = \"../data\"".to_owned()), ..WorldOptions::default() };
    let mut watched = Watched::new(options, "").await;
    let world = &watched.world;
    world.create("o-1", "k-1").await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    let path = format!("/refunds/{}/finish", provider_number(&["shop", "o-1", "r-1"]));
    world.sandbox_control("POST", &path, json!({"status": "ABNORMAL"})).await;
    let review = watched.until_type("payment.manual_review").await;
    let data = &review["data"];
    let ids = ["channel", "merchant", "order_id", "refund_id"].map(|id| data[id].as_str().unwrap_or_default());
    assert_eq!(ids, ["main", "shop", "o-1", "r-1"], "{review}");
    assert_eq!(count_of(&watched.operator, "certificate.expiring"), 0);
    // The sandbox's certificates are valid for five years.
    watched.world.gateway.kill();
    watched.world.gateway.clock_ahead = 5 * 365 * DAY - 20 * DAY;
    watched.world.start().await;
    let expiring = watched.until_event("certificate.expiring", |data| data["channel"] == "main").await;
    let days = expiring["data"]["days_left"].as_i64().unwrap();
    assert!((18..=23).contains(&days), "{expiring}");
    let count = count_of(&watched.operator, "certificate.expiring");
    // A restart emits it again, with the same id.
    watched.world.gateway.kill();
    watched.world.start().await;
    until("the certificate events are emitted again", || async {
        let now = count_of(&watched.operator, "certificate.expiring");
        if now >= 2 * count { Ok(()) } else { Err(now) }
    })
    .await;
    let again = received(&watched.operator);
    let ids = again.iter().filter(|event| event["data"] == expiring["data"]).map(|event| event["id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), [expiring["id"].clone(), expiring["id"].clone()]);
}
