//! The journal: a batch is durable as soon as it is appended here and synced; the tables learn of it later.
//!
//! ```text
//! segment 0:  header │ record │ record │ …      being written
//! segment 1:  header │ record │ record │ …      full; filed into the tables, then a new header makes it empty
//! ```
//! Two files take turns. Their space is set aside with zeros, so that a sync has nothing to tell the file system. A record's
//! checksum goes on from the one before it, and the first's from a random number in the header: reading ends at the first record
//! that was not wholly written, and whatever an earlier turn or a crash left behind it can never count. What was synced is
//! never behind such a place, because nothing is told before all before it is on the disk.
//!
//! A header is one sector. It is written only over a segment whose records are all in the tables, and is on the disk before
//! the first record is: what of the two a crash leaves, either all records count or none is needed.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::layers::Layer;
use crate::ledger::transaction::{Rows, Space};

const MAGIC: &[u8; 8] = b"tollgjr1";
/// Where the records begin.
const START: u64 = 512;
/// A record's length and checksum.
const HEAD: usize = 12;
/// A value's length where the row goes.
const GONE: u32 = u32::MAX;
/// Instead of a space: random bytes, which make what is written after this start differ from all that was before.
const STARTED: u8 = u8::MAX;
/// How much space is set aside at a time, at least and at most.
const AHEAD: (u64, u64) = (1 << 20, 16 << 20);

/// One of the two files.
pub(super) struct Segment {
    path: PathBuf,
    file: Arc<File>,
    /// Later segments have greater ones.
    number: u64,
    /// Where the next record goes.
    end: u64,
    /// Up to where space is set aside.
    size: u64,
    /// The last record's checksum.
    chain: u64,
    bytes: Vec<u8>,
}

/// What a journal holds when it is opened.
pub(super) struct Found {
    pub(super) active: Segment,
    /// Its rows.
    pub(super) fresh: Layer,
    /// The segment before it with its rows, while they may not all be in the tables.
    pub(super) sealed: Option<(Segment, Layer)>,
    /// Else the next segment.
    pub(super) spare: Option<Segment>,
}

/// Opens the journal in a directory or creates it.
pub(super) fn open(folder: &Path) -> io::Result<Found> {
    std::fs::create_dir_all(folder)?;
    let paths = ["0", "1"].map(|name| folder.join(name));
    let mut found = Vec::new();
    for path in &paths {
        found.extend(Segment::read(path)?);
    }
    found.sort_by_key(|(segment, _)| segment.number);
    // A segment is begun only when the one before it is full and synced.
    found.pop_if(|(segment, _)| segment.end == START);
    let (mut active, fresh) = match found.pop() {
        Some(active) => active,
        None => (Segment::blank(&paths[0], 1)?, Layer::default()),
    };
    let before = found.pop().filter(|(segment, _)| segment.end > START);
    let spare = if before.is_none() {
        let path = paths.iter().find(|path| **path != active.path).unwrap_or(&paths[1]);
        Some(Segment::blank(path, active.number + 1)?)
    } else {
        None
    };
    active.start()?;
    // The files' names must not be lost either.
    File::open(folder)?.sync_all()?;
    Ok(Found { active, fresh, sealed: before, spare })
}

