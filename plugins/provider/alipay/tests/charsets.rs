//! Messages that Alipay signed in GBK, and answers that it signed before escaping them.

use super::*;

/// 支付 and 誠, whose second byte is a backslash, in GBK.
const GBK: &[u8] = b"\xd6\xa7\xb8\xb6\xd5\x5c";

fn signed(content: &[u8], service: &str) -> Vec<u8> {
    let signature = STANDARD.encode(alipay_signer().sign(content).unwrap());
    [
        format!("{{\"alipay_trade_{service}_response\":").as_bytes(),
        content,
        format!(",\"sign\":\"{signature}\"}}").as_bytes(),
    ]
    .concat()
}

fn content(text: &str) -> Vec<u8> {
    let (before, after) = text.split_once('#').unwrap();
    [before.as_bytes(), GBK, after.as_bytes()].concat()
}

#[test]
fn gbk_answer_is_verified_over_its_raw_bytes() {
    let trade = with(
        json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42", "total_amount": "68.00",
               "trade_status": "TRADE_SUCCESS"}),
        "subject",
        "#",
    );
    let query = Operation::Query(order("alipay.qr"));
    let body = signed(&content(&trade.to_string()), "query");
    let verify = |body: Vec<u8>| provider().verify(Source::Answer, &HeaderMap::new(), body.into(), &keyring(), NOW);
    let outcome = signing(|with| provider().decode(&query, StatusCode::OK, verify(body.clone()).unwrap(), with));
    assert_eq!(outcome.unwrap().status, Status::Succeeded);
    let at = body.windows(GBK.len()).position(|window| window == GBK).unwrap();
    for at in [at, at + 1, at - 30] {
        let mut changed = body.clone();
        changed[at] ^= 1;
        assert!(verify(changed).is_err(), "byte {at} is signed too");
    }
}

#[test]
fn gbk_refusal_keeps_its_code_signed_or_unsigned() {
    let write = Operation::Pay(pay("alipay.qr"));
    let refused = r##"{"code":"40004","msg":"Business Failed","sub_code":"ACQ.TOTAL_FEE_EXCEED","sub_msg":"#"}"##;
    let body = signed(&content(refused), "precreate");
    let verified = provider().verify(Source::Answer, &HeaderMap::new(), body.into(), &keyring(), NOW).unwrap();
    let result = signing(|with| provider().decode(&write, StatusCode::OK, verified, with)).unwrap_err();
    assert_eq!((result.code(), result.provider_error().unwrap().code.as_str()), ("declined", "ACQ.TOTAL_FEE_EXCEED"));
    let refusal_body =
        r##"{"error_response":{"code":"40002","msg":"m","sub_code":"isv.invalid-signature","sub_msg":"#"}}"##;
    assert_eq!(provider().decode_unsigned_error(&write, StatusCode::OK, &content(refusal_body)).code(), "unauthorized");
    let refusal_body = r##"{"code":"invalid-signature","message":"#"}"##;
    let result = super::v3::v3("").decode_unsigned_error(&write, StatusCode::BAD_REQUEST, &content(refusal_body));
    assert_eq!(result.code(), "unauthorized");
}

#[test]
fn gbk_notification_is_verified_over_its_raw_bytes() {
    let fields = [
        ("app_id", "2021000000000001"),
        ("charset", "GBK"),
        ("notify_type", "trade_status_sync"),
        ("out_trade_no", NUMBER),
        ("total_amount", "68.00"),
        ("trade_no", "42"),
        ("trade_status", "TRADE_SUCCESS"),
    ];
    let mut raw: std::collections::BTreeMap<String, Vec<u8>> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    raw.insert("subject".to_owned(), GBK.to_vec());
    let signature = STANDARD.encode(alipay_signer().sign(&form::raw_text(&raw, &[])).unwrap());
    let escaped: String = GBK.iter().map(|byte| format!("%{byte:02X}")).collect();
    let body = |subject: &str| {
        let fields = fields.iter().map(|(name, value)| (*name, *value));
        let plain = form::write(fields.chain([("sign_type", "RSA2"), ("sign", signature.as_str())]));
        format!("{plain}&subject={subject}")
    };
    let taken = |body: String| {
        let verified = provider().verify(Source::Notification, &HeaderMap::new(), body.into(), &keyring(), NOW)?;
        Ok::<_, BadSignature>(provider().decode_notification(verified).unwrap())
    };
    assert_eq!(taken(body(&escaped)).unwrap().outcome.unwrap().status, Status::Succeeded);
    assert!(taken(body("%D6%A7%B8%B6%D5%5D")).is_err(), "another subject");
}

#[test]
fn answer_signed_before_slash_escaping_is_accepted() {
    let plain = r#"{"code":"10000","msg":"Success","qr_code":"https://qr.alipay.com/bax0"}"#;
    let escaped = plain.replace('/', r"\/");
    let body = answered("alipay_trade_precreate_response", plain).replace(plain, &escaped);
    let verify = |body: String| provider().verify(Source::Answer, &HeaderMap::new(), body.into(), &keyring(), NOW);
    assert!(verify(body.clone()).is_ok());
    assert!(verify(body.replace("bax0", "bax1")).is_err());
    let backslash = plain.replace("bax0", r"\\bax0");
    let body = answered("alipay_trade_precreate_response", &backslash);
    assert!(
        verify(body.replace(&backslash, &backslash.replace('/', r"\/"))).is_err(),
        "a backslash of its own is in it"
    );
}
