use super::*;

fn key_file(name: &str) -> Vec<u8> {
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/unionpay/keys");
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
fn published_signature_verifies_and_altered_one_is_rejected() {
    let point = hex::decode("04185c07a63d5aad45d16b6fff590ad70e0e9a8d69d59a18cb57741144a1b07b13f9a3bc0c8b56cf6a919b84ed5687a2c11fd46ebbf98f3f06543f5cd7ac581123").unwrap();
    let signature = hex::decode("a97012e707ed448efe8a4d65746c52777f43e495fe0206fc628968596240a113060b11cc9e58c38e73fe92682517376a08f5ae1312e63b8d252fc6453e2e8955").unwrap();
    let verifier = verifier_for("12345", &point).unwrap();
    assert!(verifier.verify(b"abc", &signature));
    assert!(!verifier.verify(b"abd", &signature));
    assert!(!verifier_for("12346", &point).unwrap().verify(b"abc", &signature), "the user id is covered");
    for at in 0..signature.len() {
        let mut altered = signature.clone();
        altered[at] ^= 1;
        assert!(!verifier.verify(b"abc", &altered), "byte {at}");
    }
    for wrong in [&signature[..63], &[], &[0; 64], &[0xff; 64]] {
        assert!(!verifier.verify(b"abc", wrong));
    }
    assert!(verifier_for("1", &point[..64]).is_err() && verifier_for("1", &[4; 65]).is_err());
}

#[test]
fn private_key_is_read_with_and_without_its_certificate() {
    let (key, certificate) = (key_file("sm2_leaf.key.pem"), key_file("sm2_leaf.crt.pem"));
    let both = [certificate.as_slice(), key.as_slice()].concat();
    for file in [&key, &both] {
        let signer = signer(DEFAULT_USER_ID, file).unwrap();
        assert_eq!(signer.key_id(), DEFAULT_USER_ID);
        let signature = signer.sign(b"abc").unwrap();
        assert!(verifier(&certificate).unwrap().verify(b"abc", &signature));
        assert_eq!(signer.sign(b"abc").unwrap(), signature, "the same message, the same signature");
    }
    for wrong in [b"".as_slice(), b"\xff", &certificate, &key_file("up_merchant.key.pem")] {
        assert!(signer("1", wrong).is_err());
    }
    for wrong in [b"".as_slice(), b"\xff", &key, &key_file("up_merchant.crt.pem")] {
        assert!(verifier(wrong).is_err());
    }
}
