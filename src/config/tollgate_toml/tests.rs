#![allow(clippy::unwrap_used)]

use std::path::Path;

use tollgate_plugins::secret::Secret;

use super::super::cache::{CacheKind, StatusTtl};
use super::super::ledger::{LedgerConfig, Retention};
use super::super::pair::Identity;
use super::super::server::ServerTls;
use super::super::testing::VALUE_CHECKS;
use super::*;

fn read_text(text: &str) -> (ProcessFile, Vec<String>) {
    let source = TomlFile::with_text(Path::new("conf/tollgate.toml"), text.into());
    let (file, diagnostics) = source.read(|root| read(&source, root, Now::for_test(), &VALUE_CHECKS));
    (file.unwrap(), diagnostics.iter().map(ToString::to_string).collect())
}

#[test]
fn omitted_keys_have_defaults() {
    let (file, diagnostics) = read_text("public_url = \"http://localhost:8080/pay/\"");
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    assert_eq!(file.is_sandbox, Some(true));
    let process = file.process.unwrap();
    assert_eq!(process.public_url, "http://localhost:8080/pay");
    assert_eq!(process.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(process.admin_listen.to_string(), "127.0.0.1:9090");
    assert_eq!(process.ledger, LedgerConfig::Embedded("conf/data".into()));
    assert_eq!((process.body_limit, process.drain, process.log.as_str()), (1 << 20, Duration::from_secs(30), "info"));
}

#[test]
fn every_key_of_tollgate_toml_is_read() {
    let (file, diagnostics) = read_text(
        r#"
public_url = "https://pay.example.com"
[server]
listen = "[::]:80"
body_limit = "64KiB"
max_in_flight = 100
shutdown_timeout = "5s"
[admin]
listen = "[::1]:91"
[ledger]
kind = "embedded"
path = "/var/lib/tollgate"
min_free_disk = "1GiB"
retention = { claims = "48h", payments = "2000d", events = "7d" }
[queue]
limit = 5
max_age = "10m"
[cache]
kind = "memory"
[telemetry]
log = "tollgate=debug"
log_buffer = "64KiB"
[delivery]
allowed_networks = ["10.0.0.0/8", "127.0.0.1"]
"#,
    );
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    assert_eq!(file.is_sandbox, Some(false));
    let process = file.process.unwrap();
    assert_eq!(process.listen.to_string(), "[::]:80");
    assert_eq!(process.ledger, LedgerConfig::Embedded("/var/lib/tollgate".into()));
    assert_eq!((process.reserve, process.in_flight, process.log_buffer), (1 << 30, 100, 64 << 10));
    assert_eq!(process.queue, Queue { limit: 5, max_age: Duration::from_mins(10) });
    let hours = |hours| Duration::from_hours(hours);
    assert_eq!(process.keep, Retention { claims: hours(48), payments: hours(48_000), events: hours(168) });
    assert_eq!(
        process.webhook_allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "127.0.0.1/32"]
    );
}

#[test]
fn every_error_in_tollgate_toml_is_reported() {
    let (_, diagnostics) = read_text(
        r#"public_url = "https://pay.example.com/?a=1"
[server]
listen = "localhost"
body_limit = "0B"
max_in_flight = 15
shutdown_timeuot = "1s"
tls = { cert = "none.pem" }
[admin]
listen = "0.0.0.0:9090"
[ledger]
kind = "oracle"
[cache]
kind = "rediss"
[queue]
limit = 2000000
max_age = "8d"
[telemetry]
log = "a=b=c"
log_buffer = "1KiB"
[delivery]
allowed_networks = ["10.0.0.0/8", "10.0.0.0/99"]
"#,
    );
    let expected = [
        "1:14: `public_url` must have no query",
        "3:10: `server.listen` must be an address with a port",
        "4:14: `server.body_limit` must be more than 0",
        "5:17: `server.max_in_flight` must be from 16 to 1000000 requests",
        "6:1: unknown key `server.shutdown_timeuot` (did you mean `shutdown_timeout`?)",
        "7:7: `server.tls.key` is missing",
        "7:16: `conf/none.pem`: this file does not exist",
        "9:10: anyone who can reach `admin.listen` can change everything",
        "11:8: there is no ledger of kind `oracle` (there are embedded, postgres)",
        "13:8: there is no cache of kind `rediss` (did you mean `redis`?)",
        "15:9: `queue.limit` must be at most 1000000",
        "16:11: `queue.max_age` must be from 1s to 7d",
        "18:7: `telemetry.log` is not a log filter",
        "19:14: `telemetry.log_buffer` must be from 64KiB to 1GiB",
        "21:35: an item of `delivery.allowed_networks` must be a network",
    ];
    assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:#?}");
    for (diagnostic, expected) in diagnostics.iter().zip(expected) {
        assert!(diagnostic.starts_with(&format!("conf/tollgate.toml:{expected}")), "{diagnostic} / {expected}");
    }
}

