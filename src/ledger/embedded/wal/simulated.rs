//! Simulated disk for the tests. A power cut discards every byte, length, rename and name that was not synced, or
//! keeps any part of them, sector by sector.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::manifest::SECTOR;
use super::storage::Storage;

#[derive(Clone, Default)]
struct Inode {
    /// Content in the page cache.
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written and lengths set since the last sync.
    dirty: Vec<Dirty>,
}

#[derive(Clone)]
enum Dirty {
    Sector(usize, Vec<u8>),
    Length(usize),
}

impl Dirty {
    fn reach(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Sector(at, sector) => {
                bytes.resize(bytes.len().max(at + sector.len()), 0);
                bytes[*at..at + sector.len()].copy_from_slice(sector);
            }
        }
    }
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<&'static str, usize>,
    durable_names: BTreeMap<&'static str, usize>,
    /// Changes of names since the last sync of the directory.
    renamed: Vec<(Option<&'static str>, &'static str, usize)>,
    steps: usize,
    /// Step at which the power fails, or only a sync.
    fault: Option<(usize, Fault)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    PowerCut,
    /// A sync fails, and so do all later ones: its pages count as clean, but the disk does not have them.
    FailedSync,
}

/// The simulated disk. Not optimised.
#[derive(Default)]
pub(super) struct Simulated(Mutex<State>);

impl Simulated {
    /// Returns the number of operations so far.
    pub(super) fn steps(&self) -> usize {
        self.0.lock().steps
    }

    pub(super) fn fail_at(&self, step: usize, fault: Fault) {
        self.0.lock().fault = Some((step, fault));
    }

    /// Returns the disk after a power cut.
    pub(super) fn cut(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let state = self.0.lock();
        // Sometimes all or nothing of the unsynced data, otherwise any part.
        let share = [0.0, 1.0, 0.5, 0.9][random.random_range(0..4)];
        let mut names = state.durable_names.clone();
        let survived = state.renamed.iter().take_while(|_| random.random_bool(share)).count();
        for (from, to, inode) in &state.renamed[..survived] {
            from.map(|from| names.remove(from));
            names.insert(to, *inode);
        }
        let inodes = state.inodes.iter().map(|inode| {
            let mut bytes = inode.durable.clone();
            let reached: Vec<_> = inode.dirty.iter().filter(|_| random.random_bool(share)).collect();
            reached.into_iter().for_each(|dirty| dirty.reach(&mut bytes));
            Inode { cached: bytes.clone(), durable: bytes, dirty: Vec::new() }
        });
        let inodes = inodes.collect();
        Self(Mutex::new(State { inodes, durable_names: names.clone(), names, ..State::default() }))
    }

    /// Returns the disk as a restarted process finds it, with the whole page cache.
    pub(super) fn restarted(&self) -> Self {
        let state = self.0.lock();
        let (inodes, names) = (state.inodes.clone(), state.names.clone());
        let (durable_names, renamed) = (state.durable_names.clone(), state.renamed.clone());
        Self(Mutex::new(State { inodes, names, durable_names, renamed, ..State::default() }))
    }

    /// Damages a file.
    pub(super) fn damage(&self, name: &'static str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        change(&mut inode.cached);
        inode.durable = inode.cached.clone();
    }

    pub(super) fn remove(&self, name: &'static str) {
        let mut state = self.0.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// Returns an independent copy.
    pub(super) fn copied(&self) -> Self {
        self.restarted()
    }
}

impl State {
    /// Counts an operation. Returns whether a sync must fail.
    fn step(&mut self) -> io::Result<bool> {
        self.steps += 1;
        match self.fault {
            Some((step, Fault::PowerCut)) if self.steps >= step => Err(io::Error::other("the power is cut")),
            Some((step, Fault::FailedSync)) => Ok(self.steps >= step),
            _ => Ok(false),
        }
    }

    fn inode(&mut self, name: &'static str) -> &mut Inode {
        let next = self.inodes.len();
        let inode = *self.names.entry(name).or_insert(next);
        if inode == next {
            self.inodes.push(Inode::default());
            self.renamed.push((None, name, inode));
        }
        &mut self.inodes[inode]
    }
}

impl Storage for Simulated {
    fn read(&self, name: &'static str) -> io::Result<Option<Vec<u8>>> {
        let state = self.0.lock();
        Ok(state.names.get(name).map(|inode| state.inodes[*inode].cached.clone()))
    }

    fn write_at(&self, name: &'static str, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let failed = state.step();
        let (inode, at) = (state.inode(name), at as usize);
        inode.cached.resize(inode.cached.len().max(at + bytes.len()), 0);
        inode.cached[at..at + bytes.len()].copy_from_slice(bytes);
        let (first, behind) = (at / SECTOR, (at + bytes.len()).div_ceil(SECTOR));
        for sector in first..behind {
            let until = ((sector + 1) * SECTOR).min(inode.cached.len());
            let content = inode.cached[sector * SECTOR..until].to_vec();
            inode.dirty.push(Dirty::Sector(sector * SECTOR, content));
        }
        failed.map(|_| ())
    }

    fn set_len(&self, name: &'static str, length: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let failed = state.step();
        let inode = state.inode(name);
        inode.cached.resize(length as usize, 0);
        inode.dirty.push(Dirty::Length(length as usize));
        failed.map(|_| ())
    }

    fn sync(&self, name: &'static str) -> io::Result<()> {
        let mut state = self.0.lock();
        let fails = state.step()?;
        let inode = state.inode(name);
        if fails {
            // Lost although the page cache has it: no later sync writes it.
            inode.dirty.clear();
            return Err(io::Error::other("a sync failed"));
        }
        let dirty = std::mem::take(&mut inode.dirty);
        dirty.iter().for_each(|dirty| dirty.reach(&mut inode.durable));
        Ok(())
    }

    fn sync_apart(&self, name: &'static str) -> io::Result<()> {
        self.sync(name)
    }

    fn rename(&self, from: &'static str, to: &'static str) -> io::Result<()> {
        let mut state = self.0.lock();
        let failed = state.step();
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to, inode);
        state.renamed.push((Some(from), to, inode));
        failed.map(|_| ())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.step()? {
            return Err(io::Error::other("a sync failed"));
        }
        state.durable_names = state.names.clone();
        state.renamed.clear();
        Ok(())
    }

    fn is_in_place(&self, _: &'static str) -> bool {
        true
    }

    fn path(&self, name: &'static str) -> PathBuf {
        name.into()
    }
}
