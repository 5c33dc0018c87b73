//! Manifest of the WAL: its segments, the lengths of their files, and the position up to which they are synced.
//!
//! ```text
//! page 0, page 1: two equal copies: identity, per segment file its number, root and length, directories of the tables
//! page 2, page 3: marks, written alternately: "segment N is synced up to byte E"
//! ```
//! A change is written to the first copy, synced, written to the second copy, synced, and only then used. If one copy
//! is invalid, the other one therefore describes the files. A power cut or a bad sector damages at most one copy. A
//! damaged mark may be ignored, because the previous mark is a weaker but true statement.

use std::io;

use xxhash_rust::xxh3::xxh3_64;

use super::Position;
use super::storage::Storage;

/// File name of the manifest.
pub(super) const MANIFEST: &str = "manifest";
/// File name of a manifest that is being created.
const UNFINISHED: &str = "manifest.new";

const MAGIC: [u8; 8] = *b"tollwal2";
/// Distance in bytes of copies and marks, so that no sector or block holds two.
const PAGE: usize = 4096;
const LENGTH: usize = 4 * PAGE;
/// Size in bytes of a copy or mark with its checksum: one sector.
pub(super) const SECTOR: usize = 512;
/// Maximum number of table directories in a manifest.
const MAX_TABLES: usize = 64;

/// One file of the WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Number of its segment. 0: none, and the content is obsolete.
    pub(super) number: u64,
    /// Random seed of the checksums of its records.
    pub(super) root: u64,
    /// Length of the file in bytes, filled with zeros in advance.
    pub(super) size: u64,
}

/// Content of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Version, which each change increments.
    sequence: u64,
    /// Random identity of the ledger.
    pub(super) identity: [u8; 16],
    pub(super) slots: [Slot; 2],
    /// Greatest segment number ever assigned.
    last: u64,
    /// Directories below `keyspaces` that must exist. Empty until the tables were created.
    pub(super) tables: Vec<u32>,
    /// Number of the last mark.
    marks: u64,
    /// Synced positions from the marks.
    pub(super) marked: Vec<Position>,
}

impl Manifest {
    /// Returns the manifest of a new ledger.
    pub(super) fn new() -> Self {
        let mut manifest = Self { identity: rand::random(), ..Self::default() };
        manifest.renew(0);
        manifest.renew(1);
        manifest
    }

    /// Assigns a file to the next segment.
    pub(super) fn renew(&mut self, file: usize) -> Slot {
        self.last += 1;
        let slot = &mut self.slots[file];
        (slot.number, slot.root) = (self.last, rand::random());
        *slot
    }

    /// Releases a file from its segment.
    pub(super) fn free(&mut self, file: usize) {
        self.slots[file].number = 0;
    }

    /// Creates the file, durably and atomically.
    pub(super) fn create(&self, storage: &dyn Storage) -> io::Result<()> {
        let mut bytes = vec![0; LENGTH];
        let copy = self.encoded()?;
        for page in [0, PAGE] {
            bytes[page..page + SECTOR].copy_from_slice(&copy);
        }
        storage.write_at(UNFINISHED, &bytes, 0)?;
        storage.sync(UNFINISHED)?;
        storage.rename(UNFINISHED, MANIFEST)?;
        storage.sync_directory()
    }

    /// Writes a change, durably.
    pub(super) fn save(&mut self, storage: &dyn Storage) -> io::Result<()> {
        self.sequence += 1;
        let copy = self.encoded()?;
        for page in [0, PAGE] {
            storage.write_at(MANIFEST, &copy, page as u64)?;
            storage.sync(MANIFEST)?;
        }
        Ok(())
    }

    /// Writes a mark, durably.
    pub(super) fn mark(&mut self, position: Position, storage: &dyn Storage) -> io::Result<()> {
        self.marks += 1;
        let words = [self.marks, position.segment, position.end];
        let mark = encode_sector(words.iter().flat_map(|word| word.to_le_bytes()).collect())?;
        let page = 2 * PAGE + (self.marks % 2) as usize * PAGE;
        storage.write_at(MANIFEST, &mark, page as u64)?;
        storage.sync(MANIFEST)
    }

    /// Reads the file. Returns whether a copy or mark is damaged, too. The error has the byte offset and the reason
    /// of damage beyond repair.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, bool), (u64, &'static str)> {
        if bytes.len() != LENGTH {
            return Err((bytes.len().min(LENGTH) as u64, "the file does not have its length"));
        }
        let copies = [0, PAGE].map(|page| decode_sector(&bytes[page..][..SECTOR]).and_then(Self::decoded));
        let mut is_spoiled = copies.iter().any(Option::is_none);
        let newest = copies.into_iter().flatten().max_by_key(|copy| copy.sequence);
        let mut manifest = newest.ok_or((0, "both copies are damaged"))?;
        for page in [2 * PAGE, 3 * PAGE] {
            let page = &bytes[page..][..SECTOR];
            match decode_sector(page).and_then(|mark| words::<3>(&mark)) {
                Some([number, segment, end]) => {
                    manifest.marks = manifest.marks.max(number);
                    manifest.marked.push(Position { segment, end });
                }
                None => is_spoiled |= page.iter().any(|byte| *byte != 0),
            }
        }
        Ok((manifest, is_spoiled))
    }

    fn encoded(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(SECTOR);
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.identity);
        for slot in self.slots {
            [slot.number, slot.root, slot.size].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        }
        bytes.extend(self.last.to_le_bytes());
        let count = u32::try_from(self.tables.len()).ok().filter(|_| self.tables.len() <= MAX_TABLES);
        bytes.extend(count.ok_or_else(|| io::Error::other("the ledger has too many tables"))?.to_le_bytes());
        self.tables.iter().for_each(|table| bytes.extend(table.to_le_bytes()));
        encode_sector(bytes)
    }

    fn decoded(bytes: Vec<u8>) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (identity, rest) = rest.split_first_chunk()?;
        let [a, b, c, d, e, f, last] = words(rest)?;
        let (count, rest) = rest.get(56..)?.split_first_chunk()?;
        let tables = rest.as_chunks::<4>().0.iter().take(u32::from_le_bytes(*count) as usize);
        Some(Self {
            sequence: u64::from_le_bytes(*sequence),
            identity: *identity,
            slots: [Slot { number: a, root: b, size: c }, Slot { number: d, root: e, size: f }],
            last,
            tables: tables.map(|table| u32::from_le_bytes(*table)).collect(),
            ..Self::default()
        })
    }
}

/// Returns a sector: magic, content, zeros, checksum.
fn encode_sector(content: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut sector = MAGIC.to_vec();
    sector.extend(content);
    if sector.len() > SECTOR - 8 {
        return Err(io::Error::other("the manifest does not fit into a sector"));
    }
    sector.resize(SECTOR - 8, 0);
    sector.extend(xxh3_64(&sector).to_le_bytes());
    Ok(sector)
}

/// Returns the content of a sector if it is valid.
fn decode_sector(sector: &[u8]) -> Option<Vec<u8>> {
    let (content, checksum) = sector.split_last_chunk()?;
    let is_valid = content.starts_with(&MAGIC) && xxh3_64(content) == u64::from_le_bytes(*checksum);
    is_valid.then(|| content[MAGIC.len()..].to_vec())
}

fn words<const COUNT: usize>(bytes: &[u8]) -> Option<[u64; COUNT]> {
    let words = bytes.as_chunks::<8>().0.first_chunk::<COUNT>()?;
    Some(words.map(u64::from_le_bytes))
}
