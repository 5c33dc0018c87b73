//! Writes the stream of a payment's states to its reader, as server-sent events or over a WebSocket.

mod server_sent_events;
mod websocket;

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use pingora::proxy::Session;

use super::head;
use crate::operations::{Framing, ResponseStream};
use crate::telemetry::METRICS;

/// Interval of signs of life, so that no proxy in between closes the connection.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// End of a stream, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The gateway ended it: a final state, the time limit, or a shutdown.
    Complete,
    /// The reader left.
    ReaderLeft,
    /// The reader broke the protocol, or answered no ping.
    ReaderFailed,
    /// There were too many streams.
    TooMany,
}

impl End {
    fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ReaderLeft => "reader_left",
            Self::ReaderFailed => "reader_failed",
            Self::TooMany => "too_many",
        }
    }
}

/// Counts an open stream until dropped.
struct OpenStream(&'static str);

impl OpenStream {
    fn new(kind: &'static str) -> Self {
        METRICS.streams.with_label_values(&[kind]).inc();
        Self(kind)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        METRICS.streams.with_label_values(&[self.0]).dec();
    }
}

/// Writes the head and then the stream, until one side ends it. The connection is closed afterwards.
pub(super) async fn write(
    session: &mut Session,
    response: Response<Bytes>,
    stream: &ResponseStream,
    request_id: &str,
) -> pingora::Result<()> {
    let kind = stream.framing.label();
    let _open = OpenStream::new(kind);
    let (parts, _) = response.into_parts();
    session.downstream_session.set_keepalive(None);
    session.write_response_header(Box::new(head(&parts, request_id)?), false).await?;
    let end = match (stream.framing, stream.take()) {
        (Framing::ServerSentEvents, Some(states)) => server_sent_events::write(session, states).await,
        (Framing::ServerSentEvents, None) => Ok(End::TooMany),
        (Framing::WebSocket, states) => websocket::write(session, states).await,
    };
    let label = end.as_ref().map_or(End::ReaderLeft, |end| *end).label();
    METRICS.streams_total.with_label_values(&[kind, label]).inc();
    end.map(drop)
}
