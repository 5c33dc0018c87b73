//! Kafka broker on private ports with faults on demand, and an independent client of it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::wait::until;

/// Standard input and output of the script that runs a broker.
type Line = (ChildStdin, BufReader<ChildStdout>);

/// Broker that stops when dropped, at the latest with the test process.
pub struct KafkaBroker {
    /// Port that clients connect to.
    pub port: u16,
    process: Child,
    line: Arc<Mutex<Option<Line>>>,
}

impl KafkaBroker {
    /// Starts an empty broker with these options of `tests/servers/kafka.py`.
    pub async fn start(options: Value) -> Self {
        tokio::task::spawn_blocking(move || Self::start_now(&options)).await.unwrap()
    }

    /// Returns the broker that tests share which do not disturb it. Each uses a topic of its own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<KafkaBroker> = OnceLock::new();
        tokio::task::spawn_blocking(|| SHARED.get_or_init(|| Self::start_now(&json!({})))).await.unwrap()
    }

    fn start_now(options: &Value) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/kafka");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka");
        let mut process = Command::new(script)
            .arg(directory)
            .arg(options.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let port = said(&mut output).parse().expect("no Kafka broker (it is taken from PyPI)");
        Self { port, process, line: Arc::new(Mutex::new(Some((input, output)))) }
    }

    /// Executes a command of the script and returns its result.
    pub async fn command(&self, command: &str) -> Value {
        let (line, command) = (Arc::clone(&self.line), command.to_owned());
        let execute = move || {
            let mut line = line.lock();
            let (input, output) = line.as_mut().unwrap();
            writeln!(input, "{command}").unwrap();
            let said = said(output);
            serde_json::from_str(&said).unwrap_or_else(|_| panic!("{command}: {said}"))
        };
        tokio::task::spawn_blocking(execute).await.unwrap()
    }

    /// Makes a topic with three partitions.
    pub async fn topic(&self, topic: &str) {
        self.command(&format!("topic {topic} 3")).await;
    }

    /// Returns all messages of a topic; those of one partition are in order.
    pub async fn messages(&self, topic: &str) -> Vec<Value> {
        self.command(&format!("take {topic}")).await.as_array().unwrap().clone()
    }

    /// Waits until a message is about this event type of the order. Returns all messages about the order.
    pub async fn until(&self, topic: &str, order: &str, kind: &str) -> Vec<Value> {
        until(&format!("{kind} of {order} in {topic}"), || async {
            let mut messages = self.messages(topic).await;
            messages.retain(|message| message["key"].as_str().unwrap().ends_with(&format!("/{order}")));
            let is_there = messages.iter().any(|message| event_of(message)["type"] == kind);
            if is_there { Ok(messages) } else { Err(format!("{messages:?}")) }
        })
        .await
    }
}

/// Returns the event in a message.
pub fn event_of(message: &Value) -> Value {
    let value: Value = serde_json::from_str(message["value"].as_str().expect("every message has a value")).unwrap();
    // In structured mode the event is inside the CloudEvent.
    if value.get("specversion").is_some() { value["data"].clone() } else { value }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        self.line.lock().take();
        let _ = self.process.wait();
    }
}

fn said(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}
