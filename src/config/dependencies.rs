//! The files and variables that a configuration file names, with digests of their content.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tollgate_plugins::secret::Secret;

/// Inputs of a fingerprint. They suffice to detect a change without parsing, and to describe what changed.
#[derive(Clone, Default)]
pub(crate) struct Dependencies {
    /// Text of the file itself.
    pub(crate) text: Secret,
    /// Files and variables that it names, in order.
    pub(crate) items: Vec<Dependency>,
}

/// File or environment variable that a file names, with the digest of its content.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) reference: Reference,
    pub(crate) digest: [u8; 32],
}

/// Reference as it is written in the file: a copy of the whole directory uses the same references.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reference {
    File(String),
    Variable(String),
}

impl Dependencies {
    /// Returns the file at `path` and the files that it names, each with the SHA-256 of its content.
    pub(crate) fn contents(&self, path: &Path) -> impl Iterator<Item = (PathBuf, [u8; 32])> {
        let named = self.items.iter().filter_map(move |item| match &item.reference {
            Reference::File(name) => Some((beside(path, name), item.digest)),
            Reference::Variable(_) => None,
        });
        std::iter::once((path.to_owned(), Sha256::digest(self.text.expose()).into())).chain(named)
    }

    /// Returns the named files: as written, and as a resolved path.
    pub(crate) fn files(&self, path: &Path) -> impl Iterator<Item = (&str, PathBuf)> {
        self.items.iter().filter_map(move |item| match &item.reference {
            Reference::File(name) => Some((name.as_str(), beside(path, name))),
            Reference::Variable(_) => None,
        })
    }
}

impl Dependency {
    /// Returns whether the reference is the same as before and its content is not.
    pub(crate) fn differs(&self, before: &Self) -> bool {
        self.reference == before.reference && self.digest != before.digest
    }

    pub(crate) fn new(reference: Reference, digest: [u8; 32]) -> Self {
        Self { reference, digest }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => write!(f, "the content of {name}"),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

/// Resolves a path that is written in a file.
pub(crate) fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(name)
}
