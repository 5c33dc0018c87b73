//! Messages that integrators reported, with other ids.

use std::collections::BTreeMap;

use super::*;
use crate::payment::Refunded;

/// Signs reported XML: empty fields, numbers without CDATA, coupons without a type.
fn resigned(reported: &str) -> String {
    let fields = xml::read("xml", reported.as_bytes()).unwrap();
    let sign = provider().account.key.sign(&fields);
    reported.replace("</xml>", &format!("<sign><![CDATA[{sign}]]></sign></xml>"))
}

fn decoded(operation: &Operation, body: &str) -> Result<Outcome, Error> {
    let stamp = super::super::super::Stamp { unix_time: NOW, nonce: String::new() };
    let with = Signing { signer: &*crate::signer::none(), keys: &Keyring::default(), stamp: &stamp };
    provider().decode(operation, StatusCode::OK, verify(Source::Answer, body.as_bytes()).unwrap(), with)
}

const ACCOUNT: &str = "<appid><![CDATA[wxd930ea5d5a258f4f]]></appid>\n<mch_id><![CDATA[10000100]]></mch_id>\n";

#[test]
fn unpaid_order_without_time_and_with_empty_field_is_pending() {
    let Operation::Pay(pay) = golden::pay("wechat.native") else { panic!() };
    let number = &pay.order.number;
    let body = format!(
        "<xml><return_code><![CDATA[SUCCESS]]></return_code>\n<return_msg><![CDATA[OK]]></return_msg>\n{ACCOUNT}\
         <device_info><![CDATA[]]></device_info>\n<nonce_str><![CDATA[gNdSBWNJe4x0PNvX]]></nonce_str>\n\
         <result_code><![CDATA[SUCCESS]]></result_code>\n<total_fee>1</total_fee>\n\
         <out_trade_no><![CDATA[{number}]]></out_trade_no>\n<trade_state><![CDATA[NOTPAY]]></trade_state>\n\
         <trade_state_desc><![CDATA[订单未支付]]></trade_state_desc>\n</xml>"
    );
    let outcome = decoded(&Operation::Query(pay.order.clone()), &resigned(&body)).unwrap();
    assert_eq!((outcome.status, outcome.at), (Status::Pending, None));
    let body = format!(
        "<xml><return_code>SUCCESS</return_code>{ACCOUNT}<result_code>SUCCESS</result_code><err_code></err_code>\
         <err_code_des/><sub_mch_id><![CDATA[]]></sub_mch_id></xml>"
    );
    assert_eq!(decoded(&Operation::Close(pay.order), &resigned(&body)).unwrap().status, Status::Closed);
}

#[test]
fn notification_with_untyped_coupon_reports_full_amount() {
    let body = format!(
        "<xml>{ACCOUNT}<attach><![CDATA[58ec7f141497af0a3d38]]></attach><bank_type><![CDATA[HRBB_DEBIT]]></bank_type>\
         <cash_fee><![CDATA[26842]]></cash_fee><coupon_count><![CDATA[1]]></coupon_count><coupon_fee>58</coupon_fee>\
         <coupon_fee_0><![CDATA[58]]></coupon_fee_0><coupon_id_0><![CDATA[2000000000276621044]]></coupon_id_0>\
         <fee_type><![CDATA[CNY]]></fee_type><is_subscribe><![CDATA[Y]]></is_subscribe>\
         <nonce_str><![CDATA[CrB7044SHiP3DXgV]]></nonce_str><out_trade_no><![CDATA[59341bac1497af61be]]></out_trade_no>\
         <result_code><![CDATA[SUCCESS]]></result_code><return_code><![CDATA[SUCCESS]]></return_code>\
         <time_end><![CDATA[20170604224238]]></time_end><total_fee>26900</total_fee>\
         <transaction_id><![CDATA[4001952001201706044309990415]]></transaction_id></xml>"
    );
    let verified = verify(Source::Notification, resigned(&body).as_bytes()).unwrap();
    let event = provider().decode_notification(verified).unwrap();
    assert_eq!(event.outcome.unwrap().amount.unwrap().value, 26_900);
}

/// Encrypts a refund as WeChat Pay does.
fn encrypted(status: &str) -> String {
    use aws_lc_rs::cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey};
    use base64::Engine;
    use md5::Digest;
    let text = format!(
        "<root><out_refund_no>CONSOLE-1</out_refund_no><out_trade_no>o</out_trade_no><refund_fee>300</refund_fee>\
         <refund_id>50</refund_id><refund_status>{status}</refund_status><total_fee>1000</total_fee></root>"
    );
    let key = hex::encode(md5::Md5::digest(provider().account.key.key.as_bytes()));
    let key = UnboundCipherKey::new(&AES_256, key.as_bytes()).unwrap();
    let mut bytes = text.into_bytes();
    PaddedBlockEncryptingKey::ecb_pkcs7(key).unwrap().encrypt(&mut bytes).unwrap();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A notified refund made through the gateway is queried. For other refunds the notification's content is used.
