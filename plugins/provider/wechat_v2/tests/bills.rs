//! Detection of complete bills, and decoding of errors.

use std::collections::BTreeSet;

use super::super::super::Stamp;
use super::super::super::bill::{self, Answer, BillReply, BillRequest, Bills, FUNDS, Proof, TRADE};
use super::*;

const TEXT: &str = "\u{feff}交易时间,商户号\r\n`2023-11-13 10:00:00,`10000100\r\n总交易单数\r\n`1\r\n";

fn bill(kind: &'static str) -> BillRequest {
    BillRequest { day: jiff::civil::date(2023, 11, 13), kind }
}

fn find(status: u16, body: &[u8]) -> Result<BillReply, Error> {
    let status = StatusCode::from_u16(status).unwrap();
    let checked = verify(Source::Answer, body);
    provider().decode_bill(&bill(TRADE), Answer { status, body: Bytes::copy_from_slice(body), checked })
}

/// Returns path and fields of the request for a bill.
fn encoded(provider: &WechatV2, kind: &'static str) -> Result<(String, Fields), Error> {
    let stamp = Stamp { unix_time: NOW, nonce: "ibuaiVcKdpRxkhJA".to_owned() };
    let with = Signing { signer: &*crate::signer::none(), keys: &Keyring::default(), stamp: &stamp };
    let mut request = provider.bill_request(&bill(kind), with)?;
    provider.sign(&mut request, with)?;
    Ok((request.uri().to_string(), xml::read("xml", request.body()).unwrap()))
}

fn refused(pairs: &[(&str, &str)]) -> Error {
    let fields: Fields = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    find(200, xml::write(&fields).as_bytes()).unwrap_err()
}

