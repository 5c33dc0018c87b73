//! Redelivery to several sinks on several gateways, over a restart: a webhook, a RabbitMQ broker, and a broker that is dead.

use serde_json::Value;
use tollgate_harness::http_client::send;

use crate::events_pull::{pull_all, redeliver, until_received};
use crate::harness::{Gateway, SHOP, World, WorldOptions, until};
use crate::rabbitmq::RabbitMq;
use crate::server::Server;
use crate::wait::free_address;

/// Returns a `[[sink]]` table with an exchange of the same name.
fn sink(name: &str, broker: &str) -> String {
    let url = format!("plain:amqp://guest:guest@{broker}");
    format!("[[sink]]\nname = \"{name}\"\nkind = \"rabbitmq\"\nurl = \"{url}\"\nexchange = \"{name}\"\n")
}

/// Waits until a gateway's metrics contain this text.
async fn until_metric(gateway: &Gateway, line: &str) {
    until(line, || async {
        let answer = send("GET", &format!("http://{}/metrics", gateway.admin), &[], b"").await.unwrap();
        let metrics = String::from_utf8(answer.body.to_vec()).unwrap();
        metrics.contains(line).then_some(()).ok_or(metrics)
    })
    .await;
}

#[tokio::test]
async fn another_gateway_redelivers_to_every_sink_while_one_is_dead() {
    let broker = RabbitMq::shared().await;
    broker.bind("again-mq", "again", "#").await;
    let server = Server::start(&[]);
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
    let mut world = World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await;
    let file = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let sinks = sink("again-mq", &format!("127.0.0.1:{}", broker.port)) + &sink("dead-mq", &free_address().to_string());
    std::fs::write(&file, format!("{text}\n{sinks}")).unwrap();
    assert_eq!(world.reload().await.status, 200);
    let other = world.start_another("other").await;
    assert_eq!(world.create("o", "o").await.status, 201);
    world.pay("o").await;
    let event = world.receiver.until("o", "payment.succeeded").await;
    let message = broker.until("again", "o", "payment.succeeded").await.remove(0);
    assert_eq!(message["message_id"], event.id.as_str());
    for (name, count) in [("webhook", 0), ("again-mq", 0), ("dead-mq", 1)] {
        until_metric(&other, &format!("tollgate_delivery_queue_depth{{sink=\"{name}\"}} {count}\n")).await;
    }
    // The gateway that made the payment and delivered the event is gone.
    world.gateway.kill();
    let cursor = event.id.as_str();
    assert_eq!(pull_all(&other, None, 1).await, [cursor]);
    assert_eq!(redeliver(&other, &SHOP, cursor, Some("k")).await.status, 202);
    until_received(&world, "o", cursor, 2).await;
    let again = broker.until("again", "o", "payment.succeeded").await;
    assert!(again.iter().all(|again| again["message_id"] == cursor && again["body"] == message["body"]), "{again:?}");
    // The dead sink still has the event in its queue, once.
    until_metric(&other, "tollgate_delivery_queue_depth{sink=\"dead-mq\"} 1\n").await;
    let url = format!("http://{}/explain/o", other.admin);
    let explained: Value = send("GET", &url, &[], b"").await.unwrap().json();
    let entries = explained[0]["entries"].as_array().unwrap();
    let of = |what: &str| entries.iter().filter(|entry| entry["what"] == what).count();
    assert_eq!(of("redelivery_requested"), 1, "{explained}");
    // After its restart the first gateway knows the request and the cursor.
    world.start().await;
    let repeated = redeliver(&world.gateway, &SHOP, cursor, Some("k")).await;
    assert_eq!((repeated.status, repeated.is_replayed()), (202, true));
    assert_eq!(pull_all(&world.gateway, Some(cursor), 1).await, [""; 0]);
    assert_eq!(redeliver(&world.gateway, &SHOP, cursor, Some("k-2")).await.status, 202);
    until_received(&world, "o", cursor, 3).await;
    broker.until("again", "o", "payment.succeeded").await;
}
