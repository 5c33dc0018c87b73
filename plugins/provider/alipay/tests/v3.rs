//! Tests of the v3 protocol: same content, other paths and signatures.

use super::*;

pub(in super::super) fn v3(more: &str) -> Alipay {
    provider_of(&format!("app_id = \"2021000000000001\"\nprotocol = \"v3\"\n{more}"), &[])
}

pub(in super::super) fn headers(body: &str) -> HeaderMap {
    let time = NOW * 1000 + 123;
    let signature = alipay_signer().sign(format!("{time}\nabc\n{body}\n").as_bytes()).unwrap();
    let pairs = [
        ("alipay-timestamp", time.to_string()),
        ("alipay-nonce", "abc".to_owned()),
        ("alipay-signature", STANDARD.encode(signature)),
    ];
    pairs.into_iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn decode(operation: &Operation, status: u16, body: &Value) -> Result<Outcome, Error> {
    let body = body.to_string();
    let verified = v3("").verify(Source::Answer, &headers(&body), body.into(), &keyring(), NOW).unwrap();
    signing(|with| v3("").decode(operation, StatusCode::from_u16(status).unwrap(), verified, with))
}

#[test]
fn request_signature_matches_published_one() {
    let vector = &vectors()["v3_request"];
    let (uri, body) = (vector["uri"].as_str().unwrap(), vector["body"].as_str().unwrap().to_owned());
    let mut request = Request::post(uri).body(Bytes::from(body)).unwrap();
    let stamp = Stamp { unix_time: NOW, nonce: "5e8a9a7f-0a0e-4f5b-9f0a-4d9c1b2a3c4d".to_owned() };
    signing(|with| v3("").sign(&mut request, Signing { stamp: &stamp, ..with })).unwrap();
    assert_eq!(request.headers()["authorization"], vector["authorization"].as_str().unwrap());
    assert_eq!(request.headers()["alipay-request-id"], stamp.nonce.as_str());
}

#[test]
fn certificate_serials_and_partner_token_are_sent_and_signed() {
    let (app, root) = (key_file("ali_app.crt.pem"), key_file("ali_root_bundle.pem"));
    let text = "app_id = \"1\"\nprotocol = \"v3\"\nseller_id = \"2\"\napp_auth_token = \"t0ken\"";
    let provider = provider_of(text, &[("app_cert", &app), ("root_cert", &root), ("aes", AES.as_bytes())]);
    let request = signing(|with| {
        let operation = Operation::Pay(pay("alipay.qr"));
        let Encoded::Send(mut request) = provider.encode(&operation, with).unwrap() else { panic!("nothing to send") };
        provider.sign(&mut request, with).unwrap();
        request
    });
    let header = |name: &str| request.headers()[name].to_str().unwrap();
    let numbers = &vectors()["cert_sn"];
    let app_sn = numbers["app_cert_sn"].as_str().unwrap();
    assert_eq!(header("alipay-root-cert-sn"), numbers["alipay_root_cert_sn"].as_str().unwrap());
    assert_eq!((header("alipay-app-auth-token"), header("alipay-encrypt-type")), ("t0ken", "AES"));
    assert_eq!(header("content-type"), "text/plain");
    let (who, signature) = header("authorization").split_once(",sign=").unwrap();
    let who = who.strip_prefix("ALIPAY-SHA256withRSA ").unwrap();
    assert!(who.starts_with(&format!("app_id=1,app_cert_sn={app_sn},nonce=")), "{who}");
    let body = std::str::from_utf8(request.body()).unwrap();
    let text = format!("{who}\nPOST\n/v3/alipay/trade/precreate\n{body}\nt0ken\n");
    assert!(key("ali_app.pub.pem").verifier.verify(text.as_bytes(), &STANDARD.decode(signature).unwrap()));
    let plain = provider.account.sealer.as_ref().unwrap().open(body).unwrap();
    let content: Value = serde_json::from_slice(&plain).unwrap();
    assert_eq!(content["notify_url"], "https://pay.example.com/notify/ali");
}

#[test]
fn operations_have_v3_paths_and_links_are_unchanged() {
    for (operation, path) in [
        (Operation::Pay(pay("alipay.qr")), "precreate"),
        (Operation::Pay(pay("alipay.barcode")), "pay"),
        (Operation::Pay(pay("alipay.jsapi")), "create"),
        (Operation::Query(order("alipay.qr")), "query"),
        (Operation::Close(order("alipay.qr")), "close"),
        (Operation::Close(order("alipay.barcode")), "cancel"),
        (Operation::Refund(refund()), "refund"),
        (Operation::QueryRefund(refund()), "fastpay/refund/query"),
    ] {
        let encoded = signing(|with| v3("").encode(&operation, with)).unwrap();
        let Encoded::Send(request) = encoded else { panic!("nothing to send") };
        assert_eq!(request.uri().path(), format!("/v3/alipay/trade/{path}"));
        let content: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(content["out_trade_no"], NUMBER);
    }
    for method in ["alipay.page", "alipay.wap", "alipay.app"] {
        let operation = Operation::Pay(pay(method));
        let answer = |provider: Alipay| format!("{:?}", signing(|with| provider.encode(&operation, with)).unwrap());
        assert_eq!(answer(v3("")), answer(provider()));
    }
    let (none, result) = account("app_id = \"1\"\nprotocol = \"v3\"", &[], "rsa-sha1");
    assert!(none.is_none() && result[0].contains("does not support rsa-sha1"), "{result:?}");
    let (none, result) = account("app_id = \"1\"\nprotocol = \"v2\"", &[], "rsa-sha256");
    assert!(none.is_none() && result[0].contains("unknown protocol"), "{result:?}");
}

#[test]
fn published_answer_is_accepted_and_altered_byte_is_rejected() {
    let vector = &vectors()["v3_response"];
    let body = vector["body"].as_str().unwrap().as_bytes();
    let pairs = vector["headers"].as_object().unwrap().iter();
    let headers: HeaderMap = pairs
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.as_str().unwrap().parse().unwrap()))
        .collect();
    let verify = |headers: &HeaderMap, body: &[u8], now| {
        let body = Bytes::copy_from_slice(body);
        v3("").verify(Source::Answer, headers, body, &keyring(), now).map(|_| ())
    };
    assert_eq!(verify(&headers, body, NOW), Ok(()));
    for at in 0..body.len() {
        let mut changed = body.to_vec();
        changed[at] ^= 1;
        assert!(verify(&headers, &changed, NOW).is_err(), "byte {at}");
    }
    for name in ["alipay-timestamp", "alipay-nonce", "alipay-signature"] {
        let value = headers[name].as_bytes();
        for at in 0..value.len() {
            let mut changed = value.to_vec();
            changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
            let mut headers = headers.clone();
            headers.insert(name, changed.as_slice().try_into().unwrap());
            assert!(verify(&headers, body, NOW).is_err(), "{name} byte {at}");
        }
        let mut fewer = headers.clone();
        fewer.remove(name);
        assert_eq!(verify(&fewer, body, NOW), Err(BadSignature::Wrong("a signature header is missing")));
        let mut twice = headers.clone();
        twice.append(name, headers[name].clone());
        assert_eq!(verify(&twice, body, NOW), Err(BadSignature::Wrong("a signature header is duplicated")));
    }
    assert_eq!(verify(&HeaderMap::new(), body, NOW), Err(BadSignature::Missing));
    for (now, is_fresh) in
        [(NOW - 300, false), (NOW - 299, true), (NOW + 300, true), (NOW + 301, false), (u64::MAX, false)]
    {
        assert_eq!(verify(&headers, body, now).is_ok(), is_fresh, "{now}");
    }
    let mut named = headers.clone();
    named.insert("alipay-sn", "77".parse().unwrap());
    assert_eq!(verify(&named, body, NOW), Err(BadSignature::UnknownKey("77".to_owned())));
}

