use std::os::unix::fs::PermissionsExt;

use super::*;

const KEPT: u64 = 660;

fn open(directory: &Path, now: u64) -> (NonceLog, Logged) {
    NonceLog::open(directory, now, 300, KEPT).unwrap()
}

fn mark(number: u8) -> NonceMark {
    NonceMark { hash: [number; 16], end: 10_300 }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn append(log: &NonceLog, mark: NonceMark, elapsed: u64) {
    log.append(mark, 0, (10_000, Duration::from_secs(elapsed)));
}

#[test]
fn records_are_read_by_the_next_process_and_files_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("nonces");
    let (log, logged) = open(&at, 10_000);
    assert_eq!((logged.marks.len(), logged.floor, logged.missing), (0, 0, 10_299), "it may have been lost");
    append(&log, mark(1), 0);
    append(&log, mark(2), 1);
    drop(log);
    let (_log, logged) = open(&at, 10_001);
    assert_eq!((logged.marks, logged.floor), (vec![mark(1), mark(2)], 0));
    let [file] = &files(&at)[..] else { panic!("the old file was deleted") };
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o077, 0);
    assert_eq!(std::fs::metadata(&at).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn file_of_a_live_process_is_not_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = open(directory.path(), 10_000);
    append(&first, mark(1), 0);
    let (_second, logged) = open(directory.path(), 10_000);
    assert_eq!(logged.marks, [mark(1)]);
    append(&first, mark(2), 0);
    let (_third, logged) = open(directory.path(), 10_000);
    assert!(logged.marks.contains(&mark(2)));
}

#[test]
fn damaged_log_or_other_boot_rejects_signatures_from_before_the_start() {
    let damage: [fn(&mut Vec<u8>); 5] = [
        |content| content.truncate(HEADER - 1),
        |content| content.clear(),
        |content| content[0] ^= 1,
        |content| content[HEADER + 3] ^= 1,
        |content| {
            content[MAGIC.len()] ^= 1;
            let sum = check(&content[..HEADER - CHECK]);
            content[HEADER - CHECK..HEADER].copy_from_slice(&sum);
        },
    ];
    for (number, damage) in damage.iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let (log, _) = open(directory.path(), 10_000);
        append(&log, mark(1), 0);
        drop(log);
        let [file] = &files(directory.path())[..] else { panic!() };
        let mut content = std::fs::read(file).unwrap();
        damage(&mut content);
        std::fs::write(file, content).unwrap();
        let (log, logged) = open(directory.path(), 10_001);
        assert_eq!(logged.missing, 10_301, "{number}");
        drop(log);
        assert_eq!(open(directory.path(), 10_002).1.missing, 10_301, "{number}: it outlives the next start");
    }
    // The process was killed while it wrote its last record.
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), 10_000);
    append(&log, mark(1), 0);
    append(&log, mark(2), 0);
    drop(log);
    let [file] = &files(directory.path())[..] else { panic!() };
    let length = std::fs::metadata(file).unwrap().len();
    File::options().write(true).open(file).unwrap().set_len(length - 5).unwrap();
    let (_log, logged) = open(directory.path(), 10_000);
    assert_eq!((logged.marks, logged.floor), (vec![mark(1)], 0));
}

#[test]
fn expired_files_are_deleted_and_leave_their_floor() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path(), 10_000);
    append(&log, mark(1), 0);
    let late =
        |end, elapsed| log.append(NonceMark { hash: [9; 16], end }, 0, (end - 300, Duration::from_secs(elapsed)));
    late(10_700, 400);
    late(11_100, 800);
    assert_eq!(files(directory.path()).len(), 3);
    late(11_700, 1_400);
    assert_eq!(files(directory.path()).len(), 3, "the first went");
    drop(log);
    let (_log, logged) = open(directory.path(), 11_400);
    assert!(!logged.marks.contains(&mark(1)) && logged.floor == 10_300, "{logged:?}");
}

#[test]
fn files_of_frequent_restarts_are_deleted_once_their_signatures_expired() {
    let directory = tempfile::tempdir().unwrap();
    let many = u64::try_from(MAX_COPIED).unwrap() + 1;
    for (start, end) in [(10_000, 10_300), (10_001, 10_301)] {
        let (log, _) = open(directory.path(), start);
        for number in 0..many {
            let mut hash = [0; 16];
            hash[..8].copy_from_slice(&(end + number * 1000).to_be_bytes());
            log.append(NonceMark { hash, end }, 0, (start, Duration::ZERO));
        }
    }
    let (log, logged) = open(directory.path(), 13_899);
    assert_eq!(
        (logged.floor, logged.marks.len()),
        (10_299, 2 * (MAX_COPIED + 1)),
        "a clock that is wrong by less than an hour forgets none"
    );
    assert_eq!(files(directory.path()).len(), 3);
    drop(log);
    let (log, logged) = open(directory.path(), 13_901);
    assert_eq!((logged.floor, logged.marks.len()), (10_300, MAX_COPIED + 1), "the first file's signatures are over");
    drop(log);
    let (_log, logged) = open(directory.path(), 13_902);
    assert_eq!((logged.floor, logged.marks.len(), files(directory.path()).len()), (10_301, 0, 1));
}

#[test]
fn failed_write_is_detected_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("nonces");
    let (log, _) = open(&at, 10_000);
    append(&log, mark(1), 0);
    // No new file can be created, as on a full disk.
    let elsewhere = directory.path().join("elsewhere");
    std::fs::rename(&at, &elsewhere).unwrap();
    append(&log, mark(2), 400);
    append(&log, mark(3), 401);
    drop(log);
    let (_log, logged) = open(&elsewhere, 10_500);
    assert_eq!(logged.missing, 10_800);
}

#[test]
fn clock_ahead_at_one_start_rejects_nothing_after_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (log, logged) = open(directory.path(), 10_000 + 401 * 86_400);
    assert!(logged.missing > 10_000_000);
    drop(log);
    let (log, logged) = open(directory.path(), 10_000);
    assert_eq!((logged.floor, logged.missing), (0, 10_299), "callers sign in the second of the start");
    drop(log);
    let (_log, logged) = open(directory.path(), 10_300);
    assert_eq!((logged.floor, logged.missing), (10_299, 0), "it is over");
}
