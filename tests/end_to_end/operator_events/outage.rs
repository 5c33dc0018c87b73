//! Outages: of providers and merchants, which must not flood the operator, and of the operator's own sinks.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Watched, count_of, received, set_sinks, until_failing, webhook, write_sinks};
use crate::breaker::{eager, inject_failures};
use crate::harness::{World, WorldOptions, free_address, until};
use crate::receiver::Receiver;

/// Webhook that answers only once the test says so.
struct HungWebhook {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    /// Connections that the gateway closed before they were answered.
    closed: Arc<Mutex<usize>>,
    answer: watch::Sender<bool>,
}

impl HungWebhook {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, closed) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<usize>>::default());
        let (answer, answers) = watch::channel(false);
        let seen = (Arc::clone(&requests), Arc::clone(&closed));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen.0), Arc::clone(&seen.1), answers.clone()));
            }
        });
        Self { address, requests, closed, answer }
    }

    fn url(&self) -> String {
        format!("http://{}/hung", self.address)
    }

    async fn until_request(&self, text: &str) {
        until(&format!("the hung webhook gets {text}"), || async {
            let requests = self.requests.lock().clone();
            if requests.iter().any(|request| request.contains(text)) { Ok(()) } else { Err(format!("{requests:?}")) }
        })
        .await;
    }
}

async fn serve(
    mut stream: TcpStream,
    requests: Arc<Mutex<Vec<String>>>,
    closed: Arc<Mutex<usize>>,
    mut answers: watch::Receiver<bool>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"}}") {
        if stream.read_buf(&mut request).await.map_or(0, |count| count) == 0 {
            return;
        }
    }
    requests.lock().push(String::from_utf8(request).unwrap());
    let mut rest = Vec::new();
    let is_released = tokio::select! {
        _ = stream.read_buf(&mut rest) => false,
        released = async { answers.wait_for(|answer| *answer).await.is_ok() } => released,
    };
    match is_released {
        true => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap(),
        false => *closed.lock() += 1,
    }
}

#[tokio::test]
async fn outage_with_a_thousand_failures_sends_a_bounded_number_of_events() {
    let watched = Watched::new(WorldOptions { edit: eager, ..WorldOptions::default() }, "").await;
    let world = &watched.world;
    world.receiver.answer_with(500);
    for number in 0..50 {
        let order = format!("paid-{number}");
        assert_eq!(world.create(&order, &order).await.status, 201);
        world.pay(&order).await;
    }
    until_failing(&watched).await;
    // Every probe of the breaker fails, so it opens again and again.
    inject_failures(world, 1000).await;
    for number in 0..1000 {
        let order = format!("o-{number}");
        let answer = world.create(&order, &order).await;
        assert!([202, 503].contains(&answer.status), "{} {}", answer.status, answer.json());
    }
    watched.until_type("channel.breaker_opened").await;
    // A later event has arrived, so all before it have passed.
    set_sinks(
        world,
        &(webhook("ops", &watched.operator.url(), "") + &webhook("late", &watched.operator.url(), "events = []")),
    )
    .await;
    watched.until_event("config.applied", |data| data["generation"] == 3).await;
    let types: Vec<_> = received(&watched.operator).iter().map(|event| event["type"].to_string()).collect();
    assert!(types.len() <= 6, "{types:?}");
    assert_eq!(
        [count_of(&watched.operator, "delivery.failing"), count_of(&watched.operator, "channel.breaker_opened")],
        [1, 1]
    );
}

#[tokio::test]
async fn dead_and_hung_operator_sinks_delay_no_payment_no_merchant_and_no_other_sink() {
    let hung = HungWebhook::start().await;
    let closed = format!("http://{}/closed", free_address());
    let more = webhook("hung", &hung.url(), "") + &webhook("closed", &closed, "");
    let watched = Watched::new(WorldOptions { edit: eager, ..WorldOptions::default() }, &more).await;
    let world = &watched.world;
    hung.until_request("config.applied").await;
    world.until_metric("tollgate_operator_deliveries_total{result=\"failed\",sink=\"closed\"} 1").await;
    for number in 0..20 {
        let order = format!("o-{number}");
        assert_eq!(world.create(&order, &order).await.status, 201);
        world.pay(&order).await;
        world.receiver.until(&order, "payment.succeeded").await;
    }
    // More than half of all calls fail.
    inject_failures(world, 40).await;
    for number in 0..40 {
        let order = format!("x-{number}");
        world.create(&order, &order).await;
    }
    watched.until_type("channel.breaker_opened").await;
    let metrics = world.metrics().await;
    assert!(!metrics.contains("tollgate_operator_deliveries_total{result=\"delivered\",sink=\"hung\"}"), "{metrics}");
    assert!(metrics.contains("tollgate_operator_deliveries_total{result=\"delivered\",sink=\"ops\"}"), "{metrics}");
}

