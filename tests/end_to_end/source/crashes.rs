//! Crashes of the gateway, the broker and the ledger: no message is lost, none is executed twice.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::producer::{Message, plain_create, signed_create};
use super::{assert_created_once, count_of, put_in_force, source, until_consumed, world_with, write_shop};
use crate::harness::{SHOP, World, WorldOptions, force_breaker, send, until};
use crate::rabbitmq::RabbitMq;
use crate::server::Server;
use tollgate_merchant::plain;

/// Proxy before a broker that can hold back what the client sends, such as acknowledgements.
struct Gate {
    port: u16,
    is_held: watch::Sender<bool>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Gate {
    async fn open(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, is_held) = (listener.local_addr().unwrap().port(), watch::Sender::new(false));
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let (held, opened) = (is_held.clone(), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let target = SocketAddr::from(([127, 0, 0, 1], target));
                let (server, held) = (TcpStream::connect(target).await.unwrap(), held.subscribe());
                opened.lock().push(tokio::spawn(relay(client, server, held)));
            }
        });
        Self { port, is_held, connections }
    }

    fn hold(&self) {
        self.is_held.send_replace(true);
    }

    /// Ends all connections without what was held back. New ones are not held.
    fn cut(&self) {
        for connection in self.connections.lock().drain(..) {
            connection.abort();
        }
        self.is_held.send_replace(false);
    }
}

async fn relay(client: TcpStream, server: TcpStream, held: watch::Receiver<bool>) {
    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.into_split(), server.into_split());
    let never = watch::Sender::new(false);
    tokio::select! {
        () = copy(client_reads, server_writes, held) => {}
        () = copy(server_reads, client_writes, never.subscribe()) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if held.wait_for(|held| !held).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn crash_between_claim_and_acknowledgement_executes_once() {
    let broker = RabbitMq::shared().await;
    broker.declare_queue("unacked-in", json!({})).await;
    let gate = Gate::open(broker.port).await;
    let mut world = World::new().await;
    put_in_force(&world, &source(gate.port, "unacked-in", "")).await;
    until_consumed(&world, "unacked-in").await;
    gate.hold();
    broker.publish("unacked-in", &[plain_create("unacked-in", "o-1")]).await;
    // The claim was durable, the job was executed, and the acknowledgement is on its way.
    world.receiver.until("o-1", "payment.pending").await;
    world.gateway.kill();
    gate.cut();
    broker.until_depth("unacked-in", 1).await;
    world.start().await;
    world.until_metric(&count_of("unacked-in", "repeated", 1)).await;
    assert_created_once(&world, "o-1").await;
    // The crash may make the gateway send the same event again.
    let events = world.receiver.events_of("o-1");
    assert!(events.iter().all(|event| event.id == events[0].id), "{events:?}");
    world.until_logged("\"is_redelivered\":true").await;
    world.gateway.kill();
    assert_eq!(broker.depth("unacked-in").await, 0, "the repetition was acknowledged");
}

#[tokio::test]
async fn crash_before_the_claim_loses_no_message() {
    let broker = RabbitMq::shared().await;
    let options = WorldOptions { server: "[queue]\nlimit = 1", ..WorldOptions::default() };
    let mut world = world_with(broker, "unclaimed-in", "", options).await;
    force_breaker(&world.gateway, "open").await;
    let orders = ["o-1", "o-2", "o-3"];
    broker.publish("unclaimed-in", &orders.map(|order| signed_create("unclaimed-in", order))).await;
    // One job fills the queue; the other two messages are held.
    world.until_metric(&count_of("unclaimed-in", "accepted", 1)).await;
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"full\"}").await;
    world.gateway.kill();
    broker.until_depth("unclaimed-in", 2).await;
    world.start().await;
    for order in orders {
        world.receiver.until(order, "payment.pending").await;
        assert_created_once(&world, order).await;
    }
    broker.until_depth("unclaimed-in", 0).await;
}

#[tokio::test]
async fn shutdown_requeues_held_messages_and_exits() {
    let broker = RabbitMq::shared().await;
    let options = WorldOptions { server: "shutdown_timeout = \"10m\"\n[queue]\nlimit = 1", ..WorldOptions::default() };
    let mut world = world_with(broker, "drained-in", "", options).await;
    force_breaker(&world.gateway, "open").await;
    broker.publish("drained-in", &["o-1", "o-2", "o-3"].map(|order| signed_create("drained-in", order))).await;
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"full\"}").await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0);
    broker.until_depth("drained-in", 2).await;
    world.start().await;
    for order in ["o-1", "o-2", "o-3"] {
        world.receiver.until(order, "payment.pending").await;
        assert_created_once(&world, order).await;
    }
}

