//! Tests of cross-checks between files, ids and the current time: a configuration with which no payment can succeed is an error.

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, PKCS_RSA_SHA256, date_time_ymd};

use super::key_files::everything;
use super::*;

pub(super) fn read(dir: &Dir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

/// Asserts that the first diagnostic is about this line of the channel's file.
#[track_caller]
pub(super) fn assert_first(dir: &Dir, channel: &str, line_with: &str, in_words: &str) {
    let text = read(dir, &format!("channels/{channel}.toml"));
    let line = 1 + text.lines().position(|line| line.contains(line_with)).unwrap();
    let reported = reported(dir);
    let expected = format!("channels/{channel}.toml:{line}:");
    assert!(
        reported.first().is_some_and(|reported| reported.starts_with(&expected) && reported.contains(in_words)),
        "{expected} {in_words}: {reported:#?}"
    );
}

/// Returns the warnings of `tollgate check`; panics on errors.
pub(super) fn notes(dir: &Dir) -> Vec<String> {
    let summary = check(dir.path()).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let of_permissions = |note: &String| note.contains("users other than its owner may read it");
    summary.notes.iter().map(ToString::to_string).filter(|note| !of_permissions(note)).collect()
}

/// Returns a certificate over a key of the directory for these years, issued by a named authority with the key `authority`.
pub(super) fn issued(dir: &Dir, name: &str, key: &str, authority: &str, years: std::ops::Range<i32>) -> String {
    let issuer_key = KeyPair::from_pem(authority).unwrap();
    let mut issuer = CertificateParams::new(Vec::new()).unwrap();
    issuer.distinguished_name = rcgen::DistinguishedName::new();
    issuer.distinguished_name.push(DnType::CommonName, name);
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    leaf.distinguished_name = rcgen::DistinguishedName::new();
    let is_alipays = key.ends_with("alipay_private_key.pem");
    let owner = if is_alipays {
        "支付宝(中国)网络技术有限公司-2088000000000001"
    } else {
        "2088000000000001-2021000000000001"
    };
    leaf.distinguished_name.push(DnType::CommonName, owner);
    leaf.not_before = date_time_ymd(years.start, 1, 1);
    leaf.not_after = date_time_ymd(years.end, 1, 1);
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&read(dir, key), &PKCS_RSA_SHA256).unwrap();
    leaf.signed_by(&key, &Issuer::new(issuer, issuer_key)).unwrap().pem()
}

