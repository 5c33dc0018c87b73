//! Listening connection of the change feed.

use std::future::poll_fn;
use std::time::Duration;

use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage};

use super::echo::{Echoes, channel};
use super::wire::{changes, read};
use super::{ANSWER_TIMEOUT, CHANGES_CHANNEL, OutgoingMessage};
use crate::change_feed::ChangeListener;
use crate::postgres::Shared;
use crate::postgres::address::chain;
use crate::postgres::connect::{Link, connect};
use crate::postgres::session::{IS_READ_ONLY, is_true};

/// Maximum age of the last returned echo, from its sending. After that, changes may have been missed.
const MAX_ECHO_AGE: Duration = Duration::from_secs(3);

/// Interval of echoes.
const ECHO_INTERVAL: Duration = Duration::from_secs(1);

/// Delay before the listener reconnects.
const RELISTEN_INTERVAL: Duration = Duration::from_millis(300);

/// Receives changes until the feed is shut, and reconnects after a failure.
pub(super) async fn run_listener(shared: &Shared) {
    let Some(listener) = shared.feed.listener.get() else { return };
    let mut is_reported = false;
    loop {
        let mut connection = NotificationListener { shared, listener: listener.as_ref(), echoes: Echoes::default() };
        tokio::select! {
            ended = connection.connect() => if let Err(why) = ended {
                // Logged once until an echo returns again.
                if connection.echoes.last_returned().is_some() || !is_reported {
                    tracing::warn!(why, "changes of other machines are not received: every status is read from the ledger");
                }
                is_reported = true;
            },
            () = shared.feed.stop.notified() => return,
        }
        listener.disconnected();
        shared.feed.catch_up_waiters.lock().clear();
        tokio::select! {
            () = tokio::time::sleep(RELISTEN_INTERVAL) => {}
            () = shared.feed.stop.notified() => return,
        }
    }
}

struct NotificationListener<'a> {
    shared: &'a Shared,
    listener: &'a dyn ChangeListener,
    echoes: Echoes,
}

impl NotificationListener<'_> {
    async fn connect(&mut self) -> Result<(), String> {
        let (client, mut link) = connect(&self.shared.address).await.map_err(|failure| failure.why)?;
        self.listen(&client, &mut link).await
    }

    /// Receives until the connection fails.
    async fn listen(&mut self, client: &Client, link: &mut Link) -> Result<(), String> {
        let echo = channel(self.shared.owner);
        let begin = format!("SET application_name = 'tollgate feed'; LISTEN {CHANGES_CHANNEL}; LISTEN {echo}");
        self.ask(client, link, &begin).await?;
        let mut echo_timer = tokio::time::interval(ECHO_INTERVAL);
        loop {
            tokio::select! {
                biased;
                message = poll_fn(|context| link.poll_message(context)) => self.handle_message(message)?,
                () = self.shared.feed.catch_up_requested.notified() => self.answer_catch_up(client, link).await?,
                _ = echo_timer.tick() => {
                    if self.echoes.are_missing(MAX_ECHO_AGE) {
                        return Err("this process's own notifications do not come back to it".to_owned());
                    }
                    self.shared.feed.push(OutgoingMessage::Echo(self.echoes.next()));
                }
            }
        }
    }

    /// Sends a query whose answer follows every earlier notification. Done only if the last echo returned recently,
    /// and fails if the server is read-only.
    async fn answer_catch_up(&mut self, client: &Client, link: &mut Link) -> Result<(), String> {
        if self.echoes.last_returned().is_none_or(|sent| sent.elapsed() > MAX_ECHO_AGE) {
            // The next echo triggers it again.
            return Ok(());
        }
        let waiting = std::mem::take(&mut *self.shared.feed.catch_up_waiters.lock());
        if is_true(&self.ask(client, link, IS_READ_ONLY).await?) {
            return Err("PostgreSQL takes no more writes here: it became read-only".to_owned());
        }
        for waiter in waiting {
            let _ = waiter.send(());
        }
        Ok(())
    }

    async fn ask(&mut self, client: &Client, link: &mut Link, what: &str) -> Result<Vec<SimpleQueryMessage>, String> {
        let answer = client.simple_query(what);
        tokio::pin!(answer);
        let asking = async {
            loop {
                tokio::select! {
                    biased;
                    message = poll_fn(|context| link.poll_message(context)) => self.handle_message(message)?,
                    answer = &mut answer => return answer.map_err(|error| chain(&error)),
                }
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asking)
            .await
            .unwrap_or_else(|_| Err("PostgreSQL does not answer".to_owned()))
    }

    fn handle_message(&mut self, message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> Result<(), String> {
        let message = message.ok_or("the connection was closed")?.map_err(|error| chain(&error))?;
        let AsyncMessage::Notification(waiters) = message else { return Ok(()) };
        if waiters.channel() != CHANGES_CHANNEL {
            if let Some(sent) = waiters.payload().parse().ok().and_then(|number| self.echoes.returned(number)) {
                self.listener.subscribed(Some(sent + MAX_ECHO_AGE));
                if !self.shared.feed.catch_up_waiters.lock().is_empty() {
                    self.shared.feed.catch_up_requested.notify_one();
                }
            }
            return Ok(());
        }
        if waiters.payload() == "*" {
            return Err("the ledger was imported".to_owned());
        }
        let Some((owner, items)) = read(waiters.payload()) else {
            tracing::warn!("another program writes to the channel tollgate_changes");
            return Ok(());
        };
        // This process's own changes were reported at once.
        if owner != self.shared.owner {
            let (before, after) = changes(&items);
            if !before.is_empty() {
                self.listener.before_commit(&before);
            }
            if !after.is_empty() {
                self.listener.after_commit(&after);
            }
        }
        Ok(())
    }
}
