//! Notifications: encrypted, signed at each sending, repeated on the schedule until they are acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::orders::{order_object, refund_object, rfc3339};
use super::reply::{insert, sign};
use crate::sandbox::Shared;
use crate::sandbox::account::Account;
use crate::sandbox::books::{Attempt, Books, Id, Notification, RefundStatus};
use crate::sandbox::keys::{random_text, seal};
use crate::sandbox::post::post;

/// What is notified of.
#[derive(Clone, Debug)]
pub(in crate::sandbox) enum Subject {
    Payment(Id),
    Refund(Id),
}

/// How a notification is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::sandbox) struct Sending {
    /// How many copies, all at the same time.
    times: u32,
    /// How long before the first sending.
    delay_ms: u64,
    /// What is wrong with it; a wrong one is sent once and not repeated.
    tamper: Option<Tamper>,
    /// Which of the platform's keys signs; the public key's when there is one.
    key: Option<Key>,
}

impl Default for Sending {
    fn default() -> Self {
        Self { times: 1, delay_ms: 0, tamper: None, key: None }
    }
}

/// What is wrong with a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::sandbox) enum Tamper {
    /// Changed after it was signed.
    Body,
    /// The signature of other bytes.
    Signature,
    /// Rightly signed, ten minutes ago.
    Stale,
    /// Signed with a key of an unknown name.
    Serial,
    /// The platform's own probe: a signature that begins with `WECHATPAY/SIGNTEST/`.
    Signtest,
    /// Rightly signed, with another amount.
    Amount,
    /// Rightly signed, with another mchid.
    Account,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Key {
    PublicKey,
    Certificate,
}

/// Sends what the books say of the subject now; says why there is nothing to send.
pub(in crate::sandbox) fn send(
    shared: &Arc<Shared>,
    books: &mut Books,
    subject: &Subject,
    sending: &Sending,
) -> Result<(), String> {
    let (Subject::Payment(id) | Subject::Refund(id)) = subject;
    let account = shared.accounts.get(&id.0).ok_or("there is no such account")?.clone();
    let mut news = News::of(books, &account, subject)?;
    match sending.tamper {
        Some(Tamper::Amount) => spoil_amount(&mut news.plaintext),
        Some(Tamper::Account) => news.plaintext["mchid"] = json!("1900000000"),
        _ => {}
    }
    let url = news.url.parse::<Uri>().map_err(|error| format!("{}: {error}", news.url))?;
    let notification_id = format!("{}-{}", Timestamp::now().as_millisecond(), random_text(22));
    let body = news.sealed(&account, &notification_id).ok_or("the notification could not be encrypted")?;
    for _ in 0..sending.times {
        let place = books.notifications.len();
        books.notifications.push(Notification {
            id: notification_id.clone(),
            event_type: news.event_type,
            url: news.url.clone(),
            tamper: sending.tamper,
            acknowledged: false,
            attempts: Vec::new(),
        });
        let places = match subject {
            Subject::Payment(id) => books.orders.get_mut(id).map(|entry| &mut entry.notifications),
            Subject::Refund(id) => books.refunds.get_mut(id).map(|refund| &mut refund.notifications),
        };
        places.into_iter().for_each(|places| places.push(place));
        let letter = Letter {
            shared: shared.clone(),
            account: account.clone(),
            url: url.clone(),
            body: body.clone(),
            tamper: sending.tamper,
            key: sending.key,
            place,
            epoch: books.epoch,
        };
        shared.spawn(letter.deliver(Duration::from_millis(sending.delay_ms)));
    }
    Ok(())
}

/// Makes every amount in an object one fen more.
pub(super) fn spoil_amount(object: &mut Value) {
    for amount in object.get_mut("amount").and_then(Value::as_object_mut).into_iter().flat_map(|a| a.values_mut()) {
        if let Some(value) = amount.as_u64() {
            *amount = json!(value + 1);
        }
    }
}

struct News {
    event_type: &'static str,
    original_type: &'static str,
    summary: &'static str,
    url: String,
    plaintext: Value,
}

impl News {
    fn of(books: &Books, account: &Account, subject: &Subject) -> Result<Self, String> {
        let order =
            |id: &Id| books.orders.get(id).and_then(|entry| entry.order.as_ref()).ok_or("there is no such order");
        let url = |parameters: &Value| parameters["notify_url"].as_str().map(str::to_owned);
        match subject {
            Subject::Payment(id) => {
                let order = order(id)?;
                if order.payment.is_none() {
                    return Err("only paid orders are notified of: pay it first".to_owned());
                }
                // The notification speaks of the payment, also after a refund.
                let mut plaintext = order_object(account, &id.1, order);
                plaintext["trade_state"] = json!("SUCCESS");
                plaintext["trade_state_desc"] = json!("支付成功");
                Ok(Self {
                    event_type: "TRANSACTION.SUCCESS",
                    original_type: "transaction",
                    summary: "支付成功",
                    url: url(&order.parameters).ok_or("the order has no notify_url")?,
                    plaintext,
                })
            }
            Subject::Refund(id) => {
                let refund = books.refunds.get(id).ok_or("there is no such refund")?;
                let order = order(&(id.0.clone(), refund.order.clone()))?;
                let (event_type, summary) = match refund.status {
                    RefundStatus::Processing => return Err("the refund is still open: finish it first".to_owned()),
                    RefundStatus::Success => ("REFUND.SUCCESS", "退款成功"),
                    RefundStatus::Closed => ("REFUND.CLOSED", "退款关闭"),
                    RefundStatus::Abnormal => ("REFUND.ABNORMAL", "退款异常"),
                };
                Ok(Self {
                    event_type,
                    original_type: "refund",
                    summary,
                    url: url(&refund.parameters).ok_or("the refund named no notify_url")?,
                    plaintext: refund_news(account, refund_object(&id.1, refund, order)),
                })
            }
        }
    }

