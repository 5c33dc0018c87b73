//! Tests of trust: CA files, leaf certificates in any order, and fetched keys across a reload.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use super::inspection::{assert_first, issued, notes, read, root};
use super::key_files::everything;
use super::*;

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// CA with an elliptic-curve key.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let (mut params, key) = (named("Test CA"), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate for these usages (for all if empty), and returns it with its key.
    fn issue(&self, name: &str, usages: &[ExtendedKeyUsagePurpose]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.extended_key_usages = usages.to_vec();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Returns, for each key that takes a CA file, the `tollgate.toml` that uses it and the line of the key.
fn ca_keys() -> [(&'static str, String, &'static str); 4] {
    let tls = "tls = { cert = \"cert.pem\", key = \"key.pem\", client_ca = \"some_ca.pem\" }";
    let address = "public_url = \"http://127.0.0.1:8080\"\n";
    let database = "postgres://tollgate:x@db.example.com/tollgate?sslmode=verify-full";
    [
        ("server.tls.client_ca", format!("{address}[server]\n{tls}\n"), "tollgate.toml:3:"),
        ("admin.tls.client_ca", format!("{address}[admin]\nlisten = \"127.0.0.1:0\"\n{tls}\n"), "tollgate.toml:4:"),
        (
            "ledger.ca",
            format!("{address}[ledger]\nkind = \"postgres\"\nurl = \"plain:{database}\"\nca = \"some_ca.pem\"\n"),
            "tollgate.toml:5:",
        ),
        ("ca of a channel", address.to_owned(), "channels/wechat.toml:"),
    ]
}

#[test]
fn ca_file_without_a_ca_certificate_is_rejected_for_every_key() {
    let dir = everything();
    let ca = Authority::new();
    let (leaf, _) = ca.issue("peer.example.com", &[]);
    let (own, _) = identity::tests::pair(2020..2090);
    let channel = read(&dir, "channels/wechat.toml");
    for (place, text, line) in ca_keys() {
        put(&dir, "tollgate.toml", &text);
        if place.starts_with("ca ") {
            put(&dir, "some_ca.pem", &ca.pem);
            put(&dir, "channels/wechat.toml", &channel.replace("ca = \"wechat/ca.pem\"", "ca = \"../some_ca.pem\""));
        }
        put(&dir, "some_ca.pem", &leaf);
        let reported = reported(&dir);
        let expected = "`peer.example.com` in this file is not a CA certificate: it may not sign others (name the certificate of its \
                        issuer, `Test CA`)";
        assert!(
            reported.len() == 1 && reported[0].starts_with(line) && reported[0].ends_with(expected),
            "{place}: {reported:#?}"
        );
        // Beside its issuer a leaf is ignored, and a self-signed certificate is its own issuer.
        for (file, in_words) in [
            (ca.pem.clone(), ""),
            (format!("{leaf}{}", ca.pem), "`peer.example.com` in this file is not a CA certificate"),
            (own.clone(), "in this file is self-signed and not a CA certificate"),
        ] {
            put(&dir, "some_ca.pem", &file);
            let notes = notes(&dir);
            let is_noted = notes.iter().any(|note| !in_words.is_empty() && note.contains(in_words));
            assert_eq!(
                (notes.len(), is_noted),
                (usize::from(!in_words.is_empty()), !in_words.is_empty()),
                "{place}: {notes:#?}"
            );
        }
    }
}

#[test]
fn leaf_beside_its_ca_certificate_is_no_trust_anchor() {
    let dir = everything();
    let ca = Authority::new();
    put(&dir, "client_ca.pem", &format!("{}{}", ca.issue("peer.example.com", &[]).0, ca.pem));
    let config = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    assert_eq!(config.process.tls.as_ref().unwrap().client_ca.as_ref().unwrap().len(), 1);
}

#[test]
fn certificate_of_an_elliptic_curve_key_is_found_in_any_order() {
    let dir = everything();
    let ca = Authority::new();
    let (before, _) = ca.issue("before", &[]);
    let (own, key) = ca.issue("own", &[]);
    put(&dir, "key.pem", &key);
    let all = [&before, &own, &ca.pem];
    for order in [[0, 1, 2], [2, 0, 1], [2, 1, 0], [0, 2, 1], [1, 0, 2]] {
        put(&dir, "cert.pem", &order.map(|at| all[at].as_str()).concat());
        let config = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{order:?}: {diagnostics:#?}"));
        let shown = &config.process.tls.as_ref().unwrap().identity.certificates;
        let names =
            shown.iter().map(|der| tollgate_plugins::signer::certificate::Certificate::read(der).unwrap().common_name);
        assert_eq!(names.collect::<Vec<_>>(), ["own", "Test CA", "before"], "{order:?}");
    }
}

#[test]
fn unsuitable_mtls_certificate_is_warned_about() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let dir = everything();
    let ca = Authority::new();
    let text = read(&dir, "channels/alikeys.toml");
    let own_key = KeyPair::generate().unwrap();
    let mut between = named("Middle CA");
    between.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let middle = (between.signed_by(&own_key, &ca.issuer).unwrap().pem(), own_key.serialize_pem());
    for ((cert, key), in_words) in [
        (ca.issue("own", &[]), ""),
        (ca.issue("own", &[ServerAuth, ClientAuth]), ""),
        (ca.issue("own", &[ServerAuth]), "its extended key usage lacks clientAuth"),
        (middle, "this is a CA certificate; use a certificate that was issued to this machine"),
    ] {
        put(&dir, "channels/own.pem", &cert);
        put(&dir, "channels/own.key", &key);
        put(&dir, "channels/alikeys.toml", &format!("{text}\n[mtls]\ncert = \"own.pem\"\nkey = \"own.key\"\n"));
        let notes = notes(&dir);
        let found = notes.iter().filter(|note| !in_words.is_empty() && note.contains(in_words)).count();
        assert_eq!((notes.len(), found), (found, usize::from(!in_words.is_empty())), "{in_words}: {notes:#?}");
    }
}

#[test]
fn alipay_accounts_of_two_owners_are_warned_about() {
    let dir = everything();
    let (root_pem, root_key) = root(2020..2090);
    put(&dir, "channels/ali/alipay_root_cert.pem", &root_pem);
    for (file, key) in [("app_cert.pem", "app_private_key.pem"), ("alipay_cert.pem", "alipay_private_key.pem")] {
        let certificate = issued(&dir, "Test root", &format!("channels/ali/{key}"), &root_key, 2020..2090);
        put(&dir, &format!("channels/ali/{file}"), &certificate);
    }
    let line = |key: &str| {
        let text = read(&dir, "channels/ali.toml");
        text.lines().find(|line| line.starts_with(key)).unwrap().to_owned()
    };
    edit(&dir, "channels/ali.toml", &line("app_id"), "app_id = \"2021000000000001\"");
    // The certificates belong to 2088000000000001.
    edit(&dir, "channels/ali.toml", &line("seller_id"), "seller_id = \"2088000000000001\"");
    assert_eq!(notes(&dir), [""; 0]);
    edit(&dir, "channels/ali.toml", &line("seller_id"), "seller_id = \"2088000000000002\"");
    let warnings = notes(&dir);
    let expected = "`seller_id` is 2088000000000002, but the app in `keys.app_cert` belongs to 2088000000000001";
    assert!(warnings.len() == 1 && warnings[0].contains(expected), "{warnings:#?}");
    // A partner's app may act for another seller.
    edit(&dir, "channels/ali.toml", "[account]", "[account]\napp_auth_token = \"201510BB\"");
    assert_eq!(notes(&dir), [""; 0]);
    edit(&dir, "channels/ali.toml", "[account]\napp_auth_token = \"201510BB\"", "[account]");
    // Other prefixes of sellers' numbers are unknown, but not excluded.
    edit(&dir, "channels/alikeys.toml", "seller_id = \"2088", "seller_id = \"2188");
    edit(&dir, "channels/ali.toml", &line("seller_id"), "seller_id = \"2088000000000001\"");
    let warnings = notes(&dir);
    assert!(
        warnings.len() == 1 && warnings[0].contains("begins with 2088, and this seller_id does not"),
        "{warnings:#?}"
    );
}

#[test]
fn alipay_root_that_is_no_ca_certificate_is_rejected() {
    let dir = everything();
    let key = KeyPair::from_pem(&keygen::rsa_key_pair().unwrap().private_key).unwrap();
    put(&dir, "channels/ali/alipay_root_cert.pem", &named("Test root").self_signed(&key).unwrap().pem());
    assert_first(&dir, "ali", "root_cert = ", "what signed itself in it is no CA certificate");
}
