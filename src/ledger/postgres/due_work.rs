//! Due inquiries, jobs and deliveries: reserved for this process and read.

use jiff::Timestamp;

use super::session::Session;
use super::{Engine, dequeue};
use crate::claims::jobs;
use crate::due_index::{LATEST_DUE, LATEST_DUE_JOB};
use crate::error::LedgerError;
use crate::ids::Id;
use crate::limits::DueLimit;
use crate::records::{Delivery, Record};
use crate::transaction::Space;
use crate::{inquiries, outbox};

impl Engine {
    pub(crate) async fn due_inquiries(&self, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Record> {
        let owner = self.shared.owner;
        let when = self.shared.due.ranges(Space::Inquiries, now, LATEST_DUE);
        let busy = busy.to_vec();
        let reserved = self.ask(move |session| {
            let keys = dequeue::reserve_inquiries(session, owner, &when, limit, &busy)?;
            complete_or_error(session, inquiries::records(session, &keys))
        });
        or_empty(reserved.await)
    }

    pub(crate) async fn due_jobs(&self, now: Timestamp, limit: DueLimit) -> Vec<(Id, String)> {
        let owner = self.shared.owner;
        let when = self.shared.due.ranges(Space::Jobs, now, LATEST_DUE_JOB);
        let reserved = self.ask(move |session| Ok(jobs::jobs(&dequeue::reserve_jobs(session, owner, &when, &limit)?)));
        or_empty(reserved.await)
    }

    pub(crate) async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        let owner = self.shared.owner;
        let when = self.shared.due.ranges(Space::Outbox, now, LATEST_DUE);
        let due_by_subscription =
            self.ask(move |session| Ok(dequeue::due_by_subscription(session, owner, &when)?)).await;
        let chosen = match due_by_subscription {
            Ok(due_by_subscription) => dequeue::choose(due_by_subscription, limit, free, under_way),
            Err(error) => return or_empty(Err(error)),
        };
        if chosen.is_empty() {
            return Vec::new();
        }
        let reserved = self.ask(move |session| {
            let reserved = dequeue::reserve_deliveries(session, owner, &chosen)?;
            complete_or_error(session, outbox::deliveries(session, reserved))
        });
        or_empty(reserved.await)
    }
}

/// Returns the rows, or an error if a row could not be read for lack of a connection.
fn complete_or_error<T>(session: &Session, found: Vec<T>) -> Result<Vec<T>, LedgerError> {
    match session.has_failed_statement() {
        false => Ok(found),
        true => {
            let why = "the connection to PostgreSQL was lost during a read".to_owned();
            Err(LedgerError::Unreachable { why, source: None })
        }
    }
}

/// Returns no rows after an error, because due rows are read again soon.
fn or_empty<T>(due: Result<Vec<T>, LedgerError>) -> Vec<T> {
    due.unwrap_or_else(|error| {
        tracing::warn!(%error, "due work could not be read; it is retried");
        Vec::new()
    })
}
