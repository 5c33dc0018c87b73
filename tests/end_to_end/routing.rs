//! Routing, and that `tollgate route` predicts it.

use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::{OTHER, SHOP, World, WorldOptions, payment_body, signed_request};
use crate::reload::save;

/// Routes that send every special payment to `west` and the rest to `east`.
fn routes() -> String {
    let hour = |hours: i64| {
        let time = Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap();
        time.strftime("%H:%M").to_string()
    };
    let (before, after, later) = (hour(-2), hour(2), hour(4));
    format!(
        r#"
[[route]]
match = {{ merchant = "other" }}
to = [{{ channel = "west" }}]
[[route]]
match = {{ metadata = {{ tier = "gold", area = "north" }} }}
to = [{{ channel = "west" }}]
[[route]]
match = {{ amount = {{ at_least = 5000, below = 6000 }} }}
to = [{{ channel = "west" }}]
[[route]]
match = {{ method = "wechat.h5" }}
to = [{{ channel = "west" }}]
[[route]]
match = {{ amount = {{ at_least = 7000, below = 8000 }}, time = {{ from = "{before}", to = "{after}", zone = "UTC" }} }}
to = [{{ channel = "west" }}]
[[route]]
match = {{ amount = {{ at_least = 8000, below = 9000 }}, time = {{ from = "{after}", to = "{later}", zone = "UTC" }} }}
to = [{{ channel = "west" }}]
[[route]]
match = {{ currency = "USD" }}
to = [{{ channel = "west" }}]
[[route]]
match = {{ currency = "CNY" }}
to = [{{ channel = "east" }}]
fallback = ["third"]
"#
    )
}

/// Returns the output of `tollgate route`.
fn explained(world: &World, merchant: &str, order: &Value) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("--conf").arg(world.conf()).args(["route", "--merchant", merchant]);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    command.args(["--order", &text(&order["order_id"]), "--method", &text(&order["method"])]);
    command.args(["--amount", &text(&order["amount"]["value"]), "--currency", &text(&order["amount"]["currency"])]);
    for (name, note) in order["metadata"].as_object().into_iter().flatten() {
        command.args(["--metadata", &format!("{name}={}", text(note))]);
    }
    if let Some(channel) = order["channel"].as_str() {
        command.args(["--channel", channel]);
    }
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Returns the first channel of that output.
fn first(explained: &str) -> &str {
    let line = explained
        .lines()
        .find_map(|line| line.strip_prefix("channel"))
        .unwrap_or_else(|| panic!("no channel: {explained}"));
    line.split_whitespace().next().unwrap()
}

#[tokio::test]
async fn each_route_condition_agrees_with_route_command() {
    let world = World::with(WorldOptions { channels: vec!["east", "west", "third"], ..WorldOptions::default() }).await;
    save(&world.conf().join("routes.toml"), &routes());
    assert_eq!(world.reload().await.status, 200);
    let change = |name: &str, value: Value| {
        let mut order = payment_body("x");
        order[name] = value;
        order
    };
    let amount = |value: u64| change("amount", json!({"value": value, "currency": "CNY"}));
    let mut h5 = change("method", "wechat.h5".into());
    h5["payer"] = json!({"client_ip": "203.0.113.5"});
    let rows = [
        (&SHOP, "shop", payment_body("x"), "east"),
        (&OTHER, "other", payment_body("x"), "west"),
        (&SHOP, "shop", change("metadata", json!({"tier": "gold", "area": "north", "more": "1"})), "west"),
        (&SHOP, "shop", change("metadata", json!({"tier": "gold"})), "east"),
        (&SHOP, "shop", change("metadata", json!({"tier": "gold", "area": "south"})), "east"),
        (&SHOP, "shop", amount(4999), "east"),
        (&SHOP, "shop", amount(5000), "west"),
        (&SHOP, "shop", amount(5999), "west"),
        (&SHOP, "shop", amount(6000), "east"),
        (&SHOP, "shop", h5, "west"),
        (&SHOP, "shop", amount(7500), "west"),
        (&SHOP, "shop", amount(8500), "east"),
        (&SHOP, "shop", change("channel", "third".into()), "third"),
    ];
    for (count, (merchant, name, mut order, expected)) in rows.into_iter().enumerate() {
        let id = format!("o-{count}");
        order["order_id"] = id.as_str().into();
        let said = explained(&world, name, &order);
        assert_eq!(first(&said), expected, "{order}: {said}");
        let made = signed_request(world.gateway.listen, merchant, "POST", "/v1/payments", Some(&id), &order).await;
        assert_eq!((made.status, &made.json()["channel"]), (201, &expected.into()), "{order}: {:?}", made.body);
    }
    let dollars = explained(&world, "shop", &change("amount", json!({"value": 1, "currency": "USD"})));
    assert_eq!(first(&dollars), "west", "{dollars}");
    assert!(dollars.contains("passed over: it requires the merchant `other`"), "{dollars}");
    let pinned = change("channel", "west".into());
    let refused = world.signed_request("POST", "/v1/payments", Some("pinned"), &pinned).await;
    assert_eq!((refused.status, &refused.json()["code"]), (400, &"unknown_channel".into()), "{:?}", refused.body);
    assert!(explained(&world, "shop", &pinned).contains("no channel: no route allows the channel `west`"));
}

#[tokio::test]
async fn weighted_routes_spread_payments_and_orders_keep_their_channel() {
    let world = World::with(WorldOptions { channels: vec!["east", "west"], ..WorldOptions::default() }).await;
    let both = "[[route]]\nto = [{ channel = \"east\", weight = 1 }, { channel = \"west\", weight = 1 }]\n";
    save(&world.conf().join("routes.toml"), both);
    assert_eq!(world.reload().await.status, 200);
    let mut went = Vec::new();
    for number in 0..24 {
        let id = format!("o-{number}");
        let channel = world.create(&id, &id).await.json()["channel"].as_str().unwrap().to_owned();
        assert_eq!(first(&explained(&world, "shop", &payment_body(&id))), channel, "{id}");
        went.push((id, channel));
    }
    let east = went.iter().filter(|(_, channel)| channel == "east").count();
    assert!((4..=20).contains(&east), "{east} of 24 went to east");
    // New payments go to `west` from now on; existing ones are queried, paid and refunded where they are.
    save(&world.conf().join("routes.toml"), "[[route]]\nto = [{ channel = \"west\" }]\n");
    assert_eq!(world.reload().await.status, 200);
    let (id, _) = went.iter().find(|(_, channel)| channel == "east").unwrap();
    world.pay(id).await;
    assert_eq!(world.until_status(id, "succeeded").await["channel"], "east");
    let refund = json!({"refund_id": "r-1", "amount": {"value": 10, "currency": "CNY"}});
    let given = world.signed_request("POST", &format!("/v1/payments/{id}/refunds"), Some("r-1"), &refund).await;
    assert_eq!((given.status, &given.json()["channel"]), (201, &"east".into()), "{:?}", given.body);
    let again = world.create(id, id).await;
    assert_eq!((again.status, &again.json()["channel"]), (201, &"east".into()), "a repetition too");
}
