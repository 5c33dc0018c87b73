//! Malformed messages: no panic, and nothing unsigned is accepted.

use super::*;

fn providers() -> [UnionPay; 3] {
    use super::super::signature::Method;
    let json = UnionPay(account(Method::sm3(b"k"), Codec::Json));
    [provider(), UnionPay(account(Method::sha256(b"k"), Codec::Form)), json]
}

fn assert_rejected_without_panic(body: &[u8]) {
    for provider in providers() {
        for source in [Source::Answer, Source::Notification] {
            let bytes = Bytes::copy_from_slice(body);
            assert!(provider.verify(source, &HeaderMap::new(), bytes, &no_keys(), NOW).is_err());
        }
        let _ = provider.decode_notification(Verified::assertion(Bytes::from(body.to_vec()), "k"));
        for operation in operations() {
            let reply = Verified::assertion(Bytes::from(body.to_vec()), "k");
            let _ = signing(|with| provider.decode(&operation, StatusCode::OK, reply, with));
            let _ = provider.decode_unsigned_error(&operation, StatusCode::BAD_REQUEST, body);
        }
    }
    let _ = (SPEC.key_id)(body);
    let _ = super::super::chain::check(body);
}

fn message() -> impl Strategy<Value = Fields> {
    const NAMES: &[&str] = &[
        "merId",
        "orderId",
        "txnTime",
        "txnAmt",
        "currencyCode",
        "txnType",
        "respCode",
        "respMsg",
        "origRespCode",
        "signature",
        "signMethod",
        "signPubKeyCert",
        "encoding",
        "reqReserved",
        "traceTime",
        "queryId",
        "tn",
        "qrCode",
        "origQryId",
    ];
    const VALUES: &[&str] = &[
        MER_ID,
        NUMBER,
        REFUND_NUMBER,
        ORDERED_TEXT,
        "6800",
        "300",
        "156",
        "01",
        "04",
        "00",
        "34",
        "61",
        "A6",
        "AAAA",
        "11",
        "12",
        "UTF-8",
        "20250101020000",
        "99999999999999",
        "0229000000",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "{a=1&b",
        "[",
        "}",
    ];
    let value = prop_oneof![3 => prop::sample::select(VALUES).prop_map(str::to_owned), 1 => ".{0,12}"];
    prop::collection::btree_map(prop::sample::select(NAMES), value, 0..NAMES.len()).prop_map(|pairs| {
        let mut fields = Fields::default();
        pairs.iter().for_each(|(name, value)| fields.set(name, value));
        fields
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        assert_rejected_without_panic(&body);
    }

    #[test]
    fn arbitrary_messages_never_panic(message in message()) {
        assert_rejected_without_panic(&message.write(Codec::Form).unwrap());
        assert_rejected_without_panic(&message.write(Codec::Json).unwrap());
        assert_rejected_without_panic(answer_body(message).as_bytes());
    }

    #[test]
    fn mutated_message_is_rejected(
        at in any::<prop::sample::Index>(),
        length in 0usize..8,
        instead in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let body = answer_body(answer_fields("00")).into_bytes();
        let signed = answer_body(signed_by_unionpay(with(answer_fields("00"), "signMethod", "01"))).into_bytes();
        for body in [body, signed] {
            let start = at.index(body.len());
            let end = (start + length).min(body.len());
            let mutated = [&body[..start], &instead, &body[end..]].concat();
            if mutated != body {
                assert_rejected_without_panic(&mutated);
            }
        }
    }

    #[test]
    fn written_message_is_parsed_back(message in message()) {
        for codec in [Codec::Form, Codec::Json] {
            let written = message.write(codec).unwrap();
            prop_assert_eq!(Fields::of_request(codec, &written), Some(message.clone()));
        }
    }

    #[test]
    fn arbitrary_certificates_never_panic(der in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
        let mut real = key_file("up_acp.crt.pem");
        let place = at.index(real.len());
        real[place] = real[place].wrapping_add(1);
        assert_rejected_without_panic(&real);
        assert_rejected_without_panic(&[&[0x30], der.as_slice()].concat());
    }
}
