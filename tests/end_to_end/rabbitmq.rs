//! RabbitMQ process on private ports, and an independent client of it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};

use crate::sdk_conformance::run_sdk;
use crate::wait::until;

/// Standard input and output of the script that runs a broker.
type Line = (ChildStdin, BufReader<ChildStdout>);

/// RabbitMQ broker that stops when dropped, at the latest with the test process.
pub struct RabbitMq {
    pub port: u16,
    /// Port for TLS; 0 without a certificate.
    pub tls_port: u16,
    process: Child,
    line: Arc<Mutex<Option<Line>>>,
}

impl RabbitMq {
    /// Starts an empty broker.
    pub async fn start() -> Self {
        tokio::task::spawn_blocking(|| Self::start_now(&[])).await.unwrap()
    }

    /// Starts an empty broker that also listens with TLS: certificate file, key file.
    pub async fn start_with_tls(files: [PathBuf; 2]) -> Self {
        tokio::task::spawn_blocking(move || Self::start_now(&files)).await.unwrap()
    }

    /// Returns the broker that tests share which do not disturb it. Each uses an exchange and queues of its own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<RabbitMq> = OnceLock::new();
        tokio::task::spawn_blocking(|| SHARED.get_or_init(|| Self::start_now(&[]))).await.unwrap()
    }

    fn start_now(arguments: &[PathBuf]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/rabbitmq");
        let mut process =
            Command::new(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let ports = said(&mut output);
        let mut ports = ports.split(' ').map(|port| port.parse().ok());
        let port = ports.next().flatten().expect("no RabbitMQ (a missing one is taken from Debian)");
        let tls_port = ports.next().flatten().unwrap_or(0);
        Self { port, tls_port, process, line: Arc::new(Mutex::new(Some((input, output)))) }
    }

    /// Executes `stop`, `start`, `freeze`, `thaw` or a command of `rabbitmqctl`.
    pub async fn command(&self, command: &str) {
        let (line, command) = (Arc::clone(&self.line), command.to_owned());
        let execute = move || {
            let mut line = line.lock().unwrap();
            let (input, output) = line.as_mut().unwrap();
            writeln!(input, "{command}").unwrap();
            assert_eq!(said(output), "done", "{command}");
        };
        tokio::task::spawn_blocking(execute).await.unwrap();
    }

    /// Declares the exchange and a queue that gets what matches the key.
    pub async fn bind(&self, exchange: &str, queue: &str, key: &str) {
        let question = json!({"port": self.port, "exchange": exchange, "queue": queue, "key": key});
        run_sdk("rabbitmq.py", "bind", question).await;
    }

    /// Declares the exchange without a queue.
    pub async fn declare(&self, exchange: &str) {
        run_sdk("rabbitmq.py", "bind", json!({"port": self.port, "exchange": exchange, "queue": ""})).await;
    }

    /// Declares a queue with these arguments.
    pub async fn declare_queue(&self, queue: &str, arguments: Value) {
        let question = json!({"port": self.port, "queue": queue, "arguments": arguments});
        run_sdk("rabbitmq.py", "queue", question).await;
    }

    /// Returns the number of messages in a queue that no consumer has.
    pub async fn depth(&self, queue: &str) -> u64 {
        run_sdk("rabbitmq.py", "depth", json!({"port": self.port, "queue": queue})).await.as_u64().unwrap()
    }

    /// Waits until this many messages are in a queue that no consumer has.
    pub async fn until_depth(&self, queue: &str, depth: u64) {
        until(&format!("{queue} has {depth} messages"), || async {
            let found = self.depth(queue).await;
            if found == depth { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Publishes messages to a queue: objects with `headers`, `body` and perhaps `id`. Returns when the broker has confirmed them.
    pub async fn publish(&self, queue: &str, messages: &[Value]) {
        let question = json!({"port": self.port, "queue": queue, "messages": messages});
        run_sdk("rabbitmq.py", "publish", question).await;
    }

    /// Takes all messages out of a queue.
    pub async fn take(&self, queue: &str) -> Vec<Value> {
        let taken = run_sdk("rabbitmq.py", "get", json!({"port": self.port, "queue": queue})).await;
        taken.as_array().unwrap().clone()
    }

    /// Takes messages until one is about this event type of the order. Returns all that were taken.
    pub async fn until(&self, queue: &str, order: &str, kind: &str) -> Vec<Value> {
        let taken = tokio::sync::Mutex::new(Vec::new());
        until(&format!("{kind} of {order} in {queue}"), || async {
            let mut taken = taken.lock().await;
            taken.extend(self.take(queue).await);
            let is_it = |message: &Value| message["type"] == kind && order_of(message) == order;
            if taken.iter().any(is_it) { Ok(()) } else { Err(format!("{taken:?}")) }
        })
        .await;
        taken.into_inner()
    }
}

/// Returns the order id in the body of a message.
pub fn order_of(message: &Value) -> String {
    let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
    // In structured mode the event is inside the CloudEvent.
    let event = if body.get("specversion").is_some() { &body["data"] } else { &body };
    let data = event["data"].as_object().unwrap().values().next().unwrap();
    data["order_id"].as_str().unwrap().to_owned()
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.line.lock().unwrap().take();
        let _ = self.process.wait();
    }
}

fn said(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}
