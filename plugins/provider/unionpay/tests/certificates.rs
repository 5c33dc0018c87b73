//! Acceptance of the certificates in messages.

use super::super::chain::{Chain, Kind, Owners, check, serial};
use super::super::signature::Method;
use super::*;

fn text(name: &str) -> String {
    String::from_utf8(key_file(name)).unwrap()
}

fn why(result: Result<super::super::chain::Leaf, BadSignature>) -> &'static str {
    match result {
        Ok(_) => "",
        Err(BadSignature::Wrong(why)) => why,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn certificate_of_another_owner_is_rejected() {
    let leaf = |name: &str| why(chain().leaf(&text(name), Kind::Rsa, NOW));
    assert_eq!(leaf("up_acp.crt.pem"), "");
    assert_eq!(leaf("up_merchant.crt.pem"), "its certificate does not belong to UnionPay", "of the same CA");
    let not_signed = "its certificate was not signed by a configured `middle_cert`";
    assert_eq!((leaf("up_middle.crt.pem"), leaf("up_root.crt.pem")), (not_signed, not_signed));
    assert_eq!(leaf("up_acp.key.pem"), "its certificate cannot be parsed");
    let production =
        Chain::new(&key_file("up_middle.crt.pem"), &key_file("up_root.crt.pem"), Owners::Production).unwrap();
    let test = production.leaf(&text("up_acp.crt.pem"), Kind::Rsa, NOW);
    assert_eq!(why(test), "its certificate does not belong to UnionPay", "the test environment's");
    let wrong_kind = chain().leaf(&text("up_acp.crt.pem"), Kind::Sm2, NOW);
    assert_eq!(why(wrong_kind), "its certificate has an unsupported key");
}

#[test]
fn expired_certificate_is_rejected_even_if_cached() {
    let (start, end) = (1_735_689_600, 2_366_841_600);
    let is_taken = |now| chain().leaf(&text("up_acp.crt.pem"), Kind::Rsa, now).is_ok();
    assert_eq!([start - 1, start, end, end + 1].map(is_taken), [false, true, true, false]);
    assert!(!is_taken(0) && !is_taken(u64::MAX));
    // A cached certificate expires too, and is cached for its own key type only.
    let (chain, text) = (chain(), text("up_acp.crt.pem"));
    let times = [start, end + 1, start - 1, end];
    assert_eq!(times.map(|now| chain.leaf(&text, Kind::Rsa, now).is_ok()), [true, false, false, true]);
    assert!(chain.leaf(&text, Kind::Sm2, start).is_err() && chain.leaf(&text, Kind::Rsa, start).is_ok());
}

#[test]
fn altered_certificate_is_rejected() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let (_, block) = x509_parser::pem::parse_x509_pem(text("up_acp.crt.pem").as_bytes()).map_err(|_| "pem").unwrap();
    let pem =
        |der: &[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    let chain = chain();
    assert!(chain.leaf(&pem(&block.contents), Kind::Rsa, NOW).is_ok());
    let signed = 4..4 + block.parse_x509().unwrap().tbs_certificate.as_ref().len();
    let signature = block.contents.len() - 256..block.contents.len();
    for at in signed.chain(signature) {
        let mut altered = block.contents.clone();
        altered[at] ^= 1;
        assert!(chain.leaf(&pem(&altered), Kind::Rsa, NOW).is_err(), "byte {at}");
    }
}

/// Certificates of UnionPay's test environment, all signed with SHA-1.
#[test]
fn middle_certificate_must_be_signed_by_root() {
    let (middle, root) = (key_file("up_acp_test_middle.cer"), key_file("up_acp_test_root.cer"));
    let chain = Chain::new(&middle, &root, Owners::Test).unwrap();
    let merchants = chain.leaf(&text("up_acp_test_sign.crt.pem"), Kind::Rsa, 1_480_000_000);
    assert_eq!(why(merchants), "its certificate does not belong to UnionPay");
    let wrong = |middle: &[u8], root: &[u8]| {
        let why = Chain::new(middle, root, Owners::Test).err().unwrap_or_default();
        assert!(why.starts_with("`keys.") || why.starts_with("not an X.509"), "{why}");
        why
    };
    let not_signed = "was not signed by `keys.root_cert`";
    assert!(wrong(&root, &middle).ends_with(not_signed));
    assert!(wrong(&key_file("up_middle.crt.pem"), &root).ends_with(not_signed));
    let no_authority = wrong(&key_file("up_acp.crt.pem"), &key_file("up_middle.crt.pem"));
    assert!(no_authority.ends_with("may not sign certificates"), "{no_authority}");
    assert!(wrong(b"", &root).contains("not an X.509 certificate"));
    assert!(wrong(&middle, b"x").contains("not an X.509 certificate"));
}

#[test]
fn certificates_under_old_and_new_middle_are_both_accepted() {
    let join = |names: &[&str]| names.iter().map(|name| text(name)).collect::<String>();
    let root = text("up_next_root.crt.pem");
    let (old, new) = ("up_next_middle_1.crt.pem", "up_next_middle_2.crt.pem");
    let (by_old, by_new) = ("up_next_acp_1.crt.pem", "up_next_acp_2.crt.pem");
    let both = Chain::new(join(&[old, new]).as_bytes(), root.as_bytes(), Owners::Test).unwrap();
    for name in [by_old, by_new, by_old, by_new] {
        assert_eq!(why(both.leaf(&text(name), Kind::Rsa, NOW)), "", "{name}");
    }
    let under = |middle: &str, leaf: &str| {
        let chain = Chain::new(text(middle).as_bytes(), root.as_bytes(), Owners::Test).unwrap();
        why(chain.leaf(&text(leaf), Kind::Rsa, NOW))
    };
    assert_eq!((under(old, by_old), under(new, by_new)), ("", ""));
    for (middle, leaf) in [(old, by_new), (new, by_old)] {
        assert_eq!(under(middle, leaf), "its certificate was not signed by a configured `middle_cert`", "{leaf}");
    }
    let (middles, roots) = (["up_middle.crt.pem", new], ["up_next_root.crt.pem", "up_root.crt.pem"]);
    let two = Chain::new(join(&middles).as_bytes(), join(&roots).as_bytes(), Owners::Test).unwrap();
    for name in ["up_acp.crt.pem", by_new] {
        assert_eq!(why(two.leaf(&text(name), Kind::Rsa, NOW)), "", "under two roots: {name}");
    }
}

#[test]
fn can_verify_only_while_a_middle_certificate_and_its_root_are_valid() {
    // The files of the test environment are valid from 2012 to 2031 (middle) and 2032 (root), ours from 2025 to 2045.
    let (theirs, ours) = ((1_346_296_473, 1_936_235_673), (1_735_689_600, 2_366_841_600));
    let (middle, root) = (key_file("up_acp_test_middle.cer"), key_file("up_acp_test_root.cer"));
    let old = Chain::new(&middle, &root, Owners::Test).unwrap();
    let (start, end) = theirs;
    assert_eq!([start - 1, start, end, end + 1].map(|now| old.can_verify(now)), [false, true, true, false]);
    let join = |one: &str, other: &str| text(one) + &text(other);
    let middles = join("up_acp_test_middle.cer", "up_middle.crt.pem");
    let roots = join("up_acp_test_root.cer", "up_root.crt.pem");
    let both = Chain::new(middles.as_bytes(), roots.as_bytes(), Owners::Test).unwrap();
    let times = [theirs.0 - 1, theirs.0, theirs.1 + 1, ours.1, ours.1 + 1, u64::MAX];
    assert_eq!(times.map(|now| both.can_verify(now)), [false, true, true, true, false, false]);
    assert_eq!(
        [ours.0, ours.1 + 1].map(|now| provider().can_verify(&no_keys(), now)),
        [true, false],
        "the provider says the same"
    );
    let shared = UnionPay(account(Method::sha256(b"k"), Codec::Form));
    assert!(shared.can_verify(&no_keys(), u64::MAX), "a shared key never expires");
}

#[test]
fn unusable_certificate_in_file_is_rejected() {
    let root = text("up_root.crt.pem");
    let wrong = |middles: String, roots: &str| {
        Chain::new(middles.as_bytes(), roots.as_bytes(), Owners::Test).err().unwrap_or_default()
    };
    let unrelated = wrong(text("up_middle.crt.pem") + &text("sm2_middle.crt.pem"), &root);
    assert!(unrelated.starts_with("certificate 2 of 2 in `keys.middle_cert` ("), "{unrelated}");
    assert!(unrelated.ends_with("was not signed by `keys.root_cert`"), "{unrelated}");
    let leaf = wrong(text("up_acp.crt.pem") + &text("up_middle.crt.pem"), &(text("up_middle.crt.pem") + &root));
    assert!(leaf.starts_with("certificate 1 of 2") && leaf.ends_with("may not sign certificates"), "{leaf}");
    let key = wrong(text("up_middle.crt.pem") + &text("up_acp.key.pem"), &root);
    assert_eq!(key, "certificate 2 of 2 in `keys.middle_cert` is not a certificate");
    let half = text("up_middle.crt.pem");
    let broken = wrong(half.clone() + &half.replacen("MII", "MIX", 1), &root);
    assert_eq!(broken, "certificate 2 of 2 in `keys.middle_cert` is not a certificate");
    let cut = wrong(half.clone() + &half[..half.len() / 2], &root);
    assert!(!cut.is_empty(), "a file that ends in a certificate must be rejected if truncated");
    assert_eq!(wrong(format!("\u{feff}{half}"), &root), "", "a byte order mark");
    assert_eq!(wrong(half.replace('\n', "\r\n"), &root), "", "Windows line ends");
    assert_eq!(wrong(format!("Bag Attributes\n    friendlyName: middle\n{half}"), &root), "", "openssl's text");
}

#[test]
fn key_id_is_decimal_serial_of_its_certificate() {
    let join = |names: &[&str]| names.iter().flat_map(|name| key_file(name)).collect::<Vec<u8>>();
    let merchant = ["up_merchant.key.pem", "up_merchant.crt.pem"];
    assert_eq!(serial(&join(&merchant)).as_deref(), Some(CERT_ID));
    assert_eq!(
        serial(&join(&["up_acp_test_sign.crt.pem", "up_acp_test_sign.key.pem"])).as_deref(),
        Some("68759663125")
    );
    let with_chain = ["up_root.crt.pem", "up_middle.crt.pem", "up_merchant.crt.pem", "up_merchant.key.pem"];
    assert_eq!(serial(&join(&with_chain)).as_deref(), Some(CERT_ID));
    for unclear in [&["up_merchant.key.pem"][..], &["up_merchant.crt.pem", "up_acp.crt.pem"], &["up_root.crt.pem"]] {
        assert_eq!(serial(&join(unclear)), None, "{unclear:?}");
    }
    assert_eq!(serial(b"\xff\x00"), None);
    let signer = crate::signer::rsa::signer(CERT_ID, &join(&["up_merchant.crt.pem", "up_merchant.key.pem"]));
    assert!(signer.is_ok(), "certificate and key in one file");
}

#[test]
fn invalid_certificate_file_is_rejected() {
    assert_eq!(check(&key_file("up_root.crt.pem")), Ok(()));
    assert_eq!(check(&key_file("up_acp_test_root.cer")), Ok(()));
    for wrong in [b"".as_slice(), b"\xff", b"0", &key_file("up_acp.key.pem")] {
        assert!(check(wrong).is_err());
    }
}