#[tokio::test]
async fn reload_adds_and_removes_an_operator_sink_and_corrects_one_whose_events_wait() {
    let world = World::new().await;
    let [first, second] = [Receiver::start().await, Receiver::start().await];
    let until_generation = async |receiver: &Receiver, generation: u64| {
        until(&format!("generation {generation}"), || async {
            let events = received(receiver);
            let is_it = |event: &Value| event["data"]["generation"] == generation && event["type"] == "config.applied";
            if events.iter().any(is_it) { Ok(()) } else { Err(Value::from(events)) }
        })
        .await;
    };
    set_sinks(&world, &webhook("first", &first.url(), "")).await;
    until_generation(&first, 2).await;
    let wrong = format!("http://{}/x", free_address());
    set_sinks(&world, &(webhook("first", &first.url(), "") + &webhook("second", &wrong, ""))).await;
    until_generation(&first, 3).await;
    world.until_metric("tollgate_operator_deliveries_total{result=\"failed\",sink=\"second\"} 1").await;
    // The first is removed, and the second gets the event that waits for it.
    set_sinks(&world, &webhook("second", &second.url(), "")).await;
    until_generation(&second, 3).await;
    until_generation(&second, 4).await;
    assert!(received(&first).iter().all(|event| event["data"]["generation"] != 4), "it was removed");
    // A sink that is wrong rejects the reload.
    write_sinks(&world, &webhook("second", &second.url(), "events = [\"channel.opened\"]"));
    let answer = world.reload().await;
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status >= 400 && said.contains("must be the type of an operator event"), "{said}");
}

#[tokio::test]
async fn check_probes_the_operators_sinks() {
    let world = World::new().await;
    let there = Receiver::start().await;
    let gone = free_address();
    let sinks = webhook("there", &there.url(), "") + &webhook("gone", &format!("http://{gone}/x"), "");
    set_sinks(&world, &sinks).await;
    let (out, err) = world.check_probe().await;
    assert!(out.contains("operator there: reached"), "{out}");
    assert!(err.contains("tollgate.toml: the sink `gone`: cannot connect to "), "{err}");
}

#[tokio::test]
async fn shutdown_waits_for_the_attempt_of_an_operator_event() {
    let hung = HungWebhook::start().await;
    let mut world = World::new().await;
    set_sinks(&world, &webhook("hung", &hung.url(), "")).await;
    hung.until_request("config.applied").await;
    world.gateway.signal("TERM");
    // An idle gateway without operator events exits within this time.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(*hung.closed.lock(), 0, "it still waits for the answer");
    hung.answer.send_replace(true);
    assert_eq!(world.gateway.wait_exit().await, 0);
    assert_eq!(*hung.closed.lock(), 0);
}

#[tokio::test]
async fn shutdown_waits_for_no_event_behind_one_that_failed() {
    let options = WorldOptions { server: "shutdown_timeout = \"10m\"", ..WorldOptions::default() };
    let mut world = World::with(options).await;
    let (there, closed) = (Receiver::start().await, format!("http://{}/closed", free_address()));
    let sinks = |name: &str| webhook("closed", &closed, "") + &webhook(name, &there.url(), "");
    for name in ["one", "two", "three"] {
        set_sinks(&world, &sinks(name)).await;
    }
    until("the sink that works gets the last event", || async {
        let events = received(&there);
        if events.iter().any(|event| event["data"]["generation"] == 4) { Ok(()) } else { Err(Value::from(events)) }
    })
    .await;
    world.until_metric("tollgate_operator_deliveries_total{result=\"failed\",sink=\"closed\"}").await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0);
}
