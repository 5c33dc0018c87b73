//! Encoded requests for each operation, and operations that are rejected before anything is sent.

use super::super::account::Account;
use super::*;

fn sent(provider: &UnionPay, operation: &Operation) -> Result<(String, Fields), Error> {
    let encoded = signing(|with| provider.encode(operation, with))?;
    let Encoded::Send(mut request) = encoded else { panic!("nothing to send") };
    signing(|with| provider.sign(&mut request, with)).unwrap();
    Ok((request.uri().to_string(), Fields::of_request(provider.0.codec, request.body()).unwrap()))
}

fn form(provider: &UnionPay, pay: Pay) -> Result<Fields, Error> {
    let Encoded::Answer(outcome) = signing(|with| provider.encode(&Operation::Pay(pay), with))? else {
        panic!("nothing to answer")
    };
    assert_eq!(outcome.status, Status::Pending);
    let Some(NextAction::Form { url, fields: posted }) = outcome.action else { panic!("no form") };
    assert_eq!(url, "https://gateway.95516.com/gateway/api/frontTransReq.do");
    let pairs: Vec<_> = posted.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Ok(fields(&pairs))
}

#[test]
fn page_form_matches_official_library() {
    let vectors = vectors();
    let text = vectors["consume_01_official_java"]["text"].as_str().unwrap();
    let mut pay = pay("page");
    pay.order.amount = cny(1);
    pay.order.created_at = jiff::Timestamp::from_second(ORDERED + 12 * 3600).unwrap();
    let ours = form(&UnionPay(account(super::super::signature::Method::Rsa(chain()), Codec::Form)), pay).unwrap();
    for pair in text.split('&') {
        let (name, value) = pair.split_once('=').unwrap();
        let expected = match name {
            "orderId" => NUMBER,
            "channelType" => "07",
            _ => value,
        };
        assert_eq!(ours.get(name), Some(expected), "{name}");
    }
    assert_eq!(ours.get("payTimeout"), Some("20250101140000"), "two hours by default");
}

#[test]
fn each_operation_has_its_path() {
    let provider = provider();
    for (operation, path, kind) in [
        (Operation::Pay(pay("app")), "appTransReq", "01/01/000201"),
        (Operation::Pay(pay("qr")), "backTransReq", "01/07/000000"),
        (Operation::Pay(pay("barcode")), "backTransReq", "01/06/000000"),
        (Operation::Query(order("page")), "queryTrans", "00/00/000201"),
        (Operation::Query(order("app")), "queryTrans", "00/00/000201"),
        (Operation::Query(order("qr")), "backTransReq", "00/00/000000"),
        (Operation::Query(order("barcode")), "backTransReq", "00/00/000000"),
        (Operation::Close(order("barcode")), "backTransReq", "99/01/000000"),
        (Operation::Refund(refund()), "backTransReq", "04/00/000201"),
        (Operation::QueryRefund(refund()), "queryTrans", "00/00/000201"),
    ] {
        let (uri, fields) = sent(&provider, &operation).unwrap();
        assert_eq!(uri, format!("/gateway/api/{path}.do"));
        let answer_fields = ["txnType", "txnSubType", "bizType"].map(|name| fields.get(name).unwrap()).join("/");
        assert_eq!(answer_fields, kind, "{operation:?}");
        assert_eq!(fields.get("txnTime"), Some(ORDERED_TEXT), "of the order or refund, not of the request");
        assert_eq!(fields.get("certId"), Some(CERT_ID));
        let refunds = matches!(operation, Operation::Refund(_) | Operation::QueryRefund(_));
        assert_eq!(fields.get("orderId"), Some(if refunds { REFUND_NUMBER } else { NUMBER }));
    }
}

#[test]
fn close_is_rejected_without_request() {
    for method in ["page", "app", "qr"] {
        let result = signing(|with| provider().encode(&Operation::Close(order(method)), with));
        let Err(Error::Conflict(provider_error)) = result else { panic!("{method}: {result:?}") };
        assert!(provider_error.message.contains("payTimeout"), "{provider_error}");
    }
}

#[test]
fn invalid_operation_is_rejected_before_sending() {
    type Change = fn(&mut Pay);
    let unfit: [(&str, Change); 13] = [
        ("app", |pay| pay.order.amount = cny(0)),
        ("app", |pay| pay.order.amount = cny(1_000_000_000_000)),
        ("app", |pay| pay.order.amount.currency = Currency::parse("USD").unwrap()),
        ("app", |pay| pay.description = " ".to_owned()),
        ("app", |pay| pay.description = "x".repeat(257)),
        ("app", |pay| pay.notify_url = "https://x/n?a=b".to_owned()),
        ("app", |pay| pay.notify_url = "ftp://x".to_owned()),
        ("page", |pay| pay.return_url = None),
        ("page", |pay| pay.return_url = Some("javascript:1".to_owned())),
        ("page", |pay| pay.return_url = Some("https://x/{y}".to_owned())),
        ("page", |pay| pay.return_url = Some("https://x/ y".to_owned())),
        ("barcode", |pay| pay.payer.auth_code = None),
        ("barcode", |pay| pay.payer.auth_code = Some("12345&merId=1".to_owned())),
    ];
    for (index, (method, change)) in unfit.into_iter().enumerate() {
        let mut pay = pay(method);
        change(&mut pay);
        let result = signing(|with| provider().encode(&Operation::Pay(pay), with));
        assert!(matches!(result, Err(Error::Unsupported(_))), "{index} {result:?}");
    }
    let too_much = Refund { amount: cny(6801), ..refund() };
    let unknown = Refund { order: Order { provider_id: None, ..order("page") }, ..refund() };
    let wechat = Order { method: Method::parse("wechat.native").unwrap(), ..order("page") };
    for operation in [Operation::Refund(too_much), Operation::Refund(unknown), Operation::Query(wechat)] {
        assert!(matches!(sent(&provider(), &operation), Err(Error::Unsupported(_))), "{operation:?}");
    }
}

