//! Malformed messages never cause a panic.

use super::*;

fn no_panic(body: &[u8]) {
    let provider = provider();
    let _: Result<_, KeyError> = crate::signer::rsa::verifier(body);
    let message = all().remove(0).1.answer.unwrap();
    for status in [200, 401, 404] {
        let mut answer = message.response(status);
        *answer.body_mut() = Bytes::copy_from_slice(body);
        let _ = provider.merchant.read(&answer, &Keyring::default(), NOW);
    }
    let _ = provider.decode_notification(verified(body.to_vec()));
    for operation in operations() {
        for status in [200, 204, 400, 404, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            let _ = signing(|with| provider.decode(&operation, status, verified(body.to_vec()), with));
            let _ = provider.decode_unsigned_error(&operation, status, body);
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    const NAMES: &[&str] = &[
        "appid",
        "mchid",
        "out_trade_no",
        "out_refund_no",
        "trade_state",
        "status",
        "refund_status",
        "amount",
        "total",
        "refund",
        "currency",
        "code",
        "message",
        "data",
        "serial_no",
        "encrypt_certificate",
        "resource",
        "event_type",
        "original_type",
        "algorithm",
        "ciphertext",
        "nonce",
        "associated_data",
        "code_url",
        "prepay_id",
        "success_time",
    ];
    const WORDS: &[&str] = &[
        "wxd678efh567hg6787",
        "1234567891",
        NUMBER,
        "SUCCESS",
        "CNY",
        "AEAD_AES_256_GCM",
        "fdasflkja484",
        "refund",
        "transaction",
        "REFUND.SUCCESS",
        "AAAA",
        "2023-11-15T06:13:25+08:00",
        "",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(WORDS).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 12, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(NAMES), inner, 0..12)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        no_panic(&body);
    }

    #[test]
    fn arbitrary_json_never_panics(value in json_value()) {
        no_panic(value.to_string().as_bytes());
    }

    #[test]
    fn arbitrary_encrypted_content_never_panics(plain in prop::collection::vec(any::<u8>(), 0..300), value in json_value()) {
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&plain));
        for plain in [&plain, value.to_string().as_bytes(), pem.as_bytes()] {
            for (event, kind) in [("TRANSACTION.SUCCESS", "transaction"), ("REFUND.SUCCESS", "refund")] {
                let _ = provider().decode_notification(verified(envelope(event, kind, plain).to_string()));
            }
            let list = json!({"data": [{"serial_no": "1", "encrypt_certificate": sealed(plain, "certificate")}]});
            prop_assert!(provider().merchant.unseal(list.to_string().as_bytes(), NOW).is_err());
        }
    }

    #[test]
    fn arbitrary_headers_never_panic(values in prop::collection::vec(prop::collection::vec(0x20u8..=0xff, 0..40), 5)) {
        let names = ["timestamp", "nonce", "serial", "signature", "signature-type"];
        let mut headers = HeaderMap::new();
        for (name, value) in names.iter().zip(&values) {
            if let Ok(value) = http::HeaderValue::from_bytes(value) {
                headers.insert(format!("wechatpay-{name}").parse::<http::HeaderName>().unwrap(), value);
            }
        }
        prop_assert!(provider().verify(Source::Notification, &headers, Bytes::new(), &keyring(), NOW).is_err());
    }
}
