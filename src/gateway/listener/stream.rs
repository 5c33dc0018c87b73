//! A connection's stream in the form that Pingora expects, with read and write deadlines.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::StatusCode;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::refusal::problem_response;
use super::state::{ConnectionState, Reason};
use super::transport::Transport;

/// First bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Maximum size of an HTTP/1 request's head in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Write buffer in bytes: a response of usual size leaves in one packet.
const WRITE_BUFFER: usize = 4 << 10;

/// The stream of one connection.
#[derive(Debug)]
pub(super) struct Stream {
    io: BufWriter<Transport>,
    state: Arc<ConnectionState>,
    /// Bytes that were inspected and must still be read.
    prefix: Vec<u8>,
    head_bytes: usize,
    is_http2: bool,
    is_refused: bool,
    is_broken: bool,
    read_timer: Timer,
    write_timer: Timer,
    write_until: Option<Instant>,
}

impl Stream {
    pub(super) fn new(transport: Transport, state: Arc<ConnectionState>) -> Self {
        Self {
            io: BufWriter::with_capacity(WRITE_BUFFER, transport),
            state,
            prefix: Vec::new(),
            head_bytes: 0,
            is_http2: false,
            is_refused: false,
            is_broken: false,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            write_until: None,
        }
    }

    /// Detects the HTTP version: over TLS by ALPN, else by the first byte that differs from the HTTP/2 preface. A
    /// short request therefore does not wait for more bytes.
    pub(super) async fn detect_http2(&mut self) -> io::Result<bool> {
        if let Some(is_http2) = self.io.get_ref().negotiated_http2() {
            self.is_http2 = is_http2;
            return Ok(is_http2);
        }
        let mut received = [0; HTTP2_PREFACE.len()];
        let mut length = 0;
        while length < received.len() && HTTP2_PREFACE.starts_with(&received[..length]) {
            match self.read(&mut received[length..]).await? {
                0 => break,
                more => length += more,
            }
        }
        self.prefix = received[..length].to_vec();
        self.head_bytes = 0;
        self.is_http2 = received == *HTTP2_PREFACE;
        Ok(self.is_http2)
    }

    /// Counts received bytes, and starts the head's time limit at its first byte.
    fn received(&mut self, bytes: usize) {
        if self.is_http2 {
            if self.head_bytes < HTTP2_PREFACE.len() {
                self.head_bytes += bytes;
                if self.head_bytes >= HTTP2_PREFACE.len() {
                    self.state.is_http2();
                }
            }
            return;
        }
        if self.state.received() {
            self.head_bytes = 0;
        }
        self.head_bytes += bytes;
    }

    /// Responds to input that is not a request. Writes only what the socket accepts immediately.
    fn respond_with_problem(&mut self, status: StatusCode, cx: &mut Context<'_>) {
        if !self.is_http2 && !self.is_refused {
            self.is_refused = true;
            // Always fits, because the buffer is larger and is empty before and after each response.
            drop(Pin::new(&mut self.io).poll_write(cx, &problem_response(status)));
            drop(Pin::new(&mut self.io).poll_flush(cx));
        }
    }

    /// Fails a write that makes no progress within the write timeout.
    fn check_write_progress<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write_until = None;
            return poll;
        }
        let deadline = *self.write_until.get_or_insert_with(|| Instant::now() + self.state.write_timeout());
        if !self.write_timer.has_passed(deadline, cx) {
            return Poll::Pending;
        }
        self.is_broken = true;
        self.state.close(Reason::Write);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Replaces a response that Pingora writes itself when it could not parse a request.
    fn replace_early_response(&mut self, written: &[u8], cx: &mut Context<'_>) -> bool {
        if self.is_http2 || !(self.is_refused || self.state.is_before_request()) {
            return false;
        }
        let status = written.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok());
        self.respond_with_problem(status.unwrap_or(StatusCode::BAD_REQUEST), cx);
        true
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let length = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..length]);
            this.prefix.drain(..length);
            this.received(length);
            return Poll::Ready(Ok(()));
        }
        let deadline = this.state.read_deadline();
        if this.head_bytes > MAX_HEAD && !this.is_http2 && matches!(deadline, Some((_, Reason::Header))) {
            this.respond_with_problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, cx);
            this.state.close(Reason::Refused);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.io).poll_read(cx, buf);
        if poll.is_ready() {
            let bytes = buf.filled().len() - before;
            if bytes > 0 {
                this.received(bytes);
            }
            return poll;
        }
        if let Some((deadline, reason)) = deadline
            && this.read_timer.has_passed(deadline, cx)
        {
            if reason == Reason::Header && this.head_bytes > 0 {
                this.respond_with_problem(StatusCode::REQUEST_TIMEOUT, cx);
            }
            this.state.close(reason);
        }
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.replace_early_response(buf, cx) {
            return Poll::Ready(Ok(buf.len()));
        }
        let poll = Pin::new(&mut this.io).poll_write(cx, buf);
        this.check_write_progress(poll, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let poll = Pin::new(&mut this.io).poll_flush(cx);
        this.check_write_progress(poll, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let poll = Pin::new(&mut this.io).poll_shutdown(cx);
        this.check_write_progress(poll, cx)
    }
}

