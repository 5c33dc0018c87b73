//! Comparison with the implementation of the crate `rsa`, and all formats of key files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rsa::pkcs1::{DecodeRsaPrivateKey, EncodeRsaPrivateKey, EncodeRsaPublicKey};
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::signature::{SignatureEncoding, Signer as _, Verifier as _};
use rsa::traits::PublicKeyParts;
use serde_json::Value;

use super::*;

const PRIVATE: &str = include_str!("../../../tests/golden/wechat-v3/keys/wxjava_merchant_private_key.pem");
const CERTIFICATE: &str = include_str!("../../../tests/golden/wechat-v3/keys/wxjava_merchant_certificate.pem");

fn reference() -> rsa::PrivateKey {
    rsa::PrivateKey::from_pkcs8_pem(PRIVATE).unwrap()
}

fn error_of<T>(result: Result<T, KeyError>) -> String {
    result.err().unwrap().to_string()
}

fn base64_of(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
}

fn generated(bits: usize) -> rsa::PrivateKey {
    rsa::PrivateKey::new(&mut rsa::rand_core::UnwrapErr(getrandom::SysRng), bits).unwrap()
}

#[test]
fn signatures_equal_published_vectors() {
    let vectors: Value = serde_json::from_str(include_str!("../../../tests/golden/wechat-v3/vectors.json")).unwrap();
    let signer = signer("5F1C", PRIVATE.as_bytes()).unwrap();
    let verifier = verifier(CERTIFICATE.as_bytes()).unwrap();
    for (name, text) in [
        ("rsa_message", "text"),
        ("request_post_native", "sign_text"),
        ("request_get_query", "sign_text"),
        ("paysign_jsapi", "text"),
        ("paysign_app", "text"),
    ] {
        let message = vectors[name][text].as_str().unwrap().as_bytes();
        let expected = vectors[name]["signature"].as_str().unwrap();
        assert_eq!(STANDARD.encode(signer.sign(message).unwrap()), expected, "{name}");
        assert!(verifier.verify(message, &STANDARD.decode(expected).unwrap()), "{name}");
    }
}

#[test]
fn signatures_of_both_implementations_are_equal() {
    for bits in [2048, 3072] {
        let key = generated(bits);
        let theirs = rsa::pkcs1v15::SigningKey::<rsa::sha2::Sha256>::new(key.clone());
        let ours = signer("k", key.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes()).unwrap();
        assert_eq!(ours.is_slow(), bits > 2048);
        for length in (0..200).chain([255, 256, 1000, 65_536]) {
            let message: Vec<u8> = (0..length).map(|i| (i * 31 + length) as u8).collect();
            assert_eq!(ours.sign(&message).unwrap(), theirs.sign(&message).to_vec(), "{bits} bits, {length} bytes");
        }
    }
}

#[test]
fn each_implementation_verifies_the_others_signature_and_rejects_any_changed_byte() {
    let key = reference();
    let ours = signer("k", PRIVATE.as_bytes()).unwrap();
    let check = verifier(CERTIFICATE.as_bytes()).unwrap();
    let theirs = rsa::pkcs1v15::VerifyingKey::<rsa::sha2::Sha256>::new(key.to_public_key());
    let message = "测试 message".as_bytes();
    let signature = ours.sign(message).unwrap();
    assert!(theirs.verify(message, &signature.as_slice().try_into().unwrap()).is_ok());
    assert!(check.verify(message, &signature));
    for at in 0..message.len() {
        let mut changed = message.to_vec();
        changed[at] ^= 1;
        assert!(!check.verify(&changed, &signature), "message byte {at}");
    }
    for at in 0..signature.len() {
        let mut changed = signature.clone();
        changed[at] ^= 1;
        assert!(!check.verify(message, &changed), "signature byte {at}");
    }
    for wrong in [&signature[..255], &[&signature[..], &[0]].concat(), &[]] {
        assert!(!check.verify(message, wrong));
    }
}

#[test]
fn private_key_reads_from_every_format() {
    let key = reference();
    let pkcs1 = key.to_pkcs1_pem(LineEnding::LF).unwrap().to_string();
    let expected = signer("k", PRIVATE.as_bytes()).unwrap().sign(b"x").unwrap();
    let unwrapped = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", base64_of(PRIVATE));
    let files = [
        pkcs1.clone(),
        base64_of(PRIVATE),
        base64_of(&pkcs1),
        PRIVATE.replace('\n', "\r\n"),
        format!("Bag Attributes\n  friendlyName: x\n{PRIVATE}\n{CERTIFICATE}"),
        format!("\u{feff}{}\n", base64_of(PRIVATE)),
        unwrapped,
    ];
    for file in files.iter().map(String::as_bytes).chain([key.to_pkcs8_der().unwrap().as_bytes()]) {
        let read = signer("7132D72A", file).unwrap();
        assert_eq!(read.sign(b"x").unwrap(), expected);
        assert_eq!(read.key_id(), "7132D72A");
        assert!(!read.is_slow());
    }
}

