//! Signature checks of answers and notifications.

use super::*;

fn verify(source: Source, body: impl Into<Bytes>, keys: &Keyring) -> Result<Verified, BadSignature> {
    provider().verify(source, &HeaderMap::new(), body.into(), keys, NOW)
}

/// Verifies and decodes an answer or a notification.
fn accepted(golden: &super::super::super::golden::Golden, body: &[u8]) -> Option<String> {
    let body = Bytes::copy_from_slice(body);
    match &golden.operation {
        None => {
            let verified = verify(Source::Notification, body, &keyring()).ok()?;
            provider().decode_notification(verified).ok().map(|event| format!("{event:?}"))
        }
        Some(asked) => {
            let verified = verify(Source::Answer, body, &keyring()).ok()?;
            let operation = asked.operation();
            let outcome = signing(|with| provider().decode(&operation, StatusCode::OK, verified, with));
            outcome.ok().map(|outcome| format!("{outcome:?}"))
        }
    }
}

#[test]
fn any_altered_byte_is_rejected() {
    for (name, golden) in all() {
        let Some(message) = golden.answer.clone().or(golden.notification.clone()) else { continue };
        if golden.error.is_some() {
            continue;
        }
        let body = message.body.as_bytes();
        assert!(accepted(&golden, body).is_some(), "{name}");
        for at in 0..body.len() {
            for bit in [1, 4] {
                let mut changed = body.to_vec();
                changed[at] ^= bit;
                assert_eq!(accepted(&golden, &changed), None, "{name}: byte {at}");
            }
        }
        assert_eq!(accepted(&golden, &body[..body.len() - 1]), None, "{name}: a byte less");
        assert_eq!(
            accepted(&golden, &[body, b"&"].concat()).is_some(),
            golden.operation.is_none(),
            "{name}: nothing more"
        );
        assert_eq!(accepted(&golden, &[body, b"&x=1"].concat()), None, "{name}: a parameter more");
    }
}

#[test]
fn published_answers_and_notification_are_accepted() {
    let vectors = vectors();
    for name in ["response", "response_encrypted"] {
        assert!(
            verify(Source::Answer, vectors[name]["body"].as_str().unwrap().to_owned(), &keyring()).is_ok(),
            "{name}"
        );
    }
    let body = vectors["notification"]["body"].as_str().unwrap();
    let text = form::text(&read(body.as_bytes()), &["sign", "sign_type"]);
    assert_eq!(text, vectors["notification"]["verify_text"].as_str().unwrap());
    assert!(verify(Source::Notification, body.to_owned(), &keyring()).is_ok());
    assert!(verify(Source::Notification, body.replace("RSA2", "RSA"), &keyring()).is_err());
    assert!(verify(Source::Notification, body.replace("&sign_type=RSA2", ""), &keyring()).is_err());
}

#[test]
fn signed_text_is_located_whatever_its_content() {
    for content in [
        r#"{"code":"10000","a":"}\"}","sign":"x","b":{"c":[{"d_response":"{"}]}}"#,
        r#"{ "code" : "10000" , "a":"\/\u4e2d\\" }"#,
        r#""quoted""#,
        "5",
    ] {
        let body = answered("alipay_trade_query_response", content);
        assert!(verify(Source::Answer, body.clone(), &keyring()).is_ok(), "{content}");
        let (_, sign) = body.rsplit_once(",\"sign\":").unwrap();
        let turned =
            format!("\r\n{{ \"sign\" : {} , \"alipay_trade_query_response\"\t: {content} }} ", &sign[..sign.len() - 1]);
        assert!(verify(Source::Answer, turned, &keyring()).is_ok(), "{content}");
    }
    let body = answered("alipay_trade_query_response", "{}");
    let refused = |body: String| verify(Source::Answer, body, &keyring()).unwrap_err();
    for twice in ["\"sign\":\"\",", "\"alipay_trade_query_response\":{},", "\"error_response\":{},", "\"sign\":5,"] {
        assert_eq!(refused(body.replacen('{', &format!("{{{twice}"), 1)), BadSignature::Missing, "{twice}");
    }
    assert!(
        verify(Source::Answer, body.replacen('{', "{\"new\":1,", 1), &keyring()).is_ok(),
        "a new member is none of ours"
    );
    for body in ["", "{}", "[]", "{\"sign\":\"AAAA\"}", "{\"a_response\":{}}", "<html>"] {
        assert_eq!(refused(body.to_owned()), BadSignature::Missing, "{body}");
    }
    assert_eq!(refused("{\"a_response\":{},\"sign\":\"!\"}".to_owned()), BadSignature::Wrong("not base64"));
    assert_eq!(verify(Source::Notification, "a=1", &keyring()).unwrap_err(), BadSignature::Missing);
    for body in ["a=1&a=1&sign=AAAA", "a&sign=AAAA", "a=%ff&sign=AAAA", "%ff=a&sign=AAAA"] {
        assert!(matches!(verify(Source::Notification, body, &keyring()), Err(BadSignature::Wrong(_))), "{body}");
    }
}

