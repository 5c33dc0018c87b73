//! The parts of Kafka's wire protocol that the relay reads and writes itself. Everything else passes through unread.
//!
//! A frame is kept with its length in front, so that it is forwarded in one piece.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use crate::delivery::failure::DeliveryError;

/// Keys of the requests that the relay knows.
pub(super) const PRODUCE: i16 = 0;
pub(super) const FETCH: i16 = 1;
pub(super) const METADATA: i16 = 3;
pub(super) const SASL_HANDSHAKE: i16 = 17;
pub(super) const API_VERSIONS: i16 = 18;
pub(super) const INIT_PRODUCER_ID: i16 = 22;
pub(super) const SASL_AUTHENTICATE: i16 = 36;

/// Error code of a response without an error.
pub(super) const NO_ERROR: i16 = 0;

/// Maximum size of a frame in bytes. The library sends batches up to 1 MB.
const MAX_FRAME: usize = 4 << 20;
/// Length of the size in front of a frame.
const PREFIX: usize = 4;

/// Returns the frames of a stream, each with its length in front.
pub(super) fn frames<R: AsyncRead>(reader: R) -> FramedRead<R, LengthDelimitedCodec> {
    let mut codec = LengthDelimitedCodec::builder();
    // The length counts the bytes after it.
    codec.length_adjustment(PREFIX as isize).num_skip(0).max_frame_length(MAX_FRAME);
    FramedRead::new(reader, codec.new_codec())
}

/// Returns the error of a frame that does not have the documented form.
pub(super) fn malformed() -> DeliveryError {
    DeliveryError::Protocol("a message does not have the documented form")
}

/// Start of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) key: i16,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
}

impl RequestHead {
    /// Reads the head of a frame. Returns it with the bytes after it: client id and body.
    pub(super) fn read(frame: &Bytes) -> Result<(Self, Reader), DeliveryError> {
        let mut reader = Reader::of_frame(frame)?;
        let head = Self { key: reader.i16()?, version: reader.i16()?, correlation_id: reader.i32()? };
        Ok((head, reader))
    }
}

/// Reads the values of a frame.
pub(super) struct Reader(Bytes);

impl Reader {
    /// Returns a reader of a frame after its length.
    pub(super) fn of_frame(frame: &Bytes) -> Result<Self, DeliveryError> {
        if frame.len() < PREFIX {
            return Err(malformed());
        }
        Ok(Self(frame.slice(PREFIX..)))
    }

    pub(super) fn i16(&mut self) -> Result<i16, DeliveryError> {
        self.0.try_get_i16().map_err(|_| malformed())
    }

    pub(super) fn i32(&mut self) -> Result<i32, DeliveryError> {
        self.0.try_get_i32().map_err(|_| malformed())
    }

    /// Reads the number of items of an array, of which each has at least `item` bytes.
    pub(super) fn count(&mut self, item: usize) -> Result<usize, DeliveryError> {
        let count = usize::try_from(self.i32()?).map_err(|_| malformed())?;
        if count > self.0.len() / item { Err(malformed()) } else { Ok(count) }
    }

    /// Reads a string; `None` for null.
    pub(super) fn string(&mut self) -> Result<Option<Bytes>, DeliveryError> {
        let length = self.i16()?;
        self.take(i32::from(length))
    }

    /// Reads bytes; `None` for null.
    pub(super) fn bytes(&mut self) -> Result<Option<Bytes>, DeliveryError> {
        let length = self.i32()?;
        self.take(length)
    }

    /// Returns all bytes that were not read.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    fn take(&mut self, length: i32) -> Result<Option<Bytes>, DeliveryError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.0.len() => Ok(Some(self.0.split_to(length))),
            Ok(_) => Err(malformed()),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(malformed()),
        }
    }
}

/// Writes the values of a frame.
pub(super) struct Writer(BytesMut);

impl Writer {
    /// Starts a request of this library's own.
    pub(super) fn request(head: RequestHead) -> Self {
        let mut writer = Self::new();
        writer.i16(head.key);
        writer.i16(head.version);
        writer.i32(head.correlation_id);
        writer.string(Some(b"tollgate"));
        writer
    }

    /// Starts a response.
    pub(super) fn response(correlation_id: i32) -> Self {
        let mut writer = Self::new();
        writer.i32(correlation_id);
        writer
    }

    fn new() -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_bytes(0, PREFIX);
        Self(bytes)
    }

    pub(super) fn byte(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.0.put_i16(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.0.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.put_i64(value);
    }

    /// Writes a string; null for `None`. Every string here is short.
    pub(super) fn string(&mut self, text: Option<&[u8]>) {
        match text {
            Some(text) => {
                self.i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
                self.raw(text);
            }
            None => self.i16(-1),
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.raw(bytes);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    /// Returns the frame.
    pub(super) fn finish(mut self) -> Bytes {
        let length = u32::try_from(self.0.len() - PREFIX).unwrap_or(u32::MAX);
        self.0[..PREFIX].copy_from_slice(&length.to_be_bytes());
        self.0.freeze()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn written_request_is_read_again() {
        let head = RequestHead { key: METADATA, version: 8, correlation_id: 7 };
        let mut writer = Writer::request(head);
        writer.string(None);
        writer.bytes(b"abc");
        let frame = writer.finish();
        assert_eq!(frame.len(), 4 + 8 + 10 + 2 + 7);
        let (read, mut rest) = RequestHead::read(&frame).unwrap();
        assert_eq!((read, rest.string().unwrap().unwrap()), (head, Bytes::from("tollgate")));
        assert_eq!((rest.string().unwrap(), rest.bytes().unwrap()), (None, Some(Bytes::from("abc"))));
        assert!(rest.rest().is_empty());
    }

    #[test]
    fn lengths_beyond_the_frame_are_refused() {
        let reader = |bytes: &[u8]| Reader::of_frame(&[&[0; 4], bytes].concat().into()).unwrap();
        assert!(reader(&[0, 5, b'a']).string().is_err());
        assert!(reader(&[0xff, 0xfe]).string().is_err());
        assert!(reader(&[0x7f, 0xff, 0xff, 0xff]).bytes().is_err());
        assert!(reader(&[0, 0, 0, 3, 1, 2, 3, 4, 5]).count(2).is_err());
        assert!(reader(&[0]).i16().is_err());
        assert!(Reader::of_frame(&Bytes::from_static(&[0, 0])).is_err());
    }
}
