//! Results of requests, and scripted cuts.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;

use super::context::SandboxContext;
use super::fault::FaultKind;

/// Result of a request: a response, or the scripted end of its connection or stream.
pub(super) enum ResponseAction {
    Answer(Response<Full<Bytes>>),
    /// Closes the connection without a response.
    Cut,
    /// Resets the stream with REFUSED_STREAM, or closes an HTTP/1.1 connection.
    Refuse,
}

/// Maximum size of a request body.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;

/// Counts a cut of a connection.
pub(super) fn cut(context: &SandboxContext) -> ResponseAction {
    context.state.lock().stats.cuts += 1;
    ResponseAction::Cut
}

/// Returns the scripted action for a request whose body was not read, if there is one.
pub(super) fn action_before_body(
    context: &SandboxContext,
    operation: &str,
    number: Option<&str>,
) -> Option<ResponseAction> {
    let kind = context.script.lock().for_head(operation, number)?;
    Some(if kind == FaultKind::RefuseStream { ResponseAction::Refuse } else { cut(context) })
}
