//! Check of a configuration without putting it in force.

use std::fmt;
use std::path::{Path, PathBuf};

use tollgate_config::{Diagnostic, warnings};

use super::generations::Generations;
use crate::snapshot::load;

/// Loads the configuration as a start would, and summarizes it.
pub fn check(dir: &Path) -> Result<Summary, Vec<Diagnostic>> {
    let snapshot = load(dir, None)?;
    let mut notes = warnings(dir, &snapshot.config);
    let (in_use, place) = (Generations::of(dir).in_use(), &snapshot.process.ledger);
    match in_use.unreadable(place) {
        Some(file) => {
            let message = "cannot check whether `[ledger]` names the ledger in use, because this file cannot be read";
            notes.push(Diagnostic::in_file(file, message, Some("run `tollgate check` as the gateway's user")));
        }
        // A start would reject this ledger.
        None => {
            in_use.admit(place).map_err(|why| vec![Diagnostic::in_file(dir.join("tollgate.toml"), why, None)])?;
        }
    }
    Ok(Summary {
        dir: dir.to_owned(),
        merchants: snapshot.config.merchants.len(),
        channels: snapshot.channels.len(),
        routes: snapshot.routes.len(),
        notes,
    })
}

/// Contents of a configuration without errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Directory of the configuration.
    pub dir: PathBuf,
    /// Number of merchants.
    pub merchants: usize,
    /// Number of channels.
    pub channels: usize,
    /// Number of routes.
    pub routes: usize,
    /// Warnings.
    pub notes: Vec<Diagnostic>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = [(self.merchants, "merchant"), (self.channels, "channel"), (self.routes, "route")]
            .map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }));
        write!(f, "{}: {}: fine", self.dir.display(), counted.join(", "))
    }
}
