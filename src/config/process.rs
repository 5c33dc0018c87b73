//! `tollgate.toml`: listeners, ledger, cache, admin, telemetry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tollgate_plugins::settings::{Form, Setting, Settings, Size};
use toml::de::DeValue;

use super::address::Address;
use super::identity::{self, Now};
use super::ledger::{self, LedgerSection};
use super::secret;
use super::secret::Plain;
use super::server;
use super::telemetry;
use super::toml_file::{TomlFile, suggest};
use super::{AutoRollback, CertificateEnd, Process, Queue, ServerLimits, ServerTls, Snapshot, StatusTtl, Token, token};
use crate::cache::{CacheKind, MAX_STATUS_TTL, RedisUrl};

/// Kinds of cache, the default first.
pub(super) const CACHES: [&str; 2] = ["memory", "redis"];

/// Default limit of requests in flight. Each holds a body in memory, and its work outlives a caller that hangs up.
const DEFAULT_MAX_IN_FLIGHT: u32 = 4096;

/// Default nonce capacity: about 40,000 signed requests per second, for as long as each nonce is remembered.
const DEFAULT_MAX_NONCES: u64 = 16_000_000;

/// Parsed file, and what the files that it names revealed.
pub(super) struct ProcessFile {
    /// Settings; `None` if there was an error.
    pub(super) process: Option<Process>,
    /// Whether `public_url` is a loopback address, which makes this a sandbox; `None` if the URL is missing or invalid.
    pub(super) is_sandbox: Option<bool>,
    /// Expiry of the listeners' certificates.
    pub(super) certificates: Vec<CertificateEnd>,
}

/// Reads the file.
pub(super) fn read(source: &TomlFile, mut root: Settings<'_>, now: Now) -> ProcessFile {
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
    let section = ledger::read(source, root.section("ledger"), is_sandbox, now);
    let LedgerSection { place: ledger, connections, min_free_disk: reserve, max_clock_offset, retention: keep } =
        section;
    let (cache, nonces, fresh) = cache(source, root.section("cache"), is_sandbox);
    let queue = root.section("queue").map_or(Queue::default(), queue);
    let (log, log_buffer) = telemetry::read(root.section("telemetry"));
    let auto_rollback =
        root.section("reload").and_then(|mut reload| reload.section("auto_rollback")).and_then(auto_rollback);
    let webhook_allow =
        root.section("delivery").map_or(Vec::new(), |mut delivery| delivery.items::<Network>("allowed_networks"));
    let webhook_allow = webhook_allow.into_iter().map(|(_, network)| network.0).collect();

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
    });
    ProcessFile { process, is_sandbox: sandbox, certificates }
}

/// Returns the keys that differ from the running process but take effect only at start.
pub(super) fn needs_restart(running: &Process, file: &Process) -> Vec<String> {
    let same = [
        ("server.listen", running.listen == file.listen),
        ("server.tls", running.tls.is_some() == file.tls.is_some()),
        ("server.body_limit", running.body_limit == file.body_limit),
        ("server.shutdown_timeout", running.drain == file.drain),
        ("admin.listen", running.admin_listen == file.admin_listen),
        ("admin.tls", running.admin_tls.is_some() == file.admin_tls.is_some()),
        (ledger::difference(&running.ledger, &file.ledger).unwrap_or_default(), running.ledger == file.ledger),
        ("ledger.connections", running.connections == file.connections),
        ("ledger.min_free_disk", running.reserve == file.reserve),
        ("ledger.max_clock_offset", running.max_clock_offset == file.max_clock_offset),
        ("cache", running.cache == file.cache),
        ("telemetry.log", running.log == file.log),
        ("telemetry.log_buffer", running.log_buffer == file.log_buffer),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name.to_owned()).collect()
}

/// Returns the reloadable values of `file`, and the values of `running` for all other keys.
pub(super) fn in_force(running: &Process, file: &Process) -> Process {
    let tls = |running: &Option<ServerTls>, file: &Option<ServerTls>| match (running, file) {
        (Some(_), Some(file)) => Some(file.clone()),
        (running, _) => running.clone(),
    };
    Process {
        tls: tls(&running.tls, &file.tls),
        admin_tls: tls(&running.admin_tls, &file.admin_tls),
        public_url: file.public_url.clone(),
        in_flight: file.in_flight,
        limits: file.limits,
        webhook_allow: file.webhook_allow.clone(),
        auto_rollback: file.auto_rollback,
        admin_hosts: file.admin_hosts.clone(),
        keep: file.keep,
        queue: file.queue,
        nonces: file.nonces,
        fresh: file.fresh,
        admin_token: file.admin_token.clone(),
        ..running.clone()
    }
}

