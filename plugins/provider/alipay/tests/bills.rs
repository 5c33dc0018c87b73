//! Download links of bills, in both protocols.

use super::super::super::bill::{self, Answer, BillReply, BillRequest, Bills, Link, TRADE};
use super::super::super::golden::{GoldenFixture, Message};
use super::*;

const WANTED: BillRequest = BillRequest { day: jiff::civil::date(2023, 11, 13), kind: TRADE };
const NAME: &str = "alipay_data_dataservice_bill_downloadurl_query_response";
const CONTENT: &str =
    r#"{"code":"10000","msg":"Success","bill_download_url":"http:\/\/dwbillcenter.alipay.com\/x?token=y"}"#;

fn find(provider: &Alipay, status: u16, headers: &HeaderMap, body: String) -> Result<Link, Error> {
    let checked = provider.verify(Source::Answer, headers, body.clone().into(), &keyring(), NOW);
    let answer = Answer { status: StatusCode::from_u16(status).unwrap(), body: body.into(), checked };
    match provider.decode_bill(&WANTED, answer)? {
        BillReply::Link(link) => Ok(link),
        BillReply::File(file) => panic!("{file:?}"),
    }
}

#[test]
fn golden_files_of_bills_match() {
    let sign = |message: &mut Message| {
        if !message.body.contains("\"sign\":") {
            let content = message.body.strip_prefix(&format!("{{\"{NAME}\":")).unwrap();
            message.body = answered(NAME, content.strip_suffix('}').unwrap());
        }
    };
    let fixture = GoldenFixture {
        folder: "alipay",
        provider: &provider(),
        signer: &*app_signer(),
        keys: &keyring(),
        now: NOW,
        sign: &sign,
    };
    bill::golden::check_golden_files(&fixture, &["trade", "funds", "trade-absent"]);
}

#[test]
fn unsigned_bill_link_is_rejected() {
    let provider = provider();
    let good = answered(NAME, CONTENT);
    let link = find(&provider, 200, &HeaderMap::new(), good.clone()).unwrap();
    assert_eq!((link.url.as_str(), link.is_signed), ("http://dwbillcenter.alipay.com/x?token=y", false));
    let is_unclear =
        |status, body| matches!(find(&provider, status, &HeaderMap::new(), body), Err(Error::Unclear { .. }));
    assert!(is_unclear(200, good.replace("token=y", "token=z")), "another link");
    assert!(is_unclear(200, format!("{{\"{NAME}\":{CONTENT}}}")), "unsigned");
    assert!(is_unclear(200, answered("alipay_trade_query_response", CONTENT)), "to another request");
    assert!(is_unclear(200, answered(NAME, "{\"code\":\"10000\"}")), "no link");
    assert!(is_unclear(500, good));
}

#[test]
fn bill_request_is_encrypted_if_account_has_aes_key() {
    let provider = provider_of("app_id = \"2021000000000001\"", &[("aes", AES.as_bytes())]);
    let request = signing(|with| provider.bill_request(&WANTED, with)).unwrap();
    let fields = form::read(request.body()).unwrap();
    let sealer = provider.account.sealer.as_ref().unwrap();
    assert_eq!(sealer.open(&fields["biz_content"]).unwrap(), br#"{"bill_type":"trade","bill_date":"2023-11-13"}"#);
    assert_eq!(fields["encrypt_type"], "AES");
    let sealed = json!(sealer.seal(CONTENT).unwrap()).to_string();
    assert!(find(&provider, 200, &HeaderMap::new(), answered(NAME, &sealed)).is_ok());
}

#[test]
fn v3_bill_request_has_parameters_in_query() {
    let provider = super::v3::v3("");
    let request = signing(|with| provider.bill_request(&WANTED, with)).unwrap();
    let uri = "/v3/alipay/data/dataservice/bill/downloadurl/query?bill_date=2023-11-13&bill_type=trade";
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("GET", uri));
    let body = r#"{"bill_download_url":"https://dwbillcenter.alipay.com/x"}"#;
    let found = find(&provider, 200, &super::v3::headers(body), body.to_owned()).unwrap();
    assert_eq!(found.url, "https://dwbillcenter.alipay.com/x");
    let body = r#"{"code":"BILL_NOT_EXIST","message":"账单不存在"}"#;
    let absent = find(&provider, 400, &super::v3::headers(body), body.to_owned());
    assert!(matches!(absent, Err(Error::NotFound(_))), "{absent:?}");
}
