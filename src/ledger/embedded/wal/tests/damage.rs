//! The log against flipped bits, zeroed sectors, shortened and missing files.

use super::*;

/// A log whose records are all acknowledged: some in the tables, some in both segments, one of which was used before.
fn small() -> World {
    let mut world = World::open(Simulated::default(), Tables::new()).unwrap();
    let write = |world: &mut World, keys: std::ops::Range<u32>| {
        for key in keys {
            world.append(key, key, 60 * key as usize).unwrap();
            world.sync().unwrap();
        }
    };
    write(&mut world, 1..4);
    world.rotate().unwrap();
    write(&mut world, 4..7);
    world.rotate().unwrap();
    write(&mut world, 7..10);
    world
}

/// Either the damage is refused, with the file that it is in, or everything is there.
fn refused_or_whole(damaged: Simulated, name: &str, case: &str) -> bool {
    // Those of the first segment are in the tables.
    let tables = Tables::from([(0, 0), (1, 1), (2, 2), (3, 3)]);
    match World::open(damaged, tables) {
        Ok(world) => {
            assert_eq!(world.all().range(1..).count(), 9, "{case}: forgotten in silence");
            false
        }
        Err(OpenError::Damaged { file, .. }) => {
            assert_eq!(file, PathBuf::from(name), "{case}");
            true
        }
        Err(error) => panic!("{case}: {error}"),
    }
}

/// The part of a file in which something lies, and a little more.
fn used(disk: &Simulated, name: &'static str) -> usize {
    record::used(&disk.read(name).unwrap().unwrap()) + 700
}

#[test]
fn flipped_bit_anywhere_is_rejected_or_harmless() {
    let world = small();
    for name in ["0", "1", "manifest"] {
        let (length, mut refused) = (used(&world.disk, name).min(16 << 10), 0);
        for at in 0..length.min(world.disk.read(name).unwrap().unwrap().len()) {
            let damaged = world.disk.copied();
            damaged.damage(name, |bytes| bytes[at] ^= 1 << (at % 8));
            refused += usize::from(refused_or_whole(damaged, name, &format!("{name} at {at}")));
        }
        assert!(name == "manifest" || refused > length - 800, "{name}: {refused} of {length}");
    }
}

#[test]
fn truncated_file_of_any_length_is_rejected_or_harmless() {
    let world = small();
    for name in ["0", "1", "manifest"] {
        for length in 0..used(&world.disk, name) {
            let damaged = world.disk.copied();
            damaged.damage(name, |bytes| bytes.truncate(length));
            assert!(refused_or_whole(damaged, name, &format!("{name} cut to {length}")));
        }
    }
}

#[test]
fn zeroed_sector_is_rejected_or_harmless_once_the_synced_end_is_marked() {
    let world = small();
    world.wal.mark().unwrap();
    for name in ["0", "1", "manifest"] {
        for first in (0..used(&world.disk, name)).step_by(512) {
            for count in [1, 8] {
                let damaged = world.disk.copied();
                damaged.damage(name, |bytes| bytes.iter_mut().skip(first).take(512 * count).for_each(|byte| *byte = 0));
                refused_or_whole(damaged, name, &format!("{name} at {first}"));
            }
        }
    }
}

#[test]
fn missing_or_empty_wal_file_is_rejected() {
    let world = small();
    for name in ["0", "1", "manifest"] {
        let damaged = world.disk.copied();
        damaged.remove(name);
        assert!(refused_or_whole(damaged, name, &format!("{name} is missing")));
        let damaged = world.disk.copied();
        damaged.damage(name, Vec::clear);
        assert!(refused_or_whole(damaged, name, &format!("{name} is empty")));
    }
    let damaged = world.disk.copied();
    ["0", "1", "manifest"].into_iter().for_each(|name| damaged.remove(name));
    assert!(refused_or_whole(damaged, "manifest", "all are missing"));
}

#[test]
fn missing_tables_are_rejected() {
    let world = small();
    assert!(matches!(World::open(world.disk.copied(), Tables::new()), Err(OpenError::Damaged { .. })));
}

#[test]
fn damage_error_names_file_and_position_and_changes_nothing() {
    let world = small();
    let damaged = Arc::new(world.disk.copied());
    damaged.damage("0", |bytes| bytes[100] ^= 1);
    let before = ["0", "1", "manifest"].map(|name| damaged.read(name).unwrap());
    let refusal = World::open_on(&damaged, Tables::from([(0, 0)])).err().unwrap().0.to_string();
    assert!(refusal.contains("0 at byte 0") && refusal.contains("backup"), "{refusal}");
    assert_eq!(damaged.steps(), 0);
    assert!(before == ["0", "1", "manifest"].map(|name| damaged.read(name).unwrap()));
}

#[test]
fn record_of_an_unknown_space_is_rejected() {
    let world = World::open(Simulated::default(), Tables::new()).unwrap();
    let mut bytes = Vec::new();
    record::begin(&mut bytes);
    bytes.push(77);
    let slot = world.wal.manifest.lock().slots[0];
    record::finish(&mut bytes, slot.root, 0, Position::default()).unwrap();
    world.disk.write_at("0", &bytes, 0).unwrap();
    let error = World::open(world.disk.copied(), world.tables.clone()).err().unwrap();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[test]
fn failed_write_leaves_no_bytes_behind_later_records() {
    let mut world = World::open(Simulated::default(), Tables::new()).unwrap();
    world.append(1, 1, 10).unwrap();
    world.disk.fail_at(world.disk.steps() + 1, Fault::PowerCut);
    assert!(world.append(2, 2, 3000).is_err());
    world.disk.fail_at(usize::MAX, Fault::PowerCut);
    world.append(3, 3, 10).unwrap();
    world.sync().unwrap();
    let opened = World::open(world.disk.cut(0), world.tables.clone()).unwrap();
    assert_eq!(opened.all().range(1..).collect::<Vec<_>>(), [(&1, &1), (&3, &3)]);
}
