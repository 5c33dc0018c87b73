//! Reads the accounts from the folders that `tollgate keygen sandbox` generated.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::account::{Account, AccountFile, Accounts, TlsFiles};
use super::registry::PROVIDERS;

/// Reads every account. A directory without `sandbox.toml` stands for the account folders inside it.
pub(super) fn read_all(directories: &[PathBuf]) -> io::Result<(Accounts, TlsFiles)> {
    let mut accounts = Accounts::new();
    let mut tls: Option<TlsFiles> = None;
    for directory in folders(directories)? {
        let account = read(&directory)?;
        let files = account.profile().tls.clone();
        let first = tls.get_or_insert_with(|| files.clone());
        let same = |a: &Path, b: &Path| Ok::<_, io::Error>(std::fs::read(a)? == std::fs::read(b)?);
        if !same(&first.ca, &files.ca)? || !same(&first.certificate, &files.certificate)? {
            return Err(io::Error::other(format!(
                "{} has another certificate authority than the accounts before it, but a listener can present only one certificate: generate the accounts with \
                 `tollgate keygen` in one directory for one address, or start a sandbox for each",
                directory.display()
            )));
        }
        if let Some(duplicate) = accounts.insert(account.profile().name.to_owned(), account) {
            return Err(io::Error::other(format!("the account {} is in two directories", duplicate.profile().name)));
        }
    }
    let tls = tls.ok_or_else(|| {
        io::Error::other("no account to serve: generate one with `tollgate keygen`, which writes a `sandbox.toml`")
    })?;
    Ok((accounts, tls))
}

/// Reads the account in a folder as its provider does.
fn read(directory: &Path) -> io::Result<Arc<dyn Account>> {
    #[derive(Deserialize)]
    struct Head {
        provider: String,
    }
    let account_file = AccountFile::read(directory)?;
    let name = account_file.parse::<Head>()?.provider;
    match PROVIDERS.into_iter().find(|provider| provider.name() == name) {
        Some(provider) => provider.read_account(&account_file),
        None => {
            let names: Vec<String> = PROVIDERS.iter().map(|provider| format!("`{}`", provider.name())).collect();
            let advice = format!("write one of {}", names.join(", "));
            Err(account_file.error(format!("`{name}` is not a provider of the sandbox; {advice}")))
        }
    }
}

fn folders(directories: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let is_account = |path: &Path| path.join("sandbox.toml").exists();
    let mut found = Vec::new();
    for directory in directories {
        if is_account(directory) {
            found.push(directory.clone());
            continue;
        }
        let entries = std::fs::read_dir(directory)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))?;
        let mut inside: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        inside.retain(|path| is_account(path));
        inside.sort();
        found.extend(inside);
    }
    Ok(found)
}
