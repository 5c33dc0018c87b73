//! Segment of the WAL, to which batches are appended.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::manifest::Slot;
use super::{PIECE, Position, SEGMENTS, Wal, record};
use crate::embedded::memtable::Memtable;
use crate::transaction::{Rows, Space};

/// Length field that marks a deleted row.
const DELETED_LENGTH: u32 = u32::MAX;
/// Minimum and maximum growth of a file in bytes. Small in tests, which read thousands of WALs.
const GROWTH: (u64, u64) = if cfg!(test) { (1 << 12, 1 << 16) } else { (1 << 20, 16 << 20) };

/// One of the two segments, owned by the writer thread.
pub(in super::super) struct Segment {
    wal: Arc<Wal>,
    /// Index of its file.
    pub(super) file: usize,
    number: u64,
    root: u64,
    /// Offset of the next record.
    end: u64,
    /// Length of the file, filled with zeros behind `end`.
    size: u64,
    /// Offset up to which a failed write may have left data.
    spoiled: u64,
    bytes: Vec<u8>,
}

impl Segment {
    /// Returns an empty segment.
    pub(super) fn new(wal: Arc<Wal>, file: usize, slot: Slot) -> Self {
        let Slot { number, root, size } = slot;
        Self { wal, file, number, root, end: 0, size, spoiled: 0, bytes: Vec::new() }
    }

    /// Returns the number of bytes written.
    pub(in super::super) fn len(&self) -> u64 {
        self.end
    }

    /// Returns the position that a sync makes durable now.
    pub(in super::super) fn position(&self) -> (usize, Position) {
        (self.file, Position { segment: self.number, end: self.end })
    }

    /// Returns the used length of the file.
    pub(super) fn reach(&self) -> usize {
        self.end.max(self.spoiled) as usize
    }

    /// Appends a batch without a sync. It survives the end of this process.
    pub(in super::super) fn append(&mut self, rows: &Rows) -> io::Result<()> {
        let invalid = |why: &str| io::Error::new(ErrorKind::InvalidInput, why);
        self.restore_zeros()?;
        let mut bytes = std::mem::take(&mut self.bytes);
        record::begin(&mut bytes);
        for (space, key, value) in rows.iter() {
            let length = value.map_or(Ok(DELETED_LENGTH), |value| u32::try_from(value.len()));
            let (Ok(key_length), Ok(length)) = (u8::try_from(key.len()), length) else {
                return Err(invalid("a row is too long"));
            };
            bytes.extend([space as u8, key_length]);
            bytes.extend(length.to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value.map_or(&[][..], |value| value));
        }
        record::finish(&mut bytes, self.root, self.end, self.wal.synced())
            .ok_or_else(|| invalid("a batch is too long"))?;
        let end = self.end + bytes.len() as u64;
        if end > self.size {
            self.grow(end)?;
        }
        self.spoiled = end;
        self.wal.storage.write_at(SEGMENTS[self.file], &bytes, self.end)?;
        (self.end, self.spoiled, self.bytes) = (end, 0, bytes);
        Ok(())
    }

    /// Overwrites the remains of a failed write with zeros, so that they do not lie behind later records.
    fn restore_zeros(&mut self) -> io::Result<()> {
        if self.spoiled > self.end {
            let zeros = vec![0; (self.spoiled - self.end) as usize];
            self.wal.storage.write_at(SEGMENTS[self.file], &zeros, self.end)?;
            self.wal.storage.sync_apart(SEGMENTS[self.file])?;
        }
        self.spoiled = 0;
        Ok(())
    }

    /// Grows the file at least up to `end`, by its own length within the bounds.
    fn grow(&mut self, end: u64) -> io::Result<()> {
        let (storage, name) = (&*self.wal.storage, SEGMENTS[self.file]);
        let size = end.max(self.size + self.size.clamp(GROWTH.0, GROWTH.1));
        let zeros = vec![0; PIECE];
        let mut at = self.size;
        while at < size {
            let part = zeros.len().min((size - at) as usize);
            if let Err(error) = storage.write_at(name, &zeros[..part], at) {
                // Frees the space for others.
                let _ = storage.set_len(name, self.size);
                return Err(error);
            }
            at += part as u64;
        }
        let synced = storage.sync_apart(name).and_then(|()| storage.sync_directory());
        synced.and_then(|()| self.wal.grew(self.file, size)).map_err(|error| {
            // Permanent, unlike a full disk.
            io::Error::other(format!("a sync failed: {error}"))
        })?;
        self.size = size;
        Ok(())
    }
}

/// Decodes a record's rows. `None` if they are invalid.
pub(super) fn take(mut body: &[u8], rows: &mut Memtable) -> Option<()> {
    while let Some((&space, rest)) = body.split_first() {
        let space = *Space::ALL.get(usize::from(space))?;
        let (&key_length, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(usize::from(key_length))?;
        let length = u32::from_le_bytes(*length);
        let (value, rest) = rest.split_at_checked(if length == DELETED_LENGTH { 0 } else { length as usize })?;
        rows.insert(space, key, (length != DELETED_LENGTH).then(|| value.into()));
        body = rest;
    }
    Some(())
}
