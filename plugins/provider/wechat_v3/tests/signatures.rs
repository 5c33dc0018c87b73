//! Signature checks of answers and notifications.

use super::*;

#[test]
fn any_altered_byte_is_rejected() {
    let (provider, keys) = (provider(), keyring());
    for (name, golden) in all() {
        let message = golden.answer.or(golden.notification).unwrap();
        let headers = message.header_map();
        let refused = |headers: &HeaderMap, body: &[u8]| {
            if name == "certificates" {
                let mut answer = Response::new(Bytes::copy_from_slice(body));
                *answer.headers_mut() = headers.clone();
                provider.merchant.read(&answer, &keys, NOW).is_err()
            } else {
                provider.verify(Source::Answer, headers, Bytes::copy_from_slice(body), &keys, NOW).is_err()
            }
        };
        let body = message.body.as_bytes();
        assert!(!refused(&headers, body), "{name}");
        for at in 0..body.len() {
            let mut changed = body.to_vec();
            changed[at] ^= 1;
            assert!(refused(&headers, &changed), "{name}: body byte {at}");
        }
        assert!(refused(&headers, &[body, b" "].concat()), "{name}: a byte more");
        for (field, value) in message.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())) {
            for at in 0..value.len() {
                let mut changed = value.to_vec();
                changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
                let mut headers = headers.clone();
                headers.insert(field.parse::<http::HeaderName>().unwrap(), changed.as_slice().try_into().unwrap());
                assert!(refused(&headers, body), "{name}: {field} byte {at}");
            }
        }
    }
}

fn verify_with(change: impl Fn(&mut HeaderMap), keys: &Keyring, now: u64) -> Result<String, BadSignature> {
    let (_, golden) = all().into_iter().find(|(name, _)| name == "pay-native").unwrap();
    let message = golden.answer.unwrap();
    let mut headers = message.header_map();
    change(&mut headers);
    let verified = provider().verify(Source::Notification, &headers, message.body.clone().into(), keys, now)?;
    assert_eq!(verified.bytes(), message.body.as_bytes());
    Ok(verified.key_id().to_owned())
}

#[test]
fn missing_or_duplicate_header_is_rejected_with_cause() {
    let keys = keyring();
    let set = |name: &'static str, value: &'static str| {
        move |headers: &mut HeaderMap| {
            headers.insert(name, value.parse().unwrap());
        }
    };
    let check = |change: &dyn Fn(&mut HeaderMap), now| verify_with(change, &keys, now);
    assert_eq!(check(&|_| {}, NOW), Ok(CERTIFICATE.to_owned()));
    assert_eq!(check(&|headers| headers.clear(), NOW), Err(BadSignature::Missing));
    for name in ["wechatpay-timestamp", "wechatpay-nonce", "wechatpay-serial", "wechatpay-signature"] {
        let removed = check(&|headers| drop(headers.remove(name)), NOW);
        assert_eq!(removed, Err(BadSignature::Wrong("a signature header is missing")), "{name}");
        let twice = |headers: &mut HeaderMap| {
            let value = headers[name].clone();
            headers.append(name, value);
        };
        assert_eq!(check(&twice, NOW), Err(BadSignature::Wrong("a signature header is duplicated")), "{name}");
        let binary =
            |headers: &mut HeaderMap| drop(headers.insert(name, http::HeaderValue::from_bytes(b"\xff").unwrap()));
        assert!(matches!(check(&binary, NOW), Err(BadSignature::Wrong(_))), "{name}");
    }
    for (now, fresh) in
        [(NOW - 300, false), (NOW - 299, true), (NOW + 299, true), (NOW + 300, false), (u64::MAX, false)]
    {
        assert_eq!(check(&|_| {}, now).is_ok(), fresh, "{now}");
    }
    assert_eq!(check(&|_| {}, NOW + 300), Err(BadSignature::Stale));
    let probe = set("wechatpay-signature", "WECHATPAY/SIGNTEST/abcd");
    assert_eq!(
        check(&|headers| (probe(headers), set("wechatpay-serial", "77")(headers)).0, NOW),
        Err(BadSignature::Probe)
    );
    let sm2 = set("wechatpay-signature-type", "WECHATPAY2-SM2-WITH-SM3");
    assert_eq!(check(&sm2, NOW), Err(BadSignature::Wrong("unknown signature type")));
    assert!(check(&|headers| drop(headers.remove("wechatpay-signature-type")), NOW).is_ok());
    assert_eq!(check(&set("wechatpay-serial", "77"), NOW), Err(BadSignature::UnknownKey("77".to_owned())));
    for bad in ["", "-1", "1.7e9", "99999999999999999999"] {
        assert_eq!(
            check(&set("wechatpay-timestamp", bad), NOW),
            Err(BadSignature::Wrong("the timestamp is not a number"))
        );
    }
    assert_eq!(check(&set("wechatpay-signature", "a b"), NOW), Err(BadSignature::Wrong("not base64")));
}

#[test]
fn key_is_found_by_serial_or_public_key_id() {
    let verifier = keyring().iter().next().unwrap().verifier.clone();
    let named =
        |id: &str, not_after| Keyring::new(vec![Key { id: id.to_owned(), verifier: verifier.clone(), not_after }]);
    let serial = |serial: &str, keys: &Keyring| {
        verify_with(|headers| drop(headers.insert("wechatpay-serial", serial.parse().unwrap())), keys, NOW).is_ok()
    };
    let lower = CERTIFICATE.to_lowercase();
    assert!(serial(&lower, &named(CERTIFICATE, None)) && serial(CERTIFICATE, &named(&lower, None)));
    assert!(serial(&format!("00{CERTIFICATE}"), &named(CERTIFICATE, None)));
    assert!(serial(CERTIFICATE, &named(&format!("0{CERTIFICATE}"), None)));
    assert!(serial(PUBLIC_KEY, &named(PUBLIC_KEY, None)));
    assert!(!serial(&PUBLIC_KEY.to_lowercase(), &named(PUBLIC_KEY, None)));
    assert!(!serial(PUBLIC_KEY, &named(&format!("{PUBLIC_KEY}0"), None)));
    assert!(!serial("0", &named("", None)) && !serial("", &named("", None)));
    assert!(serial(CERTIFICATE, &named(CERTIFICATE, Some(NOW))));
    assert!(!serial(CERTIFICATE, &named(CERTIFICATE, Some(NOW - 1))));
    let renewed =
        Keyring::new([Some(NOW - 1), None].map(|end| named(CERTIFICATE, end).iter().next().unwrap().clone()).into());
    assert!(serial(CERTIFICATE, &renewed), "an expired key does not hide a valid one of the same name");
}