    fn sealed(&self, account: &Account, id: &str) -> Option<Bytes> {
        let (ciphertext, nonce) = seal(&account.api_v3, self.original_type, self.plaintext.to_string().as_bytes())?;
        let body = json!({
            "id": id,
            "create_time": rfc3339(Timestamp::now()),
            "resource_type": "encrypt-resource",
            "event_type": self.event_type,
            "summary": self.summary,
            "resource": {
                "original_type": self.original_type,
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": ciphertext,
                "associated_data": self.original_type,
                "nonce": nonce,
            },
        });
        Some(body.to_string().into())
    }
}

/// The refund's other shape: `refund_status` for `status`, the mchid, fewer amounts.
fn refund_news(account: &Account, object: Value) -> Value {
    let mut news = json!({"mchid": account.mchid, "refund_status": object["status"], "amount": {}});
    let fields =
        ["transaction_id", "out_trade_no", "refund_id", "out_refund_no", "success_time", "user_received_account"];
    for field in fields.into_iter().filter(|field| object.get(field).is_some()) {
        news[field] = object[field].clone();
    }
    for amount in ["total", "refund", "payer_total", "payer_refund"] {
        news["amount"][amount] = object["amount"][amount].clone();
    }
    news
}

/// One copy of a notification, on its way.
struct Letter {
    shared: Arc<Shared>,
    account: Arc<Account>,
    url: Uri,
    body: Bytes,
    tamper: Option<Tamper>,
    key: Option<Key>,
    place: usize,
    epoch: u64,
}

impl Letter {
    async fn deliver(self, delay: Duration) {
        tokio::time::sleep(delay).await;
        let repeats = if self.tamper.is_some() { &[] } else { self.shared.schedule.as_slice() };
        for wait in repeats.iter().map(Some).chain([None]) {
            if self.shared.books.lock().epoch != self.epoch {
                return;
            }
            let Some((headers, body)) = self.sealed() else { return };
            let at = Timestamp::now();
            let answer = post(&self.url, headers, body).await;
            let acknowledged = matches!(answer, Ok(200 | 204));
            if !self.record(at, answer, acknowledged) || acknowledged {
                return;
            }
            if let Some(wait) = wait {
                tokio::time::sleep(*wait).await;
            }
        }
    }

    fn sealed(&self) -> Option<(HeaderMap, Bytes)> {
        let platform = self.account.platform.as_ref().map(|platform| &platform.key);
        let public = self.account.public_key.as_ref();
        let key = match self.key {
            None => public.or(platform)?,
            Some(Key::PublicKey) => public?,
            Some(Key::Certificate) => platform?,
        };
        let age = if self.tamper == Some(Tamper::Stale) { 600 } else { 0 };
        let salt: &[u8] = if self.tamper == Some(Tamper::Signature) { b"\n" } else { b"" };
        let mut headers = sign(key, &[&self.body, salt].concat(), Timestamp::now().as_second() - age);
        match self.tamper {
            Some(Tamper::Serial) => insert(&mut headers, "wechatpay-serial", "PUB_KEY_ID_0100000000000000000000000000"),
            Some(Tamper::Signtest) => {
                let signature = headers.get("wechatpay-signature").and_then(|value| value.to_str().ok());
                let probe = format!("WECHATPAY/SIGNTEST/{}", signature.unwrap_or_default());
                insert(&mut headers, "wechatpay-signature", &probe);
            }
            _ => {}
        }
        insert(&mut headers, "content-type", "application/json");
        insert(&mut headers, "request-id", &format!("08{}-0", random_text(30).to_uppercase()));
        let body = match self.tamper {
            Some(Tamper::Body) => [&self.body, b" ".as_slice()].concat().into(),
            _ => self.body.clone(),
        };
        Some((headers, body))
    }

    /// False when the books were reset meanwhile.
    fn record(&self, at: Timestamp, answer: std::io::Result<u16>, acknowledged: bool) -> bool {
        let mut books = self.shared.books.lock();
        if books.epoch != self.epoch {
            return false;
        }
        books.stats.notifications_sent += 1;
        books.stats.notifications_acknowledged += u64::from(acknowledged);
        if let Some(notification) = books.notifications.get_mut(self.place) {
            let error = answer.as_ref().err().map(ToString::to_string);
            notification.acknowledged = acknowledged;
            notification.attempts.push(Attempt { at, status: answer.ok(), error });
        }
        true
    }
}
