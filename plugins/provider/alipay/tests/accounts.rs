//! Reading of `[account]` and of certificates, with every configuration error.

use super::*;
use crate::provider::alipay::{SPEC, certificates};

#[test]
fn certificate_serial_numbers_match_published_ones() {
    let vectors = vectors();
    let is = |value: &Value, number: Option<String>| assert_eq!(value.as_str(), number.as_deref());
    let numbers = &vectors["cert_sn"];
    is(&numbers["app_cert_sn"], certificates::app_serial(&key_file("ali_app.crt.pem")));
    is(&numbers["alipay_cert_sn"], (ROW.key_id)(&key_file("ali_alipay.crt.pem")));
    is(&numbers["alipay_root_cert_sn"], certificates::root_serials(&key_file("ali_root_bundle.pem")));
    let numbers = &vectors["public_cert_sn"];
    is(&numbers["app"]["sn"], certificates::app_serial(&key_file("appCertPublicKey_2021001161683774.crt")));
    is(&numbers["alipay"]["sn"], (ROW.key_id)(&key_file("alipayCertPublicKey_RSA2.crt")));
    is(&numbers["root"]["sn"], certificates::root_serials(&key_file("alipayRootCert.crt")));
}

#[test]
fn bare_public_key_id_is_fingerprint_private_key_id_is_constant() {
    let id = |file: &str| (ROW.key_id)(&key_file(file)).unwrap();
    assert_eq!(id("ali_app.key.pem"), "app");
    assert_eq!((id("ali_app.pub.pem").len(), id("ali_app.pub.pem") == id("ali_alipay.pub.pem")), (16, false));
}

#[test]
fn certificate_mode_sends_both_serials_and_partner_mode_sends_token() {
    let secrets = [("app_cert", key_file("ali_app.crt.pem")), ("root_cert", key_file("ali_root_bundle.pem"))];
    let secrets = secrets.each_ref().map(|(name, file)| (*name, file.as_slice()));
    let text = "app_id = \"2021000000000001\"\nseller_id = \"2088000000000001\"\napp_auth_token = \"201510BB\"";
    let provider = provider_of(text, &secrets);
    assert_eq!(provider.account(), "2021000000000001/2088000000000001");
    let params = sent(&provider, &Operation::Pay(pay("alipay.qr"))).unwrap();
    let numbers = &vectors()["cert_sn"];
    for name in ["app_cert_sn", "alipay_root_cert_sn"] {
        assert_eq!(params[name], numbers[name].as_str().unwrap());
    }
    assert_eq!(params["app_auth_token"], "201510BB");
    assert!(params["biz_content"].contains(r#""seller_id":"2088000000000001""#));
    let plain = sent(&super::provider(), &Operation::Pay(pay("alipay.qr"))).unwrap();
    for name in ["app_cert_sn", "alipay_root_cert_sn", "app_auth_token", "encrypt_type"] {
        assert!(!plain.contains_key(name), "{name}");
    }
    assert_eq!(super::provider().account(), "2021000000000001");
}

#[test]
fn every_configuration_error_is_reported() {
    let cert = key_file("ali_app.crt.pem");
    let said = |text: &str, secrets: &[(&'static str, &[u8])]| {
        let (account, problems) = account(text, secrets, "rsa-sha256");
        assert!(account.is_none(), "{text}");
        problems.join("; ")
    };
    for (text, expected) in [
        ("", "`app_id` is missing"),
        ("app_id = \"a b\"", "`app_id` must be 1 to 64 letters and digits"),
        ("app_id = 5", "`app_id` must be a text in quotes"),
        ("app_id = \"1\"\nseller_id = \"\"", "`seller_id` must be"),
        ("app_id = \"1\"\nop_app_id = \"-\"", "`op_app_id` must be"),
        ("app_id = \"1\"\ngateway = \"openapi.alipay.com\"", "the gateway must be an https:// URL"),
        ("app_id = \"1\"\ngateway = \"http://openapi.alipay.com/gateway.do\"", "the gateway must be an https:// URL"),
        ("app_id = \"1\"\ngateway = \"https://a/b?c\"", "the gateway must be an https:// URL"),
        ("app_id = \"1\"\napp_auth_token = \"t\"", "`seller_id` is needed with `app_auth_token`"),
    ] {
        assert!(said(text, &[]).starts_with(expected), "{text}: {}", said(text, &[]));
    }
    let lonely = said("app_id = \"1\"", &[("app_cert", &cert)]);
    assert!(lonely.starts_with("`[keys]` has `app_cert` but no `root_cert`"), "{lonely}");
    let lonely = said("app_id = \"1\"", &[("root_cert", &cert)]);
    assert!(lonely.starts_with("`[keys]` has `root_cert` but no `app_cert`"), "{lonely}");
}

#[test]
fn invalid_secret_is_rejected_without_being_printed() {
    let check = |name: &str, value: &[u8]| {
        let field = SPEC.secrets.iter().find(|field| field.name == name).unwrap();
        assert_eq!(field.need, Need::Optional);
        (field.check)(value)
    };
    assert!(check("aes", AES.as_bytes()).is_ok() && check("aes", format!("{AES}\n").as_bytes()).is_ok());
    for bad in ["", "hunter2", "AAAA", "IAYCrfqrTRSgOkmDArMsJyAGAq36q00U"] {
        assert!(!check("aes", bad.as_bytes()).unwrap_err().contains("hunter2"));
    }
    assert!(check("app_cert", &key_file("ali_app.crt.pem")).is_ok());
    assert!(check("root_cert", &key_file("ali_root_bundle.pem")).is_ok());
    for name in ["app_cert", "root_cert"] {
        assert!(check(name, &key_file("ali_app.pub.pem")).is_err() && check(name, b"").is_err());
    }
}
