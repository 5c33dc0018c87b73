//! Tests of errors and warnings in a channel's file.

use super::*;

#[test]
fn every_error_in_a_channel_is_reported_without_secrets() {
    let dir = sandbox();
    put(
        &dir,
        "channels/wechat.toml",
        r#"provider = "wechat-v3"
hosts = ["https://127.0.0.1:1/path", "http://pay.example.com", "https://127.0.0.1:1", "https://127.0.0.1:1", "a b"]
ca = "wechat/apiclient_key.pem"
timeouts = { connect = "2s", read = "0s", total = "1s" }
pool = { idle = 0, idle_timeout = "0s" }
not_found_grace = "0s"
[account]
mchid = "x"
appid = "wx8888888888888888"
[keys]
sign = { algorithm = "rsa-sha265", id = "a b", file = "wechat/none.pem" }
verify = [{ id = "one", file = "wechat/apiclient_key.pem" }, { id = "", file = "/" }, { id = "1A", file = "wechat/apiclient_cert.pem" }]
api_v3 = "plain:hunter2"
[mtls]
cert = "wechat/apiclient_cert.pem"
key = "wechat/platform_key.pem"
[[filter]]
use = "braker"
anything = 1
[[filter]]
use = "breaker"
rolling_window = "1ms"
"#,
    );
    assert_reported(
        &dir,
        &[
            "channels/wechat.toml:2:10: a host of `hosts` must have no path",
            "channels/wechat.toml:2:38: a host of `hosts` must start with https://",
            "channels/wechat.toml:2:87: a host of `hosts` is listed twice",
            "channels/wechat.toml:2:110: a host of `hosts` is not a URL",
            "channels/wechat.toml:3:6: this file has no certificate in it",
            "channels/wechat.toml:4:37: `timeouts.read` must be more than 0",
            "channels/wechat.toml:4:51: `timeouts.total` must be at least as long as `timeouts.connect`",
            "channels/wechat.toml:5:17: `pool.idle` must be from 1",
            "channels/wechat.toml:5:35: `pool.idle_timeout` must be more than 0",
            "channels/wechat.toml:6:19: `not_found_grace` must be from 1s to 24h",
            "channels/wechat.toml:8:9: the mchid must be 1 to 32 digits",
            "channels/wechat.toml:11:22: wechat-v3 supports no algorithm `rsa-sha265` (did you mean `rsa-sha256`?)",
            "channels/wechat.toml:11:41: `id` must be 1 to 128 visible characters",
            "channels/wechat.toml:11:55: `channels/wechat/none.pem`: this file does not exist",
            "channels/wechat.toml:12:32: this is a private key, and only its owner may have it",
            "channels/wechat.toml:12:69: `id` must be 1 to 128 visible characters",
            "channels/wechat.toml:12:80: `/`: this is not a file",
            "channels/wechat.toml:12:94: `id` is not this certificate's serial number, which is `",
            "channels/wechat.toml:13:10: the APIv3 key must be exactly 32 ASCII characters",
            "channels/wechat.toml:16:7: this key does not belong to the certificate in `cert`",
            "channels/wechat.toml:18:7: there is no filter `braker` (did you mean `breaker`?)",
            "channels/wechat.toml:22:18: `rolling_window` must be at least 100ms",
        ],
    );
    assert!(!reported(&dir).concat().contains("hunter2"));
    edit(&dir, "channels/wechat.toml", "rsa-sha265", "rsa-sha256");
    edit(&dir, "channels/wechat.toml", "\"a b\", file = \"wechat/none.pem\"", "\"ab\", file = \"wechat/pub_key.pem\"");
    let reported = reported(&dir);
    assert!(
        reported.iter().any(|reported| reported.contains("11:") && reported.contains("this is a public key")),
        "{reported:#?}"
    );
    assert!(
        reported.iter().any(|reported| reported.contains("12:") && reported.contains("this is a private key")),
        "{reported:#?}"
    );
}

#[test]
fn pfx_file_is_decrypted_with_its_password() {
    let dir = sandbox();
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/unionpay/keys");
    copy(&keys, &dir.path().join("channels/keys"));
    let channel = |sign: &str| {
        let text = format!(
            "provider = \"unionpay\"\nhosts = [\"https://127.0.0.1:1\"]\n[account]\nmerId = \"777290058110048\"\n\
             environment = \"test\"\n[keys]\nsign = {{ algorithm = \"rsa-sha256\", {sign} }}\n\
             root_cert = \"file:keys/up_root.crt.pem\"\nmiddle_cert = \"file:keys/up_middle.crt.pem\"\n"
        );
        put(&dir, "channels/union.toml", &text);
    };
    channel("file = \"keys/up_merchant.pfx\", password = \"plain:000000\"");
    assert_reported(&dir, &[]);
    for (sign, place, expected) in [
        ("file = \"keys/up_merchant.pfx\", password = \"plain:1\"", 43, "this PFX file cannot be opened: its password"),
        (
            "file = \"keys/up_merchant.pfx\"",
            43,
            "this is a PFX file (PKCS#12), and its password is missing (add password = ",
        ),
        (
            "file = \"keys/up_merchant.key.pem\", password = \"plain:1\"",
            82,
            "this password opens nothing: the file is not encrypted",
        ),
    ] {
        channel(sign);
        let reported = reported(&dir);
        let expected = format!("channels/union.toml:7:{place}: {expected}");
        assert!(reported.iter().any(|reported| reported.starts_with(&expected)), "{reported:#?}");
    }
}

#[test]
fn missing_keys_are_reported_in_the_provider_s_terms() {
    let dir = sandbox();
    for (provider, account, expected) in [
        ("wechat-v3", "", &["商户号", "AppID", "API证书序列号", "APIv3密钥"][..]),
        ("wechat-v2", "", &["商户号", "AppID", "APIv2密钥"]),
        ("alipay", "", &["APPID", "应用私钥", "支付宝公钥"]),
        ("unionpay", "", &["商户号", "UnionPay's SDK", "acp_sign.pfx"]),
        ("unionpay", "sign_method = \"12\"", &["商户号", "密钥"]),
        ("unionpay", "sign_method = \"21\"", &["merId", "sm2-sm3", "root_cert", "middle_cert"]),
    ] {
        let text =
            format!("provider = \"{provider}\"\nhosts = [\"https://127.0.0.1:1\"]\n[account]\n{account}\n[keys]\n");
        put(&dir, "channels/bare.toml", &text);
        let reported = reported(&dir);
        for expected in expected {
            assert!(
                reported.iter().any(|reported| reported.contains(expected)),
                "{provider} {expected}: {reported:#?}"
            );
        }
        assert!(reported.iter().all(|reported| reported.ends_with(')')), "each says what to do: {reported:#?}");
    }
}

#[test]
fn limitation_of_a_channel_is_a_warning() {
    let dir = sandbox();
    assert_eq!(warnings(&dir), []);
    let text = "provider = \"wechat-v2\"\nhosts = [\"https://127.0.0.1:1\"]\n[account]\nmchid = \"1900000109\"\nappid = \"wx8888888888888888\"\n\
                [keys]\napi = \"plain:192006250b4c09247ec02edce69f6a2d\"\n";
    put(&dir, "channels/second.toml", text);
    let notes = warnings(&dir);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].file.ends_with("channels/second.toml") && notes[0].message.contains("API证书"), "{notes:?}");
}