#[test]
fn v3_answers_are_decoded_like_form_answers() {
    let trade =
        json!({"out_trade_no": NUMBER, "trade_no": "42", "trade_status": "TRADE_SUCCESS", "total_amount": 68.00});
    let query = Operation::Query(order("alipay.qr"));
    assert_eq!(decode(&query, 200, &trade).unwrap().amount, Some(cny(6800)));
    assert!(is_mismatch(&decode(&query, 200, &with(trade.clone(), "total_amount", 68.01))));
    let till = Operation::Pay(pay("alipay.barcode"));
    let paid = with(trade.clone(), "gmt_payment", "2023-11-15 06:13:25");
    assert_eq!(decode(&till, 200, &paid).unwrap().status, Status::Succeeded);
    assert_eq!(decode(&till, 202, &paid).unwrap().status, Status::Pending);
    assert_eq!(decode(&till, 200, &trade).unwrap().status, Status::Pending);
    let qr = json!({"out_trade_no": NUMBER, "qr_code": "https://qr.alipay.com/bax0000"});
    assert!(decode(&Operation::Pay(pay("alipay.qr")), 200, &qr).unwrap().action.is_some());
    let lost = decode(&Operation::QueryRefund(refund()), 200, &json!({"out_trade_no": NUMBER}));
    assert!(matches!(lost, Err(Error::NotFound(_))));
    let verified = verified("AAAA");
    assert!(
        is_unclear(&signing(|with| v3("").decode(&query, StatusCode::OK, verified, with))),
        "encrypted, without a key"
    );
}

#[test]
fn unsigned_error_decides_no_payment_or_refund() {
    let (write, back, query) =
        (Operation::Pay(pay("alipay.qr")), Operation::Refund(refund()), Operation::Query(order("alipay.qr")));
    for (code, signed, unsigned) in [
        ("ACQ.TRADE_NOT_EXIST", "not_found", ["unclear", "unclear", "not_found"]),
        ("ACQ.PAYMENT_FAIL", "declined", ["unclear", "unclear", "declined"]),
        ("ACQ.TRADE_HAS_SUCCESS", "conflict", ["unclear", "unclear", "conflict"]),
        ("ACQ.SYSTEM_ERROR", "unclear", ["unclear", "unclear", "unclear"]),
        ("isv.invalid-signature", "unauthorized", ["unauthorized", "unauthorized", "unauthorized"]),
        ("isv.invalid-format", "declined", ["declined", "unclear", "declined"]),
        ("isv.app-call-limited", "provider_busy", ["provider_busy", "provider_busy", "provider_busy"]),
        ("isp.unknow-error", "unclear", ["unclear", "unclear", "unclear"]),
        ("BRAND_NEW", "unlisted_refusal", ["unclear", "unclear", "unclear"]),
        ("brand-new", "unlisted_refusal", ["unclear", "unclear", "unclear"]),
    ] {
        let body = json!({"code": code, "message": "m", "links": []});
        for (operation, unsigned) in [&write, &back, &query].into_iter().zip(unsigned) {
            assert_eq!(decode(operation, 400, &body).unwrap_err().code(), signed, "{code}");
            let result = v3("").decode_unsigned_error(operation, StatusCode::BAD_REQUEST, body.to_string().as_bytes());
            assert_eq!(result.code(), unsigned, "{code}");
            let result = v3("").decode_unsigned_error(operation, StatusCode::OK, body.to_string().as_bytes());
            assert_eq!(result.code(), "unclear", "{code}: an unsigned 2xx says nothing");
        }
    }
}
