//! Tests on whole directories: every error is reported, valid files are linked, unchanged parts are reused.

use std::fs;
use std::sync::LazyLock;

use super::*;
use crate::testing::{self, Dir, copy, edit, put};
use crate::{identity, notes, upstream};
use tollgate_sandbox::keygen;

/// Returns a valid configuration with one merchant and one channel to a sandbox, and the directory of its ledger.
fn sandbox() -> Dir {
    // Generating RSA keys takes long, so it is done once.
    static MADE: LazyLock<Dir> = LazyLock::new(|| {
        let dir = Dir::default();
        keygen::sandbox_channel(&dir.path().join("channels"), "wechat", "127.0.0.1:8443").unwrap();
        testing::complete(&dir, "wechat");
        dir
    });
    MADE.copied()
}

fn load(dir: &Path, previous: Option<&Config>) -> Result<Config, Vec<Diagnostic>> {
    super::load(dir, &testing::VALUE_CHECKS, previous).config
}

/// Returns the warnings of `tollgate check`; panics on errors.
fn warnings(dir: &Dir) -> Vec<Diagnostic> {
    let config = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    notes::warnings(dir.path(), &config)
}

/// Returns diagnostics as `file:line:column: message (suggestion)`, with files relative to the directory.
fn reported(dir: &Dir) -> Vec<String> {
    let Err(diagnostics) = load(dir.path(), None) else { return Vec::new() };
    let root = format!("{}/", dir.path().display());
    diagnostics.iter().map(|diagnostic| diagnostic.to_string().replace(&root, "")).collect()
}

#[track_caller]
fn assert_reported(dir: &Dir, expected: &[&str]) {
    let reported = reported(dir);
    assert_eq!(reported.len(), expected.len(), "{reported:#?}");
    for (reported, expected) in reported.iter().zip(expected) {
        assert!(reported.starts_with(expected), "{reported}\n{expected}");
    }
}

#[test]
fn valid_directory_is_loaded() {
    let dir = sandbox();
    let config = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    assert_eq!(config.hash.len(), 64);
    assert_eq!(config.merchants["shop"].keys[0].1.expose(), b"0123456789abcdef");
    let channel = &config.channels["wechat"];
    assert_eq!((channel.name.as_str(), channel.provider_name), ("wechat", "wechat-v3"));
    assert_eq!(channel.filters.iter().map(|filter| filter.name()).collect::<Vec<_>>(), ["limit", "retry", "breaker"]);
    assert_eq!(channel.configured_keys.iter().count(), 1);
    assert_eq!(channel.connection.timeouts, upstream::TIMEOUTS);
    assert_eq!(config.routes.rules.len(), 1);
    let ends = &config.sources.certificates;
    assert_eq!((ends.len(), ends[0].channel.as_str(), ends[0].certificate.as_str()), (1, "wechat", "mtls"));
    assert!(config.sources.files.contains(&dir.path().join("channels/wechat/apiclient_key.pem")));
    assert_eq!(warnings(&dir), []);
}

#[test]
fn every_error_in_every_file_is_reported_at_once() {
    let dir = sandbox();
    put(&dir, "tollgate.toml", "public_url = \"http://127.0.0.1:8080\"\n[sever]\n");
    put(&dir, "merchants/second.toml", "\nkeys = [{ id = \"shop-1\", secret = \"plain:0123456789abcdef\" }]\n");
    put(&dir, "merchants/broken.toml", "keys = [\nlimit = \"\n");
    edit(&dir, "channels/wechat.toml", "total = \"5s\"", "totl = \"5s\"");
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nratee = 600");
    put(
        &dir,
        "channels/other.toml",
        "provider = \"wechat-v4\"\nhosts = []\n[account]\nwhat = 1\n[[filter]]\nuse = \"x\"\ny = 1\n",
    );
    put(&dir, "routes.toml", "[[route]]\nto = [{ channel = \"wehcat\" }, { channel = \"other\" }]\n");
    assert_reported(
        &dir,
        &[
            "tollgate.toml:2:2: unknown key `sever` (did you mean `server`?)",
            "channels/other.toml:1:1: the table `keys` is missing",
            "channels/other.toml:1:12: there is no provider `wechat-v4` (did you mean `wechat-v2`?)",
            "channels/other.toml:2:9: a channel must have at least one host",
            "channels/wechat.toml:5:57: unknown key `timeouts.totl` (did you mean `total`?)",
            "channels/wechat.toml:21:1: a limit needs a number",
            "channels/wechat.toml:23:1: unknown key `filter.ratee` (did you mean `rate`?)",
            "merchants/broken.toml:2:1: ",
            "merchants/shop.toml:1:16: the key id `shop-1` is used already in merchants/second.toml",
            "routes.toml:2:19: there is no channel `wehcat` (did you mean `wechat`?)",
        ],
    );
}

