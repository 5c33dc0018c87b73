//! Tests of the WAL against power cuts and failed syncs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::simulated::{Fault, Simulated};
use super::*;
use crate::transaction::{Rows, Space};

/// Tables of the tests, durable at once.
type Tables = BTreeMap<u32, u32>;

/// A WAL with its tables, driven like by the engine.
struct World {
    disk: Arc<Simulated>,
    wal: Arc<Wal>,
    active: Segment,
    free_segment: Option<Segment>,
    /// Full segment that is not in the tables yet, with its rows.
    full: Option<(Segment, Tables)>,
    /// Rows of the active segment.
    active_rows: Tables,
    tables: Tables,
}

impl World {
    fn open(disk: Simulated, tables: Tables) -> Result<Self, OpenError> {
        let disk = Arc::new(disk);
        match Self::open_on(&disk, tables) {
            Ok(world) => Ok(world),
            Err((error, _)) => Err(error),
        }
    }

    /// The error comes with the tables' content at that time.
    fn open_on(disk: &Arc<Simulated>, mut tables: Tables) -> Result<Self, (OpenError, Tables)> {
        let (wal, rows) = match Wal::open_on(Arc::clone(disk) as Arc<dyn Storage>, !tables.is_empty()) {
            Ok(opened) => opened,
            Err(error) => return Err((error, tables)),
        };
        let wal = Arc::new(wal);
        // 0 stands for the tables' own files.
        let known = wal.set_tables(vec![0, 1]);
        tables.insert(0, 0);
        tables.extend(read(&rows));
        let begun = known.and_then(|()| Arc::clone(&wal).begin());
        match begun {
            Ok([active, free_segment]) => Ok(Self {
                disk: Arc::clone(disk),
                wal,
                active,
                free_segment: Some(free_segment),
                full: None,
                active_rows: Tables::new(),
                tables,
            }),
            Err(error) => Err((error.into(), tables)),
        }
    }

    fn append(&mut self, key: u32, value: u32, length: usize) -> io::Result<()> {
        let mut rows = Rows::default();
        let mut text = value.to_le_bytes().to_vec();
        text.resize(4 + length, b'x');
        rows.insert(Space::Claims, key.to_be_bytes(), Some(text.as_slice().into()));
        self.active.append(&rows)?;
        self.active_rows.insert(key, value);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let (file, upto) = self.active.position();
        self.wal.sync(file, upto)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file()?;
        self.sync()?;
        if let Some(next) = self.free_segment.take() {
            let full = std::mem::replace(&mut self.active, next);
            self.full = Some((full, std::mem::take(&mut self.active_rows)));
        }
        Ok(())
    }

    /// Checkpoints the full segment and recycles its file.
    fn file(&mut self) -> io::Result<()> {
        if let Some((full, rows)) = &self.full {
            self.tables.extend(rows);
            self.free_segment = Some(Arc::clone(&self.wal).recycle(full)?);
            self.full = None;
        }
        Ok(())
    }

    /// Returns everything that can be read.
    fn all(&self) -> Tables {
        let mut all = self.tables.clone();
        self.full.iter().for_each(|(_, rows)| all.extend(rows));
        all.extend(&self.active_rows);
        all
    }
}

fn read(rows: &Memtable) -> Tables {
    let number = |bytes: &[u8]| bytes[..4].try_into().unwrap();
    let row = |(key, value): (&crate::transaction::Key, Option<&crate::transaction::Value>)| {
        (u32::from_be_bytes(number(key)), u32::from_le_bytes(number(value.unwrap())))
    };
    rows.of(Space::Claims).map(row).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Sync,
    Mark,
    Rotate,
    File,
    Restart,
}

/// Runs steps until the first failure. Returns what was acknowledged and what was written last.
fn run(disk: &Arc<Simulated>, steps: &[Step]) -> (Tables, Tables, Tables) {
    let (mut acknowledged, mut written, mut number) = (Tables::new(), Tables::new(), 0);
    let mut world = match World::open_on(disk, Tables::new()) {
        Ok(world) => world,
        Err((_, tables)) => return (acknowledged, written, tables),
    };
    for step in steps {
        let done = match step {
            Step::Append(length) => {
                number += 1;
                // Now and then a key that was written before.
                let key = 1 + number % 7 * (number % 3);
                written.insert(key, number);
                world.append(key, number, *length)
            }
            Step::Sync => world.sync(),
            Step::Mark => world.wal.mark(),
            Step::Rotate => world.rotate(),
            Step::File => world.file(),
            Step::Restart => {
                let tables = world.tables.clone();
                match World::open_on(disk, tables) {
                    Ok(opened) => {
                        world = opened;
                        Ok(())
                    }
                    Err((_, tables)) => return (acknowledged, written, tables),
                }
            }
        };
        if done.is_err() {
            break;
        }
        if matches!(step, Step::Sync | Step::Rotate | Step::Restart) {
            acknowledged = written.clone();
        }
    }
    (acknowledged, written, world.tables)
}

