//! Tests of the common reader of key and certificate files: the same formats are accepted for every key.

use std::os::unix::fs::PermissionsExt;

use super::*;
use tollgate_sandbox::keygen::SandboxProvider;

/// Returns a directory with a channel of each provider and a listener with TLS.
pub(super) fn everything() -> Dir {
    static MADE: LazyLock<Dir> = LazyLock::new(|| {
        let dir = sandbox();
        let channels = dir.path().join("channels");
        for (provider, name) in [
            (SandboxProvider::ALIPAY, "alikeys"),
            (SandboxProvider::ALIPAY_CERTIFICATES, "ali"),
            (SandboxProvider::UNIONPAY, "union"),
            (SandboxProvider::UNIONPAY_SM2, "sm2"),
            (SandboxProvider::WECHAT_V2, "wechat2"),
        ] {
            keygen::sandbox_channel_of(provider, &channels, name, "127.0.0.1:8443").unwrap();
        }
        let (cert, key) = identity::tests::pair(2020..2090);
        put(&dir, "client_ca.pem", &super::inspection::root(2020..2090).0);
        put(&dir, "cert.pem", &cert);
        put(&dir, "key.pem", &key);
        fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        let text = "public_url = \"http://127.0.0.1:8080\"\nserver.tls = { cert = \"cert.pem\", key = \"key.pem\", client_ca = \"client_ca.pem\" }\n";
        put(&dir, "tollgate.toml", text);
        // WeChat Pay's certificate in addition to its bare key.
        edit(&dir, "channels/wechat.toml", "verify = [", "verify = [{ file = \"wechat/platform_cert.pem\" }, ");
        dir
    });
    let dir = Dir::default();
    copy(MADE.path(), dir.path());
    dir
}

/// Files of [`everything`], each with the key that names it.
const FILES_BY_KEY: &[(&str, &str)] = &[
    ("keys.sign of wechat-v3 and mtls.key", "channels/wechat/apiclient_key.pem"),
    ("mtls.cert", "channels/wechat/apiclient_cert.pem"),
    ("keys.verify, a bare key", "channels/wechat/pub_key.pem"),
    ("keys.verify, a certificate", "channels/wechat/platform_cert.pem"),
    ("ca", "channels/wechat/ca.pem"),
    ("mtls.key of wechat-v2", "channels/wechat2/apiclient_key.pem"),
    ("keys.sign of alipay", "channels/ali/app_private_key.pem"),
    ("app_cert", "channels/ali/app_cert.pem"),
    ("root_cert of alipay", "channels/ali/alipay_root_cert.pem"),
    ("keys.verify of alipay, a certificate", "channels/ali/alipay_cert.pem"),
    ("keys.verify of alipay, a bare key", "channels/alikeys/alipay_public_key.pem"),
    ("keys.sign of unionpay", "channels/union/acp_sign_key.pem"),
    ("root_cert of unionpay", "channels/union/acp_root.pem"),
    ("middle_cert", "channels/union/acp_middle.pem"),
    ("keys.sign with SM2", "channels/sm2/acp_sign_key.pem"),
    ("root_cert with SM2", "channels/sm2/acp_root.pem"),
    ("the listener's certificate", "cert.pem"),
    ("client_ca", "client_ca.pem"),
    ("the listener's key", "key.pem"),
];

/// Returns the file in the formats that editors, terminals and provider consoles produce.
fn formats(pem: &str) -> Vec<(&'static str, Vec<u8>)> {
    let wide = |order: fn(u16) -> [u8; 2]| format!("\u{feff}{pem}").encode_utf16().flat_map(order).collect();
    let mut formats = vec![
        ("byte order mark and CRLF", format!("\u{feff}{}", pem.replace('\n', "\r\n")).into()),
        ("UTF-16", wide(u16::to_le_bytes)),
        ("one line", pem.replace('\n', "").into()),
        ("written line ends", pem.replace('\n', "\\n").into()),
        ("text around", [b"Bag Attributes\n friendlyName: \xc9\xcc\n", pem.as_bytes(), b"\n# end\n"].concat()),
    ];
    let blocks: Vec<&str> = pem.split("-----END").collect();
    let der = |block: &str| {
        let base64: String = block.lines().filter(|line| !line.contains("-----") && !line.contains("CERT")).collect();
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64).unwrap()
    };
    let all: Vec<Vec<u8>> = blocks[..blocks.len() - 1].iter().map(|block| der(block)).collect();
    formats.push(("DER", all.concat()));
    formats.push(("base64", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, all.concat()).into()));
    formats
}

