//! Numbers that a process announces to itself, so that it knows that it hears.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio_postgres::AsyncMessage;

use crate::ledger::postgres::address::Address;
use crate::ledger::postgres::connect::connect;
use crate::ledger::postgres::failure::{Failure, Kind, POOLER};
use crate::ledger::postgres::session::Session;

/// How long a start waits for its own words.
const PROVED: Duration = Duration::from_secs(if cfg!(test) { 4 } else { 10 });
/// Numbers that are remembered: more are on their way only when none comes back.
const MOST: usize = 16;

/// The channel of a process's own words.
pub(super) fn channel(owner: u32) -> String {
    format!("tollgate_echo_{owner}")
}

/// The numbers that were sent over one connection's life.
pub(super) struct Echoes {
    since: Instant,
    last: u64,
    sent: VecDeque<(u64, Instant)>,
    heard: Option<Instant>,
}

impl Default for Echoes {
    fn default() -> Self {
        Self { since: Instant::now(), last: 0, sent: VecDeque::new(), heard: None }
    }
}

impl Echoes {
    /// The next number, which is sent now.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.sent.push_back((self.last, Instant::now()));
        if self.sent.len() > MOST {
            self.sent.pop_front();
        }
        self.last
    }

    /// A number came back: returns when it was sent. One of an earlier connection proves nothing.
    pub(super) fn back(&mut self, number: u64) -> Option<Instant> {
        let place = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, sent) = *self.sent.get(place)?;
        self.sent.drain(..=place);
        self.heard = Some(sent);
        self.heard
    }

    /// When the last number that came back was sent.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Whether none came back for so long.
    pub(super) fn are_missing(&self, longest: Duration) -> bool {
        self.heard.unwrap_or(self.since).elapsed() > longest
    }
}

/// Makes sure that what one connection announces is heard on another: behind a pooler that gives each transaction another
/// connection it is not. Where the server allows no second connection, nothing can be told.
pub(in crate::ledger::postgres) fn prove(address: &Address, session: &Session, owner: u32) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(error.to_string()))?;
    let connected = match runtime.block_on(connect(address)) {
        Err(failure) if failure.kind == Kind::Crowded => {
            tracing::warn!(why = failure.why, "whether LISTEN works over this connection could not be tried");
            return Ok(());
        }
        connected => connected,
    };
    let (client, mut link) = connected?;
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    runtime.spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| link.poll_message(context)).await {
            if let AsyncMessage::Notification(told) = message {
                let _ = said.send(told.channel().to_owned());
            }
        }
    });
    let channel = channel(owner);
    let listen = format!("LISTEN {channel}");
    runtime.block_on(client.batch_execute(&listen)).map_err(|error| Failure::of(&error))?;
    session.run(&format!("NOTIFY {channel}, 'start'"))?;
    let hearing = async {
        while let Some(name) = heard.recv().await {
            if name == channel {
                return true;
            }
        }
        false
    };
    let is_heard = runtime.block_on(async { tokio::time::timeout(PROVED, hearing).await });
    if is_heard == Ok(true) { Ok(()) } else { Err(Failure::other(POOLER)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_this_connection_prove_that_it_hears() {
        let mut echoes = Echoes::default();
        assert_eq!((echoes.next(), echoes.next(), echoes.heard()), (1, 2, None));
        assert!(echoes.back(7).is_none() && echoes.back(2).is_some() && echoes.back(1).is_none());
        assert!(echoes.heard().is_some() && echoes.are_missing(Duration::ZERO) && !echoes.are_missing(PROVED));
    }
}
