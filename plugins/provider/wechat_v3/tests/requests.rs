//! Operations that are rejected before anything is sent, and configuration errors.

use super::*;

fn encoded(operation: &Operation) -> Result<Encoded, Error> {
    signing(|with| provider().encode(operation, with))
}

fn rejection(operation: Operation) -> String {
    match encoded(&operation) {
        Err(Error::Unsupported(sentence)) => sentence,
        other => panic!("{other:?}"),
    }
}

#[test]
fn invalid_operation_is_rejected_before_sending() {
    let create = |method: &str, change: &dyn Fn(&mut Pay)| {
        let mut pay = pay(method);
        change(&mut pay);
        Operation::Pay(pay)
    };
    let native = |change: &dyn Fn(&mut Pay)| rejection(create("wechat.native", change));
    let euro = Currency::parse("EUR").unwrap();
    assert!(native(&|pay| pay.description.clear()).contains("`description`"));
    assert!(native(&|pay| pay.description = "茶".repeat(128)).contains("127"));
    assert!(encoded(&create("wechat.native", &|pay| pay.description = "茶".repeat(127))).is_ok());
    assert!(native(&|pay| pay.order.amount.currency = euro).contains("\"CNY\""));
    for value in [0, 1_000_000_000_001, u64::MAX] {
        assert!(native(&|pay| pay.order.amount.value = value).contains("`amount.value`"), "{value}");
    }
    for url in ["https://x/n?a=1", "ftp://x/n", "x", &format!("https://x/{}", "n".repeat(255))] {
        assert!(native(&|pay| pay.notify_url = url.to_owned()).contains("notification URL"), "{url}");
    }
    for text in ["a\rb", "\u{0}", "\u{1b}", "\u{7f}", "\u{9f}", "\u{fffe}"] {
        assert!(native(&|pay| pay.description = text.to_owned()).contains("`description`"), "{text:?}");
        let scanned = create("wechat.codepay", &|pay| pay.description = text.to_owned());
        assert!(rejection(scanned).contains("`description`"), "{text:?}");
    }
    assert!(encoded(&create("wechat.native", &|pay| pay.description = "tea\n\tmilk \u{1f375}".to_owned())).is_ok());
    for openid in [None, Some(String::new()), Some("o".repeat(129)), Some("o 1".to_owned()), Some("o\n".to_owned())] {
        assert!(rejection(create("wechat.jsapi", &|pay| pay.payer.openid = openid.clone())).contains("`payer.openid`"));
    }
    for ip in [None, Some("localhost"), Some("1.2.3")] {
        let operation = create("wechat.h5", &|pay| pay.payer.client_ip = ip.map(str::to_owned));
        assert!(rejection(operation).contains("`payer.client_ip`"), "{ip:?}");
    }
    let back = |change: &dyn Fn(&mut Refund)| {
        let mut refund = refund();
        change(&mut refund);
        rejection(Operation::Refund(refund))
    };
    assert!(back(&|refund| refund.reason = Some("退".repeat(81))).contains("80"));
    assert!(back(&|refund| refund.reason = Some("a\u{1}".to_owned())).contains("`reason`"));
    assert!(back(&|refund| refund.amount.value = 6801).contains("at most 6800"));
    assert!(back(&|refund| refund.amount.value = 0).contains("`amount.value`"));
    assert!(back(&|refund| refund.amount.currency = euro).contains("\"CNY\""));
    assert!(back(&|refund| refund.notify_url = "x".to_owned()).contains("notification URL"));
}

#[test]
fn signed_path_equals_sent_path() {
    let odd = Operation::Query(Order { number: "a|b*c/d?e 茶".to_owned(), ..order() });
    let Ok(Encoded::Send(request)) = encoded(&odd) else { panic!("refused") };
    let path = "/v3/pay/transactions/out-trade-no/a%7Cb%2Ac%2Fd%3Fe%20%E8%8C%B6?mchid=1234567891";
    assert_eq!(request.uri().to_string(), path);
}

#[test]
fn requested_key_id_is_sent_only_with_public_key() {
    let Ok(Encoded::Send(mut request)) = encoded(&Operation::Query(order())) else { panic!("refused") };
    signing(|with| provider().sign(&mut request, Signing { keys: &Keyring::default(), ..with })).unwrap();
    assert!(!request.headers().contains_key("wechatpay-serial"));
    signing(|with| provider().sign(&mut request, with)).unwrap();
    assert_eq!(request.headers()["wechatpay-serial"], PUBLIC_KEY);
    assert_eq!(request.headers().get_all("authorization").iter().count(), 1);
}

