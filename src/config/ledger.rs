//! `[ledger]`: engine, location and retention.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Settings, Size};

use super::identity;
use super::now::Now;
use super::secret::{self, Plain};
use super::toml_file::{TomlFile, suggest};
use super::value_checks::ValueChecks;

/// Kinds of ledger, the default first.
pub(super) const KINDS: [&str; 2] = ["embedded", "postgres"];

/// Default of `connections`.
pub const DEFAULT_CONNECTIONS: usize = 15;
/// Minimum of `connections`.
pub const MIN_CONNECTIONS: usize = 4;
/// Default of `min_free_disk` in bytes.
pub const DEFAULT_MIN_FREE_DISK: u64 = 256 << 20;
/// Default of `max_clock_offset`.
pub const DEFAULT_MAX_CLOCK_OFFSET: Duration = Duration::from_secs(5);
/// Maximum number of connections. Each is a thread here and a process on the PostgreSQL server.
const MAX_CONNECTIONS: usize = 500;

/// Ledger engine and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerConfig {
    /// Directory on this machine, used by this process alone.
    Embedded(PathBuf),
    /// PostgreSQL database that several gateways may share.
    Postgres(Box<PostgresUrl>),
}

impl LedgerConfig {
    /// Returns whether both name the same database. The user and password may differ.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Postgres(one), Self::Postgres(other)) => one.label == other.label,
            (one, other) => one == other,
        }
    }
}

/// Writes the location for messages, without secrets.
impl fmt::Display for LedgerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => write!(f, "{url}"),
        }
    }
}

/// URL of a PostgreSQL database, which only the ledger interprets. Printed as host and database.
#[derive(Clone)]
pub struct PostgresUrl {
    /// `postgres://user:password@host:port/database?sslmode=…`.
    pub url: Secret,
    /// Authorities of the server's certificate (DER); the public ones if `None`.
    pub authorities: Option<Vec<Vec<u8>>>,
    /// Host and database, for messages.
    pub label: String,
}

impl PartialEq for PostgresUrl {
    fn eq(&self, other: &Self) -> bool {
        self.url.expose() == other.url.expose() && self.authorities == other.authorities
    }
}

impl Eq for PostgresUrl {}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// Retention periods of finished records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Idempotency keys with their responses, from their first use.
    pub claims: Duration,
    /// Payments with their refunds, timelines and numbers, from their last change. Notifications, from their receipt.
    pub payments: Duration,
    /// Delivered events, from their creation.
    pub events: Duration,
}

impl Retention {
    /// Minimum retention of idempotency keys, as promised to merchants.
    const MIN_CLAIMS: Duration = Duration::from_hours(24);
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        // Providers accept refunds for a year.
        Self { claims: Self::MIN_CLAIMS, payments: days(400), events: days(30) }
    }
}

/// Parsed section.
pub(super) struct LedgerSection {
    /// Engine and location; `None` if they are invalid.
    pub(super) place: Option<LedgerConfig>,
    pub(super) connections: usize,
    pub(super) min_free_disk: u64,
    pub(super) max_clock_offset: Duration,
    pub(super) retention: Retention,
}

/// Reads the section.
pub(super) fn read(
    source: &TomlFile,
    section: Option<Settings<'_>>,
    is_sandbox: bool,
    now: Now,
    checks: &ValueChecks,
) -> LedgerSection {
    let none = LedgerSection {
        place: None,
        connections: DEFAULT_CONNECTIONS,
        min_free_disk: DEFAULT_MIN_FREE_DISK,
        max_clock_offset: DEFAULT_MAX_CLOCK_OFFSET,
        retention: Retention::default(),
    };
    let Some(mut section) = section else {
        let place = Some(LedgerConfig::Embedded(source.resolve("data")));
        return LedgerSection { place, ..none };
    };
    let retention = section.section("retention").map_or(Retention::default(), retention);
    let postgres = |section: &mut Settings<'_>| postgres(source, section, is_sandbox, now, checks);
    place(source, section, postgres, LedgerSection { retention, ..none })
}

fn retention(mut section: Settings<'_>) -> Retention {
    let default = Retention::default();
    let retention = Retention {
        claims: section.or("claims", default.claims),
        payments: section.or("payments", default.payments),
        events: section.or("events", default.events),
    };
    if retention.claims < Retention::MIN_CLAIMS {
        let message = "`ledger.retention.claims` must be at least 24h: merchants retry requests for that long";
        section.problem("claims", message, Some("\"24h\"".to_owned()));
    }
    if retention.payments < retention.claims {
        let message = "`ledger.retention.payments` must not be shorter than `claims`: the order id of a purged payment can be used \
                       again";
        section.problem("payments", message, Some("as in \"400d\"".to_owned()));
    }
    retention
}

