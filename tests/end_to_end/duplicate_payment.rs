//! A payment that was rerouted: an order on the abandoned channel is closed, or its money is refunded.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_gateway::provider_client::ProviderClient;
use tollgate_gateway::snapshot::{self, Channel};
use tollgate_plugins::payment::{Currency, Method, Money, Operation, Order, Pay, Payer};

use crate::harness::{World, WorldOptions, free_address, until};

/// Starts a world with two channels. The host of the first is unreachable.
async fn world(double_payment: &str) -> World {
    let options =
        WorldOptions { channels: vec!["main", "backup"], edit: disconnect_first_channel, ..WorldOptions::default() };
    let world = World::with(options).await;
    let routes = format!(
        "double_payment = \"{double_payment}\"\n[[route]]\nto = [{{ channel = \"main\" }}]\nfallback = [\"backup\"]\n"
    );
    std::fs::write(world.conf().join("routes.toml"), routes).unwrap();
    assert_eq!(world.reload().await.status, 200);
    world
}

fn disconnect_first_channel(conf: &Path, _: SocketAddr) {
    set_first_host(conf, free_address());
}

/// Sets the first host of the channel `main`.
pub fn set_first_host(conf: &Path, host: SocketAddr) {
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("hosts = [\"https://").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    std::fs::write(&file, format!("{before}hosts = [\"https://{host}\"{after}")).unwrap();
}

/// Makes the first channel's host reachable again.
async fn reconnect_first_channel(world: &World) {
    set_first_host(world.conf(), world.sandbox.address());
    assert_eq!(world.reload().await.status, 200);
}

/// Creates the order on the first channel, as if the request assumed unsent had arrived.
pub async fn create_on_first_channel(world: &World) {
    let conf = world.dir.path().join("late");
    crate::harness::copy_dir(world.conf(), &conf);
    set_first_host(&conf, world.sandbox.address());
    let snapshot = snapshot::load(&conf, None).unwrap_or_else(|errors| panic!("{errors:?}"));
    let channel: &std::sync::Arc<Channel> = &snapshot.channels["main"];
    let order = Order {
        number: World::provider_order_no("o-1"),
        method: Method::parse("wechat.native").unwrap(),
        amount: Money { value: 1000, currency: Currency::CNY },
        created_at: jiff::Timestamp::now(),
        expires_at: None,
        provider_id: None,
    };
    let pay = Pay {
        order,
        description: "茶 tea".to_owned(),
        payer: Payer::default(),
        return_url: None,
        notify_url: format!("http://{}/notify/main", world.gateway.listen),
    };
    let mut evidence = Vec::new();
    let asked =
        ProviderClient::default().call(channel, &Operation::Pay(pay), Duration::from_secs(10), &mut evidence).await;
    asked.unwrap();
}

/// Runs `action` on the order of this channel's account and returns what the sandbox knows of it.
pub async fn sandbox_order(world: &World, channel: &str, action: &str) -> Value {
    let text = std::fs::read_to_string(world.conf().join(format!("channels/{channel}.toml"))).unwrap();
    let mchid = text.split_once("mchid = \"").and_then(|(_, rest)| rest.split_once('"')).unwrap().0;
    let method = if action.is_empty() { "GET" } else { "POST" };
    let body = if action.is_empty() { Value::Null } else { json!({}) };
    world
        .sandbox_control(method, &format!("/orders/{}{action}?account={mchid}", World::provider_order_no("o-1")), body)
        .await
}

#[tokio::test]
async fn order_on_abandoned_channel_is_closed() {
    let world = world("refund").await;
    let created = world.create("o-1", "k-1").await;
    assert_eq!((created.status, &created.json()["channel"]), (201, &json!("backup")), "{:?}", created.body);
    create_on_first_channel(&world).await;
    reconnect_first_channel(&world).await;
    until("the order is closed on the first channel", || async {
        let seen = sandbox_order(&world, "main", "").await;
        (seen["state"] == "CLOSED").then_some(()).ok_or(seen)
    })
    .await;
    sandbox_order(&world, "backup", "/pay").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    assert_eq!(world.payment("o-1").await["channel"], "backup");
    assert!(world.receiver.events_of("o-1").iter().all(|event| event.json()["type"] != "payment.double_payment"));
}

#[tokio::test]
async fn duplicate_payment_is_refunded_automatically() {
    let world = world("refund").await;
    assert_eq!(world.create("o-1", "k-1").await.json()["channel"], "backup");
    create_on_first_channel(&world).await;
    for channel in ["backup", "main"] {
        let paid = sandbox_order(&world, channel, "/pay").await;
        assert_eq!(paid["state"], "SUCCESS", "{paid}");
    }
    let event = world.receiver.until("o-1", "payment.double_payment").await;
    assert_eq!(event.json()["data"]["payment"]["channel"], "backup", "{}", event.json());
    world.until_metric("tollgate_double_payments_total{channel=\"main\"} 1").await;
    reconnect_first_channel(&world).await;
    let back = world.receiver.until("o-1", "refund.succeeded").await.json();
    let refund = &back["data"]["refund"];
    assert_eq!((&refund["channel"], &refund["amount"]["value"]), (&json!("main"), &json!(1000)), "{back}");
    let (first, second) = (sandbox_order(&world, "main", "").await, sandbox_order(&world, "backup", "").await);
    assert_eq!((&first["executions"]["refund"], &second["executions"]["refund"]), (&json!(1), &Value::Null), "{first}");
    let payment = world.payment("o-1").await;
    assert_eq!((&payment["status"], &payment["refunded"]), (&json!("succeeded"), &json!(0)), "{payment}");
}

#[tokio::test]
async fn duplicate_payment_is_flagged_for_manual_review() {
    let world = world("flag").await;
    assert_eq!(world.create("o-1", "k-1").await.json()["channel"], "backup");
    create_on_first_channel(&world).await;
    sandbox_order(&world, "main", "/pay").await;
    world.receiver.until("o-1", "payment.double_payment").await;
    world.until_metric("tollgate_manual_review_total{channel=\"main\"} 1").await;
    reconnect_first_channel(&world).await;
    let seen = sandbox_order(&world, "main", "").await;
    assert_eq!(seen["executions"]["refund"], Value::Null, "{seen}");
}
