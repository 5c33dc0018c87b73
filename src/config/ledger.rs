//! `[ledger]`: engine, location and retention.

use std::time::Duration;

use tollgate_plugins::settings::{Settings, Size};

use super::LedgerConfig;
use super::identity::{self, Now};
use super::secret::{self, Plain};
use super::toml_file::{TomlFile, suggest};
use crate::clock::MAX_OFFSET;
use crate::ledger::{Address, CONNECTIONS, FEWEST_CONNECTIONS, RESERVE, RetentionPolicy};

/// Kinds of ledger, the default first.
pub(super) const KINDS: [&str; 2] = ["embedded", "postgres"];

/// Maximum number of connections. Each is a thread here and a process on the PostgreSQL server.
const MAX_CONNECTIONS: usize = 500;

/// Parsed section.
pub(super) struct LedgerSection {
    /// Engine and location; `None` if they are invalid.
    pub(super) place: Option<LedgerConfig>,
    pub(super) connections: usize,
    pub(super) min_free_disk: u64,
    pub(super) max_clock_offset: Duration,
    pub(super) retention: RetentionPolicy,
}

/// Reads the section.
pub(super) fn read(source: &TomlFile, section: Option<Settings<'_>>, is_sandbox: bool, now: Now) -> LedgerSection {
    let none = LedgerSection {
        place: None,
        connections: CONNECTIONS,
        min_free_disk: RESERVE,
        max_clock_offset: MAX_OFFSET,
        retention: RetentionPolicy::default(),
    };
    let Some(mut section) = section else {
        let place = Some(LedgerConfig::Embedded(source.resolve("data")));
        return LedgerSection { place, ..none };
    };
    let retention = section.section("retention").map_or(RetentionPolicy::default(), retention);
    place(source, section, is_sandbox, now, LedgerSection { retention, ..none })
}

fn retention(mut section: Settings<'_>) -> RetentionPolicy {
    let default = RetentionPolicy::default();
    let retention = RetentionPolicy {
        claims: section.or("claims", default.claims),
        payments: section.or("payments", default.payments),
        events: section.or("events", default.events),
    };
    if retention.claims < RetentionPolicy::CLAIMS_AT_LEAST {
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
    is_sandbox: bool,
    now: Now,
    read: LedgerSection,
) -> LedgerSection {
    let kind = section.or("kind", KINDS[0].to_owned());
    section.choices("kind", KINDS);
    match kind.as_str() {
        "embedded" => {
            let path = section.or("path", "data".to_owned());
            let min_free_disk = section.or("min_free_disk", Size(RESERVE)).0;
            LedgerSection { place: Some(LedgerConfig::Embedded(source.resolve(&path))), min_free_disk, ..read }
        }
        "postgres" => {
            let place = postgres(source, &mut section, is_sandbox, now);
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
    let offset = section.or("max_clock_offset", MAX_OFFSET);
    if !(1..=86_400).contains(&offset.as_secs()) {
        let message = "`ledger.max_clock_offset` must be from 1s to 24h";
        section.problem("max_clock_offset", message, Some("\"5s\"".to_owned()));
    }
    offset
}

fn connections(section: &mut Settings<'_>) -> usize {
    let connections = section.or("connections", CONNECTIONS as u32) as usize;
    if !(FEWEST_CONNECTIONS..=MAX_CONNECTIONS).contains(&connections) {
        let message = format!(
            "`ledger.connections` must be from {FEWEST_CONNECTIONS} to {MAX_CONNECTIONS}: one renews the lease, two send and receive \
             change notifications, the others serve requests"
        );
        section.problem("connections", message, Some(format!("as in {CONNECTIONS}")));
    }
    connections
}

fn postgres(source: &TomlFile, section: &mut Settings<'_>, is_sandbox: bool, now: Now) -> Option<LedgerConfig> {
    let plain = match is_sandbox {
        true => Plain::Allowed,
        false => Plain::Refused("`public_url` in tollgate.toml is not a loopback address"),
    };
    let url = secret::required(source, section, "url", plain);
    let authorities = identity::authorities_der(source, section, "ca", now);
    match Address::parse(&url?, authorities.as_deref()) {
        Ok(address) => Some(LedgerConfig::Postgres(Box::new(address))),
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

    use super::*;

    fn read_text(text: &str, is_sandbox: bool) -> (Option<LedgerConfig>, Vec<String>) {
        let source = TomlFile::with_text(Path::new("conf/tollgate.toml"), text.into());
        let (place, diagnostics) = source.read(|mut root| {
            let section = root.section("ledger");
            read(&source, section, is_sandbox, Now::for_test()).place
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
            ("retention = { claims = \"23h\" }", true, "2:19: `ledger.retention.claims` must be at least 24h"),
            (
                "retention = { claims = \"3d\", payments = \"2d\" }",
                true,
                "2:36: `ledger.retention.payments` must not be shorter",
            ),
            ("retention = { payment = \"9d\" }", true, "2:10: unknown key `ledger.retention.payment`"),
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
            LedgerConfig::Postgres(Box::new(Address::parse(&tollgate_plugins::secret::Secret::new(url), None).unwrap()))
        };
        let [here, there] = [postgres("postgres://localhost/a"), postgres("postgres://localhost/b")];
        assert_eq!(difference(&one, &one), None);
        assert_eq!(difference(&here, &here), None);
        assert_eq!(difference(&one, &other), Some("ledger.path"));
        assert_eq!(difference(&here, &there), Some("ledger.url"));
        assert_eq!(difference(&one, &there), Some("ledger.kind"));
    }
}
