//! Warnings that `tollgate check` prints: valid configuration that may surprise.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::channel::ChannelConfig;
use super::dependencies::Dependencies;
use super::diagnostics::Diagnostic;
use super::file_content::read_small;
use super::model::Config;
use super::now::Now;
use super::pair::CertificateEnd;

/// Days before expiry from which a certificate is reported. Ordering a new one takes time.
const EXPIRY_WARNING_DAYS: i64 = 30;

/// Returns all warnings about the configuration of this directory.
pub fn warnings(dir: &Path, config: &Config) -> Vec<Diagnostic> {
    let mut notes = config.sources.notes.clone();
    let ends = config.sources.certificates.iter().filter_map(|end| end_note(dir, end, Now::read()));
    notes.extend(config.channels.values().filter_map(|channel| note(dir, channel)).chain(ends));
    if config.routes.rules.is_empty() && !config.channels.is_empty() {
        let message = "there are no routes: every payment is answered 503";
        let advice = "add `[[route]]` with `to = [{ channel = \"…\" }]`";
        notes.push(Diagnostic::in_file(dir.join("routes.toml"), message, Some(advice)));
    }
    notes.extend(open_secrets(dir, config));
    notes
}

/// Returns a warning for a certificate that has expired or expires soon. This is no error: an expired key may be configured
/// beside its successor.
pub(super) fn end_note(dir: &Path, end: &CertificateEnd, Now(now): Now) -> Option<Diagnostic> {
    let days = (end.not_after - now).div_euclid(24 * 3600);
    let file = match end.channel.as_str() {
        "" => dir.join("tollgate.toml"),
        channel => dir.join("channels").join(format!("{channel}.toml")),
    };
    let name = &end.certificate;
    let message = match days {
        ..0 => format!("the certificate `{name}` has expired and is ignored"),
        0..EXPIRY_WARNING_DAYS => format!("the certificate `{name}` expires in {days} days"),
        _ => return None,
    };
    Some(Diagnostic::in_file(file, message, Some("order its successor in time, and configure both until the switch")))
}

fn note(dir: &Path, channel: &ChannelConfig) -> Option<Diagnostic> {
    Some(Diagnostic::in_file(dir.join("channels").join(format!("{}.toml", channel.name)), channel.note?, None))
}

/// Returns a warning for each file with a private key or secret that other users may read.
fn open_secrets(dir: &Path, config: &Config) -> Vec<Diagnostic> {
    let (merchants, channels) = (dir.join("merchants"), dir.join("channels"));
    let file = |dir: &Path, name: &str| dir.join(format!("{name}.toml"));
    let merchants = config.merchants.values().map(|it| (file(&merchants, &it.name), &it.dependencies));
    let channels = config.channels.values().map(|it| (file(&channels, &it.name), &it.dependencies));
    let process = (dir.join("tollgate.toml"), &config.sources.dependencies);
    let all = merchants.chain(channels).chain([process]);
    let mut found: Vec<PathBuf> = all.flat_map(|(path, dependencies)| secrets_of(&path, dependencies)).collect();
    found.sort();
    found.dedup();
    let is_open = |path: &PathBuf| path.metadata().is_ok_and(|it| it.permissions().mode() & 0o077 != 0);
    let diagnostic = |path: PathBuf| {
        let message = "this file contains a private key or a secret, and users other than its owner may read it";
        Diagnostic::in_file(
            path,
            message,
            Some("chmod 600, or move it to a directory that only tollgate's user may read"),
        )
    };
    found.into_iter().filter(is_open).map(diagnostic).collect()
}

/// Returns the files with secrets that a file names, recognized by the prefix `file:`, by extension, or by content.
fn secrets_of(path: &Path, dependencies: &Dependencies) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(dependencies.text.expose()).into_owned();
    let named = dependencies.files(path).filter(|(name, file)| {
        let is_pfx =
            file.extension().is_some_and(|it| it.eq_ignore_ascii_case("pfx") || it.eq_ignore_ascii_case("p12"));
        let has_key = || read_small(file).is_ok_and(|content| contains(&content, b"PRIVATE KEY-----"));
        is_pfx || text.contains(&format!("\"file:{name}\"")) || has_key()
    });
    named.map(|(_, file)| file).collect()
}

fn contains(content: &[u8], word: &[u8]) -> bool {
    content.windows(word.len()).any(|window| window == word)
}
