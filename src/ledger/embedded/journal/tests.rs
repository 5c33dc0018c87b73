#![allow(clippy::unwrap_used)]
use super::*;
use crate::ledger::transaction::Value;

fn rows(of: &[(u8, Option<&str>)]) -> Rows {
    let mut rows = Rows::default();
    for (key, value) in of {
        rows.insert(Space::Claims, vec![*key; 16], value.map(|value| value.into()));
    }
    rows
}

fn seen(rows: &Layer) -> Vec<(u8, Option<String>)> {
    let text = |value: &Value| String::from_utf8(value.to_vec()).unwrap();
    rows.of(Space::Claims).map(|(key, value)| (key[0], value.map(text))).collect()
}

/// One that was begun, with these batches in it.
fn written(folder: &Path, batches: &[Rows]) -> Segment {
    let mut segment = open(folder).unwrap().active;
    batches.iter().for_each(|batch| segment.append(batch).unwrap());
    segment
}

#[test]
fn what_was_appended_is_there_again_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let batches = [rows(&[(1, Some("a")), (2, Some(""))]), rows(&[(1, None), (3, Some("c"))])];
    written(folder.path(), &batches);
    for _ in 0..2 {
        let found = open(folder.path()).unwrap();
        assert_eq!(seen(&found.fresh), [(1, None), (2, Some("".into())), (3, Some("c".into()))]);
        assert!(found.sealed.is_none() && found.spare.is_some());
    }
    let mut active = open(folder.path()).unwrap().active;
    active.append(&rows(&[(4, Some("d"))])).unwrap();
    assert_eq!(seen(&open(folder.path()).unwrap().fresh).len(), 4);
}

#[test]
fn a_record_that_is_not_whole_counts_as_nothing_wherever_it_was_cut_and_whatever_follows() {
    let folder = tempfile::tempdir().unwrap();
    let segment = written(folder.path(), &[rows(&[(1, Some("first"))])]);
    let from = segment.end as usize;
    let mut segment = segment;
    segment.append(&rows(&[(2, Some("second"))])).unwrap();
    let behind = segment.end as usize;
    segment.append(&rows(&[(3, Some("third"))])).unwrap();
    let whole = std::fs::read(&segment.path).unwrap();
    let read = |bytes: &[u8]| {
        std::fs::write(&segment.path, bytes).unwrap();
        seen(&Segment::read(&segment.path).unwrap().unwrap().1).len()
    };
    assert_eq!(read(&whole), 3);
    for cut in from..behind {
        // Cut off; zeros from there on, with what follows in its place; and one bit.
        assert_eq!(read(&whole[..cut]), 1, "{cut}");
        let torn = [&whole[..cut], &vec![0; behind - cut], &whole[behind..]].concat();
        assert_eq!(read(&torn), if torn == whole { 3 } else { 1 }, "{cut}");
        let mut flipped = whole.clone();
        flipped[cut] ^= 0x10;
        assert_eq!(read(&flipped), 1, "{cut}");
    }
}

#[test]
fn after_a_torn_end_it_goes_on_and_what_lay_behind_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut segment = written(folder.path(), &[rows(&[(1, Some("a"))])]);
    let torn = segment.end;
    // As long as what will be written in its place, so that what lay behind it stands where the next record is looked for.
    let long = format!("b{}", "x".repeat(HEAD + 17));
    segment.append(&rows(&[(2, Some(&long))])).unwrap();
    let behind = segment.end;
    segment.append(&rows(&[(3, Some("c"))])).unwrap();
    // Of what was not synced, the later part came to the disk and the earlier did not.
    segment.file.write_all_at(&[0xff], torn + 2).unwrap();
    let mut active = open(folder.path()).unwrap().active;
    assert_eq!(active.end, torn + (HEAD + 17) as u64);
    active.append(&rows(&[(2, Some("b"))])).unwrap();
    assert_eq!(active.end, behind);
    assert_eq!(seen(&open(folder.path()).unwrap().fresh), [(1, Some("a".into())), (2, Some("b".into()))]);
}

#[test]
fn the_files_take_turns_and_an_earlier_turn_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = written(folder.path(), &[rows(&[(1, Some("old")), (2, Some("old"))])]);
    // Nothing is in the next one yet: the first goes on.
    let found = open(folder.path()).unwrap();
    assert_eq!((found.active.number, seen(&found.fresh).len()), (1, 2));
    let mut second = found.spare.unwrap();
    second.append(&rows(&[(1, Some("new"))])).unwrap();
    let found = open(folder.path()).unwrap();
    let (sealed, before) = found.sealed.unwrap();
    assert!(found.spare.is_none(), "it is not written over before it is filed");
    assert_eq!((seen(&found.fresh), seen(&before).len()), (vec![(1, Some("new".into()))], 2));
    let third = sealed.again().unwrap();
    assert_eq!((third.number, third.path == first.path), (3, true));
    let found = open(folder.path()).unwrap();
    assert_eq!((found.active.number, found.spare.unwrap().number), (2, 3));
    assert!(found.sealed.is_none());
    // Bytes of an earlier turn where a record might be.
    first.append(&rows(&[(9, Some("stale"))])).unwrap();
    let found = open(folder.path()).unwrap();
    assert_eq!((found.active.number, seen(&found.fresh)), (2, vec![(1, Some("new".into()))]));
}

#[test]
fn a_header_that_was_not_wholly_written_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let segment = written(folder.path(), &[rows(&[(1, Some("a"))])]);
    let whole = std::fs::read(&segment.path).unwrap();
    for byte in 0..32 {
        let mut torn = whole.clone();
        torn[byte] ^= 1;
        std::fs::write(&segment.path, torn).unwrap();
        assert!(Segment::read(&segment.path).unwrap().is_none(), "{byte}");
    }
}

#[test]
fn what_a_newer_version_wrote_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut segment = written(folder.path(), &[]);
    let mut bytes = vec![0; HEAD];
    bytes.push(77);
    segment.add(bytes).unwrap();
    assert!(open(folder.path()).err().unwrap().to_string().contains("cannot read"));
}

#[test]
fn space_is_set_aside_before_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let mut segment = written(folder.path(), &[]);
    let before = segment.size;
    assert!(before >= AHEAD.0);
    let large = "x".repeat(before as usize);
    segment.append(&rows(&[(1, Some(&large))])).unwrap();
    assert!(segment.size > segment.end && std::fs::metadata(&segment.path).unwrap().len() == segment.size);
    assert_eq!(seen(&open(folder.path()).unwrap().fresh), [(1, Some(large))]);
}
