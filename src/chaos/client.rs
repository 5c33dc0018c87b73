//! One payment from its first request to its refund, as an impatient client with a bad network makes it.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::environment::{World, number, refund_number};
use super::provider_faults;
use super::till::Scan;
use super::ways::{PayMethod, order_id};

/// A client tries for so long to be told something.
const PATIENCE: Duration = Duration::from_secs(120);
/// Share of the payments, of which the provider notifies, that are refunded in its console: about 1 % of all that succeed.
const CONSOLE_REFUNDS: f64 = 0.02;

/// What happened to one payment, as its client saw it.
#[derive(Debug)]
pub(super) struct ClientLog {
    pub(super) order: String,
    pub(super) amount: u64,
    pub(super) way: &'static PayMethod,
    /// What became of the payer's code, where a till scanned one.
    pub(super) scan: Option<Scan>,
    /// The faults that were in its way.
    pub(super) faults: Vec<&'static str>,
    /// How often the provider turned the order away, so that it is sent once more.
    pub(super) sent_again: u64,
    /// Requests that the client sent for it.
    pub(super) requests: u64,
    /// What it did not wait for, but left to the queue.
    pub(super) left: u64,
    /// Those that were given up on purpose while they were served.
    pub(super) hung_up: u64,
    /// What the client was told of the payment, each answer's status and body.
    pub(super) told: Vec<(u16, Value)>,
    /// Refunds that it asked for, with their amounts and what it was told.
    pub(super) refunds: Vec<(String, u64, Option<u16>)>,
    /// Amount of the refund that was made in the provider's console.
    pub(super) console_refund: Option<u64>,
    /// What no client may ever see.
    pub(super) wrong: Vec<String>,
}

impl ClientLog {
    pub(super) fn new(serial: u64, amount: u64, way: &'static PayMethod, scan: Option<Scan>) -> Self {
        Self {
            order: order_id(serial),
            amount,
            way,
            scan,
            faults: Vec::new(),
            sent_again: 0,
            requests: 0,
            left: 0,
            hung_up: 0,
            told: Vec::new(),
            refunds: Vec::new(),
            console_refund: None,
            wrong: Vec::new(),
        }
    }
}

/// What the seed decides of a payment before anything happens to it.
struct Plan {
    way: &'static PayMethod,
    scan: Option<Scan>,
    /// Once it is paid, somebody refunds some or all of it in the provider's console.
    has_console_refund: bool,
}

impl Plan {
    fn draw(random: &mut StdRng) -> Self {
        let way = PayMethod::draw(random);
        let scan = Scan::draw(random, way);
        Self { way, scan, has_console_refund: random.random_bool(CONSOLE_REFUNDS) && way.is_notified_of_console() }
    }
}

pub(super) async fn run(world: &World, serial: u64, mut random: StdRng) -> ClientLog {
    let Plan { way, scan, has_console_refund } = Plan::draw(&mut random);
    let amount = random.random_range(1..100_000);
    let story = ClientLog::new(serial, amount, way, scan);
    let order = number(&story.order);
    let door = random.random_range(0..world.gateways.len());
    let mut life = ClientSession { world, random, story, has_console_refund, door };
    if scan == Some(Scan::ChargedPayError) {
        life.script_pay_error().await;
    } else {
        life.maybe_fault("create", &order, 0.35).await;
    }
    life.maybe_fault("query", &order, 0.1).await;
    let body = way.order(serial, amount, scan);
    let Some((status, mut payment)) = life.retry_until_definite("/v1/payments", "pay", &body).await else {
        return life.story;
    };
    life.story.told.push((status, payment.clone()));
    if payment["money_state"] == "not_sent" {
        payment = life.until_made().await;
    }
    if let Some(scan) = scan {
        life.after_scan(scan).await;
        return life.story;
    }
    // Only with what the provider gave for the payer's device can anybody pay.
    let can_pay = !payment["action"].is_null();
    match life.random.random_range(0..100) {
        0..70 if can_pay => life.pays().await,
        70..85 => life.takes_back().await,
        _ => {}
    }
    life.story
}

