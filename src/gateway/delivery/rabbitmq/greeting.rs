//! The first exchange with a broker, made before the AMQP library gets the stream. The library starts a thread for each
//! connection; a broker that accepts connections and never answers thus costs none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Protocol header of AMQP 0-9-1. The client sends it first.
const HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// Stream whose protocol header was sent, and whose first byte was received. The library's header is not sent again.
pub(super) struct Greeted<S> {
    stream: S,
    first: Option<u8>,
    /// Number of bytes of the library's header that are still to come.
    header: usize,
    /// Reader that waits for the library's header.
    reader: Option<Waker>,
}

/// Sends the header and waits until the broker answers.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<Greeted<S>> {
    stream.write_all(&HEADER).await?;
    stream.flush().await?;
    let first = stream.read_u8().await?;
    Ok(Greeted { stream, first: Some(first), header: HEADER.len(), reader: None })
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.header > 0 {
            // The library rejects an answer to a header that it has not sent.
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        if buffer.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buffer.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.header > 0 {
            let count = bytes.len().min(self.header);
            self.header -= count;
            if self.header == 0
                && let Some(reader) = self.reader.take()
            {
                reader.wake();
            }
            return Poll::Ready(Ok(count));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn header_is_sent_once_and_every_byte_of_the_broker_is_received() {
        let (stream, mut broker) = tokio::io::duplex(64);
        broker.write_all(b"start").await.unwrap();
        let mut greeted = greet(stream).await.unwrap();
        // The library's threads may read before they write.
        let mut early = [0; 1];
        let is_early = tokio::select! {
            biased;
            _ = greeted.read_exact(&mut early) => true,
            () = tokio::task::yield_now() => false,
        };
        assert!(!is_early);
        greeted.write_all(&HEADER[..3]).await.unwrap();
        greeted.write_all(&[&HEADER[3..], b"tune".as_slice()].concat()).await.unwrap();
        let mut sent = [0; 12];
        broker.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, *b"AMQP\0\0\x09\x01tune");
        let mut received = [0; 5];
        greeted.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"start");
    }

    #[tokio::test]
    async fn broker_that_closes_at_once_is_an_error() {
        let (stream, broker) = tokio::io::duplex(64);
        drop(broker);
        assert!(greet(stream).await.is_err());
    }
}