/// Retains the expiry of the certificates in use for a listener whose TLS is switched on or off only at a restart.
pub(super) fn retain_served_certificates(running: &Snapshot, read: &mut Snapshot) {
    let differs = |tls: fn(&Process) -> bool| tls(&running.process) != tls(&read.process);
    let listeners = [
        ("server", differs(|process| process.tls.is_some())),
        ("admin", differs(|process| process.admin_tls.is_some())),
    ];
    for (listener, _) in listeners.into_iter().filter(|(_, waits)| *waits) {
        let is_its = |end: &CertificateEnd| end.channel.is_empty() && end.certificate.starts_with(listener);
        read.sources.certificates.retain(|end| !is_its(end));
        let served = running.sources.certificates.iter().filter(|end| is_its(end)).cloned();
        read.sources.certificates.extend(served);
    }
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
    let plain = match is_sandbox {
        true => secret::Plain::Allowed,
        false => secret::Plain::Refused("`public_url` is no loopback address"),
    };
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

fn cache(source: &TomlFile, section: Option<Settings<'_>>, is_sandbox: bool) -> (CacheKind, u64, StatusTtl) {
    let Some(mut section) = section else { return (CacheKind::Memory, DEFAULT_MAX_NONCES, StatusTtl::default()) };
    let fresh = fresh(&mut section);
    let nonces = section.or("nonces", DEFAULT_MAX_NONCES);
    if !(1_000..=1_000_000_000).contains(&nonces) {
        section.problem("nonces", "`cache.nonces` must be from 1000 to 1000000000", None);
    }
    (cache_kind(source, section, is_sandbox), nonces, fresh)
}

/// Reads the cache lifetimes of status responses.
fn fresh(section: &mut Settings<'_>) -> StatusTtl {
    let fresh = StatusTtl {
        pending: section.or("ttl_pending", StatusTtl::default().pending),
        settled: section.or("ttl_final", StatusTtl::default().settled),
    };
    if fresh.settled > MAX_STATUS_TTL {
        section.problem("ttl_final", "`cache.ttl_final` must be at most 5m", None);
    }
    if fresh.pending > Duration::from_mins(1) {
        let message = "`cache.ttl_pending` must be at most 1m: callers may see an outdated status for that long";
        section.problem("ttl_pending", message, None);
    }
    fresh
}

fn cache_kind(source: &TomlFile, mut section: Settings<'_>, is_sandbox: bool) -> CacheKind {
    if kind_of(&mut section, "cache", &CACHES) != Some("redis") {
        return CacheKind::Memory;
    }
    let reason = "`public_url` is no loopback address";
    let plain = if is_sandbox { secret::Plain::Allowed } else { secret::Plain::Refused(reason) };
    let Some(url) = secret::required(source, &mut section, "url", plain) else { return CacheKind::Memory };
    RedisUrl::new(url).map_or_else(
        |wrong| {
            let suggestion = "as in \"rediss://user:password@cache.example.com:6379\"".to_owned();
            section.problem("url", format!("`cache.url` {wrong}"), Some(suggestion));
            CacheKind::Memory
        },
        CacheKind::Redis,
    )
}

/// Returns the named kind if it is known; the first kind if none is named.
fn kind_of(section: &mut Settings<'_>, name: &str, kinds: &[&'static str]) -> Option<&'static str> {
    let kind: Option<String> = section.optional("kind");
    section.choices("kind", kinds.iter().copied());
    let Some(kind) = kind else { return kinds.first().copied() };
    let known = kinds.iter().find(|known| **known == kind).copied();
    if known.is_none() {
        let message = format!("there is no {name} of kind `{kind}`");
        section.problem("kind", message, suggest(&kind, kinds.iter().copied()));
    }
    known
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

#[derive(Default)]
struct ListenerTls {
    tls: Option<ServerTls>,
    /// Whether callers must present a certificate, even if its authorities are invalid.
    requires_certificate: bool,
    certificates: Vec<CertificateEnd>,
}

fn server_tls(source: &TomlFile, tls: &mut Settings<'_>, now: Now) -> ListenerTls {
    let pair = identity::read(source, tls, now, Plain::Refused("it would decrypt the key of a listener"));
    if pair.as_ref().is_some_and(|pair| !pair.is_for_servers()) {
        let message =
            "this certificate is not for servers: its extended key usage lacks serverAuth, and callers would reject it";
        tls.problem("cert", message, Some("order one for servers (TLS Web Server Authentication)".to_owned()));
    }
    let requires_certificate = tls.has("client_ca");
    let client_ca = identity::authorities_der(source, tls, "client_ca", now);
    let client_crl = identity::revocation_lists(source, tls, "client_crl");
    if !client_crl.is_empty() && !requires_certificate {
        tls.problem("client_crl", "`client_crl` needs `client_ca`: without it no caller presents a certificate", None);
    }
    let ends = pair.iter().flat_map(|pair| identity::ends("server", pair.certificates()));
    let end = |(certificate, not_after)| CertificateEnd { channel: String::new(), certificate, not_after };
    let certificates = ends.map(end).collect();
    let built = pair.map(|pair| ServerTls::new(pair.identity.clone(), client_ca, client_crl));
    let tls = built.and_then(|built| built.map_err(|(key, message)| tls.problem(key, message, None)).ok());
    ListenerTls { tls, requires_certificate, certificates }
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
