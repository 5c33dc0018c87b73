//! Second handle of a connection's socket.

use std::io;
use std::net::Shutdown;

use tokio::net::TcpStream;

/// Shuts a socket down when dropped. The library's thread ends then, also while a broker that hangs has not answered the
/// handshake or the close.
pub(super) struct Socket(std::net::TcpStream);

impl Socket {
    /// Returns a stream with a second handle of its socket. Small messages are sent at once.
    pub(super) fn of(stream: TcpStream) -> io::Result<(TcpStream, Self)> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let socket = Self(stream.try_clone()?);
        Ok((TcpStream::from_std(stream)?, socket))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
