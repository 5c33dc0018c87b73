//! Reading of a channel's `[account]` and `[keys]`, with every configuration error.

use super::*;
use crate::settings::Settings;

const RSA: &str = "merId = \"777290058110048\"\nenvironment = \"test\"\n";
const KEYED: &str = "merId = \"777290058110048\"\nsign_method = \"11\"\n";

fn secrets(names: &[&'static str]) -> Secrets {
    let secret = |name: &'static str| match name {
        "secure_key" => Secret::new(b"88888888".as_slice()),
        "root_cert" => Secret::new(key_file("up_root.crt.pem")),
        _ => Secret::new(key_file("up_middle.crt.pem")),
    };
    names.iter().map(|name| (*name, secret(name))).collect()
}

fn build(text: &str, secrets: &Secrets, algorithm: Option<&'static str>) -> (bool, Vec<String>) {
    let table = DeTable::parse(text).unwrap();
    let problems = Problems::default();
    let mut settings = Settings::root(&table, &problems);
    let built = (SPEC.build)(&mut settings, &BuildContext { secrets, algorithm });
    drop(settings);
    let reported =
        problems.into_vec().into_iter().map(|problem| format!("{} ({:?})", problem.message, problem.suggestion));
    (built.is_some(), reported.collect())
}

fn with_rsa(text: &str) -> (bool, Vec<String>) {
    build(text, &secrets(&["root_cert", "middle_cert"]), Some("rsa-sha256"))
}

#[test]
fn valid_configuration_is_accepted() {
    let platform = "subMerId = \"12345\"\nsubMerName = \"茶馆有限公司\"\nsubMerAbbr = \"茶馆\"\n";
    let all = "codec = \"json\"\nencoding = \"UTF-8\"\nchannel_type = \"07\"\nterm_id = \"00000001\"\npay_timeout = \"30m\"\n";
    let gateway = "gateway = \"http://127.0.0.1:8080\"\nsign_method = \"01\"\n";
    for text in [RSA.to_owned(), [RSA, platform, all, gateway].concat()] {
        assert_eq!(with_rsa(&text), (true, Vec::new()));
    }
    for method in ["11", "12"] {
        let text = KEYED.replace("11", method);
        assert_eq!(build(&text, &secrets(&["secure_key"]), None), (true, Vec::new()), "{method}");
    }
    let sm2 = Secrets::from([
        ("root_cert", Secret::new(key_file("sm2_root.crt.pem"))),
        ("middle_cert", Secret::new(key_file("sm2_middle.crt.pem"))),
    ]);
    let text = "merId = \"777290058110048\"\nsign_method = \"21\"\n";
    assert_eq!(build(text, &sm2, Some("sm2-sm3")), (true, Vec::new()));
}

#[test]
fn payer_page_uses_gateway_of_environment() {
    let secrets = secrets(&["secure_key"]);
    for (more, gateway) in [
        ("", "https://gateway.95516.com"),
        ("environment = \"production\"", "https://gateway.95516.com"),
        ("environment = \"test\"", "https://gateway.test.95516.com"),
        ("environment = \"test\"\ngateway = \"https://127.0.0.1:8443\"", "https://127.0.0.1:8443"),
        ("gateway = \"https://gateway.test.95516.com\"", "https://gateway.test.95516.com"),
    ] {
        let text = format!("{KEYED}{more}\n");
        let table = DeTable::parse(&text).unwrap();
        let problems = Problems::default();
        let mut settings = Settings::root(&table, &problems);
        let provider = (SPEC.build)(&mut settings, &BuildContext { secrets: &secrets, algorithm: None }).unwrap();
        let Encoded::Answer(outcome) = signing(|with| provider.encode(&Operation::Pay(pay("page")), with)).unwrap()
        else {
            panic!("nothing to answer")
        };
        let Some(NextAction::Form { url, .. }) = outcome.action else { panic!("no form") };
        assert_eq!(url, format!("{gateway}/gateway/api/frontTransReq.do"), "{more}");
    }
}

#[test]
fn every_configuration_error_is_reported_once() {
    for (more, expected) in [
        ("codec = \"xml\"", "`codec` must be \"form\" or \"json\", not \"xml\""),
        ("encoding = \"GBK\"", "`encoding` must be \"UTF-8\", not \"GBK\""),
        ("channel_type = \"8\"", "`channel_type` must be \"08\" or \"07\""),
        ("term_id = \"1\"", "the term_id must be 8 letters and digits"),
        ("pay_timeout = \"1s\"", "`pay_timeout` must be from \"1m\" to \"30d\""),
        ("gateway = \"http://gateway.95516.com\"", "the gateway must be https:// and a host"),
        ("gateway = \"http://127.evil.example\"", "the gateway must be https:// and a host"),
        ("gateway = \"http://localhost.evil.example\"", "the gateway must be https:// and a host"),
        ("gateway = \"https://gateway.95516.com/\"", "the gateway must be https:// and a host"),
        ("sign_method = \"1\"", "`sign_method` must be \"01\" or \"11\" or \"12\" or \"21\""),
        ("sign_method = \"11\"", "this `sign_method` needs the shared key `secure_key`"),
        ("sign_method = \"21\"", "this `sign_method` needs the merchant's private key for `sm2-sm3`"),
        ("subMerId = \"12345\"", "`subMerName`, `subMerAbbr` is missing"),
        ("subMerId = \"1\"\nsubMerName = \"a&b\"\nsubMerAbbr = \"c\"", "`subMerName` must have 1 to 40 characters"),
        ("merid = \"1\"", "unknown key `merid`"),
    ] {
        let (built, reported) = with_rsa(&format!("{RSA}{more}\n"));
        assert!(!built || more.starts_with("merid"), "{more}");
        assert!(reported.len() == 1 && reported[0].starts_with(expected), "{more}: {reported:?}");
    }
    for wrong in ["environment = \"test\"", "merId = \"1\"\n", "merId = \"77729005811004-\"\n"] {
        let (built, reported) = with_rsa(wrong);
        assert!(!built && reported.len() == 1 && reported[0].contains("merId"), "{reported:?}");
    }
    assert!(
        with_rsa(&RSA.replace("test", "prod")).1[0].starts_with("`environment` must be \"production\" or \"test\"")
    );
}

#[test]
fn missing_keys_are_reported_with_advice() {
    let reported = |names: &[&'static str], algorithm| build(RSA, &secrets(names), algorithm).1;
    let all = reported(&[], None);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].contains("acp_sign.pfx") && all[1].contains("`root_cert`") && all[2].contains("`middle_cert`"));
    assert_eq!(reported(&["root_cert", "middle_cert"], Some("sm2-sm3")).len(), 1);
    let swapped = Secrets::from([
        ("root_cert", Secret::new(key_file("up_middle.crt.pem"))),
        ("middle_cert", Secret::new(key_file("up_root.crt.pem"))),
    ]);
    let (built, reported) = build(RSA, &swapped, Some("rsa-sha256"));
    assert!(!built && reported.len() == 1 && reported[0].contains("was not signed by"), "{reported:?}");
}

#[test]
fn invalid_secret_is_rejected() {
    let check = |name: &str, value: &[u8]| (ROW.secrets.iter().find(|field| field.name == name).unwrap().check)(value);
    assert!(check("secure_key", b"88888888").is_ok());
    for bad in [b"".as_slice(), b"a b", b"a\n", b"\xff"] {
        assert!(check("secure_key", bad).is_err());
        assert!(check("root_cert", bad).is_err());
    }
}
