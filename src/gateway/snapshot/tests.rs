//! Tests of linking: what lives is built from the configuration, and unchanged parts are shared with the generation before.

#![allow(clippy::unwrap_used)]

use std::fs;

use tollgate_config::testing::{edit, put};

use super::testing::sandbox;
use super::*;
use tollgate_sandbox::keygen::{self, SandboxProvider};

fn loaded(dir: &Path, previous: Option<&Snapshot>) -> Snapshot {
    load(dir, previous).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"))
}

#[test]
fn configuration_is_linked() {
    let dir = sandbox();
    let snapshot = loaded(dir.path(), None);
    assert_eq!(snapshot.generation, 1);
    let (merchant, key) = &snapshot.merchant_keys["shop-1"];
    assert!(Arc::ptr_eq(merchant, &snapshot.config.merchants["shop"]));
    assert_eq!(key.expose(), b"0123456789abcdef");
    let channel = &snapshot.channels["wechat"];
    assert_eq!((channel.configured_keys.iter().count(), channel.keys.load().iter().count()), (1, 1));
    assert_eq!(channel.upstream.timeouts(), channel.connection.timeouts);
    assert_eq!((channel.bills.is_some(), snapshot.routes.len()), (true, 1));
}

#[test]
fn unchanged_parts_and_equal_connections_are_reused() {
    let dir = sandbox();
    let text = fs::read_to_string(dir.path().join("channels/wechat.toml")).unwrap();
    put(&dir, "channels/second.toml", &text);
    let first = loaded(dir.path(), None);
    edit(&dir, "channels/second.toml", "rate = 600", "rate = 700");
    let next = loaded(dir.path(), Some(&first));
    assert_eq!(next.generation, 2);
    assert!(Arc::ptr_eq(&first.channels["wechat"], &next.channels["wechat"]));
    assert!(Arc::ptr_eq(&first.routes, &next.routes));
    let (before, after) = (&first.channels["second"], &next.channels["second"]);
    assert!(!Arc::ptr_eq(before, after) && Arc::ptr_eq(&before.upstream, &after.upstream), "connections are reused");
    edit(&dir, "channels/second.toml", "total = \"5s\"", "total = \"4s\"");
    let last = loaded(dir.path(), Some(&next));
    assert!(!Arc::ptr_eq(&after.upstream, &last.channels["second"].upstream));
}

#[test]
fn values_are_checked_by_the_libraries_that_use_them() {
    let dir = sandbox();
    let settings = fs::read_to_string(dir.path().join("tollgate.toml")).unwrap();
    for (section, expected) in [
        (
            "[ledger]\nkind = \"postgres\"\nurl = \"plain:postgres://a:s3cret@b/c?colour=red\"",
            "`ledger.url` is not usable: it cannot be understood: ",
        ),
        (
            "[cache]\nkind = \"redis\"\nurl = \"plain:http://s3cret\"",
            "`cache.url` is not the address of a Redis server",
        ),
        ("[telemetry]\nlog = \"tollgate=inof\"", "`telemetry.log` is not a log filter: \"tollgate=inof\""),
    ] {
        put(&dir, "tollgate.toml", &format!("{settings}{section}\n"));
        let diagnostics = load(dir.path(), None).err().unwrap();
        let printed = diagnostics[0].to_string();
        assert!(diagnostics.len() == 1 && printed.contains(expected) && !printed.contains("s3cret"), "{diagnostics:?}");
    }
    let url = "[ledger]\nkind = \"postgres\"\nurl = \"plain:postgres://a:s3cret@localhost:5433/pay\"\n";
    put(&dir, "tollgate.toml", &format!("{settings}{url}"));
    let place = loaded(dir.path(), None).process.ledger.to_string();
    assert_eq!(place, "PostgreSQL at localhost:5433, database pay");
}

#[test]
fn fetched_keys_survive_a_reload_that_keeps_account_hosts_and_roots() {
    let dir = sandbox();
    let channels = dir.path().join("channels");
    keygen::sandbox_channel_of(SandboxProvider::ALIPAY_CERTIFICATES, &channels, "ali", "127.0.0.1:8443").unwrap();
    keygen::sandbox_channel_of(SandboxProvider::ALIPAY_CERTIFICATES, &channels, "other", "127.0.0.1:8443").unwrap();
    let first = loaded(dir.path(), None);
    let channel = &first.channels["ali"];
    let key = |id: &str, not_after| {
        let verifier = Arc::clone(&channel.configured_keys.iter().next().unwrap().verifier);
        Key { id: id.to_owned(), verifier, not_after }
    };
    let fetched = [key("next", None), key("ended", Some(1))];
    channel.keys.store(Arc::new(Keyring::new(channel.configured_keys.iter().cloned().chain(fetched).collect())));
    let read = |name: &str| fs::read_to_string(channels.join(name)).unwrap();
    let (text, roots) = (read("ali.toml"), read("ali/alipay_root_cert.pem"));
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
    let other_roots = format!("{roots}{}", read("other/alipay_root_cert.pem"));
    for (what, from, to, root_file, is_kept) in [
        ("timeouts", "total = \"5s\"", "total = \"6s\"", &roots, true),
        ("hosts", "hosts = [\"https://127.0.0.1:8443\"]", "hosts = [\"https://127.0.0.1:8444\"]", &roots, false),
        ("account", line("app_id"), "app_id = \"2021000000000001\"", &roots, false),
        ("roots", "total = \"5s\"", "total = \"7s\"", &other_roots, false),
    ] {
        put(&dir, "channels/ali.toml", &text.replacen(from, to, 1));
        put(&dir, "channels/ali/alipay_root_cert.pem", root_file);
        let next = loaded(dir.path(), Some(&first));
        assert!(!Arc::ptr_eq(&next.channels["ali"], &first.channels["ali"]), "{what}");
        let ids: Vec<String> = next.channels["ali"].keys.load().iter().map(|key| key.id.clone()).collect();
        assert_eq!(
            (ids.len(), ids.contains(&"next".to_owned())),
            (1 + usize::from(is_kept), is_kept),
            "{what}: {ids:?}"
        );
    }
}
