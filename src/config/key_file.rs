//! Reads key and certificate files that a table names, with the `password` beside them.

use std::sync::Arc;

use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::Settings;
use tollgate_plugins::signer::key_file::{FileError, KeyFile, Password};

use super::file_content::Content;
use super::toml_file::TomlFile;

/// Reports why a file cannot be used, at the key that names it.
pub(super) fn report(table: &Settings<'_>, key: &str, error: FileError) {
    table.problem(key, error.message, error.suggestion);
}

/// Parses a file for which the table may have a `password`.
pub(super) fn with_password(
    source: &TomlFile,
    table: &Settings<'_>,
    key: &str,
    file: &Content,
    password: Option<&Secret>,
) -> Option<Arc<KeyFile>> {
    let given = password.map_or(Password::Missing, |password| Password::Given(password.expose()));
    read(source, file.expose(), given).map_err(|error| report(table, key, error)).ok()
}

/// Parses a file that cannot have a `password`.
pub(super) fn plain(source: &TomlFile, table: &Settings<'_>, key: &str, file: &[u8]) -> Option<Arc<KeyFile>> {
    read(source, file, Password::NoPlace).map_err(|error| report(table, key, error)).ok()
}

/// Reports a `password` if no file is encrypted.
pub(super) fn report_needless_password(table: &Settings<'_>, password: Option<&Secret>, files: &[&KeyFile]) {
    if password.is_some() && !files.is_empty() && !files.iter().any(|file| file.is_encrypted()) {
        let advice = "remove `password`, or name the encrypted file";
        table.problem("password", "this password opens nothing: the file is not encrypted", Some(advice.to_owned()));
    }
}

fn read(source: &TomlFile, file: &[u8], password: Password<'_>) -> Result<Arc<KeyFile>, FileError> {
    let secret = match password {
        Password::Given(secret) => secret,
        Password::Missing => b"",
        Password::NoPlace => b"\0",
    };
    source.known().files.get_or_build(&[file, secret], || KeyFile::read(file, password).map(Arc::new))
}