#[test]
fn admin_port_beyond_loopback_requires_authentication() {
    let admin = |admin: &str| {
        let (file, diagnostics) = read_text(&format!("public_url = \"http://localhost\"\n[admin]\n{admin}"));
        (file.process.unwrap(), diagnostics.join("\n"))
    };
    let (process, diagnostics) = admin("listen = \"0.0.0.0:9090\"\ntoken = \"plain:0123456789abcdef\"");
    assert_eq!(diagnostics, "");
    assert!(process.admin_token.unwrap().is_shown(Some(b"Bearer 0123456789abcdef")));
    for (text, expected) in [
        ("listen = \"0.0.0.0:9090\"", "use a loopback address, or require a token"),
        ("listen = \"[::]:9090\"\ntls = { cert = \"a.pem\", key = \"a.pem\" }", "or require a token"),
        ("token = \"plain:short\"", "must have 16 visible characters"),
        ("token = \"plain:with a space in the middle\"", "without spaces"),
        ("token = \"0123456789abcdef\"", "a secret must not be written in the file itself"),
    ] {
        let (_, diagnostics) = admin(text);
        assert!(diagnostics.contains(expected) && !diagnostics.contains("0123456789"), "{text}: {diagnostics}");
    }
}

#[test]
fn redis_url_is_a_secret() {
    let cache = |public: &str, url: &str| {
        let text = format!("public_url = \"{public}\"\n[cache]\nkind = \"redis\"\n{url}");
        let (file, diagnostics) = read_text(&text);
        (file.process.unwrap().cache, diagnostics.join("\n"))
    };
    let (kind, diagnostics) = cache("http://localhost", "url = \"plain:redis://127.0.0.1:6379\"");
    assert!(diagnostics.is_empty() && matches!(kind, CacheKind::Redis(_)), "{diagnostics}");
    assert!(!format!("{kind:?}").contains("127"), "{kind:?}");
    for (public, url, expected) in [
        ("http://localhost", "", "`cache.url` is missing"),
        ("http://localhost", "url = \"plain:http://127.0.0.1\"", "`cache.url` is not the address of a Redis server"),
        ("https://pay.example.com", "url = \"plain:redis://127.0.0.1\"", "only in a sandbox"),
    ] {
        let (kind, diagnostics) = cache(public, url);
        assert!(diagnostics.contains(expected) && kind == CacheKind::Memory, "{diagnostics}");
    }
}

#[test]
fn status_ttls_are_read_and_bounded() {
    let read = |more: &str| read_text(&format!("public_url = \"https://a.example\"\n[cache]\n{more}"));
    assert_eq!(read("").0.process.unwrap().fresh, StatusTtl::default());
    let fresh = read("ttl_pending = \"500ms\"\nttl_final = \"0s\"").0.process.unwrap().fresh;
    assert_eq!(fresh, StatusTtl { pending: Duration::from_millis(500), settled: Duration::ZERO });
    for (wrong, expected) in [
        ("ttl_final = \"6m\"", "must be at most 5m"),
        ("ttl_pending = \"61s\"", "must be at most 1m"),
        ("finals = \"1s\"", "unknown key"),
    ] {
        let (_, diagnostics) = read(wrong);
        assert!(diagnostics.concat().contains(expected), "{wrong}: {diagnostics:?}");
    }
}

#[test]
fn auto_rollback_thresholds_are_read_and_bounded() {
    let read = |more: &str| read_text(&format!("public_url = \"https://a.example\"\n[reload]\n{more}"));
    assert_eq!(read("").0.process.unwrap().auto_rollback, None);
    let rule = read("auto_rollback = { window = \"30s\" }").0.process.unwrap().auto_rollback.unwrap();
    assert_eq!((rule.window.as_secs(), rule.calls, rule.error_percentage, rule.breaker_trips), (30, 20, 20, 1));
    for (wrong, expected) in [
        ("window = \"0s\"", "must be from 1s to 1h"),
        ("calls = 0", "must be at least 1"),
        ("breaker_trips = 0", "must be at least 1"),
        ("error_percentage = 101", "must be from 1 to 100"),
        ("window_s = 1", "unknown key"),
    ] {
        let (_, diagnostics) = read(&format!("auto_rollback = {{ {wrong} }}"));
        assert!(diagnostics.concat().contains(expected), "{wrong}: {diagnostics:?}");
    }
}