#[test]
fn public_key_reads_from_every_format() {
    let key = reference().to_public_key();
    let signature = signer("k", PRIVATE.as_bytes()).unwrap().sign(b"x").unwrap();
    let spki = key.to_public_key_pem(LineEnding::LF).unwrap();
    let pkcs1 = key.to_pkcs1_pem(LineEnding::LF).unwrap();
    let files = [&spki, &pkcs1, CERTIFICATE, &base64_of(&spki), &base64_of(&pkcs1), &base64_of(CERTIFICATE)];
    let der = STANDARD.decode(base64_of(CERTIFICATE)).unwrap();
    for file in files.into_iter().map(str::as_bytes).chain([der.as_slice()]) {
        assert!(verifier(file).unwrap().verify(b"x", &signature));
    }
}

#[test]
fn key_size_outside_the_range_is_rejected_and_named() {
    let small = generated(1024);
    let said = error_of(signer("k", small.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes()));
    assert_eq!(said, "the RSA key has 1024 bits; from 2048 to 4096 are taken");
    assert_eq!(error_of(verifier(small.to_public_key().to_public_key_pem(LineEnding::LF).unwrap().as_bytes())), said);

    let big = KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa8192).unwrap();
    let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&big).unwrap();
    assert!(error_of(signer("k", der.as_ref())).contains("8192 bits"));

    let slow = KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa4096).unwrap();
    let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&slow).unwrap();
    assert!(signer("k", der.as_ref()).unwrap().is_slow());
}

#[test]
fn damaged_private_key_is_rejected() {
    let mut damaged = reference().to_pkcs8_der().unwrap().as_bytes().to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    assert!(error_of(signer("k", &damaged)).contains("damaged"));
}

/// A constant, because `rsa` does not generate keys of this length.
const KEY_OF_512_BITS: &str = "\
-----BEGIN PRIVATE KEY-----
MIIBUwIBADANBgkqhkiG9w0BAQEFAASCAT0wggE5AgEAAkEAsc6bUJmW0S+FUmgi
koazfpPC9vCSoa3TVZxiNZMJsCVcr3J2mpz4rW41ecMsq95A6Rkmeua/z9BfTKjV
6HK8JwIDAQABAkBozxegSBitj+xvqfCPHJWbjDAFbcORSCxlr3v4hobUbAYDgmUT
HGZuqRcbTex8ikHIrTAai055TgDUtfKvLo6ZAiEA2hlru/UszGCIvxOscyPU6q+C
w94krvCdXHKHOgOPS6UCIQDQtLSm+y3hrPEWYxYtFHJlX8+fUn7S2PrrxddrVrIO
2wIgO/3gF4yCLRmko8KanfVOPNvYQV5agtBmyKYsMjYGdY0CIBsMsLVLrMCpF34d
TYx+L+1vo4s0t/c/5BWWyLrCu8UtAiByGDeRA4znc9QQ2r9dzAVdJMnA9jnHokqV
qQEonYivOQ==
-----END PRIVATE KEY-----";

#[test]
fn key_of_1024_bits_is_accepted_only_for_sha1() {
    let small = generated(1024);
    let private = small.to_pkcs8_pem(LineEnding::LF).unwrap();
    let public = small.to_public_key().to_public_key_pem(LineEnding::LF).unwrap();
    let signature = sha1::signer("k", private.as_bytes()).unwrap().sign(b"x").unwrap();
    assert!(sha1::verifier(public.as_bytes()).unwrap().verify(b"x", &signature));
    assert!(!sha1::verifier(public.as_bytes()).unwrap().verify(b"y", &signature));
    assert!(signer("k", private.as_bytes()).is_err() && verifier(public.as_bytes()).is_err());
    let said = error_of(sha1::signer("k", KEY_OF_512_BITS.as_bytes()));
    assert_eq!(said, "the RSA key has 512 bits; from 1024 to 4096 are taken");
}

#[test]
fn key_of_another_algorithm_is_named() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/unionpay/keys/");
    let key = std::fs::read(format!("{folder}sm2_leaf.key.pem")).unwrap();
    let certificate = std::fs::read(format!("{folder}sm2_leaf.crt.pem")).unwrap();
    for said in [error_of(signer("k", &key)), error_of(verifier(&certificate))] {
        assert!(said.ends_with("of another algorithm: SM2"), "{said}");
    }
}

#[test]
fn test_key_files_form_a_pair() {
    let wechat = |name: &str| {
        std::fs::read_to_string(format!("{}/../tests/golden/wechat-v3/keys/{name}.pem", env!("CARGO_MANIFEST_DIR")))
            .unwrap()
    };
    let private = rsa::PrivateKey::from_pkcs8_pem(&wechat("wxjava_wechat_pay_private_key")).unwrap();
    let public = rsa::PublicKey::from_public_key_pem(&wechat("wxjava_wechat_pay_public_key")).unwrap();
    assert_eq!(private.n(), public.n());
    assert!(rsa::PrivateKey::from_pkcs1_pem(PRIVATE).is_err());
}

proptest! {
    #[test]
    fn arbitrary_file_is_rejected_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,80}") {
        let pem = format!("-----BEGIN {text}-----\n{}\n-----END {text}-----", STANDARD.encode(&bytes));
        for file in [bytes.as_slice(), STANDARD.encode(&bytes).as_bytes(), pem.as_bytes(), text.as_bytes()] {
            prop_assert!(signer("k", file).is_err());
            prop_assert!(verifier(file).is_err());
        }
    }
}
