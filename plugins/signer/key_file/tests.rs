//! Key and certificate files in every form, and unsupported files. OpenSSL 3 created the files in `tests/golden/keys` from one
//! published key; their password is `123456`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

const KEY: &str = include_str!("../../../tests/golden/wechat-v3/keys/wxjava_merchant_private_key.pem");
const CERTIFICATE: &str = include_str!("../../../tests/golden/wechat-v3/keys/wxjava_merchant_certificate.pem");
const OTHER_KEY: &str = include_str!("../../../tests/golden/wechat-v3/keys/wxjava_wechat_pay_private_key.pem");
const PUBLIC: &str = include_str!("../../../tests/golden/wechat-v3/keys/wxjava_wechat_pay_public_key.pem");

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn der_of(pem: &str) -> Vec<u8> {
    STANDARD.decode(pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>()).unwrap()
}

fn wide(text: &str, order: fn(u16) -> [u8; 2], mark: bool) -> Vec<u8> {
    let mark = if mark { "\u{feff}" } else { "" };
    format!("{mark}{text}").encode_utf16().flat_map(order).collect()
}

/// Returns a block in the forms that editors, terminals and environment variables produce.
fn shapes(pem: &str) -> Vec<(&'static str, Vec<u8>)> {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let (first, rest) = pem.split_once('\n').unwrap();
    let label = first.trim_start_matches("-----BEGIN ").trim_end_matches("-----");
    let gbk = b"Bag Attributes\r\n    friendlyName: \xc9\xcc\xbb\xa7\r\nKey Attributes: <No Attributes>\r\n";
    vec![
        ("PEM", pem.into()),
        ("byte order mark", format!("\u{feff}{pem}").into()),
        ("CRLF", pem.replace('\n', "\r\n").into()),
        ("byte order mark and CRLF", format!("\u{feff}{}", pem.replace('\n', "\r\n")).into()),
        ("old Mac line ends", pem.replace('\n', "\r").into()),
        ("UTF-16", wide(pem, u16::to_le_bytes, true)),
        ("UTF-16, big end first", wide(pem, u16::to_be_bytes, true)),
        ("UTF-16 without a mark", wide(pem, u16::to_le_bytes, false)),
        ("one line", pem.replace('\n', "").into()),
        ("one line with spaces", pem.replace('\n', " ").into()),
        ("one line of base64", format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----").into()),
        ("written line ends", pem.replace('\n', "\\n").into()),
        ("indented", pem.replace('\n', "\n   ").into()),
        ("blank lines between", pem.replace('\n', "\n\n").into()),
        ("text before and behind", format!("my key:\n\n{pem}\nthat was it\n").into()),
        ("bag attributes in GBK", [&gbk[..], pem.as_bytes()].concat()),
        ("wrong line length", format!("{first}\n{}", rest.replace('\n', "").replace("-----END", "\n-----END")).into()),
        ("twice", format!("{pem}\n{pem}").into()),
        ("DER", der_of(pem)),
        ("DER with a byte order mark", [b"\xef\xbb\xbf".to_vec(), der_of(pem)].concat()),
        ("DER with a line end", [der_of(pem), b"\r\n".to_vec()].concat()),
        ("bare base64", base64.clone().into()),
        (
            "bare base64 with lines",
            pem.lines().filter(|line| !line.starts_with("-----")).collect::<Vec<_>>().join("\r\n").into(),
        ),
        ("bare base64 with a mark", format!("\u{feff}{base64}\n").into()),
        ("bare base64 in quotes", format!("\"{base64}\"").into()),
        ("bare base64 without padding", base64.trim_end_matches('=').into()),
        ("base64 of PEM", STANDARD.encode(pem).into()),
        (
            "curve parameters before",
            format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{pem}").into(),
        ),
    ]
}

fn key_of(file: &[u8], password: Password<'_>) -> PublicKey {
    let read = KeyFile::read(file, password).unwrap_or_else(|error| panic!("{error}"));
    read.private_key().unwrap_or_else(|error| panic!("{error}")).public_key().unwrap()
}

fn error_text(file: &[u8], of: fn(&KeyFile) -> Option<FileError>) -> String {
    match KeyFile::read(file, Password::Missing) {
        Err(error) => error.to_string(),
        Ok(read) => of(&read).expect("it is refused").to_string(),
    }
}

fn no_key(file: &[u8]) -> String {
    error_text(file, |read| read.private_key().err())
}

fn no_certificate(file: &[u8]) -> String {
    error_text(file, |read| read.certificates().err())
}

#[test]
fn private_key_reads_in_every_form() {
    let expected = key_of(KEY.as_bytes(), Password::Unsupported);
    let pkcs1 = KeyFile::read(KEY.as_bytes(), Password::Unsupported).unwrap();
    let pkcs1 = write_pem("RSA PRIVATE KEY", pkcs1.private_key().unwrap().rsa_pkcs1().unwrap());
    // Labels are often wrong.
    let mislabelled = KEY.replace("PRIVATE KEY", "RSA PRIVATE KEY");
    for pem in [KEY, &pkcs1, &mislabelled] {
        for (shape, file) in shapes(pem) {
            assert_eq!(key_of(&file, Password::Unsupported), expected, "{shape}");
            let again = KeyFile::read(&file, Password::Unsupported).unwrap().to_pem();
            assert_eq!(key_of(again.expose(), Password::Unsupported), expected, "{shape}");
        }
    }
}

#[test]
fn certificate_and_public_key_read_in_every_form() {
    let expected = der_of(CERTIFICATE);
    for (shape, file) in shapes(CERTIFICATE) {
        let read = KeyFile::read(&file, Password::Unsupported).unwrap_or_else(|error| panic!("{shape}: {error}"));
        let certificates = read.certificates().unwrap();
        assert_eq!((certificates.len(), &certificates[0].der), (1, &expected), "{shape}");
        assert_eq!(certificates[0].serial, "5F1C72E2A8931B72A2E13AF8DEE92471EB397115");
        assert!(read.to_pem().expose().starts_with(b"-----BEGIN CERTIFICATE-----\n"), "{shape}");
    }
    for (shape, file) in shapes(PUBLIC) {
        let read = KeyFile::read(&file, Password::Unsupported).unwrap_or_else(|error| panic!("{shape}: {error}"));
        assert_eq!(*read.public_key().unwrap(), key_of(OTHER_KEY.as_bytes(), Password::Unsupported), "{shape}");
        assert_eq!(read.to_pem().expose(), format!("{}\n", PUBLIC.trim_end()).as_bytes(), "{shape}");
    }
}

#[test]
fn encrypted_key_opens_only_with_its_password() {
    let expected = key_of(KEY.as_bytes(), Password::Unsupported);
    for name in ["encrypted_aes.pem", "encrypted_des3.pem", "encrypted_scrypt.pem", "merchant.p12", "merchant_old.p12"]
    {
        let file = golden(&format!("keys/{name}"));
        assert_eq!(key_of(&file, Password::Given(b"123456")), expected, "{name}");
        assert!(KeyFile::read(&file, Password::Given(b"123456")).unwrap().is_encrypted(), "{name}");
        let wrong = match KeyFile::read(&file, Password::Given(b"654321")) {
            Err(error) => error,
            Ok(read) => read.private_key().err().unwrap(),
        };
        assert!(wrong.message.contains("its password is another"), "{name}: {wrong}");
        assert!(no_key(&file).contains("its password is missing (add password = "), "{name}");
    }
    for name in ["merchant.p12", "merchant_old.p12"] {
        let read = KeyFile::read(&golden(&format!("keys/{name}")), Password::Given(b"123456")).unwrap();
        assert_eq!(read.certificates().unwrap()[0].der, der_of(CERTIFICATE), "{name}");
        let refused = KeyFile::read(&golden(&format!("keys/{name}")), Password::Unsupported).err().unwrap();
        assert!(refused.to_string().contains("openssl pkcs12 -in FILE -nokeys"), "{refused}");
    }
    for (name, command) in
        [("encrypted_old.pem", "openssl pkey -in KEY"), ("encrypted_pbes1.pem", "openssl pkcs8 -topk8")]
    {
        let file = golden(&format!("keys/{name}"));
        let read = KeyFile::read(&file, Password::Given(b"123456")).unwrap();
        let refused = read.private_key().err().unwrap().to_string();
        assert!(refused.contains("is encrypted") && refused.contains(command), "{name}: {refused}");
    }
    assert_eq!(key_of(&golden("keys/bag.pem"), Password::Unsupported), expected);
}

#[test]
fn unsupported_file_is_identified_and_its_content_never_repeated() {
    let ssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    let swapped = CERTIFICATE.replace("-----END CERTIFICATE-----", "-----END PRIVATE KEY-----");
    let request = golden("keys/request.pem");
    let p7b = golden("keys/merchant.p7b");
    let cut_der = &der_of(CERTIFICATE)[..500];
    let longer = [der_of(CERTIFICATE), b"garbage".to_vec()].concat();
    for (file, in_words) in [
        (b"".as_slice(), "this file is empty"),
        (b" \r\n\n", "this file is empty"),
        (CERTIFICATE.as_bytes(), "this file has no private key in it: this is a certificate"),
        (PUBLIC.as_bytes(), "this file has no private key in it: this is a public key"),
        (&request, "this is a certificate signing request (CSR)"),
        (&p7b, "this is a PKCS#7 file"),
        (ssh.as_bytes(), "OpenSSH (convert it: `ssh-keygen -p -m PKCS8"),
        (b"ssh-rsa AAAAB3NzaC1yc2E= me@here", "this is a public key in the form of SSH"),
        (b"PuTTY-User-Key-File-3: ssh-rsa", "PuTTY"),
        (b"\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\x01", "Java key store"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"{\"private_key\": \"hunter2hunter2\"}", "JSON"),
        (b"----BEGIN PRIVATE KEY----\nMIIE\n----END PRIVATE KEY----", "BEGIN line in this file is damaged"),
        (b"MIIE\n-----END PRIVATE KEY-----\n", "no BEGIN line"),
        (b"hunter2hunter2", "neither PEM nor DER"),
        (b"aGVsbG8=", "neither PEM nor DER"),
        (&KEY.as_bytes()[..600], "line 1 is cut off: it has no END line"),
        (b"-----BEGIN PRIVATE KEY", "line 1 is cut off: its BEGIN line has no end"),
        (b"-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----", "is damaged: its content is not base64"),
        (b"-----BEGIN PRIVATE KEY-----\n\n-----END PRIVATE KEY-----", "has nothing in it"),
        (
            b"-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----",
            "`BEGIN PRIVATE KEY` in line 1, is damaged",
        ),
        (swapped.as_bytes(), "ends with the END line of another one"),
        (cut_der, "the DER in this file is cut off"),
        (&longer, "this file has 7 bytes after the end of the DER"),
        (format!("{KEY}{OTHER_KEY}").as_bytes(), "this file holds 2 private keys, and exactly one is needed"),
    ] {
        let said = no_key(file);
        assert!(said.contains(in_words), "{said}\n{in_words}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    for (file, in_words) in [
        (KEY.as_bytes(), "this file has no certificate in it: this is a private key"),
        (&request, "name the certificate that the authority issued for the request"),
    ] {
        assert!(no_certificate(file).contains(in_words), "{}", no_certificate(file));
    }
    let key = KeyFile::read(KEY.as_bytes(), Password::Unsupported).unwrap();
    assert!(key.public_key().err().unwrap().message.contains("only its owner may have it"));
    assert!(key.revocation_lists().is_err());
}

#[test]
fn damaged_pem_block_is_reported_with_its_number_and_line() {
    let bundle = String::from_utf8(golden("alipay/keys/alipayRootCert.crt")).unwrap();
    assert_eq!(KeyFile::read(bundle.as_bytes(), Password::Unsupported).unwrap().certificates().unwrap().len(), 4);
    let line_of_second =
        1 + bundle.lines().enumerate().filter(|(_, line)| line.starts_with("-----BEGIN")).nth(1).unwrap().0;
    let second = bundle.match_indices("-----BEGIN").nth(1).unwrap().0;
    for (from, to) in [("\nMII", "\nM!I"), ("\nMII", "\nAAA"), ("\nMII", "\nMI")] {
        let (before, after) = bundle.split_at(second);
        let damaged = before.to_owned() + &after.replacen(from, to, 1);
        let refused = KeyFile::read(damaged.as_bytes(), Password::Unsupported).err().unwrap().to_string();
        assert!(refused.starts_with("block 2 of this file, "), "{refused}");
        assert!(refused.contains(&format!("in line {line_of_second}")), "{refused}");
    }
}

#[test]
fn leaf_certificate_comes_first_in_any_file_order() {
    let (leaf, root) = (golden("alipay/keys/ali_app.crt.pem"), golden("alipay/keys/ali_root_bundle.pem"));
    for file in [[leaf.clone(), root.clone()].concat(), [root, leaf.clone()].concat()] {
        let read = KeyFile::read(&file, Password::Unsupported).unwrap();
        let certificates = read.certificates().unwrap();
        assert_eq!(certificates.len(), 3);
        assert_eq!(certificates[0].common_name, "2088000000000001-2021000000000001");
        let written = read.authorities().unwrap().iter().map(|one| one.der.clone());
        let again = KeyFile::read(&file, Password::Unsupported).unwrap();
        assert!(written.eq(again.authorities().unwrap().iter().map(|one| one.der.clone())));
    }
    let chain = KeyFile::read(&golden("keys/chain.p12"), Password::Given(b"000000")).unwrap();
    let names: Vec<&str> = chain.certificates().unwrap().iter().map(|one| one.common_name.as_str()).collect();
    assert_eq!((names.len(), names[0]), (3, "041@Z2025-01-01@700000000000001:SIGN@00000006"));
    let bundle = KeyFile::read(&golden("alipay/keys/ali_root_bundle.pem"), Password::Unsupported).unwrap();
    assert!(bundle.authorities().unwrap()[0].is_self_issued(), "the order of roots is kept");
}

/// Each file holds the root, the certificate of an older key, the key's own certificate, and the key, in this order.
#[test]
fn leaf_certificate_of_curve_key_comes_first_in_any_file_order() {
    for (name, curve) in [
        ("p256", "P-256"),
        ("p256_sec1", "P-256"),
        ("p256_nopub", "P-256"),
        ("p384", "P-384"),
        ("p521", "P-521"),
        ("ed25519", "Ed25519"),
    ] {
        let file = golden(&format!("keys/ec_{name}.pem"));
        let read = KeyFile::read(&file, Password::Unsupported).unwrap();
        let key = read.private_key().unwrap();
        assert_eq!(key.algorithm(), KeyAlgorithm::Curve(curve), "{name}");
        let certificates = read.certificates().unwrap();
        assert_eq!(certificates.len(), 3, "{name}");
        assert!(key.public_key().is_some() && certificates[0].public_key == key.public_key(), "{name}");
    }
}

#[test]
fn pfx_in_ber_is_identified_in_binary_and_base64() {
    let ber = [&[0x30, 0x80, 0x02, 0x01, 0x03][..], &[0; 40]].concat();
    let marked = [b"\xef\xbb\xbf".to_vec(), ber.clone()].concat();
    for file in [ber.clone(), marked, STANDARD.encode(&ber).into_bytes()] {
        let said = no_key(&file);
        assert!(said.contains("BER with indefinite lengths") && said.contains("openssl pkcs12 -in FILE"), "{said}");
    }
}

#[test]
fn sm2_key_and_certificate_are_read() {
    let key = key_of(&golden("unionpay/keys/sm2_leaf.key.pem"), Password::Unsupported);
    assert_eq!(key.algorithm(), KeyAlgorithm::Sm2);
    let certificate = KeyFile::read(&golden("unionpay/keys/sm2_leaf.crt.pem"), Password::Unsupported).unwrap();
    assert_eq!(*certificate.public_key().unwrap(), key);
}

proptest! {
    #[test]
    fn arbitrary_file_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,80}", at in 0usize..2000) {
        let pem = format!("-----BEGIN {text}-----\n{}\n-----END {text}-----", STANDARD.encode(&bytes));
        let der = [&[0x30, 0x82], bytes.as_slice()].concat();
        let mut altered = KEY.as_bytes().to_vec();
        let index = at % altered.len();
        altered[index] = altered[index].wrapping_add(1);
        for file in [bytes.as_slice(), STANDARD.encode(&bytes).as_bytes(), pem.as_bytes(), text.as_bytes(), &der, &altered] {
            for password in [Password::Missing, Password::Unsupported, Password::Given(b"x")] {
                if let Ok(read) = KeyFile::read(file, password) {
                    let _ = (read.private_key().is_ok(), read.public_key().is_ok(), read.certificates().is_ok(), read.to_pem());
                }
            }
        }
    }
}
