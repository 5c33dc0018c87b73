//! One HTTP exchange on an open connection, and what is known about the request if there is no response.
//!
//! Over HTTP/1.1 any error from the first byte on is *maybe sent*. HTTP/2 proves "not processed" in two ways (RFC 9113, 8.7): the
//! stream was reset with REFUSED_STREAM, or a GOAWAY names a lower last stream. Nothing else is a proof: neither a closed
//! connection, nor another reset, nor a stream that the GOAWAY includes.

use bytes::{Bytes, BytesMut};
use http::Request;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use tollgate_config::Host;

use super::{Answer, Lost, SendError, is_timeout};

/// Writes the request and reads the whole response.
pub(super) async fn exchange(
    session: &mut HttpSession,
    header: Box<RequestHeader>,
    body: Bytes,
    limit: usize,
) -> Result<Answer, SendError> {
    let is_h2 = session.as_http2().is_some();
    if let Err(error) = session.write_request_header(header).await {
        let why = describe("while writing the header", &error);
        // Over HTTP/2 writing only enqueues the frame, and a rejected request has no stream.
        return Err(if is_h2 { SendError::NotSent(why) } else { SendError::MaybeSent(why) });
    }
    if let Err(error) = write_body(session, body).await {
        // Over HTTP/2 the reason is found where the response would be.
        let proof = if is_h2 { session.read_response_header().await.err() } else { None };
        return Err(classify("while writing the body", proof.as_deref().unwrap_or(&error)));
    }
    let (status, headers) = loop {
        session.read_response_header().await.map_err(|error| classify("while waiting for the answer", &error))?;
        match session.response_header() {
            // Over HTTP/2 informational responses are skipped already, and the header cannot be read a second time.
            Some(header) if header.status.is_informational() && !is_h2 => {}
            Some(header) => break (header.status, header.headers.clone()),
            None => return Err(SendError::MaybeSent("the answer has no header".into())),
        }
    };
    let mut body = BytesMut::new();
    // A response header arrived, so nothing proves any more that the request was not processed.
    let unclear = |error: Box<pingora::Error>| SendError::MaybeSent(describe("while reading the answer", &error));
    while let Some(part) = session.read_response_body().await.map_err(unclear)? {
        if body.len() + part.len() > limit {
            return Err(SendError::MaybeSent(format!("the answer is longer than {limit} bytes").into()));
        }
        body.extend_from_slice(&part);
    }
    Ok(Answer { status, headers, body: body.freeze() })
}

async fn write_body(session: &mut HttpSession, body: Bytes) -> pingora::Result<()> {
    if !body.is_empty() {
        session.write_request_body(body, true).await?;
    }
    session.finish_request_body().await
}

fn classify(during: &str, error: &pingora::Error) -> SendError {
    let why = describe(during, error);
    if is_unprocessed(error) { SendError::NotSent(why) } else { SendError::MaybeSent(why) }
}

fn describe(during: &str, error: &pingora::Error) -> Lost {
    let reason = error.root_cause().downcast_ref::<h2::Error>().and_then(h2::Error::reason);
    let reason = reason.map(|reason| format!(" ({reason:?})")).unwrap_or_default();
    Lost { why: format!("{during}: {}{reason}", error.etype().as_str()), is_timeout: is_timeout(error) }
}

/// Returns whether the error proves that the request was not processed. `h2` reports the peer's GOAWAY error only to
/// streams above the last one that it names.
fn is_unprocessed(error: &pingora::Error) -> bool {
    let Some(error) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || is_refused)
}

/// Returns the request head for this host.
pub(super) fn header(host: &Host, request: &Request<Bytes>) -> Result<Box<RequestHeader>, String> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut header =
        RequestHeader::build(request.method().clone(), target.as_bytes(), Some(request.headers().len() + 2))
            .map_err(|error| error.etype().as_str().to_owned())?;
    let standard_port = if host.tls { 443 } else { 80 };
    let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
    let authority = if host.port == standard_port { name } else { format!("{name}:{}", host.port) };
    let mut append = |name: http::HeaderName, value: http::HeaderValue| {
        header.append_header(name, value).map(drop).map_err(|error| error.etype().as_str().to_owned())
    };
    append(
        http::header::HOST,
        authority.parse().map_err(|_| "the host's name is not a valid header value".to_owned())?,
    )?;
    for (name, value) in request.headers() {
        append(name.clone(), value.clone())?;
    }
    if !request.body().is_empty() || request.method() == http::Method::POST {
        append(http::header::CONTENT_LENGTH, request.body().len().into())?;
    }
    Ok(Box::new(header))
}