#[test]
fn connection_limits_are_read_and_bounded() {
    let server = |server: &str| {
        let (file, diagnostics) = read_text(&format!("public_url = \"http://localhost\"\n[server]\n{server}"));
        (file.process.unwrap().limits, diagnostics.join("\n"))
    };
    assert_eq!(server(""), (ServerLimits::default(), String::new()));
    let (limits, diagnostics) = server(
        "max_connections = 100\nmax_buffered_bytes = \"8MiB\"\nhandshake_timeout = \"1s\"\nheader_timeout = \"2s\"\n\
         body_timeout = \"3s\"\nmin_body_rate = \"2KiB\"\nwrite_timeout = \"4s\"\nkeepalive_timeout = \"5s\"",
    );
    assert_eq!(diagnostics, "");
    assert_eq!((limits.max_connections, limits.max_connections_per_address), (100, 50), "half by default");
    let times = [limits.handshake_timeout, limits.header_timeout, limits.body_timeout, limits.write_timeout];
    assert_eq!((times.map(|time| time.as_secs()), limits.keepalive_timeout.as_secs()), ([1, 2, 3, 4], 5));
    assert_eq!((limits.max_buffered_bytes, limits.min_body_rate), (8 << 20, 2 << 10));
    for (text, expected) in [
        ("max_connections = 0", "must be from 1 to 1000000 connections"),
        ("max_connections_per_address = 0", "must be from 1 to 1000000 connections"),
        ("max_buffered_bytes = \"1KiB\"", "must be at least `server.body_limit`"),
        ("header_timeout = \"1ms\"", "`server.header_timeout` must be from 10ms to 1h"),
        ("keepalive_timeout = \"2h\"", "`server.keepalive_timeout` must be from 10ms to 1h"),
    ] {
        let (_, diagnostics) = server(text);
        assert!(diagnostics.contains(expected), "{text}: {diagnostics}");
    }
}

#[test]
fn reload_applies_keys_that_need_no_restart_and_retains_the_others() {
    let read = |more: &str| read_text(&format!("public_url = \"https://a.example\"\n{more}")).0.process.unwrap();
    let running = read("");
    let file = read(
        "[server]\nlisten = \"127.0.0.1:1\"\n[admin]\nhosts = [\"ops\"]\n[cache]\nnonces = 2000\n[queue]\nlimit = 3",
    );
    let next = running.reloaded(&file);
    assert_eq!((next.nonces, &next.admin_hosts, next.queue.limit), (2_000, &vec!["ops".to_owned()], 3));
    assert_eq!(next.listen, running.listen);
    assert_eq!(running.needs_restart(&file), ["server.listen"]);
}

#[test]
fn reload_applies_the_operators_sinks() {
    let read = |sinks: &str| {
        let (file, diagnostics) = read_text(&format!(
            "public_url = \"http://127.0.0.1:8080\"\ndelivery.allowed_networks = [\"10.0.0.0/8\"]\n{sinks}"
        ));
        (file.process, diagnostics)
    };
    let sink = "[[sink]]\nname = \"ops\"\nkind = \"webhook\"\nurl = \"https://10.0.0.1/x\"\n\
                secrets = [\"plain:whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\"]\n";
    let (running, file) = (read("").0.unwrap(), read(sink).0.unwrap());
    assert_eq!((running.operator_sinks.len(), file.operator_sinks.len()), (0, 1));
    assert_eq!((running.reloaded(&file), running.needs_restart(&file)), (file.clone(), Vec::new()));
    let other = read(&sink.replace("MDEyMzQ1", "MDEyMzQ2")).0.unwrap();
    assert_ne!(other.operator_sinks, file.operator_sinks, "another secret is a change");
    let (_, diagnostics) = read(&sink.replace("10.0.0.1", "192.168.0.1"));
    assert!(diagnostics[0].contains("6:7: `sink.url` is not a public address"), "{diagnostics:?}");
}

