//! Notifications: encrypted, and signed at each attempt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::orders::{order_object, refund_object, rfc3339};
use super::partner::outward;
use super::reply::{insert, probe, sign};
use crate::account::v3_scheme::Account;
use crate::keys::{encrypt, random_text};
use crate::notification::{self, ComposedNotification, Key, SendOptions, Subject};
use crate::state::{Id, RefundStatus, SandboxState};
use crate::tamper::{ONE_SIGN_TYPE, Tamper};

/// Composes a notification of the subject's current state, or returns why there is none.
pub(crate) fn compose(
    state: &SandboxState,
    account: &Arc<Account>,
    subject: &Subject,
    sending: &SendOptions,
) -> Result<ComposedNotification, String> {
    if sending.tamper == Some(Tamper::SignType) {
        return Err(ONE_SIGN_TYPE.to_owned());
    }
    let mut message = Message::of(state, account, subject)?;
    match sending.tamper {
        Some(Tamper::Amount) => tamper_amount(&mut message.plaintext),
        Some(Tamper::Account) => {
            let name = if account.merchant_of.is_some() { "sub_mchid" } else { "mchid" };
            message.plaintext[name] = json!("1900000000");
        }
        _ => {}
    }
    let id = format!("{}-{}", Timestamp::now().as_millisecond(), random_text(22));
    let body = message.sign_now(account, &id).ok_or("the notification could not be encrypted")?;
    let body = EncryptedBody { account: account.clone(), body, tamper: sending.tamper, key: sending.key };
    Ok(ComposedNotification { id, event_type: message.event_type, url: message.url, body: Arc::new(body) })
}

/// Adds one fen to every amount in an object.
pub(super) fn tamper_amount(object: &mut Value) {
    for amount in object.get_mut("amount").and_then(Value::as_object_mut).into_iter().flat_map(|a| a.values_mut()) {
        if let Some(value) = amount.as_u64() {
            *amount = json!(value + 1);
        }
    }
}

struct Message {
    event_type: &'static str,
    original_type: &'static str,
    summary: &'static str,
    url: String,
    plaintext: Value,
}

impl Message {
    fn of(state: &SandboxState, account: &Account, subject: &Subject) -> Result<Self, String> {
        let order =
            |id: &Id| state.orders.get(id).and_then(|entry| entry.order.as_ref()).ok_or("there is no such order");
        match subject {
            Subject::Payment(id) => {
                let order = order(id)?;
                if order.payment.is_none() {
                    return Err("only paid orders are notified of: pay it first".to_owned());
                }
                // A payment notification reports the payment even after a refund.
                let mut plaintext = order_object(account, &id.1, order);
                plaintext["trade_state"] = json!("SUCCESS");
                plaintext["trade_state_desc"] = json!("支付成功");
                Ok(Self {
                    event_type: "TRANSACTION.SUCCESS",
                    original_type: "transaction",
                    summary: "支付成功",
                    url: order.notify_url.clone().ok_or("the order has no notify_url")?,
                    plaintext,
                })
            }
            Subject::Refund(id) => {
                let refund = state.refunds.get(id).ok_or("there is no such refund")?;
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
                    url: refund.notify_url.clone().ok_or("the refund named no notify_url")?,
                    plaintext: refund_notification_object(account, refund_object(&id.1, refund, order)),
                })
            }
        }
    }

    fn sign_now(&self, account: &Account, id: &str) -> Option<Bytes> {
        let (ciphertext, nonce) = encrypt(&account.api_v3, self.original_type, self.plaintext.to_string().as_bytes())?;
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

/// Converts a refund object to its notification form: `refund_status` instead of `status`, the mchid, fewer amounts.
fn refund_notification_object(account: &Account, object: Value) -> Value {
    let mut notification = json!({"mchid": account.mchid, "refund_status": object["status"], "amount": {}});
    let fields =
        ["transaction_id", "out_trade_no", "refund_id", "out_refund_no", "success_time", "user_received_account"];
    for field in fields.into_iter().filter(|field| object.get(field).is_some()) {
        notification[field] = object[field].clone();
    }
    for amount in ["total", "refund", "payer_total", "payer_refund"] {
        notification["amount"][amount] = object["amount"][amount].clone();
    }
    outward(account, notification)
}

/// A body that is encrypted once and signed at each attempt.
struct EncryptedBody {
    account: Arc<Account>,
    body: Bytes,
    tamper: Option<Tamper>,
    key: Option<Key>,
}

impl notification::NotificationBody for EncryptedBody {
    fn sign_now(&self) -> Option<(HeaderMap, Bytes)> {
        let platform = self.account.platform.as_ref().map(|platform| &platform.key);
        let public = self.account.public_key.as_ref();
        let key = match self.key {
            None => public.or(platform)?,
            Some(Key::PublicKey) => public?,
            Some(Key::Certificate) => platform?,
        };
        let age = if self.tamper == Some(Tamper::Stale) { 600 } else { 0 };
        let salt: &[u8] = if self.tamper == Some(Tamper::Signature) { b"\n" } else { b"" };
        let scheme = self.account.scheme;
        let mut headers = sign(scheme, key, &[&self.body, salt].concat(), Timestamp::now().as_second() - age);
        match self.tamper {
            Some(Tamper::Serial) => {
                let unknown_key = format!("{}00000000000000000000000000", scheme.public_key_prefix);
                insert(&mut headers, &scheme.header("serial"), &unknown_key);
            }
            Some(Tamper::Signtest) => probe(scheme, &mut headers),
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

    fn is_acknowledged(&self, status: u16, _: &[u8]) -> bool {
        matches!(status, 200 | 204)
    }

    fn schedule(&self) -> &'static [Duration] {
        self.account.scheme.notification_schedule
    }
}