#[test]
fn golden_files_of_bills_match() {
    let fixture = GoldenFixture {
        folder: "wechat-v2",
        provider: &provider(),
        signer: &*crate::signer::none(),
        keys: &Keyring::default(),
        now: NOW,
        // WeChat Pay signs nothing about bills.
        sign: &|_| {},
    };
    let needed = "trade trade_refund funds trade-absent funds-absent trade-being-made trade-refused";
    bill::golden::check_golden_files(&fixture, &needed.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn content_that_is_not_a_bill_is_rejected() {
    let Ok(BillReply::File(file)) = find(200, TEXT.as_bytes()) else { panic!("no file") };
    assert_eq!((file.content.as_ref(), file.proof), (TEXT.as_bytes(), Proof::Host));
    let cut = TEXT.strip_suffix("`1\r\n").unwrap();
    let within_a_row = TEXT.split_once(",`1000").unwrap().0;
    let after_a_row = TEXT.split_once("总交易单数").unwrap().0;
    let one_row_lost = TEXT.replace("`2023-11-13 10:00:00,`10000100\r\n", "");
    let one_value_lost = TEXT.replace("总交易单数", "总交易单数,总金额");
    for (status, body) in [
        (500, TEXT.as_bytes()),
        (302, TEXT.as_bytes()),
        (200, cut.as_bytes()),
        (200, within_a_row.as_bytes()),
        (200, after_a_row.as_bytes()),
        (200, one_row_lost.as_bytes()),
        (200, one_value_lost.as_bytes()),
        (200, b""),
        (200, b"<html>expired</html>"),
        (200, b"{}"),
        (200, b"\x1f\x8b\x08\x00"),
        (200, b"<xml><return_code>FAIL</return_code>"),
    ] {
        assert_eq!(find(status, body).unwrap_err().code(), "unclear", "{status} {}", body.escape_ascii());
    }
}

/// A bill of all trades may count only its payments, and bills of funds write their count as `3.0`.
#[test]
fn bill_with_fewer_rows_than_counted_is_rejected() {
    let paid = "`2023-11-13 10:00:00,`4200001,`SUCCESS,`0,`0.03,`0.00\r\n";
    let refunded = "`2023-11-13 11:00:00,`4200001,`REFUND,`5000001,`0.00,`0.01\r\n";
    for (count, is_whole) in
        [("2", true), ("1", true), ("2.0", true), ("3", false), ("3.0", false), ("2.5", false), ("x", false)]
    {
        for totals in ["总交易单数,应结订单总金额,退款总金额", "资金流水总笔数,收入笔数,收入金额"]
        {
            let text = format!(
                "交易时间,微信订单号,交易状态,微信退款单号,应结订单金额,退款金额\r\n{paid}{refunded}{totals}\r\n`{count},`0.03,`0.01\r\n"
            );
            assert_eq!(find(200, text.as_bytes()).is_ok(), is_whole, "{text}");
        }
    }
}

/// Truncates both kinds of bill at every byte.
#[test]
fn truncated_bill_is_rejected() {
    let row = |number: u32| format!("`2023-11-13 10:00:00,`420000{number},`茶\r\n");
    let rows: String = (1..=3).map(row).collect();
    for (totals, values) in [
        ("总交易单数,应结订单总金额,退款总金额", "`3,`0.03,`0.00"),
        ("资金流水总笔数,收入笔数,收入金额", "`3,`3,`0.03"),
    ] {
        let text = format!("\u{feff}交易时间,微信订单号,商品名称\r\n{rows}{totals}\r\n{values}\r\n");
        assert!(find(200, text.as_bytes()).is_ok(), "{text}");
        // The last value is complete only with its line end, but its expected number of digits is unknown.
        let end = text.len() - "0.03\r\n".len();
        for length in 1..=end {
            assert!(find(200, &text.as_bytes()[..length]).is_err(), "{length} of {}", text.len());
        }
    }
}

#[test]
fn bill_error_is_decoded_in_either_layer() {
    let fail = ("return_code", "FAIL");
    let second = [("return_code", "SUCCESS"), ("result_code", "FAIL")];
    for (pairs, code) in [
        (vec![fail, ("return_msg", "NO Bill Exist")], "not_found"),
        (vec![fail, ("error_code", "20002")], "not_found"),
        (vec![fail, ("return_msg", "Bill Creating")], "provider_busy"),
        // One number for both causes: the message distinguishes them.
        (vec![fail, ("return_msg", "Bill Creating"), ("error_code", "20002")], "provider_busy"),
        (vec![fail, ("return_msg", "NO Bill Exist"), ("error_code", "20002")], "not_found"),
        (vec![fail, ("return_msg", "CompressGZip Error"), ("error_code", "20007")], "provider_busy"),
        (vec![fail, ("return_msg", "UnCompressGZip Error"), ("error_code", "20007")], "provider_busy"),
        (vec![fail, ("return_msg", "data format error"), ("error_code", "20001")], "declined"),
        (vec![fail, ("return_msg", "missing parameter"), ("error_code", "20001")], "declined"),
        (vec![fail, ("return_msg", "SIGN ERROR"), ("error_code", "20001")], "unauthorized"),
        (vec![fail, ("return_msg", "签名错误")], "unauthorized"),
        (vec![fail, ("return_msg", "商户证书不合法")], "unauthorized"),
        (vec![fail, ("return_msg", "系统繁忙")], "unclear"),
        (vec![fail, ("return_msg", "请求过于频繁")], "provider_busy"),
        (vec![fail, ("return_msg", "x")], "declined"),
        (vec![fail, ("return_msg", "invalid bill_type")], "declined"),
        (vec![fail, ("error_code", "20099")], "declined"),
        (vec![fail, ("error_code", "SYSTEMERROR")], "unclear"),
        ([&second[..], &[("err_code", "BILL_CREATING")]].concat(), "provider_busy"),
        ([&second[..], &[("err_code", "SYSTEMERROR")]].concat(), "unclear"),
        ([&second[..], &[("err_code", "FREQUENCY_LIMITED")]].concat(), "provider_busy"),
        ([&second[..], &[("err_code", "PARAM_ERROR")]].concat(), "declined"),
        // A listed code decides before its message.
        ([&second[..], &[("err_code", "NOAUTH"), ("err_code_des", "系统错误")]].concat(), "declined"),
        ([&second[..], &[("err_code", "BILL_CREATING"), ("err_code_des", "签名错误")]].concat(), "provider_busy"),
        (vec![("return_code", "SUCCESS"), ("result_code", "SUCCESS")], "unclear"),
    ] {
        assert_eq!(refused(&pairs).code(), code, "{pairs:?}");
    }
    let Error::Unauthorized(provider_error) = refused(&[fail, ("return_msg", "签名错误")]) else {
        panic!("not our key")
    };
    assert_eq!((provider_error.code.as_str(), provider_error.message.as_str()), ("FAIL", "签名错误"));
}

#[test]
fn bill_error_with_invalid_signature_is_unclear() {
    let signed = signed(&[("return_code", "SUCCESS"), ("result_code", "FAIL"), ("err_code", "NO_BILL_EXIST")]);
    assert_eq!(find(200, signed.as_bytes()).unwrap_err().code(), "not_found");
    let altered = signed.replace("NO_BILL_EXIST", "NO_BILL_EXISTS");
    assert_eq!(find(200, altered.as_bytes()).unwrap_err().code(), "unclear");
}

#[test]
fn every_bill_kind_has_its_own_parameters() {
    let asked_for = |kind| {
        let (path, fields) = encoded(&provider(), kind).unwrap();
        assert_eq!(fields["bill_date"], "20231113");
        (path, fields.get("bill_type").cloned(), fields.get("account_type").cloned())
    };
    let all: BTreeSet<_> = provider().kinds().iter().map(|kind| asked_for(kind)).collect();
    assert_eq!(all.len(), provider().kinds().len());
    assert!(all.contains(&("/pay/downloadfundflow".to_owned(), None, Some("Operation".to_owned()))), "{all:?}");
}

#[test]
fn bill_of_funds_is_requested_with_hmac() {
    let mut old = provider();
    old.account.key = key(SignType::Md5);
    for (kind, sign_type) in [(TRADE, SignType::Md5), (FUNDS, SignType::HmacSha256)] {
        let (_, fields) = encoded(&old, kind).unwrap();
        assert_eq!(fields["sign_type"], sign_type.as_str());
        assert_eq!(fields["sign"], key(sign_type).sign(&fields), "{kind}");
    }
}

#[test]
fn service_provider_has_bills_of_its_merchant_only() {
    let sub_mchid = Some("1900000109".to_owned());
    let ids = merchant_account::Account::new("10000100".to_owned(), "wxd930ea5d5a258f4f".to_owned(), sub_mchid, None);
    let partner = WechatV2 { account: Account { ids, key: key(SignType::HmacSha256) } };
    assert_eq!(encoded(&partner, TRADE).unwrap().1["sub_mch_id"], "1900000109");
    assert!(partner.kinds().iter().all(|kind| kind.starts_with(TRADE)));
    assert_eq!(encoded(&partner, FUNDS).unwrap_err().code(), "unsupported_by_provider");
}

proptest! {
    #[test]
    fn arbitrary_bill_answers_never_panic(status in 200u16..600, body in proptest::collection::vec(any::<u8>(), 0..200), text in "(<xml>)?[<>/a-z`\\r\\n ]{0,40}(</xml>)?") {
        let _ = find(status, &body);
        let _ = find(status, text.as_bytes());
    }
}