pub(super) struct ClientSession<'a> {
    pub(super) world: &'a World,
    pub(super) random: StdRng,
    pub(super) story: ClientLog,
    has_console_refund: bool,
    /// The gateway that is asked.
    door: usize,
}

impl ClientSession<'_> {
    async fn maybe_fault(&mut self, operation: &str, number: &str, chance: f64) {
        if !self.random.random_bool(chance) {
            return;
        }
        let channel = self.story.way.channel;
        let Some(drawn) = provider_faults::draw(&mut self.random, channel, operation, number) else { return };
        self.story.sent_again += u64::from(operation == "create" && drawn.sent_again);
        match self.world.fault(drawn.fault).await {
            Ok(()) => self.story.faults.push(drawn.name),
            Err(why) => self.story.wrong.push(why),
        }
    }

    /// Somebody pays; now and then forged notifications come first, now and then money goes back.
    async fn pays(&mut self) {
        let order = self.story.order.clone();
        let path = format!("/orders/{}", number(&order));
        let forge = self.random.random_bool(0.1);
        let paid = self.world.control("POST", &format!("{path}/pay"), json!({"notify": !forge})).await;
        if !matches!(paid, Ok((200, _))) {
            // It was closed meanwhile.
            return;
        }
        if forge {
            let tamper = ["body", "signature", "amount", "account"][self.random.random_range(0..4)];
            let _ = self.world.control("POST", &format!("{path}/notify"), json!({"tamper": tamper})).await;
            let _ = self.world.control("POST", &format!("{path}/notify"), json!({})).await;
        }
        self.maybe_gives_back().await;
    }

    /// The client closes what is unpaid, or takes back what a till scanned.
    pub(super) async fn takes_back(&mut self) {
        let order = self.story.order.clone();
        self.maybe_fault(self.story.way.taking_back(), &number(&order), 0.2).await;
        if let Some(told) =
            self.retry_until_definite(&format!("/v1/payments/{order}/close"), "close", &Value::Null).await
        {
            self.story.told.push(told);
        }
    }

    /// Now and then money goes back: by a refund of the merchant's, in the provider's console, or by both, in any order.
    pub(super) async fn maybe_gives_back(&mut self) {
        let in_console = self.has_console_refund;
        let is_first = self.random.random_bool(0.5);
        if in_console && is_first {
            self.refund_in_console().await;
        }
        if self.random.random_bool(0.3) && self.until_succeeded().await {
            self.refund().await;
        }
        if in_console && !is_first {
            self.refund_in_console().await;
        }
    }

    /// Somebody gives back some or all in the provider's console. The provider refuses more than is left.
    async fn refund_in_console(&mut self) {
        let order = number(&self.story.order);
        let amount = if self.random.random_bool(0.3) {
            self.story.amount
        } else {
            self.random.random_range(1..=self.story.amount)
        };
        let refund = json!({"number": format!("CONSOLE-{order}"), "amount": amount});
        let refunded = self.world.control("POST", &format!("/orders/{order}/refund_in_console"), refund).await;
        if matches!(refunded, Ok((200, _))) {
            self.story.console_refund = Some(amount);
        }
    }

    /// Waits until the gateway says that it was paid. What a till scanned may have another end.
    async fn until_succeeded(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        let path = format!("/v1/payments/{}", self.story.order);
        while Instant::now() < end {
            match self.world.ask(self.door, "GET", &path, None, &Value::Null).await {
                Ok((200, payment)) if payment["status"] == "succeeded" => return true,
                Ok((200, payment)) if self.story.scan.is_some() && has_ended(&payment) => return false,
                Ok((200, _)) => {}
                _ => self.door += 1,
            }
            self.pause(200).await;
        }
        if self.story.scan.is_none() {
            self.story.wrong.push("it was paid and did not become succeeded".to_owned());
        }
        false
    }

    /// What was left to the queue is made by whichever gateway takes it, and tried for longer than this client waits: the books show
    /// what became of it.
    async fn until_made(&mut self) -> Value {
        let end = Instant::now() + PATIENCE;
        let path = format!("/v1/payments/{}", self.story.order);
        while Instant::now() < end {
            match self.world.ask(self.door, "GET", &path, None, &Value::Null).await {
                Ok((200, payment)) if payment["money_state"] != "not_sent" || has_ended(&payment) => return payment,
                Ok((200, _)) => {}
                _ => self.door += 1,
            }
            self.pause(200).await;
        }
        Value::Null
    }

    async fn refund(&mut self) {
        let order = self.story.order.clone();
        let amount = self.random.random_range(1..=self.story.amount);
        let name = "r-1".to_owned();
        self.maybe_fault("refund", &refund_number(&order, &name), 0.3).await;
        self.maybe_fault("refund_query", &refund_number(&order, &name), 0.1).await;
        let body = json!({"refund_id": name, "amount": {"value": amount, "currency": "CNY"}, "reason": "混沌"});
        let told = self.retry_until_definite(&format!("/v1/payments/{order}/refunds"), "refund", &body).await;
        self.story.refunds.push((name, amount, told.map(|(status, _)| status)));
    }

    /// Sends the same request until an answer says what became of it: now and then twice at once, now and then hanging up,
    /// now and then leaving it to the queue.
    async fn retry_until_definite(&mut self, path: &str, what: &str, body: &Value) -> Option<(u16, Value)> {
        let key = format!("{what}-{}", self.story.order);
        let later = self.random.random_bool(0.3).then_some("respond-async");
        self.story.left += u64::from(later.is_some());
        let more = [("idempotency-key", Some(key.as_str())), ("prefer", later)];
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let asked = self.world.ask_with(self.door, "POST", path, &more, body);
            let answer = match self.random.random_range(0..10) {
                0 => {
                    let wait = Duration::from_millis(self.random.random_range(0..40));
                    self.story.requests += 1;
                    tokio::time::timeout(wait, asked).await.unwrap_or_else(|_| {
                        self.story.hung_up += 1;
                        Err("hung up".to_owned())
                    })
                }
                1 | 2 => {
                    self.story.requests += 2;
                    let also = self.random.random_range(0..self.world.gateways.len());
                    let (one, other) = tokio::join!(asked, self.world.ask_with(also, "POST", path, &more, body));
                    if is_definite(&one) { one } else { other }
                }
                _ => {
                    self.story.requests += 1;
                    asked.await
                }
            };
            match answer {
                Ok((status @ (200 | 201 | 202 | 402), told)) => return Some((status, told)),
                // UnionPay closes no orders.
                Ok((400, told)) if told["code"] == "unsupported_by_provider" && what == "close" => {
                    return Some((400, told));
                }
                // Closing what is paid, refunding what is not: the answer of a race.
                Ok((409, told)) if told["code"] == "invalid_state" => return Some((409, told)),
                // It was refunded in the provider's console before.
                Ok((422, told)) if told["code"] == "refund_exceeds_balance" && self.story.console_refund.is_some() => {
                    return Some((422, told));
                }
                // Another gateway may do better with the same key.
                Ok((409 | 503, _)) | Err(_) => self.door += 1,
                Ok((status, told)) => {
                    self.story.wrong.push(format!("{what} was answered {status}: {told}"));
                    return Some((status, told));
                }
            }
            self.pause(300).await;
        }
        self.story.wrong.push(format!("{what} was not answered within {PATIENCE:?}"));
        None
    }

    pub(super) async fn pause(&mut self, most: u64) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(20..most))).await;
    }
}

fn has_ended(payment: &Value) -> bool {
    ["failed", "closed"].iter().any(|status| payment["status"] == *status)
}

fn is_definite(answer: &Result<(u16, Value), String>) -> bool {
    matches!(answer, Ok((200 | 201 | 202 | 402, _)))
}
