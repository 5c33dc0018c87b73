//! The typed configuration: values of one directory, checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::channel::ChannelConfig;
use super::cpu::yield_cpu;
use super::dependencies::Dependencies;
use super::diagnostics::Diagnostic;
use super::key_cache::KeyCache;
use super::merchant::Merchant;
use super::pair::CertificateEnd;
use super::process::Process;
use super::routes::RouteRules;

/// Configuration without errors. The next one shares every part with it that did not change.
pub struct Config {
    /// SHA-256 over all files of the configuration, in hexadecimal.
    pub hash: String,
    /// Settings of `tollgate.toml`.
    pub process: Arc<Process>,
    /// Merchants by name.
    pub merchants: BTreeMap<String, Arc<Merchant>>,
    /// Channels by name.
    pub channels: BTreeMap<String, Arc<ChannelConfig>>,
    /// Rules of `routes.toml`.
    pub routes: Arc<RouteRules>,
    /// Files and digests that the configuration was read from.
    pub sources: Sources,
    /// Parsed keys and certificates, reused by the next configuration.
    pub(crate) known: Arc<KeyCache>,
}

/// Inputs of a configuration: needed to watch files, to describe changes, and to archive the generation.
#[derive(Clone, Default)]
pub struct Sources {
    /// Every file and directory that was read, files named by other files included, each once.
    pub files: Arc<[PathBuf]>,
    /// Expiry of every certificate that is presented or trusted.
    pub certificates: Vec<CertificateEnd>,
    /// Warnings that only reading the files reveals.
    pub(crate) notes: Vec<Diagnostic>,
    /// Fingerprint of `tollgate.toml` and of every file that it names.
    pub process: String,
    /// Inputs of that fingerprint.
    pub(crate) dependencies: Dependencies,
    /// Fingerprint of `routes.toml`.
    pub routes: String,
    /// SHA-256 of `routes.toml`; `None` if there is no such file.
    pub(crate) routes_digest: Option<[u8; 32]>,
}

impl Config {
    /// Returns every file below `dir` and every file that they name, sorted, each with the SHA-256 that it had when it was read.
    pub fn contents(&self, dir: &Path) -> Vec<(PathBuf, [u8; 32])> {
        let file = |kind: &str, name: &str| dir.join(kind).join(format!("{name}.toml"));
        let mut contents: Vec<_> = self.sources.dependencies.contents(&dir.join("tollgate.toml")).collect();
        contents.extend(self.sources.routes_digest.map(|digest| (dir.join("routes.toml"), digest)));
        for merchant in self.merchants.values() {
            yield_cpu();
            contents.extend(merchant.dependencies.contents(&file("merchants", &merchant.name)));
        }
        for channel in self.channels.values() {
            yield_cpu();
            contents.extend(channel.dependencies.contents(&file("channels", &channel.name)));
        }
        contents.sort_unstable_by(|(one, _), (other, _)| one.as_os_str().cmp(other.as_os_str()));
        contents.dedup();
        contents
    }
}