#[tokio::test]
async fn refused_messages_of_a_hung_broker_delay_no_other_source_and_no_shutdown() {
    let broker = RabbitMq::shared().await;
    for queue in ["hung-in", "free-in"] {
        broker.declare_queue(queue, json!({})).await;
    }
    broker.bind("hung-dead", "hung-dead", "#").await;
    let gate = Gate::open(broker.port).await;
    let mut world = World::with(WorldOptions { server: "shutdown_timeout = \"10m\"", ..WorldOptions::default() }).await;
    let hung = source(gate.port, "hung-in", "prefetch = 256\ndead_letter = \"hung-dead\"");
    put_in_force(&world, &(hung + &source(broker.port, "free-in", ""))).await;
    until_consumed(&world, "hung-in").await;
    until_consumed(&world, "free-in").await;
    // The broker reads nothing more, so no refused message can be published.
    gate.hold();
    let refused = Message { body: "{}", ..Message::of(&SHOP, "hung-in", plain) };
    broker.publish("hung-in", &(0..256).map(|_| refused.signed_now()).collect::<Vec<_>>()).await;
    until("all are refused", || async {
        let log = world.log();
        let is_refusal = |line: &&str| line.contains("\"source\":\"hung-in\"") && line.contains("invalid_request");
        let count = log.lines().filter(is_refusal).count();
        if count >= 256 { Ok(()) } else { Err(count) }
    })
    .await;
    broker.publish("free-in", &[signed_create("free-in", "o-1")]).await;
    world.receiver.until("o-1", "payment.pending").await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0);
    gate.cut();
    broker.until_depth("hung-in", 256).await;
}

#[tokio::test]
async fn source_consumes_again_after_lost_connections_and_a_restart_of_the_broker() {
    let broker = RabbitMq::start().await;
    let world = world_with(&broker, "cut-in", "", WorldOptions::default()).await;
    broker.publish("cut-in", &[signed_create("cut-in", "o-1")]).await;
    world.receiver.until("o-1", "payment.pending").await;
    broker.command("close_all_connections cut").await;
    broker.publish("cut-in", &[signed_create("cut-in", "o-2")]).await;
    world.receiver.until("o-2", "payment.pending").await;
    broker.command("stop").await;
    world.until_metric("tollgate_source_connected{merchant=\"shop\",source=\"cut-in\"} 0\n").await;
    broker.command("start").await;
    broker.publish("cut-in", &[signed_create("cut-in", "o-3")]).await;
    world.receiver.until("o-3", "payment.pending").await;
    for order in ["o-1", "o-2", "o-3"] {
        assert_created_once(&world, order).await;
    }
}

#[tokio::test]
async fn two_gateways_lose_no_message_while_the_ledger_is_away_and_execute_each_once() {
    let broker = RabbitMq::shared().await;
    broker.declare_queue("cluster-in", json!({})).await;
    let server = Server::start(&[]);
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
    let world = World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await;
    write_shop(&world, &source(broker.port, "cluster-in", "prefetch = 4"));
    assert_eq!(world.reload().await.status, 200);
    let second = world.start_another("second").await;
    until_consumed(&world, "cluster-in").await;
    let metrics = || async {
        let answer = send("GET", &format!("http://{}/metrics", second.admin), &[], b"").await.unwrap();
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let sent_by_second =
        |page: &str| page.contains("tollgate_source_messages_total{merchant=\"shop\",result=\"accepted\"");
    let before: Vec<String> = (0..40).map(|number| format!("o-{number}")).collect();
    broker.publish("cluster-in", &create_all(&before)).await;
    for order in &before {
        world.receiver.until(order, "payment.pending").await;
    }
    until("both gateways consume", || async {
        let [first, second] = [world.metrics().await, metrics().await];
        if sent_by_second(&first) && sent_by_second(&second) { Ok(()) } else { Err(first + &second) }
    })
    .await;
    server.crash();
    let during: Vec<String> = (0..20).map(|number| format!("p-{number}")).collect();
    broker.publish("cluster-in", &create_all(&during)).await;
    world.until_logged("no messages are consumed until the ledger and the clock work").await;
    broker.until_depth("cluster-in", 20).await;
    server.revive();
    for order in &during {
        world.receiver.until(order, "payment.pending").await;
    }
    for order in before.iter().chain(&during) {
        assert_created_once(&world, order).await;
        assert_eq!(world.receiver.events_of(order).len(), 1, "{order}");
    }
    broker.until_depth("cluster-in", 0).await;
}

fn create_all(orders: &[String]) -> Vec<Value> {
    orders.iter().map(|order| signed_create("cluster-in", order)).collect()
}
