//! Helpers for tests: configuration directories, and configurations without a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tollgate_plugins::secret::Secret;

use super::cache::{CacheKind, StatusTtl};
use super::ledger::{DEFAULT_MAX_CLOCK_OFFSET, LedgerConfig, Retention};
use super::merchant::Merchant;
use super::model::{Config, Sources};
use super::process::Process;

/// Temporary configuration directory, with room beside it for the archive of generations.
pub struct Dir {
    path: PathBuf,
    _root: TempDir,
}

impl Default for Dir {
    fn default() -> Self {
        let root = must(tempfile::tempdir());
        let path = root.path().join("conf");
        must(fs::create_dir(&path));
        Self { path, _root: root }
    }
}

impl Dir {
    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a copy of this directory.
    pub fn copied(&self) -> Self {
        let copied = Self::default();
        copy(&self.path, &copied.path);
        copied
    }
}

/// Copies a directory recursively.
pub fn copy(from: &Path, to: &Path) {
    must(fs::create_dir_all(to));
    for entry in must(fs::read_dir(from)).map(must) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            must(fs::copy(entry.path(), to));
        }
    }
}

/// Writes a file of the directory.
pub fn put(dir: &Dir, name: &str, text: &str) {
    must(fs::write(dir.path().join(name), text));
}

/// Replaces a text in a file of the directory.
pub fn edit(dir: &Dir, name: &str, from: &str, to: &str) {
    let text = must(fs::read_to_string(dir.path().join(name)));
    assert!(text.contains(from), "{name} has no {from}: {text}");
    put(dir, name, &text.replacen(from, to, 1));
}

/// Completes a directory whose `channels` exist: one merchant `shop`, a route to this channel, and the directory of the ledger.
pub fn complete(dir: &Dir, channel: &str) {
    must(fs::create_dir(dir.path().join("merchants")));
    must(fs::create_dir(dir.path().join("data")));
    put(dir, "tollgate.toml", "public_url = \"http://127.0.0.1:8080\"\n");
    put(dir, "merchants/shop.toml", "keys = [{ id = \"shop-1\", secret = \"plain:0123456789abcdef\" }]\n");
    put(dir, "routes.toml", &format!("[[route]]\nto = [{{ channel = \"{channel}\" }}]\n"));
}

/// Returns a configuration with one merchant, these keys of it, and no channel.
pub fn with_merchant(name: &str, keys: Vec<(String, Secret)>) -> Config {
    let merchant = Merchant {
        name: name.to_owned(),
        fingerprint: String::new(),
        dependencies: Default::default(),
        keys,
        webhook: None,
        sinks: Vec::new(),
        sources: Vec::new(),
        limit: None,
        bills: Vec::new(),
    };
    Config {
        hash: String::new(),
        process: Arc::new(process()),
        merchants: [(name.to_owned(), Arc::new(merchant))].into(),
        channels: Default::default(),
        routes: Default::default(),
        sources: Sources::default(),
        known: Default::default(),
    }
}

/// Returns settings that listen on a free port of this machine, with room for 16 nonces and requests.
pub fn process() -> Process {
    Process {
        public_url: String::new(),
        listen: ([127, 0, 0, 1], 0).into(),
        tls: None,
        admin_listen: ([127, 0, 0, 1], 0).into(),
        admin_tls: None,
        admin_hosts: Vec::new(),
        admin_token: None,
        ledger: LedgerConfig::Embedded(PathBuf::new()),
        connections: 15,
        reserve: 0,
        max_clock_offset: DEFAULT_MAX_CLOCK_OFFSET,
        keep: Retention::default(),
        queue: Default::default(),
        cache: CacheKind::Memory,
        nonces: 16,
        fresh: StatusTtl::default(),
        log: String::new(),
        log_buffer: 0,
        drain: std::time::Duration::ZERO,
        body_limit: 0,
        in_flight: 16,
        limits: Default::default(),
        auto_rollback: None,
        webhook_allow: Vec::new(),
        operator_sinks: Vec::new(),
    }
}

/// Checks of the prefix only, as far as the tests of this crate need them.
#[cfg(test)]
pub(crate) const VALUE_CHECKS: super::value_checks::ValueChecks = super::value_checks::ValueChecks {
    postgres_url: |url, _| match std::str::from_utf8(url.expose()).unwrap_or_default() {
        text if text.starts_with("postgres://") => {
            Ok(format!("PostgreSQL, database {}", text.rsplit('/').next().unwrap_or_default()))
        }
        _ => Err("it must begin with postgres://".to_owned()),
    },
    redis_url: |url| match url.expose().starts_with(b"redis://") {
        true => Ok(()),
        false => Err("is not the address of a Redis server"),
    },
    is_log_filter: |text| {
        let is_level = |level: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&level);
        text.split(',').all(|directive| directive.split_once('=').is_none_or(|(_, level)| is_level(level)))
    },
};

#[expect(clippy::panic, reason = "a helper of tests")]
fn must<T>(result: std::io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
