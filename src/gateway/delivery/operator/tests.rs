#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tollgate_config::OperatorEventType;
use tollgate_config::testing::edit;

use super::*;
use crate::snapshot::testing::sandbox;
use crate::snapshot::{load, put_in_force};

/// Receiver on this machine that answers every request with one status, and records the bodies.
struct Receiver {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    async fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, bodies) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Value>>>::default());
        let received = Arc::clone(&bodies);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let received = Arc::clone(&received);
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {
                        let text = String::from_utf8_lossy(&request).into_owned();
                        let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
                        let Ok(body) = serde_json::from_str(body) else { continue };
                        received.lock().push(body);
                        request.clear();
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Self { address, bodies }
    }

    fn types(&self) -> Vec<String> {
        self.bodies.lock().iter().map(|body| body["type"].as_str().unwrap().to_owned()).collect()
    }

    async fn until(&self, count: usize) {
        while self.bodies.lock().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn sink(name: &str, address: SocketAddr, events: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"http://{address}/ops\"\n{events}\n\
         secrets = [\"plain:whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\"]\n"
    )
}

/// Returns a worker of a configuration with these sinks, and its directory.
fn worker(sinks: &str) -> (OperatorWorker, tollgate_config::testing::Dir) {
    let dir = sandbox();
    let file = dir.path().join("tollgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("[delivery]"), "{text}");
    std::fs::write(&file, format!("{text}\n[delivery]\nallowed_networks = [\"127.0.0.0/8\"]\n{sinks}")).unwrap();
    let current = put_in_force(load(dir.path(), None).unwrap());
    (OperatorWorker::new(current, "pay-1:8080".to_owned(), Arc::new(OnceLock::from("blue".to_owned()))), dir)
}

fn event(event_type: OperatorEventType, channel: &str) -> OperatorEvent {
    let details = Details { cause: "a cause".to_owned(), channel: channel.to_owned(), ..Details::default() };
    OperatorEvent::new(event_type, details)
}

#[tokio::test]
async fn event_reaches_the_sinks_that_want_it_with_cause_and_advice() {
    let (all, some) = (Receiver::start("204 No Content").await, Receiver::start("204 No Content").await);
    let sinks = sink("all", all.address, "") + &sink("some", some.address, "events = [\"config.*\"]");
    let (mut worker, _dir) = worker(&sinks);
    worker.handle(event(OperatorEventType::ProbeFailed, "wechat"), None);
    worker.handle(event(OperatorEventType::ConfigRejected, ""), None);
    all.until(2).await;
    some.until(1).await;
    assert_eq!(all.types(), ["channel.probe_failed", "config.rejected"]);
    assert_eq!(some.types(), ["config.rejected"]);
    let body = all.bodies.lock()[0].clone();
    assert!(body["id"].as_str().unwrap().starts_with("opevt_") && body["created_at"].is_string(), "{body}");
    assert_eq!((&body["cluster"], &body["node"]), (&"blue".into(), &"pay-1:8080".into()));
    let advice = OperatorEventType::ProbeFailed.advice();
    let data = serde_json::json!({"cause": "a cause", "advice": advice, "channel": "wechat"});
    assert_eq!(body["data"], data, "fields without a value are left out");
}

#[tokio::test]
async fn sink_that_fails_delays_no_other_and_its_events_are_retried() {
    let (good, bad) = (Receiver::start("204 No Content").await, Receiver::start("500 Internal Server Error").await);
    let (mut worker, _dir) = worker(&(sink("bad", bad.address, "") + &sink("good", good.address, "")));
    for channel in ["a", "b", "c"] {
        worker.handle(event(OperatorEventType::ProbeFailed, channel), None);
    }
    good.until(3).await;
    bad.until(1).await;
    assert_eq!(bad.bodies.lock()[0]["id"], good.bodies.lock()[0]["id"], "every sink gets the same id");
    // After 5 s.
    bad.until(2).await;
    let attempts = bad.bodies.lock().clone();
    assert_eq!(attempts[0], attempts[1], "the same event again");
    assert_eq!(good.bodies.lock().len(), 3);
}

#[tokio::test]
async fn reload_adds_corrects_and_removes_sinks() {
    let (first, second) = (Receiver::start("204 No Content").await, Receiver::start("204 No Content").await);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (mut worker, dir) = worker(&(sink("kept", first.address, "") + &sink("wrong", closed, "")));
    worker.handle(event(OperatorEventType::ProbeFailed, "a"), None);
    first.until(1).await;
    let reload = |worker: &OperatorWorker| {
        let next = load(dir.path(), Some(&worker.current.load())).unwrap();
        worker.current.store(Arc::new(next));
    };
    // A corrected sink gets what waits for it.
    edit(&dir, "tollgate.toml", &closed.to_string(), &second.address.to_string());
    reload(&worker);
    worker.tick();
    second.until(1).await;
    edit(&dir, "tollgate.toml", "name = \"kept\"", "name = \"renamed\"");
    reload(&worker);
    worker.handle(event(OperatorEventType::ProbeFailed, "b"), None);
    first.until(2).await;
    let mut names: Vec<_> = worker.queues.keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["renamed", "wrong"]);
}

#[tokio::test]
async fn events_beyond_the_queue_of_a_sink_are_dropped_and_counted() {
    // It accepts connections and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut worker, _dir) = worker(&sink("full", silent.local_addr().unwrap(), ""));
    let snapshot = worker.current.load_full();
    worker.follow(&snapshot);
    for number in 0..1000 {
        worker.publish(&snapshot, &event(OperatorEventType::ProbeFailed, &number.to_string()), None);
    }
    let dropped = METRICS.operator_deliveries_total.with_label_values(&["full", "dropped"]).get();
    assert!((743..=744).contains(&dropped), "256 wait, and one may be under way: {dropped}");
}
