//! Faults of a broker that last, and what an operator does about them.

use serde_json::{Value, json};

use crate::harness::World;
use crate::rabbitmq::{RabbitMq, order_of};
use crate::sinks::{create_and_pay, ids_of, set_sinks, sink, timeline, until_entry, until_waiting, world_with};

fn text(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}

/// Waits until the gateway, since its start, met the sink without a connection.
async fn until_deferred(world: &World, sink: &str) {
    world.until_metric(&format!("deliveries_total{{merchant=\"shop\",result=\"deferred\",sink=\"{sink}\"}}")).await;
}

async fn refund(world: &World, order: &str, refund: &str) {
    let body = json!({"refund_id": refund, "amount": {"value": 100, "currency": "CNY"}});
    let made = world.signed_request("POST", &format!("/v1/payments/{order}/refunds"), Some(refund), &body).await;
    assert_eq!(made.status, 201, "{:?}", text(&made.body));
}

#[tokio::test]
async fn broker_that_was_away_for_long_gets_its_events_once_it_is_back() {
    let broker = RabbitMq::start().await;
    broker.bind("orders-mq", "orders", "#").await;
    broker.command("stop").await;
    let mut world = world_with(&sink(&broker, "orders-mq", "")).await;
    create_and_pay(&world, "o-1").await;
    let event = until_entry(&world, "o-1", "undelivered", "orders-mq", "cannot connect").await;
    // Each start finds the event due and the broker away. Counted attempts would put the next one off by hours.
    for seconds in [400, 3_000, 12_000, 40_000] {
        world.gateway.kill();
        world.gateway.clock_ahead = seconds;
        world.start().await;
        until_deferred(&world, "orders-mq").await;
    }
    broker.command("start").await;
    let messages = broker.until("orders", "o-1", "payment.succeeded").await;
    assert_eq!(ids_of(&messages, "o-1"), [event]);
    until_waiting(&world, "orders-mq", 0).await;
    world.until_logged("the broker can be reached again").await;
}

#[tokio::test]
async fn refused_login_is_reported_and_ends_once_the_user_exists() {
    let broker = RabbitMq::start().await;
    broker.bind("late-mq", "late", "#").await;
    broker.bind("other-mq", "other", "#").await;
    let late = sink(&broker, "late-mq", "").replace("guest:guest@", "late:secret-of-late@");
    let world = world_with(&(late + &sink(&broker, "other-mq", ""))).await;
    world.until_logged("ACCESS_REFUSED").await;
    create_and_pay(&world, "o-1").await;
    broker.until("other", "o-1", "payment.succeeded").await;
    until_entry(&world, "o-1", "undelivered", "late-mq", "ACCESS_REFUSED").await;
    let outputs = [world.log(), world.explain_json("o-1").await];
    assert!(outputs.iter().all(|text| !text.contains("secret-of-late")), "{outputs:?}");
    broker.command("add_user late secret-of-late").await;
    broker.command("set_permissions late .* .* .*").await;
    broker.until("late", "o-1", "payment.succeeded").await;
    until_waiting(&world, "late-mq", 0).await;
}

#[tokio::test]
async fn missing_exchange_delays_no_other_sink_and_the_operator_retries_once_it_exists() {
    let broker = RabbitMq::shared().await;
    broker.bind("there-mq", "there", "#").await;
    let world = world_with(&(sink(broker, "absent-mq", "") + &sink(broker, "there-mq", ""))).await;
    for number in 0..3 {
        let order = format!("o-{number}");
        create_and_pay(&world, &order).await;
        broker.until("there", &order, "payment.succeeded").await;
        let why = "NOT_FOUND - no exchange 'absent-mq'";
        until_entry(&world, &order, "undelivered", "absent-mq", why).await;
    }
    // After the second failure the next attempt is minutes away.
    crate::harness::until("each event failed twice", || async {
        let mut failures = Vec::new();
        for number in 0..3 {
            let entries = timeline(&world, &format!("o-{number}")).await;
            let is_it = |entry: &&Value| entry["what"] == "undelivered" && entry["sink"] == "absent-mq";
            failures.push(entries.iter().filter(is_it).map(|entry| entry["times"].as_u64().unwrap_or(1)).sum::<u64>());
        }
        if failures.iter().all(|times| *times >= 2) { Ok(()) } else { Err(format!("{failures:?}")) }
    })
    .await;
    broker.bind("absent-mq", "absent", "#").await;
    let retry = async |path: &str| {
        let answer = world.admin_request("POST", &format!("/merchants/{path}/retry"), &[]).await;
        (answer.status, text(&answer.body))
    };
    let answer = retry("shop/sinks/absent-mq").await;
    assert_eq!(answer, (200, "3 events wait for absent-mq of shop and are tried now\n".to_owned()));
    until_waiting(&world, "absent-mq", 0).await;
    let mut arrived: Vec<_> = broker.take("absent").await.iter().map(order_of).collect();
    arrived.sort();
    assert_eq!(arrived, ["o-0", "o-1", "o-2"]);
    world.until_logged("an operator made the waiting events of a sink due now").await;
    assert_eq!(retry("shop/sinks/webhook").await.0, 200);
    let unknown = retry("shop/sinks/none").await;
    assert_eq!(unknown, (404, "shop has no sink `none`: it has webhook, absent-mq, there-mq\n".to_owned()));
    assert_eq!(retry("nobody/sinks/webhook").await, (404, "there is no merchant `nobody`\n".to_owned()));
    assert_eq!(retry("shop").await.0, 400);
}