#[test]
fn keys_that_need_a_restart_are_listed() {
    let (file, _) = read_text("public_url = \"https://a.example\"");
    let running = file.process.unwrap();
    let changed = Process {
        public_url: "https://b.example".into(),
        webhook_allow: vec!["10.0.0.0/8".parse().unwrap()],
        log: "debug".into(),
        keep: Retention { payments: Duration::MAX, ..running.keep },
        queue: Queue { limit: 1, ..running.queue },
        connections: 15,
        reserve: 1,
        ..running.clone()
    };
    assert_eq!(running.needs_restart(&changed), ["ledger.min_free_disk", "telemetry.log"]);
    let tls = || {
        let (cert, key) = super::super::identity::tests::pair(2020..2090);
        let cert = rustls_pki_types::pem::PemObject::from_pem_slice(cert.as_bytes()).unwrap();
        let key = rustls_pki_types::pem::PemObject::from_pem_slice(key.as_bytes()).unwrap();
        let (cert, key): (rustls_pki_types::CertificateDer<'_>, rustls_pki_types::PrivateKeyDer<'_>) = (cert, key);
        let identity = Identity { certificates: vec![cert.to_vec()], key: Secret::new(key.secret_der()) };
        Some(ServerTls::new(identity, None, Vec::new()).unwrap())
    };
    let [one, other] = [(); 2].map(|()| Process { tls: tls(), admin_tls: tls(), ..running.clone() });
    assert_ne!(one, other);
    assert!(one.needs_restart(&other).is_empty(), "new certificates need no restart");
    assert_eq!(one.reloaded(&other), other);
    assert_eq!(running.needs_restart(&one), ["server.tls", "admin.tls"], "switching TLS on needs a restart");
    assert_eq!(running.reloaded(&one).tls, None);
}

#[test]
fn log_filter_with_a_misspelled_level_is_rejected() {
    let diagnostic = |log: &str| {
        read_text(&format!("public_url = \"https://a.example\"\n[telemetry]\nlog = \"{log}\"")).1.join("\n")
    };
    for good in [
        "info",
        "WARN",
        "off",
        "info,tollgate=debug",
        "tollgate",
        "tollgate::server",
        "tollgate_gateway::delivery",
        "tollgate_ledger",
        "warn,h2=off",
        "3",
        "h2=trace",
        "",
    ] {
        assert_eq!(diagnostic(good), "", "{good}");
    }
    for (wrong, suggestion) in [
        ("inof", "did you mean `info`?"),
        ("infos", "did you mean `info`?"),
        ("warn,debgu", "did you mean `debug`?"),
        ("pingora", "write `pingora=trace`"),
        ("tollgate=inof", "is not a log filter"),
    ] {
        assert!(
            diagnostic(wrong).starts_with("conf/tollgate.toml:3:7: ") && diagnostic(wrong).contains(suggestion),
            "{}",
            diagnostic(wrong)
        );
    }
}

#[test]
fn client_only_certificate_is_rejected_for_a_listener() {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
    for (usages, is_accepted) in [
        (vec![], true),
        (vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth], true),
        (vec![ExtendedKeyUsagePurpose::Any], true),
        (vec![ExtendedKeyUsagePurpose::ClientAuth], false),
        (vec![ExtendedKeyUsagePurpose::CodeSigning], false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = usages.clone();
        std::fs::write(dir.path().join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        for section in ["server", "admin"] {
            let text = format!(
                "public_url = \"https://a.example\"\n[{section}]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}"
            );
            let source = TomlFile::with_text(&dir.path().join("tollgate.toml"), text);
            let (_, diagnostics) = source.read(|root| read(&source, root, Now::for_test(), &VALUE_CHECKS));
            assert_eq!(diagnostics.is_empty(), is_accepted, "{usages:?}: {diagnostics:?}");
            assert!(
                diagnostics.iter().all(|diagnostic| diagnostic.line == 3 && diagnostic.message.contains("serverAuth")),
                "{diagnostics:?}"
            );
        }
    }
}

#[test]
fn host_names_of_the_admin_port_are_read() {
    let read = |hosts: &str| read_text(&format!("public_url = \"http://localhost\"\n[admin]\nhosts = {hosts}"));
    assert_eq!(read("[\"ops.example.com\"]").0.process.unwrap().admin_hosts, ["ops.example.com"]);
    for wrong in ["[\"ops.example.com:9090\"]", "[\"http://ops\"]", "[\"\"]", "\"ops\""] {
        assert_eq!(read(wrong).1.len(), 1, "{wrong}");
    }
}