fn build(account: &str, api_v3: Option<&[u8]>) -> (bool, Vec<String>) {
    let table = DeTable::parse(account).unwrap();
    let problems = Problems::default();
    let mut settings = Settings::root(&table, &problems);
    let secrets: Secrets = api_v3.map(|secret| (API_V3, Secret::new(secret))).into_iter().collect();
    let given = BuildContext { secrets: &secrets, algorithm: Some("rsa-sha256") };
    let built = (SPEC.build)(&mut settings, &given).is_some();
    drop(settings);
    (
        built,
        problems
            .into_vec()
            .into_iter()
            .map(|p| format!("{}|{}|{}", &account[p.span], p.message, p.suggestion.unwrap_or_default()))
            .collect(),
    )
}

#[test]
fn every_configuration_error_is_reported() {
    let right = b"a7cde1ZJB1kG2e7VfTs3jQzaWizur8Gb".as_slice();
    let key = Some(right);
    assert_eq!(build("mchid = \"1900000109\"\nappid = \"wx8888888888888888\"", key), (true, vec![]));
    let (built, said) = build("mchid = \"19x\"\nappid = \"wx 8\"\nsubMchid = \"1\"", key);
    assert!(!built);
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said[0].starts_with("\"19x\"|the mchid must be 1 to 32 digits|copy"), "{said:#?}");
    assert!(said[1].starts_with("\"wx 8\"|the appid must be"), "{said:#?}");
    assert!(said[2].contains("unknown key"), "{said:#?}");
    assert_eq!(build("", key).1.len(), 2);
    assert!(!build("mchid = \"1\"\nappid = \"wx\"", None).0);
    assert!(!build("mchid = \"1\"\nappid = \"wx\"", Some(b"short")).0);

    let field = &SPEC.secrets[0];
    assert!(matches!(field.need, Need::Required(_)) && (field.check)(right).is_ok());
    for bad in ["", "hunter2", &"x".repeat(33), &"茶".repeat(10), &format!("é{}", "x".repeat(30))] {
        let said = (field.check)(bad.as_bytes()).unwrap_err();
        assert!(said.contains("exactly 32") && (bad.is_empty() || !said.contains(bad)), "{said}");
    }
}

#[test]
fn codepay_is_off_by_default_and_reports_missing_settings() {
    let key = Some(b"a7cde1ZJB1kG2e7VfTs3jQzaWizur8Gb".as_slice());
    let whose = "mchid = \"1900000109\"\nappid = \"wx8888888888888888\"\n";
    let built = |more: &str| build(&format!("{whose}{more}"), key);
    assert_eq!(built("codepay = true\nstore_id = \"0001\"\ndevice_id = \"1\""), (true, vec![]));
    assert_eq!(built("codepay = false"), (true, vec![]));
    for (more, expected) in [
        ("codepay = true", "`codepay` needs a `store_id`"),
        ("codepay = true\nstore_id = \"\"", "`codepay` needs a `store_id`"),
        ("store_id = \"0001\"", "`store_id` and `device_id` are for `codepay` alone"),
        ("codepay = true\nstore_id = \"0001\"\nsub_mchid = \"1\"", "`codepay` is for a merchant's own account"),
    ] {
        let (built, said) = built(more);
        assert!(!built && said.len() == 1 && said[0].contains(expected), "{more}: {said:#?}");
    }
}

#[test]
fn scanned_payment_is_reversed_then_queried() {
    let provider = provider();
    let scanned = |code: &str| {
        let payer = Payer { auth_code: Some(code.to_owned()), ..Payer::default() };
        Operation::Pay(Pay { payer, ..pay("wechat.codepay") })
    };
    for code in ["", "13000000000000000", "160000000000000001", "13000000000000000x"] {
        assert!(matches!(signing(|with| provider.encode(&scanned(code), with)), Err(Error::Unsupported(_))), "{code}");
    }
    let off = super::super::WechatV3 { shop: None, ..provider_of("1", "wx") };
    assert!(matches!(signing(|with| off.encode(&scanned("130000000000000001"), with)), Err(Error::Unsupported(_))));
    let close = Operation::Close(Order { method: Method::parse("wechat.codepay").unwrap(), ..order() });
    let Ok(Encoded::Send(request)) = signing(|with| provider.encode(&close, with)) else { panic!() };
    assert_eq!(request.uri().path(), format!("/v3/pay/transactions/out-trade-no/{NUMBER}/reverse"));
    assert_eq!(request.body(), r#"{"appid":"wxd678efh567hg6787","mchid":"1234567891"}"#);
    for status in [StatusCode::ACCEPTED, StatusCode::BAD_REQUEST] {
        let typing = verified(r#"{"code":"USER_PAYING","message":"m"}"#);
        let outcome = signing(|with| provider.decode(&scanned("130000000000000001"), status, typing, with));
        assert_eq!(outcome, Ok(Outcome::of(Status::Pending)), "{status}");
    }
    let reversed = signing(|with| provider.decode(&close, StatusCode::OK, verified("{}"), with));
    assert!(matches!(reversed, Err(Error::Conflict(_))));
}
