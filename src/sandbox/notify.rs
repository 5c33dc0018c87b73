//! Notifications: composed by the dialect, written down, repeated on a schedule until they are acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::account::Account;
use super::http_client::post;
use super::state::{Attempt, Id, Notification, SandboxState};
use super::{Shared, alipay, unionpay, wechat_v2, wechat_v3};

/// What is notified of.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Payment(Id),
    Refund(Id),
}

/// How a notification is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sending {
    /// How many copies, all at the same time.
    times: u32,
    /// How long before the first sending.
    delay_ms: u64,
    /// What is wrong with it; a wrong one is sent once and not repeated.
    pub(super) tamper: Option<Tamper>,
    /// Which of WeChat's keys signs; the public key's when there is one.
    pub(super) key: Option<Key>,
    /// Whether its text is in GBK, signed over those bytes; only Alipay's are.
    pub(super) gbk: bool,
}

impl Default for Sending {
    fn default() -> Self {
        Self { times: 1, delay_ms: 0, tamper: None, key: None, gbk: false }
    }
}

/// What is wrong with a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tamper {
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
    /// Rightly signed with the same key, but in the other of APIv2's two ways.
    SignType,
    /// Rightly signed, with another amount.
    Amount,
    /// Rightly signed, with another mchid, app_id or merId.
    Account,
}

/// The names of the platform's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Key {
    PublicKey,
    Certificate,
}

/// A notification as its dialect composed it.
pub(super) struct News {
    /// The notification's own number, the same at each repetition.
    pub(super) id: String,
    /// What happened, as the control API tells it.
    pub(super) event_type: &'static str,
    pub(super) url: String,
    pub(super) letter: Arc<dyn NotificationBody>,
}

/// What a dialect knows of sending.
pub(super) trait NotificationBody: Send + Sync {
    /// Headers and body, signed now.
    fn sealed(&self) -> Option<(HeaderMap, Bytes)>;
    /// Whether this answer ends the repetitions.
    fn is_acknowledged(&self, status: u16, body: &[u8]) -> bool;
    /// The provider's own waits before each repetition.
    fn schedule(&self) -> &'static [Duration];
}

/// Sends what the books say of the subject now; says why there is nothing to send.
pub(super) fn send(
    shared: &Arc<Shared>,
    books: &mut SandboxState,
    subject: &Subject,
    sending: &Sending,
) -> Result<(), String> {
    let (Subject::Payment(id) | Subject::Refund(id)) = subject;
    let account = shared.accounts.get(&id.0).ok_or("there is no such account")?;
    if sending.tamper == Some(Tamper::SignType) && !matches!(account, Account::WechatV2(_)) {
        return Err("only APIv2 of WeChat Pay signs in two ways".to_owned());
    }
    let news = match account {
        Account::WechatV3(account) => wechat_v3::compose(books, account, subject, sending)?,
        Account::WechatV2(account) => wechat_v2::compose(books, account, subject, sending)?,
        Account::Alipay(account) => alipay::compose(books, account, subject, sending)?,
        Account::Unionpay(account) => unionpay::compose(books, account, subject, sending)?,
    };
    let url = news.url.parse::<Uri>().map_err(|error| format!("{}: {error}", news.url))?;
    for _ in 0..sending.times {
        let place = books.notifications.len();
        books.notifications.push(Notification {
            id: news.id.clone(),
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
        let errand = DeliveryTask {
            shared: shared.clone(),
            letter: news.letter.clone(),
            url: url.clone(),
            once: sending.tamper.is_some(),
            place,
            epoch: books.epoch,
        };
        shared.spawn(errand.run(Duration::from_millis(sending.delay_ms)));
    }
    Ok(())
}

/// One copy of a notification, on its way.
struct DeliveryTask {
    shared: Arc<Shared>,
    letter: Arc<dyn NotificationBody>,
    url: Uri,
    once: bool,
    place: usize,
    epoch: u64,
}

impl DeliveryTask {
    async fn run(self, delay: Duration) {
        tokio::time::sleep(delay).await;
        let repeats = match self.shared.schedule.as_slice() {
            _ if self.once => &[],
            [] => self.letter.schedule(),
            schedule => schedule,
        };
        for wait in repeats.iter().map(Some).chain([None]) {
            if self.shared.books.lock().epoch != self.epoch {
                return;
            }
            let Some((headers, body)) = self.letter.sealed() else { return };
            let at = Timestamp::now();
            let answer = post(&self.url, headers, body).await;
            let acknowledged = answer.as_ref().is_ok_and(|(status, body)| self.letter.is_acknowledged(*status, body));
            if !self.record(at, answer.map(|(status, _)| status), acknowledged) || acknowledged {
                return;
            }
            if let Some(wait) = wait {
                tokio::time::sleep(*wait).await;
            }
        }
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
