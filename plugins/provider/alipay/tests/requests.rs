//! Encoded requests for each operation, and operations that are rejected before anything is sent.

use super::*;
use crate::signer::rsa;

fn content(provider: &Alipay, pay: Pay) -> Value {
    let operation = Operation::Pay(pay);
    let params = match signing(|with| provider.encode(&operation, with)).unwrap() {
        Encoded::Send(_) => sent(provider, &operation).unwrap(),
        Encoded::Answer(outcome) => match outcome.action.unwrap() {
            NextAction::Redirect { url } => read(url.split_once('?').unwrap().1.as_bytes()),
            NextAction::App { params } => read(params["orderStr"].as_bytes()),
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(params["notify_url"], "https://pay.example.com/notify/ali");
    serde_json::from_str(&params["biz_content"]).unwrap()
}

#[test]
fn legacy_rsa_sha1_signature_matches_published_one() {
    let vectors = vectors();
    let params = vectors["request"]["params"].as_object().unwrap().iter();
    let params = params.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
    let signer = rsa::sha1::signer("app", &key_file("ali_app.key.pem")).unwrap();
    let text = form::text(&params.clone().collect(), &[]);
    assert_eq!(text, vectors["request"]["sign_text"].as_str().unwrap());
    let text = text.replace("RSA2", "RSA");
    let expected = vectors["request"]["sign_rsa1_same_text_sign_type_RSA"].as_str().unwrap();
    let either = [text.as_str(), vectors["request"]["sign_text"].as_str().unwrap()]
        .map(|text| STANDARD.encode(signer.sign(text.as_bytes()).unwrap()));
    assert!(either.iter().any(|signature| signature == expected), "{either:?}");
    let verifier = rsa::sha1::verifier(&key_file("ali_app.pub.pem")).unwrap();
    let signature = STANDARD.decode(&either[0]).unwrap();
    assert!(verifier.verify(text.as_bytes(), &signature) && !verifier.verify(b"", &signature));
    let (account, _) = account("app_id = \"1\"", &[], "rsa-sha1");
    let provider = Alipay { account: account.unwrap() };
    assert_eq!(sent(&provider, &Operation::Query(order("alipay.qr"))).unwrap()["sign_type"], "RSA");
}

#[test]
fn every_method_sends_its_product_code_and_expiry() {
    let partner = provider_of("app_id = \"1\"\nop_app_id = \"2\"\nseller_id = \"3\"", &[]);
    for (method, code) in [
        ("alipay.qr", "FACE_TO_FACE_PAYMENT"),
        ("alipay.barcode", "FACE_TO_FACE_PAYMENT"),
        ("alipay.page", "FAST_INSTANT_TRADE_PAY"),
        ("alipay.wap", "QUICK_WAP_WAY"),
        ("alipay.app", "QUICK_MSECURITY_PAY"),
        ("alipay.jsapi", "JSAPI_PAY"),
    ] {
        let expires_at = Some("2023-11-15T16:00:00.9Z".parse().unwrap());
        let order = Order { expires_at, ..pay(method).order };
        let content = content(&partner, Pay { order, ..pay(method) });
        assert_eq!(content["product_code"], code);
        assert_eq!(content["time_expire"], "2023-11-16 00:00:00", "{method}");
        assert_eq!((&content["total_amount"], &content["seller_id"]), (&json!("68.00"), &json!("3")));
    }
    let openid = |payer: Payer| Pay { payer, ..pay("alipay.jsapi") };
    let payer = Payer { openid: Some("074a".to_owned()), ..Payer::default() };
    assert_eq!(content(&partner, openid(payer.clone()))["op_buyer_open_id"], "074a");
    assert_eq!(content(&partner, openid(payer.clone()))["op_app_id"], "2");
    assert_eq!(content(&provider(), openid(payer))["buyer_open_id"], "074a");
    let back = Some("https://shop.example.com/back".to_owned());
    assert_eq!(
        content(&partner, Pay { return_url: back, ..pay("alipay.wap") })["quit_url"],
        "https://shop.example.com/back"
    );
}

#[test]
fn description_survives_encryption_and_encoding() {
    let provider = provider_of("app_id = \"1\"", &[("aes", AES.as_bytes())]);
    let vector = &vectors()["aes"];
    let sealer = provider.account.sealer.as_ref().unwrap();
    let (plain, sealed) = (vector["plaintext"].as_str().unwrap(), vector["ciphertext_b64"].as_str().unwrap());
    assert_eq!(sealer.seal(plain).unwrap(), sealed);
    assert_eq!(sealer.open(sealed).unwrap(), plain.as_bytes());
    for length in 0..48 {
        let text = "x".repeat(length);
        assert_eq!(sealer.open(&sealer.seal(&text).unwrap()).unwrap(), text.as_bytes());
    }
    for bad in ["", "AAAA", "%", &sealed[4..], &sealed[..24]] {
        assert_eq!(sealer.open(bad), None, "{bad}");
    }
    let params = sent(&provider, &Operation::Query(order("alipay.qr"))).unwrap();
    assert_eq!(params["encrypt_type"], "AES");
    assert_eq!(sealer.open(&params["biz_content"]).unwrap(), format!(r#"{{"out_trade_no":"{NUMBER}"}}"#).as_bytes());
}

#[test]
fn forbidden_subject_characters_are_sent_full_width() {
    let description = "茶/水=1&2\r\n<\"+%>".to_owned();
    for method in ["alipay.qr", "alipay.page", "alipay.app", "alipay.jsapi", "alipay.barcode"] {
        let content = content(&provider(), Pay { description: description.clone(), ..pay(method) });
        assert_eq!(content["subject"], "茶／水＝1＆2  <\"+%>", "{method}");
    }
    let operation = Operation::Refund(Refund { reason: Some("a\nb&c".to_owned()), ..refund() });
    let content: Value = serde_json::from_str(&sent(&provider(), &operation).unwrap()["biz_content"]).unwrap();
    assert_eq!(content["refund_reason"], "a b&c");
}

#[test]
fn native_request_is_completed_and_signed_once() {
    let sign = |uri: &str, body: &str| {
        let mut request = Request::builder().uri(uri).body(Bytes::from(body.to_owned())).unwrap();
        signing(|with| provider().sign(&mut request, with)).map(|()| request)
    };
    let request = sign("/gateway.do?charset=gbk&method=m", "biz_content=%7B%7D&sign=old&app_id=9&empty=").unwrap();
    assert_eq!(request.uri(), "/gateway.do");
    let params = read(request.body());
    let names: Vec<_> = params.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["app_id", "biz_content", "charset", "format", "method", "sign", "sign_type", "timestamp", "version"]
    );
    assert_eq!((params["app_id"].as_str(), params["charset"].as_str()), ("2021000000000001", "utf-8"));
    let signature = STANDARD.decode(&params["sign"]).unwrap();
    assert!(key("ali_app.pub.pem").verifier.verify(form::text(&params, &["sign"]).as_bytes(), &signature));
    for (uri, body) in [("/?a=1", "a=1"), ("/", "a=1&a=1"), ("/", "a=%ff"), ("/", "a")] {
        assert!(matches!(sign(uri, body), Err(Error::Unsupported(_))), "{uri} {body}");
    }
}

#[test]
fn invalid_operation_is_rejected_with_advice() {
    let refused = |pay: Pay, expected: &str| match sent(&provider(), &Operation::Pay(pay)) {
        Err(Error::Unsupported(said)) => assert!(said.contains(expected), "{said}"),
        other => panic!("{expected}: {other:?}"),
    };
    let base = || pay("alipay.qr");
    for length in [0, 257] {
        refused(Pay { description: "茶".repeat(length), ..base() }, "`description`");
    }
    for value in [0, 10_000_000_001, u64::MAX] {
        refused(Pay { order: Order { amount: cny(value), ..order("alipay.qr") }, ..base() }, "`amount.value`");
    }
    let amount = Money { value: 1, currency: Currency::parse("USD").unwrap() };
    refused(Pay { order: Order { amount, ..order("alipay.qr") }, ..base() }, "`amount.currency`");
    for url in ["ftp://x", "", &format!("https://{}", "x".repeat(250))] {
        refused(Pay { notify_url: url.to_owned(), ..base() }, "the notification URL");
        refused(Pay { return_url: Some(url.to_owned()), ..pay("alipay.page") }, "`return_url`");
    }
    for code in ["", "246412345678901234", "316412345678901234", "28641234567890", "2864123456789012345678901", "28茶"]
    {
        let payer = Payer { auth_code: Some(code.to_owned()), ..Payer::default() };
        refused(Pay { payer, ..pay("alipay.barcode") }, "`payer.auth_code`");
    }
    refused(Pay { payer: Payer::default(), ..pay("alipay.barcode") }, "`payer.auth_code`");
    refused(Pay { payer: Payer::default(), ..pay("alipay.jsapi") }, "`payer.buyer_id`");
    refused(pay("wechat.native"), "`wechat.native` is no way to pay with Alipay");
    for refund in [
        Refund { amount: cny(6801), ..refund() },
        Refund { amount: cny(0), ..refund() },
        Refund { reason: Some("x".repeat(257)), ..refund() },
    ] {
        assert!(matches!(sent(&provider(), &Operation::Refund(refund)), Err(Error::Unsupported(_))));
    }
}