#[test]
fn reserved_characters_are_sent_full_width() {
    let description = "a&b={c}[d]\n".to_owned();
    let (_, fields) = sent(&provider(), &Operation::Pay(Pay { description, ..pay("app") })).unwrap();
    assert_eq!(fields.get("riskRateInfo"), Some("{commodityName=a＆b＝｛c｝【d】}"));
}

#[test]
fn pay_timeout_is_sent_and_echoed() {
    let expires_at = jiff::Timestamp::from_second(ORDERED + 900).ok();
    for method in ["app", "qr"] {
        let order = Order { expires_at, ..pay(method).order };
        let (_, fields) = sent(&provider(), &Operation::Pay(Pay { order, ..pay(method) })).unwrap();
        assert_eq!(
            (fields.get("payTimeout"), fields.get("reqReserved")),
            (Some("20250101001500"), Some("20250101001500"))
        );
    }
    let (_, fields) = sent(&provider(), &Operation::Pay(pay("barcode"))).unwrap();
    assert_eq!((fields.get("payTimeout"), fields.get("termId")), (None, Some("00000001")));
}

#[test]
fn platform_request_contains_sub_merchant() {
    let merchant = super::super::account::SubMerchant {
        id: "12345".to_owned(),
        name: "茶馆有限公司".to_owned(),
        abbreviation: "茶馆".to_owned(),
    };
    let mut provider = provider();
    provider.0.sub_merchant = Some(merchant);
    for operation in operations().iter().filter(|operation| !matches!(operation, Operation::Pay(_))) {
        let (_, fields) = sent(&provider, operation).unwrap();
        let answer_fields =
            ["accessType", "subMerId", "subMerName", "subMerAbbr"].map(|name| fields.get(name).unwrap());
        assert_eq!(answer_fields, ["2", "12345", "茶馆有限公司", "茶馆"]);
    }
}

#[test]
fn json_body_has_same_fields_and_signature() {
    let mut provider = provider();
    let query = Operation::Query(order("page"));
    let (_, form) = sent(&provider, &query).unwrap();
    provider.0.codec = Codec::Json;
    let (_, json) = sent(&provider, &query).unwrap();
    assert_eq!(form, json);
    let Encoded::Send(request) = signing(|with| provider.encode(&query, with)).unwrap() else { panic!() };
    assert_eq!(request.headers()["content-type"], "application/json;charset=UTF-8");
    assert!(request.body().starts_with(b"{\"accessType\":\"0\","));
}

#[test]
fn unsignable_body_is_not_sent() {
    let provider = provider();
    for body in ["a", "a=1&a=2", "a=%"] {
        let mut request = Request::new(Bytes::from(body));
        let result = signing(|with| provider.sign(&mut request, with));
        assert!(matches!(result, Err(Error::NotSent(_))), "{body}");
    }
    let (stamp, nobody) = (Stamp { unix_time: NOW, nonce: String::new() }, crate::signer::none());
    let with = Signing { signer: &*nobody, keys: &no_keys(), stamp: &stamp };
    assert!(matches!(provider.encode(&Operation::Pay(pay("page")), with), Err(Error::NotSent(_))));
}

#[test]
fn full_refund_on_clearing_day_is_undo_if_configured() {
    use super::super::request::refund_type;
    let undoes = Account { undo: true, ..account(super::super::signature::Method::sha256(b"88888888"), Codec::Form) };
    let refunds = account(super::super::signature::Method::sha256(b"88888888"), Codec::Form);
    let later = |hours: i64, amount: u64| {
        let created_at = jiff::Timestamp::from_second(ORDERED + hours * 3600).unwrap();
        Refund { created_at, amount: cny(amount), ..refund() }
    };
    // The order was created at midnight China time; its clearing day ends at 23:00.
    for (hours, amount, kind) in [(0, 6800, "31"), (22, 6800, "31"), (23, 6800, "04"), (0, 6799, "04")] {
        assert_eq!(refund_type(&undoes, &later(hours, amount)), kind, "{hours} {amount}");
        assert_eq!(refund_type(&refunds, &later(hours, amount)), "04");
    }
    let notification = with(with(answer_fields("00"), "txnType", "31"), "orderId", REFUND_NUMBER);
    let event = super::super::notify::decode(&undoes, &with(notification, "reqReserved", NUMBER)).unwrap();
    assert_eq!((event.order_number.as_str(), event.refund_number.as_deref()), (NUMBER, Some(REFUND_NUMBER)));
}
