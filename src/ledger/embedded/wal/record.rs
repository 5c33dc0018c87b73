//! Records of the WAL, and how damage is distinguished from the torn end that a power cut leaves.
//!
//! ```text
//! record:  head (32 bytes) │ rows │ padding to a multiple of 32 bytes, never zero
//! head:    length of the rows │ checksum of the head │ checksum of rows and padding │ synced: segment, end
//! ```
//! Checksums are seeded with the segment's random root and the record's position. A record is therefore recognised
//! without its predecessor, and stale data is never taken for a record.
//!
//! A segment's file is durably filled with zeros before it is used, and a disk writes a sector of 512 bytes
//! atomically. A record torn by a power cut therefore has at least one sector whose part of the record is still zero.
//! Head and padding of a complete record are never zero. A record without a zero sector and with a wrong checksum is
//! damaged.
//!
//! Each record contains the position up to which the WAL was synced when it was written, and so do the marks in the
//! manifest. Everything before that position was on the disk. If it cannot be read any more, the WAL is damaged.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Position;
use super::manifest::{SECTOR, Slot};

/// Alignment of heads in bytes, so that no head spans two sectors.
const ALIGN: usize = 32;
const HEAD: usize = 32;
const PADDING: u8 = 0xa5;

/// Prepares a buffer to which rows are appended before [`finish`].
pub(super) fn begin(bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.resize(HEAD, 0);
}

/// Completes the record for this position. `None` if it is too long.
pub(super) fn finish(bytes: &mut Vec<u8>, root: u64, at: u64, synced: Position) -> Option<()> {
    let length = u32::try_from(bytes.len() - HEAD).ok().filter(|length| *length > 0)?;
    // At least one byte of padding: a record's part of its last sector is never zero.
    bytes.resize((bytes.len() / ALIGN + 1) * ALIGN, PADDING);
    let body = xxh3_64_with_seed(&bytes[HEAD..], root ^ at);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&body.to_le_bytes());
    bytes[16..24].copy_from_slice(&synced.segment.to_le_bytes());
    bytes[24..32].copy_from_slice(&synced.end.to_le_bytes());
    let head = checksum_of_head(&bytes[..HEAD], root, at);
    bytes[4..8].copy_from_slice(&head.to_le_bytes());
    Some(())
}

fn checksum_of_head(head: &[u8], root: u64, at: u64) -> u32 {
    let mut checked = [0; HEAD];
    checked.copy_from_slice(head);
    checked[4..8].fill(0);
    xxh3_64_with_seed(&checked, root.rotate_left(32) ^ at) as u32
}

/// A valid head.
struct Head {
    rows: usize,
    body: u64,
    synced: Position,
}

impl Head {
    /// Returns the length of the whole record in bytes.
    fn length(&self) -> usize {
        ((HEAD + self.rows) / ALIGN + 1) * ALIGN
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// Returns the head at this position if it is valid.
fn head(bytes: &[u8], root: u64, at: usize) -> Option<Head> {
    let head = bytes.get(at..)?.get(..HEAD)?;
    let rows = u32::from_le_bytes(*head.first_chunk()?) as usize;
    let checksum = u32::from_le_bytes(*head.get(4..)?.first_chunk()?);
    if rows == 0 || checksum != checksum_of_head(head, root, at as u64) {
        return None;
    }
    let synced = Position { segment: word(&head[16..]), end: word(&head[24..]) };
    Some(Head { rows, body: word(&head[8..]), synced })
}

/// Returns the record of this head if its checksum is valid.
fn whole<'a>(bytes: &'a [u8], root: u64, at: usize, head: &Head) -> Option<&'a [u8]> {
    let body = bytes.get(at + HEAD..at + head.length())?;
    let is_valid = xxh3_64_with_seed(body, root ^ at as u64) == head.body;
    is_valid.then(|| &body[..head.rows])
}

/// End of the sequence of valid records of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Zeros, or a record torn by a power cut.
    Torn,
    /// Data that no power cut leaves.
    Damaged(&'static str),
}

/// Content of a segment's file.
pub(super) struct Contents<'a> {
    bytes: &'a [u8],
    root: u64,
    number: u64,
    /// Offset behind the last consecutive record.
    pub(super) end: usize,
    how: End,
    /// Synced positions in all valid records, including those behind the end.
    pub(super) statements: Vec<Position>,
}

impl<'a> Contents<'a> {
    pub(super) fn of(bytes: &'a [u8], slot: &Slot) -> Self {
        let Slot { number, root, .. } = *slot;
        let (mut end, mut synced) = (0, Position::default());
        let mut statements = Vec::new();
        while let Some(head) = head(bytes, root, end).filter(|head| whole(bytes, root, end, head).is_some()) {
            synced = synced.max(head.synced);
            // Of one segment only the greatest position counts.
            if statements.last().is_none_or(|last: &Position| last.segment != synced.segment) {
                statements.push(synced);
            }
            if let Some(last) = statements.last_mut() {
                *last = synced;
            }
            end += head.length();
        }
        let how = how(bytes, root, end);
        let behind = (end + ALIGN..bytes.len()).step_by(ALIGN).filter_map(|at| {
            let head = head(bytes, root, at)?;
            whole(bytes, root, at, &head).map(|_| head.synced)
        });
        statements.extend(behind);
        Self { bytes, root, number, end, how, statements }
    }

    /// Returns what is damaged behind the end, given all synced positions.
    pub(super) fn damage(&self, statements: &[Position]) -> Option<&'static str> {
        let is_known = |synced: &Position| synced.segment == self.number && synced.end > self.end as u64;
        if statements.iter().any(is_known) {
            return Some("a record that was synced cannot be read any more");
        }
        match self.how {
            End::Torn => None,
            End::Damaged(why) => Some(why),
        }
    }

    /// Returns the rows of each record, in order.
    pub(super) fn records(&self) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, root, end) = (self.bytes, self.root, self.end);
        let mut at = 0;
        std::iter::from_fn(move || {
            let head = head(bytes, root, at).filter(|_| at < end)?;
            let rows = &bytes[at + HEAD..][..head.rows];
            at += head.length();
            Some(rows)
        })
    }

    /// Returns the used length of the file.
    pub(super) fn used(&self) -> usize {
        used(self.bytes)
    }
}

/// Returns the length without trailing zeros.
pub(super) fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn how(bytes: &[u8], root: u64, end: usize) -> End {
    let rest = bytes.get(end..).unwrap_or_default();
    if is_zero(&rest[..rest.len().min(HEAD)]) {
        return End::Torn;
    }
    let Some(head) = head(bytes, root, end) else {
        return End::Damaged("a record's head is invalid");
    };
    let Some(record) = rest.get(..head.length()) else {
        return End::Damaged("the file ends within a record");
    };
    let first = (SECTOR - end % SECTOR).min(record.len());
    let (first, others) = record.split_at(first);
    if is_zero(first) || others.chunks(SECTOR).any(is_zero) {
        return End::Torn;
    }
    End::Damaged("a record's checksum is wrong")
}
