//! Download and acceptance of Alipay's next certificate.

use super::*;
use crate::provider::PublishedKeys;

/// Chain of a leaf of Alipay, of a merchant, or under a foreign root; made with another implementation.
fn chain(name: &str) -> String {
    String::from_utf8(key_file(&format!("next_{name}.pem"))).unwrap()
}

/// File from the official SDK's tests, with the names of real Alipay certificates.
fn published(name: &str) -> String {
    String::from_utf8(key_file(name)).unwrap()
}

fn in_certificate_mode(protocol: &str) -> Alipay {
    let secrets = [("app_cert", key_file("ali_app.crt.pem")), ("root_cert", key_file("next_root.pem"))];
    let secrets = secrets.each_ref().map(|(name, file)| (*name, file.as_slice()));
    provider_of(&format!("app_id = \"2021000000000001\"\nprotocol = \"{protocol}\""), &secrets)
}

fn answer(protocol: &str, file: &str) -> Response<Bytes> {
    let content = STANDARD.encode(file);
    Response::new(Bytes::from(match protocol {
        "form" => format!(
            r#"{{"alipay_open_app_alipaycert_download_response":{{"code":"10000","msg":"Success","alipay_cert_content":"{content}"}},"sign":"x"}}"#
        ),
        _ => format!(r#"{{"alipay_cert_content":"{content}"}}"#),
    }))
}

/// A time in the middle of 2030. The certificates are valid from 2025 to 2045.
const THEN: u64 = 1_909_000_000;

#[test]
fn next_certificate_is_requested_by_serial_in_both_protocols() {
    let number = "b3e1a2c4d5f60718293a4b5c6d7e8f90";
    let form = in_certificate_mode("form").request(Some(number)).unwrap();
    let mut params = form::Fields::new();
    form::read_into(form.body(), &mut params).unwrap();
    assert_eq!(params["method"], "alipay.open.app.alipaycert.download");
    assert_eq!(params["biz_content"], format!(r#"{{"alipay_cert_sn":"{number}"}}"#));
    let v3 = in_certificate_mode("v3").request(Some(number)).unwrap();
    assert_eq!(v3.uri().to_string(), format!("/v3/alipay/open/app/alipaycert/download?alipay_cert_sn={number}"));
    for odd in [None, Some("x\"}"), Some("a b")] {
        assert!(in_certificate_mode("form").request(odd).is_none(), "{odd:?}");
    }
    assert!(provider().published_keys().is_none(), "bare keys have no number");
}

#[test]
fn next_certificate_is_accepted_only_with_alipays_name_under_configured_root() {
    let own = chain("alipay");
    for protocol in ["form", "v3"] {
        let provider = in_certificate_mode(protocol);
        let keys = provider.read(&answer(protocol, &own), &Keyring::default(), THEN).unwrap();
        assert_eq!(Some(keys[0].id.clone()), super::super::certificate_files::app_serial(own.as_bytes()));
        assert!(keys[0].is_valid(THEN) && !keys[0].is_valid(u64::MAX / 4));
        let leaf = own.split_inclusive("-----END CERTIFICATE-----").next().unwrap();
        for (file, now, why) in [
            (chain("merchant"), THEN, "name is not Alipay's"),
            (chain("stranger"), THEN, "does not lead to"),
            (leaf.to_owned(), THEN, "does not lead to"),
            (own.clone(), 4_000_000_000, "expired or not yet valid"),
            (own.clone(), 1_000_000_000, "expired or not yet valid"),
            (published("appCertPublicKey_2021001161683774.crt"), THEN, "name is not Alipay's"),
            (published("alipayCertPublicKey_RSA2.crt"), THEN, "expired or not yet valid"),
            ("hello".to_owned(), THEN, "not a PEM"),
        ] {
            let refused = provider.read(&answer(protocol, &file), &Keyring::default(), now).err().unwrap();
            assert!(refused.why.contains(why) && refused.advice.contains("`keys.verify`"), "{why}: {refused:?}");
        }
    }
}

#[test]
fn refused_certificate_download_reports_provider_code() {
    for (body, code) in [
        (
            r#"{"alipay_open_app_alipaycert_download_response":{"code":"40004","msg":"Business Failed","sub_code":"INVALID_CERT","sub_msg":"无效"}}"#,
            Some("INVALID_CERT"),
        ),
        (
            r#"{"error_response":{"code":"40006","msg":"Insufficient Permissions","sub_code":"isv.insufficient-isv-permissions"}}"#,
            Some("isv.insufficient-isv-permissions"),
        ),
        (r#"{"code":"invalid-app-id","message":"无效"}"#, Some("invalid-app-id")),
        ("<html>", None),
        ("[]", None),
    ] {
        let refused = in_certificate_mode("form").read(
            &Response::new(Bytes::from_static(body.as_bytes())),
            &Keyring::default(),
            THEN,
        );
        assert_eq!(refused.err().unwrap().provider_error.map(|error| error.code).as_deref(), code, "{body}");
    }
}