#[tokio::test]
async fn events_of_a_payment_stay_in_order_over_reconnections() {
    let broker = RabbitMq::start().await;
    broker.bind("orders-mq", "orders", "#").await;
    let world = world_with(&sink(&broker, "orders-mq", "")).await;
    create_and_pay(&world, "o-1").await;
    let cut = "close_all_connections cut";
    for (command, number) in [(cut, "r-0"), ("stop", "r-1"), ("", "r-2"), ("start", "r-3"), (cut, "r-4")] {
        if !command.is_empty() {
            broker.command(command).await;
        }
        refund(&world, "o-1", number).await;
    }
    until_waiting(&world, "orders-mq", 0).await;
    let arrived = broker.take("orders").await;
    let mut named = Vec::new();
    for message in arrived.iter().filter(|message| order_of(message) == "o-1") {
        let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        let refund = body["data"]["refund"]["refund_id"].as_str().unwrap_or("payment").to_owned();
        // An event may arrive twice; its first arrival is in order.
        if !named.contains(&refund) {
            named.push(refund);
        }
    }
    let expected = ["payment", "r-0", "r-1", "r-2", "r-3", "r-4"];
    assert_eq!(named, expected);
}

#[tokio::test]
async fn events_of_a_merchant_whose_file_is_missing_reach_its_sinks_once_it_is_back() {
    let broker = RabbitMq::shared().await;
    broker.bind("kept-mq", "kept", "#").await;
    let kept = sink(broker, "kept-mq", "");
    let world = world_with(&kept).await;
    world.create("o-1", "o-1").await;
    let file = world.conf().join("merchants/shop.toml");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(world.reload().await.status, 200);
    world.pay("o-1").await;
    world.until_logged("the merchant's file is missing, its events wait").await;
    assert_eq!(set_sinks(&world, &kept).await.status, 200);
    // Its next regular attempt is a minute away.
    assert_eq!(world.admin_request("POST", "/merchants/shop/sinks/kept-mq/retry", &[]).await.status, 200);
    broker.until("kept", "o-1", "payment.succeeded").await;
}

#[tokio::test]
async fn removal_of_a_sink_with_waiting_events_is_warned_about() {
    let closed = crate::wait::free_address();
    let dead = format!(
        "[[sink]]\nname = \"dead-mq\"\nkind = \"rabbitmq\"\nurl = \"plain:amqp://a:b@{closed}\"\nexchange = \"x\"\n"
    );
    let world = world_with(&dead).await;
    for order in ["o-1", "o-2"] {
        create_and_pay(&world, order).await;
    }
    until_waiting(&world, "dead-mq", 2).await;
    world.until_metric("tollgate_delivery_oldest_seconds{sink=\"dead-mq\"}").await;
    assert!(!world.metrics().await.contains("tollgate_delivery_oldest_seconds{sink=\"dead-mq\"} 0\n"));
    assert_eq!(set_sinks(&world, "").await.status, 200);
    world.until_logged("a sink was removed for which events wait").await;
    assert!(world.log().contains("waiting=2") || world.log().contains("\"waiting\":2"), "{}", world.log());
}
