//! The RabbitMQ broker of a run: its proxy, its exchange with one queue, and the merchant's consumer.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::server_url::ServerUrl;
use super::sink_record::SinkRecord;
use super::tcp_proxy::TcpProxy;
use crate::rabbitmq::{BrokerProcess, BrokerQueue, Message};

/// Name of the sink in the merchant's file and in the report.
pub(super) const SINK: &str = "rabbitmq";

/// A broker whose connections from the gateways go through a fault-injecting TCP proxy.
pub(super) struct Broker {
    pub(super) proxy: TcpProxy,
    /// The section `[[sink]]` of the merchant's file.
    pub(super) sink: String,
    pub(super) queue: BrokerQueue,
    /// Events that the consumer received.
    pub(super) record: Arc<Mutex<SinkRecord>>,
    /// `None` for a broker that was given by its URL.
    pub(super) process: Option<BrokerProcess>,
    consumer: JoinHandle<()>,
}

impl Broker {
    /// Opens the broker: `argument` is its URL, or a program that runs one.
    pub(super) async fn open(argument: &str) -> Result<Self, String> {
        let (process, url) = if argument.contains("://") {
            (None, argument.to_owned())
        } else {
            let process = BrokerProcess::start(argument).await?;
            let url = process.url();
            (Some(process), url)
        };
        let parsed = ServerUrl::parse(&url)?;
        if !url.starts_with("amqp://") {
            return Err("--rabbitmq needs a URL that begins with amqp://, or a program".to_owned());
        }
        let proxy = TcpProxy::open(vec![parsed.host_and_port(5672)]).await?;
        let through_proxy = parsed.with_proxy(&proxy, parsed.path);
        let queue = BrokerQueue::declare(url.clone(), format!("tollgate-chaos-{:08x}", rand::random::<u32>())).await?;
        let sink = format!(
            "[[sink]]\nname = \"{SINK}\"\nkind = \"rabbitmq\"\nurl = \"plain:{through_proxy}\"\nexchange = \"{}\"\n",
            queue.name
        );
        let record = Arc::<Mutex<SinkRecord>>::default();
        let received = Arc::clone(&record);
        let consumer = tokio::spawn(queue.clone().consume(move |message| record_message(&received, &message)));
        Ok(Self { proxy, sink, queue, record, process, consumer })
    }

    /// Deletes exchange and queue, and ends the broker if it was started here.
    pub(super) async fn shut_down(self) -> Result<(), String> {
        self.consumer.abort();
        match self.process {
            Some(process) => process.end().await,
            None => self.queue.delete().await,
        }
    }
}

fn record_message(record: &Mutex<SinkRecord>, message: &Message) {
    let event = serde_json::from_slice(&message.body).unwrap_or_default();
    let mut record = record.lock();
    record.attempt(&message.id, &message.body);
    record.accept(&event);
}
