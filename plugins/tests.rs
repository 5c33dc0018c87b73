//! Tests of the crate as a whole: its pages name what the code has, and its language is plain.

#![allow(clippy::unwrap_used)]

mod documentation;
mod english;

use std::path::Path;

/// Returns the text of a file of the repository.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}