#[test]
fn notification_of_external_refund_is_decoded() {
    let cny = |value| crate::payment::Money { value, currency: crate::payment::Currency::CNY };
    for (status, refunded) in [
        ("SUCCESS", Refunded::Part(cny(300))),
        ("REFUNDCLOSE", Refunded::Failed),
        ("CHANGE", Refunded::Abnormal),
        ("PROCESSING", Refunded::Open),
        ("NEW", Refunded::Open),
    ] {
        let body = format!(
            "<xml><return_code>SUCCESS</return_code>{ACCOUNT}<nonce_str>x</nonce_str><req_info>{}</req_info></xml>",
            encrypted(status)
        );
        let event = provider().decode_notification(verify(Source::Notification, body.as_bytes()).unwrap()).unwrap();
        assert_eq!((event.outcome, event.refunded), (None, Some(refunded)), "{status}");
        assert_eq!((event.order_number.as_str(), event.refund_number.as_deref()), ("o", Some("CONSOLE-1")));
    }
}

/// A rejected notification is repeated for a day.
#[test]
fn payment_notification_without_success_triggers_query() {
    let event = |pairs: &[(&str, &str)]| {
        let mut all: BTreeMap<&str, &str> = PAID.iter().copied().collect();
        all.extend(pairs.iter().copied());
        let body = signed(&all.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>());
        provider().decode_notification(verify(Source::Notification, body.as_bytes()).unwrap())
    };
    assert!(event(&[]).unwrap().outcome.is_some());
    for pairs in [
        &[("result_code", "FAIL"), ("err_code", "SYSTEMERROR")][..],
        &[("transaction_id", "")],
        &[("total_fee", "")],
        &[("return_code", "FAIL")],
    ] {
        let event = event(pairs).unwrap();
        assert_eq!(event.outcome, None, "{pairs:?}");
        assert_eq!(event.order_number, "0123456789abcdef0123456789abcdef");
    }
    assert_eq!(event(&[("mch_id", "1")]).unwrap_err().code(), "mismatch");
    assert_eq!(event(&[("total_fee", "x")]).unwrap_err().code(), "mismatch");
    assert_eq!(event(&[("out_trade_no", "")]).unwrap_err().code(), "unclear");
}

/// The notification of a failed refund comes without the content that is otherwise encrypted. Anybody could have
/// written it.
#[test]
fn failed_refund_notification_without_req_info_is_rejected() {
    let body = b"<xml><return_code>FAIL</return_code><return_msg>x</return_msg></xml>";
    assert_eq!(verify(Source::Notification, body).unwrap_err(), BadSignature::Missing);
}

#[test]
fn refusals_keep_code_and_message() {
    let refund = Operation::Refund(golden::refund("wechat.native"));
    let result = |operation: &Operation, code: &str, words: &str| {
        answered(operation, &[("result_code", "FAIL"), ("err_code", code), ("err_code_des", words)]).unwrap_err()
    };
    let poor = result(&refund, "NOTENOUGH", "基本账户余额不足，请充值后重新发起");
    assert_eq!(
        poor.to_string(),
        "the provider asks to come back later (NOTENOUGH: 基本账户余额不足，请充值后重新发起)"
    );
    for words in ["101 付款码已过期,请退出重试", "101 每个二维码仅限使用一次,请刷新再试"] {
        let error = result(&golden::pay("wechat.codepay"), "AUTH_CODE_INVALID", words);
        assert!(matches!(&error, Error::Declined(provider_error) if provider_error.message == words), "{error}");
    }
    for (sentence, field) in [
        ("商户号该产品权限未开通，请前往商户平台>产品中心检查后重试", "return_msg"),
        ("受理机构必须传入sub_mch_id", "return_msg"),
        ("0参数格式错误", "return_msg"),
        ("请确认请求参数是否正确total_fee", "retmsg"),
    ] {
        let body = format!("<xml><return_code>FAIL</return_code><{field}><![CDATA[{sentence}]]></{field}></xml>");
        let error = provider().decode_unsigned_error(&golden::pay("wechat.native"), StatusCode::OK, body.as_bytes());
        assert!(matches!(&error, Error::Declined(provider_error) if provider_error.message == sentence), "{error}");
        let error = provider().decode_unsigned_error(&refund, StatusCode::OK, body.as_bytes());
        assert!(
            matches!(&error, Error::Unclear { provider_error: Some(provider_error), .. } if provider_error.message == sentence),
            "{error}"
        );
    }
}

/// Older format of the bill, without the settled amounts and with full-width colons in its times.
#[test]
fn bill_in_older_format_is_accepted() {
    use super::super::super::bill::{Answer, BillReply, BillRequest, Bills, TRADE};
    let bill = "交易时间,公众账号ID,商户号,子商户号,总金额,商品名称,商户数据包,手续费,费率\n\
                `2014-11-10 16：33：45,`wx2421b1c4370ec43b,`10000100,`0,`0.01,`被扫支付测试,`订单额外描述,`0,`0.60%\n\
                `2014-11-10 16：46：14,`wx2421b1c4370ec43b,`10000100,`0,`0.01,`a,b \"c\",`,`0,`0.60%\n\
                总交易单数,总交易额,总退款金额,总代金券或立减优惠退款金额,手续费总金额\n\
                `2,`0.02,`0.0,`0.0,`0";
    let body = Bytes::from_static(bill.as_bytes());
    let checked = verify(Source::Answer, &body);
    let wanted = BillRequest { day: jiff::civil::date(2014, 11, 10), kind: TRADE };
    let found = provider().decode_bill(&wanted, Answer { status: StatusCode::OK, body, checked });
    assert!(matches!(found, Ok(BillReply::File(_))), "{:?}", found.err());
}