fn place(
    source: &TomlFile,
    mut section: Settings<'_>,
    postgres: impl Fn(&mut Settings<'_>) -> Option<LedgerConfig>,
    read: LedgerSection,
) -> LedgerSection {
    let kind = section.or("kind", KINDS[0].to_owned());
    section.choices("kind", KINDS);
    match kind.as_str() {
        "embedded" => {
            let path = section.or("path", "data".to_owned());
            let min_free_disk = section.or("min_free_disk", Size(DEFAULT_MIN_FREE_DISK)).0;
            LedgerSection { place: Some(LedgerConfig::Embedded(source.resolve(&path))), min_free_disk, ..read }
        }
        "postgres" => {
            let place = postgres(&mut section);
            let (connections, max_clock_offset) = (connections(&mut section), offset(&mut section));
            LedgerSection { place, connections, max_clock_offset, ..read }
        }
        other => {
            let message = format!("there is no ledger of kind `{other}`");
            section.problem("kind", message, suggest(other, KINDS.into_iter()));
            // The other keys may be right for the kind that was meant.
            let _ = (
                section.optional::<String>("path"),
                section.optional::<String>("url"),
                section.optional::<String>("ca"),
                section.optional::<u32>("connections"),
                section.optional::<Size>("min_free_disk"),
                section.optional::<Duration>("max_clock_offset"),
            );
            read
        }
    }
}

/// Reads the maximum difference between a gateway's clock and PostgreSQL's.
fn offset(section: &mut Settings<'_>) -> Duration {
    let offset = section.or("max_clock_offset", DEFAULT_MAX_CLOCK_OFFSET);
    if !(1..=86_400).contains(&offset.as_secs()) {
        let message = "`ledger.max_clock_offset` must be from 1s to 24h";
        section.problem("max_clock_offset", message, Some("\"5s\"".to_owned()));
    }
    offset
}

fn connections(section: &mut Settings<'_>) -> usize {
    let connections = section.or("connections", DEFAULT_CONNECTIONS as u32) as usize;
    if !(MIN_CONNECTIONS..=MAX_CONNECTIONS).contains(&connections) {
        let message = format!(
            "`ledger.connections` must be from {MIN_CONNECTIONS} to {MAX_CONNECTIONS}: one renews the lease, two send and receive \
             change notifications, the others serve requests"
        );
        section.problem("connections", message, Some(format!("as in {DEFAULT_CONNECTIONS}")));
    }
    connections
}

fn postgres(
    source: &TomlFile,
    section: &mut Settings<'_>,
    is_sandbox: bool,
    now: Now,
    checks: &ValueChecks,
) -> Option<LedgerConfig> {
    let plain = match is_sandbox {
        true => Plain::Allowed,
        false => Plain::Refused("`public_url` in tollgate.toml is not a loopback address"),
    };
    let url = secret::required(source, section, "url", plain);
    let authorities = identity::authorities_der(source, section, "ca", now);
    let url = url?;
    match (checks.postgres_url)(&url, authorities.as_deref()) {
        Ok(label) => Some(LedgerConfig::Postgres(Box::new(PostgresUrl { url, authorities, label }))),
        Err(why) => {
            let suggestion =
                "as in \"postgres://tollgate:password@db.example.com/tollgate?sslmode=verify-full\"".to_owned();
            section.problem("url", format!("`ledger.url` is not usable: {why}"), Some(suggestion));
            None
        }
    }
}

/// Returns the name of the key that differs.
pub(super) fn difference(running: &LedgerConfig, file: &LedgerConfig) -> Option<&'static str> {
    match (running, file) {
        (running, file) if running == file => None,
        (LedgerConfig::Embedded(_), LedgerConfig::Embedded(_)) => Some("ledger.path"),
        (LedgerConfig::Postgres(_), LedgerConfig::Postgres(_)) => Some("ledger.url"),
        _ => Some("ledger.kind"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::testing;
    use super::*;

    fn read_text(text: &str, is_sandbox: bool) -> (Option<LedgerConfig>, Vec<String>) {
        let source = TomlFile::with_text(Path::new("conf/tollgate.toml"), text.into());
        let (place, diagnostics) = source.read(|mut root| {
            let section = root.section("ledger");
            read(&source, section, is_sandbox, Now::for_test(), &testing::VALUE_CHECKS).place
        });
        (place.unwrap(), diagnostics.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn embedded_and_postgres_ledgers_are_read() {
        let (place, _) = read_text("ledger.path = \"/var/lib/tollgate\"", false);
        assert_eq!(place.unwrap(), LedgerConfig::Embedded("/var/lib/tollgate".into()));
        let text = "[ledger]\nkind = \"postgres\"\nurl = \"plain:postgres://tollgate:s3cret@localhost/pay\"";
        let (place, diagnostics) = read_text(text, true);
        assert_eq!(diagnostics, [""; 0]);
        let place = place.unwrap();
        assert!(matches!(&place, LedgerConfig::Postgres(address) if address.to_string().ends_with("database pay")));
        assert!(!format!("{place:?}").contains("s3cret"));
    }

    #[test]
    fn errors_are_reported_without_secrets() {
        for (text, is_sandbox, expected) in [
            ("kind = \"postgers\"", true, "2:8: there is no ledger of kind `postgers` (did you mean `postgres`?)"),
            ("kind = \"postgres\"", true, "1:1: `ledger.url` is missing"),
            ("kind = \"postgres\"\nurl = \"env:TOLLGATE_NO_SUCH_URL\"", true, "3:7: the environment variable"),
            (
                "kind = \"postgres\"\nurl = \"postgres://a:s3cret@b/c\"",
                true,
                "3:7: a secret must not be written in the file",
            ),
            (
                "kind = \"postgres\"\nurl = \"plain:postgres://a:s3cret@b/c\"",
                false,
                "3:7: a secret may be written in the",
            ),
            ("kind = \"postgres\"\nurl = \"plain:mysql://a:s3cret@b/c\"", true, "3:7: `ledger.url` is not usable: it"),
            (
                "kind = \"postgres\"\nurl = \"plain:postgres://b/c\"\npath = \"data\"",
                true,
                "4:1: unknown key `ledger.path`",
            ),
            ("url = \"plain:postgres://b/c\"", true, "2:1: unknown key `ledger.url`"),
            (
                "kind = \"postgres\"\nurl = \"plain:postgres://b/c\"\nmax_clock_offset = \"900ms\"",
                true,
                "4:20: `ledger.max_clock_offset` must be from 1s to 24h",
            ),
            ("max_clock_offset = \"5s\"", true, "2:1: unknown key `ledger.max_clock_offset`"),
            (
                "kind = \"postgres\"\nurl = \"plain:postgres://b/c\"\nconnections = 3",
                true,
                "4:15: `ledger.connections` must be from 4",
            ),
            ("connections = 15", true, "2:1: unknown key `ledger.connections`"),
            ("retention = { claims = \"23h\" }", true, "2:24: `ledger.retention.claims` must be at least 24h"),
            (
                "retention = { claims = \"3d\", payments = \"2d\" }",
                true,
                "2:41: `ledger.retention.payments` must not be shorter",
            ),
            ("retention = { payment = \"9d\" }", true, "2:15: unknown key `ledger.retention.payment`"),
        ] {
            let (_, diagnostics) = read_text(&format!("[ledger]\n{text}"), is_sandbox);
            assert_eq!(diagnostics.len(), 1, "{text}: {diagnostics:?}");
            assert!(
                diagnostics[0].starts_with(&format!("conf/tollgate.toml:{expected}")),
                "{text}: {}",
                diagnostics[0]
            );
            assert!(!diagnostics[0].contains("s3cret"), "{}", diagnostics[0]);
        }
    }

    #[test]
    fn difference_names_the_changed_key() {
        let [one, other] = ["a", "b"].map(|path| LedgerConfig::Embedded(path.into()));
        let postgres = |url: &str| {
            let label = "PostgreSQL".to_owned();
            LedgerConfig::Postgres(Box::new(PostgresUrl { url: Secret::new(url), authorities: None, label }))
        };
        let [here, there] = [postgres("postgres://localhost/a"), postgres("postgres://localhost/b")];
        assert_eq!(difference(&one, &one), None);
        assert_eq!(difference(&here, &here), None);
        assert_eq!(difference(&one, &other), Some("ledger.path"));
        assert_eq!(difference(&here, &there), Some("ledger.url"));
        assert_eq!(difference(&one, &there), Some("ledger.kind"));
    }
}
