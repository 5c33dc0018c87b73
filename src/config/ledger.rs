//! `[ledger]`: where it lies, and how long it keeps what.

use std::time::Duration;

use tollgate_plugins::settings::{Settings, Size};

use super::LedgerConfig;
use super::identity::{self, Now};
use super::secret::{self, Plain};
use super::toml_file::{Source, suggest};
use crate::clock::MAX_OFFSET;
use crate::ledger::{Address, CONNECTIONS, FEWEST_CONNECTIONS, RESERVE, RetentionPolicy};

/// Every kind, in the order in which they are told.
pub(super) const KINDS: [&str; 2] = ["embedded", "postgres"];

/// Each is a thread here and a process there.
const MOST_CONNECTIONS: usize = 500;

/// What the section says.
pub(super) struct LedgerSection {
    /// None when it is wrong.
    pub(super) place: Option<LedgerConfig>,
    pub(super) connections: usize,
    pub(super) reserve: u64,
    pub(super) max_clock_offset: Duration,
    pub(super) keep: RetentionPolicy,
}

/// Reads the section.
pub(super) fn read(source: &Source, section: Option<Settings<'_>>, is_sandbox: bool, now: Now) -> LedgerSection {
    let none = LedgerSection {
        place: None,
        connections: CONNECTIONS,
        reserve: RESERVE,
        max_clock_offset: MAX_OFFSET,
        keep: RetentionPolicy::default(),
    };
    let Some(mut section) = section else {
        let place = Some(LedgerConfig::Embedded(source.resolve("data")));
        return LedgerSection { place, ..none };
    };
    let keep = section.section("retention").map_or(RetentionPolicy::default(), keep);
    place(source, section, is_sandbox, now, LedgerSection { keep, ..none })
}

fn keep(mut section: Settings<'_>) -> RetentionPolicy {
    let default = RetentionPolicy::default();
    let keep = RetentionPolicy {
        claims: section.or("claims", default.claims),
        payments: section.or("payments", default.payments),
        events: section.or("events", default.events),
    };
    if keep.claims < RetentionPolicy::CLAIMS_AT_LEAST {
        let message = "`ledger.retention.claims` must be 24h at least: merchants repeat their requests for so long";
        section.problem("claims", message, Some("\"24h\"".to_owned()));
    }
    if keep.payments < keep.claims {
        let message = "`ledger.retention.payments` must not be shorter than `claims`: once a payment is gone, its order id is as \
                       good as new";
        section.problem("payments", message, Some("as in \"400d\"".to_owned()));
    }
    keep
}

fn place(source: &Source, mut section: Settings<'_>, is_sandbox: bool, now: Now, read: LedgerSection) -> LedgerSection {
    let kind = section.or("kind", KINDS[0].to_owned());
    section.choices("kind", KINDS);
    match kind.as_str() {
        "embedded" => {
            let path = section.or("path", "data".to_owned());
            let reserve = section.or("min_free_disk", Size(RESERVE)).0;
            LedgerSection { place: Some(LedgerConfig::Embedded(source.resolve(&path))), reserve, ..read }
        }
        "postgres" => {
            let place = postgres(source, &mut section, is_sandbox, now);
            let (connections, max_clock_offset) = (connections(&mut section), offset(&mut section));
            LedgerSection { place, connections, max_clock_offset, ..read }
        }
        other => {
            let message = format!("there is no ledger of the kind `{other}`");
            section.problem("kind", message, suggest(other, KINDS.into_iter()));
            // What stands beside it may be right for the kind that was meant.
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

/// How far a gateway's clock may be from PostgreSQL's.
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
    if !(FEWEST_CONNECTIONS..=MOST_CONNECTIONS).contains(&connections) {
        let message = format!(
            "`ledger.connections` must be from {FEWEST_CONNECTIONS} to {MOST_CONNECTIONS}: one keeps the lease, two tell and hear of \
             changes, the others work for requests"
        );
        section.problem("connections", message, Some(format!("as in {CONNECTIONS}")));
    }
    connections
}

fn postgres(source: &Source, section: &mut Settings<'_>, is_sandbox: bool, now: Now) -> Option<LedgerConfig> {
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

/// The name of the key that differs.
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
        let source = Source::with_text(Path::new("conf/tollgate.toml"), text.into());
        let (place, mistakes) = source.read(|mut root| {
            let section = root.section("ledger");
            read(&source, section, is_sandbox, Now::for_test()).place
        });
        (place.unwrap(), mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn both_kinds_are_read() {
        let (place, _) = read_text("ledger.path = \"/var/lib/tollgate\"", false);
        assert_eq!(place.unwrap(), LedgerConfig::Embedded("/var/lib/tollgate".into()));
        let text = "[ledger]\nkind = \"postgres\"\nurl = \"plain:postgres://tollgate:s3cret@localhost/pay\"";
        let (place, mistakes) = read_text(text, true);
        assert_eq!(mistakes, [""; 0]);
        let place = place.unwrap();
        assert!(matches!(&place, LedgerConfig::Postgres(address) if address.to_string().ends_with("database pay")));
        assert!(!format!("{place:?}").contains("s3cret"));
    }

    #[test]
    fn mistakes_are_told_and_what_is_secret_is_not() {
        for (text, is_sandbox, expected) in [
            ("kind = \"postgers\"", true, "2:8: there is no ledger of the kind `postgers` (did you mean `postgres`?)"),
            ("kind = \"postgres\"", true, "1:1: `ledger.url` is missing"),
            ("kind = \"postgres\"\nurl = \"env:TOLLGATE_NO_SUCH_URL\"", true, "3:7: the environment variable"),
            (
                "kind = \"postgres\"\nurl = \"postgres://a:s3cret@b/c\"",
                true,
                "3:7: a secret must not stand in the file",
            ),
            ("kind = \"postgres\"\nurl = \"plain:postgres://a:s3cret@b/c\"", false, "3:7: a secret may stand in the"),
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
            ("retention = { claims = \"23h\" }", true, "2:19: `ledger.retention.claims` must be 24h at least"),
            (
                "retention = { claims = \"3d\", payments = \"2d\" }",
                true,
                "2:36: `ledger.retention.payments` must not be shorter",
            ),
            ("retention = { payment = \"9d\" }", true, "2:10: unknown key `ledger.retention.payment`"),
        ] {
            let (_, mistakes) = read_text(&format!("[ledger]\n{text}"), is_sandbox);
            assert_eq!(mistakes.len(), 1, "{text}: {mistakes:?}");
            assert!(mistakes[0].starts_with(&format!("conf/tollgate.toml:{expected}")), "{text}: {}", mistakes[0]);
            assert!(!mistakes[0].contains("s3cret"), "{}", mistakes[0]);
        }
    }

    #[test]
    fn what_differs_is_named() {
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