/// Returns a self-signed root certificate for these years, and its key.
pub(super) fn root(years: std::ops::Range<i32>) -> (String, String) {
    let key =
        KeyPair::from_pkcs8_pem_and_sign_algo(&keygen::rsa_key_pair().unwrap().private_key, &PKCS_RSA_SHA256).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Test root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(years.start, 1, 1);
    params.not_after = date_time_ymd(years.end, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn id_of(dir: &Dir, before: &str) -> String {
    let text = read(dir, "channels/wechat.toml");
    text.split_once(before).unwrap().1.split_once('"').unwrap().0.to_owned()
}

#[test]
fn directory_made_by_keygen_has_no_errors_or_warnings() {
    let dir = everything();
    assert_eq!(notes(&dir), [""; 0]);
    let snapshot = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let names = |channel: &str| {
        let ends = snapshot.sources.certificates.iter().filter(|end| end.channel == channel);
        ends.map(|end| end.certificate.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("wechat2"), ["mtls"]);
    let ali = names("ali");
    assert_eq!(
        (ali.len(), &ali[1..]),
        (4, &["app_cert".to_owned(), "root_cert".to_owned(), "root_cert 2".to_owned()][..])
    );
    assert_eq!(names("union"), ["root_cert", "middle_cert"]);
    assert_eq!(names(""), ["server"]);
}

#[test]
fn malformed_wechat_serial_number_is_rejected_with_the_correct_one() {
    let dir = everything();
    let right = id_of(&dir, "rsa-sha256\", id = \"");
    let bytes: Vec<&str> = (0..right.len()).step_by(2).map(|at| &right[at..at + 2]).collect();
    let mchid = id_of(&dir, "mchid = \"");
    for (wrong, in_words) in [
        (bytes.join(":"), format!("(write id = \"{right}\")")),
        (bytes.join(" "), format!("(write id = \"{right}\")")),
        (format!("0x{right}"), format!("(write id = \"{right}\")")),
        (mchid, "this is the account's `mchid`".to_owned()),
        ("PUB_KEY_ID_0119000001092024".to_owned(), "which belongs into `keys.verify`".to_owned()),
        (
            "1234567890ABCDEF1234567890ABCDEF12345678".to_owned(),
            format!(
                "not the serial number of the API certificate in `[mtls]`, to which this key belongs (write id = \"{right}\")"
            ),
        ),
    ] {
        edit(
            &dir,
            "channels/wechat.toml",
            &format!("rsa-sha256\", id = \"{right}\""),
            &format!("rsa-sha256\", id = \"{wrong}\""),
        );
        assert_first(&dir, "wechat", "sign = {", &in_words);
        edit(
            &dir,
            "channels/wechat.toml",
            &format!("rsa-sha256\", id = \"{wrong}\""),
            &format!("rsa-sha256\", id = \"{right}\""),
        );
    }
    // The same number in lower case.
    edit(&dir, "channels/wechat.toml", &format!("id = \"{right}\""), &format!("id = \"{}\"", right.to_lowercase()));
    let snapshot = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    assert_eq!(snapshot.channels["wechat"].signer.key_id(), right);
}

#[test]
fn wechat_public_key_id_without_prefix_is_rejected_with_the_complete_id() {
    let dir = everything();
    let right = format!("PUB_KEY_ID_{}", id_of(&dir, "PUB_KEY_ID_"));
    for wrong in [right.to_lowercase(), right.replace("PUB_KEY_ID_", "")] {
        edit(&dir, "channels/wechat.toml", &right, &wrong);
        assert_first(&dir, "wechat", "verify = [", &format!("write id = \"{right}\""));
        edit(&dir, "channels/wechat.toml", &wrong, &right);
    }
}

#[test]
fn own_key_configured_as_provider_key_is_rejected() {
    let dir = everything();
    for own in ["apiclient_cert.pem", "own_public_key.pem"] {
        let pair =
            KeyPair::from_pkcs8_pem_and_sign_algo(&read(&dir, "channels/wechat/apiclient_key.pem"), &PKCS_RSA_SHA256)
                .unwrap();
        put(&dir, "channels/wechat/own_public_key.pem", &pair.public_key_pem());
        edit(&dir, "channels/wechat.toml", "pub_key.pem", own);
        assert_first(&dir, "wechat", "verify = [", "this is the account's own ");
        assert_eq!(reported(&dir).len(), 1, "{:#?}", reported(&dir));
        edit(&dir, "channels/wechat.toml", own, "pub_key.pem");
    }
    edit(&dir, "channels/alikeys.toml", "alikeys/alipay_public_key.pem", "alikeys/app_public_key.pem");
    assert_first(&dir, "alikeys", "verify = [", "this is the account's own public key; the provider's key is required");
    edit(&dir, "channels/alikeys.toml", "alikeys/app_public_key.pem", "alikeys/alipay_public_key.pem");
    edit(
        &dir,
        "channels/ali.toml",
        "verify = [{ file = \"ali/alipay_cert.pem\" }]",
        "verify = [{ file = \"ali/app_cert.pem\" }]",
    );
    assert_first(&dir, "ali", "verify = [", "this is the account's own certificate");
    edit(
        &dir,
        "channels/ali.toml",
        "verify = [{ file = \"ali/app_cert.pem\" }]",
        "verify = [{ file = \"ali/alipay_cert.pem\" }]",
    );
    put(&dir, "channels/union/acp_middle.pem", &read(&dir, "channels/union/acp_sign_cert.pem"));
    assert_first(&dir, "union", "middle_cert = ", "this is the merchant's own certificate");
}

#[test]
fn key_of_another_certificate_is_rejected() {
    let dir = everything();
    let other = keygen::rsa_key_pair().unwrap().private_key;
    put(&dir, "channels/other_key.pem", &other);
    edit(&dir, "channels/wechat.toml", "file = \"wechat/apiclient_key.pem\"", "file = \"other_key.pem\"");
    assert_first(&dir, "wechat", "sign = {", "this key does not belong to the API certificate in `[mtls]`");
    edit(&dir, "channels/wechat.toml", "file = \"other_key.pem\"", "file = \"wechat/apiclient_key.pem\"");
    edit(&dir, "channels/ali.toml", "ali/app_private_key.pem", "other_key.pem");
    assert_first(&dir, "ali", "app_cert = ", "this app certificate does not belong to the private key in `keys.sign`");
    edit(&dir, "channels/ali.toml", "other_key.pem", "ali/app_private_key.pem");
    let certificate = read(&dir, "channels/union/acp_sign_cert.pem");
    put(&dir, "channels/both.pem", &format!("{certificate}{other}"));
    edit(&dir, "channels/union.toml", "union/acp_sign_key.pem", "both.pem");
    assert_first(&dir, "union", "sign = {", "does not belong to the certificate beside it");
}

#[test]
fn merchant_certificate_of_another_merchant_is_rejected() {
    for channel in ["wechat", "wechat2"] {
        let dir = everything();
        let text = read(&dir, &format!("channels/{channel}.toml"));
        let line = text.lines().find(|line| line.starts_with("mchid")).unwrap().to_owned();
        edit(&dir, &format!("channels/{channel}.toml"), &line, "mchid = \"1234567890\"");
        assert_first(&dir, channel, "apiclient_cert.pem", "this API certificate is of the merchant ");
    }
}

#[test]
fn expired_certificate_is_an_error_if_no_payment_can_succeed_else_a_warning() {
    let dir = everything();
    let (ended, ended_key) = root(2020..2022);
    let (good, good_key) = root(2020..2090);
    // The app's own certificate.
    put(&dir, "channels/ali/alipay_root_cert.pem", &good);
    put(
        &dir,
        "channels/ali/alipay_cert.pem",
        &issued(&dir, "Test root", "channels/ali/alipay_private_key.pem", &good_key, 2020..2090),
    );
    let app = |years| issued(&dir, "Test root", "channels/ali/app_private_key.pem", &good_key, years);
    put(&dir, "channels/ali/app_cert.pem", &app(2020..2022));
    assert_first(&dir, "ali", "app_cert = ", "this certificate ended on 2022-01-01");
    put(&dir, "channels/ali/app_cert.pem", &app(2080..2090));
    assert_first(&dir, "ali", "app_cert = ", "this certificate begins only on 2080-01-01");
    // The certificate contains the app's number.
    put(&dir, "channels/ali/app_cert.pem", &app(2020..2090));
    assert_first(&dir, "ali", "app_cert = ", "this certificate is of the app 2021000000000001, and `app_id` is ");
    let text = read(&dir, "channels/ali.toml");
    let line = text.lines().find(|line| line.starts_with("app_id")).unwrap().to_owned();
    edit(&dir, "channels/ali.toml", &line, "app_id = \"2021000000000001\"");
    assert_reported(&dir, &[]);
    // An expired root is used only for its number, and Alipay's expired certificate may be configured beside its successor.
    put(&dir, "channels/ali/alipay_root_cert.pem", &format!("{good}{ended}"));
    put(
        &dir,
        "channels/ali/alipay_cert.pem",
        &issued(&dir, "Test root", "channels/ali/alipay_private_key.pem", &good_key, 2020..2022),
    );
    let notes = notes(&dir);
    assert_eq!(notes.iter().filter(|note| note.contains("has expired")).count(), 2, "{notes:#?}");
    // UnionPay's certificate.
    put(&dir, "channels/union/acp_root.pem", &ended);
    let reported_text = reported(&dir).concat();
    assert!(reported_text.contains("this certificate ended on 2022-01-01"), "{reported_text}");
    drop(ended_key);
}

#[test]
fn expired_unionpay_merchant_certificate_is_an_error_in_production_only() {
    let dir = everything();
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unionpay/keys");
    copy(&keys, &dir.path().join("channels/keys"));
    let text = |environment: &str, host: &str| {
        format!(
            "provider = \"unionpay\"\nhosts = [\"https://{host}\"]\n[account]\nmerId = \"777290058110048\"\n{environment}[keys]\n\
             sign = {{ algorithm = \"rsa-sha256\", file = \"keys/up_acp_test_sign.pfx\", password = \"plain:000000\" }}\n\
             root_cert = \"file:keys/up_acp_test_root.cer\"\nmiddle_cert = \"file:keys/up_acp_test_middle.cer\"\n"
        )
    };
    put(&dir, "channels/acp.toml", &text("environment = \"test\"\n", "127.0.0.1:1"));
    assert!(notes(&dir).concat().contains("the certificate `sign` has expired"));
    put(&dir, "channels/acp.toml", &text("", "127.0.0.1:1"));
    assert_first(
        &dir,
        "acp",
        "sign = {",
        "the merchant's certificate in this file cannot be used: this certificate ended on 2018-12-16",
    );
    // Hosts and certificates of different environments.
    let production =
        text("", "gateway.95516.com").replace("plain:000000", "env:PATH").replace("up_acp_test_sign.pfx", "none.pfx");
    put(&dir, "channels/acp.toml", &production);
    let reported_text = reported(&dir).concat();
    assert!(
        reported_text.contains("a certificate of UnionPay's test environment, and `environment` is \"production\""),
        "{reported_text}"
    );
    put(&dir, "channels/acp.toml", &production.replace("gateway.95516.com", "gateway.test.95516.com"));
    assert_first(&dir, "acp", "hosts = ", "gateway.test.95516.com is UnionPay's test environment");
    let test = production.replace("[keys]", "environment = \"test\"\n[keys]");
    put(&dir, "channels/acp.toml", &test);
    assert_first(&dir, "acp", "hosts = ", "gateway.95516.com is UnionPay's production");
}

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
    let other = Dir::new();
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
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/alipay/keys");
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
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/alipay/keys");
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
    let snapshot = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let ends: Vec<_> = snapshot.sources.certificates.iter().filter(|end| end.channel == "ali").collect();
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

#[test]
fn swapped_account_numbers_are_rejected() {
    for (channel, key, value, in_words) in [
        ("alikeys", "app_id", "2088000000000001", "this app_id is a seller's number"),
        ("alikeys", "app_id", "wx8888888888888888", "this app_id is an AppID of WeChat's"),
        ("alikeys", "seller_id", "2021000000000001", "this seller_id is an APPID"),
        ("alikeys", "seller_id", "208800000001", "has 16 digits, and this seller_id has not"),
        ("wechat2", "appid", "1900000109", "this appid is only digits"),
        ("wechat2", "mchid", "2088000000000001", "this mchid is a number of Alipay's"),
    ] {
        let dir = everything();
        let name = format!("channels/{channel}.toml");
        let text = read(&dir, &name);
        let line = text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned();
        edit(&dir, &name, &line, &format!("{key} = \"{value}\""));
        if channel == "wechat2" {
            edit(&dir, &name, "[mtls]", "[mtls_of_another]");
        }
        assert_first(&dir, channel, &format!("{key} = "), in_words);
    }
}

#[test]
fn short_keys_and_unusual_numbers_are_warned_about() {
    let dir = everything();
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keys");
    copy(&keys, &dir.path().join("channels/keys"));
    edit(&dir, "channels/alikeys.toml", "alikeys/app_private_key.pem", "keys/rsa_1024.pem");
    assert_first(&dir, "alikeys", "sign = {", "the RSA key has 1024 bits; from 2048 to 4096 are taken");
    edit(&dir, "channels/alikeys.toml", "rsa-sha256", "rsa-sha1");
    let text = read(&dir, "channels/wechat2.toml");
    let line = text.lines().find(|line| line.starts_with("appid")).unwrap().to_owned();
    edit(&dir, "channels/wechat2.toml", &line, "appid = \"wx1\"");
    let notes = notes(&dir);
    assert_eq!(notes.len(), 2, "{notes:#?}");
    assert!(
        notes.iter().any(|note| note.contains("this key has only 1024 bits") && note.contains("alikeys.toml:")),
        "{notes:#?}"
    );
    assert!(notes.iter().any(|note| note.contains("this appid does not look so")), "{notes:#?}");
}
