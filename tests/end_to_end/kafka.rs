//! Events in Kafka: a real broker, and a consumer that shares no code with the gateway. Only with the feature `kafka`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{SHOP, World, until, write_merchant};
use crate::kafka_broker::{KafkaBroker, event_of};

/// Returns a `[[sink]]` table whose topic has the sink's name, with further lines.
fn sink(broker: &KafkaBroker, name: &str, more: &str) -> String {
    let brokers = format!("[\"127.0.0.1:{}\"]", broker.port);
    format!("[[sink]]\nname = \"{name}\"\nkind = \"kafka\"\nbrokers = {brokers}\ntopic = \"{name}\"\n{more}\n")
}

/// Returns a world whose merchant `shop` has these sinks beside its webhook.
async fn world_with(sinks: &str) -> World {
    let world = World::new().await;
    set_sinks(&world, sinks);
    assert_eq!(world.reload().await.status, 200);
    world
}

fn set_sinks(world: &World, sinks: &str) {
    write_merchant(world.conf(), "shop", &SHOP, &world.receiver.url());
    let file = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n{sinks}")).unwrap();
}

async fn create_and_pay(world: &World, order: &str) {
    assert_eq!(world.create(order, order).await.status, 201);
    world.pay(order).await;
}

/// Waits for a failed attempt for a sink, whose reason contains the text. Returns the event's id.
async fn until_undelivered(world: &World, order: &str, sink: &str, why: &str) -> String {
    until(&format!("{order} undelivered to {sink}: {why}"), || async {
        let explained: Value = serde_json::from_str(&world.explain_json(order).await).unwrap();
        let entries = explained[0]["entries"].as_array().cloned().unwrap_or_default();
        let found = entries.iter().find(|entry| {
            let reason = entry["why"].as_str().unwrap_or_default();
            entry["what"] == "undelivered" && entry["sink"] == sink && reason.contains(why)
        });
        found.map(|entry| entry["id"].as_str().unwrap().to_owned()).ok_or(explained)
    })
    .await
}

async fn until_waiting(world: &World, sink: &str, count: usize) {
    world.until_metric(&format!("tollgate_delivery_queue_depth{{sink=\"{sink}\"}} {count}\n")).await;
}