/// The signed text of a form escapes nothing, so it is the same if a field is hidden in the value or name of another
/// one.
#[test]
fn field_hidden_in_another_field_is_rejected() {
    let whole = "app_id=2021000000000001&gmt_create=2023-11-15+06%3A13%3A21&gmt_refund=2023-11-15+06%3A20%3A00&notify_type=trade_status_sync\
                 &out_trade_no=1&receipt_amount=68.00&refund_fee=3.00&sign_type=RSA2&subject=a%26b%3Dc&total_amount=68.00&trade_no=42\
                 &trade_status=TRADE_SUCCESS";
    let whole = read(notified(whole).as_bytes());
    let said = |params: &Fields| {
        assert_eq!(form::text(params, &["sign", "sign_type"]), form::text(&whole, &["sign", "sign_type"]));
        verify(Source::Notification, form::write(params), &keyring()).map(drop)
    };
    assert_eq!(said(&whole), Ok(()), "a value that hides no field may contain any character");
    for (name, before) in [("gmt_refund", "gmt_create"), ("refund_fee", "receipt_amount")] {
        let mut folded = whole.clone();
        let value = folded.remove(name).unwrap();
        folded.get_mut(before).unwrap().push_str(&format!("&{name}={value}"));
        assert!(said(&folded).is_err(), "{name} in a value");
        let mut folded = whole.clone();
        let (value, first) = (folded.remove(name).unwrap(), folded.remove(before).unwrap());
        folded.insert(format!("{before}={first}&{name}"), value);
        assert!(said(&folded).is_err(), "{name} in a name");
    }
}

#[test]
fn named_certificate_is_the_only_key_tried() {
    let certificate = key("ali_alipay.crt.pem");
    let id = certificate.id.clone();
    let named = |id: &str| {
        answered("alipay_trade_query_response", "{}").replacen('{', &format!("{{\"alipay_cert_sn\":\"{id}\","), 1)
    };
    let ring = |keys: &[&Key]| Keyring::new(keys.iter().map(|key| (*key).clone()).collect());
    let both = ring(&[&key("ali_app.crt.pem"), &certificate]);
    assert_eq!(verify(Source::Answer, named(&id), &both).unwrap().key_id(), id);
    assert_eq!(verify(Source::Answer, named("0"), &both).unwrap_err(), BadSignature::UnknownKey("0".to_owned()));
    let other = key("ali_app.crt.pem");
    assert!(matches!(verify(Source::Answer, named(&other.id), &both), Err(BadSignature::Wrong(_))));
    let ended = |end| Key { not_after: Some(end), ..certificate.clone() };
    assert!(verify(Source::Answer, named(&id), &ring(&[&ended(NOW)])).is_ok());
    assert_eq!(
        verify(Source::Answer, named(&id), &ring(&[&ended(NOW - 1)])).unwrap_err(),
        BadSignature::UnknownKey(id.clone())
    );
    assert!(verify(Source::Answer, named(&id), &ring(&[&ended(NOW - 1), &certificate])).is_ok());
    assert!(verify(Source::Answer, named(&id), &Keyring::default()).is_err());
    // Notifications that name their certificate, with the serial number in the signed text or not.
    for signed in ["", "&alipay_cert_sn="] {
        let id = if signed.is_empty() { "" } else { id.as_str() };
        let mut body = notified(&format!("app_id=1&sign_type=RSA2{signed}{id}"));
        if signed.is_empty() {
            body = format!("{body}&alipay_cert_sn={}", certificate.id);
        }
        assert!(verify(Source::Notification, body, &both).is_ok());
    }
}
