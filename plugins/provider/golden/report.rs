//! Differences between golden files and the code, with the command that rewrites the files.

use std::path::Path;

use serde_json::Value;

/// Environment variable that selects the golden files to rewrite: `1` for all, or a part of a path.
const UPDATE: &str = "UPDATE_GOLDEN";

/// Returns whether the file is to be rewritten.
pub(in super::super) fn is_updated(file: &Path) -> bool {
    let wanted = std::env::var(UPDATE).unwrap_or_default();
    wanted == "1" || !wanted.is_empty() && file.to_string_lossy().contains(&wanted)
}

/// Golden files that differ from the code.
#[derive(Default)]
pub(in super::super) struct Report(Vec<String>);

impl Report {
    /// Adds a file that cannot be checked.
    pub(in super::super) fn fail(&mut self, file: &Path, why: &str) {
        let name = short(file);
        self.0.push(format!("{name}: {why}\n  to write it: {UPDATE}={name} cargo test -p tollgate-plugins golden"));
    }

    /// Compares one key of a file with the value that the code computes.
    pub(in super::super) fn compare(
        &mut self,
        file: &Path,
        key: &str,
        written: Option<&Value>,
        computed: Option<&Value>,
    ) {
        match (written, computed) {
            (None, Some(_)) => self.fail(file, &format!("`{key}` is missing: the file was never written by the test")),
            (Some(_), None) => self.fail(file, &format!("`{key}` is written, but the code computes none")),
            (written, computed) if written != computed => {
                let pretty = |value| serde_json::to_string_pretty(&value).unwrap_or_default();
                let (written, computed) = (pretty(written), pretty(computed));
                self.fail(file, &format!("`{key}` differs\n  written: {written}\n  computed: {computed}"));
            }
            _ => {}
        }
    }

    /// Returns every difference; empty if there is none.
    pub(in super::super) fn text(&self) -> String {
        self.0.join("\n")
    }

    /// Fails the test if there is a difference.
    pub(in super::super) fn assert_empty(&self) {
        assert!(self.0.is_empty(), "\n{}\n", self.text());
    }
}

/// Returns the path from `tests/golden` on.
fn short(file: &Path) -> String {
    let file = file.to_string_lossy();
    file.rfind("tests/golden/").map_or(&*file, |start| &file[start..]).to_owned()
}
