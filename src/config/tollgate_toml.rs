//! `tollgate.toml`: listeners, ledger, cache, admin, telemetry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tollgate_plugins::settings::{Form, Setting, Settings, Size};
use toml::de::DeValue;

use super::address::Address;
use super::cache;
use super::ledger::{self, LedgerSection};
use super::now::Now;
use super::pair::CertificateEnd;
use super::process::{AutoRollback, Process, Queue};
use super::secret;
use super::server::{self, ListenerTls, ServerLimits, server_tls};
use super::sinks::{self, SinkContext, SinkOwner};
use super::telemetry;
use super::token::{self, Token};
use super::toml_file::TomlFile;
use super::value_checks::ValueChecks;

/// Default limit of requests in flight. Each holds a body in memory, and its work outlives a caller that hangs up.
const DEFAULT_MAX_IN_FLIGHT: u32 = 4096;

/// Parsed file, and what the files that it names revealed.
pub(super) struct ProcessFile {
    /// Settings; `None` if there was an error.
    pub(super) process: Option<Process>,
    /// True if `public_url` is a loopback address, which makes this a sandbox; `None` if the URL is missing or invalid.
    pub(super) is_sandbox: Option<bool>,
    /// Expiry of the listeners' certificates.
    pub(super) certificates: Vec<CertificateEnd>,
}

/// Reads the file.
pub(super) fn read(source: &TomlFile, mut root: Settings<'_>, now: Now, checks: &ValueChecks) -> ProcessFile {
    let public = public_url(&mut root);
    let mut server = root.section("server");
    let listen = listener(server.as_mut(), 8080);
    let listener_tls =
        server.as_mut().and_then(|server| server.section("tls")).map(|mut tls| server_tls(source, &mut tls, now));
    let body_limit = server.as_mut().map_or(Size(1 << 20), |server| server.or("body_limit", Size(1 << 20)));
    let in_flight =
        server.as_mut().map_or(DEFAULT_MAX_IN_FLIGHT, |server| server.or("max_in_flight", DEFAULT_MAX_IN_FLIGHT));
    if !(16..=1_000_000).contains(&in_flight)
        && let Some(server) = &server
    {
        server.problem("max_in_flight", "`server.max_in_flight` must be from 16 to 1000000 requests", None);
    }
    let drain = Duration::from_secs(30);
    let drain = server.as_mut().map_or(drain, |server| server.or("shutdown_timeout", drain));
    if body_limit.0 == 0
        && let Some(server) = &server
    {
        server.problem("body_limit", "`server.body_limit` must be more than 0", None);
    }
    let limits = server.as_mut().map_or(ServerLimits::default(), |server| server::limits(server, body_limit.0));
    drop(server);
    let sandbox = public.as_ref().map(|(_, address)| address.is_loopback());
    // If the URL is missing or invalid, that is already reported, so plain secrets are not rejected as well.
    let is_sandbox = sandbox.unwrap_or(true);
    let admin = admin(source, root.section("admin"), listen, is_sandbox, now);
    let section = ledger::read(source, root.section("ledger"), is_sandbox, now, checks);
    let LedgerSection { place: ledger, connections, min_free_disk: reserve, max_clock_offset, retention: keep } =
        section;
    let (cache, nonces, fresh) = cache::read(source, root.section("cache"), is_sandbox, checks);
    let queue = root.section("queue").map_or(Queue::default(), queue);
    let (log, log_buffer) = telemetry::read(root.section("telemetry"), checks);
    let auto_rollback =
        root.section("reload").and_then(|mut reload| reload.section("auto_rollback")).and_then(auto_rollback);
    let webhook_allow =
        root.section("delivery").map_or(Vec::new(), |mut delivery| delivery.items::<Network>("allowed_networks"));
    let webhook_allow: Vec<IpNet> = webhook_allow.into_iter().map(|(_, network)| network.0).collect();
    let plain = plain_secrets(is_sandbox);
    let context = SinkContext { owner: SinkOwner::Operator, plain, allowed: Some(&webhook_allow) };
    let operator_sinks = sinks::read(source, &mut root, context);

    let ListenerTls { tls, mut certificates, .. } = listener_tls.unwrap_or_default();
    let ListenerTls { tls: admin_tls, certificates: admins, .. } = admin.listener_tls.unwrap_or_default();
    certificates.extend(
        admins.into_iter().map(|end| CertificateEnd { certificate: end.certificate.replace("server", "admin"), ..end }),
    );
    let process = public.zip(ledger).map(|((public_url, _), ledger)| Process {
        public_url,
        listen,
        tls,
        admin_listen: admin.listen,
        admin_tls,
        admin_hosts: admin.hosts,
        admin_token: admin.token,
        ledger,
        connections,
        reserve,
        max_clock_offset,
        keep,
        queue,
        cache,
        nonces,
        fresh,
        log,
        log_buffer,
        drain,
        body_limit: body_limit.0,
        in_flight,
        limits,
        auto_rollback,
        webhook_allow,
        operator_sinks,
    });
    ProcessFile { process, is_sandbox: sandbox, certificates }
}

fn public_url(root: &mut Settings<'_>) -> Option<(String, Address)> {
    let text: String = root.required("public_url")?;
    let address = match Address::parse(&text) {
        Ok(address) if address.has_query => Err("must have no query"),
        other => other,
    };
    match address {
        Ok(address) => Some((text.trim_end_matches('/').to_owned(), address)),
        Err(wrong) => {
            let suggestion = "as in \"https://pay.example.com\"".to_owned();
            root.problem("public_url", format!("`public_url` {wrong}"), Some(suggestion));
            None
        }
    }
}

