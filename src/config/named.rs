//! Reads `[ledger]` of the files when the configuration as a whole has errors.

use std::path::Path;
use std::sync::Arc;

use tollgate_plugins::settings::Settings;

use super::file_source::FileSource;
use super::key_cache::KeyCache;
use super::ledger::{self, LedgerConfig};
use super::model::Config;
use super::now::Now;
use super::toml_file::TomlFile;
use super::value_checks::ValueChecks;

/// `[ledger]` of the files.
#[derive(Debug)]
pub enum NamedLedger {
    /// The section is valid.
    Parsed(LedgerConfig),
    /// The section is invalid. Its lines, if they can be separated from the rest of the file.
    Lines(Option<Vec<String>>),
    /// There is no `tollgate.toml`.
    Nothing,
}

impl NamedLedger {
    /// Reads `[ledger]` of a configuration directory, ignoring errors elsewhere.
    pub fn read(dir: &Path, checks: &ValueChecks) -> Self {
        let path = dir.join("tollgate.toml");
        let origin = Arc::new(FileSource::default());
        if origin.is_missing(&path) {
            return Self::Nothing;
        }
        let Ok(source) = TomlFile::open(&path, &origin, &Arc::new(KeyCache::default())) else {
            return Self::Lines(None);
        };
        let (place, _) = source.read(|mut root| place(&source, &mut root, checks));
        place.flatten().map_or_else(|| Self::Lines(lines(source.text())), Self::Parsed)
    }

    /// Returns whether an archived generation certainly names the same ledger.
    pub fn names_ledger_of(&self, stored: &Config) -> bool {
        match self {
            Self::Parsed(place) => place.is_same(&stored.process.ledger),
            Self::Lines(None) => false,
            Self::Lines(ours) => {
                let text = String::from_utf8_lossy(stored.sources.dependencies.text.expose());
                *ours == lines(&text)
            }
            Self::Nothing => true,
        }
    }
}

fn place(source: &TomlFile, root: &mut Settings<'_>, checks: &ValueChecks) -> Option<LedgerConfig> {
    let section = root.section("ledger");
    let before = root.problems().len();
    let place = ledger::read(source, section, true, Now::read(), checks).place;
    place.filter(|_| root.problems().len() == before)
}

/// Returns the lines of the ledger section, without comments. `None` if they cannot be separated.
fn lines(text: &str) -> Option<Vec<String>> {
    let (mut found, mut is_ledger, mut is_top) = (Vec::new(), false, true);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
            is_top = false;
            is_ledger = name == "ledger" || name.starts_with("ledger.");
        }
        let is_here = is_ledger || (is_top && line.starts_with("ledger"));
        // A value that continues on the next line cannot be separated.
        if is_here
            && (line.contains("\"\"\"")
                || line.contains("'''")
                || line.matches('{').count() != line.matches('}').count())
        {
            return None;
        }
        if is_here {
            found.push(line.to_owned());
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn ledger_lines_are_separated_from_all_others() {
        let text = "public_url = \"x\"\nledger.retention = { claims = \"24h\" }\n[server]\nledger = 1\n[ledger] # here\nkind = \"embedded\"\n\
                    # path = \"old\"\npath = \"a\"\n[ledger.retention]\nevents = \"1d\"\n[queue]\nlimit = 1\n";
        let expected = [
            "ledger.retention = { claims = \"24h\" }",
            "[ledger] # here",
            "kind = \"embedded\"",
            "path = \"a\"",
            "[ledger.retention]",
            "events = \"1d\"",
        ];
        assert_eq!(lines(text), Some(expected.map(str::to_owned).to_vec()));
        assert_eq!(lines("ledger = {\n kind = \"postgres\" }"), None);
        assert_eq!(lines("[ledger]\npath = \"\"\"\na\"\"\""), None);
    }
}