/// Checks that everything acknowledged is there, or a newer value that was written.
fn check(found: &Tables, acknowledged: &Tables, written: &Tables, case: &str) {
    for (key, value) in acknowledged {
        let found = found.get(key).copied().unwrap_or(0);
        assert!(found >= *value && found <= written[key], "{case}: {key} is {found}, not {value}");
    }
    let mut others = found.iter().filter(|(key, _)| **key > 0);
    assert!(others.all(|(key, value)| written.get(key).is_some_and(|last| value <= last)), "{case}: from nowhere");
}

/// Interrupts the steps at every operation on the disk, and reopens the WAL again and again.
fn break_off(steps: &[Step], seed: u64, fault: Fault) {
    let disk = Arc::new(Simulated::default());
    run(&disk, steps);
    for step in 1..=disk.steps() {
        let disk = Arc::new(Simulated::default());
        disk.fail_at(step, fault);
        let (acknowledged, written, mut tables) = run(&disk, steps);
        let case = format!("{fault:?} at {step} of {steps:?}, seed {seed}");
        if fault == Fault::FailedSync {
            // Data that the next start finds only in the page cache must not be relied upon.
            let mut world =
                World::open(disk.restarted(), tables.clone()).unwrap_or_else(|error| panic!("{case}: {error}"));
            let found = world.all();
            check(&found, &acknowledged, &written, &case);
            world.append(1000, 7, 5).unwrap();
            world.sync().unwrap();
            let cut = World::open(world.disk.cut(seed), world.tables.clone());
            let cut = cut.unwrap_or_else(|error| panic!("{case}: {error}")).all();
            assert!(
                found.iter().all(|(key, value)| cut[key] == *value) && cut[&1000] == 7,
                "{case}: served, then lost"
            );
        }
        let mut left = match fault {
            Fault::PowerCut => disk.cut(seed),
            Fault::FailedSync => disk.restarted(),
        };
        // A power cut during the next starts as well; what they served must stay.
        let mut served = acknowledged;
        for again in 1..4 {
            let next = Arc::new(left);
            next.fail_at(1 + (seed as usize % 50 + again * 5) % 13, Fault::PowerCut);
            match World::open_on(&next, tables.clone()) {
                Ok(world) => {
                    let found = world.all();
                    check(&found, &served, &written, &case);
                    served = found;
                    served.remove(&0);
                    tables = world.tables.clone();
                }
                Err((OpenError::Io(_), found)) => tables = found,
                Err((damaged, _)) => panic!("{case}: {damaged}"),
            }
            left = next.cut(seed + again as u64);
        }
        let mut world = World::open(left, tables).unwrap_or_else(|error| panic!("{case}: {error}"));
        check(&world.all(), &served, &written, &case);
        world.append(1000, 7, 5).unwrap();
        world.sync().unwrap();
        let world = World::open(world.disk.cut(seed), world.tables.clone()).unwrap();
        assert_eq!(world.all()[&1000], 7, "{case}");
    }
}

const SCRIPT: [Step; 18] = [
    Step::Append(100),
    Step::Append(1500),
    Step::Sync,
    Step::Append(10),
    Step::Append(3000),
    Step::Sync,
    Step::Mark,
    Step::Append(900),
    Step::Rotate,
    Step::Append(700),
    Step::Append(700),
    Step::Sync,
    Step::File,
    Step::Append(2000),
    Step::Rotate,
    Step::Append(40),
    Step::Restart,
    Step::Append(40),
];

#[test]
fn power_cut_at_every_step_keeps_acknowledged_writes_and_is_not_reported_as_damage() {
    (0..12).for_each(|seed| break_off(&SCRIPT, seed, Fault::PowerCut));
}

#[test]
fn failed_sync_at_every_step_is_not_trusted_by_the_next_start() {
    (0..8).for_each(|seed| break_off(&SCRIPT, seed, Fault::FailedSync));
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..2500).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => Just(Step::Mark),
        1 => Just(Step::Rotate),
        1 => Just(Step::File),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(crate::tests::proptest_config(12))]
    #[test]
    fn power_cut_in_any_workload_keeps_acknowledged_writes(
        steps in prop::collection::vec(step(), 1..16),
        seed in any::<u32>(),
    ) {
        break_off(&steps, seed.into(), Fault::PowerCut);
    }
}

mod damage;