#[test]
fn key_file_is_accepted_in_every_format_for_every_key() {
    let dir = everything();
    assert_reported(&dir, &[]);
    for (place, file) in FILES_BY_KEY {
        let path = dir.path().join(file);
        let pem = fs::read_to_string(&path).unwrap();
        for (format, content) in formats(&pem) {
            fs::write(&path, content).unwrap();
            assert_eq!(reported(&dir), [""; 0], "{place} as {format}");
        }
        // Other content is rejected at the key's line, with its actual type.
        for (content, in_words) in
            [("", " is empty"), ("hello", "neither PEM nor DER"), ("ssh-rsa AAAA", "in the form of SSH")]
        {
            fs::write(&path, content).unwrap();
            let reported = reported(&dir);
            assert!(reported.first().is_some_and(|reported| reported.contains(in_words)), "{place}: {reported:#?}");
        }
        fs::write(&path, pem).unwrap();
    }
}

#[test]
fn serial_numbers_do_not_depend_on_the_file_format() {
    let dir = everything();
    let ids = |dir: &Dir| {
        let config = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
        let channel = |name: &str| {
            let channel = &config.channels[name];
            let verify = channel.configured_keys.iter().map(|key| (key.id.clone(), key.not_after));
            (channel.signer.key_id().to_owned(), verify.collect::<Vec<_>>())
        };
        ["wechat", "ali", "union"].map(channel)
    };
    let before = ids(&dir);
    for (_, file) in FILES_BY_KEY {
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    }
    assert_eq!(ids(&dir), before);
}

#[test]
fn encrypted_key_is_decrypted_with_its_password_for_every_key() {
    let dir = everything();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    copy(&golden.join("unionpay/keys"), &dir.path().join("channels/keys"));
    copy(&golden.join("keys"), &dir.path().join("channels/keys"));
    let (certificate, pfx, encrypted) =
        ("keys/up_merchant.crt.pem", "keys/up_merchant.pfx", "keys/up_merchant_encrypted.pem");
    let password = "password = \"plain:000000\"";
    let channel = |sign: &str, mtls: &str| {
        let text = format!(
            "provider = \"wechat-v3\"\nhosts = [\"https://127.0.0.1:1\"]\n[account]\nmchid = \"1900000109\"\nappid = \"wx8888888888888888\"\n\
             [keys]\nsign = {{ algorithm = \"rsa-sha256\", id = \"1002653216\", {sign} }}\napi_v3 = \"plain:0123456789abcdef0123456789abcdef\"\n[mtls]\n{mtls}\n"
        );
        put(&dir, "channels/second.toml", &text);
    };
    for file in [pfx, encrypted] {
        let cert = if file == pfx { pfx } else { certificate };
        channel(&format!("file = \"{file}\", {password}"), &format!("cert = \"{cert}\"\nkey = \"{file}\"\n{password}"));
        assert_reported(&dir, &[]);
        channel(&format!("file = \"{file}\""), &format!("cert = \"{cert}\"\nkey = \"{file}\""));
        let reported = reported(&dir);
        assert!(
            reported.iter().all(|reported| reported.contains("its password is missing (add password = ")),
            "{reported:#?}"
        );
        assert!(reported[0].starts_with("channels/second.toml:7:") && reported.len() >= 2, "{reported:#?}");
        let wrong = "password = \"plain:hunter2\"";
        channel(&format!("file = \"{file}\", {wrong}"), &format!("cert = \"{cert}\"\nkey = \"{file}\"\n{wrong}"));
        let reported = self::reported(&dir);
        assert!(
            reported
                .iter()
                .all(|reported| reported.contains("its password is another") && !reported.contains("hunter2")),
            "{reported:#?}"
        );
    }
    channel(
        "file = \"keys/up_merchant.key.pem\"",
        &format!("cert = \"{certificate}\"\nkey = \"keys/up_merchant.key.pem\"\n{password}"),
    );
    assert_reported(&dir, &["channels/second.toml:12:12: this password opens nothing: the file is not encrypted"]);
}
