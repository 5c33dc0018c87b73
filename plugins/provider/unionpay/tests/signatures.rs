//! Published signatures, and rejection of altered messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::signature;
use super::*;
use crate::signer::rsa;

fn of_text(text: &str) -> Fields {
    fields(&text.split('&').map(|pair| pair.split_once('=').unwrap()).collect::<Vec<_>>())
}

/// Only this vector contains `&` inside a value.
fn of_vector(text: &str) -> Fields {
    let mut fields = of_text(&text.replace("{aaa=a&bbb=b}", "BRACKETS"));
    if fields.get("sysReserved").is_some() {
        fields.set("sysReserved", "{aaa=a&bbb=b}");
    }
    fields
}

#[test]
fn signature_matches_official_library() {
    let vectors = vectors();
    let text = |name: &str, field: &str| vectors[name][field].as_str().unwrap().to_owned();
    for (name, key, cert_id) in [
        ("acp510_rsa", "up_acp_test_sign.key.pem", "68759663125"),
        ("consume_01_testcert", "up_acp_test_sign.key.pem", "68759663125"),
        ("consume_01_official_java", "up_merchant.key.pem", CERT_ID),
    ] {
        let signer = rsa::signer(cert_id, &key_file(key)).unwrap();
        let unsigned = with(of_vector(&text(name, "text")), "certId", "");
        let signed = signature::Method::Rsa(chain()).sign(&unsigned, &*signer).unwrap();
        assert_eq!(signed.signed_text(), text(name, "text"), "{name}");
        assert_eq!(signed.get(SIGNATURE).unwrap(), text(name, "signature"), "{name}");
    }
    for (name, method) in [
        ("acp510_11", signature::Method::sha256(b"")),
        ("acp510_12", signature::Method::sm3(b"")),
        ("consume_11", signature::Method::sha256(b"88888888")),
        ("consume_12", signature::Method::sm3(b"88888888")),
    ] {
        let signed = method.sign(&of_vector(&text(name, "text")), &*crate::signer::none()).unwrap();
        assert_eq!(signed.signed_text(), text(name, "text"), "{name}");
        assert_eq!(signed.get(SIGNATURE).unwrap(), text(name, "signature"), "{name}");
        assert_eq!(method.verify(&signed, NOW), Ok("secure_key".to_owned()), "{name}");
    }
}

#[test]
fn official_notification_is_accepted() {
    let vectors = vectors();
    let body = vectors["notification_01_official_java"]["form_body"].as_str().unwrap();
    let verify =
        |now| provider().verify(Source::Notification, &HeaderMap::new(), body.to_owned().into(), &no_keys(), now);
    assert_eq!(verify(NOW).unwrap().key_id(), "69026276697");
    assert!(verify(NOW - 86400).is_err() && verify(0).is_err() && verify(u64::MAX).is_err());
}

fn assert_any_bit_flip_is_rejected(provider: &UnionPay, source: Source, body: &[u8], now: u64) {
    let accepted =
        |body: &[u8]| provider.verify(source, &HeaderMap::new(), Bytes::copy_from_slice(body), &no_keys(), now).is_ok();
    assert!(accepted(body));
    for at in 0..body.len() {
        let mut altered = body.to_vec();
        altered[at] ^= 1;
        assert!(!accepted(&altered), "byte {at}");
    }
    for more in [b"x".as_slice(), b"&x", b"&respCode=00", b"&x=1"] {
        assert!(!accepted(&[body, more].concat()));
    }
    assert!(!accepted(&body[..body.len() - 1]));
}

#[test]
fn any_altered_byte_is_rejected() {
    for (name, golden) in super::super::super::golden::all(&folder()) {
        if !["query", "query-open", "pay-qr", "notification-official", "notification-refund"].contains(&name.as_str()) {
            continue;
        }
        let source = if golden.answer.is_some() { Source::Answer } else { Source::Notification };
        let message = golden.answer.or(golden.notification).unwrap();
        assert_any_bit_flip_is_rejected(&provider(), source, message.body.as_bytes(), NOW);
    }
}

