//! The way to a PostgreSQL on another machine.

use rcgen::{CertifiedKey, KeyPair};
use tollgate_plugins::secret::Secret;

use super::server::Server;
use super::*;

fn certificate() -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

#[tokio::test]
async fn server_with_another_certificate_is_rejected_before_login() {
    let folder = tempfile::tempdir().unwrap();
    let [theirs, others] = [certificate(), certificate()];
    let files = [("cert", theirs.cert.pem()), ("key", theirs.signing_key.serialize_pem())].map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let server = Server::start(&["--tls", &files[0], &files[1]]);
    let connect = |url: &str, authority: &CertifiedKey<KeyPair>| {
        let authorities = [authority.cert.der().to_vec()];
        Ledger::connect(Address::parse(&Secret::new(url), Some(&authorities)).unwrap())
    };
    let url = format!("{}?sslmode=verify-full", server.url);
    let ledger = connect(&url, &theirs).unwrap();
    assert!(matches!(ledger.claim(claim_key("k", ""), pay("o"), at(0)).await, Ok(ClaimResult::Run(_))));
    let refused = connect(&url, &others).err().unwrap().to_string();
    assert!(refused.contains("cannot be reached") && refused.contains("certificate"), "{refused}");
    let refused = connect(&url.replace("localhost", "127.0.0.1"), &theirs).err().unwrap().to_string();
    assert!(refused.contains("certificate"), "{refused}");
    // A server that has no TLS is not spoken to at all.
    let bare = Server::start(&["--port"]);
    let refused = connect(&format!("{}?sslmode=require", bare.url), &theirs).err().unwrap().to_string();
    assert!(refused.contains("TLS"), "{refused}");
}