fn types(messages: &[Value]) -> Vec<String> {
    messages.iter().map(|message| event_of(message)["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn event_arrives_in_kafka_with_key_headers_and_value() {
    let broker = KafkaBroker::shared().await;
    broker.topic("binary").await;
    broker.topic("structured").await;
    let world =
        world_with(&(sink(broker, "binary", "") + &sink(broker, "structured", "format = \"structured\""))).await;
    create_and_pay(&world, "o-1").await;
    let messages = broker.until("binary", "o-1", "payment.succeeded").await;
    let webhook = world.receiver.until("o-1", "payment.succeeded").await;
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(message["value"].as_str().unwrap().as_bytes(), &webhook.body[..]);
    assert_eq!(message["key"], "shop/o-1");
    let event = webhook.json();
    let headers = json!({
        "ce_specversion": "1.0",
        "ce_id": webhook.id,
        "ce_source": "/tollgate/local/shop",
        "ce_type": "payment.succeeded",
        "ce_time": event["created_at"],
        "ce_subject": "o-1",
        "ce_partitionkey": "shop/o-1",
        "content-type": "application/json",
    });
    assert_eq!(message["headers"], headers);

    let messages = broker.until("structured", "o-1", "payment.succeeded").await;
    assert_eq!(messages[0]["headers"], json!({"content-type": "application/cloudevents+json; charset=UTF-8"}));
    let structured: Value = serde_json::from_str(messages[0]["value"].as_str().unwrap()).unwrap();
    assert_eq!((&structured["id"], &structured["data"]), (&json!(webhook.id), &event));
    assert_eq!((&structured["partitionkey"], &structured["specversion"]), (&json!("shop/o-1"), &json!("1.0")));

    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    let messages = broker.until("binary", "o-1", "refund.succeeded").await;
    assert_eq!(types(&messages), ["payment.succeeded", "refund.succeeded"], "one key, one partition, in order");
    assert_eq!(messages[0]["partition"], messages[1]["partition"]);
    world.until_metric("tollgate_deliveries_total{merchant=\"shop\",result=\"delivered\",sink=\"binary\"} 2").await;
    until_waiting(&world, "structured", 0).await;
}

#[tokio::test]
async fn many_events_arrive_once_each_and_in_order_per_payment() {
    let broker = KafkaBroker::shared().await;
    broker.topic("many").await;
    let world = world_with(&sink(broker, "many", "")).await;
    let orders: Vec<String> = (0..30).map(|number| format!("o-{number}")).collect();
    for order in &orders {
        create_and_pay(&world, order).await;
        world.receiver.until(order, "payment.succeeded").await;
        let refund = json!({"refund_id": order, "amount": {"value": 300, "currency": "CNY"}});
        let target = format!("/v1/payments/{order}/refunds");
        let made = world.signed_request("POST", &target, Some(&format!("r-{order}")), &refund).await;
        assert_eq!(made.status, 201, "{order}");
    }
    for order in &orders {
        let messages = broker.until("many", order, "refund.succeeded").await;
        assert_eq!(types(&messages), ["payment.succeeded", "refund.succeeded"], "{order}");
    }
}

/// The broker has the message, but its confirmation is lost with the connection. An idempotent producer sends it again, and the
/// broker recognizes it.
#[tokio::test]
async fn lost_confirmation_makes_no_second_message() {
    let broker = KafkaBroker::start(json!({})).await;
    broker.topic("lost").await;
    let world = world_with(&sink(&broker, "lost", "")).await;
    create_and_pay(&world, "o-1").await;
    broker.until("lost", "o-1", "payment.succeeded").await;
    broker.command("lose 1").await;
    create_and_pay(&world, "o-2").await;
    until_waiting(&world, "lost", 0).await;
    let messages = broker.until("lost", "o-2", "payment.succeeded").await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    broker.command("cut").await;
    create_and_pay(&world, "o-3").await;
    broker.until("lost", "o-3", "payment.succeeded").await;
}

/// The brokers' restart itself is tested with the library's simulated cluster, because this broker would come back empty.
#[tokio::test]
async fn unreachable_broker_delays_no_webhook_and_gets_each_event_once_when_it_is_back() {
    let broker = KafkaBroker::start(json!({})).await;
    broker.topic("away").await;
    let world = world_with(&sink(&broker, "away", "")).await;
    create_and_pay(&world, "o-1").await;
    broker.until("away", "o-1", "payment.succeeded").await;
    broker.command("away").await;
    for number in 2..8 {
        create_and_pay(&world, &format!("o-{number}")).await;
    }
    world.receiver.until("o-7", "payment.succeeded").await;
    let event = until_undelivered(&world, "o-2", "away", &format!("127.0.0.1:{}: ", broker.port)).await;
    until_waiting(&world, "away", 6).await;
    broker.command("back").await;
    until_waiting(&world, "away", 0).await;
    for number in 2..8 {
        let messages = broker.until("away", &format!("o-{number}"), "payment.succeeded").await;
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(number != 2 || messages[0]["headers"]["ce_id"] == event.as_str(), "{messages:?}");
    }
    let attempts = |result: &str| format!("{{merchant=\"shop\",result=\"{result}\",sink=\"away\"}}");
    let metrics = world.metrics().await;
    assert!(metrics.contains(&attempts("deferred")), "{metrics}");
    assert!(!metrics.contains(&attempts("failed")), "no attempt counts while the broker is away: {metrics}");
}

#[tokio::test]
async fn frozen_broker_gets_the_event_with_the_same_id_once_it_answers() {
    let broker = KafkaBroker::start(json!({})).await;
    broker.topic("frozen").await;
    let world = world_with(&sink(&broker, "frozen", "")).await;
    create_and_pay(&world, "o-1").await;
    broker.until("frozen", "o-1", "payment.succeeded").await;
    broker.command("freeze").await;
    create_and_pay(&world, "o-2").await;
    let event = until_undelivered(&world, "o-2", "frozen", "Message timed out").await;
    broker.command("thaw").await;
    until_waiting(&world, "frozen", 0).await;
    let messages = broker.until("frozen", "o-2", "payment.succeeded").await;
    assert!(messages.iter().all(|message| message["headers"]["ce_id"] == event.as_str()), "{messages:?}");
}

#[tokio::test]
async fn removed_sink_leaves_no_thread_behind() {
    let broker = KafkaBroker::shared().await;
    broker.topic("removed").await;
    let world = world_with(&sink(broker, "removed", "")).await;
    create_and_pay(&world, "o-1").await;
    broker.until("removed", "o-1", "payment.succeeded").await;
    let of_library = || {
        let mut threads = world.gateway.threads();
        threads.retain(|name| ["rdk:", "producer poll", "kafka-close"].iter().any(|start| name.starts_with(start)));
        threads
    };
    assert!(of_library().iter().any(|name| name == "rdk:main"), "{:?}", of_library());
    set_sinks(&world, "");
    assert_eq!(world.reload().await.status, 200);
    until("the library's threads end", || async {
        let threads = of_library();
        if threads.is_empty() { Ok(()) } else { Err(format!("{threads:?}")) }
    })
    .await;
}

/// Certificate and key in a directory: PEM files for this name.
fn certificate(directory: &tempfile::TempDir, file: &str, name: &str) -> [PathBuf; 2] {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let [certificate, key] = ["pem", "key"].map(|kind| directory.path().join(format!("{file}.{kind}")));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    [certificate, key]
}

#[tokio::test]
async fn broker_with_another_certificate_gets_no_event() {
    let files = tempfile::tempdir().unwrap();
    let (theirs, other) = (certificate(&files, "theirs", "localhost"), certificate(&files, "other", "localhost"));
    let options = json!({"certificate": theirs[0], "key": theirs[1], "host": "localhost"});
    let broker = KafkaBroker::start(options).await;
    let names = ["trusted", "wrong", "public", "named"];
    for name in names {
        broker.topic(name).await;
    }
    let by_name = |text: String| text.replace("127.0.0.1", "localhost");
    let ca = |file: &PathBuf| format!("tls = true\nca = \"{}\"", file.display());
    let sinks = [
        by_name(sink(&broker, "trusted", &ca(&theirs[0]))),
        by_name(sink(&broker, "wrong", &ca(&other[0]))),
        by_name(sink(&broker, "public", "tls = true")),
        // The certificate is for another name than that of the address.
        sink(&broker, "named", &ca(&theirs[0])),
    ];
    let world = world_with(&sinks.concat()).await;
    create_and_pay(&world, "o-1").await;
    broker.until("trusted", "o-1", "payment.succeeded").await;
    for name in &names[1..] {
        until_undelivered(&world, "o-1", name, "TLS with 127.0.0.1").await;
        assert!(broker.messages(name).await.is_empty());
    }
    let (out, err) = world.check_probe().await;
    assert!(out.contains("shop trusted: reached"), "{out}");
    assert!(err.contains("shop.toml: the sink `wrong`:") && err.contains("TLS with 127.0.0.1"), "{err}");
}

#[tokio::test]
async fn login_by_each_mechanism_works_and_a_wrong_password_gets_no_event() {
    let files = tempfile::tempdir().unwrap();
    let [certificate, key] = certificate(&files, "broker", "localhost");
    for (mechanism, name) in
        [("PLAIN", "plain"), ("SCRAM-SHA-256", "scram-sha-256"), ("SCRAM-SHA-512", "scram-sha-512")]
    {
        let options = json!({
            "certificate": certificate, "key": key, "host": "localhost",
            "users": {"pay": "pa,ss=w0rd"}, "mechanism": mechanism,
        });
        let broker = KafkaBroker::start(options).await;
        for topic in ["right", "wrong", "other", "none"] {
            broker.topic(topic).await;
        }
        let tls = format!("tls = true\nca = \"{}\"\n", certificate.display());
        let login = |mechanism: &str, password: &str| {
            format!("{tls}sasl = {{ mechanism = \"{mechanism}\", user = \"pay\", password = \"plain:{password}\" }}")
        };
        let other = if name == "plain" { "scram-sha-256" } else { "plain" };
        let sinks = [
            sink(&broker, "right", &login(name, "pa,ss=w0rd")),
            sink(&broker, "wrong", &login(name, "hunter2-hunter2")),
            sink(&broker, "other", &login(other, "pa,ss=w0rd")),
            sink(&broker, "none", &tls),
        ];
        let world = world_with(&sinks.concat().replace("127.0.0.1", "localhost")).await;
        create_and_pay(&world, "o-1").await;
        broker.until("right", "o-1", "payment.succeeded").await;
        until_undelivered(&world, "o-1", "wrong", "the broker refused the login").await;
        until_undelivered(&world, "o-1", "other", "does not support the SASL mechanism").await;
        until_undelivered(&world, "o-1", "none", "the connection to the broker failed").await;
        for topic in ["wrong", "other", "none"] {
            assert!(broker.messages(topic).await.is_empty(), "{topic}");
        }
        let outputs = [world.log(), world.metrics().await, world.explain_json("o-1").await];
        assert!(outputs.iter().all(|text| !text.contains("hunter2") && !text.contains("w0rd")), "passwords are secret");
    }
}

#[tokio::test]
async fn unreachable_cluster_rejects_no_reload_and_delays_no_webhook() {
    let closed = crate::wait::free_address();
    let dead = format!(
        "[[sink]]\nname = \"dead\"\nkind = \"kafka\"\nbrokers = [\"{closed}\"]\ntopic = \"x\"\n\
         sasl = {{ mechanism = \"plain\", user = \"u\", password = \"plain:hunter2-hunter2\" }}\n"
    );
    let world = world_with(&dead).await;
    for number in 0..20 {
        create_and_pay(&world, &format!("o-{number}")).await;
    }
    for number in 0..20 {
        world.receiver.until(&format!("o-{number}"), "payment.succeeded").await;
    }
    world.until_logged("the sink cannot be reached").await;
    until_waiting(&world, "dead", 20).await;
    until_undelivered(&world, "o-0", "dead", "cannot connect to").await;
    let outputs = [world.log(), world.metrics().await, world.explain_json("o-0").await];
    assert!(outputs.iter().all(|text| !text.contains("hunter2")), "the password is secret");
}
