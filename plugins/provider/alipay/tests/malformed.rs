//! Malformed messages: no panic, and nothing unsigned is accepted.

use super::*;
use crate::provider::alipay::certificate_files;

/// Passes the bytes to every decoder, which must not panic. Returns whether neither kind of message is verified.
fn is_rejected(body: &[u8]) -> bool {
    let provider = provider_of("app_id = \"2021000000000001\"", &[("aes", AES.as_bytes())]);
    let _ = certificate_files::key_id(body);
    let _ = provider.decode_notification(verified(body.to_vec()));
    let v3 = provider_of("app_id = \"2021000000000001\"\nprotocol = \"v3\"", &[("aes", AES.as_bytes())]);
    for (operation, provider) in operations().iter().flat_map(|operation| [(operation, &provider), (operation, &v3)]) {
        for status in [StatusCode::OK, StatusCode::BAD_REQUEST] {
            let _ = signing(|with| provider.decode(operation, status, verified(body.to_vec()), with));
            let _ = provider.decode_unsigned_error(operation, status, body);
        }
    }
    let mut request = Request::new(Bytes::copy_from_slice(body));
    let _ = signing(|with| provider.sign(&mut request, with));
    let verify = |source| provider.verify(source, &HeaderMap::new(), body.to_vec().into(), &keyring(), NOW);
    [Source::Answer, Source::Notification].into_iter().all(|source| verify(source).is_err())
}

fn content() -> impl Strategy<Value = Value> {
    const NAMES: &[&str] = &[
        "code",
        "sub_code",
        "msg",
        "out_trade_no",
        "trade_no",
        "trade_status",
        "total_amount",
        "send_pay_date",
        "qr_code",
        "retry_flag",
        "action",
        "fund_change",
        "refund_fee",
        "out_request_no",
        "refund_amount",
        "refund_status",
    ];
    const WORDS: &[&str] = &[
        "10000",
        "10003",
        "40004",
        "ACQ.TRADE_NOT_EXIST",
        "T20231115000001",
        "TRADE_SUCCESS",
        "TRADE_CLOSED",
        "0.01",
        "2023-11-15 06:13:25",
        "Y",
        "REFUND_SUCCESS",
        "",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(WORDS).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    prop::collection::btree_map(prop::sample::select(NAMES), leaf, 0..16)
        .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,80}") {
        prop_assert!(is_rejected(&body));
        prop_assert!(is_rejected(text.as_bytes()));
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&body));
        prop_assert!(is_rejected(pem.as_bytes()));
    }

    #[test]
    fn arbitrary_content_never_panics(content in content(), service in prop::sample::select(&["query", "pay", "refund", "cancel"][..])) {
        let answer = format!(r#"{{"alipay_trade_{service}_response":{content},"sign":"AAAA"}}"#);
        prop_assert!(is_rejected(answer.as_bytes()));
        let error = format!(r#"{{"error_response":{content}}}"#);
        prop_assert!(is_rejected(error.as_bytes()));
        let pairs = content.as_object().unwrap().iter();
        let params = pairs.map(|(name, value)| (name, value.as_str().unwrap_or("1")));
        let notification = format!("{}&app_id=2021000000000001&notify_type=trade_status_sync", form::write(params));
        prop_assert!(is_rejected(notification.as_bytes()));
    }

    #[test]
    fn mutated_message_is_rejected(at in any::<prop::sample::Index>(), byte in any::<u8>(), count in 1..4usize) {
        for name in ["response", "notification"] {
            let old = vectors()[name]["body"].as_str().unwrap().as_bytes().to_vec();
            let mut new = old.clone();
            let at = at.index(old.len() - count);
            new.splice(at..at + count, [byte]);
            let meant = |body: &[u8]| {
                let mut params = Fields::new();
                form::read_into(body, &mut params).map(|()| params)
            };
            // Another escape of the same text is equivalent.
            prop_assume!(new != old && (name == "response" || meant(&new) != meant(&old)));
            prop_assert!(!is_accepted(name, new));
        }
    }
}

/// Runs verification and decoding: the name of an answer's content is not signed, so only `decode` rejects another one.
fn is_accepted(name: &str, body: Vec<u8>) -> bool {
    let provider = provider();
    let source = if name == "response" { Source::Answer } else { Source::Notification };
    let Ok(verified) = provider.verify(source, &HeaderMap::new(), body.into(), &keyring(), NOW) else { return false };
    let order = Order { number: "T20231115000001".to_owned(), amount: cny(1), ..order("alipay.qr") };
    match source {
        Source::Notification => provider.decode_notification(verified).is_ok(),
        Source::Answer => {
            signing(|with| provider.decode(&Operation::Query(order), StatusCode::OK, verified, with)).is_ok()
        }
    }
}

#[test]
fn unmodified_message_is_accepted() {
    for name in ["response", "notification"] {
        assert!(is_accepted(name, vectors()[name]["body"].as_str().unwrap().as_bytes().to_vec()), "{name}");
    }
}

#[test]
fn deep_nesting_never_panics() {
    let open = "[".repeat(100_000);
    assert!(is_rejected(format!("{{\"a_response\":{open}").as_bytes()));
    assert!(is_rejected(format!("{{\"a_response\":{open}{}}}", "]".repeat(100_000)).as_bytes()));
    assert!(is_rejected(format!("{{{}\"a_response\":1}}", "\"a\":1,".repeat(100_000)).as_bytes()));
}