#[test]
fn any_altered_byte_is_rejected_with_every_method_and_codec() {
    let nobody = crate::signer::none();
    for make in [signature::Method::sha256 as fn(&[u8]) -> signature::Method, signature::Method::sm3] {
        let signed = make(b"88888888").sign(&answer_fields("00"), &*nobody).unwrap();
        for codec in [Codec::Form, Codec::Json] {
            let provider = UnionPay(account(make(b"88888888"), codec));
            let body = match codec {
                Codec::Form => answer_body(signed.clone()).into_bytes(),
                Codec::Json => signed.write(codec).unwrap(),
            };
            assert_any_bit_flip_is_rejected(&provider, Source::Answer, &body, NOW);
            assert_any_bit_flip_is_rejected(&provider, Source::Notification, &signed.write(codec).unwrap(), NOW);
        }
        let other = UnionPay(account(make(b"88888889"), Codec::Form));
        let body = answer_body(signed).into();
        assert!(other.verify(Source::Answer, &HeaderMap::new(), body, &no_keys(), NOW).is_err());
    }
}

#[test]
fn sm2_signature_is_made_and_verified() {
    let signer = sm2_signer();
    let provider = UnionPay(account(signature::Method::Sm2(sm2_chain()), Codec::Form));
    let sent = provider.0.method.sign(&answer_fields("00"), &*signer).unwrap();
    assert_eq!((sent.get("signMethod"), sent.get("certId")), (Some("21"), Some(SM2_CERT_ID)));
    assert_eq!(STANDARD.decode(sent.get(SIGNATURE).unwrap()).unwrap().len(), 64);
    let answer = signed_with_sm2(with(answer_fields("00"), "signMethod", "21"));
    let verify = |fields: &Fields| {
        let body = answer_body(fields.clone()).into();
        provider
            .verify(Source::Answer, &HeaderMap::new(), body, &no_keys(), LATER)
            .map(|verified| verified.key_id().to_owned())
    };
    assert_eq!(verify(&answer), Ok(SM2_CERT_ID.to_owned()));
    for (name, value) in [("respCode", "05"), ("signMethod", "01"), (SIGNATURE, "AAAA"), ("x", "1")] {
        assert!(verify(&with(answer.clone(), name, value)).is_err(), "{name}");
    }
}

#[test]
fn invalid_signature_error_names_the_cause() {
    let verify = |fields: &Fields| {
        let body = answer_body(fields.clone()).into();
        provider().verify(Source::Answer, &HeaderMap::new(), body, &no_keys(), NOW).map(drop)
    };
    let right = signed_by_unionpay(with(answer_fields("00"), "signMethod", "01"));
    assert_eq!(verify(&right), Ok(()));
    let wrong = |name, value| verify(&with(right.clone(), name, value)).unwrap_err();
    assert_eq!(wrong(SIGNATURE, ""), BadSignature::Missing);
    assert_eq!(wrong("signMethod", "11"), BadSignature::Wrong("`signMethod` differs from the account's"));
    assert_eq!(wrong("encoding", "GBK"), BadSignature::Wrong("`encoding` is not UTF-8"));
    assert_eq!(wrong("signPubKeyCert", ""), BadSignature::Wrong("`signPubKeyCert` is missing"));
    assert_eq!(wrong(SIGNATURE, "a b"), BadSignature::Wrong("not base64"));
    let other = BadSignature::Wrong("not over these fields, or not by that key");
    assert_eq!((wrong(SIGNATURE, "AAAA"), wrong("txnAmt", "6801")), (other.clone(), other));
    for form in ["UTF-8", "utf-8"] {
        assert_eq!(
            verify(&signed_by_unionpay(with(with(answer_fields("00"), "signMethod", "01"), "encoding", form))),
            Ok(())
        );
    }
    let unreadable = provider().verify(Source::Answer, &HeaderMap::new(), Bytes::from("<html>"), &no_keys(), NOW);
    assert!(matches!(unreadable, Err(BadSignature::Wrong(_))));
}

/// Two signed texts may be equal though their fields differ. Such a form is rejected, even with a valid signature.
#[test]
fn field_hidden_in_another_field_is_rejected() {
    let right = signed_by_unionpay(with(answer_fields("00"), "signMethod", "01"));
    let text = right.signed_text();
    let (head, tail) = text.split_once("&orderId=").unwrap();
    let (name, value) = head.split_once('=').unwrap();
    let mut folded = fields(&[(name, &format!("{value}&orderId={tail}"))]);
    for field in ["signature", "signMethod", "signPubKeyCert"] {
        folded.set(field, right.get(field).unwrap());
    }
    let body = folded.write(Codec::Form).unwrap().into();
    assert!(provider().verify(Source::Notification, &HeaderMap::new(), body, &no_keys(), NOW).is_err());
}