#[test]
fn plain_secret_is_rejected_outside_a_sandbox() {
    let dir = sandbox();
    edit(&dir, "tollgate.toml", "127.0.0.1:8080", "pay.example.com");
    assert_reported(
        &dir,
        &["merchants/shop.toml:1:35: a secret may be written in the file only in a sandbox: `public_url` in toll"],
    );
    let dir = sandbox();
    edit(&dir, "channels/wechat.toml", "hosts = [", "hosts = [\"https://api.example.com\", ");
    let line = fs::read_to_string(dir.path().join("channels/wechat.toml")).unwrap();
    let line = line.lines().position(|line| line.starts_with("api_v3")).unwrap() + 1;
    let expected = format!(
        "channels/wechat.toml:{line}:10: a secret may be written in the file only in a sandbox: a host of this"
    );
    assert_reported(&dir, &[&expected]);
}

#[test]
fn missing_directory_or_file_is_reported_with_a_suggestion() {
    let dir = Dir::default();
    let none = dir.path().join("none");
    let diagnostics = load(&none, None).err().unwrap();
    assert!(
        diagnostics[0].to_string().ends_with(
            "there is no such directory (name the right one with --conf DIR, or see what is in the example `conf`)"
        ),
        "{diagnostics:?}"
    );
    assert_reported(&dir, &["tollgate.toml: this file is missing (create it with `public_url"]);
    put(&dir, "tollgate.toml", "public_url = \"https://pay.example.com\"");
    assert!(load(dir.path(), None).is_ok(), "without routes.toml each payment names its channel");
}

#[test]
fn editor_backups_are_skipped_and_invalid_file_names_are_rejected() {
    let dir = sandbox();
    for name in [".shop.toml", ".#shop.toml", "shop.toml~", "shop.toml.swp", "#shop.toml#", "notes.txt", ".toml"] {
        put(&dir, &format!("merchants/{name}"), "]");
    }
    fs::create_dir(dir.path().join("merchants/dir.toml")).unwrap();
    assert_reported(&dir, &[]);
    for name in ["Shop.toml", "-a.toml", "a_b.toml"] {
        put(&dir, &format!("merchants/{name}"), "]");
    }
    let message = "this file name is not a valid name of a merchant or channel";
    let expected = ["-a", "Shop", "a_b"].map(|name| format!("merchants/{name}.toml: {message}"));
    assert_reported(&dir, &expected.each_ref().map(String::as_str));
    assert!(is_name("wechat-main-2") && is_name(&"a".repeat(63)) && !is_name(&"a".repeat(64)) && !is_name(""));
}

#[test]
fn listener_certificate_and_key_must_match() {
    let dir = sandbox();
    let (cert, key) = identity::tests::pair(2020..2090);
    put(&dir, "cert.pem", &cert);
    put(&dir, "key.pem", &key);
    let text = "public_url = \"http://127.0.0.1:8080\"\nserver.tls = { cert = \"cert.pem\", key = \"key.pem\", client_ca = \"cert.pem\" }\n";
    put(&dir, "tollgate.toml", text);
    let config = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let tls = config.process.tls.as_ref().unwrap();
    assert_eq!(tls.client_ca.as_ref(), Some(&tls.identity.certificates));
    assert_eq!(config.sources.certificates[0].certificate, "server");
    put(&dir, "key.pem", &identity::tests::pair(2020..2090).1);
    assert_reported(&dir, &["tollgate.toml:2:41: this key does not belong to the certificate in `cert`"]);
}

