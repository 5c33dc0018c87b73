//! Echoes: numbers that a process sends to itself to prove that its change feed works.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio_postgres::AsyncMessage;

use crate::postgres::address::Address;
use crate::postgres::connect::connect;
use crate::postgres::failure::{Failure, Kind, POOLER};
use crate::postgres::session::Session;

/// Timeout of the probe at a start.
const PROBE_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 4 } else { 10 });
/// Maximum number of outstanding echoes. More exist only if none returns.
const MAX_OUTSTANDING_ECHOES: usize = 16;

/// Returns the channel of a process's echoes.
pub(super) fn channel(owner: u32) -> String {
    format!("tollgate_echo_{owner}")
}

/// Echoes sent on one connection.
pub(super) struct Echoes {
    since: Instant,
    last: u64,
    sent: VecDeque<(u64, Instant)>,
    last_returned: Option<Instant>,
}

impl Default for Echoes {
    fn default() -> Self {
        Self { since: Instant::now(), last: 0, sent: VecDeque::new(), last_returned: None }
    }
}

impl Echoes {
    /// Returns the number of the next echo, which is sent now.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.sent.push_back((self.last, Instant::now()));
        if self.sent.len() > MAX_OUTSTANDING_ECHOES {
            self.sent.pop_front();
        }
        self.last
    }

    /// Records a returned echo and returns when it was sent. `None` for an echo of an earlier connection.
    pub(super) fn returned(&mut self, number: u64) -> Option<Instant> {
        let position = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, sent) = *self.sent.get(position)?;
        self.sent.drain(..=position);
        self.last_returned = Some(sent);
        self.last_returned
    }

    /// Returns when the last returned echo was sent.
    pub(super) fn last_returned(&self) -> Option<Instant> {
        self.last_returned
    }

    /// Returns whether no echo has returned for this long.
    pub(super) fn are_missing(&self, longest: Duration) -> bool {
        self.last_returned.unwrap_or(self.since).elapsed() > longest
    }
}

/// Checks that one connection receives the notifications of another. Behind a transaction pooler it does not. Skipped
/// if the server allows no second connection.
pub(in crate::postgres) fn prove(address: &Address, session: &Session, owner: u32) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(error.to_string()))?;
    let connected = match runtime.block_on(connect(address)) {
        Err(failure) if failure.kind == Kind::Crowded => {
            tracing::warn!(why = failure.why, "LISTEN over this connection could not be checked");
            return Ok(());
        }
        connected => connected,
    };
    let (client, mut link) = connected?;
    let (names, mut last_returned) = tokio::sync::mpsc::unbounded_channel();
    runtime.spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| link.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = names.send(notification.channel().to_owned());
            }
        }
    });
    let channel = channel(owner);
    let listen = format!("LISTEN {channel}");
    runtime.block_on(client.batch_execute(&listen)).map_err(Failure::of)?;
    session.run(&format!("NOTIFY {channel}, 'start'"))?;
    let receiving = async {
        while let Some(name) = last_returned.recv().await {
            if name == channel {
                return true;
            }
        }
        false
    };
    let is_received = runtime.block_on(async { tokio::time::timeout(PROBE_TIMEOUT, receiving).await });
    if is_received == Ok(true) { Ok(()) } else { Err(Failure::other(POOLER)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_echoes_of_this_connection_count_as_returned() {
        let mut echoes = Echoes::default();
        assert_eq!((echoes.next(), echoes.next(), echoes.last_returned()), (1, 2, None));
        assert!(echoes.returned(7).is_none() && echoes.returned(2).is_some() && echoes.returned(1).is_none());
        assert!(
            echoes.last_returned().is_some()
                && echoes.are_missing(Duration::ZERO)
                && !echoes.are_missing(PROBE_TIMEOUT)
        );
    }
}