fn plain_secrets(is_sandbox: bool) -> secret::Plain {
    match is_sandbox {
        true => secret::Plain::Allowed,
        false => secret::Plain::Refused("`public_url` is no loopback address"),
    }
}

fn listener(section: Option<&mut Settings<'_>>, port: u16) -> SocketAddr {
    let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    section.map_or(default, |section| section.or("listen", Listen(default)).0)
}

/// Settings of `[admin]`.
struct Admin {
    listen: SocketAddr,
    hosts: Vec<String>,
    listener_tls: Option<ListenerTls>,
    token: Option<Token>,
}

fn admin(source: &TomlFile, section: Option<Settings<'_>>, server: SocketAddr, is_sandbox: bool, now: Now) -> Admin {
    let Some(mut section) = section else {
        return Admin { listen: listener(None, 9090), hosts: Vec::new(), listener_tls: None, token: None };
    };
    let listen = listener(Some(&mut section), 9090);
    let hosts = section.items::<HostName>("hosts").into_iter().map(|(_, name)| name.0).collect();
    let listener_tls = section.section("tls").map(|mut tls| server_tls(source, &mut tls, now));
    let plain = plain_secrets(is_sandbox);
    let has_token = section.has("token");
    let token = secret::optional(source, &mut section, "token", plain);
    if let Some(token) = &token {
        let is_text = token.expose().iter().all(u8::is_ascii_graphic);
        if token.expose().len() < token::MIN_BYTES || !is_text {
            let message =
                format!("the token must have {} visible characters at least, without spaces", token::MIN_BYTES);
            section.problem("token", message, Some("make one with `tollgate keygen merchant`".to_owned()));
        }
    }
    let requires_certificate =
        has_token || listener_tls.as_ref().is_some_and(|listener_tls| listener_tls.requires_certificate);
    if !listen.ip().is_loopback() && !requires_certificate {
        let message = "anyone who can reach `admin.listen` can change everything: use a loopback address, or require a token or a client certificate";
        let suggestion = "add token = \"env:NAME\", or tls = { cert = \"…\", key = \"…\", client_ca = \"…\" }";
        section.problem("listen", message, Some(suggestion.to_owned()));
    }
    if listen == server && listen.port() != 0 {
        section.problem("listen", "`admin.listen` and `server.listen` are the same", None);
    }
    Admin { listen, hosts, listener_tls, token: token.map(Token::new) }
}

fn queue(mut section: Settings<'_>) -> Queue {
    let default = Queue::default();
    let queue = Queue { limit: section.or("limit", default.limit), max_age: section.or("max_age", default.max_age) };
    if queue.limit > 1_000_000 {
        section.problem("limit", "`queue.limit` must be at most 1000000; with 0 nothing is accepted", None);
    }
    if !(1..=7 * 86_400).contains(&queue.max_age.as_secs()) {
        section.problem("max_age", "`queue.max_age` must be from 1s to 7d", Some("as in \"1h\"".to_owned()));
    }
    queue
}

fn auto_rollback(mut table: Settings<'_>) -> Option<AutoRollback> {
    let before = table.problems().len();
    let auto_rollback = AutoRollback {
        window: table.or("window", Duration::from_secs(60)),
        calls: table.or("calls", 20),
        error_percentage: table.or("error_percentage", 20),
        breaker_trips: table.or("breaker_trips", 1),
    };
    if !(1..=3600).contains(&auto_rollback.window.as_secs()) {
        table.problem("window", "`reload.auto_rollback.window` must be from 1s to 1h", None);
    }
    if auto_rollback.calls == 0 || auto_rollback.breaker_trips == 0 {
        let message = "`calls` and `breaker_trips` of `reload.auto_rollback` must be at least 1: with 0 every new generation would be rolled back";
        table.problem(if auto_rollback.calls == 0 { "calls" } else { "breaker_trips" }, message, None);
    }
    if !(1..=100).contains(&auto_rollback.error_percentage) {
        table.problem("error_percentage", "`reload.auto_rollback.error_percentage` must be from 1 to 100", None);
    }
    (table.problems().len() == before).then_some(auto_rollback)
}

struct Listen(SocketAddr);

impl Setting for Listen {
    const EXPECTED: &'static str = "an address with a port, as in \"127.0.0.1:8080\" or \"[::]:8080\"";
    const EXAMPLE: &'static str = "\"127.0.0.1:8080\"";
    fn form() -> Form {
        Form::Text
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        text.parse().map(Self).map_err(|_| format!("\"{text}\""))
    }
}

/// Host name without a port.
struct HostName(String);

impl Setting for HostName {
    const EXPECTED: &'static str = "a host name without a port, as in \"ops.example.com\"";
    const EXAMPLE: &'static str = "\"ops.example.com\"";
    fn form() -> Form {
        Form::Text
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        match rustls_pki_types::DnsName::try_from(text.as_str()) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(format!("\"{text}\"")),
        }
    }
}

struct Network(IpNet);

impl Setting for Network {
    const EXPECTED: &'static str = "a network, as in \"10.0.0.0/8\" or \"127.0.0.1\"";
    const EXAMPLE: &'static str = "\"127.0.0.1\"";
    fn form() -> Form {
        Form::Text
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| format!("\"{text}\""))
    }
}

#[cfg(test)]
mod tests;