/// The example configuration needs only keys for the sandbox.
#[test]
fn example_configuration_is_valid() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conf");
    let dir = Dir::default();
    for name in ["tollgate.toml", "routes.toml", "merchants/shop.toml", "channels/wechat-sandbox.toml.example"] {
        let to = dir.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(example.join(name), to).unwrap();
    }
    let channels = dir.path().join("channels");
    let made = keygen::sandbox_channel(&channels, "wechat-sandbox", "127.0.0.1:8443").unwrap();
    assert_reported(&dir, &[]);
    fs::rename(channels.join("wechat-sandbox.toml.example"), &made.channel).unwrap();
    // Its account numbers are placeholders; the generated keys belong to the generated account.
    let account = fs::read_to_string(made.account.join("sandbox.toml")).unwrap();
    let serial = account.split_once("serial = \"").unwrap().1.split_once('"').unwrap().0;
    edit(&dir, "channels/wechat-sandbox.toml", "7132D72A03E93CDDF8C03BBD1F37EEDF5CD1A7B6", serial);
    edit(&dir, "channels/wechat-sandbox.toml", "1900000109", &made.mchid);
    assert_reported(&dir, &[]);
}

#[test]
fn oversized_file_and_too_many_files_are_rejected_before_reading() {
    let dir = sandbox();
    let large = fs::File::create(dir.path().join("channels/wechat/apiclient_key.pem")).unwrap();
    large.set_len((32 << 20) + 1).unwrap();
    let reported = reported(&dir);
    assert!(
        reported.iter().any(|reported| reported.contains("this file has more than 33554432 bytes")),
        "{reported:#?}"
    );
    let dir = sandbox();
    for number in 0..=MAX_FILES {
        put(&dir, &format!("merchants/m{number}.toml"), "");
    }
    assert_reported(&dir, &["merchants: there are 102 files in this directory, and at most 100 are read"]);
}

#[test]
fn breaker_that_could_never_close_is_rejected() {
    for (wrong, expected) in [
        ("half_open_permits = 0", "`half_open_permits` must be at least 1"),
        ("sleep_window = \"0s\"", "`sleep_window` must be more than 0"),
        ("sleep_window = \"61s\"", "`sleep_window` must be more than 0 and at most 60s"),
        ("request_volume_threshold = 0", "`request_volume_threshold` must be at least 1"),
        ("error_threshold_percentage = 101", "must be from 1 to 100"),
        ("slow_call = { duration = \"0s\" }", "with 0 it could never close"),
    ] {
        let dir = sandbox();
        let key = wrong.split(' ').next().unwrap();
        let text = fs::read_to_string(dir.path().join("channels/wechat.toml")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with(key));
        put(&dir, "channels/wechat.toml", &format!("{}\n{wrong}\n", lines.collect::<Vec<_>>().join("\n")));
        let reported = reported(&dir);
        assert!(reported.len() == 1 && reported[0].contains(expected), "{wrong}: {reported:?}");
    }
}

#[test]
fn expiring_and_expired_certificates_are_warned_about() {
    let end = |days: i64| CertificateEnd {
        channel: "main".to_owned(),
        certificate: "mtls".to_owned(),
        not_after: 1_000_000 + days * 24 * 3600 + 5,
    };
    let note = |days| notes::end_note(Path::new("conf"), &end(days), Now(1_000_000)).map(|note| note.to_string());
    assert_eq!(note(30), None);
    assert!(note(29).unwrap().starts_with("conf/channels/main.toml: the certificate `mtls` expires in 29 days"));
    assert!(note(-1).unwrap().contains("has expired and is ignored"));
}

mod again;
mod alipay;
mod inspection;
mod key_files;
mod names;
mod trust;

mod channels;
