//! WebSocket (RFC 6455) over an upgraded session. Pingora gives no access to the connection's stream, but passes bytes
//! through after `101`. The frames are made and read by `tungstenite`, which does no input or output here.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pingora::proxy::Session;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig, WebSocketContext};

use super::{End, HEARTBEAT_INTERVAL};
use crate::operations::PaymentStream;

/// Maximum size of a message from the reader in bytes. Only control frames are expected.
const MAX_MESSAGE: usize = 4 << 10;
/// Time without any byte from the reader after which it is given up. It must answer pings.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);
/// Maximum wait for the reader's closing frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes states as text frames until the stream or its reader ends. Without a stream there are too many.
pub(super) async fn write(session: &mut Session, states: Option<PaymentStream>) -> pingora::Result<End> {
    let mut socket = WebSocket::new();
    let Some(mut states) = states else {
        let reason = "too many streams; connect again later";
        socket.close(session, CloseCode::Again, reason).await?;
        return Ok(End::TooMany);
    };
    let mut ping = interval(HEARTBEAT_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.tick().await;
    let mut last_received = Instant::now();
    loop {
        tokio::select! {
            biased;
            state = states.next() => match state {
                Some(state) => socket.send(session, Message::text(state.data)).await?,
                None => {
                    socket.close(session, CloseCode::Normal, "").await?;
                    return Ok(End::Complete);
                }
            },
            received = session.downstream_session.read_request_body() => {
                let Ok(Some(bytes)) = received else { return Ok(End::ReaderLeft) };
                last_received = Instant::now();
                match socket.receive(&bytes) {
                    Received::Nothing => socket.flush(session).await?,
                    Received::Close => {
                        socket.flush(session).await?;
                        return Ok(End::ReaderLeft);
                    }
                    Received::Invalid(code) => {
                        socket.close(session, code, "").await?;
                        return Ok(End::ReaderFailed);
                    }
                }
            }
            _ = ping.tick() => {
                if last_received.elapsed() > SILENCE_TIMEOUT {
                    return Ok(End::ReaderFailed);
                }
                socket.send(session, Message::Ping(Bytes::new())).await?;
            }
        }
    }
}

/// Result of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// The stream goes on.
    Nothing,
    /// The reader closes.
    Close,
    /// The bytes break the protocol or a limit.
    Invalid(CloseCode),
}

/// State of the protocol, with the bytes between it and the session.
struct WebSocket {
    context: WebSocketContext,
    buffers: Buffers,
}

impl WebSocket {
    fn new() -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(MAX_MESSAGE)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Self { context: WebSocketContext::new(Role::Server, Some(config)), buffers: Buffers::default() }
    }

    /// Reads the reader's frames. Its messages are ignored; a ping is answered by the next flush.
    fn receive(&mut self, bytes: &[u8]) -> Received {
        self.buffers.received.extend_from_slice(bytes);
        loop {
            match self.context.read(&mut self.buffers) {
                Ok(Message::Close(_)) => return Received::Close,
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Received::Nothing;
                }
                Err(tungstenite::Error::Capacity(_)) => return Received::Invalid(CloseCode::Size),
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    return Received::Close;
                }
                Err(_) => return Received::Invalid(CloseCode::Protocol),
            }
        }
    }

    async fn send(&mut self, session: &mut Session, message: Message) -> pingora::Result<()> {
        // Writing to a buffer fails only after the close, when nothing more is sent.
        drop(self.context.write(&mut self.buffers, message));
        self.flush(session).await
    }

    /// Sends the closing frame and waits for the reader's.
    async fn close(&mut self, session: &mut Session, code: CloseCode, reason: &'static str) -> pingora::Result<()> {
        drop(self.context.close(&mut self.buffers, Some(CloseFrame { code, reason: reason.into() })));
        self.flush(session).await?;
        let answer = async {
            while let Ok(Some(bytes)) = session.downstream_session.read_request_body().await {
                if self.receive(&bytes) != Received::Nothing {
                    break;
                }
            }
        };
        // A reader that does not answer is not awaited longer.
        drop(timeout(CLOSE_TIMEOUT, answer).await);
        Ok(())
    }

    async fn flush(&mut self, session: &mut Session) -> pingora::Result<()> {
        drop(self.context.flush(&mut self.buffers));
        let bytes = self.buffers.to_send.split().freeze();
        if bytes.is_empty() {
            return Ok(());
        }
        session.downstream_session.write_response_body(bytes, false).await
    }
}

/// Bytes in both directions, in place of a connection.
#[derive(Default)]
struct Buffers {
    received: BytesMut,
    to_send: BytesMut,
}

impl Read for Buffers {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = self.received.len().min(into.len());
        self.received.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_send.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Masked frames as a client sends them: ping "hi", text "hi", close 1000, and a text of 5,000 bytes.
    fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn frames_of_the_reader_are_answered_or_refused() {
        let mut socket = WebSocket::new();
        let ping = frame(9, b"hi");
        assert_eq!(socket.receive(&ping[..3]), Received::Nothing, "the frame is not complete");
        assert_eq!(socket.receive(&ping[3..]), Received::Nothing);
        socket.context.flush(&mut socket.buffers).unwrap();
        assert_eq!(socket.buffers.to_send.split(), &[0x8a, 2, b'h', b'i'][..], "a pong");
        assert_eq!(socket.receive(&frame(1, b"hi")), Received::Nothing, "messages are ignored");
        assert_eq!(WebSocket::new().receive(&frame(1, &[b'x'; 5000])), Received::Invalid(CloseCode::Size));
        assert_eq!(WebSocket::new().receive(&[0x81, 1, b'x']), Received::Invalid(CloseCode::Protocol), "unmasked");
        assert_eq!(WebSocket::new().receive(b"GET / HTTP/1.1\r\n"), Received::Invalid(CloseCode::Protocol));
        assert_eq!(socket.receive(&frame(8, &1000_u16.to_be_bytes())), Received::Close);
    }

    #[test]
    fn states_and_the_end_are_text_and_close_frames() {
        let mut socket = WebSocket::new();
        socket.context.write(&mut socket.buffers, Message::text("{}")).unwrap();
        let closing = CloseFrame { code: CloseCode::Again, reason: "".into() };
        socket.context.close(&mut socket.buffers, Some(closing)).unwrap();
        socket.context.flush(&mut socket.buffers).unwrap();
        assert_eq!(socket.buffers.to_send.split(), &[0x81, 2, b'{', b'}', 0x88, 2, 0x03, 0xf5][..]);
    }
}
