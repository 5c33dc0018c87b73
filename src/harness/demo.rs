//! `tollgate demo`: sandbox, gateway and merchant on one machine, without set-up. The demo creates, pays, repeats and
//! refunds a payment, cuts a connection and forges a notification. Each step prints what happened and why it is safe.

mod environment;
mod shop;

use serde_json::{Value, json};

use self::environment::DemoEnvironment;
use self::shop::Shop;
use crate::Printer;

/// Runs the demo. With `keep`, sandbox, gateway and merchant run until Ctrl-C.
pub fn run(keep: bool, print: Printer) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let environment = DemoEnvironment::start().await?;
        let result = run_steps(&environment, &Narrator(print)).await;
        if keep && result.is_ok() {
            environment.print_hints(print);
            tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
        }
        environment.shut_down();
        result
    })
}

async fn run_steps(environment: &DemoEnvironment, narrator: &Narrator) -> Result<(), String> {
    let shop = &environment.shop;
    narrator.title("Sandbox, gateway and shop run on this machine");
    narrator.fact(
        "provider",
        &format!(
            "a sandbox of WeChat Pay v3 at https://{} (mutual TLS, every signature is verified)",
            environment.sandbox.address()
        ),
    );
    narrator.fact("gateway", &format!("Tollgate at http://{}", environment.gateway.address));
    narrator.fact("shop", &format!("a merchant that receives webhook events at {}", shop.url()));

    narrator.title("1  The shop asks for a payment of 8.88 CNY");
    let order = json!({"order_id": "tea-1", "amount": {"value": 888, "currency": "CNY"}, "description": "龙井茶 Longjing tea", "method": "wechat.native"});
    let (status, first) = shop.send("POST", "/v1/payments", Some("demo-key-1"), &order).await?;
    narrator.fact("response", &format!("{status}, status {}", text(&first["status"])));
    let link = first["action"]["data"].as_str().ok_or_else(|| format!("the response has no QR code: {first}"))?;
    narrator.line(format_args!("{}", qr_code(link)?));
    narrator.why(
        "The idempotency claim was on disk before the request was sent. WeChat Pay's signature of the response was verified.",
    );

    narrator.title("2  The shop retries: it sends the same request five times at once");
    let statuses = send_five_times(shop, &order).await?;
    narrator.fact("responses", &statuses);
    let seen = environment.sandbox_order("tea-1").await?;
    narrator.fact("provider", &format!("requests received: {}", seen["arrivals"]["create"]));
    narrator.why("One idempotency key is one payment. A retry gets the first response, byte for byte.");

    narrator.title("3  The payer scans the code and pays");
    environment.pay("tea-1").await?;
    let event = shop.wait_for_event("payment.succeeded").await?;
    narrator.fact("notified", "the provider's notification was verified, decrypted, recorded, and then acknowledged");
    narrator.fact("event", &format!("{} {}", text(&event["type"]), text(&event["id"])));
    narrator.fact(
        "payment",
        &format!(
            "status {}, money {}",
            text(&event["data"]["payment"]["status"]),
            text(&event["data"]["payment"]["money_state"])
        ),
    );
    narrator.why(
        "The notification was durable before it was acknowledged: after a crash the event is still delivered, with the same id.",
    );

    narrator.title("4  The connection is cut after the provider has executed a request");
    environment.add_fault(json!({"operation": "create", "fault": "cut_after"})).await?;
    let mut second = order.clone();
    second["order_id"] = "tea-2".into();
    let (status, unknown) = shop.send("POST", "/v1/payments", Some("demo-key-2"), &second).await?;
    narrator.fact("response", &format!("{status}, status {}", text(&unknown["status"])));
    let found = shop.wait_for_status("tea-2", "pending").await?;
    let seen = environment.sandbox_order("tea-2").await?;
    narrator.fact(
        "resolved",
        &format!(
            "status {}; requests received by the provider: create {}, query {}",
            text(&found["status"]),
            seen["arrivals"]["create"],
            seen["arrivals"]["query"]
        ),
    );
    narrator.why(
        "An unclear result is `unknown`, never a guess. The resolver queried the provider. The order number is unique there: no double payment.",
    );

    narrator.title("5  A forged notification says that tea-2 was paid");
    let status = environment.send_forged_notification("tea-2").await?;
    narrator.fact(
        "response",
        &format!("{status}, rejected: a provider repeats a genuine notification until it is acknowledged"),
    );
    narrator.why("The signature was wrong, so the content was not decrypted.");

    narrator.title("6  The shop refunds 3.00 CNY");
    let refund = json!({"refund_id": "back-1", "amount": {"value": 300, "currency": "CNY"}, "reason": "一袋破了 one bag was torn"});
    let (status, _) = shop.send("POST", "/v1/payments/tea-1/refunds", Some("demo-key-3"), &refund).await?;
    let event = shop.wait_for_event("refund.succeeded").await?;
    narrator.fact("response", &status.to_string());
    narrator.fact("event", &format!("{}, {} fen", text(&event["type"]), event["data"]["refund"]["amount"]["value"]));
    let payment = shop.payment("tea-1").await?;
    narrator.fact("payment", &format!("{} of {} fen refunded", payment["refunded"], payment["amount"]["value"]));

    narrator.title("The demo is complete");
    narrator.line(format_args!(
        "   Next: `tollgate demo --keep` keeps everything running for your own requests; the README shows the first one with curl.\n"
    ));
    Ok(())
}

/// Sends the same request five times at once. Returns the statuses, separated by spaces.
async fn send_five_times(shop: &Shop, order: &Value) -> Result<String, String> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (shop, order) = (shop.clone(), order.clone());
        tasks.spawn(async move { shop.send("POST", "/v1/payments", Some("demo-key-1"), &order).await });
    }
    let mut statuses = Vec::new();
    while let Some(response) = tasks.join_next().await {
        statuses.push(response.map_err(|error| error.to_string())??.0.to_string());
    }
    Ok(statuses.join(" "))
}

fn qr_code(link: &str) -> Result<String, String> {
    let code = qrcode::QrCode::new(link).map_err(|error| error.to_string())?;
    let image = code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build();
    // Sets black on white regardless of the terminal's colours, so that a phone can scan the code.
    Ok(image.lines().map(|line| format!("   \x1b[30;107m{line}\x1b[0m\n")).collect())
}

/// Prints the demo's steps.
struct Narrator(Printer);

impl Narrator {
    fn title(&self, text: &str) {
        self.line(format_args!("\n\x1b[1m{text}\x1b[0m"));
    }

    fn fact(&self, name: &str, text: &str) {
        self.line(format_args!("   {name:<10}{text}"));
    }

    fn why(&self, text: &str) {
        self.line(format_args!("   \x1b[2m{text}\x1b[0m"));
    }

    fn line(&self, text: std::fmt::Arguments<'_>) {
        (self.0)(text);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