#[async_trait]
impl Shutdown for Stream {
    async fn shutdown(&mut self) {
        drop(AsyncWriteExt::shutdown(self).await);
    }
}

impl UniqueID for Stream {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().tcp().as_raw_fd()
    }
}

impl Ssl for Stream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.is_http2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl Peek for Stream {}

impl GetTimingDigest for Stream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Stream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Stream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

/// A timer with a changing deadline, allocated on first use.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn has_passed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};
    use tollgate_config::ServerLimits;

    use super::*;

    async fn pair(limits: ServerLimits) -> (Stream, TcpStream, Arc<ConnectionState>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let state = ConnectionState::new(&limits);
        state.expect_first_head();
        (Stream::new(Transport::Plain(server), Arc::clone(&state)), client, state)
    }

    #[tokio::test]
    async fn http2_is_detected_by_preface_without_losing_bytes() {
        for (sent, is_http2) in [
            (b"GET / HTTP/1.0\r\n\r\n".as_slice(), false),
            (b"P", false),
            (b"POST /a", false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", true),
        ] {
            let (mut server, mut client, _) = pair(ServerLimits::default()).await;
            for byte in sent {
                client.write_all(&[*byte]).await.unwrap();
            }
            client.shutdown().await.unwrap();
            assert_eq!(server.detect_http2().await.unwrap(), is_http2, "{sent:?}");
            let mut read = Vec::new();
            server.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }

    #[tokio::test]
    async fn unread_response_fails_after_write_timeout() {
        let limits = ServerLimits { write_timeout: Duration::from_millis(50), ..ServerLimits::default() };
        let (mut server, client, state) = pair(limits).await;
        assert!(state.begin());
        let error = loop {
            if let Err(error) = server.write_all(&[0; 64 << 10]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(state.closed().await, Reason::Write);
        assert_eq!(server.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        drop(client);
    }

    #[tokio::test]
    async fn incomplete_head_gets_408_and_silent_connection_is_closed() {
        let limits = ServerLimits { header_timeout: Duration::from_millis(50), ..ServerLimits::default() };
        for (sent, answer) in [("", ""), ("GET / HT", "HTTP/1.1 408 Request Timeout\r\n")] {
            let (mut server, mut client, state) = pair(limits).await;
            client.write_all(sent.as_bytes()).await.unwrap();
            let reading = tokio::spawn(async move { server.read_to_end(&mut Vec::new()).await });
            assert_eq!(state.closed().await, Reason::Header);
            reading.abort();
            let mut read = String::new();
            // Closing with unread bytes may reset the connection after the response.
            drop(client.read_to_string(&mut read).await);
            assert!(read.starts_with(answer) && read.is_empty() == answer.is_empty(), "{read}");
        }
    }

    #[tokio::test]
    async fn early_pingora_response_is_replaced_by_problem() {
        let (mut server, mut client, _) = pair(ServerLimits::default()).await;
        server.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nServer: Pingora\r\n\r\n").await.unwrap();
        server.write_all(b"more").await.unwrap();
        let closing = tokio::spawn(async move { AsyncWriteExt::shutdown(&mut server).await });
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert!(
            read.starts_with("HTTP/1.1 405 Method Not Allowed\r\ncontent-type: application/problem+json"),
            "{read}"
        );
        assert!(read.contains("\"code\":\"method_not_allowed\"") && !read.contains("Pingora"), "{read}");
        assert!(read.ends_with('}'), "{read}");
        drop(client);
        closing.await.unwrap().unwrap();
    }
}
