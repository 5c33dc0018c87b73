//! Delivery of notifications: composed by the provider's protocol, recorded, and repeated on a schedule until
//! acknowledged.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use jiff::Timestamp;

use super::context::SandboxContext;
use super::http_client::post;
use super::notification::{NotificationBody, SendOptions, Subject};
use super::order_machine::Done;
use super::state::{Attempt, Notification, SandboxState};

/// Sends the notification that a request caused. Returns the reply to the request. Without a notification URL there is no
/// receiver.
pub(super) fn announce<R, E>(
    context: &Arc<SandboxContext>,
    state: &mut SandboxState,
    result: Result<Done<R>, E>,
) -> Result<R, E> {
    let Done { reply, notify } = result?;
    if let Some(subject) = notify {
        send(context, state, &subject, &SendOptions::default()).ok();
    }
    Ok(reply)
}

/// Sends the current state of the subject. Returns an error message if there is nothing to send.
pub(super) fn send(
    context: &Arc<SandboxContext>,
    state: &mut SandboxState,
    subject: &Subject,
    options: &SendOptions,
) -> Result<(), String> {
    let (Subject::Payment(id) | Subject::Refund(id)) = subject;
    let account = context.accounts.get(&id.0).ok_or("there is no such account")?;
    let composed = Arc::clone(account).compose(state, subject, options)?;
    let url = composed.url.parse::<Uri>().map_err(|error| format!("{}: {error}", composed.url))?;
    for _ in 0..options.times {
        let index = state.notifications.len();
        state.notifications.push(Notification {
            id: composed.id.clone(),
            event_type: composed.event_type,
            url: composed.url.clone(),
            tamper: options.tamper,
            acknowledged: false,
            attempts: Vec::new(),
        });
        let indexes = match subject {
            Subject::Payment(id) => state.orders.get_mut(id).map(|entry| &mut entry.notifications),
            Subject::Refund(id) => state.refunds.get_mut(id).map(|refund| &mut refund.notifications),
        };
        indexes.into_iter().for_each(|indexes| indexes.push(index));
        let task = DeliveryTask {
            context: context.clone(),
            body: composed.body.clone(),
            url: url.clone(),
            is_sent_once: options.tamper.is_some(),
            index,
            epoch: state.epoch,
        };
        context.spawn(task.run(Duration::from_millis(options.delay_ms)));
    }
    Ok(())
}

/// Delivery of one copy of a notification.
struct DeliveryTask {
    context: Arc<SandboxContext>,
    body: Arc<dyn NotificationBody>,
    url: Uri,
    is_sent_once: bool,
    index: usize,
    epoch: u64,
}

impl DeliveryTask {
    async fn run(self, delay: Duration) {
        tokio::time::sleep(delay).await;
        let repeats = match self.context.schedule.as_slice() {
            _ if self.is_sent_once => &[],
            [] => self.body.schedule(),
            schedule => schedule,
        };
        for wait in repeats.iter().map(Some).chain([None]) {
            if self.context.state.lock().epoch != self.epoch {
                return;
            }
            let Some((headers, body)) = self.body.sign_now() else { return };
            let at = Timestamp::now();
            let response = post(&self.url, headers, body).await;
            let acknowledged = response.as_ref().is_ok_and(|(status, body)| self.body.is_acknowledged(*status, body));
            if !self.record(at, response.map(|(status, _)| status), acknowledged) || acknowledged {
                return;
            }
            if let Some(wait) = wait {
                tokio::time::sleep(*wait).await;
            }
        }
    }

    /// Records an attempt. Returns false if the state was reset in the meantime.
    fn record(&self, at: Timestamp, response: std::io::Result<u16>, acknowledged: bool) -> bool {
        let mut state = self.context.state.lock();
        if state.epoch != self.epoch {
            return false;
        }
        state.stats.notifications_sent += 1;
        state.stats.notifications_acknowledged += u64::from(acknowledged);
        if let Some(notification) = state.notifications.get_mut(self.index) {
            let error = response.as_ref().err().map(ToString::to_string);
            notification.acknowledged = acknowledged;
            notification.attempts.push(Attempt { at, status: response.ok(), error });
        }
        true
    }
}
