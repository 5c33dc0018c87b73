//! `tollgate demo`: the whole thing on one machine, without any set-up. A sandbox, a gateway and a small shop; one payment
//! is made, paid, notified, delivered, repeated and refunded, and each step says what just happened and why it is safe.

mod shop;
mod stage;

use serde_json::{Value, json};

use self::shop::Shop;
use self::stage::Stage;
use crate::output::say;

/// Plays the demo; with `keep` everything is left running until Ctrl-C.
pub fn run(keep: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let stage = Stage::start().await?;
        let played = play(&stage).await;
        if keep && played.is_ok() {
            stage.hints();
            tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
        }
        stage.clear();
        played
    })
}

async fn play(stage: &Stage) -> Result<(), String> {
    let shop = &stage.shop;
    title("Everything runs on this machine");
    fact(
        "provider",
        &format!(
            "a sandbox of WeChat Pay v3 at https://{} (mutual TLS, checks every signature)",
            stage.sandbox.address()
        ),
    );
    fact("gateway", &format!("Tollgate at http://{}", stage.gateway.address));
    fact("shop", &format!("a merchant that receives events at {}", shop.url()));

    title("1  The shop asks for a payment of 8.88 CNY");
    let order = json!({"order_id": "tea-1", "amount": {"value": 888, "currency": "CNY"}, "description": "龙井茶 Longjing tea", "method": "wechat.native"});
    let (status, first) = shop.ask("POST", "/v1/payments", Some("demo-key-1"), &order).await?;
    fact("answer", &format!("{status}, status {}", text(&first["status"])));
    let link = first["action"]["data"].as_str().ok_or_else(|| format!("no QR code came: {first}"))?;
    say!("{}", qr(link)?);
    why(
        "The claim was on disk before a byte left. The answer was believed because WeChat Pay's signature over it is right.",
    );

    title("2  The shop's network stutters: it sends the same request again, five times at once");
    let again = five_times(shop, &order).await?;
    fact("answers", &again);
    let seen = stage.seen("tea-1").await?;
    fact("arrivals", &format!("the provider saw {} request", seen["arrivals"]["create"]));
    why("One key is one payment, whatever happens. A repetition gets the first answer, to the byte.");

    title("3  The payer scans the code and pays");
    stage.pay("tea-1").await?;
    let event = shop.event("payment.succeeded").await?;
    fact("notified", "the provider's notification was verified, decrypted and recorded, then acknowledged");
    fact("event", &format!("{} {}", text(&event["type"]), text(&event["id"])));
    fact(
        "payment",
        &format!(
            "status {}, money {}",
            text(&event["data"]["payment"]["status"]),
            text(&event["data"]["payment"]["money_state"])
        ),
    );
    why("Acknowledged only once it was durable: a crash now would not lose the event, and it would keep its id.");

    title("4  A connection is cut after the provider has executed a request");
    stage.fault(json!({"operation": "create", "fault": "cut_after"})).await?;
    let mut second = order.clone();
    second["order_id"] = "tea-2".into();
    let (status, unknown) = shop.ask("POST", "/v1/payments", Some("demo-key-2"), &second).await?;
    fact("answer", &format!("{status}, status {}", text(&unknown["status"])));
    let found = shop.until("tea-2", "pending").await?;
    let seen = stage.seen("tea-2").await?;
    fact(
        "resolved",
        &format!(
            "status {}; the provider saw {} × create, {} × query",
            text(&found["status"]),
            seen["arrivals"]["create"],
            seen["arrivals"]["query"]
        ),
    );
    why(
        "Not sure means unknown: the provider is asked what became of it. Nobody pays twice: one order number is one order there.",
    );

    title("5  A forged notification says that tea-2 was paid");
    let refused = stage.forge("tea-2").await?;
    fact("answer", &format!("{refused}, refused: a true one would be sent again"));
    why("Its signature was wrong, so nothing in it was read.");

    title("6  The shop gives 3.00 CNY back");
    let refund = json!({"refund_id": "back-1", "amount": {"value": 300, "currency": "CNY"}, "reason": "一袋破了 one bag was torn"});
    let (status, _) = shop.ask("POST", "/v1/payments/tea-1/refunds", Some("demo-key-3"), &refund).await?;
    let event = shop.event("refund.succeeded").await?;
    fact("answer", &status.to_string());
    fact("event", &format!("{} over {} fen", text(&event["type"]), event["data"]["refund"]["amount"]["value"]));
    let payment = shop.payment("tea-1").await?;
    fact("payment", &format!("{} of {} fen given back", payment["refunded"], payment["amount"]["value"]));

    title("That is all");
    say!(
        "   Next: `tollgate demo --keep` leaves it running for your own requests; the README shows the first one with curl.\n"
    );
    Ok(())
}

/// Five times the same request at once, told as "201 replayed" and so on.
async fn five_times(shop: &Shop, order: &Value) -> Result<String, String> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (shop, order) = (shop.clone(), order.clone());
        tasks.spawn(async move { shop.ask("POST", "/v1/payments", Some("demo-key-1"), &order).await });
    }
    let mut statuses = Vec::new();
    while let Some(answer) = tasks.join_next().await {
        statuses.push(answer.map_err(|error| error.to_string())??.0.to_string());
    }
    Ok(statuses.join(" "))
}

fn qr(link: &str) -> Result<String, String> {
    let code = qrcode::QrCode::new(link).map_err(|error| error.to_string())?;
    let picture = code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build();
    // Black on white whatever the terminal's colours are, so that a telephone can read it.
    Ok(picture.lines().map(|line| format!("   \x1b[30;107m{line}\x1b[0m\n")).collect())
}

fn title(text: &str) {
    say!("\n\x1b[1m{text}\x1b[0m");
}

fn fact(name: &str, text: &str) {
    say!("   {name:<10}{text}");
}

fn why(text: &str) {
    say!("   \x1b[2m{text}\x1b[0m");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