impl Segment {
    /// Makes it an empty one, durably.
    pub(super) fn blank(path: &Path, number: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let root: u64 = rand::random();
        let mut header = [MAGIC.as_slice(), &number.to_le_bytes(), &root.to_le_bytes()].concat();
        header.extend(xxh3_64(&header).to_le_bytes());
        header.resize(START as usize, 0);
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            number,
            end: START,
            size,
            chain: root,
            bytes: Vec::new(),
        })
    }

    /// The segment after the next one, in this one's file.
    pub(super) fn again(&self) -> io::Result<Self> {
        Self::blank(&self.path, self.number + 2)
    }

    /// How much has been written.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// Appends a batch, for the kernel to keep; it survives the end of this process.
    pub(super) fn append(&mut self, rows: &Rows) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.resize(HEAD, 0);
        for (space, key, value) in rows.iter() {
            let length = value.map_or(Ok(GONE), |value| u32::try_from(value.len()));
            let (Ok(key_length), Ok(length)) = (u8::try_from(key.len()), length) else {
                return Err(io::Error::new(ErrorKind::InvalidInput, "a row is too long"));
            };
            bytes.extend([space as u8, key_length]);
            bytes.extend(length.to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value.map_or(&[][..], |value| value));
        }
        self.add(bytes)
    }

    /// What is to be synced so that what was appended is durable.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Whatever a crash left behind the end must not go on from what is written now, were it the same once more.
    fn start(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; HEAD];
        bytes.push(STARTED);
        bytes.extend(rand::random::<[u8; 16]>());
        self.add(bytes)
    }

    /// Writes a record of which the first bytes are left for its head.
    fn add(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        let body = bytes.len() - HEAD;
        let length = u32::try_from(body).map_err(|_| io::Error::new(ErrorKind::InvalidInput, "a batch is too long"))?;
        let chain = xxh3_64_with_seed(&bytes[HEAD..], self.chain);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..HEAD].copy_from_slice(&chain.to_le_bytes());
        let end = self.end + bytes.len() as u64;
        if end > self.size {
            self.set_aside(end)?;
        }
        self.file.write_all_at(&bytes, self.end)?;
        (self.end, self.chain, self.bytes) = (end, chain, bytes);
        Ok(())
    }

    /// Space at least up to there, and as much again as there was, within bounds.
    fn set_aside(&mut self, end: u64) -> io::Result<()> {
        let size = end.max(self.size + self.size.clamp(AHEAD.0, AHEAD.1));
        let zeros = vec![0; 1 << 20];
        let mut at = self.size;
        while at < size {
            let part = zeros.len().min((size - at) as usize);
            if let Err(error) = self.file.write_all_at(&zeros[..part], at) {
                // Others need the space now.
                let _ = self.file.set_len(self.size);
                return Err(error);
            }
            at += part as u64;
        }
        // Opened anew: of a failure that this sync is told of, the one that somebody waits for is told as well.
        let synced = File::open(&self.path).and_then(|file| file.sync_all());
        synced.map_err(|error| io::Error::other(format!("a sync failed: {error}")))?;
        self.size = size;
        Ok(())
    }

    /// A segment with its rows; `None` if there is none, or none was begun in this file.
    fn read(path: &Path) -> io::Result<Option<(Self, Layer)>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some((number, root)) = header(&bytes) else { return Ok(None) };
        let (mut rows, mut end, mut chain) = (Layer::default(), START as usize, root);
        while let Some((body, next)) = record(&bytes[end..], chain) {
            if take(body, &mut rows).is_none() {
                // Whole, and not to be understood: a newer version's. What it says must not be lost.
                let why = format!("{} holds what this version cannot read", path.display());
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            }
            (end, chain) = (end + HEAD + body.len(), next);
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(path)?);
        let (path, size) = (path.to_owned(), bytes.len() as u64);
        Ok(Some((Self { path, file, number, end: end as u64, size, chain, bytes: Vec::new() }, rows)))
    }
}

/// The segment's number and the first record's seed.
fn header(bytes: &[u8]) -> Option<(u64, u64)> {
    let header = bytes.get(..START as usize)?;
    let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let is_ours = header.starts_with(MAGIC) && number(24)? == xxh3_64(&header[..24]);
    if is_ours { Some((number(8)?, number(16)?)) } else { None }
}

/// The record's body and checksum, if it is whole and goes on from the one before.
fn record(bytes: &[u8], chain: u64) -> Option<(&[u8], u64)> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    let checksum = u64::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEAD..)?.get(..length as usize)?;
    (length > 0 && xxh3_64_with_seed(body, chain) == checksum).then_some((body, checksum))
}

/// Takes a record's rows in; `None` when they make no sense.
fn take(mut body: &[u8], rows: &mut Layer) -> Option<()> {
    while let Some((&space, rest)) = body.split_first() {
        if space == STARTED {
            body = rest.get(16..)?;
            continue;
        }
        let space = *Space::ALL.get(usize::from(space))?;
        let (&key_length, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(usize::from(key_length))?;
        let length = u32::from_le_bytes(*length);
        let (value, rest) = rest.split_at_checked(if length == GONE { 0 } else { length as usize })?;
        rows.insert(space, key, (length != GONE).then(|| value.into()));
        body = rest;
    }
    Some(())
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
