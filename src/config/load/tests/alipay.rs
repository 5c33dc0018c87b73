//! Tests of cross-checks of Alipay's certificates and hosts.

use super::inspection::{assert_first, read, root};
use super::key_files::everything;
use super::*;

#[test]
fn chain_to_another_root_is_rejected() {
    let dir = everything();
    let (another, _) = root(2020..2090);
    let right = read(&dir, "channels/ali/alipay_root_cert.pem");
    put(&dir, "channels/ali/alipay_root_cert.pem", &another);
    let reported = reported(&dir);
    assert_eq!(reported.len(), 2, "{reported:#?}");
    assert!(
        reported
            .iter()
            .all(|reported| reported.contains("leads to no root in `root_cert`: `Tollgate sandbox root R1` issued it")),
        "{reported:#?}"
    );
    // A root of the same name with another key.
    put(&dir, "channels/ali/alipay_root_cert.pem", &right);
    let other = Dir::default();
    keygen::sandbox_channel_of(keygen::SandboxProvider::ALIPAY_CERTIFICATES, other.path(), "ali", "127.0.0.1:1")
        .unwrap();
    put(&dir, "channels/ali/alipay_root_cert.pem", &read(&other, "ali/alipay_root_cert.pem"));
    assert!(
        self::reported(&dir)[0].contains("but not the one in `root_cert` signed it"),
        "{:#?}",
        self::reported(&dir)
    );
    put(&dir, "channels/ali/alipay_root_cert.pem", &read(&dir, "channels/ali/app_cert.pem"));
    assert_first(&dir, "ali", "root_cert = ", "there is no root certificate in this file");
    // A damaged block is never skipped silently.
    put(&dir, "channels/ali/alipay_root_cert.pem", &right.replacen("\nMII", "\nM!I", 1));
    assert_first(&dir, "ali", "root_cert = ", "block 1 of this file, ");
}

#[test]
fn alipay_production_files_are_read_unmodified() {
    let dir = everything();
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/alipay/keys");
    copy(&keys, &dir.path().join("channels/keys"));
    let text = read(&dir, "channels/ali.toml");
    let text = text
        .replace("ali/app_cert.pem", "keys/appCertPublicKey_2021001161683774.crt")
        .replace("ali/alipay_root_cert.pem", "keys/alipayRootCert.crt");
    put(&dir, "channels/ali.toml", &text.replace("ali/alipay_cert.pem", "keys/alipayCertPublicKey_RSA2.crt"));
    let reported = reported(&dir);
    // The key is not published, and the certificate has expired and belongs to another app. Its issuer's certificate is not needed.
    assert!(reported.iter().all(|reported| !reported.contains("root")), "{reported:#?}");
    assert_eq!(reported.len(), 3, "{reported:#?}");
}

#[test]
fn order_of_alipay_roots_is_preserved() {
    let dir = everything();
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/alipay/keys");
    copy(&keys, &dir.path().join("channels/keys"));
    let text = read(&dir, "channels/ali.toml");
    let line = text.lines().find(|line| line.starts_with("app_id")).unwrap().to_owned();
    for (from, to) in [
        (line.as_str(), "app_id = \"2021000000000001\""),
        ("ali/app_private_key.pem", "keys/ali_app.key.pem"),
        ("ali/app_cert.pem", "keys/ali_app.crt.pem"),
        ("ali/alipay_root_cert.pem", "keys/ali_root_bundle.pem"),
        ("ali/alipay_cert.pem", "keys/ali_alipay.crt.pem"),
    ] {
        edit(&dir, "channels/ali.toml", from, to);
    }
    let config = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let ends: Vec<_> = config.sources.certificates.iter().filter(|end| end.channel == "ali").collect();
    assert_eq!(ends.len(), 4, "{ends:?}");
}

#[test]
fn alipay_sandbox_host_without_sandbox_gateway_is_rejected() {
    let dir = everything();
    let text = read(&dir, "channels/alikeys.toml");
    let line = text.lines().find(|line| line.starts_with("gateway")).unwrap().to_owned();
    edit(&dir, "channels/alikeys.toml", "https://127.0.0.1:8443\"]", "https://openapi-sandbox.dl.alipaydev.com\"]");
    edit(&dir, "channels/alikeys.toml", &line, "");
    assert_first(&dir, "alikeys", "hosts = ", "add gateway = \"https://openapi-sandbox.dl.alipaydev.com/gateway.do\"");
    edit(&dir, "channels/alikeys.toml", "[account]", "[account]\ngateway = \"https://openapi.alipay.com/gateway.do\"");
    assert_first(&dir, "alikeys", "gateway = ", "leads payers to production");
    edit(&dir, "channels/alikeys.toml", "openapi.alipay.com", "openapi-sandbox.dl.alipaydev.com");
    assert_reported(&dir, &[]);
}
