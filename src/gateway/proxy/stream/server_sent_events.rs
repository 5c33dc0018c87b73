//! Server-sent events (WHATWG HTML, section 9.2).

use bytes::Bytes;
use pingora::proxy::Session;
use tokio::time::{MissedTickBehavior, interval};

use super::{End, HEARTBEAT_INTERVAL};
use crate::operations::{PaymentStream, StateEvent};

/// First lines of a stream: a browser reconnects after two seconds.
const PREAMBLE: &[u8] = b"retry: 2000\n\n";
/// A comment, which readers ignore.
const HEARTBEAT: &[u8] = b":\n\n";

/// Writes states as events until the stream or its reader ends.
pub(super) async fn write(session: &mut Session, mut states: PaymentStream) -> pingora::Result<End> {
    send(session, Bytes::from_static(PREAMBLE)).await?;
    let mut heartbeat = interval(HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.tick().await;
    loop {
        let part = tokio::select! {
            biased;
            state = states.next() => match state {
                Some(state) => Bytes::from(event(&state)),
                None => break,
            },
            // Ends when the reader closes the connection or resets the stream.
            _ = session.downstream_session.read_body_or_idle(true) => return Ok(End::ReaderLeft),
            _ = heartbeat.tick() => Bytes::from_static(HEARTBEAT),
        };
        send(session, part).await?;
    }
    session.write_response_body(None, true).await?;
    Ok(End::Complete)
}

async fn send(session: &mut Session, part: Bytes) -> pingora::Result<()> {
    session.write_response_body(Some(part), false).await
}

fn event(StateEvent { version, kind, data }: &StateEvent) -> String {
    format!("id: {version}\nevent: {kind}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_has_version_type_and_one_line_of_data() {
        let state = StateEvent { version: 3, kind: "payment.succeeded".to_owned(), data: "{}".to_owned() };
        assert_eq!(event(&state), "id: 3\nevent: payment.succeeded\ndata: {}\n\n");
    }
}
